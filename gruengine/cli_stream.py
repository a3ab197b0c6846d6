# SPDX-License-Identifier: MIT
"""``gruengine stream``: frames in, outputs out, through files or pipes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from gruengine.errors import FileAccessError, InvalidInputError, UnsupportedError

if TYPE_CHECKING:
    from gruengine.model import Model
    from gruengine.spec import Port

Array = np.ndarray[Any, Any]

_CHUNK = 1 << 16  # bytes read at once at most; a pipe gives what it has


@dataclass(frozen=True)
class Frames:
    """How the frames of a model lie in memory.

    port : the input that is fed
    shape : of one frame, with a batch of one
    time : axis of time in the input, None if every call is a frame
    """

    port: Port
    shape: tuple[int, ...]
    time: int | None

    @property
    def values(self) -> int:
        """Numbers in a frame."""
        return prod(self.shape)


def frames_of(model: Model, sizes: dict[str, int] | None = None) -> Frames:
    """Return the layout of the frames that a stream of ``model`` takes.

    Raises
    ------
    UnsupportedError
        The model does not stream, or takes more than one input beside its states.
    InvalidInputError
        A free size that ``sizes`` does not give.
    """
    streamable = model.streamable
    if not streamable:
        where = f"{streamable.node}: " if streamable.node else ""
        raise UnsupportedError(f"the model does not stream: {where}{streamable.reason}")
    states = {before for before, _ in model.signature.state}
    ports = [port for port in model.signature.inputs if port.name not in states]
    if len(ports) != 1:
        names = ", ".join(port.name for port in ports) or "none"
        raise UnsupportedError(f"inputs beside the states are {names}; this command feeds one")
    port = ports[0]
    time = port.shape.index(streamable.time) if streamable.form == "frames" else None
    known = {streamable.batch: 1, "N": 1, **(sizes or {})}
    shape = []
    for axis, dim in enumerate(port.shape):
        if axis == time:
            continue
        value = known.get(dim) if isinstance(dim, str) else dim
        if value is None:
            raise InvalidInputError(f"size {dim!r} of input {port.name!r} is free; give --size")
        shape.append(value)
    return Frames(port, tuple(shape), time)


def stream(path: str, source: str, destination: str, options: dict[str, Any]) -> int:
    """Run the model of ``path`` over the frames of ``source`` and return the exit code."""
    from gruengine.conversion import load_model

    sizes = options.get("sizes")
    model = load_model(path, **options)
    frames = frames_of(model, sizes)
    one = model.stream(1)
    outputs = (one_output(one.step(frame)) for frame in _frames(source, frames))
    if destination == "-":
        for output in outputs:
            sys.stdout.buffer.write(output.astype("<f4").tobytes())
            sys.stdout.buffer.flush()
        return 0
    found = list(outputs)
    try:
        np.save(destination, np.stack([value[0] if len(value) == 1 else value for value in found])
                if found else np.zeros(0, np.float32))  # fmt: skip
    except OSError as error:
        raise FileAccessError(f"cannot write {destination!r}: {error.strerror}") from error
    return 0


def one_output(value: Any) -> Array:
    """Return the first output of a step, whether it comes alone or among others."""
    if isinstance(value, dict):
        return np.asarray(next(iter(value.values())))
    return np.asarray(value[0] if isinstance(value, tuple) else value)


def _frames(source: str, frames: Frames) -> Iterator[Array]:
    if source == "-":
        return _from_pipe(sys.stdin.buffer, frames)
    return iter(_from_file(source, frames))


def _from_file(source: str, frames: Frames) -> Array:
    """Return ``[T, *frame]`` from a ``.npy`` of ``[T, ...]``."""
    try:
        values = np.load(source, allow_pickle=False)
    except OSError as error:
        raise FileAccessError(f"cannot read {source!r}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise InvalidInputError(f"{source} is no .npy array: {error}") from None
    if not isinstance(values, np.ndarray) or values.ndim == 0:
        raise InvalidInputError(f"{source} holds no sequence; [T, {frames.values}] is needed")
    count = len(values)
    if values.size != count * frames.values:
        raise InvalidInputError(
            f"{source} has shape {values.shape}; a frame of {frames.port.name!r} has "
            f"{frames.values} values: [T, {frames.values}] is needed"
        )
    return np.ascontiguousarray(values, frames.port.dtype).reshape(count, *frames.shape)


def _from_pipe(pipe: BinaryIO, frames: Frames) -> Iterator[Array]:
    """Yield frames as soon as they are complete."""
    size = 4 * frames.values
    rest = b""
    read = getattr(pipe, "read1", pipe.read)
    while data := read(_CHUNK):
        rest += data
        whole = len(rest) // size
        values = np.frombuffer(rest, "<f4", whole * frames.values)
        rest = rest[whole * size :]
        yield from values.astype(frames.port.dtype).reshape(whole, *frames.shape)
    if rest:
        raise InvalidInputError(
            f"the input ends with {len(rest)} bytes of a frame of {size}; "
            f"frames are {frames.values} little-endian float32 values"
        )
