# SPDX-License-Identifier: MIT
"""Finds the values of a graph that are ``x1 W1 + x2 W2 + ... + b`` with constant W and b.

This is what the gates of a cell are before their activations, however an exporter cuts it up:
one product for all gates or one a gate, [x, h] joined or apart, biases anywhere. Nothing is
computed here; a form only says which rows and columns of which constants it is made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gruengine.converters.shapes import UNKNOWN, Info
from gruengine.spec import Node

Array = np.ndarray[Any, Any]

MAX_PARTS = 16


@dataclass(frozen=True)
class Term:
    """``source @ weight[rows, columns]``, or with ``transposed`` ``weight[columns, rows].T``."""

    source: str
    weight: str
    transposed: bool
    rows: tuple[int, int]
    columns: tuple[int, int]


@dataclass(frozen=True)
class Bias:
    """``tensor.flat[columns]``, added to the product of ``owner`` (``""``: to all of them)."""

    tensor: str
    columns: tuple[int, int]
    owner: str


@dataclass(frozen=True)
class Affine:
    """A sum of products and biases, ``width`` columns."""

    width: int
    terms: tuple[Term, ...]
    biases: tuple[Bias, ...] = ()

    @property
    def sources(self) -> frozenset[str]:
        """The values that are multiplied."""
        return frozenset(term.source for term in self.terms)

    def part(self, start: int, stop: int) -> Affine | None:
        """Return some of the columns."""
        if not 0 <= start < stop <= self.width:
            return None

        def cut(columns: tuple[int, int]) -> tuple[int, int]:
            return columns[0] + start, columns[0] + stop

        return Affine(
            stop - start,
            tuple(replace(t, columns=cut(t.columns)) for t in self.terms),
            tuple(replace(b, columns=cut(b.columns)) for b in self.biases),
        )


@dataclass(frozen=True)
class Gate:
    """An activation of an affine value."""

    function: str
    alpha: float
    beta: float
    inner: Affine

    @property
    def activation(self) -> tuple[str, float, float]:
        """The function with its parameters."""
        return self.function, self.alpha, self.beta


#: Activations of a cell -> defaults of the operator of that name.
FUNCTIONS = {
    "Sigmoid": (0.0, 0.0), "Tanh": (0.0, 0.0), "Relu": (0.0, 0.0), "Softsign": (0.0, 0.0),
    "Softplus": (0.0, 0.0), "LeakyRelu": (0.01, 0.0), "ThresholdedRelu": (1.0, 0.0),
    "Elu": (1.0, 0.0), "HardSigmoid": (0.2, 0.5),
}  # fmt: skip


def activation_of(node: Node) -> tuple[str, float, float] | None:
    """Return the activation that a node is, with its parameters, or None."""
    usual = FUNCTIONS.get(node.op)
    if usual is None:
        return None
    values = [
        node.attrs.get(key, default) for key, default in zip(("alpha", "beta"), usual, strict=True)
    ]
    alpha, beta = (float(v) if isinstance(v, (int, float)) else 0.0 for v in values)
    return node.op, alpha, beta


class Forms:
    """The affine values and gates of a list of nodes, found in one pass from first to last."""

    def __init__(
        self, nodes: Sequence[Node], tensors: Mapping[str, Array], infos: Mapping[str, Info]
    ) -> None:
        self.tensors, self.infos = tensors, infos
        self.affine: dict[str, Affine] = {}
        self.gates: dict[str, Gate] = {}
        self.makers: dict[str, Node] = {}
        for node in nodes:
            self._visit(node)
            self.makers.update(dict.fromkeys((name for name in node.outputs if name), node))

    def _visit(self, node: Node) -> None:
        if node.op in ("MatMul", "Gemm"):
            self._enter(node, self._product(node))
        elif node.op == "Add":
            self._enter(node, self._sum(*node.inputs))
        elif node.op in ("Split", "Slice"):
            self._cut(node)
        elif node.op == "Squeeze" and node.inputs[0] in self.affine:
            self._enter(node, self._squeezed(node))
        elif node.inputs and node.inputs[0] in self.affine:
            activation = activation_of(node)
            if activation is not None:
                self.gates[node.outputs[0]] = Gate(*activation, self.affine[node.inputs[0]])

    def _enter(self, node: Node, form: Affine | None) -> None:
        if form is not None and len(form.terms) + len(form.biases) <= MAX_PARTS:
            self.affine[node.outputs[0]] = form

    def shape(self, name: str) -> tuple[int | str | None, ...] | None:
        """Return what is known of the sizes of a value."""
        return self.infos.get(name, UNKNOWN).shape

    def _squeezed(self, node: Node) -> Affine | None:
        """Return a form without an axis of size 1: of the step, or of its one row."""
        form, shape = self.affine[node.inputs[0]], self.shape(node.inputs[0])
        axes = self.tensors.get(node.inputs[1]) if len(node.inputs) > 1 else None
        is_row = shape == (1, form.width) and form.width > 1
        is_step = shape is not None and len(shape) == 3 and axes is not None
        is_first = axes is not None and axes.reshape(-1).tolist() in ([0], [-3])
        return form if is_row or (is_step and is_first) else None

    def row(self, name: str, width: int) -> Array | None:
        """Return what a constant adds to each row of ``width`` columns, if it is the same."""
        constant = self.tensors.get(name)
        if constant is None or constant.dtype.kind != "f" or constant.ndim > 3:
            return None
        if constant.size > 1 and (constant.shape[-1] != width or not constant.size):
            return None
        rows = constant.reshape(-1, constant.shape[-1] if constant.size > 1 else 1)
        return rows[0] if len(rows) and np.all(rows == rows[0]) else None

    def _is_step(self, name: str) -> bool:
        """Whether a value is [N, ...] of one step, or [1, N, ...]."""
        shape = self.shape(name)
        return shape is not None and (len(shape) == 2 or (len(shape) == 3 and shape[0] == 1))

    def _product(self, node: Node) -> Affine | None:
        weight = self.tensors.get(node.inputs[1])
        if weight is None or weight.ndim != 2 or weight.dtype.kind != "f":
            return None
        transposed = node.op == "Gemm" and bool(node.attrs.get("transB", 0))
        if node.op == "Gemm":
            scales = (node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0))
            if scales != (1.0, 1.0) or node.attrs.get("transA", 0):
                return None
        elif not self._is_step(node.inputs[0]):
            return None
        rows, width = weight.shape[::-1] if transposed else weight.shape
        terms = self._terms(node.inputs[0], node.inputs[1], transposed, rows, width)
        form = Affine(width, terms) if terms else None
        if form is None or len(node.inputs) < 3 or not node.inputs[2]:
            return form
        return self._with(form, node.inputs[2])

    def _terms(
        self, source: str, weight: str, transposed: bool, rows: int, width: int
    ) -> tuple[Term, ...]:
        """Return one term, or one for each part of a source that is joined of several."""
        parts = [(source, rows)]
        maker = self.makers.get(source)
        if maker is not None and maker.op == "Concat" and maker.attrs.get("axis") in (1, -1):
            shapes = [self.shape(name) for name in maker.inputs]
            widths = [s[1] if s is not None and len(s) == 2 else None for s in shapes]
            fixed = [w for w in widths if isinstance(w, int)]
            constant = any(name in self.tensors for name in maker.inputs)
            if len(fixed) == len(widths) and sum(fixed) == rows and not constant:
                parts = list(zip(maker.inputs, fixed, strict=True))
        terms, at = [], 0
        for name, size in parts:
            terms.append(Term(name, weight, transposed, (at, at + size), (0, width)))
            at += size
        return tuple(terms)

    def _sum(self, a: str, b: str) -> Affine | None:
        first = self.affine.get(a)
        return self._with(first, b) if first is not None else self._with(self.affine.get(b), a)

    def _with(self, form: Affine | None, other: str) -> Affine | None:
        """Add another affine value or a constant row to a form."""
        if form is None:
            return None
        second, constant = self.affine.get(other), self.tensors.get(other)
        if second is not None:
            if second.width != form.width or form.sources & second.sources:
                return None
            biases = form.biases + second.biases
            return Affine(form.width, form.terms + second.terms, biases)
        if constant is None or self.row(other, form.width) is None:
            return None
        owner = form.terms[0].source if len(form.sources) == 1 else ""
        bias = Bias(other, (0, form.width), owner)
        return replace(form, biases=(*form.biases, bias))

    def _cut(self, node: Node) -> None:
        source = node.inputs[0]
        gate, form = self.gates.get(source), self.affine.get(source)
        inner = gate.inner if gate is not None else form
        if inner is None:
            return
        ranges = self._split(node, inner.width) if node.op == "Split" else self._slice(node)
        for name, bounds in zip(node.outputs, ranges, strict=False):
            part = inner.part(bounds[0], min(bounds[1], inner.width))
            if part is None or not name:
                continue
            if gate is not None:
                self.gates[name] = replace(gate, inner=part)
            else:
                self.affine[name] = part

    def _last(self, node: Node) -> tuple[int, ...]:
        """Return what names the last axis of the first input."""
        rank = self.infos.get(node.inputs[0], UNKNOWN).rank
        return (-1,) if rank is None else (-1, rank - 1)

    def _split(self, node: Node, width: int) -> list[tuple[int, int]]:
        if node.attrs.get("axis") not in self._last(node):
            return []
        count = len(node.outputs)
        sizes = [-(-width // count)] * count
        if len(node.inputs) > 1:
            given = self.tensors.get(node.inputs[1])
            if given is None or given.size != count:
                return []
            sizes = [int(v) for v in given.reshape(-1)]
        if sum(sizes) != width:
            return []
        ends = np.cumsum(sizes).tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def _slice(self, node: Node) -> list[tuple[int, int]]:
        """Return the columns of a Slice that keeps all rows."""
        values = [self.tensors.get(name) for name in node.inputs[1:]]
        if len(values) < 3 or any(v is None for v in values):
            return []
        starts, ends, axes, *steps = [v.reshape(-1).tolist() for v in values if v is not None]
        if any(step != 1 for row in steps for step in row):
            return []
        columns: list[tuple[int, int]] = []
        for start, end, axis in zip(starts, ends, axes, strict=True):
            if axis in self._last(node) and start >= 0 and end >= 0:
                columns.append((start, end))
            elif start != 0 or end < (1 << 31) - 1:
                return []
        return columns if len(columns) == 1 else []
