# SPDX-License-Identifier: MIT
"""To see what a recurrent network does: gradients through time, and its gates.

The plots need matplotlib (``pip install gruengine[plot]``).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gruengine.errors import InvalidInputError, UnsupportedError
from gruengine.layer_base import Array, Pass, States
from gruengine.layer_recurrent import Recurrent, suffix_of
from gruengine.layers import Sequential
from gruengine.losses import Loss, loss_of
from gruengine.sequential_training import prepare, split_states
from gruengine.training_core import recurrent_training


def gradient_flow(
    net: Sequential,
    x: Any,
    target: Any = None,
    loss: str | Loss = "mse",
    *,
    dy: Any = None,
    mask: Any = None,
    state: States | None = None,
    weights: bool = False,
) -> dict[str, Array]:
    """Return the norm of ``dL/dh_t`` over time, for each recurrent layer.

    ``dL/dh_t`` is the whole gradient by the output of step t: through the output of the model at
    that step and through all later steps (Hochreiter 1991; Bengio et al. 1994).

    Parameters
    ----------
    net : Sequential
    x : as the model takes it.
    target, loss, mask : where the gradient starts, as in ``Trainer.step``; or
    dy : array in the shape of ``net(x)``, the gradient of the loss by it.
    state : where the recurrence starts.
    weights : True: instead, the norm of what step t adds to the gradient of the input weights W.

    Returns
    -------
    dict of str to ndarray ``[T]``
        By the name of the layer (``_l1``, ... for the others of a stack); ``..._reverse`` is the
        direction that reads the sequence backwards. Norms are over batch and units.

    Examples
    --------
    >>> import numpy as np
    >>> import gruengine as gr
    >>> net = gr.Sequential([gr.LSTM(4), gr.Dense(1)], input_size=2)
    >>> flow = gr.diagnostics.gradient_flow(net, np.ones((1, 9, 2)), dy=np.ones((1, 1)))
    >>> flow["lstm"].shape
    (9,)
    """
    value = prepare(net, x)
    value = value.swapaxes(0, 1) if net.batch_first else value
    run, undos = Pass(training=False), []
    levels: dict[str, _Unrolled] = {}
    for layer, share in zip(net.layers, split_states(net.layers, state), strict=True):
        if not isinstance(layer, Recurrent):
            value, _, undo = layer.begin_update(value, None, run)
            undos.append(undo)
            continue
        for level in range(layer.num_layers):
            unrolled = _Unrolled(layer, level, None if share is None else share[level])
            value = unrolled.forward(np.ascontiguousarray(value))
            levels[layer.name + suffix_of(level)] = unrolled
            undos.append(unrolled.backward)
    gradient = _start(net, value, target, loss, dy, mask)
    for undo in reversed(undos):
        gradient, _ = undo(gradient)
    for layer in net.layers:
        layer.gradients.clear()
    return {
        name + tail: norms
        for name, unrolled in levels.items()
        for tail, norms in zip(
            ("", "_reverse"), unrolled.weights if weights else unrolled.norms, strict=False
        )
    }


def _start(net: Sequential, y: Array, target: Any, loss: str | Loss, dy: Any, mask: Any) -> Array:
    """Return the gradient of the loss by the output of the model, time first."""
    turn = net.batch_first and y.ndim == 3
    if (dy is None) == (target is None):
        raise InvalidInputError("give either a target or dy")
    if dy is None:
        _, dy = loss_of(loss)(y.swapaxes(0, 1) if turn else y, np.asarray(target), mask)
    found = np.asarray(dy, np.float32)
    found = found.swapaxes(0, 1) if turn else found
    if found.shape != y.shape:
        raise InvalidInputError(f"dy has shape {np.shape(dy)}; it must have that of the output")
    return found


class _Unrolled:
    """A recurrent layer run one step at a time, so that the gradient can be seen at each."""

    def __init__(self, layer: Recurrent, level: int, state: Any) -> None:
        self.sequences = layer.return_sequences or level < layer.num_layers - 1
        self.layer, self.state = layer, state
        self.operands = layer.operands(level)
        attrs = layer.node_attributes()
        per_direction = len(attrs["activations"]) // layer.directions  # type: ignore[arg-type]
        for key in ("activations", "activation_alpha", "activation_beta"):
            attrs[key] = attrs[key][:per_direction]  # type: ignore[index]
        self.attrs = {**attrs, "direction": "forward"}
        self.norms: list[Array] = []
        self.weights: list[Array] = []

    def forward(self, x: Array) -> Array:
        """Return ``[T, N, D*K]``, or ``[N, D*K]`` of a layer that gives its last output."""
        T, N, I = x.shape
        self.residual = self.layer.residual and self.layer.directions * self.layer.output_size == I
        self.core = recurrent_training(self.attrs, I, self.layer.units, 1)
        self.tapes: list[list[Any]] = []
        outputs, last = [], []
        for d in range(self.layer.directions):
            own = {key: value[d : d + 1] for key, value in self.operands.items()}
            h = None if self.state is None else np.ascontiguousarray(self.state.h[d : d + 1])
            c = None if self.state is None or self.state.c is None else self.state.c[d : d + 1]
            y = np.zeros((T, N, self.layer.output_size), np.float32)
            tapes: list[Any] = [None] * T
            for t in reversed(range(T)) if d else range(T):
                step, h, c, tapes[t] = self.core.forward(x[t : t + 1], **own, h0=h, c0=c)
                y[t] = step[0]
            outputs.append(y)
            last.append(y[0 if d else -1])
            self.tapes.append(tapes)
        if not self.sequences:
            return np.concatenate(last, -1)
        whole = np.concatenate(outputs, -1)
        return whole + x if self.residual else whole

    def backward(self, dy: Array) -> tuple[Array, Any]:
        """Return ``dx``, keeping the norm of ``dL/dh_t`` of each direction."""
        T, K = len(self.tapes[0]), self.layer.output_size
        total: Array | None = None
        for d, tapes in enumerate(self.tapes):
            own = dy[..., d * K : (d + 1) * K]
            dh = np.zeros((1, own.shape[-2], K), np.float32)
            dc: Array | None = None
            norms, by_weights = np.zeros(T), np.zeros(T)
            steps = range(T) if d else range(T - 1, -1, -1)
            for at, t in enumerate(steps):
                if self.sequences or at == 0:
                    dh = dh + (own[t] if self.sequences else own)[None]
                norms[t] = _norm(dh)
                dx, dW, *_, dh, dc = self.core.backward(tapes[t], None, dh, dc, True)
                by_weights[t] = _norm(dW)
                if total is None:
                    total = np.zeros((T, *dx.shape[1:]), np.float32)
                total[t] += dx[0]
            self.norms.append(norms)
            self.weights.append(by_weights)
        assert total is not None
        return (total + dy if self.residual else total), ()


def _norm(value: Array) -> float:
    """Return the norm in float64: the squares of small float32 numbers would vanish."""
    return float(np.linalg.norm(value.astype(np.float64)))


def record_gates(
    net: Sequential, x: Any, *, state: States | None = None
) -> dict[str, dict[str, Array]]:
    """Return what every gate did over a sequence, computed in float64.

    Returns
    -------
    dict of str to dict of str to ndarray ``[T, N, H]``
        By the name of the layer (as in :func:`gradient_flow`), then by letter: LSTM ``i``, ``o``,
        ``f``, the candidate ``g``, the cell ``c`` and the output ``h`` (``[T, N, K]``); GRU ``z``,
        ``r``, the candidate ``n`` and ``h``; RNN ``h``. With ``skip`` also ``u`` ``[T, N, 1]``: 1
        where the state was updated.
    """
    from gruengine.reference_record import recorders_of

    value = prepare(net, x)
    value = value.swapaxes(0, 1) if net.batch_first else value
    found: dict[str, dict[str, Array]] = {}
    for layer, share in zip(net.layers, split_states(net.layers, state), strict=True):
        if not isinstance(layer, Recurrent):
            value, _, _ = layer.begin_update(value, None, Pass(training=False))
            continue
        for level in range(layer.num_layers):
            operands = {k: v.astype(np.float64) for k, v in layer.operands(level).items()}
            cells = recorders_of(layer.node_attributes(), operands)
            start = None if share is None else share[level]
            name, outputs = layer.name + suffix_of(level), []
            for d, cell in enumerate(cells):
                own = _record(cell, value, layer, start, d)
                found[name + ("_reverse" if d else "")] = own
                outputs.append(own["h"])
            ends = [y[0 if d else -1] for d, y in enumerate(outputs)]
            more = layer.return_sequences or level < layer.num_layers - 1
            before, value = value, np.concatenate(outputs if more else ends, -1)
            if layer.residual and before.shape == value.shape:
                value = value + before
    return found


def _record(cell: Any, x: Array, layer: Recurrent, start: Any, d: int) -> dict[str, Array]:
    """Run one direction and keep every letter of its steps."""
    T, N, _ = x.shape
    h = np.zeros((N, layer.output_size)) if start is None else start.h[d].astype(np.float64)
    c = np.zeros((N, layer.state_size))
    if start is not None and start.c is not None:
        c = start.c[d].astype(np.float64)
    kept: dict[str, Array] = {}
    for t in reversed(range(T)) if d else range(T):
        letters, h, c = cell(np.asarray(x[t], np.float64), h, c)
        for letter, value in letters.items():
            kept.setdefault(letter, np.zeros((T, *value.shape)))[t] = value
    return kept


# -- plots ----------------------------------------------------------------------------------------


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise UnsupportedError("plots need matplotlib: pip install gruengine[plot]") from error
    return pyplot.subplots()[1]


def plot_gradient_flow(flow: dict[str, Array], ax: Any = None) -> Any:
    """Draw what :func:`gradient_flow` returned, in a logarithmic scale; return the axes."""
    ax = _axes(ax)
    for name, norms in flow.items():
        ax.plot(np.arange(1, len(norms) + 1), np.where(norms > 0, norms, np.nan), label=name)
    ax.set_yscale("log")
    ax.set_xlabel("step t")
    ax.set_ylabel("norm of dL/dh at step t")
    ax.legend()
    return ax


def plot_gates(gates: dict[str, Array], *, row: int = 0, ax: Any = None) -> Any:
    """Draw one layer of :func:`record_gates`: the mean over the units of one row of the batch."""
    ax = _axes(ax)
    for letter, values in gates.items():
        ax.plot(np.arange(1, len(values) + 1), values[:, row].mean(-1), label=letter)
    ax.set_xlabel("step t")
    ax.set_ylabel("mean over units")
    ax.legend()
    return ax
