# SPDX-License-Identifier: MIT
"""The body of a Loop or Scan lowered once, for all turns; how often it runs is proved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gruengine.converters.base import Reason
from gruengine.converters.onnx_fold import REFUSED, live_nodes
from gruengine.converters.onnx_fuse import fuse
from gruengine.converters.onnx_model import OnnxGraph, OnnxNode
from gruengine.converters.onnx_over_time import GivenUp, Kind, OverTime
from gruengine.converters.onnx_projection import fuse_projected
from gruengine.converters.onnx_rewrite import rewrite
from gruengine.converters.shapes import Info, Size
from gruengine.errors import ModelFileError
from gruengine.spec import Node

if TYPE_CHECKING:
    from gruengine.converters.onnx_walk import Scope, Walker


@dataclass
class Repeat:
    """A loop: ``states`` and ``frames`` are values outside, in the order of the body's inputs."""

    node: OnnxNode
    body: OnnxGraph
    count: Size
    states: list[str]
    frames: list[str]  # of a Scan, time first
    counted: bool  # a Loop: its body has the number of the turn and a condition
    start: str = ""  # the condition before the first turn

    @property
    def state_names(self) -> list[str]:
        """The inputs of the body that are states."""
        names = [value.name for value in self.body.inputs[2 if self.counted else 0 :]]
        return names[: len(self.states)]

    @property
    def frame_names(self) -> list[str]:
        """The inputs of the body that are frames."""
        names = [value.name for value in self.body.inputs]
        return names[len(names) - len(self.frames) :] if self.frames else []

    @property
    def outputs(self) -> list[str]:
        """The outputs of the body but the condition: states, then frames."""
        return [value.name for value in self.body.outputs[1 if self.counted else 0 :]]


def number(walker: Walker, name: str) -> Size:
    """Return a scalar as a number or as the name of a size; None where it is not known."""
    array = walker.builder.array(name)
    if array is not None:
        exact = array.size == 1 and float(array.reshape(-1)[0]).is_integer()
        return int(array.reshape(-1)[0]) if exact else None
    value = walker.builder.info(name).value
    return value[0] if value is not None and len(value) == 1 else None


def refused(walker: Walker, node: OnnxNode, inputs: Sequence[str], why: str) -> list[str]:
    """Put a placeholder where a loop cannot be run."""
    reason = Reason(node.name or node.outputs[0], node.op, why)
    return walker.builder.refuse([reason], node.outputs, inputs)


class Body:
    """The body lowered once, with names for what changes from turn to turn."""

    def __init__(self, walker: Walker, repeat: Repeat, scope: Scope) -> None:
        from gruengine.converters.onnx_walk import Scope

        self.walker, self.repeat, self.builder = walker, repeat, walker.builder
        self.outer = list(self.builder.nodes)
        self.inner = Scope(scope)
        self.kinds: dict[str, Kind] = {}
        walker.enter(repeat.body, self.inner)
        if repeat.counted:
            turn = self._stand_in(repeat.body.inputs[0].name, Info("int64", ()))
            self.kinds[turn] = Kind("turn")
            going = self.builder.constant(np.array(True), "going")
            self.inner.values[repeat.body.inputs[1].name] = going
        self._states()
        for name, source in zip(repeat.frame_names, repeat.frames, strict=True):
            info = self.builder.info(source)
            shape = None if info.shape is None else info.shape[1:]
            self.kinds[self._stand_in(name, Info(info.dtype, shape))] = Kind("frame", source)
        with self.builder.branch() as nodes:
            walker.nodes(repeat.body, self.inner)
            names = [value.name for value in repeat.body.outputs]
            self.results = [walker.value(self.inner, n, "the body of a loop") for n in names]
        self.nodes = list(nodes)

    def _stand_in(self, name: str, info: Info) -> str:
        value = self.builder.fresh(f"{name}_turn")
        self.builder.infos[value] = info
        self.inner.values[name] = value
        return value

    def _states(self) -> None:
        """Name the states; those that never change are what they are outside."""
        repeat = self.repeat
        renamed = {n.outputs[0]: n.inputs[0] for n in repeat.body.nodes if n.op == "Identity"}
        steps = {n.outputs[0]: n for n in repeat.body.nodes if n.op == "Add" and len(n.inputs) == 2}
        makers = {t.name: t for t in repeat.body.initializers}
        self.turns: list[int] = []
        for place, (name, first) in enumerate(zip(repeat.state_names, repeat.states, strict=True)):
            result = repeat.outputs[place]
            while result in renamed and result != name:
                result = renamed[result]
            info = self.builder.info(first)
            if result == name:
                self.inner.values[name] = first
                continue
            step = steps.get(result)
            if step is not None and name in step.inputs and info.dtype in ("int64", "int32"):
                other = step.inputs[1 - step.inputs.index(name)]
                known = number(self.walker, self._outside(other, makers))
                if known == 1 and number(self.walker, first) == 0:
                    self.kinds[self._stand_in(name, Info(info.dtype, info.shape))] = Kind("turn")
                    self.turns.append(place)
                    continue
            value = self._stand_in(name, Info(info.dtype, info.shape))
            self.kinds[value] = Kind("state", first, state=place)

    def _outside(self, name: str, makers: object) -> str:
        try:
            return self.walker.value(self.inner, name, "a loop")
        except ModelFileError:
            return ""

    def over_time(self) -> list[str]:
        """Add the operators over all turns; return the values of the outputs of the loop."""
        repeat, builder = self.repeat, self.builder
        results = self.results[1:] if repeat.counted else self.results
        if repeat.counted:
            self._prove(self.results[0])
        nodes = live_nodes(self.nodes, set(results))
        if any(node.op == REFUSED for node in nodes):
            reasons = "; ".join(str(reason) for _, reason in builder.reasons(nodes)[:3])
            raise GivenUp(reasons)
        keep = set(results)
        nodes, projected = fuse_projected(rewrite(nodes, builder, keep), builder, keep)
        nodes, words = fuse(nodes, builder.tensors, builder.infos, builder.fresh, keep, [])
        words = [*projected, *words]
        over = OverTime(builder, repeat.count, self.kinds)
        over.run(nodes)
        self.walker.fused += [f"{repeat.node.name or repeat.node.op}: {word}" for word in words]
        made = [
            self._state(place, over.kind(results[place])) for place in range(len(repeat.states))
        ]
        for name in results[len(made) :]:
            kind = over.kind(name)
            if kind.form != "frame":
                raise GivenUp(f"its output {name!r} is no sequence")
            made.append(kind.name)
        return made[: len(repeat.node.outputs)]

    def _state(self, place: int, kind: Kind) -> str:
        """Return the value of a state after the last turn."""
        repeat = self.repeat
        name = repeat.state_names[place]
        if place in self.turns:
            if isinstance(repeat.count, int):
                dtype = self.builder.info(repeat.states[place]).dtype
                return self.builder.constant(np.array(repeat.count, dtype), name)
            return refused(self.walker, repeat.node, [], "the number of its turns as a value")[0]
        if self.inner.values[name] == repeat.states[place]:
            return repeat.states[place]
        if kind.last and kind.state == place:
            return kind.last
        used = any(self.inner.values[name] in node.inputs for node in self.nodes)
        if kind.form == "frame" and not used:
            last = self.builder.constant(np.array(-1), "last")
            return self.builder.emit("Gather", [kind.name, last], {"axis": 0}, (name,))[0]
        raise GivenUp(f"its state {name!r} is carried by no known cell")

    # -- how often it runs ------------------------------------------------------------------------

    def _prove(self, going: str) -> None:
        """Find how often the loop runs; raises GivenUp if its condition may end it before."""
        makers = {n: node for node in [*self.outer, *self.nodes] for n in node.outputs if n}
        if self.repeat.count is None or (
            isinstance(self.repeat.count, int) and self.repeat.count >= 1 << 31
        ):
            self.repeat.count = self._limit(going, makers)
        if self.repeat.start and not self._holds(self.repeat.start, makers, 0):
            raise GivenUp("whether it runs at all depends on data")
        if not self._holds(going, makers, 1):
            raise GivenUp("its condition depends on data")

    def _limit(self, going: str, makers: dict[str, Node]) -> Size:
        node = makers.get(going)
        if node is not None and node.op == "Identity":
            return self._limit(node.inputs[0], makers)
        if node is not None and node.op == "And":
            found = [self._limit(name, makers) for name in node.inputs]
            return next((size for size in found if size is not None), None)
        if node is not None and node.op == "Less" and self._place(node.inputs[0], makers) == 1:
            return number(self.walker, node.inputs[1])
        return None

    def _holds(self, name: str, makers: dict[str, Node], most: int) -> bool:
        """Whether a condition holds as long as turns are left; ``most`` is 1 within the body."""
        value = self.builder.array(name)
        if value is not None:
            return value.size == 1 and bool(value.reshape(()))
        node = makers.get(name)
        if node is None:
            return False
        if node.op in ("Identity", "Cast"):
            return self._holds(node.inputs[0], makers, most)
        if node.op == "And":
            return all(self._holds(n, makers, most) for n in node.inputs)
        if node.op != "Less":
            return False
        place, limit = self._place(node.inputs[0], makers), number(self.walker, node.inputs[1])
        if place is None or limit is None or place > most:
            return False
        if isinstance(limit, int) and isinstance(self.repeat.count, int):
            return limit >= self.repeat.count
        return limit == self.repeat.count

    def _place(self, name: str, makers: dict[str, Node]) -> int | None:
        """Return what is added to the number of the turn, or a number before the first turn."""
        if self.kinds.get(name, Kind("same")).form == "turn":
            return 0
        known = number(self.walker, name)
        if isinstance(known, int):
            return known if known <= 0 else None
        node = makers.get(name)
        if node is None:
            return None
        if node.op in ("Cast", "Identity"):
            return self._place(node.inputs[0], makers)
        if node.op == "Add":
            for a, b in (node.inputs, node.inputs[::-1]):
                place, step = self._place(a, makers), number(self.walker, b)
                if place is not None and isinstance(step, int) and self.builder.array(a) is None:
                    return place + step
        return None
