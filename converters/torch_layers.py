# SPDX-License-Identifier: MIT
"""What a PyTorch model is made of, as plain descriptions.

State dicts, pickled modules and live modules all become a list of these layers. Arrays are in
torch's layout and gate order, in float32; the mathematics is that of the torch module named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gruengine.converters import gates

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Direction:
    """Weights of one direction of one layer: ``W [G*H, I]``, ``R [G*H, K]``, biases ``[G*H]``."""

    W: Array
    R: Array
    b_ih: Array | None = None
    b_hh: Array | None = None
    projection: Array | None = None  # [K, H]


@dataclass(frozen=True)
class Rnn:
    """``nn.RNN``, ``nn.LSTM`` or ``nn.GRU``: directions of each layer.

    ``output``: ``"sequence"`` every step, ``"last"`` h_n of the last layer with its directions
    side by side, ``"last_step"`` the last step of the sequence.
    """

    where: str
    cell: str
    layers: tuple[tuple[Direction, ...], ...]
    batch_first: bool
    activation: str = "Tanh"
    output: str = "sequence"


@dataclass(frozen=True)
class Cell:
    """``nn.RNNCell``, ``nn.LSTMCell`` or ``nn.GRUCell``: one step, its states are graph inputs."""

    where: str
    cell: str
    weights: Direction
    activation: str = "Tanh"


@dataclass(frozen=True)
class Embedding:
    """``nn.Embedding``: rows of ``weight [V, E]``."""

    where: str
    weight: Array


@dataclass(frozen=True)
class Linear:
    """``nn.Linear``: ``weight [out, in]``, ``bias [out]`` or None."""

    where: str
    weight: Array
    bias: Array | None


@dataclass(frozen=True)
class Norm:
    """``nn.LayerNorm`` over the last axis."""

    where: str
    scale: Array
    bias: Array | None
    eps: float


@dataclass(frozen=True)
class Affine:
    """``x * scale + shift`` per feature: ``nn.BatchNorm1d`` after training."""

    where: str
    scale: Array
    shift: Array


@dataclass(frozen=True)
class Activation:
    """An elementwise operator, or Softmax and LogSoftmax over the last axis."""

    where: str
    op: str
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Flatten:
    """``nn.Flatten(1)``."""

    where: str


Layer = Rnn | Cell | Embedding | Linear | Norm | Affine | Activation | Flatten


def sizes(layer: Layer) -> tuple[int | None, int | None]:
    """Return the number of features that a layer takes and gives; None: any, or as many."""
    if isinstance(layer, Rnn):
        last = layer.layers[-1]
        k = last[0].R.shape[1]
        return layer.layers[0][0].W.shape[1], k * len(last)
    if isinstance(layer, Cell):
        return layer.weights.W.shape[1], layer.weights.R.shape[1]
    if isinstance(layer, Embedding):
        return None, layer.weight.shape[1]
    if isinstance(layer, Linear):
        return layer.weight.shape[1], layer.weight.shape[0]
    if isinstance(layer, (Norm, Affine)):
        return layer.scale.shape[0], layer.scale.shape[0]
    return None, None


def words(layer: Rnn | Cell) -> str:
    """Describe a recurrent layer in a line."""
    name = layer.where or "module"
    if isinstance(layer, Cell):
        size = layer.weights.R.shape
        gates_count = gates.GATES[layer.cell]
        return f"{name}: {layer.cell.upper()} cell, {sizes(layer)[0]} -> {size[0] // gates_count}"
    first = layer.layers[0][0]
    hidden = first.R.shape[0] // gates.GATES[layer.cell]
    text = f"{name}: {layer.cell.upper()}, {first.W.shape[1]} -> {hidden}"
    if first.projection is not None:
        text += f", projected to {first.R.shape[1]}"
    text += f", {len(layer.layers)} layers" if len(layer.layers) > 1 else ""
    return text + (", bidirectional" if len(layer.layers[0]) == 2 else "")
