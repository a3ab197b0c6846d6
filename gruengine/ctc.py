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
        lengths = np.full(N, T) if mask is None else _lengths_of(np.asarray(mask), T, N)
        labels = self._labels(target, N, C)
        logs = log_softmax(y.astype(np.float64))
        losses, occupied = ctc_rows(logs, labels, lengths, self.blank)
        shares = np.array([1 / (N * max(len(row), 1)) for row in labels])
        if self.zero_infinity:
            shares[np.isinf(losses)] = 0
            losses[np.isinf(losses)] = 0
        counts = (np.arange(T)[:, None] < lengths) & (shares != 0)
        slopes = np.where(counts[..., None], np.exp(logs) - occupied, 0) * shares[:, None]
        return float(losses @ shares), slopes.astype(y.dtype)

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


def _lengths_of(mask: Array, T: int, N: int) -> Array:
    """Return how many steps of each row a mask ``[T, N]`` keeps: the first ones."""
    if mask.shape != (T, N):
        raise InvalidInputError(f"mask has shape {mask.shape}; it must be {(T, N)}")
    lengths: Array = (mask != 0).sum(0)
    if ((mask != 0) != (np.arange(T)[:, None] < lengths)).any():
        raise InvalidInputError("the mask of CTC must keep the first steps of each row, no others")
    return lengths


def ctc_rows(
    logs: Array, labels: Sequence[Array], lengths: Array, blank: int
) -> tuple[Array, Array]:
    """Return the loss of each row ``[N]``, and ``[T, N, C]``: how likely each label is at a step.

    A row that cannot be aligned has an infinite loss, and NaN.

    Parameters
    ----------
    logs : [T, N, C], logarithms of probabilities.
    labels : of each row, without blanks.
    lengths : [N], steps of each row.
    blank : the label between labels.
    """
    T, N, C = logs.shape
    places = np.array([2 * len(row) + 1 for row in labels], np.int64)
    path = np.full((N, int(places.max(initial=1))), blank)
    for own, row in zip(path, labels, strict=True):
        own[1 : 2 * len(row) : 2] = row
    within = np.arange(path.shape[1]) < places[:, None]
    # A label may be reached from two before it, unless that is the same label or a blank.
    skips = np.zeros(path.shape, bool)
    skips[:, 2:] = (path[:, 2:] != blank) & (path[:, 2:] != path[:, :-2])
    at = np.take_along_axis(logs, np.broadcast_to(path, (T, *path.shape)), 2)
    at = np.where(within & (np.arange(T)[:, None] < lengths)[..., None], at, -np.inf)
    ends = within & (np.arange(path.shape[1]) >= places[:, None] - 2)
    with np.errstate(invalid="ignore"):
        alpha = _sweep(at, skips, np.zeros(N, np.int64), np.arange(path.shape[1]) < 2)
        # Backwards the same recursion runs over time and paths turned round.
        turned = np.zeros(path.shape, bool)
        turned[:, 2:] = skips[:, ::-1][:, :-2]
        beta = _sweep(at[::-1, :, ::-1], turned, T - lengths, ends[:, ::-1])[::-1, :, ::-1]
        last = np.where(ends, alpha[lengths - 1, np.arange(N)], -np.inf) if T else ends - np.inf
        totals = np.where(
            lengths > 0, np.logaddexp.reduce(last, 1), np.where(places > 1, -np.inf, 0)
        )
        occupied = np.where(np.isfinite(at), np.exp(alpha + beta - at - totals[:, None]), 0)
    of_class = (path[..., None] == np.arange(C)).astype(np.float64)
    found = np.matmul(occupied.transpose(1, 0, 2), of_class).transpose(1, 0, 2)
    found[:, np.isinf(totals)] = np.nan
    return -totals, found


def _sweep(at: Array, skips: Array, starts: Array, first: Array) -> Array:
    """Return ``[T, N, L]``: log probability of all that ends at each place of the paths.

    Parameters
    ----------
    at : [T, N, L], of each place at each step.
    skips : [N, L], places that are reached from two before.
    starts : [N], the step at which each row begins.
    first : [L] or [N, L], the places at which it may.
    """
    alpha = np.full(at.shape, -np.inf)
    before = np.full(at.shape[1:], -np.inf)
    for t in range(len(at)):
        reach = before.copy()
        reach[:, 1:] = np.logaddexp(reach[:, 1:], before[:, :-1])
        reach[:, 2:] = np.where(
            skips[:, 2:], np.logaddexp(reach[:, 2:], before[:, :-2]), reach[:, 2:]
        )
        begins = (starts == t)[:, None] & first
        before = alpha[t] = np.where(begins, 0, reach) + at[t]
    return alpha
