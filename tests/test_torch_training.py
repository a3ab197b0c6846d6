# SPDX-License-Identifier: MIT
"""Accelerated layers train: the gradients of PyTorch, through the engine's own backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch_pairs import LAYERS, H, I, flat, pair, quiet_engine, states

import gruengine as gr

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(9)


def gradients_of(module, x, hx, call):
    """Return outputs, and the gradients of parameters, input and states of a weighted sum."""
    x = [one.detach().clone().requires_grad_(True) for one in x]
    hx = None if hx is None else [one.detach().clone().requires_grad_(True) for one in flat(hx)]
    given = None if hx is None else hx[0] if len(hx) == 1 else tuple(hx)
    module.zero_grad()
    outputs = flat(call(module, x, given))
    torch.manual_seed(3)
    sum((one * torch.randn_like(one)).sum() for one in outputs).backward()
    leaves = [*module.parameters(), *x, *(hx or [])]
    return [one.detach() for one in outputs], [leaf.grad for leaf in leaves]


def assert_near(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= 1e-4 * max(1.0, float(b.abs().max()))


def compare(original, ours, x, hx, call=lambda module, x, hx: module(x[0], hx)):
    original.train()
    ours.train()
    expected = gradients_of(original, x, hx, call)
    found = quiet_engine(gradients_of, ours, x, hx, call)
    for a, b in zip(found, expected, strict=True):
        assert_near(a, b)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("layers", "bias", "batch_first"), [(1, True, True), (3, False, False)])
def test_layers(kind, bidirectional, layers, bias, batch_first):
    original, ours = pair(
        LAYERS[kind](I, H, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional)
    )
    rows = layers * (2 if bidirectional else 1)
    for hx in (None, states(kind, rows, 3)):
        x = torch.randn(3, 5, I) if batch_first else torch.randn(5, 3, I)
        compare(original, ours, [x], hx)
    compare(original, ours, [torch.randn(4, I)], states(kind, rows))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_projections_and_relu(bidirectional):
    rows = 4 if bidirectional else 2
    compare(
        *pair(nn.LSTM(I, H, 2, proj_size=5, bidirectional=bidirectional)),
        [torch.randn(6, 3, I)],
        states("lstm", rows, 3, width=5),
    )
    compare(
        *pair(nn.RNN(I, H, 2, nonlinearity="relu", bidirectional=bidirectional)),
        [torch.randn(6, 3, I)],
        None,
    )


@pytest.mark.parametrize("kind", LAYERS)
def test_packed_sequences(kind):
    def call(module, x, hx):
        y, after = module(pack_sequence(x, enforce_sorted=False), hx)
        return y.data, after

    original, ours = pair(LAYERS[kind](I, H, 2, bidirectional=True))
    x = [torch.randn(length, I) for length in (3, 6, 1, 4)]
    compare(original, ours, x, states(kind, 4, 4), call)


def test_a_model_learns_as_with_pytorch():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(20, I)
            self.layers = nn.LSTM(I, H, 2, batch_first=True, bidirectional=True)
            self.head = nn.Linear(2 * H, 3)

        def forward(self, ids):
            return self.head(self.layers(self.embedding(ids))[0])

    original, ours = pair(Tagger())
    ids, tags = torch.randint(20, (4, 7)), torch.randint(3, (4, 7))
    losses = []
    for model in (original, ours):
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        losses.append([])
        for _ in range(30):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), tags.flatten())
            loss.backward()
            optimizer.step()
            losses[-1].append(float(loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[0][-1] < 0.5 * losses[0][0]


def test_dropout_between_layers():
    _, ours = pair(nn.GRU(I, H, 2, dropout=0.5))
    ours.train()
    x = torch.randn(5, 3, I)
    first, second = quiet_engine(ours, x)[0], quiet_engine(ours, x)[0]
    assert not torch.equal(first, second)
    second.sum().backward()
    assert ours.weight_ih_l1.grad.abs().sum() > 0


def test_only_what_is_asked_for_has_gradients():
    original, ours = pair(nn.LSTM(I, H).requires_grad_(False))
    x = torch.randn(4, 2, I, requires_grad=True)
    quiet_engine(ours, x)[1][1].sum().backward()
    found, x.grad = x.grad, None
    original(x)[1][1].sum().backward()
    assert_near([found], [x.grad])
    assert ours.weight_ih_l0.grad is None


def test_changes_before_the_backward_pass_are_found():
    _, ours = pair(nn.LSTM(I, H))
    x = torch.randn(4, 2, I)
    y = ours(x)[0].sum()
    with torch.no_grad():
        ours.weight_hh_l0.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_gradients_of_gradients_are_refused():
    _, ours = pair(nn.RNN(I, H))
    x = torch.randn(4, 2, I, requires_grad=True)
    with pytest.raises(gr.GruEngineError, match="gradients of gradients"):
        torch.autograd.grad(ours(x)[0].sum(), x, create_graph=True)
