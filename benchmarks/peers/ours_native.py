# SPDX-License-Identifier: MIT
"""Streams of gruengine stepped through its C API, in a loop of C."""

from __future__ import annotations

import ctypes
import tempfile
from pathlib import Path

from benchmarks import compiled
from benchmarks.cases import Case, Stack
from benchmarks.peers import Runner, looped, ours, source

NATIVE = True
version = ours.version
missing = compiled.missing


def prepare(case: Case) -> Runner:
    """Return a loop over steps of a stream."""
    import gruengine

    (part,) = case.parts
    assert isinstance(part, Stack)
    library = compiled.library("steps.c", compiled.flags())
    library.steps_open.restype = ctypes.c_void_p
    library.steps_open.argtypes = [ctypes.c_char_p]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.onnx").write_bytes(source(part))
        file = Path(folder, "model.safetensors")
        gruengine.convert(Path(folder, "model.onnx"), file)
        stream = library.steps_open(str(file).encode())
    if not stream:
        raise RuntimeError("the model does not open through the C API")
    return looped(part, library.steps_run, stream, library.steps_close)
