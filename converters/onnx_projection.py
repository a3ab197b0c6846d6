# SPDX-License-Identifier: MIT
"""LSTM cells with a projection, h' = P (o * tanh(c')), in elementary operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gruengine.converters.affine import Forms
from gruengine.converters.cell_match import Cell, attributes, match
from gruengine.converters.onnx_fold import Builder, live_nodes
from gruengine.converters.onnx_fuse import Fuser
from gruengine.spec import Attr, Node

Place = tuple[str, tuple[int, int]]


@dataclass
class _Projected:
    """A cell whose o * tanh(c') is used for nothing but its projection."""

    cell: Cell
    product: Node
    weight: str
    transposed: bool
    size: int  # of the projection

    @property
    def h_new(self) -> str:
        return self.product.outputs[0]

    def key(self) -> tuple[str, bool]:
        return self.weight, self.transposed


def fuse_projected(
    nodes: Sequence[Node], builder: Builder, keep: set[str]
) -> tuple[list[Node], list[str]]:
    """Return nodes with projected LSTM cells as ``Recurrent``, and what was fused in words."""
    forms = Forms(nodes, builder.tensors, builder.infos)
    fuser = _Fuser(forms, builder.tensors, builder.infos, builder.fresh, builder.warnings)
    found = _cells(nodes, forms, keep)
    places = _recurrent_places(found, forms, fuser)
    gone: set[int] = set()
    made: dict[int, list[Node]] = {}
    words: list[str] = []
    for projected in found:
        added = fuser.projected(projected, places.get(projected.h_new), builder)
        if added is None:
            continue
        cell = projected.cell
        first = forms.makers[cell.c_new]
        gone |= {id(first), id(cell.node), id(projected.product)}
        made[id(first)] = added
        words.append(f"{cell.node.name or cell.h_new}: decomposed LSTM cell with a projection")
    if not words:
        return list(nodes), []
    result: list[Node] = []
    for node in nodes:
        result += made.get(id(node), [])
        if id(node) not in gone:
            result.append(node)
    return live_nodes(result, set(keep)), words


def _cells(nodes: Sequence[Node], forms: Forms, keep: set[str]) -> list[_Projected]:
    users: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            users.setdefault(name, []).append(node)
    found = []
    fed: set[str] = set()  # what goes into gates as it is, so not through a projection
    for node in nodes:
        using = users.get(node.outputs[0], []) if node.outputs else []
        cell = match(node, forms) if node.op == "Mul" else None
        if cell is None or cell.kind != "lstm":
            continue
        fed.update(source for gate in cell.gates.values() for source in gate.sources)
        if len(using) != 1 or node.outputs[0] in keep:
            continue
        product = using[0]
        form = forms.affine.get(product.outputs[0])
        if form is None or form.biases or len(form.terms) != 1:
            continue
        term = form.terms[0]
        if term.source != node.outputs[0] or product.op not in ("MatMul", "Gemm"):
            continue
        found.append(_Projected(cell, product, term.weight, term.transposed, form.width))
    return [one for one in found if one.cell.h_new not in fed]


def _recurrent_places(found: list[_Projected], forms: Forms, fuser: _Fuser) -> dict[str, Place]:
    """Return where the weights of h lie, for cells one of which starts from another's states."""
    places: dict[str, Place] = {}
    by_state = {one.cell.c_new: one for one in found}
    for one in found:
        before = by_state.get(fuser.roles.origin(one.cell.c_old))
        if before is None or before.key() != one.key():
            continue
        for term in one.cell.gates["i"].terms:
            if fuser.roles.origin(term.source) == before.h_new:
                places[one.h_new] = places[before.h_new] = (term.weight, term.rows)
    return places


class _Fuser(Fuser):
    """Makes the nodes of projected cells."""

    def projected(
        self, one: _Projected, place: Place | None, builder: Builder
    ) -> list[Node] | None:
        """Return the nodes of a cell, or None where it can't be proved to be one."""
        cell, width = one.cell, one.cell.gates["i"].width
        terms = cell.gates["i"].terms
        names = [term.source for term in terms]
        sizes = {term.source: term.rows[1] - term.rows[0] for term in terms}
        fits = [t.source for t in terms if place is None or (t.weight, t.rows) == place]
        fits = [name for name in fits if sizes[name] == one.size]
        if len(fits) != 1 or len(set(names)) != len(names) or len(names) != 2:
            return None
        h, (x,) = fits[0], [name for name in names if name != fits[0]]
        for form in cell.gates.values():
            if form.width != width or form.sources != {x, h} or len(form.terms) != 2:
                return None
        shapes = [builder.info(name).shape for name in (x, h, cell.c_old)]
        known = [shape for shape in shapes if shape is not None and len(shape) == 2]
        if len(known) != 3 or len({shape[0] for shape in known}) != 1 or known[2][1] != width:
            return None
        weights = self._weights(cell, [x], h, width)
        if weights is None:
            return None
        return self._step(one, x, h, [*weights, ""], width)

    def _step(self, one: _Projected, x: str, h: str, weights: list[str], width: int) -> list[Node]:
        cell, zero, title = one.cell, self._zero(), one.cell.node.name
        key: Any = ("P", one.key())
        if key not in self.packed:
            array = self.tensors[one.weight]
            self.packed[key] = self.fresh(f"{one.weight}_P")
            rows = array if one.transposed else array.T
            self._keep(self.packed[key], np.ascontiguousarray(rows)[None])
        nodes: list[Node] = []
        wide = []
        for name in (x, h, cell.c_old):
            wide.append(self.fresh(f"{name}_step"))
            nodes.append(Node("Unsqueeze", (name, zero), (wide[-1],), {}, title))
        outputs = ("", self.fresh(f"{one.h_new}_step"), self.fresh(f"{cell.c_new}_step"))
        attrs: dict[str, Attr] = attributes(cell, width)
        inputs = (wide[0], *weights, wide[1], wide[2], "", self.packed[key])
        nodes.append(Node("Recurrent", inputs, outputs, attrs, title))
        for made, name in zip(outputs[1:], (one.h_new, cell.c_new), strict=True):
            nodes.append(Node("Squeeze", (made, zero), (name,), {}, title))
        self._learn(nodes)
        return nodes
