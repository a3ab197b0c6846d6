# SPDX-License-Identifier: MIT
"""Runs a model in parts behind the interface of ``Model``: ours, and those of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gruengine import _core, parts
from gruengine.errors import InvalidInputError, ModelFileError, UnsupportedError
from gruengine.model import Model, Signature, State, Streamable
from gruengine.model_state import as_input
from gruengine.parted_stream import PartedStream
from gruengine.parts import Part, PartedSpec
from gruengine.spec import ModelSpec, Port
from gruengine.verify_source import onnx_session

if TYPE_CHECKING:
    from gruengine.pool import Pool

Array = np.ndarray[Any, Any]

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16,
           "tensor(double)": np.float64}  # fmt: skip


class PartedModel(Model):
    """A model of which ONNX Runtime runs the parts that have no recurrence.

    ``handed`` says which nodes these are, and why.
    """

    def __init__(
        self, spec: PartedSpec, num_threads: int = 1, compute_type: str | None = None
    ) -> None:
        spec.validate()
        self._spec = spec
        self._threads = num_threads
        self.signature = Signature(tuple(spec.graph.inputs), tuple(spec.graph.outputs), spec.state)
        self.streamable = _streamable(spec)
        before, after = ({pair[side] for pair in spec.state} for side in (0, 1))
        self._free_inputs = [p.name for p in spec.graph.inputs if p.name not in before]
        results = [port.name for port in spec.graph.outputs]
        self._free_outputs = [name for name in results if name not in after] or results
        self._runners = [
            _Ours(part, num_threads, compute_type)
            if part.kind == "gruengine"
            else _Theirs(part, num_threads)
            for part in spec.parts
        ]

    # -- facts ------------------------------------------------------------------------------------

    @property
    def handed(self) -> list[parts.Handed]:
        """The nodes that ONNX Runtime runs."""
        return self._spec.handed

    @property
    def isa(self) -> str:
        """The instruction set of the parts that run here."""
        return next((r.core.isa for r in self._runners if isinstance(r, _Ours)), "")

    @property
    def compute_type(self) -> str:
        """How products with weights are made in the parts that run here."""
        return next((r.core.compute_type for r in self._runners if isinstance(r, _Ours)), "float32")

    @property
    def num_threads(self) -> int:
        """Threads that a run may use."""
        return self._threads

    @property
    def hash(self) -> str:
        """SHA-256 of parts and ports: states belong to it."""
        return self._spec.hash()

    @property
    def packed_bytes(self) -> int:
        """Memory of the packed weights of the parts that run here."""
        return sum(r.core.packed_bytes for r in self._runners if isinstance(r, _Ours))

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the model came from."""
        return self._spec.provenance

    @property
    def spec(self) -> ModelSpec:
        """Not there: a model in parts is no single graph."""
        raise UnsupportedError(
            "a model with parts that ONNX Runtime runs has no graph of its own; export and the "
            "like need a model without fallback"
        )

    def __repr__(self) -> str:
        inputs = ", ".join(f"{p.name}{list(p.shape)}" for p in self.signature.inputs)
        outputs = ", ".join(p.name for p in self.signature.outputs)
        return f"Model({inputs} -> {outputs}; {len(self.handed)} nodes in ONNX Runtime)"

    # -- runs -------------------------------------------------------------------------------------

    def run_graph(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Run the graph on all its inputs, as ``Model.run_graph``."""
        if not isinstance(inputs, Mapping) or set(inputs) != {p.name for p in self._ports}:
            names = sorted(inputs) if isinstance(inputs, Mapping) else type(inputs).__name__
            allowed = sorted(port.name for port in self._ports)
            raise InvalidInputError(f"got inputs {names}; the model has {allowed}")
        values = {port.name: as_input(port, inputs[port.name]) for port in self._ports}
        self.sizes_of(values)
        for runner in self._runners:
            values.update(runner.run(values))
        return {port.name: values[port.name] for port in self.signature.outputs}

    def __call__(self, x: Any) -> Any:
        """Run from the initial state, as ``Model.__call__``."""
        return self.run(x)[0]

    def run(
        self, x: Any, state: Mapping[str, Any] | None = None, lengths: Any = None
    ) -> tuple[Any, State]:
        """Run from a state and return the state after it, as ``Model.run``.

        The state has the state inputs of the graph alone.

        Raises
        ------
        UnsupportedError
            ``lengths``: what a part of ONNX Runtime makes of frames past the end is not known.
        """
        if lengths is not None:
            raise UnsupportedError("lengths do not reach the parts that ONNX Runtime runs")
        given = self.named(x)
        names = [before for before, _ in self.signature.state]
        if state is None:
            state = self.initial_state(given)
        if not isinstance(state, Mapping) or set(state) != set(names):
            raise InvalidInputError(f"got states {sorted(state)}; the model has {sorted(names)}")
        results = self.run_graph({**given, **state})
        following = {before: results[after] for before, after in self.signature.state}
        return self._free([results[port.name] for port in self.signature.outputs]), following

    def stream(  # type: ignore[override]
        self, batch_size: int = 1, sizes: Mapping[str, int] | None = None
    ) -> PartedStream:
        """Open a stream, as ``Model.stream``; by calls alone."""
        return PartedStream(self, batch_size, dict(sizes or {}))

    def pool(self, capacity: int, sizes: Mapping[str, int] | None = None) -> Pool:
        """Not there: ONNX Runtime keeps no rows apart."""
        raise UnsupportedError("a model with parts that ONNX Runtime runs has no pool")

    # -- inside -----------------------------------------------------------------------------------

    @property
    def _ports(self) -> tuple[Port, ...]:
        return self.signature.inputs

    def named(self, x: Any) -> dict[str, Any]:
        """Return the inputs that are no states, by name."""
        given = dict(x) if isinstance(x, Mapping) else None
        if given is None and len(self._free_inputs) == 1:
            given = {self._free_inputs[0]: x}
        if given is None or set(given) != set(self._free_inputs):
            names = sorted(given) if given is not None else "one array"
            raise InvalidInputError(
                f"got {names}; the model has inputs {sorted(self._free_inputs)}"
            )
        return given

    def sizes_of(self, values: Mapping[str, Any]) -> dict[str, int]:
        """Return the values of named sizes.

        Raises
        ------
        InvalidInputError
            A shape that does not fit its port, or two values for one name.
        """
        sizes: dict[str, int] = {}
        for port in self._ports:
            if port.name not in values:
                continue
            shape = np.shape(values[port.name])
            fits = len(shape) == len(port.shape)
            for size, dim in zip(shape, port.shape, strict=False):
                fits &= (sizes.setdefault(dim, size) if isinstance(dim, str) else dim) == size
            if not fits:
                raise InvalidInputError(
                    f"input {port.name!r} has shape {list(shape)}; it must be {list(port.shape)}"
                )
        return sizes

    def initial_state(
        self, given: Mapping[str, Any], sizes: Mapping[str, int] | None = None
    ) -> dict[str, Array]:
        """Return zeros for every state input; named sizes follow from the other inputs.

        Raises
        ------
        InvalidInputError
            A size that follows from nothing.
        """
        known = {**(sizes or {}), **self.sizes_of(given)}
        states = {before for before, _ in self.signature.state}
        found = {}
        for port in self._ports:
            if port.name not in states:
                continue
            missing = [d for d in port.shape if isinstance(d, str) and d not in known]
            if missing:
                raise InvalidInputError(
                    f"size {missing[0]!r} of state {port.name!r} is open; give a state, or sizes "
                    "for a stream"
                )
            shape = [known[d] if isinstance(d, str) else d for d in port.shape]
            found[port.name] = np.zeros(shape, port.dtype)
        return found


class _Ours:
    """A part that runs here."""

    def __init__(self, part: Part, num_threads: int, compute_type: str | None) -> None:
        self.part = part
        self.core = _core.Model.from_memory(part.data, num_threads, compute_type)
        self.ports = [Port(*port) for port in self.core.inputs]
        self.names = [name for name, *_ in self.core.outputs]
        if {p.name for p in self.ports} - set(part.inputs) or set(part.outputs) - set(self.names):
            raise ModelFileError("a part does not take or make what the description says")

    def run(self, values: Mapping[str, Array]) -> dict[str, Array]:
        results = self.core.run([as_input(port, values[port.name]) for port in self.ports])
        return dict(zip(self.names, results, strict=True))


class _Theirs:
    """A part that ONNX Runtime runs."""

    def __init__(self, part: Part, num_threads: int) -> None:
        from gruengine.converters.onnx_model import read_model

        words = "; ".join(str(node) for node in part.handed[:3])
        if read_model(part.data).holds_external_data():
            raise ModelFileError("a part of ONNX Runtime names data outside the file")
        try:
            self.session = onnx_session(part.data, num_threads)
        except UnsupportedError as error:
            raise UnsupportedError(f"this model needs ONNX Runtime ({words}): {error}") from None
        except Exception as error:  # ONNX Runtime has its own kinds
            raise ModelFileError(f"ONNX Runtime refuses a part ({words}): {error}") from None
        self.ports = self.session.get_inputs()
        self.names = [port.name for port in self.session.get_outputs()]
        if {p.name for p in self.ports} - set(part.inputs) or set(part.outputs) - set(self.names):
            raise ModelFileError("a part does not take or make what the description says")

    def run(self, values: Mapping[str, Array]) -> dict[str, Array]:
        feed = {}
        for port in self.ports:
            value, wanted = values[port.name], _DTYPES.get(port.type)
            feed[port.name] = value if wanted is None else value.astype(wanted, copy=False)
        try:
            results = self.session.run(self.names, feed)
        except Exception as error:  # ONNX Runtime has its own kinds
            raise InvalidInputError(f"ONNX Runtime cannot run its part: {error}") from None
        return dict(zip(self.names, map(np.asarray, results), strict=True))


def _streamable(spec: PartedSpec) -> Streamable:
    first = spec.handed[0] if spec.handed else None
    ports = {port.name: port for port in spec.graph.inputs}
    free = [d for before, _ in spec.state for d in ports[before].shape if isinstance(d, str)]
    if spec.state:
        reason = "the graph is one step; the stream carries its states"
        return Streamable("calls", reason, "", "", free[0] if free else "")
    reason = (
        "ONNX Runtime runs it: no one has proved that it works frame by frame, and no output was "
        "found to be the next value of an input"
    )
    return Streamable(None, reason, first.node if first else "", "", "")
