# SPDX-License-Identifier: MIT
"""Models, exports and comparisons that the tests of the ONNX converter share."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from ort_oracle import run_model
from tolerances import ORT_RECURRENT, Budget, assert_close

from gruengine.converters.base import ConversionError, ConversionReport, Options
from gruengine.converters.onnx import read_onnx
from gruengine.reference_graph import run_graph
from gruengine.spec import Graph, ModelSpec, Node
from gruengine.spec_checks import problems_of

Array = np.ndarray[Any, Any]


def read(
    model: onnx.ModelProto | bytes,
    bind: Mapping[str, Any] | None = None,
    state: Mapping[str, str] | None = None,
    path: Path | None = None,
    **hints: Any,
) -> tuple[ModelSpec, ConversionReport]:
    """Convert a model from memory."""
    source = model if isinstance(model, bytes) else model.SerializeToString()
    return read_onnx(source, path=path, name="model", options=Options(bind or {}, state, hints))


def refusals(model: onnx.ModelProto | bytes, **kwargs: Any) -> list[str]:
    """Return why a model is refused."""
    with pytest.raises(ConversionError) as caught:
        read(model, **kwargs)
    return [str(reason) for reason in caught.value.reasons]


def compare(
    model: onnx.ModelProto,
    inputs: Mapping[str, Array],
    bind: Mapping[str, Any] | None = None,
    budget: Budget = ORT_RECURRENT,
    expected: Sequence[Array] | None = None,
) -> tuple[ModelSpec, ConversionReport]:
    """Convert, run in float64, and compare every output with ONNX Runtime on the source."""
    spec, report = read(model, bind)
    assert problems_of(spec) == []
    if expected is None:
        fixed = {k: np.array(v) for k, v in (bind or {}).items()}
        expected = run_model(model, {**inputs, **fixed})
    results = run_graph(spec.graph, spec.tensors, inputs)
    assert list(results) == [value.name for value in model.graph.output]
    for (name, actual), wanted in zip(results.items(), expected, strict=True):
        port = next(p for p in spec.graph.outputs if p.name == name)
        assert len(port.shape) == wanted.ndim
        sizes = zip(port.shape, wanted.shape, strict=True)
        assert all(a == b for a, b in sizes if isinstance(a, int)), (port, wanted.shape)
        assert port.dtype == wanted.dtype.name
        assert_close(actual, wanted, budget)
    return spec, report


def all_nodes(graph: Graph) -> list[Node]:
    """Return the nodes of a graph and its branches."""
    nodes = []
    for node in graph.nodes:
        nodes.append(node)
        for value in node.attrs.values():
            if isinstance(value, Graph):
                nodes += all_nodes(value)
    return nodes


def ops(spec: ModelSpec) -> list[str]:
    """Return the operators of a spec, sorted."""
    return sorted(node.op for node in all_nodes(spec.graph))


def export(
    module: torch.nn.Module,
    args: tuple[Any, ...],
    dynamo: bool = False,
    opset: int | None = None,
    **kwargs: Any,
) -> onnx.ModelProto:
    """Export a module with one of PyTorch's two exporters."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if dynamo:
                program = torch.onnx.export(
                    module.eval(), args, dynamo=True, verbose=False, opset_version=opset, **kwargs
                )
                assert program is not None
                return program.model_proto
            buffer = io.BytesIO()
            torch.onnx.export(
                module.eval(), args, buffer, dynamo=False, opset_version=opset or 17, **kwargs
            )
            return onnx.load_from_string(buffer.getvalue())
    finally:
        logging.disable(logging.NOTSET)


def feeds(model: onnx.ModelProto, arrays: Sequence[Any]) -> dict[str, Array]:
    """Name the inputs of a model."""
    names = [value.name for value in model.graph.input]
    return dict(zip(names, (np.asarray(a) for a in arrays), strict=True))


def graph_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str] | tuple[Any, ...]],
    outputs: Sequence[str],
    constants: Mapping[str, Array] | None = None,
    opset: int = 17,
    elem_type: int = onnx.TensorProto.FLOAT,
) -> onnx.ModelProto:
    """Return a model; inputs by shape, outputs without one."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(n, elem_type, list(s)) for n, s in inputs.items()],
        [helper.make_empty_tensor_value_info(n) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 10
    return model


GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
T, N, I, H = 5, 3, 4, 6


def recurrent_model(
    op: str, attrs: dict[str, Any], parts: str, hidden: bool = True, seed: int = 0, opset: int = 14
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return a model of one node; ``parts`` of B, L(engths), h, c, P are given."""
    rng, g = np.random.default_rng(seed), GATES[op]
    d = 2 if attrs.get("direction") == "bidirectional" else 1

    def random(*shape: int) -> Array:
        return (rng.standard_normal(shape) * 0.5).astype(np.float32)

    constants = {"W": random(d, g * H, I), "R": random(d, g * H, H)}
    inputs: dict[str, Array] = {"X": random(T, N, I) * 2}
    given = {
        "B": (3, (d, 2 * g * H)),
        "h": (5, (d, N, H)),
        "c": (6, (d, N, H)),
        "P": (7, (d, 3 * H)),
    }
    names = ["X", "W", "R", "", "", "", "", ""]
    for part in parts:
        if part == "L":
            names[4], inputs["L"] = "L", np.array([T, 2, 0], np.int32)[:N]
        elif op == "LSTM" or part in "Bh":
            place, shape = given[part]
            names[place] = part
            (inputs if part in "hc" else constants)[part] = random(*shape)
    outputs = ["Y", "Y_h", "Y_c"][: 3 if op == "LSTM" else 2]
    extra = {"hidden_size": H} if hidden else {}
    node = helper.make_node(op, names[: 8 if op == "LSTM" else 6], outputs, **attrs, **extra)
    model = graph_model([node], {"X": ("T", "N", I)}, outputs, constants, opset)
    for name, value in list(inputs.items())[1:]:
        kind = TensorProto.INT32 if name == "L" else TensorProto.FLOAT
        model.graph.input.append(helper.make_tensor_value_info(name, kind, value.shape))
    return model, inputs
