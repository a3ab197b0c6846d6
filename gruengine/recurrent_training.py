# SPDX-License-Identifier: MIT
"""The recurrent layers in training: forward through the stack, backpropagation through time."""

from __future__ import annotations

from typing import Any

import numpy as np

from gruengine.errors import InvalidInputError
from gruengine.layer_base import Array, Backprop, Pass, State, States
from gruengine.layer_recurrent import EXTRAS, Recurrent
from gruengine.training_core import recurrent_training
from gruengine.training_ops import dropout_mask

# What stands where in the arguments of forward and in what backward returns after dx.
OPERANDS = ("W", "R", "B", *EXTRAS)


def begin_update(
    layer: Recurrent, x: Array, state: States | None, run: Pass
) -> tuple[Array, States, Backprop]:
    """See :meth:`gruengine.layer_base.Layer.begin_update`."""
    if state and len(state) != layer.num_layers:
        raise InvalidInputError(
            f"layer {layer.name!r} got {len(state)} states; it has {layer.num_layers} layers"
        )
    states: list[State] = []
    undos: list[_Scaled | _Level] = []
    drops = run.training and (layer.dropout or layer.recurrent_dropout or any(layer.zoneout))
    rng = run.rng(layer.name) if drops else None
    for level in range(layer.num_layers):
        if level and layer.dropout and rng is not None:
            mask = dropout_mask(rng, x.shape, layer.dropout, x.dtype)
            x = x * mask
            undos.append(_Scaled(mask))
        step = _Level(layer, level, rng, run)
        x, after = step.forward(x, state[level] if state else None)
        states.append(after)
        undos.append(step)

    def backprop(dy: Array | None, dstate: States = ()) -> tuple[Any, States]:
        before: list[State] = []
        for undo in reversed(undos):
            if isinstance(undo, _Scaled):
                dy = dy * undo.mask if dy is not None else None
                continue
            dy, start = undo.backward(dy, dstate[undo.level] if dstate else None)
            before.insert(0, start)
        return dy, tuple(before)

    return x, tuple(states), backprop


class _Scaled:
    """Dropout between two layers of a stack."""

    def __init__(self, mask: Array) -> None:
        self.mask = mask


class _Level:
    """One layer of a stack in one pass."""

    def __init__(
        self, layer: Recurrent, level: int, rng: np.random.Generator | None, run: Pass
    ) -> None:
        self.layer, self.level, self.run = layer, level, run
        self.sequences = layer.return_sequences or level < layer.num_layers - 1
        self.operands = layer.operands(level)
        self.rng = rng

    def _masks(self, T: int, N: int) -> dict[str, Array]:
        """Draw what the recurrent products see, and what zoneout keeps."""
        layer, rng, found = self.layer, self.rng, {}
        if rng is None:
            return {}
        D, K = layer.directions, layer.output_size
        if layer.recurrent_dropout:
            mask = dropout_mask(rng, (D, N, K), layer.recurrent_dropout, np.dtype(np.float32))
            found["recurrent_mask"] = mask
        sizes = (K, layer.units) if layer.cell == "lstm" else (K,)
        for key, size, share in zip(("keep_h", "keep_c"), sizes, layer.zoneout, strict=False):
            if any(layer.zoneout):
                kept = rng.random((D, T, N, size), np.float32) < share
                found[key] = kept.astype(np.float32)
        return found

    def forward(self, x: Array, state: State | None) -> tuple[Array, State]:
        layer = self.layer
        self.residual = layer.residual and x.shape[2] == layer.directions * layer.output_size
        attrs = layer.node_attributes()
        if layer.skip:
            attrs["skip_cost"] = layer.skip_cost
        self.core = recurrent_training(
            attrs, x.shape[2], layer.units, self.run.num_threads, self.run.compute_type
        )
        y, h, c, self.tape = self.core.forward(
            np.ascontiguousarray(x, np.float32),
            **self.operands,
            h0=None if state is None else _floats(state.h),
            c0=None if state is None else _floats(state.c),
            lengths=self.run.lengths,
            **self._masks(*x.shape[:2]),
        )
        self.shape = h.shape
        if not self.sequences:
            D, N, K = h.shape
            return np.ascontiguousarray(h.transpose(1, 0, 2)).reshape(N, D * K), State(h, c)
        return y + x if self.residual else y, State(h, c)

    def backward(self, dy: Array | None, dstate: State | None) -> tuple[Array | None, State]:
        dh = None if dstate is None else dstate.h
        dc = None if dstate is None else dstate.c
        direct = dy if self.residual else None
        if not self.sequences and dy is not None:
            D, N, K = self.shape
            last = np.ascontiguousarray(dy.reshape(N, D, K).transpose(1, 0, 2))
            dy, dh = None, last if dh is None else last + dh
        dx, *rest, dh0, dc0 = self.core.backward(
            self.tape,
            _floats(dy),
            _floats(dh),
            _floats(dc),
            self.run.input_gradient or self.level > 0,
        )
        found = {k: g for k, g in zip(OPERANDS, rest, strict=True) if g is not None}
        self.layer.add_gradients(self.level, found)
        if dx is not None and direct is not None:
            dx = dx + direct
        return dx, State(dh0, dc0)


def _floats(value: Array | None) -> Array | None:
    """Return float32 in the order of C, as the kernels read it."""
    return None if value is None else np.ascontiguousarray(value, np.float32)
