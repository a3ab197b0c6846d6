# SPDX-License-Identifier: MIT
"""What is measured beside the loss: means over the targets that count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gruengine.errors import InvalidInputError

Array = np.ndarray[Any, Any]

#: ``metric(y, target, mask)``: ``y`` are predictions after their activation; ``mask`` or None says
#: which targets count.
Metric = Callable[[Array, Array, "Array | None"], float]


def _mean(values: Array, mask: Array | None) -> float:
    if mask is None:
        return float(np.mean(values, dtype=np.float64))
    weights = (mask != 0).reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
    weights = np.broadcast_to(weights, values.shape)
    return float(np.where(weights, values, 0).sum(dtype=np.float64) / max(int(weights.sum()), 1))


def accuracy(y: Array, target: Array, mask: Array | None) -> float:
    """Return the part of targets met: by the largest class, or on the same side of 0.5."""
    if target.dtype.kind in "iu" and target.shape == y.shape[:-1] and y.shape[-1] > 1:
        return _mean((y.argmax(-1) == target).astype(np.float64), mask)
    found = (y > 0.5) == (np.asarray(target).reshape(y.shape) > 0.5)
    return _mean(found.astype(np.float64), mask)


def mae(y: Array, target: Array, mask: Array | None) -> float:
    """Return the mean absolute error."""
    return _mean(np.abs(y - target), mask)


def mse(y: Array, target: Array, mask: Array | None) -> float:
    """Return the mean squared error."""
    return _mean((y - target) ** 2, mask)


METRICS: dict[str, Metric] = {"accuracy": accuracy, "mae": mae, "mse": mse}


class Means:
    """Means over batches: for each name, a sum and the sum of its weights.

    Parameters
    ----------
    sums : by name ``[sum, weight]``, to go on from.
    """

    def __init__(self, sums: Mapping[str, Sequence[float]] | None = None) -> None:
        self.sums = {name: list(pair) for name, pair in (sums or {}).items()}

    def add(self, loss: float, weight: float, metrics: Mapping[str, float], counted: int) -> None:
        """Add a batch: its loss by its weight, its metrics by how many targets counted."""
        self._add("loss", loss, weight)
        for name, value in metrics.items():
            self._add(name, value, counted)

    def _add(self, name: str, value: float, weight: float) -> None:
        pair = self.sums.setdefault(name, [0.0, 0.0])
        pair[0] += value * weight
        pair[1] += weight

    def values(self) -> dict[str, float]:
        """Return the means by name; 0 where nothing counted."""
        return {name: total / (weight or 1.0) for name, (total, weight) in self.sums.items()}


def metrics_of(which: tuple[str | Metric, ...]) -> dict[str, Metric]:
    """Return metrics by name; a function goes by its own.

    Raises
    ------
    InvalidInputError
        A name that is not known.
    """
    found: dict[str, Metric] = {}
    for metric in which:
        if callable(metric):
            found[getattr(metric, "__name__", "metric")] = metric
        elif metric in METRICS:
            found[metric] = METRICS[metric]
        else:
            raise InvalidInputError(
                f"metric is {metric!r}; it must be a function or one of {', '.join(METRICS)}"
            )
    return found
