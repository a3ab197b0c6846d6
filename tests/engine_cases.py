# SPDX-License-Identifier: MIT
"""Operators at sizes around the widths and blocks of the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from operator_cases import Case, f32, grid, i64

ODD = (1, 7, 16, 33, 65, 130)
FUNCTIONS = (
    "Sigmoid Tanh Relu Affine LeakyRelu ThresholdedRelu ScaledTanh HardSigmoid Elu Softsign "
    "Softplus Neg Abs Exp Reciprocal Square Erf Floor Ceil Round Sign Sin Cos Gelu HardSwish"
)


def elements() -> Iterator[Case]:
    """Functions and arithmetic over lengths that leave a rest in every vector."""
    for op in FUNCTIONS.split():
        yield Case(op, [f32(3, 67)], {})
    for op in ("Sqrt", "Log"):
        yield Case(op, [f32(131, low=0.01)], {})
    yield Case("Affine", [f32(5, 7)], {"alpha": -0.3, "beta": 1.25})
    yield Case("ScaledTanh", [f32(5, 7)], {"alpha": 1.7, "beta": 0.6})
    pairs: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((3, 1, 67), (5, 1)), ((2, 3, 1, 5), (4, 1)), ((67,), (3, 67)), ((4, 1), (1, 33)),
        ((2, 1, 3, 1, 5), (1, 4, 1, 2, 1)), ((0, 3), (3,)), ((1, 1, 1), (1,)), ((), (2, 3)),
    ]  # fmt: skip
    for left, right in pairs:
        for op in ("Add", "Sub", "Mul", "Div", "Min", "Max"):
            yield Case(op, [f32(*left), f32(*right, low=0.5)], {})
        yield Case("Less", [f32(*left), f32(*right, low=0.5)], {})
        yield Case("Where", [f32(*left) > 0, f32(*right), f32(*right, high=2)], {})
    for power in (1, 2, 3, 0.5, -1, 2.5):
        yield Case("Pow", [f32(3, 19, low=0.1), np.array(power, np.float32)], {})
    yield Case("Pow", [f32(3), np.array([[2.0]], np.float32)], {})
    smallest = np.array([-(2**63), 2**63 - 1, 5], np.int64)
    for op in ("Add", "Sub", "Mul", "Min", "Max"):
        yield Case(op, [smallest, i64(1, 7, -3)], {})
    yield Case("Neg", [smallest], {})
    yield Case("Abs", [smallest[1:]], {})
    yield Case("Square", [grid(7)], {})


def products() -> Iterator[Case]:
    """Matrix products."""
    for m in ODD[:5]:
        for n in ODD:
            yield Case("MatMul", [f32(m, 19), f32(19, n)], {})
    yield Case("MatMul", [f32(2, 3, 5, 7), f32(2, 1, 7, 9)], {})
    yield Case("MatMul", [f32(2, 1, 5, 7), f32(3, 7, 33)], {})
    yield Case("MatMul", [f32(5, 300), f32(300, 70)], {})
    yield Case("MatMul", [f32(3, 0), f32(0, 4)], {})
    yield Case("MatMul", [f32(0, 3), f32(3, 4)], {})
    yield Case("MatMul", [f32(67), f32(67)], {})
    for trans_a in (0, 1):
        for trans_b in (0, 1):
            a = f32(7, 33) if trans_a else f32(33, 7)
            b = f32(66, 7) if trans_b else f32(7, 66)
            shapes: list[tuple[int, ...]] = [(66,), (1,), (33, 1), (33, 66), (1, 66), ()]
            for shape in shapes:
                for alpha, beta in ((1.0, 1.0), (0.5, 1.0), (1.0, -2.0), (-1.5, 0.0)):
                    attrs: dict[str, Any] = {"transA": trans_a, "transB": trans_b}
                    yield Case("Gemm", [a, b, f32(*shape)], {**attrs, "alpha": alpha, "beta": beta})
            yield Case("Gemm", [a, b], {"transA": trans_a, "transB": trans_b})


def convolutions() -> Iterator[Case]:
    """Convolutions in both of their forms: few and many positions, few and many outputs."""
    for n in (1, 3):
        for length in (1, 4, 40, 130):
            yield Case("Conv", [f32(n, 5, length), f32(33, 5, 3), f32(33)], {"pads": [1, 1]})
            yield Case("Conv", [f32(n, 5, length), f32(3, 5, 1)], {})
            yield Case("Conv", [f32(n, 6, length), f32(6, 1, 3), f32(6)],
                       {"group": 6, "pads": [2, 0]})  # fmt: skip
            yield Case("Conv", [f32(n, 6, length), f32(66, 3, 3), f32(66)],
                       {"group": 2, "pads": [2, 4], "dilations": [2], "strides": [2]})  # fmt: skip
    yield Case("Conv", [f32(2, 1, 576), f32(258, 1, 256)], {"strides": [128]})
    yield Case("Conv", [f32(1, 1, 6000), f32(34, 1, 25)], {"strides": [10]})
    yield Case("Conv", [f32(40, 1, 64), f32(34, 1, 25)], {"strides": [10]})
    yield Case("Conv", [f32(300, 4, 3), f32(20, 4, 3), f32(20)], {"pads": [1, 1]})
    yield Case("Conv", [f32(2, 4, 1), f32(20, 4, 5), f32(20)], {"pads": [2, 2]})
    yield Case("Conv", [f32(2, 4, 2), f32(20, 4, 4)], {"pads": [5, 4], "dilations": [3]})
    yield Case("Conv", [f32(2, 4, 2), f32(20, 4, 3)], {"pads": [2, 5], "dilations": [3]})
    yield Case("Conv", [f32(2, 3, 9, 11), f32(17, 3, 3, 3), f32(17)], {"pads": [1, 1, 1, 1]})
    yield Case("Conv", [f32(2, 3, 2, 3), f32(17, 3, 3, 3), f32(17)], {"pads": [2, 1, 1, 2]})
    yield Case("Conv", [f32(2, 4, 30, 5), f32(4, 2, 3, 1)],
               {"group": 2, "strides": [1, 2], "dilations": [3, 1]})  # fmt: skip
    yield Case("Conv", [f32(0, 5, 9), f32(33, 5, 3)], {})


def transposed() -> Iterator[Case]:
    """Transposed convolutions past one vector and one block of taps."""
    op = "ConvTranspose"
    for n in (1, 3):
        for length in (1, 4, 40):
            yield Case(op, [f32(n, 5, length), f32(5, 33, 3), f32(33)], {"pads": [1, 1]})
            yield Case(op, [f32(n, 6, length), f32(6, 1, 4)], {"group": 6, "strides": [2]})
    yield Case(op, [f32(1, 34, 700), f32(34, 2, 256)], {"strides": [64]})
    yield Case(op, [f32(2, 8, 3, 17), f32(8, 3, 1, 5), f32(3)], {"strides": [1, 2]})
    yield Case(op, [f32(2, 8, 1), f32(8, 3, 3)], {"pads": [1, 2]})
    yield Case(op, [f32(2, 8, 1), f32(8, 3, 3)], {"pads": [1, 1]})
    yield Case(op, [f32(0, 8, 4), f32(8, 3, 3)], {})


def rows() -> Iterator[Case]:
    """Reductions and normalisations over each axis, at odd sizes."""
    for shape in ((5, 67), (3, 33, 2), (2, 3, 17, 5)):
        x = f32(*shape)
        for axis in range(len(shape)):
            for kind in ["Sum", "Mean", "Max", "Min", "SumSquare", "L1", "L2", "Prod"]:
                yield Case(f"Reduce{kind}", [x / 2, i64(axis)], {"keepdims": axis % 2})
            yield Case("ReduceSum", [x, i64(0, -1)], {"keepdims": 0})
            yield Case("ReduceMean", [x], {"axes": [axis]})
            yield Case("Softmax", [x], {"axis": axis})
            yield Case("LogSoftmax", [x], {"axis": axis})
            yield Case("LayerNormalization", [x, f32(*shape[axis:])], {"axis": axis})
    yield Case("LayerNormalization", [f32(3, 4, 5), f32(4, 1), f32(1)], {"axis": 1})
    yield Case("ReduceSum", [f32(3, 0), i64(1)], {})
    yield Case("ReduceProd", [f32(3, 0), i64(1)], {"keepdims": 0})
    yield Case("ReduceMax", [f32(0, 3), i64(1)], {})
    yield Case("ReduceMax", [grid(3, 5, dtype=np.int32), i64(0)], {})
    yield Case("ReduceProd", [grid(3, 5) + 1, i64(0)], {})
    stats = [f32(35), f32(35, high=2), f32(35, high=1), f32(35, low=0.1)]
    for shape in ((4, 35), (2, 35, 3), (2, 35, 1), (1, 35, 4, 17)):
        yield Case("BatchNormalization", [f32(*shape), *stats], {})


def moves() -> Iterator[Case]:
    """Data movement at sizes past one tile."""
    x = f32(5, 33, 18)
    for perm in ([0, 2, 1], [2, 1, 0], [1, 2, 0], [1, 0, 2], [2, 0, 1]):
        yield Case("Transpose", [x], {"perm": perm})
        yield Case("Transpose", [x > 0], {"perm": perm})
        yield Case("Transpose", [grid(*x.shape)], {"perm": perm})
    yield Case("Transpose", [f32(2, 3, 4, 5, 2)], {"perm": [3, 1, 4, 0, 2]})
    yield Case("Transpose", [f32(1, 7, 1, 3)], {"perm": [2, 1, 3, 0]})
    yield Case("Transpose", [f32(0, 3)], {"perm": [1, 0]})
    for axis in range(3):
        yield Case("Concat", [x, x[::2], x] if axis == 0 else [x, x], {"axis": axis})
        yield Case("Split", [x, i64(1, 0, x.shape[axis] - 1)], {"axis": axis}, 3)
        yield Case("Gather", [x, grid(2, 2)], {"axis": axis})
        yield Case("Gather", [x > 0, i64(-1, 0, -1)], {"axis": axis})
        yield Case("Gather", [x, np.array(-2)], {"axis": axis})
        yield Case("Slice", [x, i64(-2), i64(-(2**40)), i64(axis), i64(-2)], {})
    yield Case("Gather", [grid(0, 3), i64()], {})
    for mode in ("constant", "reflect", "edge", "wrap"):
        yield Case("Pad", [f32(3, 5, 4), i64(1, 0, 2, 2, 0, 1)], {"mode": mode})
        yield Case("Pad", [grid(3, 5, 4), i64(0, 2, 0, 0, -1, 0)], {"mode": mode})
    yield Case("Pad", [f32(2, 3) > 0, i64(0, 1, 1, 0), np.array(True)], {})
    yield Case("Pad", [f32(0, 3), i64(2, 0, 0, 0), np.array(5, np.float32)], {})
    yield Case("Tile", [f32(3, 5), i64(2, 4)], {})
    yield Case("Tile", [f32(1, 5), i64(7, 1)], {})
    yield Case("Expand", [f32(3, 1, 5), i64(2, 1, 4, 1)], {})
    edges = np.array([3e9, -3e9, 1e30, -1e30], np.float32)
    yield Case("Cast", [edges[:2]], {"to": 7})
    yield Case("Cast", [edges], {"to": 9})


ENGINE_CASES = [
    case
    for family in (elements, products, convolutions, transposed, rows, moves)
    for case in family()
]
