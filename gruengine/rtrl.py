# SPDX-License-Identifier: MIT
"""Real-time recurrent learning (Williams and Zipser 1989): exact gradients, forward in time.

Beside the state ``s`` it keeps the influence matrix ``S = ds/dtheta`` of all recurrent parameters
on the state. A step ``s' = F(s, x, theta)`` moves it on::

    S' = (dF/ds) S + (dF/dx) Sx + dF/dtheta        (Sx: the influence on the input of the layer)

and a loss of the output of that step has the gradient ``(dL/dh') S'``, the same as that of
backpropagation through all the steps so far, without keeping any of them. The state is all that a
cell hands on: h, the cell of an LSTM, the gates with ``full_gates``, the accumulated probability
with ``skip``. It costs O(states^2 * parameters) a step: it is for small networks. All of it is
float64 NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gruengine.errors import DivergenceError, InvalidInputError
from gruengine.layer_base import Array, Layer, Pass
from gruengine.layer_recurrent import Recurrent
from gruengine.layers import Sequential
from gruengine.losses import Loss, loss_of
from gruengine.optimizers import Optimizer, clip_by_norm, optimizer_of
from gruengine.training_parameters import Parameters


class RTRL:
    """Predict, then learn from the same step; nothing of the past is kept but its influence.

    Parameters
    ----------
    net : Sequential
        Recurrent layers (one direction, no dropout), then any that are not. Its
        parameters are trained in place.
    loss : str or Loss
        Of one step: see :class:`gruengine.Trainer`.
    optimizer : str or Optimizer
    clip_norm : float, optional

    Notes
    -----
    If the parameters change between steps, the influence of older steps belongs to older
    parameters: with small rates that is the algorithm of Williams and Zipser. With
    parameters held fixed (``gradients`` in place of ``learn``) the gradient is exact: summed over
    the steps it is that of backpropagation through time, with ``skip`` its straight-through
    estimate (and ``skip_cost``). With ``zoneout`` the share that inference keeps is kept, no unit
    at random: the prediction is that of the model, and so is its gradient.

    Examples
    --------
    >>> import numpy as np
    >>> import gruengine as gr
    >>> net = gr.Sequential([gr.GRU(3), gr.Dense(1)], input_size=1)
    >>> learner = gr.RTRL(net, "mse", gr.optimizers.SGD(0.01))
    >>> y = learner.step(np.ones((1, 1)))
    >>> loss = learner.learn(np.zeros((1, 1)))
    """

    def __init__(
        self,
        net: Sequential,
        loss: str | Loss = "mse",
        optimizer: str | Optimizer = "sgd",
        *,
        clip_norm: float | None = None,
    ) -> None:
        self.net, self.loss, self.optimizer = net, loss_of(loss), optimizer_of(optimizer)
        self.clip_norm = clip_norm
        self.parameters = Parameters(net)
        recurrent, self.head = _divide(net)
        self.cells = [
            _Influence(layer, level) for layer in recurrent for level in range(layer.num_layers)
        ]
        ending = getattr(net.layers[-1], "activation", "linear")
        self.logits = self.loss.activation != "linear" and ending == self.loss.activation
        self._last: tuple[Any, Array, Any] | None = None
        self.reset()

    def reset(self) -> None:
        """Start a new sequence: state zero, no influence."""
        sizes = [cell.start() for cell in self.cells]
        total, at = sum(sizes), 0
        for cell, size in zip(self.cells, sizes, strict=True):
            cell.begin(at, total)
            at += size
        self._last = None

    def step(self, x: Any) -> Array:
        """Take one step and return the prediction.

        Parameters
        ----------
        x : ``[1, F]`` or ``[F]``.

        Returns
        -------
        ndarray ``[1, C]``, after the activation that the loss contains.
        """
        self.parameters.adopt()
        value = np.asarray(x, np.float64).reshape(1, -1)
        if value.shape[1] != self.net.input_size:
            raise InvalidInputError(
                f"x has shape {np.shape(x)}; it must be [1, {self.net.input_size}]"
            )
        influence: Array | None = None
        for cell in self.cells:
            value, influence = cell.step(value, influence)
        run, undos = Pass(training=False, logits=self.logits), []
        for layer in self.head:
            value, _, undo = layer.begin_update(value, None, run)
            undos.append(undo)
        self._last = (undos, value, influence)
        if not self.logits:
            return value
        from gruengine.training_ops import ACTIVATIONS

        return ACTIVATIONS[self.loss.activation](value)[0]

    def gradients(self, target: Any) -> tuple[float, dict[str, Array]]:
        """Return the loss of the last step and its gradient by every parameter of the model.

        Parameters
        ----------
        target : as the loss wants it for ``[1, C]``.

        Raises
        ------
        InvalidInputError
            No step was taken since the start, or since it was learned from.
        """
        if self._last is None:
            raise InvalidInputError("there is no prediction to learn from: call step first")
        undos, y, influence = self._last
        value, dy = self.loss(y, np.asarray(target))
        for layer in self.net.layers:
            layer.gradients.clear()
        for undo in reversed(undos):
            dy, _ = undo(dy)
        assert influence is not None
        along = (np.asarray(dy, np.float64) @ influence)[0] + sum(c.cost for c in self.cells)
        for cell in self.cells:
            cell.give(along)
        found = self.parameters.gradients()
        self.parameters.clear_gradients()
        return value, found

    def learn(self, target: Any) -> float:
        """Update the parameters from the last prediction and return its loss.

        Raises
        ------
        DivergenceError
            NaN or infinity in the loss or a gradient; nothing was updated.
        """
        with np.errstate(all="ignore"):
            value, found = self.gradients(target)
        self._last, steps = None, self.optimizer.steps
        bad = [name for name, gradient in found.items() if not np.isfinite(gradient).all()]
        if bad or not np.isfinite(value):
            layer = bad[-1].rsplit(".", 1)[0] if bad else "loss"
            what = f"the loss is {value}, the gradient of {', '.join(bad) or 'nothing'} not finite"
            raise DivergenceError(
                f"step {steps}, layer {layer!r}: {what}; nothing was updated", steps, layer
            )
        if self.clip_norm is not None:
            clip_by_norm(found, self.clip_norm)
        self.optimizer.update(self.parameters.values, found)
        self.net.changed()
        return value


class _Influence:
    """One recurrent layer: its state ``[h, c]`` and how all parameters have moved it."""

    def __init__(self, layer: Recurrent, level: int) -> None:
        self.layer, self.level = layer, level

    def _cell(self) -> Any:
        from gruengine.reference_cell import cells_of

        found = {k: np.asarray(v, np.float64) for k, v in self.layer.operands(self.level).items()}
        return cells_of(self.layer.node_attributes(), found)[0]

    def start(self) -> int:
        """Return the number of elements of the operands."""
        self.shapes = {k: v.shape for k, v in self.layer.operands(self.level).items()}
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    def begin(self, at: int, total: int) -> None:
        """Zero state and influence; the operands stand from ``at`` on among ``total``."""
        self.at = at
        self.h, self.c = np.zeros((1, self.layer.output_size)), np.zeros((1, self.layer.state_size))
        self.S = np.zeros((self.h.size + self.c.size, total))
        self.cost = np.zeros(total)

    def step(self, x: Array, Sx: Array | None) -> tuple[Array, Array]:
        """Return the output and the influence on it, given the input and that on the input."""
        cell, K = self._cell(), self.h.size
        # One row for each element of the new state: rows of derivatives are rows of a batch.
        one = np.eye(len(self.S))
        rows = [np.repeat(a, len(one), axis=0) for a in (x, self.h, self.c)]
        found = cell.backward(*rows, one[:, :K], one[:, K:])
        moved = found.dh @ self.S[:K] + found.dc @ self.S[K:]
        if Sx is not None:
            moved += found.dx @ Sx
        direct = np.concatenate([found.by[k].reshape(len(one), -1) for k in self.shapes], axis=1)
        moved[:, self.at : self.at + direct.shape[1]] += direct
        if self.layer.skip:  # the decision is taken for p~, of which the state holds 1 - p~
            self.cost = -self.layer.skip_cost * self.S[-1]
        self.h, self.c = cell.step(x, self.h, self.c)
        self.S = moved
        if not self.layer.residual or x.shape != self.h.shape:
            return self.h, moved[:K]
        return self.h + x, moved[:K] if Sx is None else moved[:K] + Sx

    def give(self, along: Array) -> None:
        """Hand the gradients of the operands to the layer."""
        found, at = {}, self.at
        for key, shape in self.shapes.items():
            size = int(np.prod(shape))
            found[key] = along[at : at + size].reshape(shape).astype(np.float32)
            at += size
        self.layer.add_gradients(self.level, found)


def _divide(net: Sequential) -> tuple[list[Recurrent], tuple[Layer, ...]]:
    """Return the recurrent layers that a model begins with, and the others."""
    recurrent: list[Recurrent] = []
    for layer in net.layers:
        if not isinstance(layer, Recurrent):
            break
        if layer.bidirectional or layer.recurrent_dropout or layer.dropout:
            raise InvalidInputError(
                f"layer {layer.name!r}: RTRL goes forward in time with every unit; it needs one "
                "direction and no dropout"
            )
        recurrent.append(layer)
    head = net.layers[len(recurrent) :]
    late = [layer.name for layer in head if isinstance(layer, Recurrent)]
    if not recurrent or late:
        raise InvalidInputError(
            f"RTRL needs recurrent layers first and others after them; got "
            f"{[layer.name for layer in net.layers]}"
        )
    return recurrent, head
