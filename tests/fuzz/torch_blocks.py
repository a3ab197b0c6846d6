# SPDX-License-Identifier: MIT
"""Random PyTorch modules from [N, T, F] to [N, T', F'], as people put networks together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from fuzz.torch_networks import Nest, Opposed, Pair, Rng, Scripted, Tower, one_of


class Lambda(nn.Module):  # type: ignore[misc]
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Turned(nn.Module):  # type: ignore[misc]
    """A module over [N, F, T]."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(1, 2)).transpose(1, 2)


class Recurrent(nn.Module):  # type: ignore[misc]
    """A recurrent layer, batch first or not, with or without a trained initial state."""

    def __init__(self, rng: Rng, inner: nn.Module, start: bool) -> None:
        super().__init__()
        self.inner = inner
        sides = inner.num_layers * (2 if inner.bidirectional else 1)
        shape = (sides, 1, inner.hidden_size)
        self.start = nn.Parameter(torch.randn(shape) * 0.5) if start else None
        self.ends = bool(rng.random() < 0.2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.inner.batch_first
        state: Any = None
        if self.start is not None:
            h = self.start.expand(-1, x.shape[0], -1).contiguous()
            state = (h, torch.tanh(h)) if isinstance(self.inner, nn.LSTM) else h
        y, last = self.inner(x if first else x.transpose(0, 1), state)
        y = y if first else y.transpose(0, 1)
        if self.ends:
            h = last[0] if isinstance(last, tuple) else last
            y = y + h.transpose(0, 1).reshape(x.shape[0], 1, -1)[..., : y.shape[-1]]
        return y


class Packed(nn.Module):  # type: ignore[misc]
    """A recurrent layer over sequences of different lengths, made from the input."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.lengths: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        assert self.lengths is not None
        packed = nn.utils.rnn.pack_padded_sequence(x, self.lengths, batch_first=True)
        y, _ = self.inner(packed)
        return nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0]


class CellLoop(nn.Module):  # type: ignore[misc]
    """A cell over the frames, one call each."""

    def __init__(self, rng: Rng, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.form = cell, int(rng.integers(3))
        self.backward_in_time = bool(rng.random() < 0.2)
        self.skips = bool(rng.random() < 0.2)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], self.cell.hidden_size)
        c = h
        steps = list(x.unbind(1)) if self.form == 0 else [x[:, t] for t in range(x.shape[1])]
        if self.backward_in_time:
            steps = steps[::-1]
        outs = []
        for step in steps:
            if isinstance(self.cell, nn.LSTMCell):
                h, c = self.cell(step, (h, c))
            else:
                h = self.cell(step, h)
            outs.append(torch.relu(h) if self.skips else h)
        if self.backward_in_time:
            outs = outs[::-1]
        if self.form == 2:
            return torch.cat([o.unsqueeze(1) for o in outs], 1)
        return torch.stack(outs, 1)


class Projected(nn.Module):  # type: ignore[misc]
    """An LSTM with a projection written out over the frames."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.x, self.h = nn.Linear(width, 4 * hidden), nn.Linear(out, 4 * hidden)
        self.out = nn.Linear(hidden, out, bias=False)
        self.sizes = hidden, out

    def forward(self, x: Tensor) -> Tensor:
        h, c = x.new_zeros(x.shape[0], self.sizes[1]), x.new_zeros(x.shape[0], self.sizes[0])
        outs = []
        for t in range(x.shape[1]):
            i, f, g, o = (self.x(x[:, t]) + self.h(h)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = self.out(torch.sigmoid(o) * torch.tanh(c))
            outs.append(h)
        return torch.stack(outs, 1)


class Grouped(nn.Module):  # type: ignore[misc]
    """A linear layer in groups, by einsum."""

    def __init__(self, rng: Rng, groups: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.groups, self.form = groups, str(one_of(rng, "btgi,gih->btgh", "...gi,gih->...gh"))
        self.weight = nn.Parameter(torch.randn(groups, inputs, outputs) / inputs**0.5)

    def forward(self, x: Tensor) -> Tensor:
        cut = x.reshape(x.shape[0], x.shape[1], self.groups, -1)
        return torch.einsum(self.form, cut, self.weight).flatten(2, 3)


class Residual(nn.Module):  # type: ignore[misc]
    """A block beside its input."""

    def __init__(self, rng: Rng, inner: nn.Module, same: bool) -> None:
        super().__init__()
        self.inner, self.form = inner, int(rng.integers(2)) if same else 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if self.form == 0:
            return x + y
        return x * torch.sigmoid(y) if self.form == 1 else torch.cat([x, y], -1)


class Image(nn.Module):  # type: ignore[misc]
    """Convolutions over time and features, and back."""

    def __init__(self, rng: Rng, channels: int) -> None:
        super().__init__()
        stride = int(rng.integers(1, 3))
        self.down = nn.Conv2d(1, channels, 3, padding=1, stride=(1, stride))
        self.norm = one_of(rng, nn.BatchNorm2d(channels), nn.GroupNorm(1, channels), nn.PReLU())
        self.up = nn.ConvTranspose2d(channels, 1, (1, 2 + stride), stride=(1, stride))

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(torch.relu(self.norm(self.down(x.unsqueeze(1))))).squeeze(1)
        return y[..., : x.shape[-1]] + x


ACTIVATIONS: list[Callable[[], nn.Module]] = [
    nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.ELU, nn.PReLU,
    nn.LeakyReLU, nn.Softplus, nn.Mish, nn.ReLU6, nn.Hardtanh, nn.Softsign, nn.SELU, nn.CELU,
    nn.LogSigmoid, nn.Tanhshrink, lambda: nn.GELU("tanh"), lambda: nn.Softmax(-1),
]  # fmt: skip

FUNCTIONS: list[Callable[[Tensor], Tensor]] = [
    lambda x: x.flip(1), lambda x: x.cumsum(1), lambda x: x.clamp(-0.5, 0.8), F.normalize,
    lambda x: torch.where(x > 0, x, x * 0.1), lambda x: x - x.mean(1, keepdim=True),
    lambda x: F.pad(x, (0, 0, 1, 1)), lambda x: x.masked_fill(x > 1, 0.5), lambda x: x.abs().sqrt(),
    lambda x: x / (x.std(-1, keepdim=True) + 1), lambda x: torch.roll(x, 1, 2),
    lambda x: F.pad(x, (1, 0), mode="replicate")[..., 1:], lambda x: x.pow(2).add(1).log(),
    lambda x: torch.cat(x.chunk(2, -1)[::-1], -1), lambda x: x.cumsum(-1) / 3, lambda x: x.square(),
    lambda x: x.sub(x.amax(-1, keepdim=True)), lambda x: F.glu(torch.cat([x, x], -1)),
]  # fmt: skip


def convolution(rng: Rng, width: int) -> nn.Module:
    """Return a convolution that keeps T and its width, or an encoder with its decoder."""
    kind, groups = int(rng.integers(4)), int(one_of(rng, 1, 1, 2))
    groups = groups if width % groups == 0 else 1
    if kind == 0:
        return Turned(nn.Conv1d(width, width, 3, padding=1, groups=groups))
    if kind == 1:
        causal = nn.Sequential(nn.ConstantPad1d((4, 0), 0), nn.Conv1d(width, width, 3, dilation=2))
        return Turned(causal)
    if kind == 2:
        up = nn.ConvTranspose1d(width, width, 3, padding=1, groups=groups)
        return Turned(nn.Sequential(nn.Conv1d(width, width, 1), nn.ReLU(), up))
    return Image(rng, int(rng.integers(1, 4)))


def norm(rng: Rng, width: int) -> nn.Module:
    """Return a normalisation of [N, T, width]."""
    groups = int(one_of(rng, 1, 2)) if width % 2 == 0 else 1
    choices = [
        nn.LayerNorm(width), nn.LayerNorm(width, elementwise_affine=False),
        Turned(nn.BatchNorm1d(width)), Turned(nn.GroupNorm(groups, width)),
        Turned(nn.InstanceNorm1d(width, affine=True)), Turned(nn.InstanceNorm1d(width)),
        Lambda(lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)),
    ]  # fmt: skip
    return choices[int(rng.integers(len(choices)))]


def cell(rng: Rng, width: int, hidden: int) -> nn.Module:
    """Return a cell over the frames."""
    bias = bool(rng.random() < 0.8)
    kind = int(rng.integers(5))
    if kind == 4:
        return Projected(width, hidden + 3, hidden)
    made = [
        nn.LSTMCell(width, hidden, bias), nn.GRUCell(width, hidden, bias),
        nn.RNNCell(width, hidden, bias), nn.RNNCell(width, hidden, bias, nonlinearity="relu"),
    ]  # fmt: skip
    return CellLoop(rng, made[kind])


def layer(rng: Rng, width: int, hidden: int, packed: bool) -> tuple[nn.Module, int]:
    """Return a recurrent layer and the width of its output."""
    kinds = [nn.LSTM, nn.GRU, nn.RNN]
    kind = kinds[int(rng.choice(3, p=[0.45, 0.4, 0.15]))]
    extra = {"nonlinearity": str(one_of(rng, "tanh", "relu"))} if kind is nn.RNN else {}
    both = bool(rng.random() < 0.3)
    inner = kind(
        width, hidden, int(one_of(rng, 1, 1, 2)), bias=bool(rng.random() < 0.85),
        batch_first=packed or bool(rng.random() < 0.6), bidirectional=both, **extra,
    )  # fmt: skip
    made = Packed(inner) if packed else Recurrent(rng, inner, bool(rng.random() < 0.2))
    return made, hidden * (2 if both else 1)


def made_of(rng: Rng, kind: str, width: int, hidden: int) -> tuple[nn.Module, int]:
    """Return one of the blocks of several recurrent parts."""
    if kind == "opposed":
        made = Opposed(rng, width, hidden)
        return made, hidden * (1 if made.adds else 2)
    if kind == "scripted":
        return Scripted(width, hidden), hidden
    return {"pair": Pair, "tower": Tower}[kind](rng, width, hidden), hidden


def block(rng: Rng, width: int, depth: int = 0) -> tuple[nn.Module, int]:
    """Return a block from [N, T, width] and the width of its output."""
    kind = str(rng.choice([*PARTS], p=[*PARTS.values()]))
    hidden = int(rng.integers(2, 13))
    if kind == "layer":
        return layer(rng, width, hidden, False)
    if kind == "cell":
        return cell(rng, width, hidden), hidden
    if kind == "linear":
        return nn.Linear(width, hidden, bool(rng.random() < 0.8)), hidden
    if kind == "activation":
        return ACTIVATIONS[int(rng.integers(len(ACTIVATIONS)))](), width
    if kind == "norm":
        return norm(rng, width), width
    if kind == "conv":
        return convolution(rng, width), width
    if kind == "function":
        return Lambda(FUNCTIONS[int(rng.integers(len(FUNCTIONS)))]), width
    if kind == "grouped" and width % 2 == 0:
        return Grouped(rng, 2, width // 2, hidden), 2 * hidden
    if kind == "residual" and depth < 2:
        inner, out = block(rng, width, depth + 1)
        if isinstance(inner, Lambda):
            return inner, out
        made = Residual(rng, inner, out == width)
        return made, width + out if made.form == 2 else width
    if kind == "nest" and depth < 2:
        return nest(rng, width, depth)
    if kind in ("opposed", "pair", "tower", "scripted"):
        return made_of(rng, kind, width, hidden)
    return nn.Dropout(0.3), width


def nest(rng: Rng, width: int, depth: int) -> tuple[nn.Module, int]:
    """Return blocks in a list inside of a module."""
    stages: list[nn.Module] = []
    start, same = width, True
    for _ in range(int(rng.integers(2, 4))):
        made, width = block(rng, width, depth + 1)
        same = same and width == start and not any(isinstance(m, Lambda) for m in made.modules())
        stages.append(made)
    return Nest(stages, same), width


#: Blocks and how often they are drawn.
PARTS = {
    "layer": 0.26, "cell": 0.09, "linear": 0.13, "activation": 0.09, "norm": 0.09, "conv": 0.09,
    "function": 0.05, "residual": 0.05, "grouped": 0.04, "nest": 0.04, "opposed": 0.025,
    "pair": 0.025, "tower": 0.01, "scripted": 0.01,
}  # fmt: skip
