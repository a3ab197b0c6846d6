# SPDX-License-Identifier: MIT
"""Checks a chain of layers: sizes that follow each other, axes, one layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gruengine.converters.base import Reason
from gruengine.converters.torch_layers import (
    Activation,
    Affine,
    Cell,
    Embedding,
    Flatten,
    Layer,
    Linear,
    Norm,
    Overall,
    Rnn,
    Slope,
    Window,
    second_axis,
    sizes,
)


@dataclass
class _Shape:
    """What is known of a value: its axes, and the size of its features if that is known.

    windowed : the features are the second axis, as convolutions have them
    """

    rank: int
    size: int | None
    windowed: bool


def check(
    layers: list[Layer], softmaxes: Sequence[tuple[Activation, Any]], reasons: list[Reason]
) -> list[Layer]:
    """Return the layers with the axes that their places in the chain give; reasons are added.

    Parameters
    ----------
    softmaxes : sequence of (Activation, dim)
        Those whose axis must be the last one.
    """
    layouts = {layer.batch_first for layer in layers if isinstance(layer, Rnn)}
    if len(layouts) > 1:
        reasons.append(Reason("", "batch_first of both kinds", "one layout for all"))
    if layouts and any(isinstance(layer, Cell) for layer in layers):
        reasons.append(Reason("", "cells among sequence modules", "one kind of them"))
    window = next((layer for layer in layers if isinstance(layer, (Window, Overall))), None)
    if window is not None and any(isinstance(one, (Rnn, Cell, Embedding)) for one in layers):
        why = "convolutions alone; pass example_inputs to trace a module that joins them"
        reasons.append(Reason(window.where, "a convolution among recurrent modules", why))
    rank = 3 if layouts else 2 if window is None else window.n + 2
    shape = _Shape(rank, None, window is not None and not layouts)
    result: list[Layer] = []
    for index, layer in enumerate(layers):
        if isinstance(layer, Embedding) and index:
            what = "an Embedding after other modules"
            reasons.append(Reason(layer.where, what, "one at the beginning"))
        _check_axes(layer, shape, softmaxes, reasons)
        result.append(_step(layer, shape, reasons))
    second = {size for layer in result for size in second_axis(layer)}
    if len(second) > 1 and window is None:
        what = f"norms and slopes of the sizes {sorted(second)} along the second axis"
        reasons.append(Reason("", what, "one size"))
    return result


def _check_axes(
    layer: Layer,
    shape: _Shape,
    softmaxes: Sequence[tuple[Activation, Any]],
    reasons: list[Reason],
) -> None:
    rank = shape.rank
    if isinstance(layer, Rnn) and rank != 3:
        reasons.append(Reason(layer.where, "a matrix as input", "a sequence"))
    if isinstance(layer, (Window, Overall)) and rank != layer.n + 2:
        what = f"an input of {rank} axes"
        reasons.append(Reason(layer.where, what, f"{layer.n + 2}: [N, C, ...]"))
    for softmax, axis in softmaxes:
        if softmax is layer and axis not in (-1, rank - 1) and (axis is not None or rank != 2):
            reasons.append(
                Reason(layer.where, f"{layer.op} of dim {axis}", "the last axis, dim=-1")
            )


def _step(layer: Layer, shape: _Shape, reasons: list[Reason]) -> Layer:
    """Check the sizes of one layer, and bring ``shape`` behind it."""
    takes, gives = sizes(layer)
    if isinstance(layer, Affine) and shape.rank > 2:
        layer = replace(layer, axis=1)
        if not shape.windowed:
            return layer  # it fixes the size of the second axis, not that of the features
    if isinstance(layer, Slope):
        layer = replace(layer, axis=1 if shape.rank > 2 else -1)
        fits = shape.size if shape.windowed or shape.rank == 2 else None
        if layer.weight.size > 1 and fits not in (None, layer.weight.size):
            what = f"{layer.weight.size} slopes for {fits} features"
            reasons.append(Reason(layer.where, what, "equal sizes"))
        return layer
    if isinstance(layer, Flatten):
        return _flattened(layer, shape, reasons)
    if isinstance(layer, (Linear, Norm)) and shape.windowed and shape.rank > 2:
        return layer  # along the last axis, which is not that of the channels
    if shape.size is not None and takes is not None and takes != shape.size:
        what = f"{takes} features after {shape.size}"
        reasons.append(Reason(layer.where, what, "equal sizes"))
    shape.size = gives if gives is not None else shape.size
    return layer


def _flattened(layer: Flatten, shape: _Shape, reasons: list[Reason]) -> Layer:
    start, end = (axis + shape.rank if axis < 0 else axis for axis in (layer.start, layer.end))
    if not 0 <= start <= end < shape.rank:
        what = f"Flatten from {layer.start} to {layer.end} of {shape.rank} axes"
        reasons.append(Reason(layer.where, what, "axes that are there, in their order"))
        return layer
    if end > start:
        features = 1 if shape.windowed else shape.rank - 1
        kept = not start <= features <= end
        shape.size = shape.size if kept else None
        shape.rank -= end - start
        shape.windowed = shape.windowed and kept and features < start
    return replace(layer, start=start, end=end)
