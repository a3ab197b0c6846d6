# SPDX-License-Identifier: MIT
"""A loaded model: run whole sequences, name its inputs and outputs, open streams."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gruengine import _core
from gruengine._stream import Stream
from gruengine.conversion import load_model
from gruengine.converters import is_model_file
from gruengine.errors import InvalidInputError, InvalidTypeError, UnsupportedError
from gruengine.model_state import as_input, check_mapping, pack_state, unpack_state
from gruengine.spec import ModelSpec, Port

if TYPE_CHECKING:
    from gruengine.pool import Pool

__all__ = ["Model", "Signature", "Stream", "Streamable", "load"]

COMPUTE_TYPES = ("float32", "bfloat16", "int8", "int4", "bf16x3", "auto")

Array = np.ndarray[Any, Any]
State = dict[str, Array]


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives.

    inputs, outputs : ports by graph order; sizes are integers or names
    state : (input, output) pairs that a stream carries
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    state: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Streamable:
    """Whether and how a model streams; false when it does not.

    form : "frames", "calls" or None
    reason : in words, for every form
    node : where it fails, "" when it is the whole graph
    time, batch : names of the axes
    """

    form: str | None
    reason: str
    node: str
    time: str
    batch: str

    def __bool__(self) -> bool:
        return self.form is not None


class Model:
    """An immutable model, shared by any number of threads and streams.

    Made by :func:`gruengine.load`, :func:`gruengine.from_torch` or ``Sequential.compile``.
    """

    def __init__(self, core: _core.Model) -> None:
        self._core = core
        self.signature = Signature(
            tuple(Port(*port) for port in core.inputs),
            tuple(Port(*port) for port in core.outputs),
            tuple(core.state_pairs),
        )
        self.streamable = Streamable(**core.streaming)
        states_in = {before for before, _ in self.signature.state}
        states_out = {after for _, after in self.signature.state}
        self._free_inputs = [p.name for p in self.signature.inputs if p.name not in states_in]
        results = [p.name for p in self.signature.outputs]
        # A cell has nothing but states to return.
        self._free_outputs = [name for name in results if name not in states_out] or results

    @classmethod
    def from_spec(
        cls, spec: ModelSpec, *, compute_type: str | None = None, num_threads: int = 1
    ) -> Model:
        """Load a model from its spec, without a file."""
        chosen = check_compute_type(compute_type)
        return cls(_core.Model.from_memory(spec.to_bytes(), num_threads, chosen))

    # -- facts ------------------------------------------------------------------------------------

    @property
    def isa(self) -> str:
        """The instruction set that the model was loaded with."""
        return self._core.isa

    @property
    def num_threads(self) -> int:
        """Threads that a run may use."""
        return self._core.num_threads

    @property
    def compute_type(self) -> str:
        """How products with weights are made: ``float32``, ``bfloat16`` or ``int8``."""
        return self._core.compute_type

    @property
    def hash(self) -> str:
        """SHA-256 of graph and weights: states belong to it."""
        return self._core.hash

    @property
    def packed_bytes(self) -> int:
        """Memory of the packed weights."""
        return self._core.packed_bytes

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the model came from."""
        found: dict[str, Any] = json.loads(self._core.provenance or "{}")
        return found

    @property
    def spec(self) -> ModelSpec:
        """The graph and its constants, read again from the model file: a copy."""
        return ModelSpec.from_bytes(self._core.file())

    def export(self, path: str | os.PathLike[str], *, format: str | None = None) -> None:  # noqa: A002
        """Write the model in another format: see :func:`gruengine.export`."""
        from gruengine.export import export

        export(self, path, format=format)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{p.name}{list(p.shape)}" for p in self.signature.inputs)
        outputs = ", ".join(p.name for p in self.signature.outputs)
        return f"Model({inputs} -> {outputs}; {self.isa}, {self.compute_type})"

    # -- runs -------------------------------------------------------------------------------------

    def run_graph(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Run the graph on all its inputs.

        Parameters
        ----------
        inputs : mapping of str to array
            Every graph input by name, in the shape and dtype of ``signature.inputs``; Python
            numbers and lists are converted, arrays of another kind of dtype are refused.

        Returns
        -------
        dict of str to ndarray
            Every graph output by name.

        Raises
        ------
        InvalidInputError, InvalidTypeError
            A missing or unknown name, a wrong shape or dtype.
        """
        names = [port.name for port in self.signature.inputs]
        check_mapping("inputs", inputs)
        if set(inputs) != set(names):
            raise InvalidInputError(f"got inputs {sorted(inputs)}; the model has {sorted(names)}")
        arrays = [as_input(port, inputs[port.name]) for port in self.signature.inputs]
        results = self._core.run(arrays)
        return dict(zip((p.name for p in self.signature.outputs), results, strict=True))

    def __call__(self, x: Any) -> Any:
        """Run whole sequences from the initial state.

        Parameters
        ----------
        x : array, or dict of arrays by name
            In the layout of the model's input, ``[N, T, I]`` for ``Sequential`` models.

        Returns
        -------
        ndarray, or dict of ndarray by name when there are several outputs
        """
        arrays = self._arrange(x)
        return self._free(self._core.run_from(arrays, None, None, False)[0])

    def run(
        self,
        x: Any,
        state: Mapping[str, Any] | None = None,
        lengths: Any = None,
    ) -> tuple[Any, State]:
        """Run whole sequences from a state and return the state after them.

        Parameters
        ----------
        x : array, or dict of arrays by name
        state : dict of arrays by name, optional
            A state that ``run`` returned; None starts from the initial state.
        lengths : integers [N], optional
            Frames of each row; outputs along the time axis are zero past them, and the state is
            the one at the row's last frame.

        Returns
        -------
        y : ndarray, or dict of ndarray by name when there are several outputs
        state : dict of ndarray by name
            ``<node>.h`` [D, N, H] and ``<node>.c`` of every recurrent node over time, and the
            state inputs of the graph.

        Raises
        ------
        InvalidInputError, InvalidTypeError
            A wrong shape or dtype, an unknown name in ``state``, a length outside [0, T].
        UnsupportedError
            ``lengths`` for a model without a time axis.
        """
        return self._run(x, state, lengths)

    def stream(self, batch_size: int = 1, sizes: Mapping[str, int] | None = None) -> Stream:
        """Open a stream: its state and the memory of one step, nothing else.

        Parameters
        ----------
        batch_size : int
            Rows stepped at once.
        sizes : dict of str to int, optional
            Values of other named sizes; those left open are taken from the first step.

        Raises
        ------
        UnsupportedError
            The model does not stream: the message names the node and the reason.
        """
        return Stream(self, batch_size, dict(sizes or {}))

    def pool(self, capacity: int, sizes: Mapping[str, int] | None = None) -> Pool:
        """Open a pool: many streams, any subset of them stepped as one batch.

        Parameters
        ----------
        capacity : int
            Streams that can be open at once, up to 2**24. Their memory is taken now.
        sizes : dict of str to int, optional
            Values of other named sizes.

        Raises
        ------
        UnsupportedError
            The model does not stream, or its rows depend on one another: the message says where.
        """
        from gruengine.pool import Pool

        return Pool(self, capacity, dict(sizes or {}))

    # -- inside -----------------------------------------------------------------------------------

    def _run(self, x: Any, state: Mapping[str, Any] | None, lengths: Any) -> tuple[Any, State]:
        arrays = self._arrange(x)
        layout = self._core.state_layout([list(array.shape) for array in arrays])
        block = None if state is None else pack_state(layout, state)
        rows = None if lengths is None else _as_lengths(lengths)
        results, after = self._core.run_from(arrays, rows, block)
        if rows is not None:
            for port, result in zip(self.signature.outputs, results, strict=True):
                if port.name in self._free_outputs:
                    self._blank_past(port, result, rows)
        return self._free(results), unpack_state(layout, after or b"")

    def _free(self, results: list[Array]) -> Any:
        """Return the outputs that are no states: one array, or several by name."""
        ports = self.signature.outputs
        named = {port.name: result for port, result in zip(ports, results, strict=True)}
        if len(self._free_outputs) == 1:
            return named[self._free_outputs[0]]
        return {name: named[name] for name in self._free_outputs}

    def _arrange(self, x: Any) -> list[Array]:
        """One array for each graph input; placeholders stand for state inputs."""
        if isinstance(x, Mapping):
            given = dict(x)
        elif len(self._free_inputs) == 1:
            given = {self._free_inputs[0]: x}
        else:
            raise InvalidInputError(
                f"the model has inputs {self._free_inputs}; give a dict by name"
            )
        if set(given) != set(self._free_inputs):
            raise InvalidInputError(
                f"got inputs {sorted(given)}; the model has {sorted(self._free_inputs)}"
            )
        arrays = []
        for port in self.signature.inputs:
            if port.name in given:
                arrays.append(as_input(port, given[port.name]))
            else:
                arrays.append(np.empty((0,), port.dtype))
        return arrays

    def _blank_past(self, port: Port, output: Array, lengths: list[int]) -> None:
        """Zero what a graph computed past the end of a row from zeros."""
        time, batch = self.streamable.time, self.streamable.batch
        if time not in port.shape:
            return
        rows = np.moveaxis(output, port.shape.index(time), 0)
        if batch in port.shape:
            axis = [name for name in port.shape if name != time].index(batch)
            rows = np.moveaxis(rows, axis + 1, 1)
        for row, length in enumerate(lengths):
            if batch in port.shape:
                rows[length:, row] = 0
            elif len(lengths) == 1:
                rows[length:] = 0


def load(
    source: str | os.PathLike[str] | bytes,
    *,
    compute_type: str | None = None,
    num_threads: int = 1,
    **options: Any,
) -> Model:
    """Load a model.

    Parameters
    ----------
    source : path or bytes
        A model file; or any source that :func:`gruengine.convert` reads, which is converted in
        memory first.
    compute_type : {"float32", "bfloat16", "int8", "int4", "bf16x3", "auto"}, optional
        How products with weights are made; states and all else are float32. By default what the
        model file says, float32 for other sources.
    num_threads : int
        Threads that one run may use, never more than ``info()["max_threads"]``; results do not
        depend on it. Runs too short to gain from them stay on one.
    **options
        ``bind``, ``state``, ``fallback`` and hints of ``convert``, for sources other than a model
        file.

    Raises
    ------
    ModelFileError, FileAccessError
        The file is damaged or of no known format; it cannot be read.
    ConversionError
        The source cannot be converted exactly; every reason is listed.
    """
    chosen = check_compute_type(compute_type)
    if is_model_file(source):
        if options:
            raise InvalidInputError(f"a model file takes no options; got {sorted(options)}")
        if isinstance(source, bytes):
            return Model(_core.Model.from_memory(source, num_threads, chosen))
        return Model(_core.Model.open(os.fspath(source), num_threads, chosen))
    return load_model(source, compute_type=chosen, num_threads=num_threads, **options)


def check_compute_type(compute_type: str | None) -> str | None:
    """Return the compute type that is meant here, or raise ``UnsupportedError``."""
    if compute_type is not None and compute_type not in COMPUTE_TYPES:
        raise UnsupportedError(
            f"compute_type {compute_type!r}; this version has {', '.join(COMPUTE_TYPES)}"
        )
    if compute_type == "auto":
        return "bfloat16" if _core.current_isa() == "amx" else "float32"
    return compute_type


def _as_lengths(lengths: Any) -> list[int]:
    array = np.asarray(lengths)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidTypeError(
            f"lengths has shape {array.shape} and dtype {array.dtype}; it must be [N] integers"
        )
    return [int(length) for length in array]
