# SPDX-License-Identifier: MIT
"""The weights of a graph as Keras keeps them: by name, or as a ``.weights.h5`` of Keras 3."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from gruengine.converters import gates
from gruengine.converters.base import ConversionError, Reason
from gruengine.converters.weight_layers import (
    MatrixLayer,
    RecurrentLayer,
    TableLayer,
    WeightLayer,
    find_layers,
)
from gruengine.errors import UnsupportedError
from gruengine.spec import ModelSpec

Array = np.ndarray[Any, Any]

#: Activations of a cell that Keras has too; which ones a layer has stands in its configuration.
ACTIVATIONS = ("Sigmoid", "Tanh", "Relu", "HardSigmoid", "Elu", "Softsign", "Softplus", "LeakyRelu")
CLASSES = {"rnn": "simple_rnn", "lstm": "lstm", "gru": "gru"}


@dataclass(frozen=True)
class KerasLayer:
    """One layer: its name, its class in snake case, and its arrays by path and name, in order."""

    name: str
    kind: str
    arrays: tuple[tuple[str, str, Array], ...]


def to_keras(spec: ModelSpec, name: str = "the model") -> list[KerasLayer]:
    """Return the layers with weights, in the order of the graph.

    LSTMs and simple RNNs have one bias in Keras: input and recurrent biases are added up, as the
    engine does. A GRU keeps both when its reset is after the product.

    Raises
    ------
    ConversionError
        What layers of Keras have not, all of it: peepholes, projections, coupled gates, clipping,
        a layer that runs backwards alone, some activations.
    """
    reasons: list[Reason] = []
    layers = find_layers(spec, reasons)
    found = [_layer(layer, reasons) for layer in layers]
    if not any(isinstance(layer, RecurrentLayer) for layer in layers):
        reasons.append(Reason("", "no recurrent layer", "a graph with one"))
    if reasons:
        raise ConversionError(f"{name} to Keras", reasons)
    return found


def weights_npz(layers: list[KerasLayer]) -> bytes:
    """Return an ``.npz`` with names like ``layer/kernel`` and ``layer/backward/kernel``."""
    arrays = {}
    for layer in layers:
        for path, key, array in layer.arrays:
            way = f"{path.split('_')[0]}/" if "_layer" in path else ""
            arrays[f"{layer.name}/{way}{key}"] = array
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def weights_h5(layers: list[KerasLayer]) -> bytes:
    """Return a ``.weights.h5`` that a model of the same layers loads by ``load_weights``.

    Raises
    ------
    UnsupportedError
        h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise UnsupportedError("writing .weights.h5 needs h5py: pip install h5py") from None
    file = io.BytesIO()
    counts: dict[str, int] = {}
    with h5py.File(file, "w") as h5:
        for layer in layers:
            count = counts.get(layer.kind, 0)
            counts[layer.kind] = count + 1
            group = h5.create_group(f"layers/{layer.kind}" + (f"_{count}" if count else ""))
            group.create_group("vars").attrs["name"] = layer.name
            places: dict[str, int] = {}
            for path, _, array in layer.arrays:
                index = places.get(path, 0)
                places[path] = index + 1
                vars_path = f"{path}/vars" if path else "vars"
                group.require_group(vars_path).create_dataset(str(index), data=array)
    return file.getvalue()


def _layer(layer: WeightLayer, reasons: list[Reason]) -> KerasLayer:
    arrays: list[tuple[str, str, Array]]
    name = layer.name.replace(".", "_")
    if isinstance(layer, RecurrentLayer):
        reasons += _reasons(layer)
        name = f"{name}_l{layer.layer}".lstrip("_") if layer.layer or not name else name
        if layer.directions == 1:
            return KerasLayer(name, CLASSES[layer.cell], _direction(layer, 0, "cell"))
        both = (*_direction(layer, 0, "forward_layer/cell"),
                *_direction(layer, 1, "backward_layer/cell"))  # fmt: skip
        return KerasLayer(name, "bidirectional", both)
    if isinstance(layer, MatrixLayer):
        arrays = [("", "kernel", layer.weight)]
        arrays += [] if layer.bias is None else [("", "bias", layer.bias)]
        return KerasLayer(name, "dense", tuple(arrays))
    if isinstance(layer, TableLayer):
        return KerasLayer(name, "embedding", (("", "embeddings", layer.weight),))
    arrays = [("", "gamma", layer.scale)]
    arrays += [] if layer.shift is None else [("", "beta", layer.shift)]
    return KerasLayer(name, "layer_normalization", tuple(arrays))


def _reasons(layer: RecurrentLayer) -> list[Reason]:
    attrs, where = layer.attrs, layer.name or f"layer {layer.layer}"
    problems: list[tuple[str, str]] = []
    names: Any = attrs["activations"]
    other = sorted(set(names) - set(ACTIVATIONS))
    half = len(names) // layer.directions
    if other:
        problems.append((f"activations {other}", f"Keras has {', '.join(ACTIVATIONS)}"))
    if layer.directions == 2 and names[:half] != names[half:]:
        problems.append((f"activations {names}", "both directions of a layer have the same"))
    if layer.cell == "lstm" and len({*names[1:half]}) > 1:
        problems.append((f"activations {names}", "Keras has one for the candidate and the output"))
    if attrs["direction"] == "reverse":
        problems.append(("direction 'reverse'", "Keras gives the outputs of such a layer turned"))
    if attrs.get("clip"):
        problems.append((f"clip {attrs['clip']}", "Keras does not clip"))
    if attrs.get("coupled"):
        problems.append(("coupled gates", "Keras' LSTM has a forget gate of its own"))
    if layer.P is not None:
        problems.append(("peepholes", "Keras' LSTM has none"))
    if layer.projection is not None:
        problems.append(("a projection", "Keras' LSTM has none"))
    return [Reason(where, what, why) for what, why in problems]


def _direction(layer: RecurrentLayer, d: int, path: str) -> tuple[tuple[str, str, Array], ...]:
    cell = layer.cell
    source = "keras_before" if layer.attrs.get("reset") == "before" else "keras"
    found = [
        (path, "kernel", gates.weights_to(layer.W[d], cell, source)),
        (path, "recurrent_kernel", gates.weights_to(layer.R[d], cell, source)),
    ]
    if layer.B is not None:
        size = gates.GATES[cell] * layer.hidden
        halves = [gates.rows_to(half, cell, source) for half in np.split(layer.B[d], [size])]
        stacked = gates.TABLE[source][cell].biases == "stacked"
        found.append((path, "bias", np.stack(halves) if stacked else halves[0] + halves[1]))
    return tuple(found)
