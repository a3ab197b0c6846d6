# SPDX-License-Identifier: MIT
"""Streams of models in parts: call by call, with the states of the graph carried."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gruengine import safetensors
from gruengine.errors import (
    InvalidInputError,
    InvalidTypeError,
    ModelFileError,
    StreamBusyError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from gruengine.parted_model import PartedModel

Array = np.ndarray[Any, Any]


class PartedStream:
    """The state of one live sequence of a model in parts; the interface of ``Stream``."""

    def __init__(self, model: PartedModel, batch_size: int, sizes: Mapping[str, int]) -> None:
        streamable = model.streamable
        if not streamable:
            where = f"{streamable.node}: " if streamable.node else ""
            raise UnsupportedError(f"the model does not stream: {where}{streamable.reason}")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InvalidInputError(f"batch_size is {batch_size!r}; it must be at least 1")
        self.model, self.batch_size = model, batch_size
        self._sizes = dict(sizes)
        if streamable.batch:
            self._sizes[streamable.batch] = batch_size
        elif batch_size != 1:
            raise InvalidInputError(f"batch_size is {batch_size}; this model has a fixed one")
        self._state: dict[str, Array] | None = None
        self._lock = threading.Lock()

    @property
    def state(self) -> dict[str, Array]:
        """The state as a dict of arrays by name (copies)."""
        held = self._state if self._state is not None else self.model.initial_state({}, self._sizes)
        return {name: value.copy() for name, value in held.items()}

    def step(self, x: Any, out: Any = None) -> Any:
        """Advance by one call, as ``Stream.step``."""
        with _Held(self._lock):
            return self._written(self._advance(x), out)

    def run(self, chunk: Any, out: Any = None) -> Any:
        """Advance by many calls: ``[T, ...]``, one input after the other."""
        named = isinstance(chunk, Mapping)
        arrays = {k: np.asarray(v) for k, v in chunk.items()} if named else {"": np.asarray(chunk)}
        counts = {value.shape[0] if value.ndim else -1 for value in arrays.values()}
        if len(counts) != 1 or min(counts) < 1:
            raise InvalidInputError(
                f"chunks have {sorted(counts)} frames; one number >= 1 is allowed"
            )
        with _Held(self._lock):
            found = []
            for i in range(counts.pop()):
                one = {k: v[i] for k, v in arrays.items()}
                found.append(self._advance(one if named else one[""]))
            if isinstance(found[0], dict):
                return self._written({k: np.stack([f[k] for f in found]) for k in found[0]}, out)
            return self._written(np.stack(found), out)

    def reset(self) -> None:
        """Go back to the initial state."""
        with _Held(self._lock):
            self._state = None

    def clone(self) -> PartedStream:
        """Return a second stream in the same state; the two go on independently."""
        copy = PartedStream(self.model, self.batch_size, self._sizes)
        copy._state = None if self._state is None else self.state
        return copy

    def get_state(self) -> bytes:
        """Return the state as bytes that belong to this model and batch size."""
        names = {"gruengine_state": self.model.hash}
        return b"".join(safetensors.pieces(self.state, names))

    def set_state(self, state: bytes) -> None:
        """Continue from a state of ``get_state``.

        Raises
        ------
        InvalidInputError
            A state of another model or batch size, or damaged bytes.
        """
        try:
            arrays, names = safetensors.read(state)
        except (ModelFileError, TypeError) as error:
            raise InvalidInputError(f"this is no state of a stream: {error}") from None
        wanted = self.state
        fits = set(arrays) == set(wanted) and all(
            arrays[k].shape == v.shape and arrays[k].dtype == v.dtype for k, v in wanted.items()
        )
        if names.get("gruengine_state") != self.model.hash or not fits:
            raise InvalidInputError("the state belongs to another model or batch size")
        with _Held(self._lock):
            self._state = {name: np.array(value) for name, value in arrays.items()}

    def __reduce__(self) -> Any:
        raise TypeError("a stream cannot be pickled; save get_state() and the model's path")

    def _advance(self, x: Any) -> Any:
        given = self.model.named(x)
        state = (
            self._state if self._state is not None else self.model.initial_state(given, self._sizes)
        )
        results, self._state = self.model.run(given, state)
        return results

    @staticmethod
    def _written(results: Any, out: Any) -> Any:
        if out is None:
            return results
        if isinstance(results, dict) or not isinstance(out, np.ndarray):
            raise InvalidTypeError("out must be an array, for a model of one output")
        if out.shape != results.shape or out.dtype != results.dtype:
            raise InvalidInputError(
                f"out is {out.dtype} {list(out.shape)}; it must be {results.dtype} "
                f"{list(results.shape)}"
            )
        out[...] = results
        return out


class _Held:
    """A lock that refuses instead of waiting: a stream belongs to one caller."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise StreamBusyError("the stream is in use by another caller")

    def __exit__(self, *_: object) -> None:
        self._lock.release()
