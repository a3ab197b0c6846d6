# SPDX-License-Identifier: MIT
"""The derivatives of the cells in float64 NumPy: what every training kernel must compute.

Each ``*_step_backward`` is the derivative of the step of that name in ``reference.py``, written
beside its equations; it computes the step again, so that nothing but inputs is kept. ``d`` before
a letter is the gradient of the loss by it; ``a`` are pre-activations. Letters: N batch, T time,
I input, H hidden, G gates, K size of h, D directions.

Sources: Werbos 1990 (backpropagation through time); the chain rule on the equations of
``reference.py``. Finite differences guard all of it in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gruengine.reference import clamp, gru_step, lstm_step
from gruengine.reference_activations import Activation, Array, sigmoid


def derivative(f: Activation, a: Array) -> Array:
    """Return f'(a); where f has a corner, the derivative on the side that f's definition names."""
    alpha, beta = f.alpha, f.beta
    y: Array = f(a)
    if f.name == "Sigmoid":
        return np.asarray(y * (1 - y))
    if f.name == "Tanh":
        return 1 - y * y
    if f.name == "Relu":
        return (a > 0).astype(a.dtype)
    if f.name == "Affine":
        return np.full_like(a, alpha)
    if f.name == "LeakyRelu":
        return np.where(a >= 0, 1.0, alpha)
    if f.name == "ThresholdedRelu":
        return (a > alpha).astype(a.dtype)
    if f.name == "ScaledTanh":
        return alpha * beta * (1 - np.tanh(beta * a) ** 2)
    if f.name == "HardSigmoid":
        line = alpha * a + beta
        return np.where((line > 0) & (line < 1), alpha, 0.0)
    if f.name == "Elu":
        return np.where(a >= 0, 1.0, alpha * np.exp(np.minimum(a, 0)))
    if f.name == "Softsign":
        return 1 / (1 + np.abs(a)) ** 2
    return np.asarray(sigmoid(a))  # Softplus


def clamped(f: Activation, a: Array, clip: float) -> Array:
    """Return the derivative of ``f(clamp(a))`` by ``a``: none beyond the bound."""
    inside = np.abs(a) <= clip if clip > 0 else np.ones_like(a, bool)
    return np.where(inside, derivative(f, clamp(a, clip)), 0.0)


class StepGradient(NamedTuple):
    """The gradients of one step; a row belongs to a row of the batch.

    ``dx`` [N, I], ``dh`` [N, K] and ``dc`` [N, C] are those of what the step was given (``dc`` of a
    cell without a state c is None), ``by`` those of the operands by name: each ``[N, ...]`` with
    the shape of the operand, not yet summed over the rows.
    """

    dx: Array
    dh: Array
    dc: Array | None
    by: dict[str, Array]


def outer(a: Array, b: Array) -> Array:
    """Return ``a b'`` of each row: ``[N, n]`` and ``[N, k]`` give ``[N, n, k]``."""
    return np.asarray(a[:, :, None] * b[:, None, :])


def rnn_step_backward(
    x: Array, h: Array, W: Array, R: Array, b: Array, dh: Array, *, f: Activation, clip: float
) -> StepGradient:
    """Return the derivative of ``f(W x + b_W + R h + b_R)``, given ``dh`` [N, H] of it."""
    b_w, b_r = np.split(b, 2)
    da = dh * clamped(f, x @ W.T + b_w + h @ R.T + b_r, clip)
    by = {"W": outer(da, x), "R": outer(da, h), "B": np.concatenate([da, da], axis=1)}
    return StepGradient(da @ W, da @ R, None, by)


def lstm_step_backward(
    x: Array,
    h: Array,
    c: Array,
    W: Array,
    R: Array,
    b: Array,
    dh: Array,
    dc: Array,
    *,
    peepholes: Array | None,
    projection: Array | None,
    acts: Sequence[Activation],
    clip: float,
    coupled: bool,
) -> StepGradient:
    """Return the derivative of ``lstm_step`` given ``dh`` [N, K] of h' and ``dc`` [N, H] of c'.

    ::

        dm = projection' dh                    do = dm h_act(c')
        dc' = dc + dm o h_act'(c') + p_o da_o   (a_o sees the new cell)
        df = dc' c      di = dc' g (- df, if the forget gate is 1 - i)      dg = dc' i
        dc  = dc' f + p_i da_i + p_f da_f       (a_i and a_f see the old cell)
    """
    f, g, h_act = acts
    s = lstm_step(
        x, h, c, W, R, b, peepholes=peepholes, projection=projection,
        f=f, g=g, h_act=h_act, clip=clip, coupled=coupled,
    )  # fmt: skip
    b_w, b_r = np.split(b, 2)
    a_i, a_o, a_f, a_c = np.split(x @ W.T + b_w + h @ R.T + b_r, 4, axis=1)
    p_i, p_o, p_f = np.zeros((3, c.shape[1])) if peepholes is None else np.split(peepholes, 3)

    dm = dh if projection is None else dh @ projection
    da_o = dm * h_act(s.c) * clamped(f, a_o + p_o * s.c, clip)
    dc_new = dc + dm * s.o * derivative(h_act, s.c) + p_o * da_o
    df = dc_new * c
    di = dc_new * s.g - (df if coupled else 0)
    da_i = di * clamped(f, a_i + p_i * c, clip)
    da_f = np.zeros_like(df) if coupled else df * clamped(f, a_f + p_f * c, clip)
    da_c = dc_new * s.i * clamped(g, a_c, clip)
    da = np.concatenate([da_i, da_o, da_f, da_c], axis=1)
    by = {"W": outer(da, x), "R": outer(da, h), "B": np.concatenate([da, da], axis=1)}
    if peepholes is not None:
        by["P"] = np.concatenate([da_i * c, da_o * s.c, da_f * c], axis=1)
    if projection is not None:
        by["projection"] = outer(dh, s.m)
    return StepGradient(da @ W, da @ R, dc_new * s.f + p_i * da_i + p_f * da_f, by)


def gru_step_backward(
    x: Array,
    h: Array,
    W: Array,
    R: Array,
    b: Array,
    dh: Array,
    *,
    acts: Sequence[Activation],
    clip: float,
    reset: str,
    update: str,
) -> StepGradient:
    """Return the derivative of ``gru_step`` given ``dh`` [N, H] of h'.

    ::

        keep: dn = dh (1 - z), dz = dh (h - n), dh_old = dh z
        take: dn = dh z,       dz = dh (n - h), dh_old = dh (1 - z)
        reset after:  dr = da_n s, ds = da_n r        (s = R_h h + b_Rh)
        reset before: d(r h) = R_h' da_n, dr = d(r h) h, dh_old += d(r h) r
    """
    f, g = acts
    s = gru_step(x, h, W, R, b, f=f, g=g, clip=clip, reset=reset, update=update)
    b_w, b_r = np.split(b, 2)
    w_z, w_r, w_n = np.split(x @ W.T + b_w, 3, axis=1)
    r_z, r_r, _ = np.split(h @ R.T + b_r, 3, axis=1)
    R_z, R_r, R_n = np.split(R, 3)
    after = reset == "after"
    a_n = w_n + (s.r * s.s if after else (s.r * h) @ R_n.T + np.split(b_r, 3)[2])

    dn, dz, dh_old = (
        (dh * (1 - s.z), dh * (h - s.n), dh * s.z)
        if update == "keep"
        else (dh * s.z, dh * (s.n - h), dh * (1 - s.z))
    )
    da_n = dn * clamped(g, a_n, clip)
    da_z = dz * clamped(f, w_z + r_z, clip)
    if after:
        dr, ds = da_n * s.s, da_n * s.r
        dh_old = dh_old + ds @ R_n
    else:
        drh = da_n @ R_n
        dr, ds = drh * h, da_n
        dh_old = dh_old + drh * s.r
    da_r = dr * clamped(f, w_r + r_r, clip)
    a_w = np.concatenate([da_z, da_r, da_n], axis=1)
    a_r = np.concatenate([da_z, da_r, ds], axis=1)
    dR = [outer(da_z, h), outer(da_r, h), outer(ds, h if after else s.r * h)]
    by = {
        "W": outer(a_w, x),
        "R": np.concatenate(dR, axis=1),
        "B": np.concatenate([a_w, a_r], axis=1),
    }
    return StepGradient(a_w @ W, dh_old + da_z @ R_z + da_r @ R_r, None, by)
