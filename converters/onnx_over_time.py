# SPDX-License-Identifier: MIT
"""The body of a loop over frames becomes operators over whole sequences.

Every value of the body is one of: the same in each turn, one frame of a sequence (all frames are
computed at once, time first), the number of the turn, or a state. A state may only be carried by a
recurrent step, which becomes a ``Recurrent`` over all frames. Anything else is given up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gruengine.converters.onnx_fold import Builder
from gruengine.converters.shapes import Size
from gruengine.spec import Attr, Node


class GivenUp(Exception):  # noqa: N818 - not an error: the loop is tried in another way
    """Why a body is no set of operators over sequences."""


@dataclass(frozen=True)
class Kind:
    """What a value of the body is outside of it.

    form : "same", "frame" (``name`` holds all frames, time first), "turn" (the number of the turn
        and ``shift``), "state" (``name`` is its first value, ``state`` its place), "last" (only
        the value after the last turn is known)
    last : of a frame that carries a state, the value after the last turn; ``state`` its place
    """

    form: str
    name: str = ""
    shift: int = 0
    state: int = -1
    last: str = ""


_EACH = frozenset(
    ["Sigmoid", "Tanh", "Relu", "LeakyRelu", "ThresholdedRelu", "HardSigmoid", "Elu", "Softsign",
     "Softplus", "Neg", "Abs", "Sqrt", "Exp", "Log", "Reciprocal", "Erf", "Floor", "Ceil", "Round",
     "Sign", "Sin", "Cos", "Not", "Clip", "Cast", "Identity", "Gelu", "HardSwish"]
)  # fmt: skip
_PAIRS = frozenset(
    ["Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Sum", "Mean", "Where", "Equal",
     "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor"]
)  # fmt: skip
_AXIS = frozenset(["Split", "Concat", "Softmax", "LogSoftmax", "Gather", "LayerNormalization"])
_AXES = {"Squeeze": 1, "Unsqueeze": 1, "Slice": 3, "ReduceSum": 1, "ReduceMean": 1, "ReduceMax": 1}
_VIEWS = ("Identity", "Squeeze", "Unsqueeze", "Reshape")


class OverTime:
    """Moves the nodes of a body out of it, one by one."""

    def __init__(self, builder: Builder, count: Size, kinds: Mapping[str, Kind]) -> None:
        self.builder, self.count = builder, count
        self.kinds = dict(kinds)

    def run(self, nodes: Sequence[Node]) -> None:
        """Add the nodes over all turns to the builder; raises GivenUp."""
        for node in nodes:
            for name, kind in zip(node.outputs, self._node(node), strict=False):
                if name:
                    self.kinds[name] = kind

    def kind(self, name: str) -> Kind:
        """Return what a value is; those from outside are the same in each turn."""
        return self.kinds.get(name, Kind("same", name)) if name else Kind("same")

    # -- one node ---------------------------------------------------------------------------------

    def _node(self, node: Node) -> list[Kind]:
        given = [self.kind(name) for name in node.inputs]
        forms = {kind.form for kind in given}
        if forms <= {"same"}:
            return self._emit(node, node.op, given, node.attrs, "same")
        if node.op == "Recurrent":
            return self._recurrent(node, given)
        if given[0].form in ("state", "last") and forms <= {"state", "last", "same"}:
            return self._view(node, given)
        if "turn" in forms:
            return [self._turn(node, given)]
        if not forms <= {"same", "frame"}:
            raise GivenUp(f"{node.op} uses a state that no known cell carries")
        made = self._frames(node, given)
        first = given[0]
        if node.op in _VIEWS and first.last:
            last = self._emit(node, node.op, [replace(first, name=first.last), *given[1:]],
                              node.attrs, "same")[0].name  # fmt: skip
            made = [replace(made[0], last=last, state=first.state)]
        return made

    def _emit(
        self, node: Node, op: str, given: Sequence[Kind], attrs: Mapping[str, Attr], form: str
    ) -> list[Kind]:
        names = [kind.name for kind in given]
        made = self.builder.emit(op, names, attrs, node.outputs, node.name)
        return [Kind(form, name) for name in made]

    def _view(self, node: Node, given: list[Kind]) -> list[Kind]:
        if node.op not in _VIEWS or any(kind.form != "same" for kind in given[1:]):
            raise GivenUp(f"{node.op} uses a state that no known cell carries")
        first = given[0]
        moved = replace(first, name=first.last) if first.form == "last" else first
        made = self._emit(node, node.op, [moved, *given[1:]], node.attrs, "same")[0].name
        return [replace(first, last=made) if first.form == "last" else replace(first, name=made)]

    def _turn(self, node: Node, given: list[Kind]) -> Kind:
        turns = [kind for kind in given if kind.form == "turn"]
        if node.op in ("Identity", "Cast", "Squeeze", "Reshape", "Unsqueeze"):
            return turns[0]
        if node.op == "Gather" and given[0].form == "same" and given[1].form == "turn":
            return self._look_up(node, given)
        if node.op in ("Add", "Sub") and len(turns) == 1 and given[0].form != "same":
            step = self.builder.array(given[1].name)
            if step is not None and step.size == 1 and step.dtype.kind in "iu":
                number = int(step.reshape(-1)[0])
                return replace(
                    turns[0], shift=turns[0].shift + (number if node.op == "Add" else -number)
                )
        return Kind("unknown")

    def _look_up(self, node: Node, given: list[Kind]) -> Kind:
        """Return the sequence that a lookup by the number of the turn takes frames of."""
        source, info = given[0].name, self.builder.info(given[0].name)
        index = self.builder.info(node.inputs[1]).rank
        axis = node.attrs.get("axis", 0)
        if (
            info.shape is None
            or not isinstance(axis, int)
            or given[1].shift
            or index not in (0, None)
        ):
            raise GivenUp("frames are looked up at other places than the turns")
        at = axis % len(info.shape)
        size = info.shape[at]
        if size is None or size != self.count:
            if not isinstance(size, int) or not isinstance(self.count, int) or size < self.count:
                raise GivenUp(f"the sequence has {size} frames for {self.count} turns")
            bounds = [self._ints([0]), self._ints([self.count]), self._ints([at])]
            source = self._one(node, "Slice", [source, *bounds], {})
        if at:
            perm = [at, *(i for i in range(len(info.shape)) if i != at)]
            source = self._one(node, "Transpose", [source], {"perm": perm})
        return Kind("frame", source)

    def _ints(self, values: list[int]) -> str:
        return self.builder.integers(values, "turns")

    def _one(self, node: Node, op: str, inputs: list[str], attrs: Mapping[str, Attr]) -> str:
        wish = f"{node.outputs[0] or node.outputs[-1]}_{op}"
        return self.builder.emit(op, inputs, attrs, (wish,), node.name)[0]

    def _rank(self, name: str) -> int:
        rank = self.builder.info(name).rank
        if rank is None:
            raise GivenUp(f"the number of axes of {name!r} is not known")
        return rank

    # -- operators over all frames ----------------------------------------------------------------

    def _frames(self, node: Node, given: list[Kind]) -> list[Kind]:
        op = node.op
        if op in _EACH:
            if any(kind.form == "frame" for kind in given[1:]):
                raise GivenUp(f"{op} with bounds that change")
            return self._emit(node, op, given, node.attrs, "frame")
        if op in _PAIRS:
            return self._pairs(node, given)
        if op == "MatMul":
            return self._product(node, given)
        if op == "Gemm":
            return self._gemm(node, given)
        if op == "Transpose":
            perm = node.attrs.get("perm", list(range(self._rank(node.inputs[0])))[::-1])
            assert isinstance(perm, list)
            later = [0, *(int(p) + 1 for p in perm if not isinstance(p, str))]
            return self._emit(node, op, given, {**node.attrs, "perm": later}, "frame")
        only_first = all(kind.form == "same" for kind in given[1:]) or op == "Concat"
        if op in _AXIS and only_first and all(k.form == "frame" for k in given[:1]):
            return self._along(node, given)
        if op in _AXES and only_first:
            return self._axes(node, given)
        if op == "Reshape" and only_first:
            target = self.builder.array(given[1].name)
            if target is not None and not node.attrs.get("allowzero"):
                wanted = Kind("same", self._ints([0, *(int(v) for v in target)]))
                return self._emit(node, op, [given[0], wanted], node.attrs, "frame")
        raise GivenUp(f"{op} is not done for all frames at once")

    def _pairs(self, node: Node, given: list[Kind]) -> list[Kind]:
        """Broadcast with time in front of all axes."""
        most = max(self._rank(name) for name in node.inputs)
        names = []
        for name, kind in zip(node.inputs, given, strict=True):
            short = most - self._rank(name)
            if kind.form == "frame" and short:
                axes = self._ints(list(range(1, short + 1)))
                kind = Kind("frame", self._one(node, "Unsqueeze", [kind.name, axes], {}))
            names.append(kind)
        return self._emit(node, node.op, names, node.attrs, "frame")

    def _product(self, node: Node, given: list[Kind]) -> list[Kind]:
        left, right = given
        if left.form == "frame" and right.form == "same" and self._rank(node.inputs[1]) == 2:
            return self._emit(node, "MatMul", given, {}, "frame")
        raise GivenUp("MatMul by a matrix that changes")

    def _gemm(self, node: Node, given: list[Kind]) -> list[Kind]:
        attrs = node.attrs
        if given[0].form != "frame" or given[1].form != "same" or attrs.get("transA", 0):
            raise GivenUp("Gemm by a matrix that changes")
        matrix = given[1].name
        if attrs.get("transB", 0):
            matrix = self._one(node, "Transpose", [matrix], {"perm": [1, 0]})
        total = Kind("frame", self._one(node, "MatMul", [given[0].name, matrix], {}))
        parts = [(total, attrs.get("alpha", 1.0))]
        if len(given) > 2 and given[2].name:
            parts.append((given[2], attrs.get("beta", 1.0)))
        scaled = []
        for kind, scale in parts:
            if scale != 1.0:
                raise GivenUp("Gemm with a scale")
            scaled.append(kind)
        if len(scaled) == 1:
            return [total]
        short = 2 - self._rank(node.inputs[2])
        if scaled[1].form == "frame" and short:
            raise GivenUp("Gemm that adds fewer axes")
        return [Kind("frame", self._one(node, "Add", [k.name for k in scaled], {}))]

    def _along(self, node: Node, given: list[Kind]) -> list[Kind]:
        if node.op == "Concat" and any(kind.form != "frame" for kind in given):
            raise GivenUp("Concat with what is the same in each turn")
        usual = -1 if node.op in ("Softmax", "LogSoftmax", "LayerNormalization") else 0
        axis = node.attrs.get("axis", usual)
        assert isinstance(axis, int)
        axis = axis % self._rank(node.inputs[0]) + 1
        return self._emit(node, node.op, given, {**node.attrs, "axis": axis}, "frame")

    def _axes(self, node: Node, given: list[Kind]) -> list[Kind]:
        place, rank = _AXES[node.op], self._rank(node.inputs[0])
        values = self.builder.array(given[place].name) if len(given) > place else None
        if values is None and node.op == "Slice" and len(given) == 3:
            starts = self.builder.array(given[1].name)
            values = None if starts is None else starts * 0 + range(starts.size)
        if values is None:
            raise GivenUp(f"{node.op} over axes that are not told")
        if node.op == "Unsqueeze":
            rank += values.size
        axes = Kind("same", self._ints([int(v) % rank + 1 for v in values.reshape(-1)]))
        moved = [*given[:place], axes, *given[place + 1 :]]
        return self._emit(node, node.op, moved, node.attrs, "frame")

    # -- cells ------------------------------------------------------------------------------------

    def _recurrent(self, node: Node, given: list[Kind]) -> list[Kind]:
        """Return the kinds of Y, Y_h and Y_c of a step that carries states."""
        states = [kind for kind in given[5:7] if kind.name]
        fixed = [kind for i, kind in enumerate(given) if i not in (0, 5, 6)]
        shape = self.builder.info(node.inputs[0]).shape
        is_step = shape is not None and len(shape) == 3 and shape[0] == 1
        if (
            given[0].form != "frame"
            or not is_step
            or not states
            or any(kind.form != "state" for kind in states)
            or any(kind.form != "same" for kind in fixed)
            or (len(given) > 4 and given[4].name)
            or node.attrs.get("direction") != "forward"
        ):
            raise GivenUp("a cell that is not one step from the states of the loop")
        x = self._one(node, "Squeeze", [given[0].name, self._ints([1])], {})
        names = [x, *(kind.name for kind in given[1:])]
        outputs = [f"{node.outputs[1] or node.outputs[0]}_all", *node.outputs[1:]]
        while len(outputs) < (3 if node.attrs.get("cell") == "lstm" else 2):
            outputs.append(f"{outputs[0]}_{len(outputs)}")
        made = self.builder.emit("Recurrent", names, node.attrs, outputs, node.name)
        y = Kind("frame", self._one(node, "Unsqueeze", [made[0], self._ints([1])], {}))
        kinds = [y, Kind("frame", made[0], state=given[5].state, last=made[1])]
        if len(made) > 2:
            kinds.append(Kind("last", "", state=given[6].state, last=made[2]))
        return kinds
