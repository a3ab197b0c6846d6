# SPDX-License-Identifier: MIT
"""Arrays of callers as a model wants them; the state of a run as bytes and as arrays by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gruengine.errors import InvalidInputError, InvalidTypeError
from gruengine.spec import Port

Array = np.ndarray[Any, Any]
State = dict[str, Array]
Layout = list[tuple[str, str, tuple[int, ...], int]]


def as_input(port: Port, value: Any) -> Array:
    """``value`` as a C-contiguous array of the port's dtype, by safe conversions alone."""
    array = np.asarray(value)
    wanted = np.dtype(port.dtype)
    if array.dtype != wanted:
        narrows_floats = wanted.kind == "f" and array.dtype.kind == "f"
        if not (narrows_floats or np.can_cast(array.dtype, wanted, "same_kind")):
            raise InvalidTypeError(f"input {port.name!r} is {array.dtype}; it must be {port.dtype}")
    return np.ascontiguousarray(array, wanted).reshape(array.shape)


def check_mapping(what: str, value: object) -> None:
    """Raise ``InvalidTypeError`` unless ``value`` is a mapping."""
    if not isinstance(value, Mapping):
        raise InvalidTypeError(f"{what} is {type(value).__name__}; it must be a dict by name")


def pack_state(layout: Layout, state: Mapping[str, Any]) -> bytes:
    """One block of bytes from arrays by name; each must be there, in its shape."""
    names = [name for name, *_ in layout]
    check_mapping("state", state)
    if set(state) != set(names):
        raise InvalidInputError(f"got states {sorted(state)}; the model has {sorted(names)}")
    end = max((at + _nbytes(dtype, shape) for _, dtype, shape, at in layout), default=0)
    block = bytearray(-(-end // 64) * 64)
    for name, dtype, shape, at in layout:
        array = as_input(Port(name, dtype, shape), state[name])
        if array.shape != tuple(shape):
            raise InvalidInputError(
                f"state {name!r} has shape {array.shape}; it must be {tuple(shape)}"
            )
        block[at : at + array.nbytes] = array.tobytes()
    return bytes(block)


def unpack_state(layout: Layout, block: bytes) -> State:
    """Copy the arrays out of a block, by name."""
    state = {}
    for name, dtype, shape, at in layout:
        size = _nbytes(dtype, shape)
        state[name] = np.frombuffer(block[at : at + size], dtype).reshape(shape).copy()
    return state


def _nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
