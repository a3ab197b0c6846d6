# SPDX-License-Identifier: MIT
"""Unrolled steps of one cell become one node over time; what only looks like a chain does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from fuzz.torch_blocks import CellLoop, Projected
from onnx_models import all_nodes, compare, export, feeds
from torch import Tensor, nn

import gruengine as gr

N, T, I, H = 2, 5, 4, 6


class First(nn.Module):  # type: ignore[misc]
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


def loop(cell: nn.Module, back: bool, form: int = 0) -> nn.Module:
    made = CellLoop(np.random.default_rng(0), cell)
    made.backward_in_time, made.skips, made.form = back, False, form
    return made


def recurrent(spec: Any) -> list[Any]:
    return [node for node in all_nodes(spec.graph) if node.op == "Recurrent"]


def joined(module: nn.Module, x: Tensor, dynamo: bool, free: bool) -> Any:
    """Export, convert and compare, in the reference and in the engine; return the spec."""
    options: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"]}
    if free and dynamo:
        options["dynamic_shapes"] = ({0: torch.export.Dim.DYNAMIC},)
    elif free:
        options["dynamic_axes"] = {"x": {0: "n"}}
    model = export(module, (x,), dynamo, None, **options)
    wanted = module(x).detach().numpy()
    spec, _ = compare(model, feeds(model, [x]), expected=[wanted])
    found = gr.Model.from_spec(spec).run_graph({"x": x.numpy()})["y"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    return spec


CELLS: dict[str, Callable[[int], nn.Module]] = {
    "lstm": lambda i: nn.LSTMCell(i, H),
    "gru": lambda i: nn.GRUCell(i, H, bias=False),
    "gru with biases": lambda i: nn.GRUCell(i, H),
    "tanh": lambda i: nn.RNNCell(i, H),
    "relu": lambda i: nn.RNNCell(i, H, nonlinearity="relu"),
}
EXPORTS = pytest.mark.parametrize(
    ("dynamo", "free"), [(False, False), (False, True), (True, False), (True, True)]
)


@EXPORTS
@pytest.mark.parametrize("size", [I, H])
@pytest.mark.parametrize("kind", CELLS)
def test_loops_over_cells(kind: str, size: int, dynamo: bool, free: bool) -> None:
    torch.manual_seed(0)
    for back in (False, True):
        module = loop(CELLS[kind](size), back, form=2 * back)
        (node,) = recurrent(joined(module, torch.randn(N, T, size), dynamo, free))
        assert node.attrs["direction"] == ("reverse" if back else "forward")


@EXPORTS
def test_unrolled_rnns(dynamo: bool, free: bool) -> None:
    """The newer exporter of PyTorch unrolls nn.RNN, its projections in advance."""
    torch.manual_seed(1)
    one = First(nn.RNN(I, H, batch_first=True, nonlinearity="relu"))
    assert len(recurrent(joined(one, torch.randn(N, T, I), dynamo, free))) == 1
    two = First(nn.RNN(I, H, 2, batch_first=True, bidirectional=True))
    nodes = recurrent(joined(two, torch.randn(N, T, I), dynamo, free))
    assert len(nodes) == (4 if dynamo else 2)


@pytest.mark.parametrize("dynamo", [False, True])
def test_projected_cells(dynamo: bool) -> None:
    torch.manual_seed(2)
    (node,) = recurrent(joined(Projected(I, H, 3), torch.randn(N, T, I), dynamo, True))
    assert len(node.inputs) == 9


class Part(nn.Module):  # type: ignore[misc]
    """Steps over some frames, of which some are used: with c, the h of the last step is dropped."""

    def __init__(self, uses_c: bool, feeds_back: bool) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(I, I)
        self.uses_c, self.feeds_back = uses_c, feeds_back

    def forward(self, x: Tensor) -> Tensor:
        h = x[:, 0].tanh()
        c, total = h * 0.5, h
        for t in range(1, T - 1):
            step = x[:, t] + (h if self.feeds_back else 0)
            h, c = self.cell(step, (h, c))
            total = total + (c if self.uses_c else h.relu()) * t
        return total


@pytest.mark.parametrize(
    ("uses_c", "feeds_back", "steps"), [(False, False, 1), (True, False, 2), (False, True, 3)]
)
def test_what_can_be_joined(uses_c: bool, feeds_back: bool, steps: int) -> None:
    torch.manual_seed(3)
    nodes = recurrent(joined(Part(uses_c, feeds_back), torch.randn(N, T, I), False, True))
    assert len(nodes) == steps


class Deep(nn.Module):  # type: ignore[misc]
    """Two cells in one loop, and two uses of one cell that are no chain."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.LSTMCell(I, H), nn.GRUCell(H, H)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], H)
        g = x.new_ones(x.shape[0], H)
        outs = []
        for t in range(T):
            h, c = self.low(x[:, t], (h, c))
            g = self.high(h, g)
            outs.append(g)
        other, _ = self.low(x[:, 0], (g, c))
        return torch.stack([*outs, other], 1)


@EXPORTS
def test_layers_in_one_loop(dynamo: bool, free: bool) -> None:
    torch.manual_seed(4)
    nodes = recurrent(joined(Deep(), torch.randn(N, T, I), dynamo, free))
    assert sorted(node.attrs["cell"] for node in nodes) == ["gru", "lstm", "lstm"]


def test_a_joined_loop_streams() -> None:
    """A chunk of frames with its states outside is a step of a stream."""

    class Chunk(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(I, H)

        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
            outs = []
            for t in range(T):
                h, c = self.cell(x[:, t], (h, c))
                outs.append(h)
            return torch.stack(outs, 1), h, c

    torch.manual_seed(5)
    args = torch.randn(1, T, I), torch.zeros(1, H), torch.zeros(1, H)
    names = ["x", "h", "c"]
    model = export(Chunk(), args, input_names=names, output_names=["y", "h1", "c1"])
    loaded = gr.load(model.SerializeToString())
    assert loaded.signature.state == (("h", "h1"), ("c", "c1"))
    stream = loaded.stream()
    assert stream.step(args[0].numpy()).shape == (1, T, H)
