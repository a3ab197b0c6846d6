# SPDX-License-Identifier: MIT
"""What readers of models in JSON share: strict numbers and the graph of a chain over samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gruengine import safetensors
from gruengine.converters.base import ConversionError, Options, Reason
from gruengine.converters.graph_parts import GraphParts, RecurrentParts
from gruengine.errors import ModelFileError
from gruengine.spec import Attr, Graph, ModelSpec, Node, Port

Array = np.ndarray[Any, Any]

#: Bytes of JSON text: some millions of weights.
MAX_BYTES = 64 << 20
MAX_RANK = 3

#: Activation between layers -> operator and attributes; None is the identity.
ACTIVATIONS: Mapping[str, tuple[str, dict[str, Attr]] | None] = {
    "": None,
    "linear": None,
    "tanh": ("Tanh", {}),
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "elu": ("Elu", {"alpha": 1.0}),
}


def parse(data: bytes, name: str) -> dict[str, Any]:
    """Return the object of a JSON document.

    Raises
    ------
    ModelFileError
        It is longer than ``MAX_BYTES``, no strict JSON, or no object.
    """
    if len(data) > MAX_BYTES:
        raise ModelFileError(f"{name} is {len(data)} bytes of JSON; allowed are {MAX_BYTES}")
    found = safetensors.parse_json(data, name)
    if not isinstance(found, dict):
        raise ModelFileError(f"{name} is a JSON {type(found).__name__}; it must be an object")
    return found


def numbers(value: Any, what: str) -> Array:
    """Return nested lists of numbers as float32.

    Raises
    ------
    ModelFileError
        Something else than a number, lists of different lengths, too many levels, or a number that
        float32 does not hold.
    """
    shape: list[int] = []
    level = value
    while isinstance(level, list):
        shape.append(len(level))
        if len(shape) > MAX_RANK:
            raise ModelFileError(f"{what} has more than {MAX_RANK} levels of lists")
        if not level:
            raise ModelFileError(f"{what} has an empty list")
        level = level[0]
    flat = list(_leaves(value, tuple(shape), what))
    with np.errstate(over="ignore"):
        array = np.array(flat, np.float64).astype(np.float32).reshape(shape)
    if not np.isfinite(array).all():
        raise ModelFileError(f"{what} has a number that float32 does not hold")
    return array


def _leaves(value: Any, shape: tuple[int, ...], what: str) -> Iterator[float]:
    if not shape:
        if type(value) not in (int, float):
            raise ModelFileError(f"{what} has {safetensors.shown(value)} where a number must be")
        yield value
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        raise ModelFileError(f"{what} has lists of different lengths")
    for one in value:
        yield from _leaves(one, shape[1:], what)


def size(value: Any, what: str) -> int:
    """Return a positive integer.

    Raises
    ------
    ModelFileError
        It is something else.
    """
    if type(value) is not int or not 1 <= value <= 1 << 20:
        raise ModelFileError(f"{what} is {safetensors.shown(value)}; it must be 1 to {1 << 20}")
    return value


def check_options(options: Options) -> list[Reason]:
    """Return reasons against options that a complete model has no use for."""
    found = [Reason("", f"hint {hint!r}", "the file says everything") for hint in options.hints]
    if options.bind:
        found.append(Reason("", f"bind of {list(options.bind)}", "the model has one input"))
    if options.state:
        found.append(Reason("", "state", "the model streams sample by sample"))
    return found


class Chain(GraphParts):
    """Layers one after the other over ``x`` [N, T, I]: one sample a step.

    ``value`` is what they gave so far, [T, N, features].
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.names |= {"x", "y", "N", "T"}
        self.inputs = features
        self.features = features
        self.value = self.node("x", "Transpose", ["x"], {"perm": [1, 0, 2]})
        self.entry = self.value
        self.recognised: list[str] = []

    def apply(self, where: str, op: str, *others: str, **attrs: Attr) -> None:
        """Add an operator on the value."""
        self.value = self.node(where, op, [self.value, *others], attrs)

    def scale(self, where: str, factor: float) -> None:
        """Multiply by a number; 1 adds nothing."""
        if factor != 1.0:
            self.apply(where, "Mul", self.scalar(where, "factor", factor))

    def dense(self, where: str, weight: Array, bias: Array | None) -> None:
        """Add ``value weight + bias``: weight [in, out]."""
        self.apply(where, "MatMul", self.tensor(where, "weight", weight))
        if bias is not None:
            self.apply(where, "Add", self.tensor(where, "bias", bias))
        self.features = weight.shape[1]

    def convolution(
        self, where: str, weight: Array, bias: Array, dilation: int = 1, groups: int = 1
    ) -> None:
        """Add a convolution over the samples so far: weight [out, in / groups, kernel]."""
        kernel = weight.shape[2]
        attrs: dict[str, Attr] = {
            "kernel_shape": [kernel],
            "strides": [1],
            "dilations": [dilation],
            "group": groups,
            "pads": [(kernel - 1) * dilation, 0],
        }
        self.apply(where, "Transpose", perm=[1, 2, 0])
        names = [self.tensor(where, "weight", weight), self.tensor(where, "bias", bias)]
        self.apply(where, "Conv", *names, **attrs)
        self.apply(where, "Transpose", perm=[2, 0, 1])
        self.features = weight.shape[0]

    def activation(self, where: str, name: str) -> None:
        """Add an activation of ``ACTIVATIONS``."""
        known = ACTIVATIONS[name]
        if known is not None:
            self.apply(where, known[0], **known[1])

    def layer(self, where: str, parts: RecurrentParts, states: Sequence[Array] = ()) -> None:
        """Add a recurrent layer; ``states`` [K], [H] are where every sequence starts."""
        started = [self._start(where, "hc"[i], state) for i, state in enumerate(states)]
        (y,) = self.recurrent(where, self.value, parts, ["Y"], started)
        self.value = self.node(where, "Squeeze", [y, self.ints(where, "axis", [1])], {})
        text = f"{where}: {parts.cell.upper()}, {self.features} -> {parts.R.shape[2]}"
        self.recognised.append(text)
        self.features = parts.R.shape[2]

    def _start(self, where: str, letter: str, state: Array) -> str:
        """Return a state [1, N, K] of equal rows; zeros are left to the node."""
        row = self.tensor(where, f"{letter}0", state.reshape(1, 1, -1))
        shape = self.node(where, "Shape", [self.entry], {})
        rows = self.node(where, "Gather", [shape, self.ints(where, "batch", [1])], {"axis": 0})
        ends = [self.ints(where, "one", [1]), rows, self.ints(where, "width", [state.size])]
        wanted = self.node(where, "Concat", ends, {"axis": 0})
        return self.node(where, "Expand", [row, wanted], {})

    def add_input(self, count: int) -> None:
        """Add the first ``count`` features of the input to the value."""
        skipped = self.entry
        if count < self.inputs:
            limits = [self.ints("skip", key, [n]) for key, n in (("from", 0), ("to", count))]
            axis = self.ints("skip", "axis", [2])
            skipped = self.node("skip", "Slice", [skipped, *limits, axis], {})
        self.apply("skip", "Add", skipped)

    def spec(self) -> ModelSpec:
        """Return the model, output ``y`` [N, T, features]."""
        self.nodes.append(Node("Transpose", (self.value,), ("y",), {"perm": [1, 0, 2]}, "y"))
        ports = Port("x", "float32", ("N", "T", self.inputs))
        result = Port("y", "float32", ("N", "T", self.features))
        return ModelSpec(Graph([ports], [result], self.nodes), self.tensors)


def refuse(name: str, reasons: list[Reason]) -> None:
    """Raise with all reasons, if there are any."""
    if reasons:
        raise ConversionError(name, reasons)
