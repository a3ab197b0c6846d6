# SPDX-License-Identifier: MIT
"""What ONNX Runtime knows of the values of a whole model: types, ranks, and one recorded run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gruengine.converters.onnx_model import OnnxModel, Value
from gruengine.converters.onnx_tensor import TYPE_NAMES, type_name
from gruengine.converters.onnx_write import write_part
from gruengine.errors import GruEngineError, InvalidInputError, ModelFileError
from gruengine.parity import make_inputs, size_choices
from gruengine.parts import PartedSpec
from gruengine.spec import DTYPES, Graph, ModelSpec, Parity, Port
from gruengine.verify_source import onnx_feed, onnx_session

Array = np.ndarray[Any, Any]

_MOST_TRIES = 96
_CODES = {name: code for code, name in TYPE_NAMES.items()}
_WORDS = {"float": "float32", "double": "float64"}


class Types:
    """The values of a model by name, as ONNX Runtime sees them when it runs the whole."""

    def __init__(
        self,
        data: bytes,
        model: OnnxModel,
        bound: Mapping[str, Array],
        sizes: Mapping[str, int] | None,
    ) -> None:
        self.model, self.sizes = model, sizes or {}
        graph = model.graph
        fixed = {tensor.name for tensor in graph.initializers} | set(bound)
        self.inputs = [value for value in graph.inputs if value.name not in fixed]
        made = [name for node in graph.nodes for name in node.outputs if name]
        self.outputs = [value.name for value in graph.outputs]
        names = list(dict.fromkeys([*self.outputs, *made]))
        whole = write_part(data, model, range(len(graph.nodes)), self.inputs, names, bound)
        try:
            self.session = onnx_session(whole)
        except GruEngineError:
            raise
        except Exception as error:  # ONNX Runtime has its own kinds
            raise ModelFileError(f"ONNX Runtime refuses the model: {error}") from None
        self._values = {value.name: value for value in self.inputs}
        for port in self.session.get_outputs():
            self._values[port.name] = _value(port.name, port.type, port.shape)
        self._measure()

    def dtype(self, name: str) -> str:
        """Return the name of an element type; "" for what is no tensor."""
        value = self._values.get(name)
        return type_name(value.elem_type) if value is not None else "float32"

    def value(self, name: str) -> Value:
        """Return type and shape; a size that ONNX Runtime does not know is open."""
        return self._values[name]

    def port(self, name: str) -> Port:
        """Return the port of an input or output of the whole model."""
        value = self._values[name]
        sizes = enumerate(value.shape or ())
        shape = tuple(f"{name}_{i}" if size is None else size for i, size in sizes)
        return Port(name, type_name(value.elem_type), shape)

    def sample(self, spec: PartedSpec, parts: Sequence[ModelSpec]) -> Parity:
        """Record one run of the whole source by ONNX Runtime on seeded inputs."""
        graph = Graph(spec.graph.inputs, [], [n for part in parts for n in part.graph.nodes])
        tensors = {name: array for part in parts for name, array in part.tensors.items()}
        whole = ModelSpec(graph, tensors, spec.state)
        names = [port.name for port in spec.graph.outputs]
        inputs, results = self._run(whole, names)
        return Parity(inputs, dict(zip(names, results, strict=True)), "ONNX Runtime (recorded)")

    # -- inside -----------------------------------------------------------------------------------

    def _measure(self) -> None:
        """Take the ranks of all values from one run: shape inference may not know them."""
        ports = [self.port(value.name) for value in self.inputs]
        if any(port.dtype not in DTYPES for port in ports):
            return
        names = [port.name for port in self.session.get_outputs()]
        _, results = self._run(ModelSpec(Graph(ports, [], []), {}), names)
        for name, result in zip(names, results, strict=True):
            value = self._values[name]
            rank = np.ndim(result)
            if value.elem_type and (value.shape is None or len(value.shape) != rank):
                self._values[name] = replace(value, shape=(None,) * rank)

    def _run(self, spec: ModelSpec, names: list[str]) -> tuple[dict[str, Array], list[Array]]:
        first: Exception | None = None
        for sizes in itertools.islice(size_choices(spec, self.sizes), _MOST_TRIES):
            inputs = make_inputs(spec, sizes)
            try:
                return inputs, self.session.run(names, onnx_feed(self.session, inputs, {}))
            except Exception as error:  # ONNX Runtime has its own kinds
                first = first or error
        free = ", ".join(dict.fromkeys(_free(spec.graph.inputs)))
        advice = f"; give sizes={{...}}, --size NAME=8, for {free}" if free else ""
        raise InvalidInputError(f"ONNX Runtime could not run a sample: {first}{advice}")


def _free(ports: Sequence[Port]) -> Iterator[str]:
    for port in ports:
        yield from (size for size in port.shape if isinstance(size, str))


def _value(name: str, word: str, shape: Sequence[Any] | None) -> Value:
    kind = word.removeprefix("tensor(").removesuffix(")")
    if not word.startswith("tensor("):
        return Value(name, 0, None, word)
    code = _CODES.get(_WORDS.get(kind, kind), 0)
    sizes = tuple(s if isinstance(s, (int, str)) and s != "" else None for s in shape or ())
    return Value(name, code, sizes)
