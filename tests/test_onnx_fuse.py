# SPDX-License-Identifier: MIT
"""Decomposed cells become Recurrent nodes that compute the same; look-alikes are left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx_models import Array, all_nodes, compare, export, feeds, graph_model, ops, read
from torch import nn

N, I, H = 3, 4, 5


def random(*shape: int, seed: int = 0) -> Array:
    return (np.random.default_rng(seed + sum(shape)).standard_normal(shape) * 0.6).astype("f4")


def recurrent_of(spec: Any) -> Any:
    (node,) = [n for n in all_nodes(spec.graph) if n.op == "Recurrent"]
    return node


# -- what PyTorch writes --------------------------------------------------------------------------

CELLS = {
    "lstm": lambda i, bias: nn.LSTMCell(i, H, bias=bias),
    "gru": lambda i, bias: nn.GRUCell(i, H, bias=bias),
    "tanh": lambda i, bias: nn.RNNCell(i, H, bias=bias),
    "relu": lambda i, bias: nn.RNNCell(i, H, bias=bias, nonlinearity="relu"),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [I, H])
@pytest.mark.parametrize("kind", CELLS)
def test_exported_cells(kind: str, size: int, bias: bool) -> None:
    torch.manual_seed(0)
    module = CELLS[kind](size, bias)
    x, h, c = torch.randn(N, size), torch.randn(N, H), torch.randn(N, H)
    args: tuple[Any, ...] = (x, (h, c)) if kind == "lstm" else (x, h)
    names = ["x", "h", "c"] if kind == "lstm" else ["x", "h"]
    free = {name: {0: "n"} for name in names}
    results = ["h1", "c1"] if kind == "lstm" else ["h1"]
    model = export(module, args, input_names=names, output_names=results, dynamic_axes=free)
    expected = [t.detach().numpy() for t in torch.utils._pytree.tree_leaves(module(*args))]
    arrays = torch.utils._pytree.tree_leaves(args)
    spec, report = compare(model, feeds(model, arrays), expected=expected)
    assert report.state == tuple(zip(names[1:], results, strict=True))
    assert len(report.fused) == 1
    assert set(ops(spec)) == {"Recurrent", "Squeeze", "Unsqueeze"}
    assert recurrent_of(spec).attrs["hidden_size"] == H


@pytest.mark.parametrize("kind", CELLS)
def test_cells_of_the_other_exporter(kind: str) -> None:
    torch.manual_seed(1)
    module = CELLS[kind](I, True)
    x, h, c = torch.randn(N, I), torch.randn(N, H), torch.randn(N, H)
    args: tuple[Any, ...] = (x, (h, c)) if kind == "lstm" else (x, h)
    model = export(module, args, dynamo=True)
    expected = [t.detach().numpy() for t in torch.utils._pytree.tree_leaves(module(*args))]
    arrays = torch.utils._pytree.tree_leaves(args)
    _, report = compare(model, feeds(model, arrays), expected=expected)
    assert len(report.fused) == 1
    assert len(report.state) == len(args[1]) if kind == "lstm" else 1


@pytest.mark.parametrize("kind", ["lstm", "gru", "tanh"])
def test_stacked_and_unrolled_cells(kind: str) -> None:
    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = CELLS[kind](I, True), CELLS[kind](H, True)

        def forward(self, x: torch.Tensor, *state: torch.Tensor) -> Any:
            a, b, *c = state
            low: Any = (a, c[0]) if c else a
            high: Any = (b, c[1]) if c else b
            for t in range(x.shape[0]):
                low = self.first(x[t], low)
                high = self.second(low[0] if c else low, high)
            return (low[0], high[0], low[1], high[1]) if c else (low, high)

    torch.manual_seed(2)
    count = 4 if kind == "lstm" else 2
    args = (torch.randn(3, N, I), *(torch.randn(N, H) for _ in range(count)))
    module = Stack()
    model = export(module, args)
    expected = [t.detach().numpy() for t in module(*args)]
    spec, report = compare(model, feeds(model, args), expected=expected)
    assert len(report.fused) == 8
    assert [text.split(": ")[1][:7] for text in report.fused[6:]] == ["3 steps"] * 2
    assert ops(spec).count("Recurrent") == 2
    inputs = [value.name for value in model.graph.input]
    outputs = [value.name for value in model.graph.output]
    assert report.state == tuple(zip(inputs[1:], outputs, strict=True))
    # Weights of steps that share them are packed once.
    assert sum(a.ndim == 3 for a in spec.tensors.values()) == 4


# -- every way to write the equations -------------------------------------------------------------


class Net:
    """Builds a graph by hand: ``op`` adds a node and returns its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attrs: Any) -> Any:
        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attrs))
        return names[0] if outputs == 1 else names

    def const(self, array: Array) -> str:
        name = f"const_{len(self.constants)}"
        self.constants[name] = array
        return name

    def pair(self, kind: str, a: str, b: str, swap: bool) -> str:
        return str(self.op(kind, *((b, a) if swap else (a, b))))

    def model(self, results: dict[str, str], rows: int | str = "n", opset: int = 17) -> Any:
        for name, value in results.items():
            self.nodes.append(helper.make_node("Identity", [value], [name]))
        inputs: dict[str, Any] = {"x": (rows, I), "h": (rows, H)}
        used = {name for node in self.nodes for name in node.input}
        if "c" in used:
            inputs["c"] = (rows, H)
        return graph_model(self.nodes, inputs, list(results), self.constants, opset)


def gates_of(net: Net, form: str, order: str, swap: bool) -> dict[str, str]:
    """Return the arguments of the gates, written as exporters do."""
    g = len(order)
    if form == "each":  # one product a gate, as Keras' implementation 1
        result = {}
        for i, gate in enumerate(order):
            x = net.op("MatMul", "x", net.const(random(I, H, seed=i)))
            x = net.op("Add", x, net.const(random(H, seed=i)))
            h = net.op("MatMul", "h", net.const(random(H, H, seed=i)))
            result[gate] = net.pair("Add", x, h, swap)
        return result
    if form == "joined":  # [x, h] as one, as TensorFlow's BasicLSTMCell
        both = net.op("Concat", "x", "h", axis=1)
        total = net.op("MatMul", both, net.const(random(I + H, g * H)))
        total = net.pair("Add", total, net.const(random(1, g * H)), swap)
    elif form == "chained":  # one Gemm on top of the other
        inner = net.op("Gemm", "x", net.const(random(g * H, I)), net.const(random(g * H)), transB=1)
        total = net.op("Gemm", "h", net.const(random(H, g * H)), inner)
    else:
        x = net.op("MatMul", "x", net.const(random(I, g * H)))
        h = net.op("MatMul", "h", net.const(random(H, g * H)))
        total = net.pair("Add", net.pair("Add", x, h, swap), net.const(random(g * H)), swap)
    if form == "sliced":
        axis, ends = net.const(np.array([1])), [net.const(np.array([i * H])) for i in range(g + 1)]
        parts = [net.op("Slice", total, ends[i], ends[i + 1], axis) for i in range(g)]
    else:
        parts = net.op("Split", total, outputs=g, axis=-1)
    return dict(zip(order, parts, strict=True))


FORMS = ["split", "sliced", "each", "joined", "chained"]


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", ["ifco", "iofc", "icfo"])
def test_lstm_in_every_order(order: str, form: str, swap: bool) -> None:
    net = Net()
    gates = gates_of(net, form, order, swap)
    i, f, o = (net.op("HardSigmoid", gates[g], alpha=0.25) for g in "ifo")
    kept = net.pair("Mul", f, "c", swap)
    added = net.pair("Mul", i, net.op("Softsign", gates["c"]), swap)
    c = net.pair("Add", kept, added, swap)
    h = net.pair("Mul", o, net.op("Tanh", c), swap)
    model = net.model({"h1": h, "c1": c, "gate": o})
    inputs = {"x": random(N, I), "h": random(N, H), "c": random(N, H, seed=9)}
    spec, report = compare(model, inputs)
    assert report.fused != []
    assert report.state == (("h", "h1"), ("c", "c1"))
    assert recurrent_of(spec).attrs["activations"] == ["HardSigmoid", "Softsign", "Tanh"]


BLENDS = ["n+z(h-n)", "h+z(n-h)", "zh+(1-z)n", "zn+(1-z)h"]


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("form", ["split", "each", "joined"])
def test_gru_in_every_form(form: str, blend: str, swap: bool, reset: str) -> None:
    net = Net()
    gates = gates_of(net, form, "rz", swap)
    r, z = net.op("Sigmoid", gates["r"]), net.op("Sigmoid", gates["z"])
    a = net.op("Gemm", "x", net.const(random(I, H)), net.const(random(H, seed=3)))
    if reset == "after":
        b = net.op("Gemm", "h", net.const(random(H, H)), net.const(random(H, seed=4)))
        total = net.pair("Add", a, net.pair("Mul", r, b, swap), swap)
    else:
        rh = net.pair("Mul", r, "h", swap)
        total = net.pair("Add", a, net.op("MatMul", rh, net.const(random(H, H))), swap)
    n = net.op("Tanh", total)
    if blend == "n+z(h-n)":
        h = net.pair("Add", n, net.pair("Mul", z, net.op("Sub", "h", n), swap), swap)
    elif blend == "h+z(n-h)":
        h = net.pair("Add", "h", net.pair("Mul", z, net.op("Sub", n, "h"), swap), swap)
    else:
        rest = net.op("Sub", net.const(np.ones((), np.float32)), z)
        first, second = ("h", n) if blend == "zh+(1-z)n" else (n, "h")
        h = net.pair("Add", net.pair("Mul", z, first, swap), net.op("Mul", rest, second), swap)
    model = net.model({"h1": h})
    spec, report = compare(model, {"x": random(N, I), "h": random(N, H)})
    node = recurrent_of(spec)
    assert node.attrs["reset"] == reset
    assert node.attrs["update"] == ("keep" if blend in (BLENDS[0], BLENDS[2]) else "take")
    assert report.state == (("h", "h1"),)


# -- look-alikes ----------------------------------------------------------------------------------


def lstm(net: Net, h: str = "h", c: str = "c", sigmoid: str = "Sigmoid") -> tuple[str, str]:
    gates = gates_of(net, "split", "ifco", False)
    i, f = net.op("Sigmoid", gates["i"]), net.op(sigmoid, gates["f"])
    new = net.op("Add", net.op("Mul", f, c), net.op("Mul", i, net.op("Tanh", gates["c"])))
    return net.op("Mul", net.op("Sigmoid", gates["o"]), net.op("Tanh", new)), new


def test_a_state_of_one_row_for_all_is_left_alone() -> None:
    net = Net()
    h, c = lstm(net)
    model = net.model({"h1": h, "c1": c})
    for value in model.graph.input[1:]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    inputs = {"x": random(N, I), "h": random(1, H), "c": random(1, H, seed=9)}
    _, report = compare(model, inputs)
    assert report.fused == []


def test_gates_of_different_functions_are_left_alone() -> None:
    net = Net()
    h, c = lstm(net, sigmoid="HardSigmoid")
    inputs = {"x": random(N, I), "h": random(N, H), "c": random(N, H, seed=9)}
    _, report = compare(net.model({"h1": h, "c1": c}), inputs)
    assert report.fused == []


def test_a_gru_that_blends_with_another_value_is_left_alone() -> None:
    net = Net()
    gates = gates_of(net, "split", "rz", False)
    r, z = net.op("Sigmoid", gates["r"]), net.op("Sigmoid", gates["z"])
    b = net.op("MatMul", "h", net.const(random(H, H)))
    a = net.op("MatMul", "x", net.const(random(I, H)))
    n = net.op("Tanh", net.op("Add", a, net.op("Mul", r, b)))
    h = net.op("Add", n, net.op("Mul", z, net.op("Sub", "c", n)))
    inputs = {"x": random(N, I), "h": random(N, H), "c": random(N, H, seed=9)}
    _, report = compare(net.model({"h1": h}), inputs)
    assert report.fused == []


def test_a_dense_layer_of_two_inputs_is_no_cell() -> None:
    net = Net()
    gates = gates_of(net, "each", "a", False)
    hidden = net.op("Tanh", gates["a"])
    out = net.op("MatMul", hidden, net.const(random(H, 2)))
    _, report = compare(net.model({"y": out}), {"x": random(N, I), "h": random(N, H)})
    assert report.fused == []


def test_scaled_products_are_left_alone() -> None:
    net = Net()
    x = net.op("Gemm", "x", net.const(random(I, H)), alpha=0.5)
    h = net.op("MatMul", "h", net.const(random(H, H)))
    out = net.op("Tanh", net.op("Add", x, h))
    _, report = compare(net.model({"h1": out}), {"x": random(N, I), "h": random(N, H)})
    assert report.fused == []


def test_two_candidates_for_h_are_named() -> None:
    net = Net()
    x, h = (net.op("MatMul", name, net.const(random(H, H))) for name in "xh")
    total = net.op("Add", x, h)
    model = net.model({"h1": net.op("Tanh", total)})
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = H
    spec, report = read(model)
    assert "'h'" in report.warnings[0]
    assert "state=" in report.warnings[0]
    assert spec.state == (("h", "h1"),)
    spec, _ = read(model, state={"x": "h1"})
    assert spec.state == (("x", "h1"),)


class Multiplicative(torch.nn.Module):  # type: ignore[misc]
    """An LSTM whose gates see x and a product of x and h: x is all that its equations name."""

    def __init__(self) -> None:
        super().__init__()
        self.wx, self.wm = torch.nn.Linear(H, 4 * H), torch.nn.Linear(H, 4 * H, bias=False)
        self.mx, self.mh = torch.nn.Linear(H, H, bias=False), torch.nn.Linear(H, H, bias=False)

    def forward(self, x: Any, h: Any, c: Any) -> Any:
        m = self.mx(x) * self.mh(h)
        i, f, o, u = (self.wx(x) + self.wm(m)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(u)
        return torch.sigmoid(o) * torch.tanh(c), c


def test_a_state_behind_a_computed_value_is_warned_of() -> None:
    x, h, c = (torch.randn(N, H) for _ in range(3))
    names = {"input_names": ["x", "h", "c"], "output_names": ["hn", "cn"]}
    model = export(Multiplicative(), (x, h, c), **names)
    _, report = compare(model, {"x": x.numpy(), "h": h.numpy(), "c": c.numpy()})
    assert any("'x' is taken for h: name the pairs with state=" in w for w in report.warnings)
    spec, _ = read(model, state={"h": "hn", "c": "cn"})
    assert spec.state == (("h", "hn"), ("c", "cn"))


def test_an_input_made_of_another_input_is_not_warned_of() -> None:
    """What a cell takes is often computed; its state is the input that its equations name."""

    class Behind(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.cell = torch.nn.Linear(H, H), torch.nn.LSTMCell(H, H)

        def forward(self, x: Any, h: Any, c: Any) -> Any:
            return self.cell(torch.tanh(self.dense(x)), (h, c))

    args = tuple(torch.randn(N, H) for _ in range(3))
    names = {"input_names": ["x", "h", "c"], "output_names": ["hn", "cn"]}
    spec, report = read(export(Behind(), args, **names))
    assert report.warnings == []
    assert spec.state == (("h", "hn"), ("c", "cn"))


def test_a_gru_in_elementary_operators_is_no_broken_export() -> None:
    """It has the reset before the product because its author wrote it so."""

    class Written(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.z, self.r, self.n = (torch.nn.Linear(I + H, H) for _ in range(3))

        def forward(self, x: Any, h: Any) -> Any:
            both = torch.cat([x, h], 1)
            z, r = torch.sigmoid(self.z(both)), torch.sigmoid(self.r(both))
            return (1 - z) * h + z * torch.tanh(self.n(torch.cat([x, r * h], 1)))

    x, h = torch.randn(N, I), torch.randn(N, H)
    model = export(Written(), (x, h), input_names=["x", "h"])
    model.producer_version = "2.10.0"
    spec, report = compare(model, {"x": x.numpy(), "h": h.numpy()})
    assert recurrent_of(spec).attrs["reset"] == "before"
    assert report.warnings == []
