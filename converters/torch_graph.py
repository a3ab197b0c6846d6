# SPDX-License-Identifier: MIT
"""The graph of a chain of PyTorch layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from gruengine.converters import gates
from gruengine.converters.graph_parts import GraphParts, RecurrentParts
from gruengine.converters.torch_layers import (
    Activation,
    Affine,
    Cell,
    Direction,
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
from gruengine.spec import Attr, Dim, Graph, ModelSpec, Node, Port

Array = np.ndarray[Any, Any]


def build(layers: list[Layer]) -> ModelSpec:
    """Return the spec of ``layers`` one after the other; their sizes must follow each other."""
    return _Builder(layers).spec()


class _Builder(GraphParts):
    """Emits nodes; ``value`` is what the layers so far gave, ``dims`` its sizes in torch's layout.

    ``swapped`` says that the first two axes of ``value`` are the other way round, so that two
    layers in a row don't transpose there and back.
    """

    def __init__(self, layers: list[Layer]) -> None:
        super().__init__()
        self.layers = layers
        self.inputs: list[Port] = []
        self.outputs: list[Port] = []
        self.state: list[tuple[str, str]] = []
        self.swapped = False
        self.value = "x"
        self.names = {"x", "y"}
        self.dims = self._input_dims()

    def spec(self) -> ModelSpec:
        """Emit everything."""
        embedded = bool(self.layers) and isinstance(self.layers[0], Embedding)
        self.inputs.insert(0, Port("x", "int64" if embedded else "float32", self.dims))
        for layer in self.layers:
            self._emit(layer)
        if not self.layers or not isinstance(self.layers[-1], Cell):
            self._finish()
        graph = Graph(self.inputs, self.outputs, self.nodes)
        return ModelSpec(graph, self.tensors, tuple(self.state))

    def _input_dims(self) -> tuple[Dim, ...]:
        window = next((one for one in self.layers if isinstance(one, (Window, Overall))), None)
        rnn = next((layer for layer in self.layers if isinstance(layer, Rnn)), None)
        embedded = bool(self.layers) and isinstance(self.layers[0], Embedding)
        known = next((sizes(one)[0] for one in self.layers if sizes(one)[0] is not None), None)
        features: tuple[Dim, ...] = () if embedded else ("I" if known is None else known,)
        if window is not None:
            return ("N", *(features or ("C",)), *(("L",) if window.n == 1 else ("H", "W")))
        if rnn is None:
            return ("N", *features)
        # What acts on the second axis has one number for each of its places.
        second = next((size for one in self.layers for size in second_axis(one)), None)
        first, other = ("N", "T") if rnn.batch_first else ("T", "N")
        return (first, other if second is None else second, *features)

    def _finish(self) -> None:
        """Name the last value ``y``, in torch's layout."""
        self._arrange(False)
        last = self.nodes[-1] if self.nodes else None
        if last is not None and last.outputs == (self.value,):
            self.nodes[-1] = Node(last.op, last.inputs, ("y",), last.attrs, last.name)
        else:
            self.nodes.append(Node("Identity", (self.value,), ("y",), {}, "y"))
        self.outputs.insert(0, Port("y", "float32", self.dims))

    # -- nodes -------------------------------------------------------------------------------------

    def _apply(self, where: str, op: str, *others: str, **attrs: Attr) -> None:
        self.value = self.node(where, op, (self.value, *others), attrs)

    def _arrange(self, swapped: bool) -> None:
        """Bring the first two axes into torch's order, or swap them."""
        if self.swapped != swapped:
            rest = range(2, len(self.dims))
            self._apply("", "Transpose", perm=[1, 0, *rest])
            self.swapped = swapped

    # -- layers -----------------------------------------------------------------------------------

    def _emit(self, layer: Layer) -> None:
        given = sizes(layer)[1]
        if isinstance(layer, Rnn):
            self._rnn(layer)
        elif isinstance(layer, Cell):
            self._cell(layer)
        elif isinstance(layer, Embedding):
            table = self.tensor(layer.where, "weight", layer.weight)
            self.value = self.node(layer.where, "Gather", (table, self.value), {"axis": 0})
            self.dims = (*self.dims, layer.weight.shape[1])
        elif isinstance(layer, Linear):
            self._apply(layer.where, "MatMul", self.tensor(layer.where, "weight", layer.weight.T))
            if layer.bias is not None:
                self._apply(layer.where, "Add", self.tensor(layer.where, "bias", layer.bias))
        elif isinstance(layer, Norm):
            others = [self.tensor(layer.where, "weight", layer.scale)]
            if layer.bias is not None:
                others.append(self.tensor(layer.where, "bias", layer.bias))
            self._apply(layer.where, "LayerNormalization", *others, axis=-1, epsilon=layer.eps)
        elif isinstance(layer, Affine):
            self._apply(layer.where, "Mul", self._along(layer, "scale", layer.scale))
            self._apply(layer.where, "Add", self._along(layer, "shift", layer.shift))
        elif isinstance(layer, Slope):
            self._apply(layer.where, "PRelu", self._along(layer, "weight", layer.weight))
        elif isinstance(layer, Window):
            self._window(layer)
        elif isinstance(layer, Overall):
            axes = self.ints(layer.where, "axes", [axis - layer.n for axis in range(layer.n)])
            self._apply(layer.where, layer.op, axes, keepdims=1)
            self.dims = (*self.dims[: -layer.n], *[1] * layer.n)
        elif isinstance(layer, Activation):
            self._activation(layer)
        else:
            self._flatten(layer)
        if given is not None and isinstance(layer, (Rnn, Cell, Embedding, Linear)):
            self.dims = (*self.dims[:-1], given)

    def _along(self, layer: Affine | Slope, what: str, array: Array) -> str:
        """Return a constant of one number for each feature, or each place of the second axis."""
        if layer.axis == -1:
            return self.tensor(layer.where, what, array)
        self._arrange(False)
        behind = max(len(self.dims) - 2, 0) if array.size > 1 else 0
        return self.tensor(layer.where, what, array.reshape(-1, *[1] * behind))

    def _window(self, layer: Window) -> None:
        n = layer.n
        if layer.before:
            pads = [0, 0, *layer.before[:n], 0, 0, *layer.before[n:]]
            others = [self.ints(layer.where, "pads", pads)]
            if layer.pad_mode == "constant":
                others.append(self.scalar(layer.where, "value", layer.pad_value))
            self._apply(layer.where, "Pad", *others, mode=layer.pad_mode)
        if layer.op != "Pad":
            arrays = {"weight": layer.weight, "bias": layer.bias}
            others = [self.tensor(layer.where, k, a) for k, a in arrays.items() if a is not None]
            self._apply(layer.where, layer.op, *others, **layer.attrs)
        channels = self.dims[1] if layer.weight is None else layer.weight.shape[0]
        names = [f"{layer.where or 'y'}_{axis}" for axis in range(n)]
        self.dims = (self.dims[0], channels, *names)

    def _flatten(self, layer: Flatten) -> None:
        rank = len(self.dims)
        start, end = layer.start % rank, layer.end % rank
        if start == end:
            return
        self._arrange(False)
        behind = self.dims[end + 1 :]
        # One size may stay open: the axes as one, or what is behind them.
        shape = [0] * start + [-1] + [size if isinstance(size, int) else -2 for size in behind]
        if -2 in shape:
            self._flatten_free(layer, start, end)
        else:
            self._apply(layer.where, "Reshape", self.ints(layer.where, "shape", shape))
        merged = "*".join(str(size) for size in self.dims[start : end + 1])
        self.dims = (*self.dims[:start], merged, *behind)

    def _flatten_free(self, layer: Flatten, start: int, end: int) -> None:
        """Move the axes to the end, where they can be joined, and the joined axis back."""
        rank = len(self.dims)
        rest = [axis for axis in range(rank) if not start <= axis <= end]
        self._apply(layer.where, "Transpose", perm=[*rest, *range(start, end + 1)])
        shape = self.ints(layer.where, "shape", [*[0] * len(rest), -1])
        self._apply(layer.where, "Reshape", shape)
        perm = [*range(start), len(rest), *range(start, len(rest))]
        self._apply(layer.where, "Transpose", perm=perm)

    def _activation(self, layer: Activation) -> None:
        where, x = layer.where, self.value
        if layer.op == "Clip":
            bounds = [self.scalar(where, key, layer.attrs[key]) for key in ("min", "max")]
            self._apply(where, "Clip", *bounds)
        elif layer.op in ("Mish", "LogSigmoid", "Tanhshrink", "Selu", "Celu"):
            self._composed(layer, x)
        elif layer.op == "Silu":
            self._apply(where, "Sigmoid")
            self._apply(where, "Mul", x)
        elif layer.op == "Softplus" and layer.attrs["beta"] != 1.0:
            beta = self.scalar(where, "beta", layer.attrs["beta"])
            self._apply(where, "Mul", beta)
            self._apply(where, "Softplus")
            self._apply(where, "Div", beta)
        else:
            attrs = {} if layer.op == "Softplus" else dict(layer.attrs)
            self._apply(where, layer.op, **attrs)

    def _composed(self, layer: Activation, x: str) -> None:
        where = layer.where
        if layer.op == "Mish":
            self._apply(where, "Softplus")
            self._apply(where, "Tanh")
            self._apply(where, "Mul", x)
        elif layer.op == "LogSigmoid":
            self._apply(where, "Neg")
            self._apply(where, "Softplus")
            self._apply(where, "Neg")
        elif layer.op == "Tanhshrink":
            tanh = self.node(where, "Tanh", (x,), {})
            self._apply(where, "Sub", tanh)
        elif layer.op == "Selu":
            self._apply(where, "Elu", alpha=1.6732632423543772)
            self._apply(where, "Mul", self.scalar(where, "scale", 1.0507009873554805))
        else:
            alpha = self.scalar(where, "alpha", layer.attrs["alpha"])
            self._apply(where, "Div", alpha)
            self._apply(where, "Elu", alpha=1.0)
            self._apply(where, "Mul", alpha)

    # -- recurrent layers -------------------------------------------------------------------------

    def _recurrent(
        self,
        where: str,
        layer: Rnn | Cell,
        directions: tuple[Direction, ...],
        wanted: tuple[str, ...],
        states: tuple[str, ...] = (),
    ) -> tuple[str, ...]:
        """Emit one Recurrent node on ``value`` [T, N, I]; return the names of ``wanted``."""
        cell = layer.cell
        size = directions[0].R.shape[0]
        rows = [gates.biases(cell, "torch", size, one.b_ih, one.b_hh) for one in directions]
        known = [row for row in rows if row is not None]
        projections = [one.projection for one in directions if one.projection is not None]
        names = [layer.activation] if cell == "rnn" else gates.DEFAULT_ACTIVATIONS[cell]
        parts = RecurrentParts(
            cell,
            "bidirectional" if len(directions) == 2 else "forward",
            np.stack([gates.weights(one.W, cell, "torch") for one in directions]),
            np.stack([gates.weights(one.R, cell, "torch") for one in directions]),
            np.stack(known) if known else None,
            [(name, 0.0, 0.0) for name in names] * len(directions),
            np.stack(projections) if projections else None,
            gates.TABLE["torch"][cell].reset,
            gates.TABLE["torch"][cell].update,
        )
        return self.recurrent(where, self.value, parts, wanted, states)

    def _rnn(self, layer: Rnn) -> None:
        self._arrange(layer.batch_first)
        depth = len(layer.layers)
        for index, directions in enumerate(layer.layers):
            where = f"{layer.where}.l{index}" if layer.where else f"l{index}"
            last = layer.output == "last" and index == depth - 1
            (y,) = self._recurrent(where, layer, directions, ("Y_h",) if last else ("Y",))
            count, k = len(directions), directions[0].R.shape[1]
            if last:
                self._join(where, y, count, k, axis=0)
                self.dims = ("N", k * count)
                self.swapped = False
                return
            self._join(where, y, count, k, axis=1)
            self.dims = (*self.dims[:-1], k * count)
        if layer.output == "last_step":
            index_name = self.tensor(layer.where, "last", np.array(-1, np.int64))
            self._apply(layer.where, "Gather", index_name, axis=0)
            self.dims = ("N", self.dims[-1])
            self.swapped = False

    def _join(self, where: str, value: str, count: int, k: int, axis: int) -> None:
        """Put the directions at ``axis`` of ``value`` side by side in the last axis."""
        self.value = value
        if count == 1:
            self._apply(where, "Squeeze", self.ints(where, "direction_axis", [axis]))
        else:
            self._apply(where, "Transpose", perm=[0, 2, 1, 3] if axis else [1, 0, 2])
            shape = [0, 0, count * k] if axis else [0, count * k]
            self._apply(where, "Reshape", self.ints(where, "shape", shape))

    def _cell(self, layer: Cell) -> None:
        alone = sum(isinstance(one, Cell) for one in self.layers) == 1
        prefix = "" if alone or not layer.where else f"{layer.where}."
        hidden = layer.weights.R.shape[0] // gates.GATES[layer.cell]
        widths = {"h": layer.weights.R.shape[1], "c": hidden}
        kinds = ("h", "c") if layer.cell == "lstm" else ("h",)
        axis = self.ints(layer.where, "axis", [0])
        states = []
        for kind in kinds:
            name = self.unique(f"{prefix}{kind}")
            self.inputs.append(Port(name, "float32", ("N", widths[kind])))
            states.append(self.node(layer.where, "Unsqueeze", (name, axis), {}))
        self._apply(layer.where, "Unsqueeze", axis)
        wanted = ("Y_h", "Y_c")[: len(kinds)]
        results = self._recurrent(layer.where, layer, (layer.weights,), wanted, tuple(states))
        for kind, result in zip(kinds, results, strict=True):
            name = self.unique(f"{prefix}{kind}_out")
            node = self.unique(f"{layer.where or 'module'}/Squeeze")
            self.nodes.append(Node("Squeeze", (result, axis), (name,), {}, node))
            self.outputs.append(Port(name, "float32", ("N", widths[kind])))
            self.state.append((self.inputs[-len(kinds) + kinds.index(kind)].name, name))
        self.value = self.outputs[-len(kinds)].name
        self.dims = ("N", widths["h"])
