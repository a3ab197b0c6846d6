# SPDX-License-Identifier: MIT
"""Decomposed recurrent cells become one ``Recurrent`` node with T = 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gruengine.converters.affine import Bias, Forms
from gruengine.converters.cell_match import Cell, attributes, match
from gruengine.converters.cell_roles import MOVES, Roles
from gruengine.converters.gates import TABLE
from gruengine.converters.onnx_fold import live_nodes
from gruengine.converters.shapes import UNKNOWN, Info, infer, of_array
from gruengine.spec import Attr, Node

Array = np.ndarray[Any, Any]


def fuse(
    nodes: Sequence[Node],
    tensors: dict[str, Array],
    infos: dict[str, Info],
    fresh: Callable[[str], str],
    keep: set[str],
    warnings: list[str],
) -> tuple[list[Node], list[str]]:
    """Replace the steps of cells that are written in elementary operators.

    Parameters
    ----------
    nodes : sequence of Node
        Of the outermost graph.
    tensors : dict of str to ndarray
        The constants; packed weights are added.
    infos : dict of str to Info
        What is known of the values; the graph inputs stand in their order. Grows.
    fresh : callable
        Makes a new name from a wish.
    keep : set of str
        The graph outputs.
    warnings : list of str
        Gets what a user should know.

    Returns
    -------
    list of Node, list of str
        Nodes that compute the same, and what was fused in words.
    """
    current, words = list(nodes), list[str]()
    # A gate alone looks like a simple RNN, so these come last, when the gates are gone.
    for kinds in (("lstm", "gru"), ("rnn",)):
        found: list[str]
        current, found = _pass(current, tensors, infos, fresh, keep, kinds, warnings)
        words += found
    return current, words


def _pass(
    nodes: list[Node],
    tensors: dict[str, Array],
    infos: dict[str, Info],
    fresh: Callable[[str], str],
    keep: set[str],
    kinds: tuple[str, ...],
    warnings: list[str],
) -> tuple[list[Node], list[str]]:
    forms = Forms(nodes, tensors, infos)
    fuser = Fuser(forms, tensors, infos, fresh, warnings)
    if "rnn" in kinds:
        fuser.roles.find_simple(nodes, _moved_out(nodes, keep))
    replaced: dict[int, list[Node]] = {}
    gone: set[int] = set()
    words: list[str] = []
    for node in nodes:
        cell = match(node, forms)
        if cell is None or cell.kind not in kinds:
            continue
        # The new c is ready first, and all that the cell needs is there by then.
        first = forms.makers[cell.c_new] if cell.c_new else node
        made = None if id(first) in gone else fuser.build(cell)
        if made is None:
            continue
        gone |= {id(first), id(node)}
        replaced[id(first)] = made
        words.append(f"{node.name or cell.h_new}: decomposed {cell.kind.upper()} cell")
    if not words:
        return nodes, []
    result: list[Node] = []
    for node in nodes:
        result += replaced.get(id(node), [])
        if id(node) not in gone:
            result.append(node)
    return live_nodes(result, set(keep)), words


def _moved_out(nodes: Sequence[Node], outputs: set[str]) -> set[str]:
    """Return the values that come to a graph output by moves alone."""
    reached = set(outputs)
    for node in reversed(nodes):
        if (node.op in MOVES or node.op == "Concat") and reached.intersection(node.outputs):
            reached.update(node.inputs)
    return reached


class Fuser:
    """Packs the weights of cells and makes their nodes."""

    def __init__(
        self,
        forms: Forms,
        tensors: dict[str, Array],
        infos: dict[str, Info],
        fresh: Callable[[str], str],
        warnings: list[str],
    ) -> None:
        self.forms, self.tensors, self.infos, self.fresh = forms, tensors, infos, fresh
        self.roles = Roles(forms, tensors, infos, warnings)
        self.packed: dict[Any, str] = {}
        # Many small cells on one big constant must not make much of it.
        self.bytes_left = (8 << 20) + 4 * sum(a.nbytes for a in tensors.values())

    def build(self, cell: Cell) -> list[Node] | None:
        """Return the nodes of a cell, or None where it can't be proved to be one."""
        width = next(iter(cell.gates.values())).width
        if any(form.width != width for form in cell.gates.values()):
            return None
        split = self._sources(cell, width)
        if split is None:
            return None
        xs, h = split
        if not self._same_rows([*xs, h, *([cell.c_old] if cell.c_old else [])], width, cell):
            return None
        weights = self._weights(cell, xs, h, width)
        if weights is None:
            return None
        terms = next(iter(cell.gates.values())).terms
        own = [term.weight for term in terms if term.source == h]
        self.roles.states[cell.h_new] = cell.c_new or own[0]
        return self._nodes(cell, xs, h, weights, width)

    # -- what is x and what is h ------------------------------------------------------------------

    def _sources(self, cell: Cell, width: int) -> tuple[list[str], str] | None:
        first = next(iter(cell.gates.values()))
        names = list(dict.fromkeys(term.source for term in first.terms))
        h = cell.state if cell.state is not None else self.roles.old_h(cell, first, names, width)
        if h is None or h not in names or len(names) < 2:
            return None
        xs = [name for name in names if name != h]
        for gate, form in cell.gates.items():
            expected = set(names)
            if cell.kind == "gru" and gate == "h":
                expected = {*xs, cell.reset_source} if cell.reset_source else set(xs)
            if form.sources != expected or len(form.terms) != len(expected):
                return None
        return xs, h

    def _same_rows(self, names: list[str], width: int, cell: Cell) -> bool:
        """Whether all have one row a sequence: a broadcast state is left alone."""
        shapes = [self.infos.get(name, UNKNOWN).shape or () for name in names]
        known = [shape[1:] if len(shape) == 3 and shape[0] == 1 else shape for shape in shapes]
        if any(len(shape) != 2 for shape in known):
            return False
        if len(names) > (3 if cell.c_old else 2) and any(len(shape) == 3 for shape in shapes):
            return False
        state = known[-1][1] if cell.c_old else width
        fixed = {shape[0] for shape in known if isinstance(shape[0], int)}
        named = {shape[0] for shape in known if not isinstance(shape[0], int)}
        return state == width and len(fixed) < 2 and not (1 in fixed and named)

    # -- weights ----------------------------------------------------------------------------------

    def _weights(
        self, cell: Cell, xs: list[str], h: str, width: int
    ) -> tuple[str, str, str] | None:
        """Return the names of W, R and B; None where they would take too much memory."""
        order = TABLE["onnx"][cell.kind].order
        wide, high, low = [], [], []
        for gate in order:
            form = cell.gates[gate]
            is_candidate = cell.kind == "gru" and gate == "h"
            source = cell.reset_source if is_candidate and cell.reset_source else h
            after = cell.recurrent if is_candidate else None
            wide.append([t for x in xs for t in form.terms if t.source == x])
            high.append([t for t in (after or form).terms if t.source == source])
            inside = [Bias(b, (0, width), "") for b in cell.biases] if is_candidate else []
            if after is not None:
                low.append(([*form.biases, *inside], list(after.biases)))
            else:
                low.append(
                    (
                        [b for b in form.biases if b.owner != source],
                        [b for b in form.biases if b.owner == source],
                    )
                )
        names = [self._pack("W", wide), self._pack("R", high)]
        names.append(self._pack_bias(low, width))
        return None if None in names else (str(names[0]), str(names[1]), str(names[2]))

    def _reserve(self, elements: int) -> bool:
        self.bytes_left -= 8 * elements
        return self.bytes_left >= 0

    def _pack(self, wish: str, gates: list[Any]) -> str | None:
        key = (wish, tuple(tuple(replace(t, source="") for t in terms) for terms in gates))
        if key not in self.packed:
            sizes = [
                (t.rows[1] - t.rows[0]) * (t.columns[1] - t.columns[0]) for g in gates for t in g
            ]
            if not self._reserve(sum(sizes)):
                return None
            blocks = [np.concatenate([self._block(t) for t in terms], axis=1) for terms in gates]
            name = self.fresh(f"{gates[0][0].weight}_{wish}")
            self._keep(name, np.concatenate(blocks)[None])
            self.packed[key] = name
        return self.packed[key]

    def _block(self, term: Any) -> Array:
        array, rows, columns = self.tensors[term.weight], slice(*term.rows), slice(*term.columns)
        return array[columns, rows] if term.transposed else array[rows, columns].T

    def _pack_bias(self, gates: list[Any], width: int) -> str | None:
        if not any(side for pair in gates for side in pair):
            return ""
        sides = [tuple(replace(b, owner="") for b in side) for pair in gates for side in pair]
        key = ("B", tuple(sides))
        if key not in self.packed:
            if not self._reserve(2 * width * len(gates)):
                return None
            halves = [self._add_up(pair[side], width) for side in (0, 1) for pair in gates]
            name = self.fresh("B")
            self._keep(name, np.concatenate(halves)[None])
            self.packed[key] = name
        return self.packed[key]

    def _keep(self, name: str, array: Array) -> None:
        self.tensors[name], self.infos[name] = array, of_array(array)

    def _add_up(self, biases: list[Bias], width: int) -> Array:
        total = np.zeros(width, np.float64)
        for bias in biases:
            row = self.tensors[bias.tensor].reshape(-1)
            total += row[slice(*bias.columns)] if row.size > 1 else row
        return total.astype(np.float32)

    # -- nodes ------------------------------------------------------------------------------------

    def _nodes(
        self, cell: Cell, xs: list[str], h: str, weights: tuple[str, str, str], width: int
    ) -> list[Node]:
        nodes: list[Node] = []
        title, zero = cell.node.name, self._zero()

        def add(op: str, inputs: list[str], attrs: dict[str, Attr], output: str) -> str:
            nodes.append(Node(op, tuple(inputs), (output,), attrs, title))
            return output

        def is_wide(name: str) -> bool:
            return self.infos.get(name, UNKNOWN).rank == 3

        def widen(name: str) -> str:
            if is_wide(name):
                return name
            return add("Unsqueeze", [name, zero], {}, self.fresh(f"{name}_step"))

        x = xs[0]
        if len(xs) > 1:
            x = add("Concat", xs, {"axis": 1}, self.fresh(f"{cell.h_new}_x"))
        inputs = [widen(x), *weights, "", widen(h)]
        if cell.c_old:
            inputs.append(widen(cell.c_old))
        outputs = [""]
        for name in (cell.h_new, cell.c_new) if cell.c_new else (cell.h_new,):
            outputs.append(name if is_wide(name) else self.fresh(f"{name}_step"))
        attrs = attributes(cell, width)
        nodes.append(Node("Recurrent", tuple(inputs), tuple(outputs), attrs, title))
        for made, name in zip(outputs[1:], (cell.h_new, cell.c_new), strict=False):
            if made != name:
                add("Squeeze", [made, zero], {}, name)
        self._learn(nodes)
        return nodes

    def _learn(self, nodes: list[Node]) -> None:
        """Note what is known of the values of new nodes."""
        for node in nodes:
            given = [self.infos.get(name, UNKNOWN) for name in node.inputs]
            for name, info in zip(node.outputs, infer(node, given), strict=True):
                if name and name not in self.infos:
                    self.infos[name] = info

    def _zero(self) -> str:
        if "zero" not in self.packed:
            self.packed["zero"] = self.fresh("axis_0")
            self._keep(self.packed["zero"], np.zeros(1, np.int64))
        return self.packed["zero"]
