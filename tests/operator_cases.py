# SPDX-License-Identifier: MIT
"""Operators with inputs and attributes that reach each rule of their ONNX definition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]


class Case(NamedTuple):
    """One call of an operator; ``outputs`` are compared."""

    op: str
    inputs: list[Array | None]
    attrs: dict[str, Any]
    outputs: int = 1


def f32(*shape: int, low: float = -3, high: float = 3) -> Array:
    """Return random floats; the same for the same arguments."""
    rng = np.random.default_rng([*shape, int(high * 10)])
    return rng.uniform(low, high, shape).astype(np.float32)


def i64(*values: int) -> Array:
    """Return a vector of int64."""
    return np.array(values, np.int64)


def grid(*shape: int, dtype: Any = np.int64) -> Array:
    """Return 0, 1, 2... in ``shape``."""
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


SIGNS = [np.array([7, -7, 7, -7, 0], d) for d in (np.int64, np.int32)]
DIVISORS = [np.array([3, 3, -3, -3, 5], d) for d in (np.int64, np.int32)]
EDGES = np.array([-np.inf, -90, -1.5, -0.5, -0.0, 0, 0.5, 1.5, 2.5, 90, np.inf], np.float32)

UNARY = (
    "Neg Abs Exp Reciprocal Erf Floor Ceil Round Sign Sin Cos Sigmoid Tanh Relu Softsign Softplus "
    "LeakyRelu ThresholdedRelu Elu HardSigmoid HardSwish Gelu"
)
AT_EDGES = "Floor Ceil Round Abs Neg Relu Sigmoid Tanh HardSigmoid ThresholdedRelu Erf"


def elementwise() -> Iterator[Case]:
    """Operators of each element on its own."""
    x, flags = f32(3, 5), np.array([[True, False], [False, True]])
    for op in UNARY.split():
        yield Case(op, [x], {})
        yield Case(op, [f32()], {})
    for op in AT_EDGES.split():
        yield Case(op, [EDGES], {})
    for op in ("Neg", "Abs", "Sign"):
        yield Case(op, [SIGNS[0]], {})
    for op in ("Sqrt", "Log"):
        yield Case(op, [f32(4, 3, low=0.1)], {})
        yield Case(op, [np.array([0, -1, np.inf], np.float32)], {})
    yield Case("Not", [flags], {})
    yield Case("LeakyRelu", [x], {"alpha": 0.3})
    yield Case("ThresholdedRelu", [x], {"alpha": -0.7})
    yield Case("Elu", [x], {"alpha": 1.7})
    yield Case("HardSigmoid", [x], {"alpha": 0.4, "beta": 0.25})
    yield Case("Gelu", [x], {"approximate": "tanh"})
    yield Case("PRelu", [f32(2, 3, 4), f32(3, 1)], {})
    yield Case("PRelu", [x, f32(1)], {})
    low, high = np.array(-1, np.float32), np.array(1.5, np.float32)
    for bounds in ([low, high], [low], [None, high], [], [high, low]):
        yield Case("Clip", [x, *bounds], {})
    yield Case("Clip", [SIGNS[0], np.array(-2), np.array(3)], {})
    for op in ("And", "Or", "Xor"):
        yield Case(op, [flags, flags[:1]], {})
    for op in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
        yield Case(op, [np.round(x), np.round(f32(5))], {})
        yield Case(op, [grid(3, 2), i64(1, 3)], {})
    yield Case("Equal", [flags, flags[:, :1]], {})
    for cond in (flags, flags[:, :1], np.array(True)):
        yield Case("Where", [cond, f32(2, 2), f32(1, 2)], {})
    yield Case("Where", [flags, i64(4), grid(3, 1, 1)], {})


def arithmetic() -> Iterator[Case]:
    """Operators of two and more arguments."""
    for op in ("Add", "Sub", "Mul", "Div"):
        yield Case(op, [f32(2, 1, 4), f32(3, 1)], {})
        yield Case(op, [f32(), f32(0, 2)], {})
        for a, b in zip(SIGNS, DIVISORS, strict=True):
            yield Case(op, [a, b], {})
    yield Case("Div", [EDGES, np.array(0, np.float32)], {})
    for a, b in zip(SIGNS, DIVISORS, strict=True):
        yield Case("Mod", [a, b], {})
        yield Case("Mod", [a, b], {"fmod": 1})
    yield Case("Mod", [f32(3, 5), f32(5)], {"fmod": 1})
    yield Case("Pow", [f32(3, 4, low=0.1), f32(4)], {})
    yield Case("Pow", [f32(3, 4), np.array(2, np.float32)], {})
    yield Case("Pow", [f32(3, 4), np.array([-1, 0, 2, 3], np.int64)], {})
    yield Case("Pow", [SIGNS[0], i64(3, 2, 1, 0, 4)], {})
    yield Case("Pow", [i64(4, 9, 2), np.array([0.5, 0.5, 3], np.float32)], {})
    for op in ("Min", "Max", "Sum", "Mean"):
        yield Case(op, [f32(2, 3), f32(3), f32(2, 1)], {})
        yield Case(op, [f32(2, 3)], {})
    for op in ("Min", "Max"):
        yield Case(op, [SIGNS[0], DIVISORS[0]], {})
    products: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
        ((3, 4), (4, 2)), ((2, 3, 4), (4, 2)), ((2, 1, 3, 4), (5, 4, 2)), ((4,), (4, 2)),
        ((3, 4), (4,)), ((4,), (4,)), ((4,), (3, 4, 2)),
    ]  # fmt: skip
    for left, right in products:
        yield Case("MatMul", [f32(*left), f32(*right)], {})
    yield Case("Gemm", [f32(3, 4), f32(4, 2)], {})
    yield Case("Gemm", [f32(3, 4), f32(4, 2), f32(2)], {"alpha": 0.5, "beta": -1.5})
    yield Case("Gemm", [f32(4, 3), f32(2, 4), f32(3, 1)], {"transA": 1, "transB": 1})
    yield Case("Gemm", [f32(3, 4), f32(2, 4), f32()], {"transB": 1, "alpha": 2.0})


def reductions() -> Iterator[Case]:
    """Reductions and normalisations."""
    x = f32(2, 3, 4)
    sums = ("ReduceSum", "ReduceMean", "ReduceProd", "ReduceSumSquare", "ReduceL1", "ReduceL2")
    for op in (*sums, "ReduceMax", "ReduceMin"):
        yield Case(op, [x], {})
        yield Case(op, [x], {"keepdims": 0})
        yield Case(op, [x, i64(-1)], {})
        yield Case(op, [x, i64(0, 2)], {"keepdims": 0})
        for noop in (0, 1):
            yield Case(op, [x, i64()], {"noop_with_empty_axes": noop})
            yield Case(op, [x], {"noop_with_empty_axes": noop, "keepdims": 0})
    for op in ("ReduceSum", "ReduceMax", "ReduceMin"):
        yield Case(op, [SIGNS[0].reshape(5, 1), i64(0)], {})
    yield Case("ReduceMean", [np.array([[7, -8], [-1, -1]], np.int32), i64(1)], {})
    for op in ("Softmax", "LogSoftmax"):
        for axis in (-1, 0, 1):
            yield Case(op, [x * 10], {"axis": axis})
        yield Case(op, [x], {})
    yield Case("LayerNormalization", [x, f32(4)], {}, 3)
    yield Case("LayerNormalization", [x, f32(4), f32(4)], {"epsilon": 0.1}, 3)
    yield Case("LayerNormalization", [x, f32(3, 4), f32(3, 4)], {"axis": 1}, 3)
    stats = [f32(3), f32(3, high=2), f32(3, high=1), f32(3, low=0.1)]
    yield Case("BatchNormalization", [x, *stats], {})
    yield Case("BatchNormalization", [f32(4, 3), *stats], {"epsilon": 0.3})
    yield Case("Dropout", [x, np.array(0.5, np.float32), np.array(False)], {}, 2)


def shapes() -> Iterator[Case]:
    """Operators that make arrays or change their shapes."""
    x = grid(2, 3, 4)
    for target, attrs in [
        ((4, 6), {}), ((-1,), {}), ((0, -1), {}), ((2, 0, 2, 2), {}), ((0, 0, 0), {}),
        ((1, -1, 2), {"allowzero": 1}),
    ]:  # fmt: skip
        yield Case("Reshape", [x, i64(*target)], attrs)
    yield Case("Reshape", [grid(0, 3), i64(3, 0)], {"allowzero": 1})
    yield Case("Reshape", [f32(1), i64()], {})
    for axis in (-3, -1, 0, 1, 2, 3):
        yield Case("Flatten", [f32(2, 3, 4)], {"axis": axis})
    yield Case("Flatten", [f32(2, 3, 4)], {})
    thin = f32(1, 3, 1, 2)
    yield Case("Squeeze", [thin], {})
    yield Case("Squeeze", [thin, i64(-2)], {})
    yield Case("Squeeze", [thin, i64(2, 0)], {})
    yield Case("Unsqueeze", [x, i64(0, -1)], {})
    yield Case("Unsqueeze", [x, i64(3, 1)], {})
    yield Case("Unsqueeze", [f32(), i64(0)], {})
    for perm in ([2, 0, 1], [0, 2, 1]):
        yield Case("Transpose", [x], {"perm": perm})
    yield Case("Transpose", [x], {})
    for data, sizes in [
        (f32(3, 4), i64(2, 3, 4)), (f32(3, 1), i64(5, 1, 1, 1)), (f32(3, 1), i64(1)),
        (f32(3, 1), i64(3, 7)), (f32(), i64(2, 0)),
    ]:  # fmt: skip
        yield Case("Expand", [data, sizes], {})
    yield Case("Tile", [x, i64(2, 1, 3)], {})
    yield Case("Tile", [x, i64(1, 0, 1)], {})
    parts: list[dict[str, Any]] = [
        {}, {"start": 1}, {"start": -2, "end": -1}, {"end": 9}, {"start": 2, "end": 1},
    ]  # fmt: skip
    for attrs in parts:
        yield Case("Shape", [x], attrs)
    yield Case("Size", [x], {})
    yield Case("Identity", [x], {})
    yield Case("ConstantOfShape", [i64(2, 3)], {})
    yield Case("ConstantOfShape", [i64(2, 0)], {"value": np.array([7], np.int32)})
    yield Case("ConstantOfShape", [i64()], {"value": np.array([True])})
    values: list[dict[str, Any]] = [
        {"value": grid(2, 2)}, {"value_float": 1.5}, {"value_floats": [1.5, -2.0]},
        {"value_int": 3}, {"value_ints": [1, 2]},
    ]  # fmt: skip
    for value in values:
        yield Case("Constant", [], value)
    ranges: dict[Any, list[tuple[float, float, float]]] = {
        np.int64: [(1, 8, 3), (8, 1, -3), (3, 3, 1), (5, 1, 1), (0, 9, 3)],
        np.float32: [(0, 1, 0.1), (1, -1, -0.3), (2, 1, 0.5)],
        np.int32: [(-4, 5, 2)],
    }
    for dtype, triples in ranges.items():
        for triple in triples:
            yield Case("Range", [np.array(v, dtype) for v in triple], {})
    mixed = np.array([-2.7, -0.5, 0, 0.4, 3.9], np.float32)
    for source in (mixed, SIGNS[0], np.array([True, False])):
        for to in (1, 6, 7, 9, 11):
            yield Case("Cast", [source], {"to": to})


def movement() -> Iterator[Case]:
    """Operators that select and join."""
    x = grid(4, 5)
    yield Case("Concat", [x, x[:, :2]], {"axis": 1})
    yield Case("Concat", [x, x[:0], x], {"axis": -2})
    yield Case("Split", [x, i64(1, 4)], {"axis": 1}, 2)
    yield Case("Split", [x, i64(0, 3, 1)], {}, 3)
    yield Case("Split", [x], {"axis": 1, "num_outputs": 3}, 3)
    yield Case("Split", [x], {"axis": -2, "num_outputs": 2}, 2)
    huge = 2**63 - 1
    for start, end, step in [
        (1, 4, 1), (0, huge, 2), (-3, -1, 1), (4, 0, -1), (-1, -huge, -1), (9, -9, -2), (2, 2, 1),
        (3, 1, 1), (-9, 9, 3), (1, 3, -1), (huge, -huge, -1), (-huge, huge, 1), (0, -6, -1),
    ]:  # fmt: skip
        yield Case("Slice", [x, i64(start), i64(end), i64(-1), i64(step)], {})
    yield Case("Slice", [x, i64(1, 1), i64(3, 4)], {})
    yield Case("Slice", [x, i64(3, -1), i64(0, -9), i64(1, 0), i64(-2, -1)], {})
    yield Case("Slice", [x[:0], i64(0), i64(3), i64(0), i64(1)], {})
    for axis in (0, 1, -1):
        yield Case("Gather", [x, np.array([[0, -1], [2, 1]])], {"axis": axis})
    yield Case("Gather", [x, np.array(2, np.int32)], {})
    yield Case("Gather", [x, i64()], {"axis": 1})
    y = f32(3, 4)
    for pads in ((1, 0, 2, 1), (0, 2, 0, 3), (0, 0, 0, 0), (0, -1, -1, 2)):
        yield Case("Pad", [y, i64(*pads), np.array(9, np.float32)], {})
    for mode in ("reflect", "edge", "wrap"):
        yield Case("Pad", [y, i64(2, 3, 1, 2)], {"mode": mode})
    yield Case("Pad", [y, i64(2, 1), None, i64(-1)], {"mode": "reflect"})
    yield Case("Pad", [y, i64(2, 1), np.array(1, np.float32), i64(0)], {"mode": "constant"})
    yield Case("Pad", [x, i64(1, 1, 1, 1)], {})


def transposed(x: Array, image: Array) -> Iterator[Case]:
    """Transposed convolutions."""
    op = "ConvTranspose"
    yield Case(op, [x, f32(4, 5, 3), f32(5)], {})
    yield Case(op, [x, f32(4, 3, 4)], {"group": 2, "pads": [2, 1], "strides": [3]})
    yield Case(op, [x, f32(4, 1, 3), f32(4)], {"group": 4, "dilations": [2], "pads": [0, 4]})
    yield Case(op, [x, f32(4, 2, 2)], {"strides": [3], "output_padding": [2], "kernel_shape": [2]})
    yield Case(op, [image, f32(4, 3, 3, 2), f32(3)], {"pads": [1, 0, 2, 1]})
    yield Case(op, [image, f32(4, 2, 1, 3)], {"strides": [1, 2], "pads": [0, 1, 0, 1]})
    yield Case(op, [image, f32(4, 3, 2, 3), f32(6)], {
        "group": 2, "strides": [2, 3], "dilations": [2, 1], "output_padding": [1, 2],
        "pads": [1, 2, 0, 1],
    })  # fmt: skip


def order() -> Iterator[Case]:
    """Operators that order, add up or place elements."""
    x = np.round(f32(3, 4, 5))
    for axis in (0, 1, -1):
        for attrs in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}):
            yield Case("CumSum", [x, np.array(axis)], attrs)
        for op in ("ArgMax", "ArgMin"):
            yield Case(op, [x], {"axis": axis})
            yield Case(op, [x], {"axis": axis, "keepdims": 0, "select_last_index": 1})
        for largest in (0, 1):
            yield Case("TopK", [x, i64(3)], {"axis": axis, "largest": largest}, 2)
    yield Case("CumSum", [SIGNS[0], np.array([0], np.int32)], {})
    yield Case("ArgMax", [SIGNS[1]], {})
    yield Case("TopK", [SIGNS[0], i64(2)], {}, 2)
    places = np.array([[[1, -1]], [[0, 2]]])
    for reduction in ("none", "add", "mul", "min", "max"):
        yield Case("ScatterND", [x, places, f32(2, 1, 5)], {"reduction": reduction})
        yield Case("ScatterND", [x[:, 0, 0], i64(2, 0, 2)[:, None], f32(3)],
                   {} if reduction == "none" else {"reduction": reduction})  # fmt: skip
    yield Case("ScatterND", [grid(4), i64(1)[None], i64(-5)], {})
    yield Case("ScatterND", [x > 0, i64(2)[None], x[:1] < 0], {})
    yield Case("ScatterND", [x, np.zeros((0, 1), np.int64), f32(0, 4, 5)], {})


def windows() -> Iterator[Case]:
    """Convolutions and pools."""
    x, image = f32(2, 4, 11), f32(2, 4, 8, 7)
    yield from transposed(x, image)
    yield Case("Conv", [x, f32(6, 4, 3), f32(6)], {})
    yield Case("Conv", [x, f32(6, 2, 3)], {"group": 2, "pads": [2, 1], "strides": [2]})
    yield Case("Conv", [x, f32(4, 1, 3)], {"group": 4, "dilations": [2], "kernel_shape": [3]})
    yield Case("Conv", [x, f32(3, 4, 1)], {"pads": [3, 3]})
    yield Case("Conv", [image, f32(3, 4, 3, 2), f32(3)], {"pads": [1, 0, 2, 1]})
    yield Case("Conv", [image, f32(6, 2, 2, 3)], {"group": 2, "strides": [2, 1]})
    yield Case("Conv", [image, f32(3, 4, 3, 3)], {"dilations": [2, 1], "strides": [1, 2]})
    for pad in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        yield Case("Conv", [x, f32(3, 4, 4)], {"auto_pad": pad, "strides": [2]})
        yield Case("Conv", [image, f32(3, 4, 4, 3)], {"auto_pad": pad})
        for op in ("MaxPool", "AveragePool"):
            yield Case(op, [x], {"kernel_shape": [4], "auto_pad": pad, "strides": [3]})
    yield Case("GlobalAveragePool", [x], {})
    yield Case("GlobalAveragePool", [image], {})
    for op in ("MaxPool", "AveragePool"):
        yield Case(op, [x], {"kernel_shape": [3]})
        yield Case(op, [x], {"kernel_shape": [3], "strides": [3], "ceil_mode": 1})
        yield Case(op, [x[:, :, :2]], {"kernel_shape": [3], "strides": [2], "ceil_mode": 1})
        yield Case(op, [image], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]})
        yield Case(op, [x], {"kernel_shape": [3], "dilations": [2], "pads": [1, 2]})
    for pads in ([1, 1], [0, 1]):
        common = {"kernel_shape": [3], "strides": [2], "pads": pads, "count_include_pad": 1}
        yield Case("AveragePool", [x], common)
        yield Case("AveragePool", [x[:, :, :10]], {**common, "ceil_mode": 1})


CASES = [
    case
    for family in (elementwise, arithmetic, reductions, shapes, movement, windows, order)
    for case in family()
]
