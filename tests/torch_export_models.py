# SPDX-License-Identifier: MIT
"""Recurrent models as people write them, for the tests of traced modules."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

I, H = 5, 6
State = tuple[torch.Tensor, torch.Tensor]


class Residual(nn.Module):  # type: ignore[misc]
    """GRUs with a norm each and a sum around them."""

    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.inner = nn.Linear(I, H)
        self.layers = nn.ModuleList(nn.GRU(H, H, batch_first=True) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(H) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + layer(norm(x))[0]
        return x


class Attention(nn.Module):  # type: ignore[misc]
    """A weighted sum over the outputs of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(I, H, batch_first=True, bidirectional=True)
        self.score = nn.Linear(2 * H, 1)
        self.head = nn.Linear(2 * H, 3)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y, _ = self.rnn(x)
        weights = torch.softmax(self.score(torch.tanh(y)).squeeze(-1), dim=1)
        context = torch.bmm(weights.unsqueeze(1), y).squeeze(1)
        return {"logits": self.head(context), "weights": weights}


class ConvFront(nn.Module):  # type: ignore[misc]
    """Convolutions over time that halve it, a GRU, a head on the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv1d(I, 8, 3, stride=2, padding=1), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2)
        )
        self.rnn = nn.GRU(8, H, 2, batch_first=True)
        self.head = nn.Linear(H, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.front(x.transpose(1, 2)).transpose(1, 2)
        return F.log_softmax(self.head(self.rnn(y)[0][:, -1]), dim=-1)


class EncoderDecoder(nn.Module):  # type: ignore[misc]
    """The decoder begins with the states of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(13, I)
        self.encoder = nn.LSTM(I, H, 2)
        self.decoder = nn.LSTM(I, H, 2)
        self.head = nn.Linear(H, 13)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> Any:
        _, state = self.encoder(self.table(source))
        y, (h, c) = self.decoder(self.table(target), state)
        return self.head(y), (h, c)


class Loop(nn.Module):  # type: ignore[misc]
    """Two cells in a Python loop; the number of steps is fixed by that."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTMCell(I, H), nn.GRUCell(H, H)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, c = x.new_zeros(x.shape[0], H), x.new_zeros(x.shape[0], H)
        g = torch.zeros(x.shape[0], H)
        found = []
        for t in range(x.shape[1]):
            h, c = self.first(x[:, t], (h, c))
            g = self.second(h, g)
            found.append(g)
        return torch.stack(found, 1)


class Step(nn.Module):  # type: ignore[misc]
    """One step with its states as arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.pre, self.cell = nn.Linear(I, I), nn.LSTMCell(I, H)
        self.gru, self.post = nn.GRUCell(H, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor, hc: State, g: torch.Tensor) -> Any:
        h, c = self.cell(torch.relu(self.pre(x)), hc)
        g = self.gru(h, g)
        return self.post(g), (h, c), g


class ByHand(nn.Module):  # type: ignore[misc]
    """An LSTM step from linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.ih, self.hh = nn.Linear(I, 4 * H), nn.Linear(H, 4 * H)

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
        i, f, g, o = (self.ih(x) + self.hh(h)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class GruByHand(nn.Module):  # type: ignore[misc]
    """A GRU step from linear layers, reset before the product."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.new = nn.Linear(I + H, 2 * H), nn.Linear(I + H, H)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        z, r = torch.sigmoid(self.gates(torch.cat([x, h], 1))).chunk(2, 1)
        n = torch.tanh(self.new(torch.cat([x, r * h], 1)))
        return (1 - z) * h + z * n


class NormCell(nn.Module):  # type: ignore[misc]
    """An LSTM with norms inside, step by step: no cell of the engine, but operators."""

    def __init__(self) -> None:
        super().__init__()
        self.ih, self.hh = nn.Linear(I, 4 * H, bias=False), nn.Linear(H, 4 * H)
        self.norm, self.out = nn.LayerNorm(4 * H), nn.LayerNorm(H)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = torch.zeros(x.shape[0], H)
        for t in range(x.shape[1]):
            i, f, g, o = self.norm(self.ih(x[:, t]) + self.hh(h)).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * self.out(c).tanh()
        return h


class LearnedStart(nn.Module):  # type: ignore[misc]
    """Initial states that are parameters, one for every sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(I, H, 2, batch_first=True, proj_size=4)
        self.h0 = nn.Parameter(torch.randn(2, 1, 4))
        self.c0 = nn.Parameter(torch.randn(2, 1, H))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[0]
        return self.rnn(x, (self.h0.expand(-1, n, -1).contiguous(), self.c0.repeat(1, n, 1)))[0]


class Stateful(nn.Module):  # type: ignore[misc]
    """A module that keeps its state in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(I, H)
        self.register_buffer("h", torch.zeros(1, H))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.h.copy_(self.cell(x, self.h))
        return self.h * 2


class LastValid(nn.Module):  # type: ignore[misc]
    """Padded sequences with lengths: a mask and the last step that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(13, I, padding_idx=0)
        self.rnn = nn.GRU(I, H, batch_first=True)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> Any:
        y, _ = self.rnn(self.table(tokens))
        last = y[torch.arange(y.shape[0]), lengths - 1]
        mask = torch.arange(y.shape[1])[None, :] < lengths[:, None]
        mean = (y * mask[..., None]).sum(1) / lengths[:, None]
        return last, mean


class TwoWays(nn.Module):  # type: ignore[misc]
    """Both directions by hand: one of them over the flipped sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.there, self.back = (nn.RNN(I, H, batch_first=True) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.there(x)[0], self.back(x.flip(1))[0].flip(1)], dim=-1)


class Shared(nn.Module):  # type: ignore[misc]
    """One layer on two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(I, H, batch_first=True)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            first = self.rnn(a)[1][-1]
        return F.cosine_similarity(first, self.rnn(b)[1][-1], dim=-1)


class DualPath(nn.Module):  # type: ignore[misc]
    """Recurrence inside frames and between them, as speech enhancement has it."""

    def __init__(self) -> None:
        super().__init__()
        self.intra = nn.GRU(2, 3, batch_first=True, bidirectional=True)
        self.inter = nn.GRU(6, 6, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, f, c = x.shape
        y = self.intra(x.reshape(n * t, f, c))[0].reshape(n, t, f, 6)
        z = y.transpose(1, 2).reshape(n * f, t, 6)
        return self.inter(z)[0].reshape(n, f, t, 6).transpose(1, 2) + y


def sequence(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def build() -> dict[str, tuple[nn.Module, tuple[Any, ...]]]:
    """Return name -> (module, example inputs)."""
    torch.manual_seed(5)
    x = torch.randn(3, 8, I)
    tokens = torch.randint(0, 13, (9, 3))
    state = (torch.randn(3, H), torch.randn(3, H))
    lengths = torch.tensor([8, 3, 5])
    return {
        "residual": (Residual(), (x,)),
        "attention": (Attention(), (x,)),
        "conv_front": (ConvFront(), (x,)),
        "encoder_decoder": (EncoderDecoder(), (tokens, tokens[:4])),
        "loop": (Loop(), (x[:, :4],)),
        "step": (Step(), (x[:, 0], state, torch.randn(3, 4))),
        "by_hand": (ByHand(), (x[:, 0], *state)),
        "gru_by_hand": (GruByHand(), (x[:, 0], state[0])),
        "norm_cell": (NormCell(), (x[:, :3],)),
        "learned_start": (LearnedStart(), (x,)),
        "last_valid": (LastValid(), (tokens.T.contiguous(), lengths)),
        "two_ways": (TwoWays(), (x,)),
        "shared": (Shared(), (x, x[:, :5])),
        "dual_path": (DualPath(), (torch.randn(2, 5, 4, 2),)),
    }
