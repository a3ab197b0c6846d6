# SPDX-License-Identifier: MIT
"""Connectionist temporal classification (Graves et al. 2006), in the space of logarithms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gruengine.errors import InvalidInputError
from gruengine.losses import Loss
from gruengine.training_ops import log_softmax

Array = np.ndarray[Any, Any]


class CTC(Loss):
    """The negative log probability of label sequences under all their alignments.

    Predictions are logits ``[T, N, C]``, time first; targets are N sequences of labels, or
    ``[N, S]`` integers padded with ``-1``. The value is the mean over the batch of each row's
    loss, divided by its number of labels (PyTorch's ``"mean"``).

    Parameters
    ----------
    blank : int
        The label that stands for none.
    zero_infinity : bool
        A row too short for its labels counts as zero, without a gradient, instead of infinity.
    """

    activation = "softmax"
    time_first = True

    def __init__(self, blank: int = 0, *, zero_infinity: bool = False) -> None:
        self.blank, self.zero_infinity = int(blank), bool(zero_infinity)

    def __call__(
        self, y: Array, target: Array | Sequence[Any], mask: Array | None = None
    ) -> tuple[float, Array]:
        """Return the value and the gradient by ``y``; ``mask`` ``[T, N]`` gives the lengths."""
        if y.ndim != 3:
            raise InvalidInputError(f"predictions have shape {y.shape}; CTC needs [T, N, C]")
        T, N, C = y.shape
        lengths = np.full(N, T) if mask is None else (np.asarray(mask) != 0).sum(0)
        labels = self._labels(target, N, C)
        logs = log_softmax(y.astype(np.float64))
        value, gradient = 0.0, np.zeros(y.shape)
        for n, (row, steps) in enumerate(zip(labels, lengths, strict=True)):
            loss, occupied = ctc_row(logs[:steps, n], row, self.blank)
            share = 1 / (N * max(len(row), 1))
            if not np.isfinite(loss) and self.zero_infinity:
                continue
            value += loss * share
            gradient[:steps, n] = (np.exp(logs[:steps, n]) - occupied) * share
        return value, gradient.astype(y.dtype)

    def weight(self, y: Array, target: Any, mask: Array | None) -> float:
        """See Loss; the value is a mean over rows."""
        return float(y.shape[1])

    def _labels(self, target: Any, N: int, C: int) -> list[Array]:
        rows = [np.asarray(row) for row in target]
        if len(rows) != N:
            raise InvalidInputError(f"{len(rows)} label sequences for a batch of {N}")
        found = []
        for row in rows:
            row = row.reshape(-1)
            row = row[row != -1].astype(np.int64)
            if row.size and (row.min() < 0 or row.max() >= C or (row == self.blank).any()):
                raise InvalidInputError(
                    f"labels are {row.tolist()}; allowed: 0 to {C - 1} without the blank "
                    f"{self.blank}"
                )
            found.append(row)
        return found


def ctc_row(logs: Array, labels: Array, blank: int) -> tuple[float, Array]:
    """Return the loss of one row and ``[T, C]``, how likely each label is at each step.

    Parameters
    ----------
    logs : [T, C], logarithms of probabilities.
    labels : [S], without blanks.
    blank : the label between labels.
    """
    T, C = logs.shape
    path = np.full(2 * len(labels) + 1, blank)
    path[1::2] = labels
    L = len(path)
    # A label may be reached from two before it, unless that is the same label or a blank.
    skips = np.zeros(L, bool)
    skips[2:] = (path[2:] != blank) & (path[2:] != path[:-2])
    if T == 0:
        return (0.0 if L == 1 else np.inf), np.zeros((0, C))
    at = logs[:, path]
    with np.errstate(invalid="ignore"):
        alpha = _sweep(at, skips)
        # Backwards the same recursion runs over the reversed path.
        back = np.zeros(L, bool)
        back[2:] = skips[::-1][: L - 2] if L > 2 else back[2:]
        beta = _sweep(at[::-1, ::-1], back)[::-1, ::-1]
        total = np.logaddexp(alpha[-1, -1], alpha[-1, -2] if L > 1 else -np.inf)
        if not np.isfinite(total):
            return np.inf, np.full((T, C), np.nan)
        occupied = np.exp(alpha + beta - at - total)
    found = np.zeros((T, C))
    for place, label in enumerate(path):
        found[:, label] += np.where(np.isfinite(at[:, place]), occupied[:, place], 0)
    return -float(total), found


def _sweep(at: Array, skips: Array) -> Array:
    """Return ``[T, L]``: log probability of all that ends at each place of the path."""
    T, L = at.shape
    alpha = np.full((T, L), -np.inf)
    alpha[0, : min(2, L)] = at[0, : min(2, L)]
    for t in range(1, T):
        before = alpha[t - 1]
        reach = before.copy()
        reach[1:] = np.logaddexp(reach[1:], before[:-1])
        reach[2:] = np.where(skips[2:], np.logaddexp(reach[2:], before[:-2]), reach[2:])
        alpha[t] = reach + at[t]
    return alpha
