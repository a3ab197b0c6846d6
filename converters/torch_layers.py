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
    """``x * scale + shift`` per feature: ``nn.BatchNorm1d`` after training.

    ``axis`` is where the features are: -1, or 1 where an input of three axes or more is normed.
    """

    where: str
    scale: Array
    shift: Array
    axis: int = -1


@dataclass(frozen=True)
class Slope:
    """``nn.PReLU``: ``weight [1]``, or one number for each place of the second axis.

    ``axis`` is -1 where the second axis is the last one, else 1.
    """

    where: str
    weight: Array
    axis: int = -1


@dataclass(frozen=True)
class Window:
    """A convolution or pool of ``[N, C, ...]`` over ``n`` axes: ``nn.Conv1d``, ``nn.MaxPool2d``.

    op : ``"Conv"``, ``"MaxPool"``, ``"AveragePool"``, or ``"Pad"`` alone
    attrs : of the operator, kernel_shape, strides, dilations and pads of each axis
    pad_mode : ``"reflect"``, ``"edge"`` or ``"constant"`` of ``before``, the pads put on first
    """

    where: str
    op: str
    n: int
    attrs: Mapping[str, Any] = field(default_factory=dict)
    weight: Array | None = None
    bias: Array | None = None
    before: tuple[int, ...] = ()
    pad_mode: str = "constant"
    pad_value: float = 0.0


@dataclass(frozen=True)
class Overall:
    """``nn.AdaptiveAvgPool1d(1)`` and the like: one value for each channel, axes kept."""

    where: str
    op: str
    n: int


@dataclass(frozen=True)
class Activation:
    """An elementwise operator, or Softmax and LogSoftmax over the last axis."""

    where: str
    op: str
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Flatten:
    """``nn.Flatten``: the axes from ``start`` to ``end`` (both in) as one."""

    where: str
    start: int = 1
    end: int = -1


Layer = (
    Rnn
    | Cell
    | Embedding
    | Linear
    | Norm
    | Affine
    | Slope
    | Window
    | Overall
    | Activation
    | Flatten
)


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
    if isinstance(layer, Window) and layer.weight is not None:
        return layer.weight.shape[1] * int(layer.attrs["group"]), layer.weight.shape[0]
    if isinstance(layer, (Norm, Affine)):
        return layer.scale.shape[0], layer.scale.shape[0]
    return None, None


def second_axis(layer: Layer) -> tuple[int, ...]:
    """Return the size of the second axis if a layer that is no convolution fixes it."""
    if isinstance(layer, Affine) and layer.axis == 1:
        return (layer.scale.size,)
    if isinstance(layer, Slope) and layer.axis == 1 and layer.weight.size > 1:
        return (layer.weight.size,)
    return ()


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
