# SPDX-License-Identifier: MIT
"""The recurrent layers of Keras as Recurrent nodes, with masks, states and both directions.

A mask skips steps: the state is kept, and the output repeats. So the steps that count are moved
together by a product with zeros and ones, run with their number as lengths, and moved back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gruengine.converters.keras_base import Arrays, Config, Parsed, Refused, Value, Var
from gruengine.converters.keras_cells import KINDS, Cell, node_parts, read_cell, read_cells
from gruengine.spec import Dim

if TYPE_CHECKING:
    from gruengine.converters.keras_graph import Builder


@dataclass(frozen=True)
class Layer:
    """A recurrent layer: cells on top of each other, and what it returns."""

    where: str
    cells: tuple[Cell, ...]
    sequences: bool
    states: bool
    backwards: bool
    stateful: bool
    zero_masked: bool
    masks_with_states: bool

    @property
    def units(self) -> int:
        """Features of the output."""
        return self.cells[-1].units

    def words(self, ways: str = "") -> str:
        """Describe the layer in a line."""
        sizes = " -> ".join(f"{one.kind.upper()} {one.units}" for one in self.cells)
        return f"{self.where}: {sizes}{ways or (' reverse' if self.backwards else '')}"


@dataclass(frozen=True)
class Result:
    """What a layer gave: Y [N, T, K] in the order of time, its last output, its states."""

    y: str
    last: str
    states: tuple[str, ...]


def read_recurrent(c: Config) -> Parsed:
    """Read LSTM, GRU, SimpleRNN, their CuDNN forms, and RNN of cells."""
    layer = _layer(c)
    if layer is None:
        return Parsed(lambda b, inputs, arrays: list(inputs))

    def emit(b: Builder, inputs: Sequence[Value], arrays: Arrays) -> list[Value]:
        run = _Run(b, c.where, inputs, layer)
        (result,) = run.layers([layer], [arrays])
        return run.outputs(run.sequence(result, layer), [result], [layer])

    variables = [var for cell in layer.cells for var in cell.variables()]
    return Parsed(emit, variables, layer.words())


def _layer(c: Config) -> Layer | None:
    kind = c.layer.kind
    if kind in KINDS:
        path = "" if kind.startswith("CuDNN") else "cell"
        cells = [read_cell(c, KINDS[kind], path)]
    else:
        cells = read_cells(c, c.raw("cell"))
    layer = Layer(
        c.where,
        tuple(cells),
        c.flag("return_sequences", False),
        c.flag("return_state", False),
        c.flag("go_backwards", False),
        c.flag("stateful", False),
        c.flag("zero_output_for_mask", False),
        c.era.major < 3,
    )
    c.flag("time_major", False)
    return layer if cells else None


def read_bidirectional(c: Config) -> Parsed:
    """Read a Bidirectional of a recurrent layer."""
    mode = c.choice("merge_mode", ("concat", "sum", "ave", "mul", None), "concat")
    entry = c.inner("layer")
    other = c.inner("backward_layer") if c.config.get("backward_layer") is not None else entry
    found: list[Layer] = []
    for inner, way in ((entry, "forward"), (other, "backward")):
        if inner is None or (inner.kind not in KINDS and inner.kind != "RNN"):
            if inner is not None:
                c.refuse(f"of a {inner.kind:.80}", "a recurrent layer")
            continue
        config = Config(inner, c.era, c.reasons, f"{c.where}/{way}")
        layer = _layer(config)
        config.done()
        if layer is not None:
            found.append(layer)
    if len(found) < 2:
        return Parsed(lambda b, inputs, arrays: list(inputs))
    if c.config.get("backward_layer") is None:
        found[1] = replace(found[1], backwards=not found[0].backwards)
    if found[0].backwards == found[1].backwards or len({_returns(one) for one in found}) > 1:
        c.refuse("whose layers do not fit", "one goes backwards, both return the same")
    if c.era.zeroes:
        found = [replace(one, zero_masked=one.sequences) for one in found]
    parts = ("forward_layer", "backward_layer")

    def emit(b: Builder, inputs: Sequence[Value], arrays: Arrays) -> list[Value]:
        run = _Run(b, c.where, inputs, found[0])
        results = run.layers(found, [arrays.below(part) for part in parts])
        values = [run.sequence(r, one) for r, one in zip(results, found, strict=True)]
        if found[0].sequences:
            # Keras turns the output of the second one; of ours, that puts it in order of time.
            values[1] = run.flip(values[1]) if not found[1].backwards else results[1].y
        return run.outputs(run.merge(values, mode), results, found, mode)

    variables = [
        Var(f"{part}/{var.path}" if var.path else part, var.name)
        for part, layer in zip(parts, found, strict=True)
        for cell in layer.cells
        for var in cell.variables()
    ]
    return Parsed(emit, variables, found[0].words(", bidirectional"))


def _returns(layer: Layer) -> tuple[bool, bool, bool]:
    return layer.sequences, layer.states, layer.stateful


class _Run:
    """One use of a recurrent layer."""

    def __init__(self, b: Builder, where: str, inputs: Sequence[Value], layer: Layer) -> None:
        self.b, self.where = b, where
        self.x, self.initial = inputs[0], list(inputs[1:])
        if len(self.x.dims) != 3:
            raise Refused(f"an input of shape {list(self.x.dims)}", "[batch, time, features]")
        self.size = self.x.features()
        self.batch, self.steps = self.x.dims[0], self.x.dims[1]
        self.time_major = b.time_major
        if self.time_major:
            self.batch, self.steps = self.steps, self.batch
        self.layer = layer
        self.masked = self.x.mask is not None
        self.lengths, self._counts = "", ""
        if self.masked:
            if self.time_major:
                raise Refused("a mask with time_major=True", "one of them alone")
            if self.initial and not layer.masks_with_states:
                why = "Keras 3 does not use the mask then; the hint unpadded=True leaves masks out"
                raise Refused("a mask with an initial state", why)
            self._number_steps(b.known_mask(self.x))

    def _node(self, op: str, *inputs: str, **attrs: int | str | list[int]) -> str:
        return self.b.node(self.where, op, inputs, {**attrs})

    # -- masks ------------------------------------------------------------------------------------

    def _number_steps(self, mask: str) -> None:
        """Compute lengths, and for each step how many count up to it: [N, T, 1]."""
        b = self.b
        last, first = b.ints(self.where, "last", [-1]), b.ints(self.where, "first", [0])
        floats = self._node("Cast", mask, to=1)
        column = self._node("Unsqueeze", floats, last)
        # steps[t] >= steps[s]: a triangle of ones, whose product with the mask is a running sum.
        shape = self._node("Shape", mask)
        at = b.tensor(self.where, "time_axis", np.array(1, np.int64))
        size = self._node("Gather", shape, at, axis=0)
        zero, one = (b.tensor(self.where, str(i), np.array(i, np.int64)) for i in (0, 1))
        steps = self._node("Range", zero, size, one)
        rows = self._node("Unsqueeze", steps, last)
        columns = self._node("Unsqueeze", steps, first)
        lower = self._node("Cast", self._node("GreaterOrEqual", rows, columns), to=1)
        self._counts = self._node("MatMul", lower, column)
        self._places = self._node("Cast", columns, to=1)
        self._column = column
        total = self._node("ReduceSum", floats, b.ints(self.where, "axis", [1]), keepdims=0)
        self.lengths = self._node("Cast", total, to=7)

    def _chosen(self, index: str) -> str:
        """Return [N, T, T] with ones where the column is ``index`` [N, T, 1]."""
        return self._node("Cast", self._node("Equal", index, self._places), to=1)

    def _packed(self, x: str) -> str:
        """Move the steps that count to the front."""
        one = self.b.scalar(self.where, "one", 1.0)
        chosen = self._chosen(self._node("Sub", self._counts, one))
        kept = self._node("Mul", chosen, self._column)
        return self._node("MatMul", self._node("Transpose", kept, perm=[0, 2, 1]), x)

    def _spread(self, y: str, layer: Layer) -> str:
        """Move the outputs back; a skipped step has the one before it, in the layer's direction."""
        index = self._node("Sub", self._counts, self.b.scalar(self.where, "one", 1.0))
        if layer.backwards:
            index = self._node("Sub", self._counts, self._column)
        chosen = self._chosen(index)
        if layer.zero_masked:
            chosen = self._node("Mul", chosen, self._column)
        return self._node("MatMul", chosen, y)

    # -- cells ------------------------------------------------------------------------------------

    def layers(self, layers: Sequence[Layer], arrays: Sequence[Arrays]) -> list[Result]:
        """Run one layer, or the two of a Bidirectional, on the input."""
        packed = self._packed(self.x.name) if self.masked else self.x.name
        start = packed if self.time_major else self.b.swapped(self.where, packed, time=True)
        states = [self._states(layer, index) for index, layer in enumerate(layers)]
        if self.initial:
            raise Refused(f"{len(self.initial)} more states", "one for each state of each cell")
        if len(layers) == 2 and _same_form(layers[0], layers[1]):
            return self._both(layers, arrays, start, states)
        return [
            self._stack(*one, start, given)
            for one, given in zip(zip(layers, arrays, strict=True), states, strict=True)
        ]

    def _states(self, layer: Layer, index: int) -> list[str]:
        """Return the initial states [1, N, H], from the call or, of a stateful layer, carried."""
        count = sum(cell.states for cell in layer.cells)
        sizes = [cell.units for cell in layer.cells for _ in range(cell.states)]
        if self.initial:
            given, self.initial = self.initial[:count], self.initial[count:]
            for value, size in zip(given, sizes, strict=False):
                if value.dims[1:] != (size,):
                    raise Refused(f"a state of shape {list(value.dims)}", f"[batch, {size}]")
            if len(given) < count:
                raise Refused(f"{len(given)} initial states", f"{count}")
            names = [value.name for value in given]
        elif layer.stateful:
            suffix = ("", "_backward")[index]
            names = [
                self.b.state_input(f"{self.where}{suffix}_{what}", (self.batch, size))
                for what, size in zip(_state_names(layer), sizes, strict=True)
            ]
        else:
            return []
        axis = self.b.ints(self.where, "state_axis", [0])
        return [self._node("Unsqueeze", name, axis) for name in names]

    def _stack(self, layer: Layer, arrays: Arrays, x: str, given: list[str]) -> Result:
        """Run cells on top of each other; y is [N, T, K]."""
        states: list[tuple[str, str]] = []
        size, y = self.size, x
        way = "reverse" if layer.backwards else "forward"
        for cell in layer.cells:
            mine, given = given[: cell.states], given[cell.states :]
            parts = node_parts([cell], [arrays], size, way)
            wanted = ("Y", "Y_h", "Y_c")[: 1 + cell.states]
            where = f"{self.where}/{cell.path}" if len(layer.cells) > 1 else self.where
            found = self.b.recurrent(where, y, parts, wanted, mine, self.lengths)
            y = self._node("Squeeze", found[0], self.b.ints(self.where, "direction_axis", [1]))
            states += self._with(found[1:], mine)
            size = cell.units
        return self._result(y, states, layer)

    def _both(
        self, layers: Sequence[Layer], arrays: Sequence[Arrays], x: str, states: list[list[str]]
    ) -> list[Result]:
        """Run both directions in one node."""
        order = (1, 0) if layers[0].backwards else (0, 1)
        cells = [layers[i].cells[0] for i in order]
        parts = node_parts(cells, [arrays[i] for i in order], self.size, "bidirectional")
        count = cells[0].states
        given = [
            self._node("Concat", *(states[i][k] for i in order), axis=0)
            for k in range(count if states[0] else 0)
        ]
        wanted = ("Y", "Y_h", "Y_c")[: 1 + count]
        found = self.b.recurrent(self.where, x, parts, wanted, given, self.lengths)
        axis = self.b.ints(self.where, "direction_axis", [1])
        ways = [self._node("Squeeze", one, axis) for one in self._halves(found[0], 1)]
        ends = [self._halves(one, 0) for one in found[1:]]
        results = []
        for index, layer in enumerate(layers):
            way = order[index]
            mine = [end[way] for end in ends]
            results.append(self._result(ways[way], self._with(mine, states[index]), layer))
        return results

    def _halves(self, value: str, axis: int) -> tuple[str, str]:
        return self.b.halves(self.where, value, axis)

    def _result(self, y: str, ends: list[tuple[str, str]], layer: Layer) -> Result:
        if not self.time_major:
            y = self.b.swapped(self.where, y, time=True)
        states = [self._state(one, start) for one, start in ends]
        top, start = ends[-layer.cells[-1].states]
        # Where no step counts, the output is zero and not the state, which is the initial one.
        last = self._state(top, "") if start else states[-layer.cells[-1].states]
        if self.masked:
            y = self._spread(y, layer)
        if self.masked and not layer.sequences and layer.zero_masked:
            at = -1 if not layer.backwards else 0
            index = self.b.tensor(self.where, "end", np.array(at, np.int64))
            last = self._node("Gather", y, index, axis=1)
        return Result(y, last, tuple(states))

    @staticmethod
    def _with(found: Sequence[str], given: Sequence[str]) -> list[tuple[str, str]]:
        return [(one, given[k] if given else "") for k, one in enumerate(found)]

    def _state(self, value: str, start: str) -> str:
        """Return a final state [N, H]; where no step counts it is the initial one."""
        if start and self.masked:
            axis = self.b.ints(self.where, "state_axis", [1])
            zero = self.b.tensor(self.where, "0", np.array(0, np.int64))
            some = self._node("Greater", self.lengths, zero)
            value = self._node("Where", self._node("Unsqueeze", some, axis), value, start)
        return self._node("Squeeze", value, self.b.ints(self.where, "axis", [0]))

    # -- outputs ----------------------------------------------------------------------------------

    def sequence(self, result: Result, layer: Layer) -> str:
        """Return the output as Keras orders it: a backward layer gives its first step first."""
        if not layer.sequences:
            return result.last
        return self.flip(result.y) if layer.backwards else result.y

    def flip(self, value: str) -> str:
        """Turn a sequence round."""
        axis = 0 if self.time_major else 1
        numbers = {"starts": -1, "ends": -(1 << 62), "axes": axis, "steps": -1}
        names = [self.b.ints(self.where, key, [number]) for key, number in numbers.items()]
        return self._node("Slice", value, *names)

    def merge(self, values: list[str], mode: str | None) -> str | list[str]:
        """Join the outputs of two directions."""
        if mode is None:
            return values
        if mode == "concat":
            return self._node("Concat", *values, axis=2 if self.layer.sequences else 1)
        if mode == "mul":
            return self._node("Mul", *values)
        total = self._node("Add", *values)
        if mode == "sum":
            return total
        return self._node("Mul", total, self.b.scalar(self.where, "half", 0.5))

    def outputs(
        self,
        merged: str | list[str],
        results: Sequence[Result],
        layers: Sequence[Layer],
        mode: str | None = "",
    ) -> list[Value]:
        """Return the outputs and, where asked for, the states."""
        layer = layers[0]
        units = sum(one.units for one in layers) if mode == "concat" else layer.units
        dims: tuple[Dim, ...] = (self.batch, units)
        if layer.sequences:
            time = (self.steps, self.batch) if self.time_major else (self.batch, self.steps)
            dims = (*time, units)
        mask = self.x.mask if layer.sequences else None
        names = merged if isinstance(merged, list) else [merged]
        values = [Value(name, dims, mask) for name in names]
        for index, (one, result) in enumerate(zip(layers, results, strict=True)):
            sizes = [cell.units for cell in one.cells for _ in range(cell.states)]
            pairs = list(zip(_state_names(one), result.states, sizes, strict=True))
            if one.states:
                values += [Value(state, (self.batch, size)) for _, state, size in pairs]
            if one.stateful:
                for what, state, size in pairs:
                    name = f"{self.where}{('', '_backward')[index]}_{what}"
                    self.b.state_output(name, Value(state, (self.batch, size)))
        return values


def _state_names(layer: Layer) -> list[str]:
    many = len(layer.cells) > 1
    return [
        f"{what}{index}" if many else what
        for index, cell in enumerate(layer.cells)
        for what in ("h", "c")[: cell.states]
    ]


def _same_form(one: Layer, other: Layer) -> bool:
    """Tell whether two layers may be the directions of one node."""
    return len(one.cells) == len(other.cells) == 1 and all(
        getattr(one.cells[0], key) == getattr(other.cells[0], key)
        for key in ("kind", "units", "after")
    )


READERS: dict[str, Callable[[Config], Parsed]] = {
    **dict.fromkeys(KINDS, read_recurrent),
    "RNN": read_recurrent,
    "Bidirectional": read_bidirectional,
}
