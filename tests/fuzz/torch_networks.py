# SPDX-License-Identifier: MIT
"""Random blocks made of several recurrent parts: nested, both directions by hand, states passed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Rng = np.random.Generator


def one_of(rng: Rng, *choices: Any) -> Any:
    """Return one of the choices."""
    return choices[int(rng.integers(len(choices)))]


class Nest(nn.Module):  # type: ignore[misc]
    """Blocks in a list inside of a module; all their outputs are added or the last is taken."""

    def __init__(self, blocks: list[nn.Module], adds: bool) -> None:
        super().__init__()
        self.stages = nn.ModuleList(blocks)
        self.adds = adds

    def forward(self, x: Tensor) -> Tensor:
        total = x
        for stage in self.stages:
            x = stage(x)
            total = total + x if self.adds else x
        return total


class Opposed(nn.Module):  # type: ignore[misc]
    """Two layers, one over the turned sequence, as people write a bidirectional one by hand."""

    def __init__(self, rng: Rng, width: int, hidden: int) -> None:
        super().__init__()
        kind = one_of(rng, nn.LSTM, nn.GRU, nn.RNN)
        self.one = kind(width, hidden, batch_first=True)
        self.two = kind(width, hidden, batch_first=True)
        self.adds = bool(rng.random() < 0.4)

    def forward(self, x: Tensor) -> Tensor:
        a = self.one(x)[0]
        b = self.two(x.flip(1))[0].flip(1)
        return a + b if self.adds else torch.cat([a, b], -1)


class Pair(nn.Module):  # type: ignore[misc]
    """An encoder whose last states start a decoder."""

    def __init__(self, rng: Rng, width: int, hidden: int) -> None:
        super().__init__()
        kind, layers = one_of(rng, nn.LSTM, nn.GRU), int(one_of(rng, 1, 1, 2))
        self.encoder = kind(width, hidden, layers, batch_first=True)
        self.decoder = kind(width, hidden, layers, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(x, self.encoder(x)[1])[0]  # type: ignore[no-any-return]


class Tower(nn.Module):  # type: ignore[misc]
    """Cells on top of each other in one loop, with a skip connection between them."""

    def __init__(self, rng: Rng, width: int, hidden: int) -> None:
        super().__init__()
        self.low, self.high = nn.LSTMCell(width, hidden), nn.GRUCell(hidden, hidden)
        self.skips = bool(rng.random() < 0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], self.low.hidden_size)
        c, g, outs = h, h, []
        for t in range(x.shape[1]):
            h, c = self.low(x[:, t], (h, c))
            g = self.high(h, g)
            outs.append(g + h if self.skips else g)
        return torch.stack(outs, 1)


def _scripted(x: Tensor, w: Tensor, r: Tensor, b: Tensor) -> Tensor:
    h = torch.zeros([x.size(0), r.size(1)])
    c = torch.zeros([x.size(0), r.size(1)])
    outs: list[Tensor] = []
    for t in range(x.size(1)):
        i, f, g, o = torch.chunk(x[:, t] @ w.t() + h @ r.t() + b, 4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outs.append(h)
    return torch.stack(outs, 1)


class Scripted(nn.Module):  # type: ignore[misc]
    """A loop over the frames that TorchScript keeps a loop, so that their number stays free."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4 * hidden, width) * 0.5)
        self.r = nn.Parameter(torch.randn(4 * hidden, hidden) * 0.4)
        self.b = nn.Parameter(torch.randn(4 * hidden) * 0.3)
        self.loop = torch.jit.script(_scripted)

    def forward(self, x: Tensor) -> Tensor:
        return self.loop(x, self.w, self.r, self.b)  # type: ignore[no-any-return]
