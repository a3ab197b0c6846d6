# SPDX-License-Identifier: MIT
"""The layers beside the recurrent ones; each works on every time step by itself."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from gruengine.errors import InvalidInputError
from gruengine.initializers import glorot_uniform
from gruengine.layer_base import (
    ACTIVATIONS,
    Array,
    Backprop,
    Flow,
    GraphBuilder,
    Layer,
    Pass,
    States,
    one_of,
    positive,
)


class Embedding(Layer):
    """Rows of a table, chosen by integers: ``[N, T]`` int64 to ``[N, T, size]``.

    Parameters
    ----------
    count : int
        Rows: the input holds integers from 0 to ``count - 1``.
    size : int
        Features of a row.
    """

    def __init__(self, count: int, size: int, *, name: str | None = None) -> None:
        super().__init__(name)
        self.rows = positive("count", count)
        self.size = positive("size", size)

    def build(self, features: int | None, rng: np.random.Generator) -> None:
        """Start the table ``W`` ``[count, size]``, uniform in +-0.05."""
        if features is not None:
            raise InvalidInputError(
                f"layer {self.name!r} stands behind {features} features; "
                "an Embedding reads integers and must be the first layer"
            )
        table = rng.uniform(-0.05, 0.05, (self.rows, self.size)).astype(np.float32)
        self.params = {"W": table}

    def emit(self, graph: GraphBuilder, flow: Flow) -> Flow:
        """Add a Gather."""
        table = graph.constant(f"{self.name}.W", self.params["W"])
        return flow.to(graph.add("Gather", self.name, [table, flow.name], {"axis": 0}), self.size)

    def begin_update(
        self, x: Array, state: States | None = None, run: Pass | None = None
    ) -> tuple[Array, States, Backprop]:
        """See Layer."""
        from gruengine.training_core import add_rows

        if x.dtype.kind not in "iu" or (x.size and not 0 <= x.min() <= x.max() < self.rows):
            raise InvalidInputError(
                f"layer {self.name!r} got {x.dtype} of shape {x.shape}; it reads integers from 0 "
                f"to {self.rows - 1}"
            )

        def backprop(dy: Array, dstate: States = ()) -> tuple[Any, States]:
            if "W" not in self.gradients:
                self.gradients["W"] = np.zeros_like(self.params["W"])
            add_rows(x, dy, self.gradients["W"])
            return None, ()

        return self.params["W"][x], (), backprop


class Dense(Layer):
    """``activation(x W + b)`` on the last axis.

    Parameters
    ----------
    units : int
        Features of the output.
    activation : str
        ``"linear"``, ``"relu"``, ``"sigmoid"``, ``"tanh"``, ``"softmax"``, ``"elu"``,
        ``"leaky_relu"``, ``"softplus"``, ``"softsign"``, ``"exponential"``, ``"hard_sigmoid"``.
    use_bias : bool
        False: without ``b``.
    """

    def __init__(
        self,
        units: int,
        activation: str = "linear",
        *,
        use_bias: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.units = positive("units", units)
        self.activation = one_of("activation", activation, tuple(ACTIVATIONS))
        self.use_bias = bool(use_bias)

    def build(self, features: int | None, rng: np.random.Generator) -> None:
        """Start ``W`` ``[features, units]`` (Glorot) and ``b`` ``[units]`` (zeros)."""
        size = self._needs_features(features)
        self.params = {"W": glorot_uniform(rng, size, self.units)}
        if self.use_bias:
            self.params["b"] = np.zeros(self.units, np.float32)

    def emit(self, graph: GraphBuilder, flow: Flow) -> Flow:
        """Add MatMul, Add and the activation."""
        weights = graph.constant(f"{self.name}.W", self.params["W"])
        out = graph.add("MatMul", f"{self.name}.product", [flow.name, weights], {})
        if self.use_bias:
            bias = graph.constant(f"{self.name}.b", self.params["b"])
            out = graph.add("Add", f"{self.name}.sum", [out, bias], {})
        return graph.activate(flow.to(out, self.units), self.activation, self.name)

    def begin_update(
        self, x: Array, state: States | None = None, run: Pass | None = None
    ) -> tuple[Array, States, Backprop]:
        """See Layer."""
        from gruengine.training_core import product
        from gruengine.training_ops import ACTIVATIONS as FUNCTIONS
        from gruengine.training_ops import rows

        run = run or Pass()
        W, flat = self.params["W"], rows(x)
        multiply = partial(product, num_threads=run.num_threads, compute_type=run.compute_type)
        a = multiply(flat, W, bias=self.params.get("b"))
        y, undo = FUNCTIONS["linear" if _left_out(self.activation, run) else self.activation](a)

        def backprop(dy: Array, dstate: States = ()) -> tuple[Any, States]:
            da = undo(rows(dy))
            self.accumulate("W", multiply(flat, da, a_transposed=True))
            if self.use_bias:
                self.accumulate("b", da.sum(0))
            dx = multiply(da, W, b_transposed=True)
            return dx.reshape(x.shape), ()

        return y.reshape(*x.shape[:-1], self.units), (), backprop


class LayerNorm(Layer):
    """``(x - mean) / sqrt(var + epsilon) * scale + shift`` over the last axis (Ba et al. 2016).

    Parameters
    ----------
    epsilon : float
    """

    def __init__(self, epsilon: float = 1e-5, *, name: str | None = None) -> None:
        super().__init__(name)
        if not 0 < epsilon < float("inf"):
            raise InvalidInputError(f"epsilon is {epsilon!r}; it must be a positive number")
        self.epsilon = float(epsilon)

    def build(self, features: int | None, rng: np.random.Generator) -> None:
        """Start ``scale`` (ones) and ``shift`` (zeros), ``[features]`` each."""
        size = self._needs_features(features)
        self.params = {"scale": np.ones(size, np.float32), "shift": np.zeros(size, np.float32)}

    def emit(self, graph: GraphBuilder, flow: Flow) -> Flow:
        """Add a LayerNormalization."""
        constants = [graph.constant(f"{self.name}.{key}", self.params[key]) for key in self.params]
        attrs = {"axis": -1, "epsilon": self.epsilon}
        return flow.to(
            graph.add("LayerNormalization", self.name, [flow.name, *constants], {**attrs})
        )

    def begin_update(
        self, x: Array, state: States | None = None, run: Pass | None = None
    ) -> tuple[Array, States, Backprop]:
        """See Layer."""
        from gruengine.training_ops import layer_norm

        y, undo = layer_norm(x, self.params["scale"], self.params["shift"], self.epsilon)

        def backprop(dy: Array, dstate: States = ()) -> tuple[Any, States]:
            dx, dscale, dshift = undo(dy)
            self.accumulate("scale", dscale)
            self.accumulate("shift", dshift)
            return dx, ()

        return y, (), backprop


class Activation(Layer):
    """An activation by itself; the names are those of :class:`Dense`."""

    def __init__(self, activation: str, *, name: str | None = None) -> None:
        super().__init__(name)
        self.activation = one_of("activation", activation, tuple(ACTIVATIONS))

    def build(self, features: int | None, rng: np.random.Generator) -> None:
        """Nothing to start."""
        self._needs_features(features)

    def emit(self, graph: GraphBuilder, flow: Flow) -> Flow:
        """Add the activation."""
        return graph.activate(flow, self.activation, self.name)

    def begin_update(
        self, x: Array, state: States | None = None, run: Pass | None = None
    ) -> tuple[Array, States, Backprop]:
        """See Layer."""
        from gruengine.training_ops import ACTIVATIONS as FUNCTIONS

        y, undo = FUNCTIONS["linear" if _left_out(self.activation, run) else self.activation](x)
        return y, (), lambda dy, dstate=(): (undo(dy), ())


class Softmax(Activation):
    """Softmax over the last axis."""

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__("softmax", name=name)


class Dropout(Layer):
    """In training each element is zero with probability ``rate``; else the identity.

    What stays is divided by ``1 - rate``, so that nothing changes in inference.

    Parameters
    ----------
    rate : float
        In [0, 1).
    variational : bool
        The same elements for all steps of a sequence (Gal and Ghahramani 2016).
    """

    def __init__(self, rate: float, *, variational: bool = False, name: str | None = None) -> None:
        super().__init__(name)
        if not 0 <= rate < 1:
            raise InvalidInputError(f"rate is {rate!r}; it must be at least 0 and less than 1")
        self.rate = float(rate)
        self.variational = bool(variational)

    def build(self, features: int | None, rng: np.random.Generator) -> None:
        """Nothing to start."""

    def emit(self, graph: GraphBuilder, flow: Flow) -> Flow:
        """Add nothing."""
        return flow

    def begin_update(
        self, x: Array, state: States | None = None, run: Pass | None = None
    ) -> tuple[Array, States, Backprop]:
        """See Layer."""
        from gruengine.training_ops import dropout_mask

        run = run or Pass()
        if not run.training or self.rate == 0:
            return x, (), lambda dy, dstate=(): (dy, ())
        shape = (1, *x.shape[1:]) if self.variational and x.ndim == 3 else x.shape
        mask = dropout_mask(run.rng(self.name), shape, self.rate, x.dtype)
        return x * mask, (), lambda dy, dstate=(): (dy * mask, ())


def _left_out(activation: str, run: Pass | None) -> bool:
    """Whether the loss contains this activation."""
    return run is not None and run.logits and activation in ("sigmoid", "softmax")
