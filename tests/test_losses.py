# SPDX-License-Identifier: MIT
"""Losses beside PyTorch, and their gradients beside finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

import gruengine as gr
from gruengine.ctc import CTC
from gruengine.losses import MAE, MSE, BinaryCrossEntropy, Huber, SoftmaxCrossEntropy, loss_of

Y = np.random.default_rng(1).normal(0, 2, (4, 6, 5))
NUMBERS = np.random.default_rng(2).normal(0, 2, (4, 6, 5))
BITS = (np.random.default_rng(3).random((4, 6, 5)) < 0.4).astype(np.float64)
CLASSES = np.random.default_rng(4).integers(0, 5, (4, 6))
CLASSES[1, 2:] = 3  # a class to ignore
MASK = np.random.default_rng(5).random((4, 6)) < 0.6
WEIGHTS = np.array([0.2, 1.0, 3.0, 0.5, 2.0])


def torch_value(function, masked=False):
    """Value and gradient of a PyTorch loss at Y."""
    y = torch.tensor(Y, requires_grad=True)
    value = function(y)
    if masked:
        value = value[torch.from_numpy(MASK)].mean()
    value.backward()
    return float(value.detach()), y.grad.numpy()


def t(array):
    return torch.from_numpy(array)


ELEMENTWISE = {
    "mse": (MSE(), NUMBERS, lambda y, **k: functional.mse_loss(y, t(NUMBERS), **k)),
    "mae": (MAE(), NUMBERS, lambda y, **k: functional.l1_loss(y, t(NUMBERS), **k)),
    "huber": (Huber(0.7), NUMBERS, lambda y, **k: functional.huber_loss(y, t(NUMBERS), delta=0.7,
                                                                        **k)),
    "bce": (BinaryCrossEntropy(), BITS,
            lambda y, **k: functional.binary_cross_entropy_with_logits(y, t(BITS), **k)),
    "bce weighted": (
        BinaryCrossEntropy(2.5), BITS, lambda y, **k: functional.binary_cross_entropy_with_logits(
            y, t(BITS), pos_weight=torch.tensor(2.5), **k)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_elementwise_losses_are_torchs(kind, dtype):
    loss, target, function = ELEMENTWISE[kind]
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    value, dy = loss(Y.astype(dtype), target)
    wanted, gradient = torch_value(function)
    assert value == pytest.approx(wanted, rel=tolerance)
    assert dy.dtype == dtype
    np.testing.assert_allclose(dy, gradient, rtol=10 * tolerance, atol=tolerance)
    value, dy = loss(Y.astype(dtype), target, MASK)
    wanted, gradient = torch_value(lambda y: function(y, reduction="none"), masked=True)
    assert value == pytest.approx(wanted, rel=tolerance)
    np.testing.assert_allclose(dy, gradient, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("ignore", [None, 3])
def test_softmax_cross_entropy_is_torchs(ignore, weights):
    loss = SoftmaxCrossEntropy(ignore=ignore, weights=weights)
    wanted, gradient = torch_value(
        lambda y: functional.cross_entropy(
            y.reshape(-1, 5), t(CLASSES).reshape(-1),
            ignore_index=-100 if ignore is None else ignore,
            weight=None if weights is None else t(weights).float().double(),
        )
    )  # fmt: skip
    value, dy = loss(Y, CLASSES)
    assert value == pytest.approx(wanted, rel=1e-7)
    np.testing.assert_allclose(dy, gradient, rtol=1e-6, atol=1e-12)
    if ignore is not None:
        assert not dy[CLASSES == 3].any()


def test_masked_cross_entropy():
    classes = np.where(MASK, CLASSES, -100)
    wanted, gradient = torch_value(
        lambda y: functional.cross_entropy(y.reshape(-1, 5), t(classes).reshape(-1))
    )
    value, dy = SoftmaxCrossEntropy()(Y, CLASSES, MASK)
    assert value == pytest.approx(wanted, rel=1e-12)
    np.testing.assert_allclose(dy, gradient, rtol=1e-9, atol=1e-14)


def test_large_logits_are_exact():
    y = np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32)
    value, dy = SoftmaxCrossEntropy()(y, np.array([0, 0]))
    assert value == 1e4
    assert np.isfinite(dy).all()
    value, dy = BinaryCrossEntropy()(y, np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert value == 5e3
    np.testing.assert_array_equal(dy, [[0, 0], [-0.25, 0.25]])


def test_what_a_mask_hides_may_be_nan():
    y, mask = Y.copy(), np.ones((4, 6), bool)
    y[0, 0], mask[0, 0] = np.nan, False
    for loss, target in ((MSE(), NUMBERS), (SoftmaxCrossEntropy(), CLASSES)):
        value, dy = loss(y, target, mask)
        assert np.isfinite(value)
        assert np.isfinite(dy).all()
        assert not dy[0, 0].any()


@pytest.mark.parametrize("blank", [0, 4])
def test_ctc_is_torchs(blank):
    T, N, C = 12, 5, 5
    rng = np.random.default_rng(7)
    y = rng.normal(0, 1.5, (T, N, C))
    lengths = np.array([12, 7, 9, 12, 5])
    others = [label for label in range(C) if label != blank]
    labels = [rng.choice(others, size) for size in (4, 3, 1, 5, 2)]
    labels[0][1:3] = labels[0][0]  # repeats need blanks between them
    mask = np.arange(T)[:, None] < lengths
    value, dy = CTC(blank)(y, labels, mask)
    leaf = torch.tensor(y, requires_grad=True)
    wanted = functional.ctc_loss(
        torch.log_softmax(leaf, -1), torch.from_numpy(np.concatenate(labels)),
        torch.from_numpy(lengths), torch.tensor([len(row) for row in labels]), blank=blank,
    )  # fmt: skip
    wanted.backward()
    assert value == pytest.approx(float(wanted.detach()), rel=1e-10)
    np.testing.assert_allclose(dy, leaf.grad.numpy(), atol=1e-12)
    beyond = np.where(mask[..., None], y, np.nan)  # what is past a length may be anything
    again, slopes = CTC(blank)(beyond, labels, mask)
    assert again == value
    np.testing.assert_array_equal(slopes, dy)
    padded = np.full((N, 6), -1)
    for row, own in zip(padded, labels, strict=True):
        row[: len(own)] = own
    assert CTC(blank)(y, padded, mask)[0] == value


def test_ctc_gradients_are_finite_differences():
    rng = np.random.default_rng(8)
    y, labels = rng.normal(size=(6, 2, 4)), [[1, 1, 2], []]
    _, dy = CTC()(y, labels)
    for at in np.ndindex(*y.shape):
        above, below = y.copy(), y.copy()
        above[at] += 1e-6
        below[at] -= 1e-6
        slope = (CTC()(above, labels)[0] - CTC()(below, labels)[0]) / 2e-6
        assert dy[at] == pytest.approx(slope, abs=1e-8)


def test_ctc_of_a_row_too_short():
    y = np.zeros((2, 2, 3), np.float32)
    labels = [[1, 1], [1, 2]]  # the first needs a blank between its labels: three steps
    assert CTC()(y, labels)[0] == np.inf
    value, dy = CTC(zero_infinity=True)(y, labels)
    assert np.isfinite(value)
    assert not dy[:, 0].any()
    assert dy[:, 1].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loss_of("l2"), "loss is 'l2'"),
        (lambda: MSE()(Y, NUMBERS[:2]), r"target has shape \(2, 6, 5\)"),
        (lambda: MSE()(Y, NUMBERS, MASK[:1]), r"mask has shape \(1, 6\)"),
        (lambda: SoftmaxCrossEntropy()(Y, NUMBERS), "must be integers"),
        (lambda: SoftmaxCrossEntropy()(Y, CLASSES + 3), "allowed: 0 to 4"),
        (lambda: SoftmaxCrossEntropy(weights=[1, 2])(Y, CLASSES), "2 weights for 5 classes"),
        (lambda: SoftmaxCrossEntropy(weights=[1, -2]), "none negative"),
        (lambda: Huber(0), "delta is 0"),
        (lambda: BinaryCrossEntropy(-1), "positive_weight is -1"),
        (lambda: CTC()(Y, [[0]] * 6), "without the blank"),
        (lambda: CTC()(Y, [[1]]), "1 label sequences for a batch of 6"),
        (lambda: CTC()(Y, [[1]] * 6, MASK[:1]), r"mask has shape \(1, 6\); it must be \(4, 6\)"),
        (lambda: CTC()(Y, [[1]] * 6, MASK), "must keep the first steps"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(gr.InvalidInputError, match=message):
        call()


# -- means over batches ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "masked"),
    [
        ("mse", "lengths"), ("mae", "floats"), ("binary_cross_entropy", "bits"),
        ("cross_entropy", "lengths"), ("cross_entropy", "floats"),
        (gr.losses.SoftmaxCrossEntropy(ignore=-100, weights=[1, 5, 2, 0.5]), None),
        (gr.losses.SoftmaxCrossEntropy(ignore=-100), "lengths"), ("ctc", "lengths"),
    ],
)  # fmt: skip
def test_an_evaluation_does_not_depend_on_its_batches(loss, masked):
    rng = np.random.default_rng(3)
    N, T, C = 11, 9, 4
    x = rng.normal(size=(N, T, 2)).astype(np.float32)
    net = gr.Sequential([gr.GRU(5, return_sequences=True), gr.Dense(C)], input_size=2)
    classes = not isinstance(loss, str) or loss == "cross_entropy"
    y = rng.integers(0, C, (N, T)) if classes else rng.random((N, T, C))
    if not isinstance(loss, str):
        y[rng.random((N, T)) < 0.5] = -100
    if loss == "ctc":
        y = [rng.integers(1, C, n % 3) for n in range(N)]
    lengths = rng.integers(5, T + 1, N) if masked == "lengths" else None
    mask = {"floats": rng.random((N, T)), "bits": rng.random((N, T)) < 0.3}.get(masked)
    metrics = ["accuracy"] if classes else []
    trainer = gr.Trainer(net, loss, metrics=metrics)
    whole, pieces = (trainer.evaluate(x, y, lengths, mask=mask, batch_size=size) for size in (N, 2))
    assert pieces == pytest.approx(whole, rel=1e-5)
    if classes:
        counts = np.ones((N, T), bool) if mask is None else mask != 0
        counts &= y != -100
        if lengths is not None:
            counts &= np.arange(T) < lengths[:, None]
        right = net(x).argmax(-1) == y
        assert whole["accuracy"] == pytest.approx(right[counts].mean())
