# SPDX-License-Identifier: MIT
"""Weights in a NumPy archive, ``.npz``, under the names of PyTorch or of Keras.

Arrays are read by a strict reader of their own: no objects, no pickles, no more bytes than are
there. Names like ``lstm/kernel`` are brought to those of a state dict; the hints are the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from gruengine.converters import gates
from gruengine.converters.base import ConversionReport, Options, Reason
from gruengine.converters.torch import HINTS, finish
from gruengine.converters.torch_state import read_state, strip_prefixes
from gruengine.converters.zip_reader import ZipArchive
from gruengine.errors import ModelFileError
from gruengine.safetensors import shown
from gruengine.spec import ModelSpec

Array = np.ndarray[Any, Any]

MAX_ARRAYS = 100_000
MAX_RANK = 8
_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    rb"\{ *'descr': *'([<>|=][a-zA-Z][0-9]*)', *'fortran_order': *(True|False), "
    rb"*'shape': *\(([0-9, ]{0,200})\),? *\} *\n?"
)
_DTYPES = {f"{order}{kind}" for order in "<>=" for kind in ("f2", "f4", "f8", "i8", "i4")}

_KERAS = re.compile(r"(.+)/(kernel|recurrent_kernel|bias|embeddings|gamma|beta)(?::0)?")
_CELL = re.compile(r"(?:.*_)?cell(?:_[0-9]+)?")


def read_npz(
    data: bytes, *, path: str | None, name: str, options: Options
) -> tuple[ModelSpec, ConversionReport]:
    """Read an ``.npz`` of weights.

    Parameters
    ----------
    data : bytes
    path : str or None
        Not opened again.
    name : str
        The model's name in messages.
    options : Options
        The hints of a state dict; with names of Keras ``batch_first`` is True by default.

    Raises
    ------
    ModelFileError
        The archive or an array in it breaks its format.
    ConversionError
        The model cannot be converted exactly; every reason is listed.
    """
    try:
        arrays = load_arrays(data)
    except ModelFileError as error:
        raise ModelFileError(f"{name}: {error}") from None
    return read_arrays(arrays, False, data, "npz", name, options)


def load_arrays(data: bytes) -> dict[str, Array]:
    """Return the arrays of an ``.npz`` by name.

    Raises
    ------
    ModelFileError
        Something else than plain arrays of floats and integers.
    """
    archive = ZipArchive(data, deflated=True)
    if len(archive.names) > MAX_ARRAYS:
        raise ModelFileError(f"{len(archive.names)} arrays; allowed are {MAX_ARRAYS}")
    found = {}
    for member in archive.names:
        if not member.endswith(".npy"):
            raise ModelFileError(f"a member {shown(member)}; an .npz has arrays, *.npy, alone")
        found[member.removesuffix(".npy")] = _array(archive.read(member), member)
    return found


def _array(view: memoryview, name: str) -> Array:
    start = bytes(view[:12])
    if start[:6] != _MAGIC or len(start) < 12 or start[6] not in (1, 2, 3):
        raise ModelFileError(f"{name} is no NumPy array")
    wide = start[6] > 1
    at = 12 if wide else 10
    length = int.from_bytes(start[8:at], "little")
    header = _HEADER.fullmatch(bytes(view[at : at + min(length, 4096)]))
    if header is None or at + length > len(view):
        raise ModelFileError(f"{name} has a header that is not one of a plain array")
    kind = header[1].decode()
    if kind not in _DTYPES:
        allowed = "float16, float32, float64, int32 and int64"
        raise ModelFileError(f"{name} has the dtype {kind!r}; allowed are {allowed}")
    sizes = [one.strip() for one in header[3].decode().split(",") if one.strip()]
    if len(sizes) > MAX_RANK or not all(re.fullmatch("[0-9]{1,12}", one) for one in sizes):
        raise ModelFileError(f"{name} has the shape ({header[3].decode()})")
    shape = tuple(int(one) for one in sizes)
    dtype, count = np.dtype(kind), 1
    for one in shape:
        count *= one
    body = view[at + length :]
    if count * dtype.itemsize != len(body) or (count == 0 and max(shape) > 1 << 32):
        raise ModelFileError(f"{name} has {len(body)} bytes; {shape} of {dtype} are another number")
    array = np.frombuffer(body, dtype)
    array = array.reshape(shape, order="F" if header[2] == b"True" else "C")
    return np.ascontiguousarray(array, dtype.newbyteorder("=")).reshape(shape)


def read_arrays(
    arrays: Mapping[str, Array],
    ordered: bool,
    data: bytes,
    kind: str,
    name: str,
    options: Options,
) -> tuple[ModelSpec, ConversionReport]:
    """Convert named arrays with the hints of a state dict; ``data`` is the file they come from."""
    reasons = [Reason("", f"hint {hint!r}", f"the hints are {', '.join(HINTS)}")
               for hint in options.hints if hint not in HINTS]  # fmt: skip
    before: set[str] = set()
    hints = dict(options.hints)
    if arrays and all(_KERAS.fullmatch(key) for key in arrays):
        arrays, before = _from_keras(arrays, hints, reasons)
    else:
        short = strip_prefixes(list(arrays))
        arrays = {short[key]: array for key, array in arrays.items()}
    hints.setdefault("batch_first", True)
    own = Options(options.bind, options.state, hints)
    layers = [] if reasons else read_state(arrays, ordered, own, reasons)
    spec, report = finish(layers, reasons, name, own)
    for node in spec.graph.nodes:
        if node.op == "Recurrent" and node.name.removesuffix(".l0/Recurrent") in before:
            node.attrs["reset"] = "before"
    spec.provenance.update(format=kind, sha256=hashlib.sha256(data).hexdigest())
    report.source_format = kind
    report.source_bytes = len(data)
    if "batch_first" not in options.hints:
        report.warnings.append("the input is [N, T, I]; else pass the hint batch_first=False")
    return spec, report


# -- names of Keras -------------------------------------------------------------------------------


def _from_keras(
    arrays: Mapping[str, Array], hints: dict[str, Any], reasons: list[Reason]
) -> tuple[dict[str, Array], set[str]]:
    """Return arrays by the names of PyTorch, and the GRUs that reset before the product."""
    groups: dict[str, dict[str, dict[str, Array]]] = {}
    for key, array in arrays.items():
        match = _KERAS.fullmatch(key)
        assert match is not None
        parts = [part for part in match[1].split("/") if not _CELL.fullmatch(part)]
        way = ""
        if parts and re.fullmatch(r"backward(_.*)?", parts[-1]) and len(parts) > 1:
            way = "_reverse"
        if len(parts) > 1 and re.fullmatch(r"(forward|backward)(_.*)?", parts[-1]):
            parts.pop()
        layer = ".".join(parts).replace("/", ".") or "layer"
        given = groups.setdefault(layer, {}).setdefault(way, {})
        if match[2] in given:
            reasons.append(Reason(key, "a second array of its kind", "one for each layer"))
        given[match[2]] = array
    found: dict[str, Array] = {}
    before: set[str] = set()
    for layer, ways in groups.items():
        for way, named in ways.items():
            if "recurrent_kernel" in named:
                found.update(_cell(layer, way, named, before, reasons))
            else:
                found.update(_plain(layer, named, hints, reasons))
    return found, before


def _cell(
    layer: str, way: str, named: dict[str, Array], before: set[str], reasons: list[Reason]
) -> dict[str, Array]:
    r, w, b = named["recurrent_kernel"], named.get("kernel"), named.get("bias")
    count = r.shape[1] // r.shape[0] if r.ndim == 2 and r.shape[0] else 0
    cell = {1: "rnn", 3: "gru", 4: "lstm"}.get(count)
    shapes = {key: array.shape for key, array in named.items()}
    rows = r.shape[1] if r.ndim == 2 else 0
    fits = w is not None and w.ndim == 2 and w.shape[1] == rows and rows == count * r.shape[0]
    known = [(rows,), (2, rows)] if cell == "gru" else [(rows,)]
    if cell is None or not fits or (b is not None and b.shape not in known):
        why = "kernel [I, G*H], recurrent_kernel [H, G*H], bias [G*H], or [2, G*H] of a GRU"
        reasons.append(Reason(layer, f"arrays {shapes}", why))
        return {}
    assert w is not None
    if cell == "gru" and b is None:
        reasons.append(Reason(layer, "a GRU without bias", "its bias tells where it resets"))
        return {}
    if b is not None and b.ndim == 1 and cell == "gru":
        before.add(layer)
    found = {f"{layer}.weight_{key}_l0{way}": _turned(array, cell)
             for key, array in (("ih", w), ("hh", r))}  # fmt: skip
    if b is not None:
        halves = b if b.ndim == 2 else np.stack([b, np.zeros_like(b)])
        for key, half in zip(("ih", "hh"), halves, strict=True):
            rows_in_order = gates.reorder_rows(half, cell, "keras")
            found[f"{layer}.bias_{key}_l0{way}"] = gates.rows_to(rows_in_order, cell, "torch")
    return found


def _turned(array: Array, cell: str) -> Array:
    return gates.weights_to(gates.weights(array, cell, "keras"), cell, "torch")


def _plain(
    layer: str, named: dict[str, Array], hints: dict[str, Any], reasons: list[Reason]
) -> dict[str, Array]:
    """Dense, Embedding and LayerNormalization."""
    forms = {("bias", "kernel"): "linear", ("kernel",): "linear", ("embeddings",): "embedding",
             ("beta", "gamma"): "layernorm", ("gamma",): "layernorm"}  # fmt: skip
    kind = forms.get(tuple(sorted(named)))
    if kind is None:
        why = "a Dense, Embedding or LayerNormalization"
        reasons.append(Reason(layer, f"arrays {', '.join(named)}", why))
        return {}
    if kind != "linear" or "bias" not in named:
        kinds = hints.get("kinds")
        hints["kinds"] = {layer: kind, **(kinds if isinstance(kinds, Mapping) else {})}
    target = {"kernel": "weight", "embeddings": "weight", "gamma": "weight",
              "beta": "bias", "bias": "bias"}  # fmt: skip
    return {f"{layer}.{target[key]}": np.ascontiguousarray(array.T) if key == "kernel" else array
            for key, array in named.items()}  # fmt: skip
