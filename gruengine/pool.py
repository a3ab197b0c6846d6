# SPDX-License-Identifier: MIT
"""Many live streams of one model, any subset of them stepped as one batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gruengine._pool import PoolCore
from gruengine.errors import InvalidInputError, InvalidTypeError
from gruengine.pool_ports import (
    Array,
    PortInfo,
    by_name,
    check_array,
    named,
    output_arrays,
    refuse_overlap,
)

__all__ = ["Pool"]


class Pool(PoolCore):
    """Live streams of a model in one block of memory. Made by :meth:`gruengine.Model.pool`.

    Any subset of the open streams is stepped as one batch, in any order; each gets the bits that a
    stream of its own would give. A pool belongs to one caller at a time: a second one that calls
    while a call is under way gets :class:`gruengine.StreamBusyError`. A call that raises leaves
    every stream as it was.
    """

    def __iter__(self) -> Iterator[int]:
        """Iterate over the ids of the streams that are open now."""
        return iter(self.ids().tolist())

    def __repr__(self) -> str:
        return f"Pool({len(self)} of {self.capacity} open, model={self.model!r})"

    # -- steps ------------------------------------------------------------------------------------

    def _step_slowly(self, ids: Array, x: Any, out: Any) -> Any:
        """step() with every check and every number of inputs."""
        rows = len(ids)
        arrays = [
            check_array(f"input {port.name!r}", value, port.dtype, port.step_of(rows))
            for port, value in zip(self.inputs, by_name("input", self.inputs, x), strict=True)
        ]
        results = output_arrays(self.outputs, [p.step_of(rows) for p in self.outputs], out)
        refuse_overlap(arrays, results)
        self._step_arrays(ids, arrays, results)
        return named(self.outputs, results)

    def run(self, ids: Any, chunks: Sequence[Any]) -> list[Any]:
        """Advance streams by chunks of unequal lengths, bit for bit as ``step`` by ``step`` would.

        Parameters
        ----------
        ids : int64 ndarray or list [n]
            Different open streams.
        chunks : sequence of n ndarrays
            ``chunks[i]`` is that of ``ids[i]``: ``[T, I]`` as a rule, any number of frames, the
            input of the model without its row axis (models that stream by calls: one input of a
            call after the other). Dicts of such arrays by name when the model has several inputs.

        Returns
        -------
        list of n ndarrays
            ``[T, ...]`` each, or dicts by name when the model has several outputs. An output
            without time axis holds its last value.

        Raises
        ------
        InvalidInputError, InvalidTypeError
            As :meth:`step`; every stream is as it was.
        """
        which = self._ids(ids)
        if len(chunks) != len(which):
            raise InvalidInputError(f"got {len(chunks)} chunks for {len(which)} ids")
        by_calls = self.model.streamable.form == "calls"
        inputs: list[Array] = []
        results: list[list[Array]] = []
        frames = np.zeros(len(which), np.int64)
        for i, chunk in enumerate(chunks):
            arrays, count = _chunk(self.inputs, chunk, by_calls, f"of chunk {i}")
            inputs += arrays
            frames[i] = count
            shapes = [port.chunk_of(count, by_calls) for port in self.outputs]
            if count == 0 and any(p.chunk_axis(by_calls) < 0 for p in self.outputs):
                raise InvalidInputError(f"chunk {i} has no frames; an output needs one")
            results.append(output_arrays(self.outputs, shapes, None))
        self._run_arrays(which, frames, inputs, [array for row in results for array in row])
        return [named(self.outputs, row) for row in results]

    # -- states -----------------------------------------------------------------------------------

    def set_state(self, id: int, state: bytes) -> None:  # noqa: A002
        """Continue a stream from a state of :meth:`get_state`.

        Raises
        ------
        InvalidInputError
            The bytes are damaged or belong to another model; nothing is changed.
        """
        if not isinstance(state, (bytes, bytearray, memoryview)):
            raise InvalidTypeError(
                f"state is {type(state).__name__}; it must be bytes of get_state()"
            )
        self._set_state(id, bytes(state))

    def states(self, ids: Any) -> dict[str, Array]:
        """Copy the states of streams to arrays by name, row ``i`` being that of ``ids[i]``.

        Names and layouts are those of ``Stream.state`` with ``n`` rows: ``<node>.h`` [D, n, H].
        """
        which = self._ids(ids)
        found = {}
        for entry, (name, dtype, dims, axis) in enumerate(self._layout()):
            array = np.empty((*dims[:axis], len(which), *dims[axis + 1 :]), dtype)
            self._read(entry, which, array)
            found[name] = array
        return found

    def set_states(self, ids: Any, states: Mapping[str, Any]) -> None:
        """Continue streams from arrays of :meth:`states`.

        Raises
        ------
        InvalidInputError, InvalidTypeError
            Unknown or missing names, wrong shapes or dtypes; nothing is changed.
        """
        which = self._ids(ids)
        layout = self._layout()
        if not isinstance(states, Mapping) or set(states) != {name for name, *_ in layout}:
            given = sorted(states) if isinstance(states, Mapping) else type(states).__name__
            raise InvalidInputError(f"got states {given}; it must be {[n for n, *_ in layout]}")
        arrays = []
        for name, dtype, dims, axis in layout:
            shape = (*dims[:axis], len(which), *dims[axis + 1 :])
            arrays.append(check_array(f"state {name!r}", states[name], dtype, shape))
        for entry, array in enumerate(arrays):
            self._write(entry, which, array)


def _chunk(
    ports: tuple[PortInfo, ...], chunk: Any, by_calls: bool, what: str
) -> tuple[list[Array], int]:
    """Check the arrays of a chunk of one stream; return them and the number of frames."""
    arrays: list[Array] = []
    frames = -1
    for port, value in zip(ports, by_name("input", ports, chunk), strict=True):
        axis = port.chunk_axis(by_calls)
        name = f"input {port.name!r} {what}"
        array = check_array(name, value, port.dtype, None)
        rank = len(port.chunk_of(0, by_calls))
        if array.ndim != rank:
            raise InvalidInputError(f"{name} has shape {array.shape}; it must have {rank} axes")
        count = array.shape[axis] if axis >= 0 else -1
        check_array(name, array, port.dtype, port.chunk_of(max(count, 0), by_calls))
        if axis >= 0 and frames >= 0 and count != frames:
            raise InvalidInputError(f"{name} has {count} frames, another input {frames}")
        frames = max(frames, count)
        arrays.append(array)
    if frames < 0:
        raise InvalidInputError("no input has a time axis")
    return arrays, frames
