# SPDX-License-Identifier: MIT
"""Readers of trained models: one source format a file, each fills a ``ModelSpec``.

``read(source)`` recognises the format by content and returns the spec with its report.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Union

from gruengine.converters.base import ConversionError, ConversionReport, Options, Reason
from gruengine.errors import FileAccessError, InvalidTypeError, ModelFileError, UnsupportedError
from gruengine.spec import ModelSpec

__all__ = [
    "FORMATS",
    "ConversionError",
    "ConversionReport",
    "Options",
    "Reason",
    "is_model_file",
    "is_parted_file",
    "load_source",
    "read",
    "read_file",
    "sniff",
]

#: Format name -> what a person calls it.
FORMATS = {
    "gruengine": "gruengine model file",
    "parts": "gruengine model file with parts for ONNX Runtime",
    "safetensors": "safetensors weights",
    "torch-zip": "PyTorch checkpoint (zip)",
    "torch-legacy": "PyTorch checkpoint (legacy pickle)",
    "onnx": "ONNX model",
    "json": "JSON (RTNeural, AIDA-X, GuitarML, NAM)",
    "npz": "NumPy archive of weights (.npz)",
    "keras": "Keras model (.keras, .h5)",
}

_LONGEST_HEADER = 100_000_000  # bytes, the limit of safetensors

Source = Union[str, "os.PathLike[str]", bytes]


def read(source: Source, options: Options | None = None) -> tuple[ModelSpec, ConversionReport]:
    """Read a model of any known format; its format is found by content, not by name.

    Parameters
    ----------
    source : path or bytes
    options : Options, optional

    Returns
    -------
    ModelSpec, ConversionReport
        Without parity sample, streaming and parity error: ``gruengine.convert`` adds them.

    Raises
    ------
    FileAccessError
        The operating system refused to read the file.
    ModelFileError
        The content is of no known format, or breaks its format.
    ConversionError
        The model cannot be converted exactly; every reason is listed.
    """
    options = options or Options()
    data, path, name = load_source(source)
    kind = sniff(data, name)
    if kind == "gruengine":
        return _read_own(data, name)
    if kind == "parts":
        raise UnsupportedError(
            f"{name} has parts that ONNX Runtime runs, and no single graph: gruengine.load opens "
            "it; convert its source again for anything else"
        )
    if kind == "onnx":
        from gruengine.converters.onnx import read_onnx

        return read_onnx(data, path=path, name=name, options=options)
    if kind == "keras":
        from gruengine.converters.keras import read_keras

        return read_keras(data, path=path, name=name, options=options)
    if kind == "json":
        from gruengine.converters.rtneural import read_json

        return read_json(data, path=path, name=name, options=options)
    if kind == "npz":
        from gruengine.converters.npz import read_npz

        return read_npz(data, path=path, name=name, options=options)
    from gruengine.converters.torch import read_checkpoint

    return read_checkpoint(data, path=path, name=name, options=options)


def load_source(source: Source) -> tuple[bytes, str | None, str]:
    """Return the bytes of ``source``, its path (None for bytes) and its name in messages."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source), None, "<bytes>"
    if not isinstance(source, (str, os.PathLike)):
        raise InvalidTypeError(
            f"a source of type {type(source).__name__}; allowed: a path or the bytes of a file"
        )
    path = os.fspath(source)
    return read_file(path), path, os.path.basename(path)


def read_file(path: str) -> bytes:
    """Return the content of a regular file.

    Raises
    ------
    FileAccessError
        The file does not exist, is no regular file, or may not be read.
    """
    with _opened(path) as file:
        return file.read()


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    try:
        # Without O_NONBLOCK a named pipe would wait for a writer.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FileAccessError(f"cannot read {path!r}: it is not a regular file")
            yield file
    except FileAccessError:
        raise
    except OSError as error:
        text = f"cannot read {path!r}: {error.strerror or error}"
        raise (
            FileAccessError(error.errno, text) if error.errno else FileAccessError(text)
        ) from error


def is_model_file(source: Source) -> bool:
    """Tell whether ``source`` is a file that gruengine wrote, by its header alone.

    Raises
    ------
    FileAccessError
        The file does not exist, is no regular file, or may not be read.
    """
    return _has_metadata(_header_of(source), _OWN)


def is_parted_file(source: Source) -> bool:
    """Tell whether ``source`` is a model of ours with parts that ONNX Runtime runs.

    Raises
    ------
    FileAccessError
        The file does not exist, is no regular file, or may not be read.
    """
    return _has_metadata(_header_of(source), _PARTS)


def _header_of(source: Source) -> bytes:
    """Return the start of a safetensors file as far as its header goes, else b""."""
    if not isinstance(source, (str, os.PathLike)):
        data = load_source(source)[0]
        return data if _is_safetensors(data) else b""
    with _opened(os.fspath(source)) as file:
        start = file.read(9)
        if len(start) < 9 or start[8:] != b"{":
            return b""
        (length,) = struct.unpack("<Q", start[:8])
        return start + file.read(length - 1) if length <= _LONGEST_HEADER else b""


def sniff(data: bytes, name: str = "<bytes>") -> str:
    """Return the format of ``data``, a key of ``FORMATS``.

    Raises
    ------
    ModelFileError
        It is of no known format; the message says what it looks like.
    UnsupportedError
        It is of a format that is known and not read.
    """
    if data[:4] == b"PK\x03\x04":
        # Keras' members are named in the directory, which stands at the end.
        end = data[-65536:]
        if b".npy" in end and b"/data.pkl" not in end:
            return "npz"
        return "keras" if b"config.json" in end and b"model.weights." in end else "torch-zip"
    if data[:8] == b"\x89HDF\r\n\x1a\n":
        return "keras"
    if _is_safetensors(data):
        if _has_metadata(data, _PARTS):
            return "parts"
        return "gruengine" if _has_metadata(data, _OWN) else "safetensors"
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "torch-legacy"
    if _is_onnx(data):
        return "onnx"
    if data.lstrip()[:1] == b"{" and any(key in data for key in _JSON_KEYS):
        return "json"
    for magic, what in _OTHERS:
        if data.startswith(magic, 4 if magic == b"TFL3" else 0):
            raise UnsupportedError(f"{name} is {what}; {_allowed()}")
    raise ModelFileError(f"{name} is {_looks_like(data)}; {_allowed()}")


_JSON_KEYS = (b'"layers"', b'"state_dict"', b'"architecture"', b"weight_ih")
_OTHERS = (
    (b"TFL3", "a TensorFlow Lite model"),
    (b"GGUF", "a GGUF file"),
    (b"\x93NUMPY", "a NumPy array"),
)


def _allowed() -> str:
    return "allowed: " + ", ".join(FORMATS.values())


def _looks_like(data: bytes) -> str:
    if not data:
        return "empty"
    start = data[:8].hex(" ")
    if data.lstrip()[:1] in (b"{", b"["):
        return f"{len(data)} bytes of what looks like JSON"
    return f"{len(data)} bytes of no known format, starting with {start}"


def _is_safetensors(data: bytes) -> bool:
    if len(data) < 10 or data[8:9] != b"{":
        return False
    (length,) = struct.unpack("<Q", data[:8])
    return 2 <= int(length) <= len(data) - 8


_OWN, _PARTS = b'"gruengine"', b'"gruengine_parts"'


def _has_metadata(data: bytes, key: bytes) -> bool:
    """Look for our key in the header; a file that only mentions it is refused when it is read."""
    if len(data) < 9:
        return False
    (length,) = struct.unpack("<Q", data[:8])
    header = data[8 : 8 + length]
    return b'"__metadata__"' in header and key in header


# Top-level fields of onnx.ModelProto: number -> wire type (0 varint, 2 bytes).
_MODEL_PROTO = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}


def _is_onnx(data: bytes) -> bool:
    """Walk the top level of a protobuf: only fields of ModelProto, a graph among them."""
    at, seen = 0, set()
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if at < 0 or _MODEL_PROTO.get(number) != wire:
            return False
        value, at = _varint(data, at)
        if at < 0:
            return False
        if wire == 2:
            at += value
        seen.add(number)
        # A file that was cut is still ONNX: its reader says what is wrong with it.
        if at > len(data):
            return number == 7 and 1 in seen
    return 7 in seen


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the value and where it ends, -1 if it does not."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    return 0, -1


def _read_own(data: bytes, name: str) -> tuple[ModelSpec, ConversionReport]:
    try:
        spec = ModelSpec.from_bytes(data)
    except ModelFileError as error:
        raise ModelFileError(f"{name}: {error}") from None
    recurrent = [node for node in spec.graph.nodes if node.op == "Recurrent"]
    report = ConversionReport(
        source=name,
        source_format="gruengine",
        recognised=[_in_words(node.name, node.attrs) for node in recurrent],
        nodes_before=len(spec.graph.nodes),
        nodes_after=len(spec.graph.nodes),
        parameters=sum(int(t.size) for t in spec.tensors.values() if t.dtype.kind == "f"),
        source_bytes=len(data),
        state=spec.state,
    )
    return spec, report


def _in_words(name: str, attrs: object) -> str:
    values = attrs if isinstance(attrs, dict) else {}
    cell, size = str(values.get("cell", "")).upper(), values.get("hidden_size")
    return f"{name or 'recurrent'}: {cell} {size} {values.get('direction', 'forward')}"
