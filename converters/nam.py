# SPDX-License-Identifier: MIT
"""Neural Amp Modeler: LSTMs in ``.nam`` files, whose weights are one list of numbers.

Of each layer: the matrix [4H, I + H] with the gates i, f, g, o, the bias [4H], the initial hidden
state [H] and the initial cell [H]. Then the weights of the head [H] and its bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gruengine.converters import gates, json_parts
from gruengine.converters.base import Options, Reason
from gruengine.converters.graph_parts import RecurrentParts
from gruengine.converters.json_parts import Chain, numbers, size
from gruengine.errors import ModelFileError
from gruengine.safetensors import shown

Array = np.ndarray[Any, Any]

MAX_LAYERS = 1000


def read_nam(document: Mapping[str, Any], name: str, options: Options) -> Chain:
    """Read a ``.nam`` file of the architecture LSTM.

    Raises
    ------
    ModelFileError
        Sizes and weights that contradict each other.
    ConversionError
        Another architecture.
    """
    reasons = json_parts.check_options(options)
    architecture = document["architecture"]
    if architecture != "LSTM":
        why = "of NAM the recurrent architecture is read, 'LSTM'"
        reasons.append(Reason("", f"architecture {shown(architecture)}", why))
    json_parts.refuse(name, reasons)
    config = document.get("config")
    if not isinstance(config, dict):
        raise ModelFileError(f"config is {shown(config)}; it must be an object")
    hidden = size(config.get("hidden_size"), "hidden_size")
    layers = size(config.get("num_layers"), "num_layers")
    inputs = size(config.get("input_size", 1), "input_size")
    if layers > MAX_LAYERS:
        raise ModelFileError(f"num_layers is {layers}; allowed are {MAX_LAYERS}")
    weights = numbers(document.get("weights"), "weights")
    sizes = [4 * hidden * ((inputs if layer == 0 else hidden) + hidden + 1) + 2 * hidden
             for layer in range(layers)]  # fmt: skip
    if weights.ndim != 1 or weights.size != sum(sizes) + hidden + 1:
        raise ModelFileError(
            f"weights has the shape {weights.shape}; {layers} layers of {hidden} with {inputs} "
            f"inputs have ({sum(sizes) + hidden + 1},)"
        )
    chain = Chain(inputs)
    for layer in range(layers):
        part, weights = np.split(weights, [sizes[layer]])
        _layer(chain, f"layer{layer}", part, hidden)
    head, bias = np.split(weights, [hidden])
    chain.dense("head", head.reshape(hidden, 1), bias)
    return chain


def _layer(chain: Chain, where: str, part: Array, hidden: int) -> None:
    rows, columns = 4 * hidden, chain.features + hidden
    ends = np.cumsum([rows * columns, rows, hidden])
    matrix, bias, h, c = np.split(part, ends)
    matrix = matrix.reshape(rows, columns)
    w, r = np.split(matrix, [chain.features], axis=1)
    b = gates.biases("lstm", "torch", rows, bias)
    assert b is not None
    parts = RecurrentParts(
        "lstm", "forward", gates.weights(np.ascontiguousarray(w), "lstm", "torch")[None],
        gates.weights(np.ascontiguousarray(r), "lstm", "torch")[None], b[None],
        [(one, 0.0, 0.0) for one in gates.DEFAULT_ACTIVATIONS["lstm"]],
    )  # fmt: skip
    chain.layer(where, parts, [h, c] if h.any() or c.any() else [])
