# SPDX-License-Identifier: MIT
"""Models of the audio world in JSON: RTNeural, AIDA-X, GuitarML, and state dicts.

RTNeural and AIDA-X write layers as Keras has them, AIDA-X with gains in decibels and a connection
past the model. GuitarML writes the settings of its ``SimpleRNN`` and a PyTorch state dict.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gruengine.converters import gates, json_parts
from gruengine.converters.base import ConversionReport, Options, Reason
from gruengine.converters.graph_parts import RecurrentParts
from gruengine.converters.json_parts import ACTIVATIONS, Chain, numbers, size
from gruengine.converters.torch_rnn import read_layers
from gruengine.converters.torch_weights import Weights
from gruengine.errors import ModelFileError, UnsupportedError
from gruengine.safetensors import shown
from gruengine.spec import ModelSpec

Array = np.ndarray[Any, Any]
Object = Mapping[str, Any]

MAX_LAYERS = 1000


def read_json(
    data: bytes, *, path: str | None, name: str, options: Options
) -> tuple[ModelSpec, ConversionReport]:
    """Read a model in JSON; its keys tell which program wrote it.

    Parameters
    ----------
    data : bytes
    path : str or None
        Not opened again.
    name : str
        The model's name in messages.
    options : Options
        Hints are for plain state dicts alone: the others say everything.

    Raises
    ------
    ModelFileError
        Not strict JSON, or arrays and sizes that contradict each other.
    UnsupportedError
        JSON of a program that is not known.
    ConversionError
        The model cannot be converted exactly; every reason is listed.
    """
    document = json_parts.parse(data, name)
    try:
        if "architecture" in document:
            from gruengine.converters.nam import read_nam

            kind, chain = "nam", read_nam(document, name, options)
        elif "layers" in document:
            kind, chain = "rtneural", _read_layers(document, name, options)
        elif "state_dict" in document:
            kind, chain = "guitarml", _read_guitarml(document, name, options)
        elif any("weight_ih" in key for key in document):
            return _read_state_dict(document, data, name, options)
        else:
            raise UnsupportedError(
                f"{name} is JSON with the keys {shown(list(document))}; known are RTNeural and "
                "AIDA-X (layers), GuitarML (model_data, state_dict), NAM (architecture)"
            )
    except ModelFileError as error:
        raise ModelFileError(f"{name}: {error}") from None
    spec = chain.spec()
    spec.provenance = {"format": kind, "sha256": hashlib.sha256(data).hexdigest(), "name": name}
    spec.validate()
    report = ConversionReport(
        source=name,
        source_format=kind,
        recognised=chain.recognised,
        nodes_before=len(spec.graph.nodes),
        nodes_after=len(spec.graph.nodes),
        parameters=spec.parameters(),
        source_bytes=len(data),
    )
    return spec, report


# -- RTNeural, AIDA-X -----------------------------------------------------------------------------


def _read_layers(document: Object, name: str, options: Options) -> Chain:
    reasons = json_parts.check_options(options)
    shape, layers = document.get("in_shape"), document["layers"]
    if not isinstance(shape, list) or not shape:
        raise ModelFileError(f"in_shape is {shown(shape)}; it must be a list, features last")
    if not isinstance(layers, list) or not 0 < len(layers) <= MAX_LAYERS:
        raise ModelFileError(f"layers is {shown(layers)}; it must be a list of 1 to {MAX_LAYERS}")
    chain = Chain(size(shape[-1], "in_shape"))
    gains = [_gain(document, key) for key in ("in_gain", "out_gain")]
    if chain.inputs > 1 and gains[0] != 1.0:
        reasons.append(Reason("", "in_gain of several inputs", "0, or one input"))
    chain.scale("in_gain", gains[0])
    entry = chain.entry = chain.value
    before = len(reasons)
    for index, layer in enumerate(layers):
        where = f"layer{index}"
        if not isinstance(layer, dict):
            raise ModelFileError(f"{where} is {shown(layer)}; it must be an object")
        _layer(chain, where, layer, reasons)
        if len(reasons) > before:
            break
    json_parts.refuse(name, reasons)
    chain.entry = entry
    skip = document.get("in_skip", 0)
    if type(skip) not in (int, bool) or skip not in (0, 1):
        raise ModelFileError(f"in_skip is {shown(skip)}; it must be 0 or 1")
    if skip:
        chain.add_input(1)
    chain.scale("out_gain", gains[1])
    return chain


def _gain(document: Object, key: str) -> float:
    """Return a gain in decibels as a factor; -90 and less is silence."""
    value = document.get(key, 0.0)
    if type(value) not in (int, float) or abs(value) > 200:
        raise ModelFileError(f"{key} is {shown(value)}; it must be a number of decibels")
    return 10.0 ** (value * 0.05) if value > -90.0 else 0.0


def _layer(chain: Chain, where: str, layer: Object, reasons: list[Reason]) -> None:
    kind = layer.get("type")
    readers: dict[str, Callable[..., None]] = {
        "dense": _dense, "time-distributed-dense": _dense, "lstm": _recurrent,
        "gru": _recurrent, "conv1d": _convolution, "activation": _nothing, "prelu": _prelu,
        "batchnorm": _batch_norm,
    }  # fmt: skip
    if not isinstance(kind, str) or kind not in readers:
        reasons.append(Reason(where, f"type {shown(kind)}", f"one of {', '.join(readers)}"))
        return
    activation = layer.get("activation", "")
    allowed = ("", "tanh") if kind in ("lstm", "gru") else tuple(ACTIVATIONS)
    if activation not in allowed:
        why = f"one of {', '.join(map(repr, allowed))}"
        reasons.append(Reason(where, f"activation {shown(activation)} of {kind}", why))
        return
    given = layer.get("weights", [])
    if not isinstance(given, list):
        raise ModelFileError(f"weights of {where} is {shown(given)}; it must be a list")
    arrays = [numbers(one, f"weights of {where}") for one in given]
    before = chain.features
    readers[kind](chain, where, layer, arrays)
    stated = layer.get("shape")
    if isinstance(stated, list) and stated and stated[-1] not in (None, chain.features):
        raise ModelFileError(f"{where} gives {chain.features} features, its shape says {stated}")
    if kind not in ("lstm", "gru"):
        chain.activation(where, activation)
    elif before < 1:
        raise ModelFileError(f"{where} has no features")


def _shapes(where: str, arrays: list[Array], *expected: tuple[int, ...]) -> None:
    found = [array.shape for array in arrays]
    if found != list(expected):
        raise ModelFileError(f"weights of {where} have shapes {found}; expected {list(expected)}")


def _columns(where: str, arrays: list[Array], rows: int) -> int:
    """Return the columns of the first array."""
    if not arrays or arrays[0].ndim != 2 or arrays[0].shape[0] != rows:
        found = arrays[0].shape if arrays else "no weights"
        raise ModelFileError(f"weights of {where}: {found}; expected {rows} rows")
    return int(arrays[0].shape[1])


def _dense(chain: Chain, where: str, layer: Object, arrays: list[Array]) -> None:
    columns = _columns(where, arrays, chain.features)
    expected = [(chain.features, columns), (columns,)][: max(1, len(arrays))]
    _shapes(where, arrays, *expected)
    chain.dense(where, arrays[0], arrays[1] if len(arrays) > 1 else None)


def _convolution(chain: Chain, where: str, layer: Object, arrays: list[Array]) -> None:
    """Read a convolution that sees the samples so far, its kernel [kernel, in / groups, out]."""
    kernel, dilation = (
        size(_last(layer.get(key, 1)), f"{key} of {where}") for key in ("kernel_size", "dilation")
    )
    groups = size(_last(layer.get("groups", 1)), f"groups of {where}")
    outputs = arrays[0].shape[-1] if arrays and arrays[0].ndim == 3 else 0
    if chain.features % groups or outputs % groups:
        raise ModelFileError(f"{where} has {groups} groups of {chain.features} features")
    _shapes(where, arrays, (kernel, chain.features // groups, outputs), (outputs,))
    weight = np.ascontiguousarray(arrays[0].transpose(2, 1, 0))
    chain.convolution(where, weight, arrays[1], dilation, groups)


def _last(value: Any) -> Any:
    """Return a size, of one that Keras writes as a list the last one."""
    return value[-1] if isinstance(value, list) and value else value


def _recurrent(chain: Chain, where: str, layer: Object, arrays: list[Array]) -> None:
    cell = str(layer["type"])
    columns = _columns(where, arrays, chain.features)
    units = columns // gates.GATES[cell]
    bias = (columns,) if cell == "lstm" else (2, columns)
    _shapes(where, arrays, (chain.features, columns), (units, gates.GATES[cell] * units), bias)
    b = gates.biases(cell, "keras", columns, arrays[2])
    assert b is not None
    parts = RecurrentParts(
        cell, "forward", gates.weights(arrays[0], cell, "keras")[None],
        gates.weights(arrays[1], cell, "keras")[None], b[None],
        [(one, 0.0, 0.0) for one in gates.DEFAULT_ACTIVATIONS[cell]],
    )  # fmt: skip
    chain.layer(where, parts)


def _nothing(chain: Chain, where: str, layer: Object, arrays: list[Array]) -> None:
    _shapes(where, arrays)


def _prelu(chain: Chain, where: str, layer: Object, arrays: list[Array]) -> None:
    flat = [array.reshape(-1) for array in arrays]
    _shapes(where, flat, (chain.features,))
    chain.apply(where, "PRelu", chain.tensor(where, "slope", flat[0]))


def _batch_norm(chain: Chain, where: str, layer: Object, arrays: list[Array]) -> None:
    count = 4 if len(arrays) == 4 else 2
    _shapes(where, arrays, *[(chain.features,)] * count)
    epsilon = layer.get("epsilon")
    if type(epsilon) is not float or not 0 < epsilon < 1:
        raise ModelFileError(f"epsilon of {where} is {shown(epsilon)}; it must be 0 to 1")
    mean, variance = (array.astype(np.float64) for array in arrays[-2:])
    if (variance < 0).any():
        raise ModelFileError(f"{where} has a negative variance")
    factor = 1 / np.sqrt(variance + epsilon)
    if count == 4:
        factor = factor * arrays[0]
    shift = (arrays[1] if count == 4 else 0.0) - mean * factor
    for op, key, value in (("Mul", "factor", factor), ("Add", "shift", shift)):
        chain.apply(where, op, chain.tensor(where, key, value.astype(np.float32)))


# -- GuitarML -------------------------------------------------------------------------------------

_UNITS = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn"}


def _read_guitarml(document: Object, name: str, options: Options) -> Chain:
    reasons = json_parts.check_options(options)
    facts, state = document.get("model_data"), document["state_dict"]
    if not isinstance(facts, dict) or not isinstance(state, dict):
        raise ModelFileError("model_data and state_dict must be objects")
    cell = _UNITS.get(str(facts.get("unit_type")))
    if facts.get("model", "SimpleRNN") != "SimpleRNN" or cell is None:
        what = f"model {shown(facts.get('model'))} of {shown(facts.get('unit_type'))}"
        reasons.append(Reason("", what, f"SimpleRNN of {', '.join(_UNITS)}"))
    json_parts.refuse(name, reasons)
    assert cell is not None
    arrays = {key: numbers(value, f"state_dict[{key!r}]") for key, value in state.items()}
    head = {key: arrays.pop(key) for key in ("lin.weight", "lin.bias") if key in arrays}
    weights = Weights(arrays, Options(), reasons)
    layers = read_layers(weights, "rec", list(arrays), cell) if arrays else None
    json_parts.refuse(name, reasons)
    if layers is None or "lin.weight" not in head or len(layers[0]) != 1:
        raise ModelFileError("state_dict needs rec.weight_ih_l0 and so on, and lin.weight")
    chain = Chain(layers[0][0].W.shape[1])
    for index, (one,) in enumerate(layers):
        rows = one.W.shape[0]
        bias = gates.biases(cell, "torch", rows, one.b_ih, one.b_hh)
        parts = RecurrentParts(
            cell, "forward", gates.weights(one.W, cell, "torch")[None],
            gates.weights(one.R, cell, "torch")[None], None if bias is None else bias[None],
            [(activation, 0.0, 0.0) for activation in gates.DEFAULT_ACTIVATIONS[cell]],
        )  # fmt: skip
        chain.layer(f"rec.l{index}", parts)
    hidden = chain.features
    outputs = head["lin.weight"].shape[0]
    expected = {"lin.weight": (outputs, hidden), "lin.bias": (outputs,)}
    for key, array in head.items():
        if array.shape != expected[key]:
            raise ModelFileError(f"{key} has shape {array.shape}; expected {expected[key]}")
    stated = {"input_size": chain.inputs, "hidden_size": hidden, "output_size": outputs,
              "num_layers": len(layers)}  # fmt: skip
    for key, value in stated.items():
        if facts.get(key, value) != value:
            raise ModelFileError(f"{key} is {shown(facts[key])}; the weights say {value}")
    chain.dense("lin", np.ascontiguousarray(head["lin.weight"].T), head.get("lin.bias"))
    skip = facts.get("skip", 0)
    if type(skip) is not int or not 0 <= skip <= chain.inputs or skip not in (0, 1, outputs):
        raise ModelFileError(f"skip is {shown(skip)}; it must be 0, 1 or the number of outputs")
    if skip:
        chain.add_input(skip)
    return chain


def _read_state_dict(
    document: Object, data: bytes, name: str, options: Options
) -> tuple[ModelSpec, ConversionReport]:
    """Read a state dict alone: what it does not say are hints, as for a checkpoint."""
    from gruengine.converters.npz import read_arrays

    arrays = {key: numbers(value, key) for key, value in document.items()}
    return read_arrays(arrays, True, data, "pytorch json", name, options)
