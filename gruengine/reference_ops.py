# SPDX-License-Identifier: MIT
"""The table of graph operators in NumPy, and the bounds that keep hostile sizes out of memory.

An operator is ``OPS[name](*inputs, **attributes) -> tuple of arrays``: inputs in the order of ONNX
with None where one is absent, attributes by their ONNX names, in the newest form of the operator.
It works in the dtypes it is given, so it also folds constants as ONNX would compute them.
Every failure is an InvalidInputError, a ValueError, that begins with the name of the operator.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt

from gruengine.errors import InvalidInputError

Array = npt.NDArray[Any]
Op = Callable[..., tuple[Array, ...]]

OPS: dict[str, Op] = {}

DEFAULT_LIMIT = 1 << 28
_limit: ContextVar[int] = ContextVar("reference_size_limit", default=DEFAULT_LIMIT)


@contextmanager
def size_limit(elements: int) -> Iterator[None]:
    """Bound the elements of any one result inside the ``with`` block."""
    token = _limit.set(elements)
    try:
        yield
    finally:
        _limit.reset(token)


def check_size(shape: Sequence[int], limit: int | None = None) -> tuple[int, ...]:
    """Return ``shape`` as a tuple of int if an array of it may be made.

    Raises
    ------
    ValueError
        If a size is negative, or the product exceeds ``limit`` (that of ``size_limit``, by
        default 2**28 elements).
    """
    sizes = tuple(int(s) for s in shape)
    limit = _limit.get() if limit is None else limit
    if any(s < 0 for s in sizes):
        raise ValueError(f"a shape of {sizes}; sizes must not be negative")
    if math.prod(sizes) > limit:
        raise ValueError(f"a result of shape {sizes}; at most {limit} elements are allowed")
    return sizes


def broadcast(*arrays: Array) -> tuple[int, ...]:
    """Return the broadcast shape of ``arrays`` after checking its size."""
    return check_size(np.broadcast_shapes(*(a.shape for a in arrays)))


def axis_of(axis: int, rank: int) -> int:
    """Return ``axis`` as an index from 0 to ``rank - 1``."""
    axis = int(axis)
    if not -rank <= axis < rank:
        raise ValueError(f"axis is {axis}; it must be from {-rank} to {rank - 1}")
    return axis % rank


def ints(value: Sequence[int] | Array) -> list[int]:
    """Return an integer tensor or attribute as a flat list."""
    array = np.asarray(value)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{array.dtype} where integers are needed")
    return [int(v) for v in array.reshape(-1)]


def axes_of(axes: Sequence[int] | Array, rank: int) -> tuple[int, ...]:
    """Return ``axes`` as distinct indices from 0 to ``rank - 1``."""
    result = tuple(axis_of(a, rank) for a in ints(axes))
    if len(set(result)) < len(result):
        raise ValueError(f"axes are {result}; each may appear once")
    return result


def register(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enter a function into ``OPS`` under each name; positional inputs, keyword attributes."""

    def enter(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            OPS[name] = _guarded(name, function)
        return function

    return enter


def _guarded(name: str, function: Callable[..., Any]) -> Op:
    """Wrap an operator: arrays in, a tuple of arrays out, every failure an InvalidInputError."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*inputs: Any, **attributes: Any) -> tuple[Array, ...]:
        arrays = tuple(None if a is None else np.asarray(a) for a in inputs)
        try:
            signature.bind(*arrays, **attributes)
        except TypeError as error:
            raise InvalidInputError(
                f"{name}: {error}; it was given {len(inputs)} inputs and the attributes "
                f"{sorted(attributes)}"
            ) from None
        try:
            with np.errstate(all="ignore"):
                result = function(*arrays, **attributes)
        except (ValueError, TypeError, IndexError, AttributeError, ArithmeticError) as error:
            raise InvalidInputError(f"{name}: {error}") from error
        except MemoryError as error:
            raise InvalidInputError(f"{name}: not enough memory for the result") from error
        return tuple(np.asarray(r) for r in (result if isinstance(result, tuple) else (result,)))

    return call
