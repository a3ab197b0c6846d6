# SPDX-License-Identifier: MIT
"""The reference of what surrounds the cells, forward and backward, beside finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from variant_cases import CASES, NAMES, SHAPES, made_of

from gruengine import reference
from gruengine.reference_activations import sigmoid
from gruengine.reference_training import RecurrentTraining
from gruengine.reference_variants import Variant


def forward(made: dict[str, Any], arrays: dict[str, Any]) -> list[np.ndarray]:
    """Return y [T, N, D*K], h and c of the reference, each row with its own recurrent mask."""
    mask = made["masks"].get("recurrent_mask")
    masks = {k: v for k, v in made["masks"].items() if k != "recurrent_mask"}
    attrs = {k: v for k, v in made["attrs"].items() if k != "skip_cost"}
    N = arrays["x"].shape[1]
    rows = [slice(None)] if mask is None else [slice(n, n + 1) for n in range(N)]
    parts = []
    for row in rows:
        R = arrays["R"] if mask is None else arrays["R"] * mask[:, row].astype(np.float64)
        own = {n: arrays.get(n) for n in NAMES} | {"R": R}
        lengths = None if made["lengths"] is None else made["lengths"][row]
        parts.append(reference.recurrent(
            own["x"][:, row], own["W"], R, own["B"], lengths, own["h0"][:, row],
            None if own["c0"] is None else own["c0"][:, row], own["P"], own["projection"],
            own["gate_recurrence"], own["norm"], own["skip"], hidden_size=made["H"],
            **{k: v[:, :, row] for k, v in masks.items()}, **attrs,
        ))  # fmt: skip
    y = np.concatenate([p[0] for p in parts], axis=2)
    T, D, N, K = y.shape
    rest = [np.concatenate([p[i] for p in parts], axis=1) for i in (1, 2)]
    return [y.transpose(0, 2, 1, 3).reshape(T, N, D * K), *rest][: len(made["gradients"])]


def loss(made: dict[str, Any], arrays: dict[str, Any]) -> float:
    pairs = zip(made["gradients"], forward(made, arrays), strict=True)
    return float(sum(np.vdot(g, y) for g, y in pairs))


def loss_straight_through(
    made: dict[str, Any], arrays: dict[str, Any], offsets: dict[Any, float], fixed: bool
) -> float:
    """Return the loss with the decision ``u = p~ + offset`` in place of ``p~ >= 1/2``.

    The offsets are kept where ``fixed`` is False, and make u 0 or 1 there: around that point this
    is a smooth function, whose derivative has du/dp~ = 1. That is the straight-through estimator.
    """
    attrs, masks = made["attrs"], made["masks"]
    T, N, _ = arrays["x"].shape
    D, _, K = arrays["h0"].shape
    ends = np.full(N, T) if made["lengths"] is None else made["lengths"]
    acts = reference.activations_of(attrs["cell"], D, None, None, None)
    dy, dh, *dc = made["gradients"]
    total = 0.0
    for d, n in np.ndindex(D, N):
        own = {k: v[d] for k, v in arrays.items() if k != "x"}
        R = own["R"] * masks["recurrent_mask"][d, n] if masks else own["R"]
        variant = Variant(own.get("gate_recurrence"), own.get("norm"), attrs.get("norm_epsilon"))
        step = reference.stepper(
            attrs["cell"], own["W"], R, own["B"], own.get("P"), own.get("projection"), acts[d],
            0.0, False, attrs.get("reset", "after"), attrs.get("update", "keep"), variant,
        )  # fmt: skip
        h, c, p_sum = own["h0"][n : n + 1], own["c0"][n : n + 1, :-1], 1 - own["c0"][n, -1]
        times = list(range(ends[n]))
        for t in times[::-1] if attrs["direction"] == "reverse" or d == 1 else times:
            if not fixed:
                offsets[d, n, t] = float(p_sum >= 0.5) - p_sum
            u = p_sum + offsets[d, n, t]
            h_new, c_new = step(arrays["x"][t, n : n + 1], h, c)
            h, c = u * h_new + (1 - u) * h, u * c_new + (1 - u) * c
            p = float(sigmoid(h @ own["skip"][:-1] + own["skip"][-1])[0])
            p_sum = u * p + (1 - u) * (p_sum + min(p, 1 - p_sum))
            total += np.vdot(dy[t, n, d * K : (d + 1) * K], h)
            total += attrs.get("skip_cost", 0.0) / N * u
        if ends[n]:  # a row of length 0 has no state, only zeros
            total += np.vdot(dh[d, n], h) + np.vdot(dc[0][d, n], np.append(c, 1 - p_sum))
    return float(total)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_differences(name, shape):
    made, rng = made_of(name, CASES[name], shape), np.random.default_rng(7)
    exact = {n: a.astype(np.float64) for n, a in made["arrays"].items()}
    layer = RecurrentTraining(made["attrs"], exact["x"].shape[2], made["H"])
    *outputs, tape = layer.forward(**exact, lengths=made["lengths"], **made["masks"])
    for got, wanted in zip(outputs, forward(made, exact), strict=False):
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)
    found = dict(zip(NAMES, layer.backward(tape, *made["gradients"]), strict=True))
    assert {n for n, a in found.items() if a is not None} == set(exact)
    offsets: dict[Any, float] = {}
    if "skip" in exact:
        loss_straight_through(made, exact, offsets, False)
        assert min(offsets.values()) < 0 < max(offsets.values())

    def changed(name: str, by: np.ndarray) -> float:
        arrays = {**exact, name: exact[name] + by}
        if offsets:
            return loss_straight_through(made, arrays, offsets, True)
        return loss(made, arrays)

    for n, array in exact.items():
        for _ in range(3):
            way = rng.normal(size=array.shape)
            slope = (changed(n, 1e-6 * way) - changed(n, -1e-6 * way)) / 2e-6
            size = np.linalg.norm(found[n]) * np.linalg.norm(way) / np.sqrt(way.size)
            assert size > 0, n
            assert abs(np.vdot(found[n], way) - slope) <= 1e-7 * size, n
