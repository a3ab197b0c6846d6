# SPDX-License-Identifier: MIT
"""torch's recurrent layers and cells, kept whole by the trace, as ``Recurrent`` nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from gruengine.converters import gates
from gruengine.converters.aten import LOWER, Call, Refused
from gruengine.converters.graph_parts import RecurrentParts

Array = np.ndarray[Any, Any]

_CELLS = {"lstm": "lstm", "gru": "gru", "rnn_tanh": "rnn", "rnn_relu": "rnn"}
_OUTPUTS = ("Y", "Y_h", "Y_c")


def _layers(call: Call) -> list[str]:
    """One node for each layer; the states are cut out of the stacked ones and stacked again.

    Of packed sequences, padded and time first, the lengths are given.
    """
    mode = str(call.args["cell"])
    two = bool(call.args["bidirectional"])
    count, layers = (2 if two else 1), call.integer("layers")
    states = [call.given(one) for one in call.args["states"]]
    starts = [None if _is_zero(call, state) else state for state in states]
    first = bool(call.args.get("batch_first", False))
    lengths = call.tensor("lengths") if "lengths" in call.args else ""
    x = call.transpose(call.tensor("x"), [1, 0, 2]) if first else call.tensor("x")
    per = len(call.args["weights"]) // (layers * count)
    finals: list[list[str]] = [[] for _ in states]
    for layer in range(layers):
        weights = [
            call.args["weights"][(layer * count + way) * per : (layer * count + way + 1) * per]
            for way in range(count)
        ]
        initial = [_part(call, state, layer, count, layers) for state in starts]
        parts = _parts(call, mode, weights, bool(call.args["biases"]))
        y, *last = _node(call, x, parts, initial, _name(call, layer, layers), lengths)
        for kept, value in zip(finals, last, strict=False):
            kept.append(value)
        x = _joined(call, y, parts)
    y = call.transpose(x, [1, 0, 2]) if first else x
    stacked = [call.concat(kept, 0) for kept in finals]
    return [y, *stacked, stacked[-1]][:3]


def _name(call: Call, layer: int, layers: int) -> str:
    return call.title if layers == 1 else f"{call.title}.l{layer}"


def _is_zero(call: Call, state: str) -> bool:
    array = call.builder.array(state)
    return state in call.context.zeros or (array is not None and not np.any(array))


def _part(call: Call, state: str | None, layer: int, count: int, layers: int) -> str | None:
    if state is None or layers == 1:
        return state
    return call.cut(state, 0, layer * count, (layer + 1) * count)


def _joined(call: Call, y: str, parts: RecurrentParts) -> str:
    """Bring Y [T, D, N, K] to [T, N, D*K]."""
    count, k = parts.R.shape[0], parts.R.shape[2]
    if count == 1:
        return call.squeeze(y, [1])
    y = call.transpose(y, [0, 2, 1, 3])
    return call.emit("Reshape", [y, call.integers_value([0, 0, count * k])])


def _cell(call: Call) -> list[str]:
    """Run one step: a sequence of one."""
    parts = _parts(call, str(call.args["cell"]), [call.args["weights"]], bool(call.args["biases"]))
    states = [call.given(one) for one in call.args["states"]]
    initial = [None if _is_zero(call, one) else call.unsqueeze(one, [0]) for one in states]
    results = _node(call, call.unsqueeze(call.tensor("x"), [0]), parts, initial, call.title)
    finals = [call.squeeze(value, [0]) for value in results[1 : 1 + len(states)]]
    return [finals[0], finals[-1]]


def _node(
    call: Call,
    x: str,
    parts: RecurrentParts,
    initial: list[str | None],
    title: str,
    lengths: str = "",
) -> list[str]:
    """Add one Recurrent node on ``x`` [T, N, I]; return Y, Y_h and, of an LSTM, Y_c."""
    inputs = [x, *_constants(call, parts), lengths, *(state or "" for state in initial)]
    if parts.projection is not None:
        inputs += [""] * (8 - len(inputs))
        inputs.append(_kept(call, parts.projection, "projection"))
    wanted = _OUTPUTS if parts.cell == "lstm" else _OUTPUTS[:2]
    wishes = [f"{call.node.name}_{what}" for what in wanted]
    return call.builder.emit("Recurrent", inputs, parts.attributes(), wishes, title)


def _constants(call: Call, parts: RecurrentParts) -> list[str]:
    bias = "" if parts.B is None else _kept(call, parts.B, "B")
    return [_kept(call, parts.W, "W"), _kept(call, parts.R, "R"), bias]


def _kept(call: Call, array: Array, what: str) -> str:
    """Return the constant of an array; what the cache packed once is one constant."""
    key = ("packed", id(array))
    if key not in call.context.cache:
        call.context.cache[key] = call.builder.constant(array, f"{call.title}.{what}")
    return str(call.context.cache[key])


def _parts(call: Call, mode: str, weights: list[list[Any]], biases: bool) -> RecurrentParts:
    """Return the packed weights of the directions of one layer; torch's names are forgotten."""
    names = tuple(tuple(call.given(one) for one in way) for way in weights)
    key = ("parts", mode, names)
    if key not in call.context.cache:
        arrays = [[_array(call, name) for name in way] for way in names]
        call.context.cache[key] = _packed(mode, arrays, biases)
    result = call.context.cache[key]
    assert isinstance(result, RecurrentParts)
    return result


def _array(call: Call, name: str) -> Array:
    array = call.builder.array(name)
    if array is None:
        raise Refused("weights that the forward computes from its inputs", "constant weights")
    return array


def _packed(mode: str, ways: list[list[Array]], biases: bool) -> RecurrentParts:
    cell = _CELLS[mode]
    W = np.stack([gates.weights(way[0], cell, "torch") for way in ways])
    R = np.stack([gates.weights(way[1], cell, "torch") for way in ways])
    B = None
    if biases:
        size = W.shape[1]
        rows = [gates.biases(cell, "torch", size, way[2], way[3]) for way in ways]
        B = np.stack([row for row in rows if row is not None])
    projected = [way[-1] for way in ways if len(way) in (3, 5)]
    activations = gates.DEFAULT_ACTIVATIONS[cell]
    if mode == "rnn_relu":
        activations = ("Relu",)
    convention = gates.TABLE["torch"][cell]
    return RecurrentParts(
        cell,
        "bidirectional" if len(ways) == 2 else "forward",
        W,
        R,
        B,
        [(name, 0.0, 0.0) for name in activations] * len(ways),
        np.stack(projected) if projected else None,
        convention.reset,
        convention.update,
    )


LOWER["gruengine.recurrent.default"] = _layers
LOWER["gruengine.packed.default"] = _layers
LOWER["gruengine.cell.default"] = _cell
