# SPDX-License-Identifier: MIT
"""Element types, dataspaces, attributes and filters of HDF5, decoded from their messages."""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from gruengine.converters.hdf5_blocks import Bytes
from gruengine.converters.zip_reader import inflate
from gruengine.errors import ModelFileError

Array = np.ndarray[Any, Any]

MAX_RANK = 32
MAX_ELEMENTS = 1 << 40
DEFLATE, SHUFFLE, FLETCHER = 1, 2, 3
FILTERS = {DEFLATE: "deflate", SHUFFLE: "shuffle", FLETCHER: "fletcher32"}


def unpack(form: str, message: memoryview, offset: int, what: str) -> tuple[Any, ...]:
    """Unpack little-endian numbers, with an error where the message ends before them."""
    if offset < 0 or struct.calcsize("<" + form) > len(message) - offset:
        raise ModelFileError(f"an HDF5 {what} of {len(message)} bytes ends too early")
    return struct.unpack_from("<" + form, message, offset)


@dataclass(frozen=True)
class Type:
    """An element type: a NumPy dtype, or a string of variable length (``dtype`` None)."""

    size: int
    dtype: np.dtype[Any] | None
    text: bool = False
    bfloat16: bool = False


def read_type(message: memoryview) -> Type:
    """Decode a datatype message: integers, IEEE floats, bfloat16, strings, plain bytes."""
    head, bits, _, size = unpack("BBHI", message, 0, "datatype")
    kind, order = head & 15, ">" if bits & 1 else "<"
    if size == 0 or size > 1 << 20:
        raise ModelFileError(f"an HDF5 element of {size} bytes; allowed are 1 to {1 << 20}")
    if kind == 0 and size in (1, 2, 4, 8):
        _, precision = unpack("HH", message, 8, "datatype")
        if precision == 8 * size:
            return Type(size, np.dtype(f"{order}{'i' if bits & 8 else 'u'}{size}"))
    if kind == 1 and size in (2, 4, 8) and not bits & 0x40:
        offset, precision, *place, bias = unpack("HHBBBBI", message, 8, "datatype")
        for name, layout in _FLOATS.items():
            if (size, offset, precision, *place, bias) == layout:
                if name == "bfloat16":
                    return Type(size, np.dtype(f"{order}u2"), bfloat16=True)
                return Type(size, np.dtype(f"{order}f{size}"))
    if kind == 3:
        return Type(size, np.dtype(f"S{size}"), text=True)
    if kind == 5:
        return Type(size, np.dtype(f"V{size}"))
    if kind == 8:  # an enumeration is its integers
        return read_type(message[8:])
    if kind == 9 and bits & 15 == 1 and size == 16:
        return Type(size, None, text=True)
    raise ModelFileError(
        f"an HDF5 element type of class {kind} and {size} bytes; allowed are integers, IEEE "
        "floats, bfloat16 and strings"
    )


# size, bit offset, precision, exponent (place, size), mantissa (place, size), bias
_FLOATS = {
    "float16": (2, 0, 16, 10, 5, 0, 10, 15),
    "bfloat16": (2, 0, 16, 7, 8, 0, 7, 127),
    "float32": (4, 0, 32, 23, 8, 0, 23, 127),
    "float64": (8, 0, 64, 52, 11, 0, 52, 1023),
}


def read_space(message: memoryview) -> tuple[int, ...]:
    """Decode a dataspace message."""
    version, rank, flags = unpack("BBB", message, 0, "dataspace")
    if version not in (1, 2) or rank > MAX_RANK or flags & ~3:
        raise ModelFileError(
            f"an HDF5 dataspace of version {version} and rank {rank}; allowed are versions 1, 2 "
            f"and up to {MAX_RANK} axes"
        )
    if version == 2 and unpack("B", message, 3, "dataspace")[0] == 2:
        return (0,)  # no value at all
    sizes = unpack(f"{rank}Q", message, 8 if version == 1 else 4, "dataspace")
    if math.prod(max(size, 1) for size in sizes) > MAX_ELEMENTS:
        raise ModelFileError(f"an HDF5 shape of {list(sizes)}; allowed are 2^40 elements")
    return tuple(int(size) for size in sizes)


def read_attribute(file: Bytes, message: memoryview, budget: list[int]) -> tuple[str, Any] | None:
    """Return name and value of an attribute: str, list of str, or an array.

    None for a type that Keras does not write; ``budget`` is what all attributes may still take.
    """
    version, flags, name_size, type_size, space_size = unpack("BBHHH", message, 0, "attribute")
    if version not in (1, 2, 3) or (version > 1 and flags & 3):
        raise ModelFileError(f"an HDF5 attribute of version {version} with a shared type")
    position = 9 if version == 3 else 8
    parts = []
    for size in (name_size, type_size, space_size):
        parts.append(message[position : position + size])
        position += (size + 7) // 8 * 8 if version == 1 else size
    name = decode(bytes(parts[0]).split(b"\0")[0])
    try:
        kind = read_type(parts[1])
    except ModelFileError:
        return None
    shape = read_space(parts[2])
    data = message[position:]
    count = math.prod(shape)
    if count * kind.size > len(data):
        raise ModelFileError(
            f"the HDF5 attribute {name!r} of {count} elements of {kind.size} bytes has "
            f"{len(data)} bytes"
        )
    if not kind.text:
        assert kind.dtype is not None
        return name, np.frombuffer(data, kind.dtype, count).reshape(shape)
    texts = [_text(file, data[i * kind.size :], kind, budget) for i in range(count)]
    return name, texts if shape else texts[0]


def _text(file: Bytes, data: memoryview, kind: Type, budget: list[int]) -> str:
    if kind.dtype is not None:
        raw = bytes(data[: kind.size]).rstrip(b"\0")
    else:
        size, address, index = struct.unpack_from("<IQI", data, 0)
        if size == 0:
            return ""
        found = file.global_object(address, index)
        if size > len(found):
            raise ModelFileError(f"an HDF5 string of {size} bytes is stored in {len(found)}")
        raw = bytes(found[:size])
    budget[0] -= len(raw)
    if budget[0] < 0:
        raise ModelFileError("the HDF5 attributes together are larger than the file")
    return decode(raw)


def decode(raw: bytes) -> str:
    """Return a string of the file."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ModelFileError(f"the HDF5 string {raw[:40]!r} is not UTF-8") from None


def read_filters(message: memoryview, where: str) -> list[int]:
    """Return the filters of a dataset in the order in which they were applied."""
    version, count = unpack("BB", message, 0, "filter pipeline")
    if version not in (1, 2) or count > 32:
        raise ModelFileError(f"{where}: an HDF5 filter pipeline of version {version}")
    position = 8 if version == 1 else 2
    found = []
    for _ in range(count):
        (number,) = unpack("H", message, position, "filter")
        named = version == 1 or number >= 256
        name_size = unpack("H", message, position + 2, "filter")[0] if named else 0
        position += 4 if named else 2
        _, values = unpack("HH", message, position, "filter")
        position += 4 + ((name_size + 7) // 8 * 8 if version == 1 else name_size) + 4 * values
        position += 4 if version == 1 and values % 2 else 0
        if number not in FILTERS or number in found:
            allowed = ", ".join(FILTERS.values())
            raise ModelFileError(f"{where}: HDF5 filter {number}; allowed are {allowed}, once each")
        found.append(number)
    return found


def undo_filters(raw: memoryview, filters: list[int], skip: int, size: int, item: int) -> bytes:
    """Return the ``size`` bytes of a chunk; never inflates more than that."""
    data = bytes(raw)
    for index, number in reversed(list(enumerate(filters))):
        if skip >> index & 1:
            continue
        if number == DEFLATE:
            data = inflate(data, size + 4, zlib.MAX_WBITS)
        elif number == FLETCHER:
            data = data[:-4]
        elif number == SHUFFLE and item > 1:
            whole = len(data) // item * item
            planes = np.frombuffer(data[:whole], np.uint8).reshape(item, -1)
            data = planes.T.tobytes() + data[whole:]
    if len(data) != size:
        raise ModelFileError(f"an HDF5 chunk of {len(data)} bytes; its shape needs {size}")
    return data
