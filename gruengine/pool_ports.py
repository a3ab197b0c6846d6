# SPDX-License-Identifier: MIT
"""The arrays of a step of many rows: their shapes, and the checks of what is given for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gruengine.errors import InvalidInputError, InvalidTypeError

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class PortInfo:
    """One input or output of a step.

    dims : the shape as the graph has it, one row and one frame
    row_axis, time_axis : axes of ``dims``; -1 where there is no time axis
    """

    name: str
    dtype: np.dtype[Any]
    dims: Shape
    row_axis: int
    time_axis: int

    @property
    def step(self) -> Shape:
        """The shape of a step of one row: the time axis left out."""
        return tuple(size for axis, size in enumerate(self.dims) if axis != self.time_axis)

    @property
    def rows(self) -> int:
        """The row axis of a step."""
        return self.row_axis - (0 <= self.time_axis < self.row_axis)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of one step."""
        return int(np.prod(self.dims, dtype=np.int64)) * self.dtype.itemsize

    def step_of(self, rows: int) -> Shape:
        """Return the shape of a step of so many rows."""
        return (*self.step[: self.rows], rows, *self.step[self.rows + 1 :])

    def short_step(self) -> Shape:
        """Return the shape of a step of one row, its row axis left out."""
        return self.step[: self.rows] + self.step[self.rows + 1 :]

    def chunk_of(self, frames: int, by_calls: bool) -> Shape:
        """Return the shape of many frames of one row, the row axis left out."""
        if by_calls:
            return (frames, *self.short_step())
        if self.time_axis < 0:
            return self.short_step()
        dims = (*self.dims[: self.time_axis], frames, *self.dims[self.time_axis + 1 :])
        return dims[: self.row_axis] + dims[self.row_axis + 1 :]

    def chunk_axis(self, by_calls: bool) -> int:
        """Return the time axis of such a chunk; -1 where it has none."""
        if by_calls or self.time_axis < 0:
            return 0 if by_calls else -1
        return self.time_axis - (self.row_axis < self.time_axis)


def check_array(what: str, array: Any, dtype: np.dtype[Any], shape: Shape | None) -> Array:
    """``array`` itself, when it is a C-contiguous array of that dtype and shape."""
    if not isinstance(array, np.ndarray):
        raise InvalidTypeError(f"{what} is {type(array).__name__}; it must be a numpy array")
    if array.dtype != dtype:
        raise InvalidTypeError(f"{what} is {array.dtype}; it must be {dtype}")
    if shape is not None and array.shape != shape:
        raise InvalidInputError(f"{what} has shape {array.shape}; it must be {shape}")
    if not array.flags.c_contiguous or not array.flags.aligned:
        raise InvalidTypeError(f"{what} must be C-contiguous and aligned")
    return array


def by_name(what: str, ports: tuple[PortInfo, ...], values: Any) -> list[Any]:
    """One value for each port, from a value or a dict by name."""
    names = [port.name for port in ports]
    if not isinstance(values, Mapping):
        if len(names) != 1:
            raise InvalidInputError(f"the model has {what}s {names}; give a dict by name")
        return [values]
    if set(values) != set(names):
        raise InvalidInputError(f"got {what}s {sorted(values)}; the model has {sorted(names)}")
    return [values[name] for name in names]


def named(ports: tuple[PortInfo, ...], arrays: list[Array]) -> Any:
    """One array, or a dict by name where there are several."""
    if len(arrays) == 1:
        return arrays[0]
    return {port.name: array for port, array in zip(ports, arrays, strict=True)}


def output_arrays(ports: tuple[PortInfo, ...], shapes: list[Shape], out: Any) -> list[Array]:
    """Arrays to write to: new ones, or those of ``out``."""
    if out is None:
        return [np.empty(shape, p.dtype) for p, shape in zip(ports, shapes, strict=True)]
    arrays = []
    for port, shape, value in zip(ports, shapes, by_name("output", ports, out), strict=True):
        array = check_array(f"out for {port.name!r}", value, port.dtype, shape)
        if not array.flags.writeable:
            raise InvalidInputError(f"out for {port.name!r} is read-only")
        arrays.append(array)
    return arrays


def refuse_overlap(x: list[Array], out: list[Array]) -> None:
    """Refuse outputs that share memory with an input or another output."""
    for i, array in enumerate(out):
        if any(np.may_share_memory(other, array) for other in x + out[:i]):
            raise InvalidInputError(
                "out overlaps the input or another output; give it memory of its own"
            )
