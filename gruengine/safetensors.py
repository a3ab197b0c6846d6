# SPDX-License-Identifier: MIT
"""Safetensors: a strict reader and a writer, with NumPy only.

The layout is the one of the safetensors format: 8 bytes with the length of the header, the header
(one JSON object), then the bytes of the tensors, without holes, up to the last byte of the file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gruengine.errors import ModelFileError

Array = np.ndarray[Any, Any]

MAX_HEADER = 100_000_000  # bytes, the format's own limit
MAX_DEPTH = 128  # of JSON values inside each other
MAX_RANK = 32
ALIGNMENT = 64

NUMPY_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
# The dtype of arrays that hold the bits of bfloat16.
BFLOAT16 = np.dtype([("bfloat16", "<u2")])
_NAMES = {dtype: name for name, dtype in NUMPY_DTYPES.items() if name != "BF16"}

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[{]|[\]}]")


def shown(value: object, limit: int = 80) -> str:
    """Return ``repr(value)``, shortened, for the message of an error."""
    text = repr(value)
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= limit else text[:limit] + "..."


def parse_json(text: bytes, what: str) -> Any:
    """Parse strict JSON: UTF-8, no key twice, int64 integers, finite floats, bounded depth.

    Parameters
    ----------
    text : bytes
        The document.
    what : str
        Its name in messages.

    Raises
    ------
    ModelFileError
        If the text breaks one of these rules.
    """
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", text)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise ModelFileError(f"{what} is JSON deeper than {MAX_DEPTH} levels")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                raise ValueError(f"key {shown(key)} occurs twice")
            result[key] = value
        return result

    def integer(digits: str) -> int:
        value = int(digits) if len(digits) <= 20 else 1 << 64
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError(f"integer {shown(digits)}; allowed are those of 64 bits")
        return value

    def real(digits: str) -> float:
        value = float(digits)
        vanished = value == 0 and re.search("[1-9]", re.split("[eE]", digits)[0])
        if not math.isfinite(value) or vanished:
            raise ValueError(f"number {shown(digits)}; allowed are those that a double can hold")
        return value

    def constant(name: str) -> float:
        raise ValueError(f"{name}; allowed are finite numbers")

    try:
        result = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=unique,
            parse_int=integer,
            parse_float=real,
            parse_constant=constant,
        )
        if b"\\u" in text:  # escapes can spell lone surrogates, which no UTF-8 holds
            json.dumps(result, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{what} is not strict JSON: {error}") from None
    return result


def read(data: bytes | memoryview) -> tuple[dict[str, Array], dict[str, str]]:
    """Read a whole safetensors file from memory.

    Parameters
    ----------
    data : bytes or memoryview
        The file. The arrays share its memory (read-only) where their elements are aligned.

    Returns
    -------
    tensors : dict of str to ndarray
        In the order of the bytes. BF16 comes as float32, which holds it exactly.
    metadata : dict of str to str
        The ``__metadata__`` of the header; empty if there is none.

    Raises
    ------
    ModelFileError
        If anything breaks the format: it says what and where.
    """
    view = memoryview(data).cast("B")
    begin, header = _header(view)
    metadata = _metadata(header.pop("__metadata__", {}))
    size = len(view) - begin
    entries = [(name, *_entry(name, value, size)) for name, value in header.items()]
    entries.sort(key=lambda entry: (entry[3], entry[4]))
    position = 0
    for name, _, _, first, last in entries:
        if first != position:
            fault = "leave a hole after" if first > position else "overlap"
            raise ModelFileError(
                f"the bytes of tensor {shown(name)} begin at {first} and {fault} those that end at "
                f"{position}; allowed are tensors one after the other"
            )
        position = last
    if position != size:
        raise ModelFileError(f"the tensors end at byte {position} of {size} bytes of data")
    tensors = {
        name: _array(name, view[begin + first : begin + last], tag, shape)
        for name, tag, shape, first, last in entries
    }
    return tensors, metadata


def pieces(
    tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """Yield the bytes of a safetensors file: the header, then each tensor.

    The data begin at a multiple of 64 bytes. Tensors of whole multiples of 64 bytes come first, the
    others follow from the widest element to the narrowest, so every element is aligned.

    Raises
    ------
    ModelFileError
        If a dtype has no name in the format, or the header would be too long.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    order = sorted(
        tensors,
        key=lambda name: (tensors[name].nbytes % ALIGNMENT != 0, -tensors[name].itemsize, name),
    )
    begin = 0
    for name in order:
        bfloat16 = tensors[name].dtype == BFLOAT16
        tag = "BF16" if bfloat16 else _NAMES.get(tensors[name].dtype.newbyteorder("<"))
        if tag is None:
            raise ModelFileError(
                f"tensor {shown(name)} has dtype {tensors[name].dtype}; "
                f"allowed are {', '.join(str(dtype) for dtype in _NAMES)}"
            )
        end = begin + tensors[name].nbytes
        header[name] = {
            "dtype": tag,
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise ModelFileError(f"a header of {len(text)} bytes; allowed are {MAX_HEADER}")
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        little = tensors[name].astype(tensors[name].dtype.newbyteorder("<"), copy=False)
        yield np.ascontiguousarray(little).reshape(-1).view(np.uint8).data


def _header(view: memoryview) -> tuple[int, dict[str, Any]]:
    """Return where the data begin, and the header."""
    if len(view) < 8:
        raise ModelFileError(f"a safetensors file of {len(view)} bytes; allowed are 8 or more")
    length = int.from_bytes(view[:8], "little")
    if length > MAX_HEADER:
        raise ModelFileError(
            f"not a safetensors file: a header of {length} bytes; allowed are {MAX_HEADER}"
        )
    if length > len(view) - 8:
        raise ModelFileError(
            f"the header says {length} bytes, the file holds {len(view) - 8} after its length"
        )
    text = bytes(view[8 : 8 + length])
    if not text.startswith(b"{"):
        raise ModelFileError(f"the header begins with {shown(text[:1])}; allowed is b'{{'")
    header = parse_json(text, "the header")
    return 8 + length, header  # starts with "{": it is an object


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ModelFileError(f"__metadata__ is {shown(value)}; allowed are names with strings")
    return value


def _entry(name: str, value: Any, size: int) -> tuple[str, tuple[int, ...], int, int]:
    """Check one tensor of the header against the size of the data: dtype, shape, first, last."""
    if "\0" in name:
        raise ModelFileError(f"tensor name {shown(name)} holds a zero character")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ModelFileError(
            f"tensor {shown(name)} is {shown(value)}; allowed are dtype, shape and data_offsets"
        )
    tag, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(tag, str) or tag not in NUMPY_DTYPES:
        raise ModelFileError(
            f"tensor {shown(name)} has dtype {shown(tag)}; allowed are {', '.join(NUMPY_DTYPES)}"
        )
    if not _sizes(shape) or len(shape) > MAX_RANK:
        raise ModelFileError(
            f"tensor {shown(name)} has shape {shown(shape)}; "
            f"allowed are up to {MAX_RANK} sizes >= 0"
        )
    if not _sizes(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= size:
        raise ModelFileError(
            f"tensor {shown(name)} has data_offsets {shown(offsets)}; "
            f"allowed are two in order, up to {size}"
        )
    # Sizes beside a zero count too: every reader multiplies strides out of them.
    if math.prod(item for item in shape if item) * NUMPY_DTYPES[tag].itemsize >= 1 << 63:
        raise ModelFileError(f"tensor {shown(name)} has shape {shown(shape)}: beyond 64 bits")
    needed = math.prod(shape) * NUMPY_DTYPES[tag].itemsize
    if offsets[1] - offsets[0] != needed:
        raise ModelFileError(
            f"tensor {shown(name)} of dtype {tag} and shape {shown(shape)} needs {shown(needed)} "
            f"bytes, its data_offsets hold {offsets[1] - offsets[0]}"
        )
    return tag, tuple(shape), offsets[0], offsets[1]


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _array(name: str, data: memoryview, tag: str, shape: tuple[int, ...]) -> Array:
    dtype = NUMPY_DTYPES[tag]
    if tag == "BOOL" and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise ModelFileError(f"tensor {shown(name)} is BOOL with bytes other than 0 and 1")
    flat: Array = np.frombuffer(data, dtype)
    if tag == "BF16":
        flat = np.left_shift(flat.astype(np.uint32), 16, dtype=np.uint32).view(np.float32)
    elif not flat.flags.aligned:
        flat = flat.copy()
    return flat.reshape(shape)
