# SPDX-License-Identifier: MIT
"""Backpropagation through time over whole sequences, in float64 NumPy.

The oracle of the training kernels: the same interface, one step and one derivative of
``reference_cell.py`` after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gruengine.reference_activations import Array
from gruengine.reference_cell import Cell, cells_of
from gruengine.reference_checks import (
    GATES,
    check_attributes,
    check_lengths,
    optional_operands,
    shaped,
)

#: The operands, in the order in which ``backward`` returns their gradients.
OPERANDS = ("W", "R", "B", "P", "projection", "gate_recurrence", "norm", "skip")


class Tape(NamedTuple):
    """What ``forward`` keeps: the inputs of every step, in [D] lists of [T] lists.

    ``keeps`` are the masks of zoneout by name, ``zero`` the rows of length 0.
    """

    x: Array
    cells: list[Cell]
    ends: Array
    h: list[list[Array]]
    c: list[list[Array]]
    keeps: dict[str, Array]
    zero: Array

    def kept(self, d: int, t: int) -> dict[str, Array]:
        """Return the masks of one step."""
        return {name: mask[d, t] for name, mask in self.keeps.items()}


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
        gate_recurrence: Array | None = None,
        norm: Array | None = None,
        skip: Array | None = None,
        recurrent_mask: Array | None = None,
        keep_h: Array | None = None,
        keep_c: Array | None = None,
    ) -> tuple[Array, Array, Array | None, Tape]:
        """Return ``y`` [T, N, D*K], ``h`` [D, N, K], ``c`` [D, N, C] (None if C = 0) and the tape.

        The arguments are those of :func:`gruengine.reference.recurrent`; ``recurrent_mask``
        [D, N, K] is what the recurrent products see of h, the same for all steps.
        """
        x, W, R = (np.asarray(a, np.float64) for a in (x, W, R))
        D, GH, K = R.shape
        T, N, _ = x.shape
        shaped("W", W, (D, GATES[self.cell] * self.hidden_size, self.input_size))
        given = {"P": P, "projection": projection, "gate_recurrence": gate_recurrence,
                 "norm": norm, "skip": skip, "recurrent_mask": recurrent_mask, "keep_h": keep_h,
                 "keep_c": keep_c}  # fmt: skip
        found = optional_operands(given, D=D, T=T, N=N, H=self.hidden_size, K=K)
        keeps: dict[str, Array] = {k: found.pop(k) for k in ("keep_h", "keep_c") if k in found}
        mask = found.pop("recurrent_mask", None)
        operands = {"W": W, "R": R, "B": shaped("B", B, (D, 2 * GH)), **found}
        cells = cells_of(self.attrs, operands, mask)
        ends, C = check_lengths(lengths, T, N), cells[0].state_size
        h, c = shaped("initial_h", h0, (D, N, K)).copy(), shaped("initial_c", c0, (D, N, C)).copy()
        y = np.zeros((T, D, N, K))
        zero = (ends == 0) if lengths is not None else np.zeros(N, bool)
        kept_h, kept_c = ([[state] * T for _ in cells] for state in (h, c))
        tape = Tape(x, cells, ends, kept_h, kept_c, keeps, zero)
        for d, cell in enumerate(cells):
            for t in self._order(d, T):
                active = (t < ends)[:, None]
                kept_h[d][t], kept_c[d][t] = h[d].copy(), c[d].copy()
                h_new, c_new = cell.step(x[t], h[d], c[d], **tape.kept(d, t))
                h[d], c[d] = np.where(active, h_new, h[d]), np.where(active, c_new, c[d])
                y[t, d] = np.where(active, h[d], 0)
        h[:, zero], c[:, zero] = 0, 0
        return y.transpose(0, 2, 1, 3).reshape(T, N, D * K), h, c if C else None, tape

    def backward(
        self,
        tape: Tape,
        dy: Array | None = None,
        dh: Array | None = None,
        dc: Array | None = None,
        input_gradient: bool = True,
    ) -> tuple[Any, ...]:
        """Return the gradients, each the shape of its letter; None where there is no such input.

        They are ``(dx, dW, dR, dB, dP, dprojection, dgate_recurrence, dnorm, dskip, dh0, dc0)``.

        Parameters
        ----------
        tape : what ``forward`` returned.
        dy, dh, dc : gradients of the outputs of ``forward``; None is zero.
        input_gradient : False: ``dx`` is None.
        """
        x, cells, ends = tape.x, tape.cells, tape.ends
        T, N, _ = x.shape
        D, C, K = len(cells), cells[0].state_size, cells[0].operands["R"].shape[1]
        dy = np.zeros((T, N, D * K)) if dy is None else np.asarray(dy, np.float64)
        by_direction = dy.reshape(T, N, D, K)
        keep = ~tape.zero[None, :, None]
        dh0 = shaped("dh", dh, (D, N, K)) * keep
        dc0 = shaped("dc", dc, (D, N, C)) * keep
        dx = np.zeros_like(x)
        sums = {k: np.zeros((D, *v.shape)) for k, v in cells[0].operands.items()}
        cost = float(self.attrs.get("skip_cost", 0.0)) / max(N, 1)
        for d, cell in enumerate(cells):
            for t in reversed(self._order(d, T)):
                active = (t < ends)[:, None]
                dh_t = np.where(active, by_direction[t, :, d] + dh0[d], 0)
                dc_t = np.where(active, dc0[d], 0)
                step = cell.backward(
                    x[t], tape.h[d][t], tape.c[d][t], dh_t, dc_t, **tape.kept(d, t),
                    update_cost=cost,
                )  # fmt: skip
                for key, value in step.by.items():
                    sums[key][d] += value.sum(0)
                dx[t] += step.dx
                dh0[d] = np.where(active, step.dh, dh0[d])
                dc0[d] = np.where(active, step.dc, dc0[d])
        found = [sums.get(key) for key in OPERANDS]
        return dx if input_gradient else None, *found, dh0, dc0 if C else None
