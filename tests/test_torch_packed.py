# SPDX-License-Identifier: MIT
"""Traced modules that pack sequences, beside PyTorch; sizes of 1 that torch takes for constants."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tolerances import relative_error
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import gruengine as gr

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")
F, H = 5, 6


class Tagger(nn.Module):
    """Layers on packed sequences; what stands behind the end of a row counts for nothing."""

    def __init__(self, layer: nn.Module, **options: Any) -> None:
        super().__init__()
        self.layer, self.options = layer, options
        self.sorted = options.pop("enforce_sorted", False)
        self.between = options.pop("between", None)
        size = H * (2 if layer.bidirectional else 1)
        self.second = nn.GRU(size, H, batch_first=layer.batch_first)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> Any:
        first = self.layer.batch_first
        packed = pack_padded_sequence(x, lengths, first, enforce_sorted=self.sorted)
        y, state = self.layer(packed)
        if self.between is not None:
            y = PackedSequence(self.between(y.data), *y[1:])
        y, last = self.second(y)
        y, found = pad_packed_sequence(y, first, **self.options)
        return y, last, state[-1] if isinstance(state, tuple) else state, found


LAYERS = {
    "lstm": lambda: nn.LSTM(F, H, 2, batch_first=True, bidirectional=True),
    "gru": lambda: nn.GRU(F, H, bidirectional=True),
    "rnn": lambda: nn.RNN(F, H, 2, batch_first=True),
}


def check(module: nn.Module, model: gr.Model, x: torch.Tensor, lengths: torch.Tensor) -> None:
    with torch.no_grad():
        wanted = module(x, lengths)
    found = model.run_graph({"x": x.numpy(), "lengths": lengths.numpy()}).values()
    for one, right in zip(found, wanted, strict=True):
        assert one.shape == right.shape
        assert relative_error(one, right.numpy()) < 1e-5


@pytest.mark.parametrize(
    ("kind", "rows", "options"),
    [
        ("lstm", 3, {}),
        ("lstm", 1, {"between": nn.Linear(2 * H, 2 * H)}),
        ("gru", 3, {"enforce_sorted": True}),
        ("rnn", 3, {"padding_value": -1.5}),
    ],
)
def test_packed_sequences(kind: str, rows: int, options: dict[str, Any]) -> None:
    torch.manual_seed(2)
    layer = LAYERS[kind]()
    module = Tagger(layer, **options).eval()
    example = torch.randn(*((rows, 7) if layer.batch_first else (7, rows)), F)
    model = gr.from_torch(module, (example, torch.tensor([7, 4, 2][:rows])))
    for n, t in ((3, 7), (2, 9), (5, 4)):
        x = torch.randn(n, t, F) if layer.batch_first else torch.randn(t, n, F)
        many = torch.tensor(sorted([t, *np.arange(1, n) % t + 1], reverse=True)[:n])
        if not module.sorted:
            many = many.flip(0)
        check(module, model, x, many)


def test_steps_behind_the_longest_row_are_said() -> None:
    module = Tagger(LAYERS["lstm"]()).eval()
    x, lengths = torch.randn(2, 6, F), torch.tensor([4, 3])
    model = gr.from_torch(module, (x, lengths))
    found = model.run_graph({"x": x.numpy(), "lengths": lengths.numpy()})
    y = next(iter(found.values()))
    with torch.no_grad():
        wanted = module(x, lengths)[0].numpy()
    assert wanted.shape[1] == 4
    assert y.shape[1] == 6  # as long as the input
    assert relative_error(y[:, :4], wanted) < 1e-5
    assert not y[:, 4:].any()


def test_what_looks_into_batch_sizes_is_refused() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(F, H, batch_first=True)

        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> Any:
            y, _ = self.layer(pack_padded_sequence(x, lengths, True, enforce_sorted=False))
            return y.data.sum() / y.batch_sizes.sum()

    with pytest.raises(gr.ConversionError, match="a packed sequence: sum of the batch sizes"):
        gr.from_torch(Looks(), (torch.randn(2, 5, F), torch.tensor([5, 3])))


def test_sizes_that_are_one_in_the_example_stay_free() -> None:
    class Images(nn.Module):
        """What torch, with a batch of 1, traces as a view of one row."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.layer = nn.Conv2d(1, 3, 3, padding=1), nn.GRU(12, H, batch_first=True)

        def forward(self, x: torch.Tensor) -> Any:
            return self.layer(self.conv(x).permute(0, 3, 1, 2).flatten(2))[0]

    torch.manual_seed(1)
    module = Images().eval()
    model = gr.from_torch(module, torch.randn(1, 1, 4, 6))
    for n, t in ((1, 6), (3, 9), (2, 1)):
        x = torch.randn(n, 1, 4, t)
        with torch.no_grad():
            wanted = module(x).numpy()
        assert relative_error(model.run_graph({"x": x.numpy()})["y"], wanted) < 1e-5
