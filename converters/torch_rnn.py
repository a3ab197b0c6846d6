# SPDX-License-Identifier: MIT
"""The weights of one recurrent module, by torch's names, as directions of layers.

Everything that names and shapes tell is checked here: layers, directions, biases, projection.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from gruengine.converters.gates import GATES
from gruengine.converters.torch_layers import Direction
from gruengine.converters.torch_weights import Weights

Array = np.ndarray[Any, Any]

#: Names of ``nn.RNN``, ``nn.LSTM``, ``nn.GRU``: what, layer, direction.
RNN_NAME = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)_l([0-9]{1,4})(_reverse)?")
CELL_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
MAX_LAYERS = 1000
_BY_GATES = {count: cell for cell, count in GATES.items()}

Parts = dict[str, str]


def find_cell(weights: Weights, where: str, names: list[str]) -> str | None:
    """Return the cell that rows and columns tell: 1, 3 or 4 blocks of rows."""
    name = next((one for one in names if "weight_hh" in one), None)
    if name is None:
        weights.refuse(where, "no weight_hh", "a recurrent module has weight_ih and weight_hh")
        return None
    if any("weight_hr" in one for one in names):
        return "lstm"
    shape = weights.arrays[name].shape
    cell = _BY_GATES.get(shape[0] // shape[1]) if len(shape) == 2 and shape[1] else None
    if cell is None or shape[0] % shape[1]:
        weights.refuse(
            name, f"shape {list(shape)}", "rows are 1 (RNN), 3 (GRU) or 4 (LSTM) times the columns"
        )
        return None
    return cell


def read_layers(
    weights: Weights, where: str, names: list[str], cell: str
) -> tuple[tuple[Direction, ...], ...] | None:
    """Return the directions of each layer of ``nn.RNN``, ``nn.LSTM`` or ``nn.GRU``.

    Parameters
    ----------
    names : full names of the module's arrays; ``where`` is their prefix without the dot.
    cell : ``"rnn"``, ``"lstm"`` or ``"gru"``
    """
    found: dict[tuple[int, bool], Parts] = {}
    for name in names:
        match = RNN_NAME.fullmatch(name[len(where) + 1 :] if where else name)
        if match is None:
            weights.refuse(name, "an unknown name", "weights of a recurrent module")
            return None
        found.setdefault((int(match[2]), match[3] is not None), {})[match[1]] = name
    depth = 1 + max((layer for layer, _ in found), default=0)
    count = 2 if any(reverse for _, reverse in found) else 1
    places = {(layer, way == 1) for layer in range(min(depth, MAX_LAYERS)) for way in range(count)}
    kinds = {tuple(sorted(parts)) for parts in found.values()}
    if set(found) != places or len(kinds) != 1:
        weights.refuse(
            where,
            "incomplete weights",
            "layers are numbered from 0, each has the same arrays in the same directions",
        )
        return None
    before = len(weights.reasons)
    layers = []
    size: int | None = None
    for layer in range(depth):
        parts = [found[layer, way == 1] for way in range(count)]
        directions = tuple(read_direction(weights, cell, one, size) for one in parts)
        known = [one for one in directions if one is not None]
        if len(known) < count:
            return None
        if known[-1].R.shape != known[0].R.shape or known[-1].W.shape != known[0].W.shape:
            weights.refuse(where, "directions of different shapes", "both have the same shapes")
            return None
        layers.append(tuple(known))
        size = known[0].R.shape[1] * count
    if len({one.R.shape for directions in layers for one in directions}) > 1:
        weights.refuse(where, "layers of different sizes", "all layers have the same hidden size")
    return tuple(layers) if len(weights.reasons) == before else None


def read_direction(weights: Weights, cell: str, parts: Parts, size: int | None) -> Direction | None:
    """Return one direction from the full names of its parts; ``size`` is the expected input."""
    if "weight_ih" not in parts or "weight_hh" not in parts:
        first = next(iter(parts.values()))
        weights.refuse(first, "weights without their pair", "weight_ih and weight_hh come together")
        return None
    if ("bias_ih" in parts) != ("bias_hh" in parts):
        weights.refuse(parts["weight_ih"], "one bias", "bias_ih and bias_hh come together")
        return None
    shapes = {what: weights.arrays[name].shape for what, name in parts.items()}
    w, r = shapes["weight_ih"], shapes["weight_hh"]
    rows = w[0] if len(w) == 2 else 0
    hidden = rows // GATES[cell]
    k = shapes["weight_hr"][0] if len(shapes.get("weight_hr", ())) == 2 else hidden
    expected: dict[str, tuple[int, ...]] = {
        "weight_ih": (GATES[cell] * hidden, size if size is not None else (*w, 0, 0)[1]),
        "weight_hh": (rows, k),
        "weight_hr": (k, hidden),
        "bias_ih": (rows,),
        "bias_hh": (rows,),
    }
    wrong = [what for what in parts if shapes[what] != expected[what] or 0 in shapes[what]]
    for what in wrong:
        weights.refuse(
            parts[what],
            f"shape {list(shapes[what])}",
            f"{list(expected[what])} in a {cell} of hidden size {hidden}, and no size is 0",
        )
    if wrong or ("weight_hr" in parts and cell != "lstm") or len(r) != 2:
        return None
    values = {what: weights.floats(name) for what, name in parts.items()}
    return Direction(
        values["weight_ih"],
        values["weight_hh"],
        values.get("bias_ih"),
        values.get("bias_hh"),
        values.get("weight_hr"),
    )
