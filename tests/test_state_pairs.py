# SPDX-License-Identifier: MIT
"""Which inputs and outputs a stream carries: proved element by element, or not said at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gruengine.converters.state_pairs import find_pairs
from gruengine.spec import Graph, Node, Port

Array = np.ndarray[Any, Any]
H = 3


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


class Net:
    """A graph written by hand; ``add`` returns the name of a node's first output."""

    def __init__(self, inputs: dict[str, tuple[int | str, ...]]) -> None:
        self.inputs = [Port(name, "float32", shape) for name, shape in inputs.items()]
        self.nodes: list[Node] = []
        self.tensors: dict[str, Array] = {}

    def const(self, array: Array) -> str:
        name = f"t{len(self.tensors)}"
        self.tensors[name] = array
        return name

    def add(self, op: str, *inputs: str, outputs: tuple[str, ...] = ("",), **attrs: Any) -> str:
        names = tuple(name or f"v{len(self.nodes)}" for name in outputs)
        self.nodes.append(Node(op, inputs, names, attrs))
        return names[0]

    def cell(
        self, h: str, c: str = "", x: str = "x", seed: int = 0, direction: str = "forward"
    ) -> tuple[str, str, str]:
        """Add a recurrent node; return the names of Y, Y_h, Y_c."""
        kind = "lstm" if c else "gru"
        gates, ways = (4 if c else 3), (2 if direction == "bidirectional" else 1)
        rng = np.random.default_rng(seed)
        names = [
            self.const(rng.standard_normal((ways, gates * H, size)).astype("f4")) for size in (2, H)
        ]
        inputs = [x, *names, "", "", h, *([c] if c else [])]
        at = len(self.nodes)
        outputs = (f"y{at}", f"h{at}", f"c{at}")[: 3 if c else 2]
        count = ways * (3 if c else 2)
        self.add(
            "Recurrent", *inputs, outputs=outputs, cell=kind, hidden_size=H, direction=direction,
            activations=(["Sigmoid", "Tanh", "Tanh"] if c else ["Sigmoid", "Tanh"]) * ways,
            activation_alpha=[0.0] * count, activation_beta=[0.0] * count,
            **({} if c else {"reset": "after", "update": "keep"}),
        )  # fmt: skip
        return f"y{at}", f"h{at}", f"c{at}"

    def pairs(self, **outputs: tuple[str, tuple[int | str, ...]]) -> tuple[tuple[str, str], ...]:
        """Name the outputs, (value, shape) each, and return the pairs."""
        for name, (value, _) in outputs.items():
            self.add("Identity", value, outputs=(name,))
        ports = [Port(name, "float32", shape) for name, (_, shape) in outputs.items()]
        return find_pairs(Graph(self.inputs, ports, self.nodes), self.tensors)


X: tuple[int | str, ...] = ("T", "N", 2)
S: tuple[int | str, ...] = (1, "N", H)


def test_states_as_they_are() -> None:
    net = Net({"x": X, "h": S, "c": S})
    y, h, c = net.cell("h", "c")
    found = net.pairs(y=(y, ("T", 1, "N", H)), c1=(c, S), h1=(h, S))
    assert found == (("h", "h1"), ("c", "c1"))


@pytest.mark.parametrize("order", ["hc", "ch"])
def test_stacked_states_only_in_the_same_order(order: str) -> None:
    net = Net({"x": X, "s": (2, "N", H)})
    part = [net.add("Slice", "s", *(net.const(ints(v)) for v in (i, i + 1, 0))) for i in (0, 1)]
    _, h, c = net.cell(*part)
    stacked = net.add("Concat", *((h, c) if order == "hc" else (c, h)), axis=0)
    expected = (("s", "s1"),) if order == "hc" else ()
    assert net.pairs(s1=(stacked, (2, "N", H))) == expected


def test_a_state_with_the_batch_in_front() -> None:
    net = Net({"x": X, "s": ("N", 2 * H)})
    wide = net.add("Reshape", "s", net.const(ints(-1, 2, H)))
    moved = net.add("Transpose", wide, perm=[1, 0, 2])
    zero = net.const(ints(0))
    parts = ("low", "high")
    net.add("Split", moved, outputs=parts, axis=0, num_outputs=2)
    _, low, _ = net.cell("low")
    _, high, _ = net.cell("high", seed=1)
    joined = net.add("Transpose", net.add("Concat", low, high, axis=0), perm=[1, 0, 2])
    flat = net.add("Reshape", joined, net.const(ints(0, -1)))
    del zero
    assert net.pairs(s1=(flat, ("N", 2 * H))) == (("s", "s1"),)


def test_gathered_and_expanded_states() -> None:
    net = Net({"x": X, "s": (2, "N", H)})
    h = net.add("Gather", "s", net.const(np.array(1)), axis=0)
    h = net.add("Unsqueeze", h, net.const(ints(0)))
    rows = net.add("Shape", "x", start=1, end=2)
    shape = net.add("Concat", net.const(ints(1)), rows, net.const(ints(H)), axis=0)
    _, h, _ = net.cell(net.add("Expand", h, shape))
    assert net.pairs(h1=(h, (1, "N", H))) == ()  # half of s is not there
    other = net.add("Gather", "s", net.const(np.array(0)), axis=0)
    _, first, _ = net.cell(net.add("Unsqueeze", other, net.const(ints(0))))
    joined = net.add("Concat", first, h, axis=0)
    assert net.pairs(s1=(joined, (2, "N", H))) == (("s", "s1"),)


def test_the_last_step_of_a_sequence_is_the_state() -> None:
    for direction, step in (("forward", -1), ("reverse", 0)):
        net = Net({"x": X, "h": S})
        y, _, _ = net.cell("h", direction=direction)
        last = net.add("Gather", y, net.const(np.array(step)), axis=0)
        assert net.pairs(h1=(last, S)) == (("h", "h1"),)
        wrong = Net({"x": X, "h": S})
        y, _, _ = wrong.cell("h", direction=direction)
        last = wrong.add("Gather", y, wrong.const(np.array(-1 - step)), axis=0)
        assert wrong.pairs(h1=(last, S)) == ()


def test_final_states_count_before_the_last_step() -> None:
    net = Net({"x": (1, "N", 2), "h": S})
    y, h, _ = net.cell("h")
    step = net.add("Squeeze", y, net.const(ints(0)))
    assert net.pairs(h1=(h, S), y=(step, S)) == (("h", "h1"),)


def test_steps_with_the_same_weights_are_one_stream() -> None:
    net = Net({"x": X, "h": S})
    _, h, _ = net.cell("h")
    _, h, _ = net.cell(h)
    assert net.pairs(h1=(h, S)) == (("h", "h1"),)


def test_an_encoder_does_not_feed_a_decoders_state() -> None:
    net = Net({"x": X, "h": S})
    _, h, _ = net.cell("h")
    _, h, _ = net.cell(h, seed=1)
    assert net.pairs(h1=(h, S)) == ()


def test_two_cells_from_one_state_are_not_guessed() -> None:
    net = Net({"x": X, "h": S})
    _, a, _ = net.cell("h")
    _, b, _ = net.cell("h", seed=1)
    assert net.pairs(a=(a, S), b=(b, S)) == ()


def test_computed_states_are_not_taken() -> None:
    net = Net({"x": X, "h": S})
    _, h, _ = net.cell(net.add("Tanh", "h"))
    assert net.pairs(h1=(h, S)) == ()
    net = Net({"x": X, "h": S})
    _, h, _ = net.cell("h")
    assert net.pairs(h1=(net.add("Tanh", h), S)) == ()


def test_a_state_is_followed_through_a_mask_of_rows() -> None:
    """Agents set the states of rows to zero whose episode has ended."""
    masks: list[tuple[int | str, ...]] = [("N", 1), (1, "N", 1)]
    for shape in masks:
        for order in (1, -1):
            net = Net({"x": X, "h": S, "m": shape})
            _, h, _ = net.cell(net.add("Mul", *("h", "m")[::order]))
            assert net.pairs(h1=(h, S)) == (("h", "h1"),)
    net = Net({"x": X, "h": S, "m": ("N", 1)})
    _, h, _ = net.cell(net.add("Mul", "h", net.add("Sub", net.const(np.ones(1, "f4")), "m")))
    assert net.pairs(h1=(h, S)) == (("h", "h1"),)


def test_products_that_are_no_masks_are_not_followed() -> None:
    net = Net({"x": X, "h": S, "z": S})
    _, h, _ = net.cell(net.add("Mul", "h", "z"))
    assert net.pairs(h1=(h, S)) == ()
    net = Net({"x": X, "h": S})
    _, h, _ = net.cell(net.add("Mul", "h", net.const(np.full((1, 1), 0.5, "f4"))))
    assert net.pairs(h1=(h, S)) == ()


def test_an_input_that_only_passes_is_no_state() -> None:
    net = Net({"x": X, "h": S, "z": S})
    _, h, _ = net.cell("h")
    assert net.pairs(z1=("z", S), h1=(h, S)) == (("h", "h1"),)


def test_branches_that_only_move() -> None:
    net = Net({"x": X, "h": ("N", H)})
    zero = net.const(ints(0))
    rank = net.add("Size", net.add("Shape", net.add("Tile", "x", net.const(ints(1, 1, 1)))))
    there = Graph([], [Port("a", "float32", S)], [Node("Unsqueeze", ("h", zero), ("a",))])
    other = Graph([], [Port("b", "float32", ("N", H))], [Node("Identity", ("h",), ("b",))])
    unknown = net.add("Equal", net.add("Mod", rank, rank), rank)
    h = net.add("If", unknown, then_branch=there, else_branch=other)
    _, h, _ = net.cell(h)
    back = net.add("Squeeze", h, zero)
    assert net.pairs(h1=(back, ("N", H))) == (("h", "h1"),)


def test_both_directions() -> None:
    net = Net({"x": X, "h": (2, "N", H)})
    _, h, _ = net.cell("h", direction="bidirectional")
    assert net.pairs(h1=(h, (2, "N", H))) == (("h", "h1"),)


def test_graphs_without_recurrent_nodes_or_with_huge_inputs() -> None:
    net = Net({"x": X, "h": S})
    assert net.pairs(h1=("h", S)) == ()
    net = Net({"x": X, "h": (1, 1 << 40, H)})
    _, h, _ = net.cell("h")
    assert net.pairs(h1=(h, (1, 1 << 40, H))) == ()


def test_a_graph_that_only_fits_a_batch_of_one() -> None:
    net = Net({"x": X, "h": ("N", H)})
    _, h, _ = net.cell(net.add("Reshape", "h", net.const(ints(1, 1, H))))
    back = net.add("Reshape", h, net.const(ints(1, H)))
    assert net.pairs(h1=(back, (1, H))) == (("h", "h1"),)
