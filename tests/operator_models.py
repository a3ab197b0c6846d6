# SPDX-License-Identifier: MIT
"""Models of few nodes, for tests of the operators of the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from operator_cases import Case

import gruengine as gr
from gruengine.reference_graph import apply_node, run_graph
from gruengine.spec import Attr, Dim, Graph, ModelSpec, Node, Port

Array = np.ndarray[Any, Any]

# Inputs that must be known when a plan is made: shapes, axes, weights.
PLANNED = {
    "BatchNormalization": (1, 2, 3, 4),
    "ConstantOfShape": (0,),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "CumSum": (1,),
    "Dropout": (1, 2),
    "Expand": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
    **{
        f"Reduce{kind}": (1,)
        for kind in ["Sum", "Mean", "Max", "Min", "Prod", "SumSquare", "L1", "L2"]
    },
}


def planned(op: str, index: int, given: str) -> bool:
    """Whether input ``index`` is a constant when the inputs given at run time are ``given``."""
    by_choice = given == "none" or (given == "first" and index > 0)
    return by_choice or index in PLANNED.get(op, ())


def spec_of(case: Case, given: str) -> tuple[ModelSpec, dict[str, Array]]:
    """Return one operator as a model, and what to run it on.

    ``given``: which inputs are graph inputs, "all", "first" or "none"; the others are constants.
    """
    tensors: dict[str, Array] = {}
    feed: dict[str, Array] = {}
    names = []
    for i, value in enumerate(case.inputs):
        names.append("" if value is None else f"i{i}")
        if value is not None:
            (tensors if planned(case.op, i, given) else feed)[f"i{i}"] = np.asarray(value)
    ports = [Port(name, value.dtype.name, value.shape) for name, value in feed.items()]
    outputs = tuple(f"o{i}" for i in range(case.outputs))
    node = Node(case.op, tuple(names), outputs, case.attrs, "the node")
    results = apply_node(node, [None if n == "" else {**tensors, **feed}[n] for n in names])
    named = [
        Port(name, r.dtype.name, tuple(r.shape)) for name, r in zip(outputs, results, strict=False)
    ]
    return ModelSpec(Graph(ports, named, [node]), tensors), feed


def expected_of(spec: ModelSpec, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Return what the float64 reference computes."""
    return run_graph(spec.graph, spec.tensors, feed)


def model_of(
    inputs: Mapping[str, Sequence[Dim]],
    nodes: Sequence[Node],
    output: str = "y",
    tensors: Mapping[str, Array] | None = None,
    rank: int | None = None,
    dtype: str = "float32",
    num_threads: int = 1,
) -> gr.Model:
    """Return a model with float32 inputs of named sizes and one output of ``rank`` axes.

    An input of another type is written ``{"i int64": shape}``.
    """
    ports = []
    for name, shape in inputs.items():
        parts = name.split()
        ports.append(Port(parts[0], parts[1] if len(parts) > 1 else "float32", tuple(shape)))
    size = len(ports[0].shape) if rank is None else rank
    out = Port(output, dtype, tuple(f"size {i}" for i in range(size)))
    spec = ModelSpec(Graph(ports, [out], list(nodes)), dict(tensors or {}))
    return gr.Model.from_spec(spec, num_threads=num_threads)


def node(op: str, inputs: str, output: str = "y", name: str = "", **attrs: Attr) -> Node:
    """Return a node with its inputs as words; ``-`` stands for an absent one."""
    names = tuple("" if word == "-" else word for word in inputs.split())
    return Node(op, names, tuple(output.split()), attrs, name or f"the {op}")
