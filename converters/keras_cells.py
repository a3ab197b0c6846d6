# SPDX-License-Identifier: MIT
"""Recurrent cells of Keras: their configuration, their arrays, and the constants of a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gruengine.converters import gates
from gruengine.converters.graph_parts import RecurrentParts
from gruengine.converters.keras_activations import cell_activation
from gruengine.converters.keras_base import Arrays, Config, Refused, Var
from gruengine.converters.keras_config import LayerDef

Array = np.ndarray[Any, Any]

#: Classes of layers and of cells -> the cell of the graph.
KINDS = {
    "SimpleRNN": "rnn", "LSTM": "lstm", "GRU": "gru", "CuDNNLSTM": "lstm", "CuDNNGRU": "gru",
    "LSTMV1": "lstm", "LSTMV2": "lstm", "GRUV1": "gru", "GRUV2": "gru",
}  # fmt: skip
CELLS = {"SimpleRNNCell": "rnn", "LSTMCell": "lstm", "GRUCell": "gru"}
_GPU = ("CuDNNLSTM", "CuDNNGRU")


@dataclass(frozen=True)
class Cell:
    """One cell; ``path`` leads from its layer to its arrays.

    activations : of one direction, as name, alpha, beta
    """

    kind: str
    units: int
    path: str
    bias: bool
    after: bool
    activations: tuple[tuple[str, float, float], ...]

    @property
    def states(self) -> int:
        """Number of states."""
        return 2 if self.kind == "lstm" else 1

    def variables(self) -> list[Var]:
        """Return the arrays in the order of Keras."""
        names = ["kernel", "recurrent_kernel", *(["bias"] if self.bias else [])]
        return [Var(self.path, name) for name in names]


def read_cell(c: Config, kind: str, path: str) -> Cell:
    """Read the configuration of a recurrent layer or cell."""
    gpu = c.layer.kind in _GPU
    units = c.size("units")
    bias = True if gpu else c.flag("use_bias", True)
    # Keras alone changed its mind in TensorFlow 2: where a file does not say, it is Keras 2.
    after = c.flag("reset_after", c.era.major >= 3) if kind == "gru" and not gpu else True
    found = []
    inner = "tanh"
    outer = "hard_sigmoid" if c.era.major < 3 else "sigmoid"
    if gpu:
        found = [(name, 0.0, 0.0) for name in gates.DEFAULT_ACTIVATIONS[kind]]
    else:
        main = cell_activation(c, "activation", inner)
        gate = main if kind == "rnn" else cell_activation(c, "recurrent_activation", outer)
        found = {"rnn": [main], "gru": [gate, main], "lstm": [gate, main, main]}[kind]
    return Cell(kind, units, path, bias, after, tuple(found))


def read_cells(c: Config, entry: Any) -> list[Cell]:
    """Read the ``cell`` of an RNN layer: one, a list, or StackedRNNCells."""
    if isinstance(entry, list):
        entry = {"class_name": "StackedRNNCells", "config": {"cells": entry}}
    layer = c.layer_of(entry, "cell")
    if layer is None:
        return []
    if layer.kind != "StackedRNNCells":
        cell = _one(c, layer, "cell")
        return [] if cell is None else [cell]
    stacked = Config(layer, c.era, c.reasons, c.where)
    entries = stacked.raw("cells")
    stacked.done()
    if not isinstance(entries, list) or not 0 < len(entries) <= 1000:
        c.refuse(f"cells={entries!r:.80}", "a list of cells")
        return []
    found: list[Cell] = []
    counts: dict[str, int] = {}
    for entry in entries:
        inner = c.layer_of(entry, "cells")
        if inner is not None:
            place = numbered(snake_case(inner.kind), counts)
            cell = _one(c, inner, f"cell/cells/{place}")
            found += [] if cell is None else [cell]
    return found


def _one(c: Config, layer: LayerDef, path: str) -> Cell | None:
    if layer.kind not in CELLS:
        c.refuse(f"cell of class {layer.kind:.80}", f"allowed: {', '.join(CELLS)}")
        return None
    inner = Config(layer, c.era, c.reasons, c.where)
    cell = read_cell(inner, CELLS[layer.kind], path)
    inner.done()
    return cell


def snake_case(name: str) -> str:
    """Return a class name as Keras writes it in paths: ``SimpleRNN`` -> ``simple_rnn``."""
    import re

    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def numbered(name: str, counts: dict[str, int]) -> str:
    """Return ``name``, with ``_1``, ``_2``, ... from the second on."""
    counts[name] = counts.get(name, -1) + 1
    return f"{name}_{counts[name]}" if counts[name] else name


# -- constants ------------------------------------------------------------------------------------


def node_parts(cells: Sequence[Cell], arrays: Sequence[Arrays], size: int, way: str) -> Any:
    """Return the parts of one Recurrent node from its directions; ``size`` is that of x."""
    found = [_direction(cell, one, size) for cell, one in zip(cells, arrays, strict=True)]
    first = cells[0]
    biases = [b for _, _, b in found if b is not None]
    if biases:
        rows = found[0][0].shape[0]
        zero = np.zeros(2 * rows, np.float32)
        biases = [zero if b is None else b for _, _, b in found]
    return RecurrentParts(
        first.kind,
        way,
        np.stack([w for w, _, _ in found]),
        np.stack([r for _, r, _ in found]),
        np.stack(biases) if biases else None,
        [one for cell in cells for one in cell.activations],
        reset="after" if first.after else "before",
    )


def _direction(cell: Cell, arrays: Arrays, size: int) -> tuple[Array, Array, Array | None]:
    """Return W, R and B of one direction in the graph's order."""
    arrays = arrays.below(cell.path) if cell.path else arrays
    count, units = gates.GATES[cell.kind], cell.units
    rows = count * units
    w = arrays.get("kernel", (size, rows))
    r = arrays.get("recurrent_kernel", (units, rows))
    source = "keras" if cell.after else "keras_before"
    if cell.kind != "gru":
        source = "keras"
    bias = None
    if cell.bias:
        one, stacked, flat = (rows,), (2, rows), (2 * rows,)
        bias = arrays.get("bias", one if not _stacked(cell) else stacked, flat)
        if bias.shape == flat and cell.kind != "rnn" and cell.after:
            w, r, bias = _from_cudnn(cell, w, r, bias)
        elif bias.shape == flat:
            raise Refused(f"bias of shape {list(flat)}", f"{[rows]}: this is no CuDNN layer")
    return (
        gates.weights(w, cell.kind, source),
        gates.weights(r, cell.kind, source),
        gates.biases(cell.kind, source, rows, bias),
    )


def _stacked(cell: Cell) -> bool:
    return cell.kind == "gru" and cell.after


def _from_cudnn(cell: Cell, w: Array, r: Array, bias: Array) -> tuple[Array, Array, Array]:
    """Bring the arrays of a CuDNNLSTM or CuDNNGRU into the layout of LSTM or GRU.

    cuDNN has a gate's weights as ``[H, I]`` in the memory of Keras' ``[I, H]``, and two biases.
    """
    count, units = gates.GATES[cell.kind], cell.units
    blocks = np.split(w, count, axis=1)
    w = np.concatenate([one.reshape(units, w.shape[0]).T for one in blocks], axis=1)
    r = np.concatenate([one.T for one in np.split(r, count, axis=1)], axis=1)
    halves = bias.reshape(2, -1)
    return w, r, halves if cell.kind == "gru" else halves[0] + halves[1]
