# SPDX-License-Identifier: MIT
from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
from hostile_seed import recurrent_spec

from gruengine.errors import InvalidInputError
from gruengine.spec import Attr, Graph, ModelSpec, Node, Parity, Port


def edit_node(spec: ModelSpec, index: int, **changes: Any) -> None:
    spec.graph.nodes[index] = dataclasses.replace(spec.graph.nodes[index], **changes)


def refusal(spec: ModelSpec) -> str:
    with pytest.raises(InvalidInputError) as caught:
        spec.validate()
    return str(caught.value)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_valid_spec(cell: str) -> None:
    spec = recurrent_spec(cell, hidden=5, inputs=3)
    spec.validate()
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[cell]
    assert spec.parameters() == gates * 5 * (3 + 5 + 2)


def test_every_problem_is_listed() -> None:
    spec = recurrent_spec()
    spec.graph.nodes.reverse()
    spec.tensors["R"] = spec.tensors["R"][:, :, 1:]
    spec.tensors["W"] = spec.tensors["W"].astype(np.float64)
    spec.state = (("h", "gone"),)
    message = refusal(spec)
    for part in (
        "'W' has dtype float64; allowed: float32, int64, int32, bool",
        "input 'y3' is used before it is computed",
        "input 'y4' is used before it is computed",
        "input W has dtype float64; allowed: float32",
        "state pair 'h' -> 'gone'",
        "problems",
    ):
        assert part in message


def test_bidirectional_peephole_projected_lstm() -> None:
    d, h, k, i = 2, 5, 3, 4

    def zeros(*shape: int) -> np.ndarray[Any, Any]:
        return np.zeros(shape, np.float32)

    tensors = {
        "W": zeros(d, 4 * h, i),
        "R": zeros(d, 4 * h, k),
        "B": zeros(d, 8 * h),
        "P": zeros(d, 3 * h),
        "Q": zeros(d, k, h),
    }
    attrs: dict[str, Attr] = {
        "cell": "lstm",
        "hidden_size": h,
        "direction": "bidirectional",
        "activations": ["Sigmoid", "Tanh", "Tanh"] * d,
        "activation_alpha": [0.0] * 3 * d,
        "activation_beta": [0.0] * 3 * d,
        "coupled": 1,
        "clip": 2.5,
    }
    names = ("x", "W", "R", "B", "", "", "", "P", "Q")
    graph = Graph(
        [Port("x", "float32", ("T", "N", i))],
        [Port("y", "float32", ("T", d, "N", k))],
        [Node("Recurrent", names, ("y",), attrs)],
    )
    spec = ModelSpec(graph, tensors)
    spec.validate()
    assert ModelSpec.from_bytes(spec.to_bytes()).hash() == spec.hash()
    spec.tensors["R"] = zeros(d, 4 * h, h)
    assert "input R has shape [2, 20, 5]; allowed: [2, 20, 3]" in refusal(spec)
    spec.tensors["R"] = zeros(d, 4 * h, k)
    spec.tensors["P"] = zeros(1, 3 * h)
    assert "input P has shape [1, 15]; allowed: [2, 15]" in refusal(spec)


def _too_deep(spec: ModelSpec) -> None:
    graph = Graph([], [], [])
    for _ in range(20):
        graph = Graph([], [], [Node("If", ("flag",), ("o",), {"then_branch": graph})])
    edit_node(spec, 1, attrs={"body": graph})


def _loop_of_graphs(spec: ModelSpec) -> None:
    graph = Graph([], [], [])
    graph.nodes.append(Node("If", ("flag",), ("o",), {"then_branch": graph}))
    edit_node(spec, 1, attrs={"body": graph})


CHANGES: dict[str, Callable[[ModelSpec], object]] = {
    "is a list; allowed: ndarray": lambda s: s.tensors.update(q=cast(Any, [1.0])),
    "dtype >f4": lambda s: s.tensors.update(q=np.zeros(2, ">f4")),
    "dtype float16": lambda s: s.tensors.update(q=np.zeros(2, np.float16)),
    "has 33 axes": lambda s: s.tensors.update(q=np.zeros((1,) * 33, np.float32)),
    "tensor '': a name must": lambda s: s.tensors.update({"": np.zeros(1, np.float32)}),
    "no zero character": lambda s: s.tensors.update({"a\0": np.zeros(1, np.float32)}),
    "valid Unicode": lambda s: s.tensors.update({"\ud800": np.zeros(1, np.float32)}),
    "is not known": lambda s: edit_node(s, 1, inputs=("q",)),
    "already defined": lambda s: edit_node(s, 1, outputs=("y4",)),
    "no output has a name": lambda s: edit_node(s, 1, outputs=("",)),
    "operator: a name": lambda s: edit_node(s, 1, op=""),
    "is True; allowed: int": lambda s: edit_node(s, 1, attrs={"a": True}),
    "is (1, 2); allowed": lambda s: edit_node(s, 1, attrs={"a": (1, 2)}),
    "integers of 64 bits": lambda s: edit_node(s, 1, attrs={"a": 1 << 63}),
    "finite floats": lambda s: edit_node(s, 1, attrs={"a": float("nan")}),
    "is [1.0, inf]": lambda s: edit_node(s, 1, attrs={"a": [1.0, float("inf")]}),
    "of floats or of strings": lambda s: edit_node(s, 1, attrs={"a": [1, "b"]}),
    "is None": lambda s: edit_node(s, 1, attrs={"a": None}),
    "nested deeper than 16": _too_deep,
    "graphs are nested": _loop_of_graphs,
    "has dtype 'float16'": lambda s: s.graph.inputs.append(Port("q", "float16", ())),
    "sizes >= 0 or names": lambda s: s.graph.inputs.append(Port("q", "float32", (-1,))),
    "listed 2 times": lambda s: s.graph.outputs.append(s.graph.outputs[0]),
    "computed by no node": lambda s: s.graph.outputs.append(Port("q", "float32", ())),
    "in 2 pairs": lambda s: setattr(s, "state", (("h", "hn"), ("h", "hn"))),
    "the same dtype and sizes": lambda s: s.graph.outputs.__setitem__(
        1, Port("hn", "float32", (1, "N", 4))
    ),
    "no parity input 'x'": lambda s: s.parity and s.parity.inputs.pop("x"),
    "without outputs": lambda s: setattr(
        s, "parity", Parity({"x": np.zeros((1, 1, 2), np.float32)}, {})
    ),
    "parity output 'y' is float32 [5, 1, 4]": lambda s: (
        s.parity and s.parity.outputs.update(y=np.zeros((5, 1, 4), np.float32))
    ),
    "oracle is not a string": lambda s: setattr(s.parity, "oracle", 3),
}


@pytest.mark.parametrize("part", CHANGES)
def test_one_broken_rule(part: str) -> None:
    spec = recurrent_spec()
    CHANGES[part](spec)
    assert part in refusal(spec)


def test_hash_follows_content_not_order() -> None:
    spec = recurrent_spec()
    first = spec.hash()
    spec.tensors = dict(reversed(spec.tensors.items()))
    spec.provenance["note"] = "another"
    spec.parity = None
    assert spec.hash() == first
    seen = {first}
    changes: list[Callable[[ModelSpec], object]] = [
        lambda s: s.tensors["W"].__setitem__((0, 0, 0), 9.0),
        lambda s: s.tensors.update(extra=np.zeros(1, np.float32)),
        lambda s: s.tensors.update(axes=np.array([[1]], np.int64)),
        lambda s: setattr(s, "state", ()),
        lambda s: edit_node(s, 1, op="Identity"),
        lambda s: edit_node(s, 1, attrs={"a": 1}),
        lambda s: edit_node(s, 1, attrs={"a": 1.0}),
        lambda s: edit_node(s, 1, attrs={"a": "1"}),
        lambda s: edit_node(s, 1, attrs={"a": [1]}),
        lambda s: edit_node(s, 1, attrs={"a": [1.0]}),
        lambda s: edit_node(s, 1, attrs={"a": ["1"]}),
        lambda s: edit_node(s, 1, attrs={"a": []}),
        lambda s: s.graph.inputs.__setitem__(0, Port("x", "float32", ("T", "N", "I"))),
    ]
    for change in changes:
        other = recurrent_spec()
        change(other)
        seen.add(other.hash())
    assert len(seen) == 1 + len(changes)


def test_hash_is_pinned() -> None:
    """A stream's saved state is tied to this number: it must not change between versions."""
    spec = recurrent_spec()
    for name, array in spec.tensors.items():
        spec.tensors[name] = np.ones_like(array)
    assert spec.hash() == "9dcdb8fed4d89d10b3ce118648c1417aa7ea163670d08b2a777a81e17e702434"
