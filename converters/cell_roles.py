# SPDX-License-Identifier: MIT
"""Which value is the old h of a recognised cell, where its equations don't tell it from x.

Any choice computes the same numbers; the state pairs of a stream depend on it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gruengine.converters.affine import Affine, Forms
from gruengine.converters.cell_match import Cell, belongs, match
from gruengine.converters.shapes import UNKNOWN, Info
from gruengine.spec import Node

Array = np.ndarray[Any, Any]

MOVES = frozenset(
    ["Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Gather"]
)
# What exporters call recurrent weights, where only a name tells h from x.
_RECURRENT_NAME = re.compile(r"(^|[^a-z])(hh|recurrent)([^a-z]|$)", re.IGNORECASE)


class Roles:
    """What is known of the values of a graph that may be states.

    Attributes
    ----------
    states : dict of str to str
        New h of a cell that was made -> its new c (LSTM), or its recurrent weights as they were.
    """

    def __init__(
        self,
        forms: Forms,
        tensors: Mapping[str, Array],
        infos: Mapping[str, Info],
        warnings: list[str],
    ) -> None:
        self.forms, self.tensors, self.infos, self.warnings = forms, tensors, infos, warnings
        self.simple: set[str] = set()  # new h of what may be a simple RNN
        self.recurrent: dict[str, Any] = {}  # their new h -> where the weights of h lie
        self.taken: set[str] = set()  # inputs that more than one cell uses
        self.places = {name: place for place, name in enumerate(infos)}
        self.states: dict[str, str] = {}

    def old_h(self, cell: Cell, form: Affine, names: list[str], width: int) -> str | None:
        """Choose h where the equations don't tell it from x: any choice computes the same."""
        sizes = {term.source: term.rows[1] - term.rows[0] for term in form.terms}
        fits = [name for name in names if sizes[name] == width]
        if cell.c_old:
            same = [n for n in fits if self.states.get(self.origin(n)) == self.origin(cell.c_old)]
            same = same or [n for n in fits if belongs(n, cell.c_old, self.forms)]
            same = same or [n for n in fits if self.origin(n) == self.origin(cell.c_old)]
            fits = same or fits
        known = self.recurrent.get(cell.h_new)
        told = [t.source for t in form.terms if (t.weight, t.rows) == known and t.source in fits]
        if cell.kind == "rnn" and len(told) == 1:
            return told[0]
        if cell.kind == "rnn":
            own = [n for n in fits if self._is_own_state(n, form)]
            if not own and (cell.h_new not in self.simple or len(names) != 2):
                return None
            inputs = [(n, self.origin(n)) for n in fits]
            fits = own or [n for n, o in inputs if self._is_input(o) and o not in self.taken]
        given = [n for n in fits if self._is_input(self.origin(n))]
        if len(given) == 1 < len(fits):
            return self._given(cell, form, fits, given[0])
        fits = given or fits
        return fits[0] if len(fits) == 1 else self._best(cell, form, fits)

    def _given(self, cell: Cell, form: Affine, fits: list[str], chosen: str) -> str:
        """Take the graph input for h, and say so if a computed value may hide the state instead.

        That is one made of this input and of another one of its shape, as in a multiplicative LSTM.
        """
        origin = self.origin(chosen)
        shape = self.infos.get(origin, UNKNOWN).shape
        named = self._named(form, fits)
        for other in fits:
            inputs = set() if other == chosen else self._inputs_of(other)
            alike = [n for n in inputs if self.infos.get(n, UNKNOWN).shape == shape]
            if origin in inputs and len(alike) > 1 and named != [chosen]:
                self._say_alike(cell, chosen)
                break
        return chosen

    def _inputs_of(self, name: str) -> set[str]:
        """Return the graph inputs from which a value is made, as far as a short walk goes."""
        found, todo, seen = set[str](), [name], set[str]()
        while todo and len(seen) < 256:
            value = todo.pop()
            if value in seen or value in self.tensors or not value:
                continue
            seen.add(value)
            maker = self.forms.makers.get(value)
            if maker is None:
                found.add(value)
            else:
                todo += maker.inputs
        return found

    def _named(self, form: Affine, fits: list[str]) -> list[str]:
        """Return the values of which the weights are called recurrent."""
        return [t.source for t in form.terms
                if t.source in fits and _RECURRENT_NAME.search(t.weight)]  # fmt: skip

    def _say_alike(self, cell: Cell, chosen: str) -> None:
        self.warnings.append(
            f"{cell.node.name or cell.h_new}: x and h look alike; {self.origin(chosen)!r} is "
            "taken for h: name the pairs with state= if that is wrong"
        )

    def _best(self, cell: Cell, form: Affine, fits: list[str]) -> str | None:
        """Choose among values of the width of h: by the name of the weights, else the last input.

        The numbers are the same; only the state pairs of a stream depend on it.
        """
        named = self._named(form, fits)
        if len(named) == 1 or not fits:
            return named[0] if fits else None
        chosen = max(fits, key=lambda name: self.places.get(self.origin(name), -1))
        self._say_alike(cell, chosen)
        return chosen

    def find_simple(self, nodes: Sequence[Node], moved_out: set[str]) -> None:
        """Find what is more than a dense layer of two inputs, which looks like a simple RNN.

        Its new h leaves the graph, or is the old h of the next step with the same weights; and no
        other cell continues from the same state.
        """
        taken = [self.origin(n.inputs[5]) for n in nodes if n.op == "Recurrent" and n.inputs[5:]]
        cells = {}
        for node in nodes:
            cell = match(node, self.forms)
            if cell is not None and cell.kind == "rnn":
                cells[cell.h_new] = cell.gates["h"]
        carried = set(moved_out)
        for h_new, form in reversed(cells.items()):
            for term in form.terms:
                origin, place = self.origin(term.source), (term.weight, term.rows)
                before = cells.get(origin)
                if before is not None and any((t.weight, t.rows) == place for t in before.terms):
                    carried |= {h_new, origin}
                    self.recurrent[h_new] = self.recurrent[origin] = place
        self.simple = carried & set(cells)
        for h_new in self.simple:
            taken += [self.origin(term.source) for term in cells[h_new].terms]
        self.taken = {name for name, times in Counter(taken).items() if times > 1}

    def _is_own_state(self, name: str, form: Affine) -> bool:
        key = self.states.get(self.origin(name))
        return key is not None and any(t.source == name and t.weight == key for t in form.terms)

    def origin(self, name: str) -> str:
        """Follow a value back through operators that only move elements."""
        for _ in range(64):
            maker = self.forms.makers.get(name)
            if maker is None or maker.op not in MOVES or name in self.states:
                break
            name = maker.inputs[0]
        return name

    def _is_input(self, name: str) -> bool:
        return name not in self.forms.makers and name not in self.tensors
