# SPDX-License-Identifier: MIT
"""Optimizers, schedules and clipping beside PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gruengine as gr
from gruengine.optimizers import (
    SGD,
    Adam,
    AdamW,
    RMSprop,
    clip_by_norm,
    clip_by_value,
    cosine,
    exponential,
    global_norm,
    optimizer_of,
    warmup,
)

CASES = {
    "sgd": (lambda: SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    "momentum": (lambda: SGD(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
    "nesterov": (
        lambda: SGD(0.1, momentum=0.8, nesterov=True, weight_decay=0.03),
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, nesterov=True, weight_decay=0.03),
    ),
    "rmsprop": (lambda: RMSprop(0.02), lambda p: torch.optim.RMSprop(p, 0.02)),
    "rmsprop momentum": (
        lambda: RMSprop(0.02, alpha=0.9, momentum=0.5, weight_decay=0.1),
        lambda p: torch.optim.RMSprop(p, 0.02, alpha=0.9, momentum=0.5, weight_decay=0.1),
    ),
    "adam": (lambda: Adam(0.05), lambda p: torch.optim.Adam(p, 0.05)),
    "adam decay": (
        lambda: Adam(0.05, betas=(0.8, 0.95), epsilon=1e-6, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.05, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    ),
    "adamw": (
        lambda: AdamW(0.05, weight_decay=0.2),
        lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.2),
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_updates_are_torchs(kind, rng):
    ours, theirs = CASES[kind]
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in
              {"W": (4, 3), "b": (5,)}.items()}  # fmt: skip
    leaves = [torch.tensor(value.copy(), requires_grad=True) for value in params.values()]
    mine, other = ours(), theirs(leaves)
    for _ in range(30):
        gradients = {name: rng.normal(size=v.shape).astype(np.float32) for name, v in
                     params.items()}  # fmt: skip
        mine.update(params, gradients)
        for leaf, gradient in zip(leaves, gradients.values(), strict=True):
            leaf.grad = torch.from_numpy(gradient.copy())
        other.step()
        for leaf, value in zip(leaves, params.values(), strict=True):
            np.testing.assert_allclose(value, leaf.detach().numpy(), rtol=2e-5, atol=2e-6)


def test_only_named_parameters_decay():
    params = {"W": np.ones(2, np.float32), "b": np.ones(2, np.float32)}
    SGD(0.1, weight_decay=0.5, decays=lambda name: name == "W").update(params, {})
    np.testing.assert_allclose(params["W"], 0.95)
    np.testing.assert_array_equal(params["b"], 1)


def test_schedules():
    rate = warmup(cosine(0.4, 10, 0.1), 4)
    assert [round(rate(step), 4) for step in (0, 1, 3)] == [
        round(cosine(0.4, 10, 0.1)(step) * (step + 1) / 4, 4) for step in (0, 1, 3)
    ]
    assert cosine(0.4, 10, 0.1)(0) == pytest.approx(0.4)
    assert cosine(0.4, 10, 0.1)(5) == pytest.approx(0.25)
    assert cosine(0.4, 10, 0.1)(99) == pytest.approx(0.1)
    assert [exponential(1.0, 0.5, 2)(step) for step in range(5)] == [1, 1, 0.5, 0.5, 0.25]
    optimizer = SGD(exponential(1.0, 0.5))
    value = {"p": np.zeros(1, np.float32)}
    for _ in range(3):
        optimizer.update(value, {"p": np.ones(1, np.float32)})
    assert value["p"][0] == -1.75
    assert optimizer.rate_now == 0.125


def test_clipping_is_torchs(rng):
    gradients = {"a": rng.normal(size=(3, 4)).astype(np.float32),
                 "b": rng.normal(size=5).astype(np.float32)}  # fmt: skip
    leaves = [torch.zeros(g.shape, requires_grad=True) for g in gradients.values()]
    for leaf, gradient in zip(leaves, gradients.values(), strict=True):
        leaf.grad = torch.from_numpy(gradient.copy())
    norm = torch.nn.utils.clip_grad_norm_(leaves, 0.7)
    assert clip_by_norm(gradients, 0.7) == pytest.approx(float(norm), rel=1e-6)
    for leaf, gradient in zip(leaves, gradients.values(), strict=True):
        np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-5)
    assert global_norm(gradients) == pytest.approx(0.7, rel=1e-5)
    kept = {name: value.copy() for name, value in gradients.items()}
    clip_by_norm(gradients, 5.0)
    np.testing.assert_array_equal(gradients["a"], kept["a"])
    clip_by_value(gradients, 0.05)
    assert max(np.abs(g).max() for g in gradients.values()) == np.float32(0.05)


def test_a_norm_that_is_finite_is_found():
    assert global_norm({"a": np.full(4, 1e25, np.float32)}) == pytest.approx(2e25, rel=1e-6)
    assert not np.isfinite(global_norm({"a": np.array([np.nan], np.float32)}))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: optimizer_of("adagrad"), "optimizer is 'adagrad'"),
        (lambda: SGD(-1), "rate is -1"),
        (lambda: SGD(0.1, nesterov=True), "nesterov=True needs a momentum"),
        (lambda: Adam(betas=(0.9, 1.0)), r"betas\[1\] is 1.0"),
        (lambda: AdamW(weight_decay=float("nan")), "weight_decay is nan"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(gr.InvalidInputError, match=message):
        call()
