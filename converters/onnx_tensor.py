# SPDX-License-Identifier: MIT
"""ONNX tensors: every storage form, sizes checked before anything is allocated.

External data is read only from regular files below the folder of the model: no absolute path, no
``..``, no symbolic link on the way, no second hard link; offset and length inside the file.
"""

from __future__ import annotations

import errno
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gruengine.converters.protobuf import Message
from gruengine.errors import FileAccessError, ModelFileError

Array = np.ndarray[Any, Any]

MAX_RANK = 32
MAX_SIZE = 1 << 40

BFLOAT16 = 16

#: ONNX element type -> name.
TYPE_NAMES = {
    0: "undefined", 1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32",
    7: "int64", 8: "string", 9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
    14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8e4m3fn", 18: "float8e4m3fnuz",
    19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4e2m1",
    24: "float8e8m0", 25: "uint2", 26: "int2", 27: "float6e2m3", 28: "float6e3m2",
}  # fmt: skip

#: Element types that can be read, as they lie in raw_data. bfloat16 becomes float32, exactly.
STORED = {
    1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "u1", 10: "<f2",
    11: "<f8", 12: "<u4", 13: "<u8", 16: "<u2",
}  # fmt: skip

# Where a tensor of each type lies when it is not raw: the number of the field.
_FLOAT_DATA, _INT32_DATA, _INT64_DATA, _DOUBLE_DATA, _UINT64_DATA = 4, 5, 7, 10, 11
_TYPED = {1: _FLOAT_DATA, 11: _DOUBLE_DATA, 7: _INT64_DATA, 12: _UINT64_DATA, 13: _UINT64_DATA}


def type_name(elem_type: int) -> str:
    """Return the name of an ONNX element type."""
    return TYPE_NAMES.get(elem_type, f"type {elem_type}")


@dataclass(frozen=True)
class External:
    """Where external data lies; ``length`` is None when it is what the sizes need."""

    location: str
    offset: int
    length: int | None


@dataclass(frozen=True)
class Tensor:
    """A tensor that is not decoded yet."""

    name: str
    dims: tuple[int, ...]
    elem_type: int
    raw: memoryview | None = None
    values: Array | None = None
    external: External | None = None

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)


def read_tensor(message: Message, named: bool = False) -> Tensor:
    """Read a TensorProto and check that it holds as many bytes or numbers as its sizes say.

    Raises
    ------
    ModelFileError
        Sizes and data that don't fit, or an element type that has no data here.
    """
    name = message.text(8)
    if named and not name:
        raise ModelFileError("an initializer has no name")
    dims = tuple(int(d) for d in message.integers(1))
    elem_type = message.integer(2)
    what = f"tensor {name!r} of shape {list(dims)}"
    if len(dims) > MAX_RANK or any(not 0 <= d <= MAX_SIZE for d in dims):
        raise ModelFileError(f"{what}: at most {MAX_RANK} sizes, each from 0 to 2**40")
    if math.prod(d for d in dims if d) > MAX_SIZE:
        raise ModelFileError(f"{what}: at most 2**40 elements")
    if message.has(3):
        raise ModelFileError(f"{what} is a segment of another tensor")
    if message.integer(14) == 1:
        return Tensor(name, dims, elem_type, external=_external(message, what))
    if elem_type not in STORED:
        return Tensor(name, dims, elem_type)
    raw = message.view(9)
    needed = math.prod(dims)
    if raw is not None:
        size = needed * np.dtype(STORED[elem_type]).itemsize
        if len(raw) != size:
            raise ModelFileError(
                f"{what} has {len(raw)} bytes of {type_name(elem_type)}; {size} fit"
            )
        return Tensor(name, dims, elem_type, raw=raw)
    number = _TYPED.get(elem_type, _INT32_DATA)
    if number in (_FLOAT_DATA, _DOUBLE_DATA):
        values = message.reals(number, "<f4" if number == _FLOAT_DATA else "<f8")
    else:
        values = message.integers(number)
    if values.size != needed:
        raise ModelFileError(f"{what} has {values.size} values; {needed} are needed")
    return Tensor(name, dims, elem_type, values=values)


def _external(message: Message, what: str) -> External:
    keys: dict[str, str] = {}
    for entry in message.messages(13, f"the external data of {what}"):
        key = entry.text(1)
        if key in keys:
            raise ModelFileError(f"{what}: external data names {key!r} twice")
        keys[key] = entry.text(2)
    numbers: dict[str, int] = {}
    for key in ("offset", "length"):
        text = keys.get(key, "")
        if text and not (text.isascii() and text.isdigit() and len(text) < 20):
            raise ModelFileError(f"{what}: {key} of the external data is {text[:40]!r}, no size")
        if text:
            numbers[key] = int(text)
    location = keys.get("location", "")
    if not location:
        raise ModelFileError(f"{what}: external data without a location")
    return External(location, numbers.get("offset", 0), numbers.get("length"))


@dataclass
class Loader:
    """Decodes tensors; opens external files below ``folder``, or none at all if it is None."""

    folder: Path | None = None

    def load(self, tensor: Tensor) -> Array:
        """Return the tensor as a fresh array in its own type (bfloat16 as float32).

        Raises
        ------
        ModelFileError
            External data that may not or cannot be read, or a type that has no array.
        """
        if tensor.elem_type not in STORED:
            raise ModelFileError(
                f"tensor {tensor.name!r} has the element type {type_name(tensor.elem_type)}"
            )
        stored = np.dtype(STORED[tensor.elem_type])
        if tensor.values is not None:
            flat = tensor.values
            if flat.dtype.kind == "i" and flat.dtype != stored:
                flat = _narrow(flat, stored, tensor.name)
        elif tensor.raw is not None:
            flat = np.frombuffer(tensor.raw, stored)
        else:
            flat = np.frombuffer(self.external_bytes(tensor), stored)
        return _decoded(flat, tensor.elem_type).reshape(tensor.dims)

    def external_bytes(self, tensor: Tensor) -> bytes:
        """Return the bytes of a tensor that lies outside the model.

        Raises
        ------
        ModelFileError, FileAccessError
            A place that is not allowed, other sizes, or a file that cannot be read.
        """
        place = tensor.external
        size = tensor.count * np.dtype(STORED[tensor.elem_type]).itemsize
        assert place is not None
        what = f"tensor {tensor.name!r} in {place.location[:80]!r}"
        if place.length is not None and place.length != size:
            raise ModelFileError(f"{what} has {place.length} bytes; its sizes need {size}")
        if self.folder is None:
            raise ModelFileError(f"{what} lies beside the model: load the model by its path")
        return _read_beside(self.folder, place.location, place.offset, size, what)


def _narrow(values: Array, stored: np.dtype[Any], name: str) -> Array:
    """Bring numbers from int32_data, int64_data or uint64_data to the type they stand for."""
    if stored.itemsize == 8:
        return values.view(stored)
    info = np.iinfo(stored if stored.kind in "iu" else np.uint16)
    if values.size and (values.min() < info.min or values.max() > info.max):
        raise ModelFileError(f"tensor {name!r} has values outside {info.min} to {info.max}")
    if stored.kind == "f":
        return values.astype(np.uint16).view(stored)
    return values.astype(stored)


def _decoded(flat: Array, elem_type: int) -> Array:
    if elem_type == BFLOAT16:
        wide: Array = flat.astype(np.uint32) << np.uint32(16)
        return wide.view(np.float32)
    if elem_type == 9:
        return np.not_equal(flat, 0)
    return flat.astype(flat.dtype.newbyteorder("="), copy=True)


def _read_beside(folder: Path, location: str, offset: int, size: int, what: str) -> bytes:
    parts = location.split("/")
    if parts[0] == ".":
        parts = parts[1:]
    bad = any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts)
    if bad or not parts or Path(location).is_absolute() or ":" in parts[0]:
        raise ModelFileError(f"{what}: only plain relative paths below the model's folder are read")
    try:
        handle = _open_beside(folder, parts)
        try:
            return _read_range(handle, offset, size, what)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
            raise ModelFileError(f"{what}: links are not followed") from None
        raise FileAccessError(error.errno, f"{what}: {error.strerror}") from error


def _open_beside(folder: Path, parts: list[str]) -> int:
    """Open step by step without following links, so that nothing can be swapped on the way."""
    nofollow, directory = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_DIRECTORY", 0)
    flags = os.O_RDONLY | nofollow | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if os.open not in os.supports_dir_fd or not nofollow:
        full = folder.joinpath(*parts)
        if full.resolve() != folder.resolve().joinpath(*parts):
            raise OSError(errno.ELOOP, "a link")
        return os.open(full, flags)
    handle = os.open(folder, os.O_RDONLY | directory)
    for i, part in enumerate(parts):
        try:
            deeper = os.open(part, flags | (directory if i < len(parts) - 1 else 0), dir_fd=handle)
        finally:
            os.close(handle)
        handle = deeper
    return handle


def _read_range(handle: int, offset: int, size: int, what: str) -> bytes:
    info = os.fstat(handle)
    if not stat.S_ISREG(info.st_mode):
        raise ModelFileError(f"{what}: it is no regular file")
    if info.st_nlink > 1:
        raise ModelFileError(f"{what}: the file has {info.st_nlink} hard links; 1 is allowed")
    if offset + size > info.st_size:
        raise ModelFileError(
            f"{what}: bytes {offset} to {offset + size} of a file of {info.st_size} bytes"
        )
    os.lseek(handle, offset, os.SEEK_SET)
    data = bytearray()
    while len(data) < size:
        part = os.read(handle, min(size - len(data), 1 << 24))
        if not part:
            raise ModelFileError(f"{what}: the file became shorter while it was read")
        data += part
    return bytes(data)
