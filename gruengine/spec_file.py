# SPDX-License-Identifier: MIT
"""The model file of a :class:`~gruengine.spec.ModelSpec`: see ``docs/format.md``."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from gruengine import safetensors
from gruengine.errors import FileAccessError, InvalidInputError, ModelFileError
from gruengine.graph_json import (
    expect_dict,
    expect_keys,
    expect_list,
    expect_strings,
    graph_from_json,
    graph_to_json,
)
from gruengine.quantise import SECTION, pack_nibbles, unpack_nibbles
from gruengine.safetensors import Array, shown
from gruengine.spec import ModelSpec, Parity
from gruengine.spec_checks import problems_of

FORMAT = 1
METADATA_KEY = "gruengine"

_Path = str | os.PathLike[str]


def pieces(spec: ModelSpec) -> Iterator[bytes | memoryview]:
    """Yield the bytes of the model file, in order.

    Raises
    ------
    InvalidInputError
        If the spec is not valid, or its provenance is not made of JSON values.
    """
    spec.validate()
    tensors = dict(spec.tensors)
    document: dict[str, Any] = {
        "format": FORMAT,
        "graph": graph_to_json(spec.graph),
        "state": [list(pair) for pair in spec.state],
        "provenance": spec.provenance,
        "tensors": sorted(spec.tensors),
    }
    if spec.compute_type != "float32":
        document["compute_type"] = spec.compute_type
        document["scales"], nibbles = _pack_weights(spec, tensors)
        if nibbles:
            document["nibbles"] = nibbles
    if spec.parity is not None:
        document["parity"] = {
            "oracle": spec.parity.oracle,
            "inputs": _add_sample(tensors, "parity/in/", spec.parity.inputs),
            "outputs": _add_sample(tensors, "parity/out/", spec.parity.outputs),
        }
    try:
        text = json.dumps(
            document, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
        )
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"provenance is not made of JSON values: {error}; allowed: finite numbers, strings, "
            "booleans, None, lists and dicts of them"
        ) from None
    safetensors.parse_json(text.encode("utf-8"), "the model's description")
    yield from safetensors.pieces(tensors, {METADATA_KEY: text})


def from_bytes(data: bytes | memoryview) -> ModelSpec:
    """Read and check a model file. Arrays share the memory of ``data`` and are read-only.

    Raises
    ------
    ModelFileError
        If the file breaks its format, with every problem of the graph at once.
    """
    tensors, metadata = safetensors.read(data)
    if "gruengine_parts" in metadata:
        raise ModelFileError("a model with parts that ONNX Runtime runs; gruengine.load opens it")
    if METADATA_KEY not in metadata:
        raise ModelFileError(
            f"no {METADATA_KEY!r} in __metadata__: these are tensors without a graph; "
            "allowed: a file written by gruengine"
        )
    document = safetensors.parse_json(metadata[METADATA_KEY].encode("utf-8"), "the description")
    version = document.get("format") if isinstance(document, dict) else None
    if type(version) is not int or version != FORMAT:
        raise ModelFileError(f"format {shown(version)}; this version reads format {FORMAT}")
    keys = ("format", "graph", "state", "provenance", "tensors")
    expect_keys(document, keys, ("compute_type", "nibbles", "parity", "scales"), "the description")
    compute_type = document.get("compute_type", "float32")
    if compute_type not in ("float32", "bfloat16", "int8", "int4", "bf16x3"):
        raise ModelFileError(
            f"compute_type {shown(compute_type)}; allowed: float32, bfloat16, int8, int4, bf16x3"
        )
    scales = {
        name: _take(tensors, scale)
        for name, scale in expect_dict(document.get("scales", {}), "scales").items()
    }
    nibbles = expect_dict(document.get("nibbles", {}), "nibbles")
    for name, shape in nibbles.items():
        tensors[name] = _integers(name, _take(tensors, name), shape)
    parity = _parity_from_json(document["parity"], tensors) if "parity" in document else None
    names = expect_strings(document["tensors"], "tensors")
    spec = ModelSpec(
        graph=graph_from_json(document["graph"]),
        tensors={name: _floats(name, _take(tensors, name), scales) for name in names},
        state=tuple(_pair(value) for value in expect_list(document["state"], "state")),
        provenance=expect_dict(document["provenance"], "provenance"),
        parity=parity,
        compute_type=compute_type,
    )
    if scales:
        raise ModelFileError(
            f"tensor {shown(next(iter(scales)))} has a scale; allowed: those of I8 and U8"
        )
    if tensors:
        raise ModelFileError(f"tensor {shown(next(iter(tensors)))} is listed nowhere")
    problems = problems_of(spec)
    if problems:
        raise ModelFileError(summary(problems))
    return spec


def _pack_weights(
    spec: ModelSpec, tensors: dict[str, Array]
) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Put the weights into fewer bits, where that loses nothing.

    Returns
    -------
    dict of str to str, dict of str to list of int
        The tensors of scales, and the shapes of the tensors that have two weights in a byte.
    """
    from gruengine.spec_low import int4_forms, low_axes, pack, pack_int4, unpack_int4

    scales: dict[str, str] = {}
    nibbles: dict[str, list[int]] = {}
    if spec.compute_type == "bf16x3":
        return scales, nibbles
    forms = int4_forms(spec) if spec.compute_type == "int4" else {}
    for name, axes in low_axes(spec).items():
        array = spec.tensors[name]
        if spec.compute_type == "bfloat16" or not axes:
            bits = array.view(np.uint32) if array.flags.c_contiguous else None
            if bits is not None and not (bits & 0xFFFF).any():
                half = (bits >> 16).astype("<u2")
                tensors[name] = half.view(safetensors.BFLOAT16)
            continue
        if forms.get(name) == "int4":
            q, factors = pack_int4(array, axes)
            same = np.array_equal(unpack_int4(q, factors, axes), array)
        else:
            q, factors = pack(array, axes)
            same = np.array_equal(q.astype(np.float32) * factors, array)
        if same:
            tensors[name] = q
            if forms.get(name) == "int4":
                tensors[name], nibbles[name] = pack_nibbles(q), list(q.shape)
            scales.update(_add_sample(tensors, "scale/", {name: factors}))
    return scales, nibbles


def _integers(name: str, array: Array, shape: Any) -> Array:
    """Return the int8 elements, two in a byte of the file, of a tensor of ``shape``."""
    sizes = expect_list(shape, f"the shape of nibbles {shown(name)}")
    whole = all(type(n) is int and n >= 0 for n in sizes) and len(sizes) <= safetensors.MAX_RANK
    if not whole or 4 * math.prod(n for n in sizes if n) >= 1 << 63:
        raise ModelFileError(
            f"the shape of nibbles {shown(name)} is {shown(sizes)}; allowed: up to "
            f"{safetensors.MAX_RANK} integers >= 0 within 64 bits"
        )
    count = math.prod(sizes)
    if array.dtype != np.uint8 or array.shape != (-(-count // 2),):
        raise ModelFileError(
            f"tensor {shown(name)} is {array.dtype} of shape {array.shape}; "
            f"{count} nibbles are U8 of shape ({-(-count // 2)},)"
        )
    if count % 2 and array[-1] >> 4:
        raise ModelFileError(f"tensor {shown(name)} has a nibble too many")
    return unpack_nibbles(array, tuple(sizes))


def _floats(name: str, array: Array, scales: dict[str, Array]) -> Array:
    """Return the floats that a tensor of the file stands for."""
    if array.dtype != np.int8:
        return array
    if name not in scales:
        raise ModelFileError(f"tensor {shown(name)} is I8 without a scale")
    scale = scales.pop(name)
    fits = scale.dtype == np.float32 and scale.ndim == array.ndim
    sizes = zip(scale.shape, array.shape, strict=False)
    if not fits or any(s not in (1, n, -(-n // SECTION)) for s, n in sizes):
        raise ModelFileError(
            f"tensor {shown(name)} of shape {array.shape} has a scale {scale.dtype} of shape "
            f"{scale.shape}; allowed: float32 whose sizes are its own, 1 or one for each {SECTION}"
        )
    if not (np.isfinite(scale * np.float32(128)) & (scale >= 0)).all():
        raise ModelFileError(f"tensor {shown(name)} has a scale that is no size")
    for axis, size in enumerate(array.shape):
        if scale.shape[axis] not in (1, size):
            scale = np.repeat(scale, SECTION, axis).take(range(size), axis)
    floats = array.astype(np.float32)
    floats *= scale
    return floats


def _add_sample(tensors: dict[str, Array], prefix: str, arrays: dict[str, Array]) -> dict[str, str]:
    """Add the arrays of a parity sample under names that are free; return those names."""
    names = {}
    for name, array in arrays.items():
        names[name] = prefix + name
        while names[name] in tensors:
            names[name] += "_"
        tensors[names[name]] = array
    return names


def _parity_from_json(value: Any, tensors: dict[str, Array]) -> Parity:
    expect_keys(value, ("oracle", "inputs", "outputs"), (), "parity")
    if not isinstance(value["oracle"], str):
        raise ModelFileError(f"parity oracle is {shown(value['oracle'])}; allowed: a string")
    sides = [expect_dict(value[side], f"parity {side}") for side in ("inputs", "outputs")]
    inputs, outputs = [{name: _take(tensors, key) for name, key in s.items()} for s in sides]
    return Parity(inputs, outputs, value["oracle"])


def _take(tensors: dict[str, Array], name: Any) -> Array:
    """Take a tensor out of the file: each belongs to one place."""
    if not isinstance(name, str) or name not in tensors:
        raise ModelFileError(f"tensor {shown(name)} is not in the file, or listed twice")
    return tensors.pop(name)


def _pair(value: Any) -> tuple[str, str]:
    names = expect_strings(value, "state pair")
    if len(names) != 2:
        raise ModelFileError(f"state pair {shown(value)}; allowed: an input and an output")
    return names[0], names[1]


def summary(problems: list[str], limit: int = 100) -> str:
    """Return one message with the problems, one a line."""
    if len(problems) == 1:
        return f"invalid model: {problems[0]}"
    lines = [f"  - {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        lines.append(f"  and {len(problems) - limit} more")
    return f"invalid model, {len(problems)} problems:\n" + "\n".join(lines)


def load(path: _Path) -> ModelSpec:
    """Read a model file from disk.

    Raises
    ------
    FileAccessError
        If the operating system refuses, or the path is no regular file.
    ModelFileError
        If the file breaks its format.
    """
    try:
        # Without O_NONBLOCK a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileAccessError(f"{shown(os.fspath(path))} is not a regular file")
            data = file.read()
    except OSError as error:
        if isinstance(error, FileAccessError):
            raise
        raise _refused("read", path, error) from error
    try:
        return from_bytes(data)
    except ModelFileError as error:
        raise ModelFileError(f"{shown(os.fspath(path), 300)}: {error}") from None


def save(path: _Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file in one step: readers see the old content or the new, never a part.

    Raises
    ------
    FileAccessError
        If the operating system refuses; the old file, if any, is untouched.
    """
    target = os.path.abspath(os.fspath(path))
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise _refused("write", path, error) from error
        raise
    # The name is durable only when the folder is; some file systems refuse to sync folders.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _refused(verb: str, path: _Path, error: OSError) -> FileAccessError:
    text = f"cannot {verb} {shown(os.fspath(path), 300)}: {error.strerror or error}"
    return FileAccessError(error.errno, text) if error.errno else FileAccessError(text)
