# SPDX-License-Identifier: MIT
"""ONNX Runtime as an oracle: one node as a model of its own, run without optimisations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

Array = np.ndarray[Any, Any]
OPSET = 22


def run_model(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    """Return the outputs of ``model`` on one thread."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(a) for a in session.run(None, dict(inputs))]


def make_model(nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Array]) -> onnx.ModelProto:
    """Return a model of ``nodes`` whose outputs are those of the last node."""
    graph = helper.make_graph(
        list(nodes),
        "oracle",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in inputs.items()
        ],
        [helper.make_empty_tensor_value_info(n) for n in nodes[-1].output if n],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 10
    return model


def run_node(
    op: str, inputs: Sequence[Array | None], attrs: Mapping[str, Any], outputs: int = 1
) -> list[Array]:
    """Return the outputs of one ONNX operator; None stands for an absent input."""
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(inputs)]
    node = helper.make_node(op, names, [f"y{i}" for i in range(outputs)], **attrs)
    feed = {n: a for n, a in zip(names, inputs, strict=True) if a is not None}
    return run_model(make_model([node], feed), feed)
