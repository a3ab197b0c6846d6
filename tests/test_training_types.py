# SPDX-License-Identifier: MIT
"""Training in bfloat16: what is rounded, what is not, and that it learns as float32 does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gruengine as gr
from gruengine import _core

CELLS: dict[str, dict[str, Any]] = {
    "rnn": {"cell": "rnn"},
    "lstm": {"cell": "lstm"},
    "gru after": {"cell": "gru", "reset": "after"},
    "gru before": {"cell": "gru", "reset": "before"},
}
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
# T, N, I, H, directions, lengths, projection
SHAPES = {
    "small": (5, 4, 3, 17, 1, (2, 5, 0, 4), 0),
    "both ways": (4, 5, 2, 5, 2, None, 0),
    "tiles": (6, 20, 33, 64, 1, None, 0),
    "rows": (3, 40, 16, 70, 2, tuple(i % 4 for i in range(40)), 0),
    "projected": (4, 33, 8, 40, 1, None, 12),
}


def rounded(x: Any) -> Any:
    """Round to the nearest bfloat16, ties to even."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return kept.astype(np.uint32).view(np.float32).astype(np.float64)


def gradients(cell: str, shape: str, compute_type: str, threads: int = 1) -> list[Any]:
    """Return outputs and gradients of a layer."""
    T, N, I, H, D, lengths, projection = SHAPES[shape]
    attrs, rng = CELLS[cell], np.random.default_rng(T * N + H)
    G, K, lstm = GATES[attrs["cell"]], projection or H, attrs["cell"] == "lstm"

    def values(*sizes: int, scale: float = 0.4) -> Any:
        return rng.normal(0, scale, sizes).astype(np.float32)

    layer = _core.RecurrentTraining(
        {**attrs, "direction": "bidirectional" if D == 2 else "forward"}, I, H, threads,
        compute_type,
    )  # fmt: skip
    *outputs, tape = layer.forward(
        values(T, N, I, scale=1.0), values(D, G * H, I, scale=0.3), values(D, G * H, K, scale=0.2),
        values(D, 2 * G * H), values(D, 3 * H) if lstm else None,
        values(D, K, H) if projection else None, values(D, N, K), values(D, N, H) if lstm else None,
        None if lengths is None else np.minimum(lengths, T).astype(np.int64),
    )  # fmt: skip
    last = values(D, N, H) if lstm else None
    found = layer.backward(tape, values(T, N, D * K), values(D, N, K), last, True)
    return [a for a in (*outputs, *found) if a is not None]


@pytest.mark.parametrize("sizes", [(1, 1, 1), (7, 5, 3), (33, 70, 129), (16, 64, 32)])
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
def test_products_round_their_operands_only(
    isa: str, sizes: tuple[int, ...], turned: tuple[bool, bool]
) -> None:
    m, n, k = sizes
    rng = np.random.default_rng(m)
    a, b, bias = (rng.normal(size=s).astype(np.float32) for s in ((m, k), (k, n), (n,)))
    operands = [np.ascontiguousarray(x.T if t else x) for x, t in zip((a, b), turned, strict=True)]
    wanted = rounded(a) @ rounded(b) + bias
    found = _core.train_matmul(*operands, *turned, bias, compute_type="bfloat16")
    scale = np.abs(rounded(a)) @ np.abs(rounded(b)) + np.abs(bias)
    assert (np.abs(found - wanted) <= 1e-6 * scale).all()
    out = found.copy()
    _core.train_matmul(*operands, *turned, None, out, True, num_threads=2, compute_type="bfloat16")
    assert (np.abs(out - (2 * wanted - bias)) <= 2e-6 * scale).all()


@pytest.mark.parametrize("cell", CELLS)
def test_one_step_is_that_of_rounded_weights_and_inputs(isa: str, cell: str) -> None:
    """Of one step and row the gradient of the bias is the delta, which the others multiply."""
    I, H, attrs = 21, 19, CELLS[cell]
    G, rng = GATES[attrs["cell"]], np.random.default_rng(5)
    x, W, R, h0, dy = (
        rng.normal(0, 0.5, s).astype(np.float32)
        for s in ((1, 1, I), (1, G * H, I), (1, G * H, H), (1, 1, H), (1, 1, H))
    )
    layer = _core.RecurrentTraining(attrs, I, H, 1, "bfloat16")
    y, _, _, tape = layer.forward(x, W, R, np.zeros((1, 2 * G * H), np.float32), None, None, h0)
    y_rounded, *_ = _core.RecurrentTraining(attrs, I, H).forward(
        *(rounded(a).astype(np.float32) for a in (x, W)), rounded(R).astype(np.float32),
        None, None, None, h0 if cell != "rnn" else rounded(h0).astype(np.float32),
    )  # fmt: skip
    # A GRU also mixes h0 into its output, and that h0 is not rounded.
    assert np.abs(y - y_rounded).max() < (2e-6 if cell == "rnn" else 5e-3)
    dx, dW, dR, dB, *_ = layer.backward(tape, dy)
    delta, recurrent = dB[0, : G * H], dB[0, G * H :]
    assert np.allclose(dW[0], np.outer(rounded(delta), rounded(x)), rtol=1e-5, atol=1e-7)
    assert np.allclose(dx[0, 0], rounded(delta) @ rounded(W[0]), rtol=1e-4, atol=1e-6)
    rows = slice(0, (G if cell != "gru before" else 2) * H)
    wanted = np.outer(rounded(recurrent), rounded(h0))
    assert np.allclose(dR[0][rows], wanted[rows], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("cell", "shape"),
    [(c, s) for c in CELLS for s in SHAPES if c == "lstm" or s != "projected"],
)
def test_gradients_point_where_those_of_float32_do(isa: str, cell: str, shape: str) -> None:
    low, full = gradients(cell, shape, "bfloat16"), gradients(cell, shape, "float32")
    for a, b in zip(low, full, strict=True):
        assert np.abs(a - b).max() < 0.03 * np.abs(b).max()
        angle = (a * b).sum(dtype=np.float64) / np.sqrt(
            (a * a).sum(dtype=np.float64) * (b * b).sum(dtype=np.float64)
        )
        assert angle > 0.9998
    assert any((a != b).any() for a, b in zip(low, full, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_threads_give_the_same_bits(cell: str) -> None:
    for shape in ("tiles", "rows"):
        one, two = (gradients(cell, shape, "bfloat16", threads) for threads in (1, 2))
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_losses_fall_as_in_float32(kind: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(32, 12, 4)).astype(np.float32)
    y = np.cumsum(x.sum(2, keepdims=True), 1, dtype=np.float32) / 6
    curves = []
    for compute_type in ("float32", "bfloat16"):
        layers = [getattr(gr, kind)(24, return_sequences=True), gr.Dense(1)]
        net = gr.Sequential(layers, input_size=4, seed=2)
        trainer = gr.Trainer(
            net, "mse", gr.optimizers.Adam(0.01), clip_norm=1.0, compute_type=compute_type
        )
        curves.append([trainer.step(x, y).loss for _ in range(150)])
        assert all(value.dtype == np.float32 for value in trainer.parameters.values.values())
    full, low = np.array(curves)
    assert full[-1] < 0.2 * full[0]
    assert np.abs(low - full).max() < 0.05 * full[0]
    assert low[-1] < 1.3 * full[-1]


def test_other_types_are_refused() -> None:
    net = gr.Sequential([gr.GRU(4)], input_size=2)
    with pytest.raises(gr.UnsupportedError, match=r"int8.*float32, bfloat16"):
        gr.Trainer(net, compute_type="int8")
    with pytest.raises(gr.InvalidInputError, match=r"int8.*'float32' and 'bfloat16'"):
        _core.RecurrentTraining({"cell": "gru"}, 2, 4, 1, "int8")
