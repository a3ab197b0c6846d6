# SPDX-License-Identifier: MIT
"""Losses: a number to make small, and its gradient by the predictions.

A loss is called with the predictions ``y``, the targets and, where only some of them count, a
``mask`` in the shape of the targets without features (``[N]``, or time and batch of a sequence); it
returns ``(value, dy)``. Values are means over what counts, as in PyTorch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from gruengine import _core
from gruengine.errors import InvalidInputError
from gruengine.training_core import sum_of_squares
from gruengine.training_ops import log_softmax, sigmoid

Array = np.ndarray[Any, Any]


class Loss(ABC):
    """What a ``Trainer`` makes small.

    Attributes
    ----------
    activation : str
        The activation that the loss contains: predictions are what stands before it. A model that
        ends in it is trained without it, and keeps it in inference.
    time_first : bool
        Predictions are ``[T, N, C]`` whatever the order of the model.
    """

    activation = "linear"
    time_first = False

    @abstractmethod
    def __call__(self, y: Array, target: Array, mask: Array | None = None) -> tuple[float, Array]:
        """Return the value and the gradient by ``y``."""

    def counted(self, target: Array, mask: Array | None) -> Array | None:
        """Return the mask of the targets that count: what metrics see."""
        return mask

    def weight(self, y: Array, target: Array, mask: Array | None) -> float:
        """Return what the value is a mean over: its weight in a mean over batches."""
        whole = y.size // max(y.shape[-1], 1)
        return float(whole if mask is None else np.sum(mask, dtype=np.float64))


class _Elementwise(Loss):
    """The mean of a function of ``y`` and the target over every element that counts."""

    @abstractmethod
    def elements(self, y: Array, target: Array) -> tuple[Array, Array]:
        """Return the value and the derivative of every element."""

    def __call__(self, y: Array, target: Array, mask: Array | None = None) -> tuple[float, Array]:
        """Return the value and the gradient by ``y``; ``y`` and the target have one shape."""
        target = _same_shape(y, target)
        if mask is None:
            return self.mean(y, target)
        values, slopes = self.elements(y, target)
        weights = _mask_of(mask, y.shape[:-1] if y.ndim > mask.ndim else y.shape)
        weights = weights.astype(y.dtype).reshape(weights.shape + (1,) * (y.ndim - weights.ndim))
        count = max(float(weights.sum(dtype=np.float64)) * (y.size // max(weights.size, 1)), 1.0)
        # What does not count may be anything, NaN too.
        values = np.where(weights != 0, values * weights, 0)
        slopes = np.where(weights != 0, slopes * weights, 0)
        value = float(np.sum(values, dtype=np.float64)) / count
        return value, np.asarray(slopes / y.dtype.type(count), y.dtype)

    def mean(self, y: Array, target: Array) -> tuple[float, Array]:
        """Return the mean over all elements and its gradient."""
        values, slopes = self.elements(y, target)
        return float(np.mean(values, dtype=np.float64)), slopes / y.dtype.type(max(y.size, 1))


class MSE(_Elementwise):
    """Mean squared error, ``(y - target)^2``."""

    def mean(self, y: Array, target: Array) -> tuple[float, Array]:
        """See _Elementwise; two passes over memory, in the order that ``y`` has there."""
        if y.dtype != np.float32 or y.size == 0:
            return super().mean(y, target)
        error = np.subtract(y, target, out=np.empty_like(y))
        value = sum_of_squares(error.ravel("K")) / y.size
        error *= np.float32(2 / y.size)
        return value, error

    def elements(self, y: Array, target: Array) -> tuple[Array, Array]:
        """See _Elementwise."""
        error = y - target
        return error * error, 2 * error


class MAE(_Elementwise):
    """Mean absolute error, ``|y - target|``."""

    def elements(self, y: Array, target: Array) -> tuple[Array, Array]:
        """See _Elementwise."""
        error = y - target
        return np.abs(error), np.sign(error)


class Huber(_Elementwise):
    """``error^2 / 2`` up to ``delta``, then ``delta (|error| - delta / 2)`` (Huber 1964)."""

    def __init__(self, delta: float = 1.0) -> None:
        if not 0 < delta < float("inf"):
            raise InvalidInputError(f"delta is {delta!r}; it must be a positive number")
        self.delta = float(delta)

    def elements(self, y: Array, target: Array) -> tuple[Array, Array]:
        """See _Elementwise."""
        error = y - target
        delta = y.dtype.type(self.delta)
        size = np.abs(error)
        values = np.where(size <= delta, error * error / 2, delta * (size - delta / 2))
        return values, np.clip(error, -delta, delta)


class BinaryCrossEntropy(_Elementwise):
    """Cross-entropy of ``sigmoid(y)`` with targets from 0 to 1; ``y`` are logits.

    Parameters
    ----------
    positive_weight : float
        Of the targets' ones.
    """

    activation = "sigmoid"

    def __init__(self, positive_weight: float = 1.0) -> None:
        if not 0 < positive_weight < float("inf"):
            raise InvalidInputError(f"positive_weight is {positive_weight!r}; it must be positive")
        self.positive_weight = float(positive_weight)

    def elements(self, y: Array, target: Array) -> tuple[Array, Array]:
        """See _Elementwise; ``softplus(-y) = max(-y, 0) + log(1 + exp(-|y|))``."""
        weight = y.dtype.type(self.positive_weight)
        tail = np.log1p(np.exp(-np.abs(y)))
        below, above = np.maximum(-y, 0) + tail, np.maximum(y, 0) + tail
        p = sigmoid(y)
        return (
            weight * target * below + (1 - target) * above,
            (1 - target) * p - weight * target * (1 - p),
        )


class SoftmaxCrossEntropy(Loss):
    """Cross-entropy of ``softmax(y)`` with integers; ``y`` ``[..., C]`` are logits.

    The value is the mean over what counts, weighted by the weights of its classes.

    Parameters
    ----------
    ignore : int, optional
        Targets that do not count.
    weights : sequence of C floats, optional
        One for each class.
    """

    activation = "softmax"

    def __init__(
        self, *, ignore: int | None = None, weights: Sequence[float] | None = None
    ) -> None:
        self.ignore = ignore
        self.weights = None if weights is None else np.asarray(weights, np.float32)
        if self.weights is not None and (
            self.weights.ndim != 1 or not np.isfinite(self.weights).all() or self.weights.min() < 0
        ):
            raise InvalidInputError("weights must be finite numbers, none negative, one a class")

    def __call__(self, y: Array, target: Array, mask: Array | None = None) -> tuple[float, Array]:
        """Return the value and the gradient by ``y``; the target has the shape of ``y[..., 0]``."""
        C, target = y.shape[-1], np.asarray(target)
        if target.shape != y.shape[:-1] or target.dtype.kind not in "iu":
            raise InvalidInputError(
                f"target is {target.dtype} of shape {target.shape}; it must be integers of shape "
                f"{y.shape[:-1]}"
            )
        if self.weights is not None and len(self.weights) != C:
            raise InvalidInputError(f"{len(self.weights)} weights for {C} classes")
        counts, ids, weight = self._weights(y, target, mask)
        total = float(weight.sum(dtype=np.float64))
        if y.dtype == np.float32:
            share = np.where(counts, weight / np.float32(total or 1.0), 0).astype(np.float32)
            losses, dy = _core.train_cross_entropy(
                np.ascontiguousarray(y.reshape(-1, C)),
                np.where(counts, ids, -1).astype(np.int64).reshape(-1), share.reshape(-1), -1,
            )  # fmt: skip
            return float(np.sum(losses, dtype=np.float64)), dy.reshape(y.shape)
        logs = log_softmax(y)
        picked = np.take_along_axis(logs, ids[..., None], -1)[..., 0]
        value = -float(np.sum(np.where(counts, picked * weight, 0), dtype=np.float64))
        dy = np.exp(logs)
        at = np.take_along_axis(dy, ids[..., None], -1) - 1
        np.put_along_axis(dy, ids[..., None], at, -1)
        share = (weight / y.dtype.type(total or 1.0))[..., None]
        dy = np.where(share != 0, dy * share, 0)
        return value / (total or 1.0), np.asarray(dy, y.dtype)

    def counted(self, target: Array, mask: Array | None) -> Array | None:
        """See Loss; ignored targets do not count."""
        if self.ignore is None:
            return mask
        kept = np.asarray(target) != self.ignore
        return kept if mask is None else np.where(kept, mask, 0).astype(mask.dtype)

    def weight(self, y: Array, target: Array, mask: Array | None) -> float:
        """See Loss; the weights of the classes are in it."""
        return float(self._weights(y, np.asarray(target), mask)[2].sum(dtype=np.float64))

    def _weights(self, y: Array, target: Array, mask: Array | None) -> tuple[Array, Array, Array]:
        """Return which targets count, their classes (else 0), and how much each counts."""
        C = y.shape[-1]
        mask = self.counted(target, None if mask is None else _mask_of(mask, target.shape))
        counts = np.ones(target.shape, bool) if mask is None else mask != 0
        ids = np.where(counts, target, 0)
        if ids.size and not 0 <= ids.min() <= ids.max() < C:
            raise InvalidInputError(f"target has {ids.min()} to {ids.max()}; allowed: 0 to {C - 1}")
        weight = counts.astype(y.dtype)
        if self.weights is not None:
            weight *= self.weights[ids]
        if mask is not None and mask.dtype.kind == "f":
            weight *= mask
        return counts, ids, weight


def _same_shape(y: Array, target: Any) -> Array:
    found = np.asarray(target, y.dtype)
    if found.shape != y.shape:
        raise InvalidInputError(f"target has shape {found.shape}; predictions have {y.shape}")
    return found


def _mask_of(mask: Any, shape: tuple[int, ...]) -> Array:
    found = np.asarray(mask)
    if found.shape != shape:
        raise InvalidInputError(f"mask has shape {found.shape}; it must be {shape}")
    return found


def loss_of(which: str | Loss) -> Loss:
    """Return a loss by its name, or the one given.

    Raises
    ------
    InvalidInputError
        A name that is not known.
    """
    if isinstance(which, Loss):
        return which
    from gruengine.ctc import CTC

    known: dict[str, type[Loss]] = {
        "mse": MSE,
        "mae": MAE,
        "huber": Huber,
        "binary_cross_entropy": BinaryCrossEntropy,
        "cross_entropy": SoftmaxCrossEntropy,
        "ctc": CTC,
    }
    if which not in known:
        allowed = ", ".join(repr(key) for key in known)
        raise InvalidInputError(f"loss is {which!r}; it must be a Loss or one of {allowed}")
    return known[which]()
