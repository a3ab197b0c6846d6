# SPDX-License-Identifier: MIT
"""``gruengine.torch.accelerate``: the numbers of PyTorch."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence
from torch_pairs import CELLS, LAYERS, H, I, assert_same, flat, pair, quiet_engine, states

import gruengine as gr
from gruengine import _call


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


# -- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("layers", "bias"), [(1, True), (3, True), (2, False)])
def test_layers(kind, bidirectional, batch_first, layers, bias):
    original, ours = pair(
        LAYERS[kind](I, H, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional)
    )
    rows = layers * (2 if bidirectional else 1)
    with torch.inference_mode():
        for N, T in ((1, 1), (3, 5), (1, 6), (4, 1), (3, 5)):
            x = torch.randn(N, T, I) if batch_first else torch.randn(T, N, I)
            for hx in (None, states(kind, rows, N)):
                found = quiet_engine(ours, x, hx)
                assert_same(found, original(x, hx))
                assert found[0].stride() == original(x, hx)[0].stride()
        x = torch.randn(6, I)
        for hx in (None, states(kind, rows)):
            assert_same(quiet_engine(ours, x, hx), original(x, hx))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projection(bidirectional):
    original, ours = pair(nn.LSTM(I, H, 2, proj_size=5, bidirectional=bidirectional))
    x, rows = torch.randn(6, 3, I), 4 if bidirectional else 2
    with torch.no_grad():
        assert_same(ours(x), original(x))
        hx = states("lstm", rows, 3, width=5)
        assert_same(ours(x, hx), original(x, hx))


def test_relu():
    original, ours = pair(nn.RNN(I, H, 2, nonlinearity="relu"))
    x = torch.randn(6, 3, I)
    with torch.no_grad():
        assert_same(ours(x), original(x))
        original, ours = pair(nn.RNNCell(I, H, nonlinearity="relu"))
        assert_same(ours(x[0]), original(x[0]))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packed(kind, bidirectional, layers, enforce_sorted):
    original, ours = pair(LAYERS[kind](I, H, layers, bidirectional=bidirectional))
    lengths = (9, 5, 5, 3, 1) if enforce_sorted else (3, 9, 1, 5, 5)
    packed = pack_sequence([torch.randn(n, I) for n in lengths], enforce_sorted=enforce_sorted)
    rows = layers * (2 if bidirectional else 1)
    with torch.inference_mode():
        for hx in (None, states(kind, rows, 5)):
            found, expected = quiet_engine(ours, packed, hx), original(packed, hx)
            assert_same((found[0].data, found[1]), (expected[0].data, expected[1]))
            assert torch.equal(found[0].batch_sizes, expected[0].batch_sizes)
            assert_same(pad_packed_sequence(found[0])[0], pad_packed_sequence(expected[0])[0])


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("attributes", [False, True])
def test_cells(kind, bias, attributes):
    original, ours = pair(CELLS[kind](I, H, bias=bias))
    _call.use_attributes(attributes)
    try:
        with torch.inference_mode():
            for lead in ((1,), (5,), (), (1,)):
                x = torch.randn(*lead, I)
                for hx in (None, states(kind, *lead)):
                    assert_same(quiet_engine(ours, x, hx), original(x, hx))
    finally:
        _call.use_attributes(False)


def test_a_loop_of_steps():
    original, ours = pair(nn.LSTMCell(I, H))
    x = torch.randn(50, 2, I)
    with torch.no_grad():
        a = b = states("lstm", 2)
        for frame in x:
            a, b = original(frame, a), quiet_engine(ours, frame, b)
            assert_same(b, a)


@pytest.mark.parametrize("view", [
    lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    lambda x: torch.cat([x, x], 2)[:, :, :I],
    lambda x: nn.Parameter(x, requires_grad=False),
])  # fmt: skip
def test_any_layout_of_the_input(view):
    original, ours = pair(nn.GRU(I, H))
    x = torch.randn(5, 3, I)
    with torch.no_grad():
        assert_same(quiet_engine(ours, view(x)), original(x))


def test_threads_of_one_module():
    original, ours = pair(nn.LSTM(64, 128, batch_first=True))
    inputs = [torch.randn(2, 40, 64) for _ in range(4)]
    with torch.inference_mode():
        expected = [original(x) for x in inputs]
    found: dict[int, list] = {}

    def work(i):
        with torch.inference_mode():
            found[i] = [ours(inputs[i]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, results in found.items():
        for result in results:
            assert_same(result, expected[i])
    assert len(found) == 4


@pytest.mark.parametrize("kind", LAYERS)
def test_the_number_of_threads_changes_no_bit(kind):
    original, ours = pair(LAYERS[kind](64, 192, 2, bidirectional=True))
    x, rows = torch.randn(20, 3, 64), 4
    hx = states(kind, rows, 3, width=192)
    hx = (hx[0], torch.randn(rows, 3, 192)) if kind == "lstm" else hx
    with torch.inference_mode():
        one = quiet_engine(ours, x, hx)
        two = quiet_engine(gr.torch.accelerate(ours, num_threads=2), x, hx)
        assert_same(two, original(x, hx))
    for a, b in zip(flat(one), flat(two), strict=True):
        assert torch.equal(a, b)
