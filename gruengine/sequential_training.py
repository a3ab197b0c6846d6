# SPDX-License-Identifier: MIT
"""A Sequential in training: its layers forward one after the other, then backward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from gruengine.errors import InvalidInputError
from gruengine.layer_base import Array, Backprop, Layer, Pass, State, States
from gruengine.layer_recurrent import Recurrent
from gruengine.layers import Sequential


def begin_update(
    net: Sequential, x: Any, state: States | None, run: Pass
) -> tuple[Array, States, Backprop]:
    """See :meth:`gruengine.layers.Sequential.begin_update`."""
    x = prepare(net, x)
    turn = net.batch_first
    shares = split_states(net.layers, state)
    undos: list[Backprop] = []
    after: list[State] = []
    last = len(net.layers) - 1
    value = x.swapaxes(0, 1) if turn else x
    for index, (layer, share) in enumerate(zip(net.layers, shares, strict=True)):
        own = replace(
            run,
            logits=run.logits and index == last,
            input_gradient=run.input_gradient or index > 0,
        )
        value, states, undo = layer.begin_update(value, share, own)
        undos.append(undo)
        after += states
    sequences = value.ndim == 3
    counts = [levels(layer) for layer in net.layers]

    def backprop(dy: Array | None, dstate: States | None = None) -> tuple[Any, States]:
        left = list(dstate or ())
        if left and len(left) != sum(counts):
            raise InvalidInputError(f"{len(left)} gradients of states for {sum(counts)} layers")
        gradient = dy.swapaxes(0, 1) if dy is not None and turn and sequences else dy
        before: list[State] = []
        for undo, count in zip(undos[::-1], counts[::-1], strict=True):
            own = tuple(left[len(left) - count :]) if left and count else ()
            left = left[: len(left) - count] if count else left
            if gradient is None and not count:
                continue
            gradient, start = undo(gradient, own)
            before[:0] = start
        if gradient is not None and turn:
            gradient = gradient.swapaxes(0, 1)
        return gradient, tuple(before)

    y = value.swapaxes(0, 1) if turn and sequences else value
    return y, tuple(after), backprop


def layer_outputs(
    net: Sequential, x: Any, state: States | None, run: Pass
) -> Iterator[tuple[str, Array]]:
    """See :meth:`gruengine.layers.Sequential.layer_outputs`."""
    value = prepare(net, x)
    value = value.swapaxes(0, 1) if net.batch_first else value
    for layer, share in zip(net.layers, split_states(net.layers, state), strict=True):
        value, _, _ = layer.begin_update(value, share, run)
        yield layer.name, value


def prepare(net: Sequential, x: Any) -> Array:
    """Return ``x`` in the dtype of the first layer, its shape checked."""
    array = np.asarray(x)
    if net.input_size is None:
        if array.ndim != 2 or array.dtype.kind not in "iu":
            raise InvalidInputError(
                f"x is {array.dtype} of shape {array.shape}; it must be integers with 2 axes"
            )
        return array
    if array.ndim != 3 or array.shape[2] != net.input_size or array.dtype.kind not in "fiu":
        raise InvalidInputError(
            f"x is {array.dtype} of shape {array.shape}; it must be numbers with 3 axes, the last "
            f"of {net.input_size} features"
        )
    return np.asarray(array, np.float32)


def levels(layer: Layer) -> int:
    """How many states a layer has."""
    return layer.num_layers if isinstance(layer, Recurrent) else 0


def split_states(layers: tuple[Layer, ...], state: States | None) -> list[States | None]:
    """Return each layer's share of the states of a model.

    Raises
    ------
    InvalidInputError
        Too many or too few.
    """
    counts = [levels(layer) for layer in layers]
    if not state:
        return [None] * len(layers)
    if len(state) != sum(counts):
        raise InvalidInputError(f"{len(state)} states; the model has {sum(counts)}")
    shares, at = [], 0
    for count in counts:
        shares.append(tuple(state[at : at + count]) or None)
        at += count
    return shares
