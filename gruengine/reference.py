# SPDX-License-Identifier: MIT
"""Recurrent networks in float64 NumPy: what every kernel of the engine must compute.

Letters: N batch, T time, I input, H hidden, G gates, K size of the output h (H, or the size of a
projection), D directions. Gates stand in the rows of the weights in the order of ONNX:
RNN ``h``; LSTM ``i, o, f, c``; GRU ``z, r, h``. Every step returns all that its derivative needs.

Sources: the RNN, LSTM and GRU operators of ONNX; Elman 1990 (simple RNN); Hochreiter and
Schmidhuber 1997, Gers and Schmidhuber 2000 (LSTM, peepholes); Greff et al. 2017 (coupled gates);
Sak et al. 2014 (projection); Cho et al. 2014, Chung et al. 2014 (GRU).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gruengine.errors import InvalidInputError
from gruengine.reference_activations import ACTIVATIONS, SIGMOID, TANH, Activation, Array
from gruengine.reference_checks import (
    GATES,
    check_attributes,
    check_lengths,
    check_lstm_only,
    optional_operands,
    shaped,
    state_size,
)
from gruengine.reference_product import product
from gruengine.reference_variants import Stepper, Variant, lstm_row_stepper, surrounded, variant_of

# -- cells ----------------------------------------------------------------------------------------


class RnnStep(NamedTuple):
    """A step of a simple RNN. ``h`` [N, H] is the new state."""

    h: Array


class LstmStep(NamedTuple):
    """A step of an LSTM: the new output ``h`` [N, K] and cell ``c`` [N, H].

    ``i``, ``o``, ``f`` are the gates and ``g`` the candidate, ``m`` the output before the
    projection, all [N, H].
    """

    h: Array
    c: Array
    i: Array
    o: Array
    f: Array
    g: Array
    m: Array


class GruStep(NamedTuple):
    """A step of a GRU: the new state ``h``, the gates ``z`` and ``r``, the candidate ``n``.

    ``s`` is what the reset gate multiplies and is then fed from: ``R_h h + b_h`` if the reset
    comes after the product, the old ``h`` if before. All [N, H].
    """

    h: Array
    z: Array
    r: Array
    n: Array
    s: Array


def clamp(a: Array, clip: float) -> Array:
    """Clamp pre-activations to [-clip, clip]; a clip of 0 leaves them as they are."""
    return np.clip(a, -clip, clip) if clip > 0 else a


def rnn_step(
    x: Array, h: Array, W: Array, R: Array, b: Array, *, f: Activation = TANH, clip: float = 0.0
) -> RnnStep:
    """One step of a simple (Elman) RNN: ``h' = f(W x + b_W + R h + b_R)``.

    Parameters
    ----------
    x : [N, I]
    h : [N, H]
    W : [H, I]
    R : [H, H]
    b : [2 * H], the bias of the input product, then that of the recurrent product.
    f : activation.
    clip : bound of the pre-activation, 0 for none.
    """
    b_w, b_r = np.split(b, 2)
    return RnnStep(f(clamp(product(x, W) + b_w + product(h, R) + b_r, clip)))


def lstm_step(
    x: Array,
    h: Array,
    c: Array,
    W: Array,
    R: Array,
    b: Array,
    *,
    peepholes: Array | None = None,
    projection: Array | None = None,
    f: Activation = SIGMOID,
    g: Activation = TANH,
    h_act: Activation = TANH,
    clip: float = 0.0,
    coupled: bool = False,
) -> LstmStep:
    """One step of an LSTM (ONNX operator LSTM; projection of Sak et al. 2014).

    With ``a`` the rows of ``W x + b_W + R h + b_R``::

        i  = f(a_i + p_i c)            f_ = f(a_f + p_f c), or 1 - i if coupled
        c' = f_ c + i g(a_c)           o  = f(a_o + p_o c')
        h' = projection (o h_act(c'))

    Parameters
    ----------
    x : [N, I]
    h : [N, K]
    c : [N, H]
    W : [4 * H, I], rows i, o, f, c.
    R : [4 * H, K]
    b : [8 * H], the biases of the input product, then those of the recurrent product.
    peepholes : [3 * H] in the order i, o, f, or none.
    projection : [K, H], or none (K = H).
    f, g, h_act : activations of the gates, the candidate and the output.
    clip : bound of what f and g are given, 0 for none. The cell given to h_act is not clamped.
    coupled : the forget gate is 1 - i and its weights are not used.
    """
    b_w, b_r = np.split(b, 2)
    a_i, a_o, a_f, a_c = np.split(product(x, W) + b_w + product(h, R) + b_r, 4, axis=1)
    p_i, p_o, p_f = (0.0, 0.0, 0.0) if peepholes is None else np.split(peepholes, 3)
    i = f(clamp(a_i + p_i * c, clip))
    forget = 1 - i if coupled else f(clamp(a_f + p_f * c, clip))
    candidate = g(clamp(a_c, clip))
    c_new = forget * c + i * candidate
    o = f(clamp(a_o + p_o * c_new, clip))
    m = o * h_act(c_new)
    h_new = m if projection is None else product(m, projection)
    return LstmStep(h_new, c_new, i, o, forget, candidate, m)


def gru_step(
    x: Array,
    h: Array,
    W: Array,
    R: Array,
    b: Array,
    *,
    f: Activation = SIGMOID,
    g: Activation = TANH,
    clip: float = 0.0,
    reset: str = "after",
    update: str = "keep",
) -> GruStep:
    """One step of a GRU (ONNX operator GRU; Cho et al. 2014, Chung et al. 2014).

    ::

        z = f(W_z x + b_Wz + R_z h + b_Rz)      r = f(W_r x + b_Wr + R_r h + b_Rr)
        n = g(W_h x + b_Wh + r (R_h h + b_Rh))  reset "after" (cuDNN, PyTorch, Keras 3)
        n = g(W_h x + b_Wh + R_h (r h) + b_Rh)  reset "before" (Cho et al.)
        h' = (1 - z) n + z h                    update "keep" (Cho et al.)
        h' = (1 - z) h + z n                    update "take" (Chung et al.)

    Parameters
    ----------
    x : [N, I]
    h : [N, H]
    W : [3 * H, I], rows z, r, h.
    R : [3 * H, H]
    b : [6 * H], the biases of the input product, then those of the recurrent product.
    f, g : activations of the gates and the candidate.
    clip : bound of the pre-activations, 0 for none.
    reset, update : as above.
    """
    b_w, b_r = np.split(b, 2)
    w_z, w_r, w_n = np.split(product(x, W) + b_w, 3, axis=1)
    R_z, R_r, R_n = np.split(R, 3)
    b_z, b_rr, b_n = np.split(b_r, 3)
    z = f(clamp(w_z + product(h, R_z) + b_z, clip))
    r = f(clamp(w_r + product(h, R_r) + b_rr, clip))
    s = product(h, R_n) + b_n if reset == "after" else h
    recurrent_n = r * s if reset == "after" else product(r * s, R_n) + b_n
    n = g(clamp(w_n + recurrent_n, clip))
    h_new = (1 - z) * n + z * h if update == "keep" else (1 - z) * h + z * n
    return GruStep(h_new, z, r, n, s)


# -- the Recurrent operator -----------------------------------------------------------------------

DEFAULT_ACTIVATIONS = {
    "rnn": ("Tanh",),
    "lstm": ("Sigmoid", "Tanh", "Tanh"),
    "gru": ("Sigmoid", "Tanh"),
}


def recurrent(
    x: Array,
    W: Array,
    R: Array,
    B: Array | None = None,
    lengths: Array | None = None,
    initial_h: Array | None = None,
    initial_c: Array | None = None,
    P: Array | None = None,
    projection: Array | None = None,
    gate_recurrence: Array | None = None,
    norm: Array | None = None,
    skip: Array | None = None,
    *,
    cell: str,
    hidden_size: int,
    direction: str = "forward",
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float = 0.0,
    coupled: int = 0,
    reset: str = "after",
    update: str = "keep",
    zoneout: Sequence[float] = (0.0, 0.0),
    norm_epsilon: float = 1e-5,
    keep_h: Array | None = None,
    keep_c: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Run a recurrent layer over sequences: the Recurrent operator of the engine.

    Parameters
    ----------
    x : [T, N, I]
    W : [D, G * H, I]
    R : [D, G * H, K]
    B : [D, 2 * G * H], biases of the input product, then of the recurrent one; zeros if absent.
    lengths : [N], integers from 0 to T; all T if absent.
    initial_h : [D, N, K], zeros if absent.
    initial_c : [D, N, C], zeros if absent; where C > 0 only.
    P : [D, 3 * H], peepholes i, o, f; LSTM only.
    projection : [D, K, H]; LSTM only. Without it K = H.
    gate_recurrence : [D, 3 * H, 3 * H]; norm : [D, 10 * H]; skip : [D, K + 1]
        See ``reference_variants.py``; the first two are an LSTM's.
    cell : ``"rnn"``, ``"lstm"`` or ``"gru"``.
    hidden_size : H.
    direction : ``"forward"``, ``"reverse"`` or ``"bidirectional"`` (D = 2).
    activations : D times the activations of the cell (RNN f; LSTM f, g, h; GRU f, g).
    activation_alpha, activation_beta : one number for each activation.
    clip, coupled, reset, update : see the step of the cell.
    zoneout, norm_epsilon : see ``reference_variants.py``.
    keep_h, keep_c : [D, T, N, K], [D, T, N, H], the masks of zoneout in training.

    Returns
    -------
    Y : [T, D, N, K] in the order of time; zero from each length on.
    Y_h : [D, N, K], the output after the last step of each sequence; zero if its length is 0.
    Y_c : [D, N, C], the same of the cell; [D, N, H] zeros where C is 0.

    Raises
    ------
    InvalidInputError
        If a shape, a length or an attribute does not fit.
    """
    D = 2 if direction == "bidirectional" else 1
    x, W, R = (np.asarray(a, np.float64) for a in (x, W, R))
    H, K = hidden_size, R.shape[-1]
    check_attributes(cell, direction, reset, update, clip)
    if x.ndim != 3:
        raise InvalidInputError(f"Recurrent: X has shape {x.shape}; it must be [T, N, I]")
    T, N = x.shape[:2]
    G = GATES[cell]
    C = state_size(cell, H, gate_recurrence is not None, skip is not None)
    check_lstm_only(
        cell, initial_c=initial_c if skip is None else None, P=P, projection=projection,
        gate_recurrence=gate_recurrence, norm=norm,
    )  # fmt: skip
    if projection is None and K != H:
        raise InvalidInputError(
            f"Recurrent: R has {K} columns; without a projection it must have {H}"
        )
    shaped("W", W, (D, G * H, x.shape[2]))
    shaped("R", R, (D, G * H, K))
    B = shaped("B", B, (D, 2 * G * H))
    h0 = shaped("initial_h", initial_h, (D, N, K))
    c0 = shaped("initial_c", initial_c, (D, N, C or H))
    given = {"gate_recurrence": gate_recurrence, "norm": norm, "skip": skip, "keep_h": keep_h,
             "keep_c": keep_c, "P": P, "projection": projection}  # fmt: skip
    found = optional_operands(given, D=D, T=T, N=N, H=H, K=K)
    ends = check_lengths(lengths, T, N)
    acts = activations_of(cell, D, activations, activation_alpha, activation_beta)

    Y = np.zeros((T, D, N, K))
    Y_h, Y_c = np.zeros((D, N, K)), np.zeros((D, N, C or H))
    for d in range(D):
        own = {name: array[d] for name, array in found.items()}
        variant = variant_of(own, zoneout, norm_epsilon)
        step = stepper(
            cell, W[d], R[d], B[d], own.get("P"), own.get("projection"), acts[d], clip,
            bool(coupled), reset, update, variant,
        )  # fmt: skip
        masks = [[own[n][t] if n in own else None for n in ("keep_h", "keep_c")] for t in range(T)]
        steps = [surrounded(step, variant, H, *pair) for pair in masks]
        backwards = direction == "reverse" or d == 1
        Y[:, d], Y_h[d], Y_c[d] = _run_direction(steps, x, h0[d], c0[d], ends, backwards)
    if lengths is not None:
        Y_h[:, ends == 0] = 0
        Y_c[:, ends == 0] = 0
    return Y, Y_h, Y_c


def stepper(
    cell: str,
    W: Array,
    R: Array,
    b: Array,
    P: Array | None,
    projection: Array | None,
    acts: Sequence[Activation],
    clip: float,
    coupled: bool,
    reset: str,
    update: str,
    variant: Variant = Variant(),  # noqa: B008
) -> Stepper:
    """Return the step of one direction, its weights bound; nothing surrounds it yet."""
    if variant.by_rows:
        return lstm_row_stepper(W, R, b, P, projection, variant)

    def rnn(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        return rnn_step(x, h, W, R, b, f=acts[0], clip=clip).h, c

    def lstm(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        f, g, h_act = acts
        s = lstm_step(
            x, h, c, W, R, b, peepholes=P, projection=projection,
            f=f, g=g, h_act=h_act, clip=clip, coupled=coupled,
        )  # fmt: skip
        return s.h, s.c

    def gru(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        f, g = acts
        return gru_step(x, h, W, R, b, f=f, g=g, clip=clip, reset=reset, update=update).h, c

    return {"rnn": rnn, "lstm": lstm, "gru": gru}[cell]


def _run_direction(
    steps: Sequence[Stepper], x: Array, h: Array, c: Array, ends: Array, backwards: bool
) -> tuple[Array, Array, Array]:
    """Run one direction; row n takes part in the steps t < ends[n] alone."""
    T, N, _ = x.shape
    Y = np.zeros((T, N, h.shape[1]))
    for t in reversed(range(T)) if backwards else range(T):
        active = (t < ends)[:, None]
        h_new, c_new = steps[t](x[t], h, c)
        h, c = np.where(active, h_new, h), np.where(active, c_new, c)
        Y[t] = np.where(active, h, 0)
    return Y, h, c


def activations_of(
    cell: str,
    D: int,
    names: Sequence[str] | None,
    alpha: Sequence[float] | None,
    beta: Sequence[float] | None,
) -> list[list[Activation]]:
    """Return the activations of each direction."""
    per_direction = len(DEFAULT_ACTIVATIONS[cell])
    count = D * per_direction
    names = DEFAULT_ACTIVATIONS[cell] * D if names is None else names
    alpha = [0.0] * count if alpha is None else alpha
    beta = [0.0] * count if beta is None else beta
    if not len(names) == len(alpha) == len(beta) == count:
        raise InvalidInputError(
            f"Recurrent: {len(names)} activations, {len(alpha)} alphas, {len(beta)} betas; "
            f"a cell {cell!r} with {D} direction(s) needs {count} of each"
        )
    for name in names:
        if name not in ACTIVATIONS:
            raise InvalidInputError(
                f"Recurrent: activation is {name!r}; it must be one of {tuple(ACTIVATIONS)}"
            )
    flat = [Activation(n, a, b) for n, a, b in zip(names, alpha, beta, strict=True)]
    return [flat[d * per_direction : (d + 1) * per_direction] for d in range(D)]
