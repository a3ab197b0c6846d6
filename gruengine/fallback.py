# SPDX-License-Identifier: MIT
"""Converts an ONNX model of which ONNX Runtime runs what is not run here, if the user allows it.

Only nodes that carry no state from step to step are handed over, and only those that the conversion
refuses. What the parts give each other is taken from ONNX Runtime's own view of the whole model.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gruengine.converters import load_source, sniff
from gruengine.converters.base import ConversionError, ConversionReport, Options, Reason
from gruengine.converters.onnx import Conversion, check_spec
from gruengine.converters.onnx_finish import bound
from gruengine.converters.onnx_model import OnnxModel, read_model
from gruengine.converters.onnx_parts import Cutter, Piece, part_of, recurs
from gruengine.converters.onnx_write import write_part
from gruengine.converters.state_pairs import find_pairs
from gruengine.errors import InvalidInputError
from gruengine.fallback_types import Types
from gruengine.parts import Handed, Part, PartedSpec
from gruengine.spec import DTYPES, Graph, ModelSpec, Port

Array = np.ndarray[Any, Any]

FALLBACKS = ("onnxruntime",)
_MOST_ROUNDS = 64


def check_fallback(fallback: str | None) -> None:
    """Raise ``InvalidInputError`` unless it is None or a fallback that exists."""
    if fallback is not None and fallback not in FALLBACKS:
        raise InvalidInputError(f"fallback {fallback!r}; allowed: None, {', '.join(FALLBACKS)}")


def convert_in_parts(
    source: str | os.PathLike[str] | bytes,
    options: Options,
    sizes: Mapping[str, int] | None,
    refusal: ConversionError,
) -> tuple[PartedSpec, ConversionReport]:
    """Convert an ONNX model in parts, after ``refusal`` to convert it as a whole.

    Raises
    ------
    ConversionError
        ``refusal``, for another source or where the reasons are no nodes; or why a node cannot be
        handed over.
    UnsupportedError
        ONNX Runtime is not installed.
    """
    data, path, name = load_source(source)
    if sniff(data, name) != "onnx":
        raise refusal
    model = read_model(data, None if path is None else Path(path))
    return _InParts(data, model, name, options, sizes).run(refusal)


class _InParts:
    """One conversion: rounds of cutting and converting, until every part of ours converts."""

    def __init__(
        self,
        data: bytes,
        model: OnnxModel,
        name: str,
        options: Options,
        sizes: Mapping[str, int] | None,
    ) -> None:
        self.data, self.model, self.name = data, model, name
        self.options, self.sizes = options, sizes
        self.handed: dict[int, str] = {}  # index of a node -> why
        self.bound: dict[str, Array] = {}
        for value in model.graph.inputs:
            if value.name in options.bind:
                array, _ = bound(value, options.bind[value.name])
                if array is not None:
                    self.bound[value.name] = array

    def run(self, refusal: ConversionError) -> tuple[PartedSpec, ConversionReport]:
        whole = Conversion(self.model, len(self.data), self.name, self.options)
        try:
            whole.run()
        except ConversionError as error:
            placed = sum(len(reasons) for reasons in whole.culprits.values())
            if not placed or placed < len(error.reasons):
                raise refusal from None
        self._hand_over(whole.culprits)
        types = Types(self.data, self.model, self.bound, self.sizes)
        for _ in range(_MOST_ROUNDS):
            pieces = Cutter(self.model.graph, self.bound, self.handed).pieces()
            if self._foreign_types(pieces, types):
                continue
            made = self._converted(pieces, types)
            if made is not None:
                return self._assembled(pieces, made, types)
        raise refusal

    # -- what is handed over ----------------------------------------------------------------------

    def _hand_over(self, culprits: Mapping[int, list[Reason]]) -> None:
        graph, problems = self.model.graph, []
        for index, reasons in culprits.items():
            node = graph.nodes[index]
            if recurs(node, self.model.functions):
                problems += [
                    Reason(r.where, r.what, f"{r.why}; it recurs, so it is not handed over")
                    for r in reasons
                ]
            self.handed.setdefault(index, "; ".join(f"{r.what}: {r.why}" for r in reasons))
        if problems:
            raise ConversionError(self.name, problems)

    def _foreign_types(self, pieces: list[Piece], types: Types) -> bool:
        """Hand over the nodes of ours beside a border that a type of ours cannot pass."""
        found: dict[int, list[Reason]] = {}
        graph = self.model.graph
        for piece in pieces:
            if not piece.ours:
                continue
            odd = {n for n in (*piece.inputs, *piece.outputs) if types.dtype(n) not in DTYPES}
            odd -= {value.name for value in graph.inputs}
            for index in piece.nodes:
                node = graph.nodes[index]
                beside = odd & {*node.inputs, *node.outputs}
                if beside and index not in self.handed:
                    name = min(beside)
                    what, why = f"{name} is {types.dtype(name)}", "its neighbour is handed over"
                    found.setdefault(index, []).append(Reason(node.name, what, why))
        self._hand_over(found)
        return bool(found)

    # -- parts ------------------------------------------------------------------------------------

    def _converted(
        self, pieces: list[Piece], types: Types
    ) -> list[tuple[ModelSpec, ConversionReport] | None] | None:
        """Convert the parts of ours; None if that found more to hand over."""
        made: list[tuple[ModelSpec, ConversionReport] | None] = []
        for piece in pieces:
            if not piece.ours:
                made.append(None)
                continue
            values = {name: types.value(name) for name in (*piece.inputs, *piece.outputs)}
            part = part_of(self.model, piece, values)
            names = {value.name for value in part.graph.inputs}
            bind = {k: v for k, v in self.options.bind.items() if k in names}
            options = Options(bind, {}, self.options.hints)
            one = Conversion(part, len(self.data), self.name, options)
            try:
                spec, report = one.run()
            except ConversionError:
                if not one.culprits:
                    raise
                self._hand_over({piece.nodes[i]: r for i, r in one.culprits.items()})
                return None
            check_spec(spec, self.name)
            made.append((spec, report))
        return made

    def _assembled(
        self,
        pieces: list[Piece],
        made: list[tuple[ModelSpec, ConversionReport] | None],
        types: Types,
    ) -> tuple[PartedSpec, ConversionReport]:
        report = ConversionReport(self.name, "onnx", source_bytes=len(self.data))
        report.nodes_before = len(self.model.graph.nodes)
        parts = []
        for piece, one in zip(pieces, made, strict=True):
            if one is None:
                parts.append(self._theirs(piece, types))
                report.nodes_after += len(parts[-1].handed)
                continue
            spec, found = one
            parts.append(Part("gruengine", spec.to_bytes(), piece.inputs, piece.outputs))
            _add(report, found)
        graph = Graph(self._ports("inputs", types), self._ports("outputs", types), [])
        report.fallback = [str(node) for part in parts for node in part.handed]
        report.state = self._state(graph, made)
        whole = PartedSpec(graph, parts, report.state, self._provenance())
        whole.parity = types.sample(whole, [one[0] for one in made if one is not None])
        return whole, report

    def _theirs(self, piece: Piece, types: Types) -> Part:
        inputs = [types.value(name) for name in piece.inputs]
        data = write_part(self.data, self.model, piece.nodes, inputs, piece.outputs, self.bound)
        nodes = [(self.model.graph.nodes[i], self.handed[i]) for i in piece.nodes
                 if i in self.handed]  # fmt: skip
        handed = [Handed(node.name or node.outputs[0], node.op, why) for node, why in nodes]
        return Part("onnxruntime", data, piece.inputs, piece.outputs, tuple(handed))

    def _ports(self, side: str, types: Types) -> list[Port]:
        ports = []
        for value in getattr(self.model.graph, side):
            constant = {tensor.name for tensor in self.model.graph.initializers} | set(self.bound)
            if side == "inputs" and value.name in constant:
                continue
            port = types.port(value.name)
            if port.dtype not in DTYPES:
                what = f"an {side[:-1]} of {port.dtype}"
                reason = Reason(value.name, what, f"{side} are {', '.join(DTYPES)}")
                raise ConversionError(self.name, [reason])
            ports.append(port)
        return ports

    def _state(
        self, graph: Graph, made: list[tuple[ModelSpec, ConversionReport] | None]
    ) -> tuple[tuple[str, str], ...]:
        ins = {port.name for port in graph.inputs}
        outs = {port.name for port in graph.outputs}
        if self.options.state is not None:
            for pair in self.options.state.items():
                if pair[0] not in ins or pair[1] not in outs:
                    why = f"inputs are {', '.join(ins)}; outputs are {', '.join(outs)}"
                    raise ConversionError(self.name, [Reason("", f"state {pair}", why)])
            return tuple(self.options.state.items())
        specs = [one[0] for one in made if one is not None]
        pairs = itertools.chain(*(find_pairs(spec.graph, spec.tensors) for spec in specs))
        return tuple(pair for pair in pairs if pair[0] in ins and pair[1] in outs)

    def _provenance(self) -> dict[str, Any]:
        model = self.model
        return {
            "format": "onnx",
            "producer": f"{model.producer} {model.producer_version}".strip(),
            "opset": model.opset,
            "sha256": hashlib.sha256(self.data).hexdigest(),
            "fallback": "onnxruntime",
        }


def _add(report: ConversionReport, found: ConversionReport) -> None:
    report.recognised += found.recognised
    report.fused += found.fused
    report.warnings += [text for text in found.warnings if text not in report.warnings]
    report.folded += found.folded
    report.nodes_after += found.nodes_after
    report.parameters += found.parameters
