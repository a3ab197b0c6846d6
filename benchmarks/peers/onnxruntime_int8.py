# SPDX-License-Identifier: MIT
"""ONNX Runtime's own dynamic int8: ``DynamicQuantizeLSTM`` (it has none for a GRU)."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from benchmarks.cases import Case, File, Stack
from benchmarks.peers import Runner, onnxruntime, source

COMPUTE_TYPE = "int8"
version = onnxruntime.version
missing = onnxruntime.missing


def prepare(case: Case) -> Runner | None:
    """Return sessions of quantised models; GRUs and RNNs would stay float32."""
    if any(isinstance(part, Stack) and part.kind != "LSTM" for part in case.parts):
        return None
    return onnxruntime.prepare(case, _quantised)


def _quantised(part: Stack | File) -> bytes:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().setLevel(logging.ERROR)  # it asks for a pre-processing of no use here
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "f32.onnx"), Path(folder, "int8.onnx")
        before.write_bytes(source(part))
        quantize_dynamic(before, after, weight_type=QuantType.QInt8)
        return after.read_bytes()
