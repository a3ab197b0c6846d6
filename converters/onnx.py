# SPDX-License-Identifier: MIT
"""ONNX models: bytes in, a ``ModelSpec`` out. NumPy only; nothing of a file is ever executed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from gruengine.converters import (  # they enter their operators
    onnx_einsum,
    onnx_fused,
    onnx_integers,
    onnx_ops_more,
    onnx_ops_places,
    onnx_ops_shape,
    onnx_quantized,
    onnx_recurrent,
)
from gruengine.converters.base import ConversionError, ConversionReport, Options, Reason
from gruengine.converters.onnx_chain import join_steps
from gruengine.converters.onnx_finish import (
    bound,
    conditions_on_data,
    finish_tensors,
    in_words,
    output_ports,
    output_values,
)
from gruengine.converters.onnx_first import cut_first, first_steps
from gruengine.converters.onnx_fold import Builder, live_nodes, walk
from gruengine.converters.onnx_fuse import fuse
from gruengine.converters.onnx_model import OnnxGraph, OnnxModel, Value, read_model
from gruengine.converters.onnx_ops import NEWEST
from gruengine.converters.onnx_projection import fuse_projected
from gruengine.converters.onnx_rewrite import rewrite
from gruengine.converters.onnx_sequences import without_lists
from gruengine.converters.onnx_tensor import type_name
from gruengine.converters.onnx_walk import Scope, Walker
from gruengine.converters.onnx_widen import HALF_TYPES, WAY_OUT, holds_halves, widened
from gruengine.converters.state_pairs import find_pairs
from gruengine.errors import ModelFileError
from gruengine.spec import DTYPES, Graph, ModelSpec, Node, Port
from gruengine.spec_checks import problems_of

_ENTERED = (
    onnx_einsum, onnx_fused, onnx_integers, onnx_ops_more, onnx_ops_places, onnx_ops_shape,
    onnx_quantized, onnx_recurrent,
)  # fmt: skip
Array = np.ndarray[Any, Any]

OLDEST = 7

#: Hint -> what it does, see ``read_onnx``.
HINTS = ("allow_rounding", "dequantize", "linear_before_reset", "widen")


def read_onnx(
    source: bytes,
    *,
    path: Path | str | None = None,
    name: str = "<bytes>",
    options: Options | None = None,
) -> tuple[ModelSpec, ConversionReport]:
    """Convert an ONNX model, exactly or not at all.

    Parameters
    ----------
    source : bytes
        The file.
    path : Path or str or None
        Where it lies; external data is read from beside it only.
    name : str
        What messages call it.
    options : Options
        ``bind`` fixes inputs, ``state`` names the pairs of a stream. Hints, all of them bool:
        ``allow_rounding`` accepts float64 values that float32 does not hold exactly;
        ``linear_before_reset`` is taken for every GRU, whatever the file says (for exports that
        lost it); ``dequantize`` computes int8 products of dynamic quantisation in float32,
        ``widen`` float16 and bfloat16.

    Raises
    ------
    ModelFileError
        Bytes that are no ONNX model, or break its format.
    ConversionError
        A model that cannot be converted exactly; every reason is listed.
    """
    options = options or Options()
    try:
        model = read_model(source, None if path is None else Path(os.fspath(path)))
        spec, report = Conversion(model, len(source), name, options).run()
    except ModelFileError as error:
        raise ModelFileError(f"{name}: {error}") from None
    check_spec(spec, name)
    spec.provenance = {
        "format": "onnx",
        "producer": f"{model.producer} {model.producer_version}".strip(),
        "opset": model.opset,
        "sha256": hashlib.sha256(source).hexdigest(),
    }
    return spec, report


def check_spec(spec: ModelSpec, name: str) -> None:
    """Raise ``ModelFileError`` where what was read is no valid model."""
    problems = problems_of(spec)
    if problems:
        raise ModelFileError(f"{name}: " + "; ".join(problems[:4]))


class Conversion:
    """One conversion of one model.

    Attributes
    ----------
    culprits : dict of int to list of Reason
        Nodes of the model's graph, by index, that are among the reasons for refusing it.
    """

    def __init__(self, model: OnnxModel, size: int, name: str, options: Options) -> None:
        self.model, self.name, self.options = model, name, options
        self.reasons: list[Reason] = []
        self.culprits: dict[int, list[Reason]] = {}
        self.report = ConversionReport(name, "onnx", source_bytes=size)
        if options.hints.get("widen") is True and holds_halves(model):
            self.model = widened(model)
            self.report.warnings.append(
                "half precision is computed in float32: the source differs by its own rounding"
            )
        rounding = bool(options.hints.get("allow_rounding", False))
        self.builder = Builder(size, rounding, options.hints, self.report.warnings)
        self.walker = Walker(self.model, self.builder, self.reasons)
        self.walker.tell = options.tell

    def run(self) -> tuple[ModelSpec, ConversionReport]:
        """Convert; raises ConversionError with all reasons."""
        graph = without_lists(self.model.graph, self.model.opset)
        for key, value in sorted(self.options.hints.items()):
            if key not in HINTS or not isinstance(value, bool):
                allowed = f"ONNX models take {', '.join(HINTS)}, each True or False"
                self.reasons.append(Reason("", f"hint {key}={value!r:.40}", allowed))
        self._check_version()
        self.builder.reserve([value.name for value in graph.outputs])
        scope = Scope()
        ports = self._inputs(graph, scope)
        self.walker.enter(graph, scope)
        self._bind(graph, scope)
        self.walker.nodes(graph, scope)
        spec = self._finish(ports, scope)
        self._report(spec)
        return spec, self.report

    def _fail(self) -> None:
        if self.reasons:
            raise ConversionError(self.name, self.reasons)

    def _check_version(self) -> None:
        opset = self.model.opset
        if not OLDEST <= opset <= NEWEST:
            what = f"opset {opset}" if opset else "no opset of ONNX's own operators"
            why = f"opsets {OLDEST} to {NEWEST} are read"
            self.reasons.append(Reason("", what, why))
        self._fail()

    # -- inputs -----------------------------------------------------------------------------------

    def _inputs(self, graph: OnnxGraph, scope: Scope) -> list[Port]:
        constant = {tensor.name for tensor in graph.initializers} | set(self.options.bind)
        symbols = {s for v in graph.inputs for s in v.shape or () if isinstance(s, str)}
        ports, seen = [], set()
        for value in graph.inputs:
            if not value.name or "\0" in value.name or value.name in seen:
                raise ModelFileError(f"graph input {value.name!r} has no name, or is there twice")
            seen.add(value.name)
            if value.name in constant:
                continue
            port = self._port(value, symbols)
            if port is not None:
                self.builder.input(port)
                ports.append(port)
                scope.values[value.name] = value.name
            else:
                # What is wrong is noted; the rest of the model is still looked at.
                scope.values[value.name] = self.builder.refuse([], (value.name,))[0]
        return ports

    def _port(self, value: Value, symbols: set[str]) -> Port | None:
        dtype = type_name(value.elem_type)
        if dtype == "float64" and self.builder.rounding:
            self.report.warnings.append(f"input {value.name!r} is float64 in the source")
            dtype = "float32"
        problem = ""
        if value.kind != "tensor" or value.elem_type == 0:
            problem = "no tensor of a known type" if value.kind == "tensor" else f"a {value.kind}"
        elif dtype not in DTYPES:
            problem = dtype
        elif value.shape is None:
            problem = "of unknown rank"
        if problem or value.shape is None:
            allowed = f"inputs are tensors of {', '.join(DTYPES)} and known rank"
            allowed += WAY_OUT if problem in HALF_TYPES else ""
            self.reasons.append(Reason(value.name, f"input {problem}", allowed))
            return None
        sizes: list[int | str] = []
        for axis, size in enumerate(value.shape):
            if size is None or size == "":
                size = wish = f"{value.name}_{axis}"
                while size in symbols:
                    size = wish = f"{wish}_"
                symbols.add(size)
            sizes.append(size.replace("\0", "") or "size" if isinstance(size, str) else size)
        return Port(value.name, dtype, tuple(sizes))

    def _bind(self, graph: OnnxGraph, scope: Scope) -> None:
        declared = {value.name: value for value in graph.inputs}
        for name, given in self.options.bind.items():
            value = declared.get(name)
            if value is None:
                names = ", ".join(sorted(declared)) or "none"
                self.reasons.append(Reason("", f"bind {name!r}", f"the inputs are {names}"))
                continue
            array, problem = bound(value, given)
            if array is None:
                self.reasons.append(Reason(name, f"bind {name!r}", problem))
                array = np.zeros(0, np.float32)
            scope.pending.pop(name, None)
            scope.values[name] = self.builder.constant(array, name)

    # -- the end ----------------------------------------------------------------------------------

    def _finish(self, ports: list[Port], scope: Scope) -> ModelSpec:
        builder, declared = self.builder, self.model.graph.outputs
        if not declared:
            self.reasons.append(Reason("", "no graph output", "at least one is needed"))
        names = [value.name for value in declared]
        if len(set(names)) < len(names) or not all(names):
            raise ModelFileError("graph outputs need names, each of its own")
        values = [self.walker.value(scope, name, "the list of graph outputs") for name in names]
        for name, value in zip(names, values, strict=True):
            if builder.info(value).dtype in ("int8", "uint8", "int16", "uint16"):
                what = f"an output of {builder.info(value).dtype}"
                self.reasons.append(Reason(name, what, f"outputs are {', '.join(DTYPES)}"))
        nodes = output_values(builder, names, values, {port.name for port in ports})
        nodes = live_nodes(nodes, set(names))
        branches = conditions_on_data(nodes, {port.name for port in ports})
        found = [(builder.origin(node), reason) for node, reason in branches]
        for place, reason in [*builder.reasons(nodes), *found]:
            self.reasons.append(reason)
            if place >= 0:
                self.culprits.setdefault(place, []).append(reason)
        self._fail()
        nodes, fused = self._recognise(nodes, set(names))
        self.report.fused = [*self.walker.fused, *fused]
        outputs = output_ports(builder, declared)
        graph = Graph(ports, outputs, nodes)
        tensors = finish_tensors(graph, builder, self.reasons, self.report.warnings)
        self._fail()
        spec = ModelSpec(graph, tensors)
        spec.state = self._state(spec)
        self._fail()
        return spec

    def _recognise(self, nodes: list[Node], keep: set[str]) -> tuple[list[Node], list[str]]:
        """Turn cells in elementary operators, step after step, into recurrent nodes."""
        builder = self.builder
        nodes, projected = fuse_projected(rewrite(nodes, builder, keep), builder, keep)
        cut = cut_first(nodes, builder)
        for tried in [cut, nodes] if cut != nodes else [nodes]:
            fused, words = fuse(
                tried, builder.tensors, builder.infos, builder.fresh, keep, builder.warnings
            )
            if words or tried is nodes:  # else nothing is won by cutting first
                break
        first = first_steps(fused, builder, keep)
        joined, more = join_steps(first, builder, keep)
        return joined, [*projected, *words, *more]

    def _state(self, spec: ModelSpec) -> tuple[tuple[str, str], ...]:
        if self.options.state is None:
            return find_pairs(spec.graph, spec.tensors)
        inputs = {port.name: port for port in spec.graph.inputs}
        outputs = {port.name: port for port in spec.graph.outputs}
        for source, target in self.options.state.items():
            if source not in inputs or target not in outputs:
                why = f"inputs are {', '.join(inputs)}; outputs are {', '.join(outputs)}"
                self.reasons.append(Reason("", f"state {source!r} -> {target!r}", why))
        return tuple((str(a), str(b)) for a, b in self.options.state.items())

    def _report(self, spec: ModelSpec) -> None:
        report, exported = self.report, _has_gru(self.model.graph)
        for node in walk(spec.graph.nodes):
            report.nodes_after += 1
            if node.op == "Recurrent":
                report.recognised.append(in_words(node))
                if exported:
                    self._warn_of_broken_export(node)
        report.folded, report.nodes_before = self.builder.folded, self.walker.nodes_before
        report.parameters = sum(int(t.size) for t in spec.tensors.values() if t.dtype.kind == "f")
        report.state = spec.state

    def _warn_of_broken_export(self, node: Node) -> None:
        """PyTorch 2.9 to 2.12 could write linear_before_reset = 0 for networks that mean 1."""
        version = self.model.producer_version.split("+")[0].split(".")
        numbers = [int(part) if part.isdigit() else 0 for part in [*version, "0", "0"][:2]]
        if self.model.producer != "pytorch" or node.attrs.get("cell") != "gru":
            return
        told = "linear_before_reset" in self.options.hints
        if not told and node.attrs.get("reset") == "before" and (2, 9) <= tuple(numbers) <= (2, 13):
            self.report.warnings.append(
                f"GRU {node.name!r}: what PyTorch exported with onnxscript 0.5.7 to 0.7.0 lacks "
                "linear_before_reset=1 and computes other numbers than the PyTorch model; this "
                "file is converted as it is: give linear_before_reset=True if it is one of these"
            )


def _has_gru(graph: OnnxGraph) -> bool:
    """Tell whether a graph has the operator, beside cells that are written in others."""
    inner = (value for node in graph.nodes for value in node.attrs.values())
    branches = any(_has_gru(value) for value in inner if isinstance(value, OnnxGraph))
    return branches or any(node.op == "GRU" for node in graph.nodes)
