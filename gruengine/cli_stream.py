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
    from gruengine.model import Model, Stream
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
    known = {streamable.batch: 1, **(sizes or {})}
    shape = []
    for axis, dim in enumerate(port.shape):
        if axis == time:
            continue
        value = known.get(dim) if isinstance(dim, str) else dim
        if value is None:
            raise InvalidInputError(f"size {dim!r} of input {port.name!r} is free; give --size")
        shape.append(value)
    return Frames(port, tuple(shape), time)


def open_stream(model: Model, sizes: dict[str, int]) -> Stream:
    """Open a stream; of ``sizes`` it is given those that the model leaves free, but for time."""
    free = {d for port in model.signature.inputs for d in port.shape if isinstance(d, str)}
    batch, time = model.streamable.batch, model.streamable.time
    others = {k: v for k, v in sizes.items() if k in free and k not in (batch, time)}
    return model.stream(sizes.get(batch, 1), others)


def stream(path: str, source: str, destination: str, take: str, options: dict[str, Any]) -> int:
    """Run the model of ``path`` over the frames of ``source`` and return the exit code.

    ``take`` names the output that is written, "" the only one.
    """
    from gruengine.conversion import load_model

    sizes = dict(options.get("sizes") or {})
    model = load_model(path, **options)
    frames = frames_of(model, sizes)
    name = _output_of(model, take)
    one = open_stream(model, sizes)
    outputs = (_value(one.step(frame), name) for frame in _frames(source, frames))
    if destination == "-":
        for output in outputs:
            sys.stdout.buffer.write(output.astype("<f4").tobytes())
            sys.stdout.buffer.flush()
        return 0
    found = [value[0] if len(value) == 1 else value for value in outputs]
    try:
        np.save(destination, np.stack(found) if found else np.zeros(0, np.float32))
    except OSError as error:
        raise FileAccessError(f"cannot write {destination!r}: {error.strerror}") from error
    return 0


def _output_of(model: Model, take: str) -> str:
    states = {after for _, after in model.signature.state}
    names = [port.name for port in model.signature.outputs if port.name not in states]
    if take and take not in names:
        raise InvalidInputError(f"no output {take!r}; the model has {', '.join(names)}")
    if not take and len(names) != 1:
        raise InvalidInputError(f"the model has outputs {', '.join(names)}; choose one by --take")
    return take or names[0]


def _value(result: Any, name: str) -> Array:
    """Return a copy: a stream may write its next output to the same memory."""
    return np.array(result[name] if isinstance(result, dict) else result)


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
