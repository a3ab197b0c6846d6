# SPDX-License-Identifier: MIT
"""What every layer shares: its parameters, how it starts them, and how it joins a graph."""

from __future__ import annotations

import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from gruengine.errors import InvalidInputError, UnsupportedError
from gruengine.spec import Attr, Dim, Node

Array = np.ndarray[Any, Any]

#: Activation name -> operator and attributes; ``None`` is the identity.
ACTIVATIONS: dict[str, tuple[str, dict[str, Attr]] | None] = {
    "linear": None,
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "elu": ("Elu", {"alpha": 1.0}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.2}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "exponential": ("Exp", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
}


def positive(name: str, value: int) -> int:
    """Return ``value`` if it is a positive integer, else raise InvalidInputError."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InvalidInputError(f"{name} is {value!r}; it must be a positive integer")
    return int(value)


def one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    """Return ``value`` if it is in ``allowed``, else raise InvalidInputError."""
    if value not in allowed:
        choices = ", ".join(repr(choice) for choice in allowed)
        raise InvalidInputError(f"{name} is {value!r}; it must be one of {choices}")
    return value


@dataclass(frozen=True)
class Flow:
    """A value on its way through the layers.

    features : size of the last axis; None before an Embedding, whose input has no such axis
    time : the value is ``[T, N, features]``, else ``[N, features]``
    """

    name: str
    features: int | None
    time: bool

    def to(self, name: str, features: int | None = None) -> Flow:
        """Return the flow after an operator that keeps the axes."""
        return replace(self, name=name, features=features or self.features)

    def shape(self, batch_first: bool) -> tuple[Dim, ...]:
        """Sizes as the user sees them."""
        order: tuple[Dim, ...] = ("N", "T") if batch_first else ("T", "N")
        lead = order if self.time else ("N",)
        return lead if self.features is None else (*lead, self.features)


@dataclass
class GraphBuilder:
    """Collects nodes and constants under unique names.

    every_step : recurrent layers give every output, whatever their ``return_sequences`` says
    """

    every_step: bool = False
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Array] = field(default_factory=dict)

    def constant(self, name: str, value: Array) -> str:
        """Add a constant and return its name."""
        self.tensors[name] = value
        return name

    def ints(self, name: str, values: Sequence[int]) -> str:
        """Add an int64 vector and return its name."""
        return self.constant(name, np.array(values, np.int64))

    def add(self, op: str, name: str, inputs: Sequence[str], attrs: dict[str, Attr]) -> str:
        """Add a node with one output, called ``name``, and return it."""
        self.nodes.append(Node(op, tuple(inputs), (name,), attrs, name))
        return name

    def activate(self, flow: Flow, activation: str, name: str) -> Flow:
        """Add an activation of ``ACTIVATIONS``; the identity adds nothing."""
        entry = ACTIVATIONS[activation]
        return flow if entry is None else flow.to(self.add(entry[0], name, [flow.name], entry[1]))


class State(NamedTuple):
    """The state of one recurrent layer: ``h`` [D, N, K] and, where it has one, ``c`` [D, N, C].

    ``c`` is the cell of an LSTM (C = H), then, with ``full_gates``, its gates i, o, f (3 * H
    more), then, with ``skip``, what the next update of the state still lacks (1 more).

    A gradient by a state has the same form.
    """

    h: Array
    c: Array | None = None


#: The states of a layer or model, one for each level of its stacks; () where nothing recurs.
States = tuple[State, ...]

#: ``backprop(dy, dstate)`` returns ``(dx, dstate0)`` and adds to the gradients of the parameters.
#: ``dy``, ``dstate`` None is zero; ``dx`` is None where the input holds integers.
Backprop = Callable[..., tuple[Any, States]]


@dataclass(frozen=True)
class Pass:
    """What one forward pass tells every layer.

    lengths : ``[N]`` integers, or None: every row has all T steps
    training : dropout acts
    seed : of the masks of this pass; equal seeds drop the same
    num_threads : of the recurrences
    compute_type : of the products with weights, ``"float32"`` or ``"bfloat16"``
    logits : the layer leaves out a final sigmoid or softmax, which the loss contains
    input_gradient : backprop returns the gradient of the input; else it may return None
    """

    lengths: Array | None = None
    training: bool = True
    seed: tuple[int, ...] = (0,)
    num_threads: int = 1
    compute_type: str = "float32"
    logits: bool = False
    input_gradient: bool = True

    def rng(self, layer: str) -> np.random.Generator:
        """Return the generator of a layer's masks."""
        return np.random.default_rng([*self.seed, zlib.crc32(layer.encode())])


class Layer(ABC):
    """One layer of a ``Sequential`` model.

    Attributes
    ----------
    name : str
        Unique in its model; given by the model when it is not given by the user.
    params : dict of str to ndarray
        The parameters, float32 and read-only; empty before the model is built.
    gradients : dict of str to ndarray
        What ``backprop`` has added up since they were cleared; a parameter without is zero.
    owned : bool
        The layer stands in a model; it cannot stand in a second one.
    """

    def __init__(self, name: str | None = None) -> None:
        if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise InvalidInputError(f"layer name {name!r}; letters, digits and _ are allowed")
        self.name = name or ""
        self.owned = False
        self.params: dict[str, Array] = {}
        self.gradients: dict[str, Array] = {}

    @property
    def count(self) -> int:
        """Number of parameters."""
        return sum(int(value.size) for value in self.params.values())

    @abstractmethod
    def build(self, features: int | None, rng: np.random.Generator) -> None:
        """Start the parameters for inputs with this many features."""

    @abstractmethod
    def emit(self, graph: GraphBuilder, flow: Flow) -> Flow:
        """Add the nodes of the layer to ``graph`` and return what leaves it.

        With ``graph`` a fresh builder and ``flow`` any name this also computes shapes.
        """

    def begin_update(
        self, x: Array, state: States | None = None, run: Pass | None = None
    ) -> tuple[Array, States, Backprop]:
        """Run the layer so that it can be trained.

        Parameters
        ----------
        x : ``[T, N, I]``, ``[N, I]``, or integers ``[T, N]`` for an Embedding.
        state : where the recurrence starts; None: zeros.
        run : what the pass tells every layer.

        Returns
        -------
        y, state, backprop
            See :data:`Backprop`.

        Raises
        ------
        UnsupportedError
            A layer that runs but cannot be trained.
        """
        raise UnsupportedError(f"layer {self.name!r} ({type(self).__name__}) cannot be trained")

    def accumulate(self, key: str, gradient: Array) -> None:
        """Add to the gradient of the parameter ``key``."""
        if key in self.gradients:
            self.gradients[key] += gradient
        else:
            self.gradients[key] = np.ascontiguousarray(gradient, self.params[key].dtype)

    def _needs_features(self, features: int | None) -> int:
        if features is None:
            raise InvalidInputError(
                f"layer {self.name!r} needs features; integer input goes through an Embedding first"
            )
        return features
