# SPDX-License-Identifier: MIT
"""Models put together from layers: ``Sequential`` and everything that may stand in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from gruengine.errors import InvalidInputError
from gruengine.layer_base import (
    Array,
    Backprop,
    Flow,
    GraphBuilder,
    Layer,
    Pass,
    States,
    positive,
)
from gruengine.layer_basic import Activation, Dense, Dropout, Embedding, LayerNorm, Softmax
from gruengine.layer_cells import GRU, LSTM, RNN
from gruengine.spec import Dim, Graph, ModelSpec, Node, Port

if TYPE_CHECKING:
    from gruengine.model import Model, Stream

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Activation",
    "Dense",
    "Dropout",
    "Embedding",
    "Layer",
    "LayerNorm",
    "Sequential",
    "Softmax",
]


class Sequential:
    """Layers one after the other, from input ``x`` to output ``y``.

    Parameters
    ----------
    layers : sequence of Layer
    input_size : int, optional
        Features of the input. Not needed if the first layer is an Embedding; otherwise, without
        it, the model is built when it first sees an input (or by ``build``).
    batch_first : bool
        True: ``x`` is ``[N, T, F]`` (``[N, T]`` int64 for an Embedding); False: ``[T, N, F]``.
    seed : int
        Of the parameters: the same seed gives the same model.

    Raises
    ------
    InvalidInputError
        No layers, something that is no layer, a layer used twice, or a size that is not positive.

    Examples
    --------
    >>> net = Sequential([Embedding(5000, 32), LSTM(100), Dense(1, activation="sigmoid")])
    >>> sum(value.size for value in net.parameters().values())
    213301
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        input_size: int | None = None,
        batch_first: bool = True,
        seed: int = 0,
    ) -> None:
        self.layers = tuple(layers)
        self.batch_first = bool(batch_first)
        self.seed = seed
        self.input_size: int | None = None
        self._built = False
        self._models: dict[tuple[Any, ...], tuple[tuple[Array, ...], Model]] = {}
        _check_layers(self.layers)
        _name_layers(self.layers)
        if isinstance(self.layers[0], Embedding) or input_size is not None:
            self.build(input_size)

    @classmethod
    def from_model(cls, model: Any) -> Sequential:
        """Return the layers of a converted model, so that it can be trained further.

        Parameters
        ----------
        model : Model, ModelSpec, path or bytes
            What :func:`gruengine.export` takes. Chains of recurrent layers, Dense, Embedding,
            LayerNorm and activations become layers; the result is run beside the model.

        Raises
        ------
        UnsupportedError
            Any other graph; the message names the node.
        """
        from gruengine.export import spec_of
        from gruengine.layers_from_spec import sequential_of

        return sequential_of(spec_of(model))

    # -- parameters -------------------------------------------------------------------------------

    def build(self, input_size: int | None = None) -> Sequential:
        """Start the parameters for inputs with ``input_size`` features and return the model.

        Raises
        ------
        InvalidInputError
            No ``input_size`` where one is needed, one for an Embedding, or layers that don't fit.
        """
        if isinstance(self.layers[0], Embedding):
            if input_size is not None:
                raise InvalidInputError(
                    f"input_size is {input_size!r}; an Embedding reads integers and has none"
                )
        elif input_size is None:
            raise InvalidInputError("input_size is not known; give the features of the input")
        else:
            positive("input_size", input_size)
        rng = np.random.default_rng(self.seed)
        flow = Flow("x", input_size, True)
        for layer in self.layers:
            layer.build(flow.features, rng)
            for value in layer.params.values():
                value.flags.writeable = False
            flow = layer.emit(GraphBuilder(), flow)
        self.input_size, self._built = input_size, True
        return self

    def parameters(self) -> dict[str, Array]:
        """Return every parameter by ``layer.key``: read-only float32 arrays, not copies."""
        self._need_built()
        return {
            f"{layer.name}.{key}": value
            for layer in self.layers
            for key, value in layer.params.items()
        }

    def set_parameters(self, values: Mapping[str, Any]) -> None:
        """Replace parameters, all or some, named as in ``parameters()``.

        Raises
        ------
        InvalidInputError
            A name or shape that the model does not have; nothing is changed then.
        """
        known = self.parameters()
        ready: dict[str, Array] = {}
        for name, value in values.items():
            if name not in known:
                raise InvalidInputError(f"no parameter {name!r}; the model has {', '.join(known)}")
            array = np.array(value, np.float32)
            if array.shape != known[name].shape:
                raise InvalidInputError(
                    f"{name} has shape {known[name].shape}, not {array.shape} as given"
                )
            array.flags.writeable = False
            ready[name] = array
        for layer in self.layers:
            for key in layer.params:
                layer.params[key] = ready.get(f"{layer.name}.{key}", layer.params[key])

    # -- training ---------------------------------------------------------------------------------

    def begin_update(
        self, x: Any, state: States | None = None, run: Pass | None = None
    ) -> tuple[Array, States, Backprop]:
        """Run the model so that it can be trained; :class:`gruengine.Trainer` is the easy way.

        Parameters
        ----------
        x : array as in ``__call__``.
        state : one :class:`State` for each layer of each recurrent stack, in order; None: zeros.
        run : lengths, dropout and threads of this pass.

        Returns
        -------
        y : as ``__call__`` returns it.
        state : after the last step of each row.
        backprop : ``backprop(dy, dstate=None) -> (dx, dstate0)``; it adds to the ``gradients`` of
            the layers. ``dy`` has the shape of ``y``; None is zero. Call it before the parameters
            change.
        """
        from gruengine.sequential_training import begin_update

        self._need_built()
        return begin_update(self, x, state, run or Pass())

    def layer_outputs(
        self, x: Any, state: States | None = None, run: Pass | None = None
    ) -> Iterator[tuple[str, Array]]:
        """Yield the name and the training output, time first, of one layer after the other."""
        from gruengine.sequential_training import layer_outputs

        return layer_outputs(self, x, state, run or Pass())

    def changed(self) -> None:
        """Forget compiled models: parameters were written in place."""
        self._models.clear()

    # -- graph ------------------------------------------------------------------------------------

    def spec(self, *, every_step: bool = False) -> ModelSpec:
        """Return the model as a graph with its constants.

        Parameters
        ----------
        every_step : bool
            Give the output after every frame even where the last recurrent layer has
            ``return_sequences=False``: frame t is the model's output for the frames up to t.
        """
        self._need_built()
        graph = GraphBuilder(every_step)
        flow = Flow("x", self.input_size, True)
        port = self._input_port(flow)
        if self.batch_first:
            perm = [1, 0] if flow.features is None else [1, 0, 2]
            flow = flow.to(graph.add("Transpose", "x.by_time", ["x"], {"perm": perm}))
        for layer in self.layers:
            flow = layer.emit(graph, flow)
        if flow.time and self.batch_first:
            flow = flow.to(graph.add("Transpose", "y", [flow.name], {"perm": [1, 0, 2]}))
        elif flow.name == "x":
            flow = flow.to(graph.add("Identity", "y", ["x"], {}))
        nodes = _rename(graph.nodes, flow.name, "y")
        output = Port("y", "float32", flow.shape(self.batch_first))
        return ModelSpec(
            Graph([port], [output], nodes),
            graph.tensors,
            provenance={"format": "gruengine.Sequential", "seed": self.seed},
        )

    def _input_port(self, flow: Flow) -> Port:
        dtype = "int64" if flow.features is None else "float32"
        return Port("x", dtype, flow.shape(self.batch_first))

    def shapes(self) -> list[tuple[Dim, ...]]:
        """Return the output shape of every layer, with ``"N"`` and ``"T"`` for batch and time."""
        self._need_built()
        flow, found = Flow("x", self.input_size, True), []
        for layer in self.layers:
            flow = layer.emit(GraphBuilder(), flow)
            found.append(flow.shape(self.batch_first))
        return found

    def summary(self) -> str:
        """Return a table of the layers: name, output shape and number of parameters."""
        rows = [("layer", "output", "parameters")]
        for layer, shape in zip(self.layers, self.shapes(), strict=True):
            sizes = ", ".join(str(size) for size in shape)
            rows.append(
                (f"{layer.name} ({type(layer).__name__})", f"[{sizes}]", f"{layer.count:,}")
            )
        total = sum(layer.count for layer in self.layers)
        rows.append(("total", "", f"{total:,}"))
        first, second, third = (max(len(row[i]) for row in rows) for i in range(3))
        lines = [f"{a:<{first}}  {b:<{second}}  {c:>{third}}" for a, b, c in rows]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    def __repr__(self) -> str:
        if self._built:
            return self.summary()
        return f"Sequential({[layer.name for layer in self.layers]}, not built)"

    # -- running ----------------------------------------------------------------------------------

    def compile(self, *, compute_type: str = "float32", num_threads: int = 1) -> Model:
        """Return the engine's model of the present parameters; it is kept until they change."""
        return self._model(False, compute_type, num_threads)

    def model(self) -> Model:
        """Return ``compile()`` with its defaults."""
        return self.compile()

    def __call__(self, x: Any) -> Any:
        """Run whole sequences.

        Parameters
        ----------
        x : array ``[N, T, F]`` float32, or ``[N, T]`` int64 for an Embedding
            (time first if ``batch_first=False``).

        Returns
        -------
        ndarray
            ``[N, T, K]``, or ``[N, K]`` if the last recurrent layer gives its last output alone.
        """
        array = np.asarray(x)
        if not self._built:
            if array.ndim != 3:
                raise InvalidInputError(
                    f"x has shape {array.shape}; the first call needs 3 axes, features last"
                )
            self.build(array.shape[-1])
        return self.model()(array)

    def stream(self, batch_size: int = 1) -> Stream:
        """Return a stream of the model: one output a frame.

        With ``return_sequences=False`` the output after each frame is the model's output for the
        frames so far.
        """
        return self._model(True, "float32", 1).stream(batch_size)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model file, with a parity sample, to ``path`` (replaced as a whole)."""
        from gruengine.conversion import save_spec

        save_spec(self.spec(), path)

    def _model(self, every_step: bool, compute_type: str, num_threads: int) -> Model:
        from gruengine.model import Model

        key = (every_step, compute_type, num_threads)
        now = tuple(self.parameters().values())
        if key in self._models:
            then, model = self._models[key]
            if len(then) == len(now) and all(a is b for a, b in zip(then, now, strict=True)):
                return model
        model = Model.from_spec(
            self.spec(every_step=every_step), compute_type=compute_type, num_threads=num_threads
        )
        self._models[key] = (now, model)
        return model

    def _need_built(self) -> None:
        if not self._built:
            raise InvalidInputError(
                "the model is not built: pass input_size, call build(features), or run it once"
            )


def _rename(nodes: list[Node], old: str, new: str) -> list[Node]:
    def swap(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(new if name == old else name for name in names)

    return [Node(n.op, swap(n.inputs), swap(n.outputs), n.attrs, n.name) for n in nodes]


def _check_layers(layers: tuple[Layer, ...]) -> None:
    if not layers:
        raise InvalidInputError("a Sequential of no layers; at least one is needed")
    for layer in layers:
        if not isinstance(layer, Layer):
            raise InvalidInputError(f"{layer!r} is no layer; see gruengine.layers")
        if layer.owned:
            raise InvalidInputError(
                f"layer {layer.name!r} stands in a model already; make a second one"
            )
        layer.owned = True


def _name_layers(layers: tuple[Layer, ...]) -> None:
    """Give each layer without a name its class's, numbered from the second on."""
    taken = {layer.name for layer in layers if layer.name}
    given = [layer.name for layer in layers if layer.name]
    if len(given) != len(taken):
        raise InvalidInputError(f"layer names are {given}; they must differ")
    if taken & {"x", "y"}:
        raise InvalidInputError("a layer is called 'x' or 'y'; those are the input and the output")
    for layer in layers:
        if layer.name:
            continue
        base = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower()
        number, name = 0, base
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        layer.name = name
        taken.add(name)
