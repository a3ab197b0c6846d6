# SPDX-License-Identifier: MIT
"""Einsum as transpositions, one matrix product for two operands, and sums.

Labels of both operands that the result keeps are a batch; one label of the left that the right
lacks is the rows, one the other way round the columns; others of either side stay axes of the
batch in which the other side is repeated. So no axis that the result has is ever merged.
"""

from __future__ import annotations

from collections.abc import Sequence

from gruengine.converters.onnx_ops import Call, Refused, lower
from gruengine.spec import Attr

Labels = list[str]


@lower("Einsum", attrs="equation", since=12)
def _einsum(call: Call) -> list[str]:
    call.needs(1, 64)
    equation = call.text("equation", "").replace(" ", "")
    operands, result = _parsed(call, equation)
    value, labels = call.inputs[0], operands[0]
    for place in range(1, len(operands)):
        later = {label for other in operands[place + 1 :] for label in other}
        wanted = [*later, *result]
        value, labels = _Pair(call, labels, operands[place], wanted).of(value, call.inputs[place])
    value, labels = summed(call, value, labels, result)
    perm: list[int] = [labels.index(label) for label in result]
    return call.out("Transpose", [value], {"perm": perm})


def _parsed(call: Call, equation: str) -> tuple[list[Labels], Labels]:
    """Return the labels of each operand and of the result; axes of "..." get labels from '0'."""
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(call.inputs):
        raise Refused(
            (f"attribute equation = {equation!r}", f"{len(call.inputs)} inputs are given")
        )
    operands = [_labels(call, term, call.inputs[i]) for i, term in enumerate(terms)]
    spread = max(([x for x in labels if not x.isalpha()] for labels in operands), key=len)
    if arrow:
        result = _expanded(right, sorted(spread, key=int, reverse=True))
    else:
        every = [label for labels in operands for label in labels]
        once = sorted({x for x in every if x.isalpha() and every.count(x) == 1})
        result = [*sorted(spread, key=int, reverse=True), *once]
    known = {label for labels in operands for label in labels}
    if len(set(result)) < len(result) or not set(result) <= known:
        raise Refused((f"attribute equation = {equation!r}", "its result repeats or makes a label"))
    for labels in operands:
        if len(set(labels)) < len(labels):
            raise Refused((f"attribute equation = {equation!r}", "diagonals are not run"))
    return operands, result


def _labels(call: Call, term: str, value: str) -> Labels:
    rank = call.builder.info(value).rank
    if rank is None:
        raise Refused(("an operand of unknown rank", "its number of axes must be known"))
    spread = rank - len(term.replace("...", ""))
    # The axes of "..." are aligned at their end, so they are counted from there.
    labels = _expanded(term, [str(i) for i in reversed(range(max(spread, 0)))])
    letters = [label for label in labels if not label.isdigit()]
    if len(labels) != rank or not all(x.isalpha() and x.isascii() for x in letters):
        raise Refused((f"attribute equation with {term!r}", f"the operand has {rank} axes"))
    return labels


def _expanded(term: str, spread: Labels) -> Labels:
    before, dots, after = term.partition("...")
    return [*before, *(spread if dots else []), *after]


def summed(call: Call, value: str, labels: Labels, wanted: Sequence[str]) -> tuple[str, Labels]:
    """Return a value with the axes that nobody wants added up, and its labels."""
    gone = [i for i, label in enumerate(labels) if label not in wanted]
    if not gone:
        return value, labels
    axes = call.builder.integers(gone, "axes")
    attrs: dict[str, Attr] = {"keepdims": 0, "noop_with_empty_axes": 0}
    total = call.tmp("ReduceSum", [value, axes], attrs)
    return total, [label for label in labels if label in wanted]


class _Pair:
    """One product of two operands."""

    def __init__(self, call: Call, left: Labels, right: Labels, wanted: Labels) -> None:
        self.call, self.left, self.right, self.wanted = call, left, right, wanted

    def of(self, a: str, b: str) -> tuple[str, Labels]:
        """Return the product and its labels."""
        a, left = summed(self.call, a, self.left, [*self.right, *self.wanted])
        b, right = summed(self.call, b, self.right, [*self.left, *self.wanted])
        inner = [x for x in left if x in right and x not in self.wanted]
        rows = [x for x in left if x not in right][-1:]
        columns = [x for x in right if x not in left][-1:]
        used = {*inner, *rows, *columns}
        batch = [x for x in left if x not in used] + [
            x for x in right if x not in used and x not in left
        ]
        if not inner:
            labels = [*batch, *rows, *columns]
            return self.call.tmp("Mul", [self._aligned(a, left, labels),
                                         self._aligned(b, right, labels)]), labels  # fmt: skip
        a = self._matrix(a, left, batch, rows, inner, False)
        b = self._matrix(b, right, batch, columns, inner, True)
        product = self.call.tmp("MatMul", [a, b])
        labels, gone = [*batch, *rows, *columns], []
        if not rows:
            gone.append(len(batch))
        if not columns:
            gone.append(len(batch) + 1)
        if gone:
            product = self.call.tmp("Squeeze", [product, self.call.builder.integers(gone, "axes")])
        return product, labels

    def _aligned(self, value: str, labels: Labels, order: Labels, made: int | None = None) -> str:
        """Return a value with an axis for each label of ``order``, of size 1 where it has none.

        Leading ones come by themselves when shapes are broadcast; from ``made`` on they are made.
        """
        perm: list[int] = [labels.index(x) for x in order if x in labels]
        if perm != sorted(perm):
            value = self.call.tmp("Transpose", [value], {"perm": perm})
        start = self._start(labels, order, len(order) if made is None else made)
        axes = [i - start for i in range(start, len(order)) if order[i] not in labels]
        if axes:
            value = self.call.tmp("Unsqueeze", [value, self.call.builder.integers(axes, "axes")])
        return value

    @staticmethod
    def _start(labels: Labels, order: Labels, made: int) -> int:
        return next((i for i, x in enumerate(order) if x in labels or i >= made), len(order))

    def _matrix(
        self, value: str, labels: Labels, batch: Labels, own: Labels, inner: Labels, right: bool
    ) -> str:
        """Return [batch..., own, inner], or [batch..., inner, own] for the right side."""
        call, first = self.call, len(batch)
        mark = own or [""]  # "" is no label: an axis of size 1
        if len(inner) == 1:
            order = [*batch, *inner, *mark] if right else [*batch, *mark, *inner]
            return self._aligned(value, labels, order, first)
        order = [*batch, *mark, *inner]
        value = self._aligned(value, labels, order, first)
        keep = first + 1 - self._start(labels, order, first)
        target = call.builder.integers([0] * keep + [-1], "merged")
        value = call.tmp("Reshape", [value, target], {"allowzero": 0})
        if not right:
            return value
        perm: list[int] = [*range(keep - 1), keep, keep - 1]
        return call.tmp("Transpose", [value], {"perm": perm})
