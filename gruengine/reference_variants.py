# SPDX-License-Identifier: MIT
"""What may surround a recurrent cell, in float64 NumPy; beside ``reference.py``.

Letters as there; C is the size of the state c: H of an LSTM (else 0), 3 * H more where gates feed
gates, 1 more where steps are skipped.

Sources: Greff et al. 2017, "LSTM: a search space odyssey" (full gate recurrence); Ba et al. 2016,
"Layer normalization", supplement, equations 20 to 22; Krueger et al. 2016, "Zoneout"; Campos et
al. 2018, "Skip RNN".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gruengine.reference_activations import Array, sigmoid
from gruengine.reference_product import product

# One step of one direction: x, h, c to the new h and c.
Stepper = Callable[[Array, Array, Array], tuple[Array, Array]]


class Variant(NamedTuple):
    """What surrounds the cell of one direction.

    ``gate_recurrence`` [3 * H, 3 * H], ``norm`` [10 * H] and ``skip`` [K + 1] are absent or
    weights; ``zoneout`` has the shares of h and c that are kept.
    """

    gate_recurrence: Array | None = None
    norm: Array | None = None
    epsilon: float = 1e-5
    skip: Array | None = None
    zoneout: tuple[float, float] = (0.0, 0.0)

    @property
    def by_rows(self) -> bool:
        """Whether the cell is :func:`lstm_row_step`."""
        return self.gate_recurrence is not None or self.norm is not None


def variant_of(operands: Mapping[str, Array], zoneout: Sequence[float], epsilon: float) -> Variant:
    """Return what the operands and attributes of one direction say."""
    return Variant(
        operands.get("gate_recurrence"), operands.get("norm"), epsilon, operands.get("skip"),
        (zoneout[0], zoneout[1]),
    )  # fmt: skip


class LstmRowStep(NamedTuple):
    """The gates, the candidate g, the cell c, the output m before the projection, h [N, K]."""

    h: Array
    c: Array
    i: Array
    o: Array
    f: Array
    g: Array
    m: Array


def normalise(v: Array, epsilon: float) -> Array:
    """Return ``(v - mean) / sqrt(variance + epsilon)`` over the last axis."""
    centred = v - v.mean(-1, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon))


def lstm_row_step(
    x: Array,
    h: Array,
    c: Array,
    W: Array,
    R: Array,
    b: Array,
    variant: Variant,
    peepholes: Array | None = None,
    projection: Array | None = None,
) -> LstmRowStep:
    """One step of an LSTM with full gate recurrence or layer normalisation.

    With n the normalisation over all of its vector, gates u = [i, o, f] of the step before::

        a  = W x + R h + b, or gain_x n(W x) + gain_h n(R h) + b
        a_i, a_o, a_f += F u
        i  = sigmoid(a_i + p_i c)    f = sigmoid(a_f + p_f c)
        c' = f c + i tanh(a_c)       o = sigmoid(a_o + p_o c')
        h' = projection (o tanh(c')), or with tanh(gain_c n(c') + shift_c)

    Parameters
    ----------
    x : [N, I]
    h : [N, K]
    c : [N, C], the cell and, with full gate recurrence, the gates u.
    W, R, b, peepholes, projection : as of ``reference.lstm_step``.
    variant : ``norm`` is gain_x, gain_h [4 * H each], gain_c, shift_c.
    """
    b_w, b_r = np.split(b, 2)
    H = len(b_w) // 4
    c, u = c[:, :H], c[:, H : 4 * H]
    if variant.norm is None:
        a = product(x, W) + product(h, R) + b_w + b_r
    else:
        gain_x, gain_h, gain_c, shift_c = np.split(variant.norm, [4 * H, 8 * H, 9 * H])
        epsilon = variant.epsilon
        a_x, a_h = normalise(product(x, W), epsilon), normalise(product(h, R), epsilon)
        a = gain_x * a_x + gain_h * a_h + b_w + b_r
    if variant.gate_recurrence is not None:
        a = a + np.pad(product(u, variant.gate_recurrence), ((0, 0), (0, H)))
    a_i, a_o, a_f, a_c = np.split(a, 4, axis=1)
    p_i, p_o, p_f = (0.0, 0.0, 0.0) if peepholes is None else np.split(peepholes, 3)
    i, f, g = sigmoid(a_i + p_i * c), sigmoid(a_f + p_f * c), np.tanh(a_c)
    c = f * c + i * g
    o = sigmoid(a_o + p_o * c)
    out = c if variant.norm is None else gain_c * normalise(c, variant.epsilon) + shift_c
    m = o * np.tanh(out)
    return LstmRowStep(m if projection is None else product(m, projection), c, i, o, f, g, m)


def lstm_row_stepper(
    W: Array, R: Array, b: Array, P: Array | None, projection: Array | None, variant: Variant
) -> Stepper:
    """Return the step of one direction, its weights bound."""

    def step(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        s = lstm_row_step(x, h, c, W, R, b, variant, P, projection)
        kept = [s.c] if variant.gate_recurrence is None else [s.c, s.i, s.o, s.f]
        return s.h, np.concatenate(kept, axis=1)

    return step


def surrounded(
    step: Stepper,
    variant: Variant,
    H: int,
    keep_h: Array | None = None,
    keep_c: Array | None = None,
) -> Stepper:
    """Return ``step`` with zoneout or skipping around it.

    Zoneout: ``s' = k s + (1 - k) S(s, x)`` for h and the cell, k a mask or the share of the
    units that are kept. Skipping, with the last element of c being ``1 - p~``::

        u   = 1 where p~ >= 1/2, else 0          s'  = u S(s, x) + (1 - u) s
        p   = sigmoid(w h' + b)                  p~' = u p + (1 - u) (p~ + min(p, 1 - p~))

    Parameters
    ----------
    keep_h, keep_c : [N, K], [N, H]; masks in place of the shares of ``variant``.
    """
    if variant.skip is not None:
        return _skipping(step, variant.skip)
    share_h, share_c = variant.zoneout
    k_h = share_h if keep_h is None else keep_h
    k_c = share_c if keep_c is None else keep_c

    def zoned(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        h_new, c_new = step(x, h, c)
        cell = k_c * c[:, :H] + (1 - k_c) * c_new[:, :H]
        return k_h * h + (1 - k_h) * h_new, np.concatenate([cell, c_new[:, H:]], axis=1)

    return zoned


def _skipping(step: Stepper, skip: Array) -> Stepper:
    def skipped(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        inner, left = c[:, :-1], c[:, -1:]
        u = left <= 0.5
        h_new, c_new = step(x, h, inner)
        h_new, c_new = np.where(u, h_new, h), np.where(u, c_new, inner)
        p = sigmoid(h_new @ skip[:-1, None] + skip[-1])
        after = np.where(u, 1 - p, left - np.minimum(p, left))
        return h_new, np.concatenate([c_new, after], axis=1)

    return skipped
