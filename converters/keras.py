# SPDX-License-Identifier: MIT
"""Keras models, versions 2 and 3, without Keras: ``.keras`` archives and HDF5 files."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from gruengine.converters.base import ConversionError, ConversionReport, Options, Reason
from gruengine.converters.keras_config import Net, read_net
from gruengine.converters.keras_file import KerasFile, parse_json, read_file
from gruengine.converters.keras_graph import Builder, Model, parse_net
from gruengine.converters.keras_weights import all_arrays, assign, missing_config, unused
from gruengine.converters.state_pairs import find_pairs
from gruengine.converters.torch_weights import Weights
from gruengine.errors import GruEngineError, ModelFileError, UnsupportedError
from gruengine.spec import ModelSpec

__all__ = ["read_keras", "read_weights"]

Array = np.ndarray[Any, Any]

HINTS = ("allow_rounding", "config", "input_shape", "unpadded")


def read_weights(source: bytes) -> dict[str, Array]:
    """Return every array of a Keras file by its path, e.g. ``lstm/lstm/kernel``.

    Raises
    ------
    ModelFileError
        The file breaks its format.
    """
    return {name: np.array(array) for name, array in all_arrays(read_file(source).weights).items()}


def read_keras(
    source: bytes, *, path: str | None, name: str, options: Options
) -> tuple[ModelSpec, ConversionReport]:
    """Read a Keras model.

    Parameters
    ----------
    source : bytes
        The whole file.
    path : str or None
        Where it came from; not opened again.
    name : str
        The model's name in messages.
    options : Options
        Hints: ``config`` the JSON text or dict of ``model.to_json()`` for a file of weights alone,
        ``input_shape`` without the batch for a Sequential that was never built, ``unpadded=True``
        to leave masks out, ``allow_rounding=True`` for float64 weights.

    Raises
    ------
    ModelFileError
        The file breaks its format.
    UnsupportedError
        A form of file that is not read.
    ConversionError
        The model cannot be converted exactly; every reason is listed.
    """
    try:
        file = read_file(source)
        spec, report = _convert(file, name, options)
    except (ModelFileError, UnsupportedError) as error:
        raise type(error)(f"{name}: {error}") from None
    except RecursionError:
        raise ModelFileError(f"{name}: the configuration is nested too deep") from None
    spec.provenance = {
        "format": file.kind,
        "sha256": hashlib.sha256(source).hexdigest(),
        "name": name,
        "keras_version": file.version[:100],
    }
    report.source_bytes = len(source)
    return spec, report


def _convert(file: KerasFile, name: str, options: Options) -> tuple[ModelSpec, ConversionReport]:
    reasons = _check_options(options)
    config = _config(file, options, reasons)
    if config is None:
        raise ConversionError(name, [*reasons, *missing_config(file.weights)])
    era = file.era()
    if era.major < 2:
        reasons.append(Reason("", f"Keras {file.version:.20}", "versions 2 and 3"))
    net = read_net(config, reasons, _input_shape(options, reasons))
    if net is None:
        raise ConversionError(name, reasons)
    layers = parse_net(net, era, reasons)
    weights = Weights({}, options, reasons)
    arrays = assign(net, layers, file.weights, weights)
    time_major = _time_major(net, reasons)
    if reasons:
        raise ConversionError(name, reasons)
    unpadded = options.hints.get("unpadded") is True
    builder = Builder(Model(net, layers, arrays, time_major, not unpadded), reasons)
    spec = builder.spec()
    if reasons:
        raise ConversionError(name, reasons)
    _finish(spec, name, options)
    report = ConversionReport(
        source=name,
        source_format=file.kind,
        recognised=[layer.words for layer in layers.values() if layer.words],
        warnings=_warnings(file, net, unpadded),
        nodes_before=len(layers),
        nodes_after=len(spec.graph.nodes),
        parameters=spec.parameters(),
        state=spec.state,
    )
    return spec, report


def _finish(spec: ModelSpec, name: str, options: Options) -> None:
    if options.state is not None:
        spec.state = tuple(options.state.items())
    elif not spec.state:
        spec.state = find_pairs(spec.graph, spec.tensors)
    try:
        spec.validate()
    except GruEngineError as error:
        raise ConversionError(name, [Reason("", "the graph", str(error))]) from None


def _check_options(options: Options) -> list[Reason]:
    reasons = [
        Reason("", f"hint {hint!r}", f"the hints are {', '.join(HINTS)}")
        for hint in options.hints
        if hint not in HINTS
    ]
    if options.bind:
        reasons.append(Reason("", f"bind of {list(options.bind)}", "Keras models have none"))
    for hint in ("allow_rounding", "unpadded"):
        if not isinstance(options.hints.get(hint, False), bool):
            reasons.append(Reason("", f"hint {hint}={options.hints[hint]!r:.40}", "true or false"))
    return reasons


def _config(file: KerasFile, options: Options, reasons: list[Reason]) -> Any:
    given = options.hints.get("config")
    if given is None:
        return file.config
    if file.config is not None:
        reasons.append(Reason("", "hint config", "the file holds the model itself"))
        return file.config
    return parse_json(given, "the hint config") if isinstance(given, str) else given


def _input_shape(options: Options, reasons: list[Reason]) -> list[int | None] | None:
    shape = options.hints.get("input_shape")
    if shape is None:
        return None
    if isinstance(shape, (list, tuple)) and all(one is None or type(one) is int for one in shape):
        return [None, *shape]
    reasons.append(Reason("", f"hint input_shape={shape!r:.80}", "sizes without the batch"))
    return None


def _time_major(net: Net, reasons: list[Reason]) -> bool:
    """Tell whether sequences are [T, N, F]; layers must agree."""
    found = dict(_time_flags(net, ""))
    if len(set(found.values())) > 1:
        which = ", ".join(name for name, value in found.items() if value)
        reasons.append(Reason(which, "time_major=True", "all recurrent layers alike"))
    return any(found.values())


def _time_flags(net: Net, prefix: str) -> list[tuple[str, bool]]:
    found: list[tuple[str, bool]] = []
    for layer in net.layers.values():
        if layer.net is not None:
            found += _time_flags(layer.net, f"{prefix}{layer.name}/")
            continue
        inner = layer.config.get("layer")
        config = inner.get("config") if isinstance(inner, dict) else layer.config
        if isinstance(config, dict) and "return_sequences" in config:
            found.append((prefix + layer.name, config.get("time_major") is True))
    return found


def _warnings(file: KerasFile, net: Net, unpadded: bool) -> list[str]:
    found = []
    if not file.version:
        found.append("the file does not say its version of Keras: read as Keras 3")
    names = unused(net, file.weights)
    if names:
        found.append(f"weights of layers that the model does not have: {', '.join(names)[:300]}")
    half = sorted({_policy(layer.config) for layer in net.layers.values()} - {""})
    if half:
        found.append(f"layers compute in {', '.join(half)} in Keras, in float32 here")
    if unpadded and any(_masks(layer.config, layer.kind) for layer in net.layers.values()):
        found.append("masks are left out: sequences must have no padding")
    return found


def _policy(config: dict[str, Any]) -> str:
    dtype = config.get("dtype")
    inner = dtype.get("config") if isinstance(dtype, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else dtype
    return name if isinstance(name, str) and ("float16" in name or "float64" in name) else ""


def _masks(config: dict[str, Any], kind: str) -> bool:
    return kind == "Masking" or config.get("mask_zero") is True
