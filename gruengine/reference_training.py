# SPDX-License-Identifier: MIT
"""Backpropagation through time over whole sequences, in float64 NumPy.

The oracle of the training kernels: the same interface, the steps of ``reference.py`` and the
derivatives of ``reference_backward.py``, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gruengine.reference_activations import Array
from gruengine.reference_backward import Cell, StepGradient, cells_of
from gruengine.reference_checks import GATES, check_attributes, check_lengths, shaped


class Tape(NamedTuple):
    """What ``forward`` keeps: the inputs of every step; [D] lists of [T] lists."""

    x: Array
    cells: list[Cell]
    ends: Array
    h: list[list[Array]]
    c: list[list[Array]]
    zero: Array


class RecurrentTraining:
    """Forward and backward of a ``Recurrent`` node; the interface of the engine's own.

    Parameters
    ----------
    attrs : mapping
        The attributes of the node.
    input_size, hidden_size : int
        I and H.
    num_threads : int
        Not used.
    """

    def __init__(
        self, attrs: Mapping[str, Any], input_size: int, hidden_size: int, num_threads: int = 1
    ) -> None:
        self.attrs, self.input_size, self.hidden_size = dict(attrs), input_size, hidden_size
        self.cell = str(attrs["cell"])
        self.direction = str(attrs.get("direction", "forward"))
        check_attributes(
            self.cell, self.direction, str(attrs.get("reset", "after")),
            str(attrs.get("update", "keep")), float(attrs.get("clip", 0.0)),
        )  # fmt: skip

    def _order(self, d: int, T: int) -> Sequence[int]:
        backwards = self.direction == "reverse" or d == 1
        return range(T - 1, -1, -1) if backwards else range(T)

    def forward(
        self,
        x: Array,
        W: Array,
        R: Array,
        B: Array | None = None,
        P: Array | None = None,
        projection: Array | None = None,
        h0: Array | None = None,
        c0: Array | None = None,
        lengths: Array | None = None,
    ) -> tuple[Array, Array, Array | None, Tape]:
        """Return ``y`` [T, N, D*K], ``h`` [D, N, K], ``c`` [D, N, H] (LSTM) and the tape.

        The arguments are those of :func:`gruengine.reference.recurrent`.
        """
        x, W, R = (np.asarray(a, np.float64) for a in (x, W, R))
        D, GH, K = R.shape
        T, N, _ = x.shape
        H = self.hidden_size
        shaped("W", W, (D, GATES[self.cell] * H, self.input_size))
        cells = cells_of(
            self.attrs, W, R, shaped("B", B, (D, 2 * GH)),
            None if P is None else shaped("P", P, (D, 3 * H)),
            None if projection is None else shaped("projection", projection, (D, K, H)),
        )  # fmt: skip
        ends = check_lengths(lengths, T, N)
        h, c = shaped("initial_h", h0, (D, N, K)).copy(), shaped("initial_c", c0, (D, N, H)).copy()
        y = np.zeros((T, D, N, K))
        kept_h: list[list[Array]] = [[h] * T for _ in range(D)]
        kept_c: list[list[Array]] = [[c] * T for _ in range(D)]
        for d, cell in enumerate(cells):
            for t in self._order(d, T):
                active = (t < ends)[:, None]
                kept_h[d][t], kept_c[d][t] = h[d].copy(), c[d].copy()
                h_new, c_new = cell.step(x[t], h[d], c[d])
                h[d], c[d] = np.where(active, h_new, h[d]), np.where(active, c_new, c[d])
                y[t, d] = np.where(active, h[d], 0)
        zero = (ends == 0) if lengths is not None else np.zeros(N, bool)
        h[:, zero], c[:, zero] = 0, 0
        tape = Tape(x, cells, ends, kept_h, kept_c, zero)
        flat = y.transpose(0, 2, 1, 3).reshape(T, N, D * K)
        return flat, h, c if self.cell == "lstm" else None, tape

    def backward(
        self,
        tape: Tape,
        dy: Array | None = None,
        dh: Array | None = None,
        dc: Array | None = None,
        input_gradient: bool = True,
    ) -> tuple[Any, ...]:
        """Return ``(dx, dW, dR, dB, dP, dprojection, dh0, dc0)``, each the shape of its letter.

        Parameters
        ----------
        tape : what ``forward`` returned.
        dy, dh, dc : gradients of the outputs of ``forward``; None is zero.
        input_gradient : False: ``dx`` is None.
        """
        x, cells, ends = tape.x, tape.cells, tape.ends
        T, N, _ = x.shape
        D, H, K = len(cells), self.hidden_size, cells[0].R.shape[1]
        dy = np.zeros((T, N, D * K)) if dy is None else np.asarray(dy, np.float64)
        by_direction = dy.reshape(T, N, D, K)
        keep = ~tape.zero[None, :, None]
        dh0 = shaped("dh", dh, (D, N, K)) * keep
        dc0 = shaped("dc", dc, (D, N, H)) * keep
        dx = np.zeros_like(x)
        sums = [_Sums(cell) for cell in cells]
        for d, cell in enumerate(cells):
            for t in reversed(self._order(d, T)):
                active = (t < ends)[:, None]
                dh_t = np.where(active, by_direction[t, :, d] + dh0[d], 0)
                dc_t = np.where(active, dc0[d], 0)
                step = cell.backward(x[t], tape.h[d][t], tape.c[d][t], dh_t, dc_t)
                sums[d].add(x[t], dh_t, step)
                dx[t] += step.dx
                dh0[d] = np.where(active, step.dh, dh0[d])
                if step.dc is not None:
                    dc0[d] = np.where(active, step.dc, dc0[d])
        dW, dR, dB, dP, dprojection = (
            None if getattr(sums[0], key) is None else np.stack([getattr(s, key) for s in sums])
            for key in ("dW", "dR", "dB", "dP", "dprojection")
        )
        gradient_c = dc0 if self.cell == "lstm" else None
        return dx if input_gradient else None, dW, dR, dB, dP, dprojection, dh0, gradient_c


class _Sums:
    """The gradients of one direction's parameters, summed over time and batch."""

    def __init__(self, cell: Cell) -> None:
        self.dW, self.dR = np.zeros_like(cell.W), np.zeros_like(cell.R)
        self.dB = np.zeros_like(cell.b)
        self.dP = None if cell.P is None else np.zeros_like(cell.P)
        self.dprojection = None if cell.projection is None else np.zeros_like(cell.projection)

    def add(self, x: Array, dh: Array, step: StepGradient) -> None:
        """Add one step, whose output had the gradient ``dh``."""
        N, G, K = step.fed.shape
        self.dW += step.a_w.T @ x
        a_r = step.a_r.reshape(N, G, -1)
        self.dR += np.einsum("ngh,ngk->ghk", a_r, step.fed).reshape(-1, K)
        self.dB += np.concatenate([step.a_w.sum(0), step.a_r.sum(0)])
        if self.dP is not None and step.dP is not None:
            self.dP += step.dP.sum(0)
        if self.dprojection is not None and step.m is not None:
            self.dprojection += dh.T @ step.m
