# SPDX-License-Identifier: MIT
"""The weights of a graph as a PyTorch state dict: names, orders and shapes of torch.nn."""

from __future__ import annotations

from typing import Any

import numpy as np

from gruengine.converters import gates
from gruengine.converters.base import ConversionError, Reason
from gruengine.converters.weight_layers import (
    MatrixLayer,
    RecurrentLayer,
    TableLayer,
    find_layers,
)
from gruengine.spec import ModelSpec

Array = np.ndarray[Any, Any]


def to_state_dict(spec: ModelSpec, name: str = "the model") -> dict[str, Array]:
    """Return the arrays of a state dict by name; weights keep their bits.

    Recurrent layers become those of ``nn.RNN``, ``nn.LSTM`` and ``nn.GRU`` (or of their cells),
    products ``nn.Linear``, tables ``nn.Embedding``, norms ``nn.LayerNorm``.

    Parameters
    ----------
    spec : ModelSpec
    name : str
        The model's name in errors.

    Raises
    ------
    ConversionError
        What torch.nn has not, all of it: a GRU with its reset before the product, peepholes,
        coupled gates, clipping, other activations, a layer that runs backwards alone.
    """
    reasons: list[Reason] = []
    layers = find_layers(spec, reasons)
    recurrent = [layer for layer in layers if isinstance(layer, RecurrentLayer)]
    with_bias = {layer.name for layer in recurrent if layer.B is not None}
    found: dict[str, Array] = {}
    for layer in layers:
        prefix = f"{layer.name}." if layer.name else ""
        if isinstance(layer, RecurrentLayer):
            reasons += _reasons(layer)
            found.update(_recurrent(layer, prefix, layer.name in with_bias))
        elif isinstance(layer, MatrixLayer):
            found[f"{prefix}weight"] = np.ascontiguousarray(layer.weight.T)
            if layer.bias is not None:
                found[f"{prefix}bias"] = layer.bias
        elif isinstance(layer, TableLayer):
            found[f"{prefix}weight"] = layer.weight
        else:
            found[f"{prefix}weight"] = layer.scale
            if layer.shift is not None:
                found[f"{prefix}bias"] = layer.shift
    if not recurrent:
        reasons.append(Reason("", "no recurrent layer", "a graph with one"))
    if reasons:
        raise ConversionError(f"{name} to PyTorch", reasons)
    return found


def _reasons(layer: RecurrentLayer) -> list[Reason]:
    attrs, where = layer.attrs, layer.name or f"layer {layer.layer}"
    problems: list[tuple[str, str]] = []
    names = attrs["activations"]
    per_cell = list(gates.DEFAULT_ACTIVATIONS[layer.cell])
    allowed = [per_cell] if layer.cell != "rnn" else [["Tanh"], ["Relu"]]
    if names not in [one * layer.directions for one in allowed]:
        problems.append((f"activations {names}", f"torch has {' or '.join(map(str, allowed))}"))
    if attrs["direction"] == "reverse":
        problems.append(("direction 'reverse'", "torch has forward and bidirectional"))
    if attrs.get("reset") == "before":
        problems.append(("reset 'before'", "torch's GRU resets after the recurrent product"))
    if attrs.get("clip"):
        problems.append((f"clip {attrs['clip']}", "torch does not clip"))
    if attrs.get("coupled"):
        problems.append(("coupled gates", "torch's LSTM has a forget gate of its own"))
    if layer.P is not None:
        problems.append(("peepholes", "torch's LSTM has none"))
    return [Reason(where, what, why) for what, why in problems]


def _recurrent(layer: RecurrentLayer, prefix: str, with_bias: bool) -> dict[str, Array]:
    found: dict[str, Array] = {}
    cell = layer.cell
    for d in range(layer.directions):
        place = "" if layer.is_cell else f"_l{layer.layer}{'_reverse' if d else ''}"
        found[f"{prefix}weight_ih{place}"] = gates.weights_to(layer.W[d], cell, "torch")
        found[f"{prefix}weight_hh{place}"] = gates.weights_to(layer.R[d], cell, "torch")
        if with_bias:
            size = gates.GATES[cell] * layer.hidden
            b = np.zeros(2 * size, np.float32) if layer.B is None else layer.B[d]
            found[f"{prefix}bias_ih{place}"] = gates.rows_to(b[:size], cell, "torch")
            found[f"{prefix}bias_hh{place}"] = gates.rows_to(b[size:], cell, "torch")
        if layer.projection is not None:
            found[f"{prefix}weight_hr{place}"] = layer.projection[d]
    return found
