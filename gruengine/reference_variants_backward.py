# SPDX-License-Identifier: MIT
"""The derivatives of ``reference_variants.py``, in float64 NumPy.

``d`` before a letter is the gradient of the loss by it; each function computes its step again.
Sources: the chain rule on the equations there; for the decision to skip, the straight-through
estimator (Bengio et al. 2013; Campos et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gruengine.reference_activations import Array, sigmoid
from gruengine.reference_backward import StepGradient, outer
from gruengine.reference_variants import Stepper, Variant, lstm_row_step, normalise

#: h, c of a step's input and the gradients of its outputs h' and c', to those of the input.
Derivative = Callable[[Array, Array, Array, Array], StepGradient]


def normalise_backward(v: Array, epsilon: float, dn: Array) -> Array:
    """Return the derivative of ``n = normalise(v)``, given ``dn``.

    ::

        dv = (dn - mean(dn) - n mean(n dn)) / sqrt(variance + epsilon)
    """
    n = normalise(v, epsilon)
    scale = np.sqrt(v.var(-1, keepdims=True) + epsilon)
    means = dn.mean(-1, keepdims=True), (n * dn).mean(-1, keepdims=True)
    return np.asarray((dn - means[0] - n * means[1]) / scale)


def lstm_row_step_backward(
    x: Array,
    h: Array,
    c: Array,
    W: Array,
    R: Array,
    b: Array,
    dh: Array,
    dc: Array,
    *,
    variant: Variant,
    peepholes: Array | None,
    projection: Array | None,
) -> StepGradient:
    """Return the derivative of ``lstm_row_step``, given ``dh`` [N, K] of h' and ``dc`` [N, C].

    With full gate recurrence ``dc`` holds, after that of c', those of the gates: du'.

    ::

        dm  = projection' dh                 do = dm tanh(q) + du'_o
        dq  = dm o (1 - tanh(q)^2)           (q = c', or gain_c n(c') + shift_c)
        dc' = dc + dq (through n) + p_o da_o
        di  = dc' g + du'_i                  df = dc' c + du'_f       dg = dc' i
        dc  = dc' f + p_i da_i + p_f da_f    du = F' [da_i, da_o, da_f]
    """
    s = lstm_row_step(x, h, c, W, R, b, variant, peepholes, projection)
    H, epsilon, fed = s.c.shape[1], variant.epsilon, variant.gate_recurrence
    c, u = c[:, :H], c[:, H:]
    dc, du = dc[:, :H], dc[:, H:]
    du_i, du_o, du_f = (0.0, 0.0, 0.0) if fed is None else np.split(du, 3, axis=1)
    p_i, p_o, p_f = (0.0, 0.0, 0.0) if peepholes is None else np.split(peepholes, 3)
    gain_x, gain_h, gain_c, shift_c = (
        (1.0, 1.0, 1.0, 0.0)
        if variant.norm is None
        else np.split(variant.norm, [4 * H, 8 * H, 9 * H])
    )

    def through(v: Array, dn: Array) -> Array:
        return dn if variant.norm is None else normalise_backward(v, epsilon, dn)

    n_c = s.c if variant.norm is None else normalise(s.c, epsilon)
    out = np.tanh(gain_c * n_c + shift_c)
    dm = dh if projection is None else dh @ projection
    da_o = (dm * out + du_o) * s.o * (1 - s.o)
    dq = dm * s.o * (1 - out**2)
    dc_new = dc + through(s.c, dq * gain_c) + p_o * da_o
    da_i = (dc_new * s.g + du_i) * s.i * (1 - s.i)
    da_f = (dc_new * c + du_f) * s.f * (1 - s.f)
    da = np.concatenate([da_i, da_o, da_f, dc_new * s.i * (1 - s.g**2)], axis=1)
    w, r = x @ W.T, h @ R.T
    da_w, da_r = through(w, da * gain_x), through(r, da * gain_h)
    dc_old = [dc_new * s.f + p_i * da_i + p_f * da_f]
    by = {"W": outer(da_w, x), "R": outer(da_r, h), "B": np.concatenate([da, da], axis=1)}
    if fed is not None:
        dc_old.append(da[:, : 3 * H] @ fed)
        by["gate_recurrence"] = outer(da[:, : 3 * H], u)
    if variant.norm is not None:
        gains = [da * normalise(w, epsilon), da * normalise(r, epsilon), dq * n_c, dq]
        by["norm"] = np.concatenate(gains, axis=1)
    if peepholes is not None:
        by["P"] = np.concatenate([da_i * c, da_o * s.c, da_f * c], axis=1)
    if projection is not None:
        by["projection"] = outer(dh, s.m)
    return StepGradient(da_w @ W, da_r @ R, np.concatenate(dc_old, axis=1), by)


def zoneout_backward(
    derivative: Derivative, h: Array, c: Array, dh: Array, dc: Array,
    k_h: Array | float, k_c: Array | float, H: int,
) -> StepGradient:  # fmt: skip
    """Return the derivative of ``s' = k s + (1 - k) S(s, x)``: ``k ds'`` goes straight to s.

    Parameters
    ----------
    derivative : of S.
    k_h, k_c : what is kept of h and of the cell, masks or shares; gates in c are never kept.
    """
    kept_c = np.concatenate([k_c * dc[:, :H], np.zeros_like(dc[:, H:])], axis=1)
    found = derivative(h, c, (1 - k_h) * dh, dc - kept_c)
    assert found.dc is not None
    return found._replace(dh=found.dh + k_h * dh, dc=found.dc + kept_c)


def skip_backward(
    step: Stepper, derivative: Derivative, skip: Array, cost: float,
    x: Array, h: Array, c: Array, dh: Array, dc: Array,
) -> StepGradient:  # fmt: skip
    """Return the derivative of a step that may be skipped, straight through the decision.

    With the letters of ``surrounded``, p~ the last element of c from 1, and du/dp~ taken for 1::

        dp  = dp~' (u + (1 - u) [p < 1 - p~])          dh' += w p (1 - p) dp
        du  = ds' (S(s, x) - s) + dp~' (p - p~ - min(p, 1 - p~)) + cost
        dp~ = du + dp~' (1 - u) [p < 1 - p~]           dS = u ds'     ds = (1 - u) ds'

    Parameters
    ----------
    step, derivative : of S.
    cost : what each update adds to the loss.
    """
    inner, left = c[:, :-1], c[:, -1:]
    dc, dp_sum = dc[:, :-1], -dc[:, -1:]
    u = (left <= 0.5).astype(np.float64)
    h_new, c_new = step(x, h, inner)
    h_next = np.where(u == 1, h_new, h)
    p = sigmoid(h_next @ skip[:-1, None] + skip[-1])
    adds = (p < left).astype(np.float64)
    dlogit = dp_sum * (u + (1 - u) * adds) * p * (1 - p)
    dh = dh + dlogit * skip[:-1]
    du = dp_sum * (p - (1 - left) - np.minimum(p, left)) + cost
    du = du + (dh * (h_new - h)).sum(1, keepdims=True)
    du = du + (dc * (c_new - inner)).sum(1, keepdims=True)
    found = derivative(h, inner, u * dh, u * dc)
    assert found.dc is not None
    return StepGradient(
        dx=found.dx,
        dh=found.dh + (1 - u) * dh,
        dc=np.concatenate([found.dc + (1 - u) * dc, -(du + dp_sum * (1 - u) * adds)], axis=1),
        by={**found.by, "skip": np.concatenate([dlogit * h_next, dlogit], axis=1)},
    )
