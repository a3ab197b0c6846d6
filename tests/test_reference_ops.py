# SPDX-License-Identifier: MIT
"""Every graph operator of the reference beside ONNX Runtime, and what it refuses."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper
from operator_cases import CASES, Case, f32, i64
from ort_oracle import run_node
from tolerances import FLOAT64, ORT_OPERATOR, assert_close

from gruengine.reference_graph import OPS
from gruengine.reference_ops import size_limit

Array = np.ndarray[Any, Any]

# Operators that ONNX Runtime does not have, each with its own test.
OURS = {"Recurrent", "Affine", "ScaledTanh", "Square"}
# Operators whose float32 result is one rounded operation, or none: equal to the last bit. Range is
# not among them, since ONNX Runtime adds up its steps where the definition multiplies.
EXACT = frozenset(
    """
    Neg Abs Sqrt Floor Ceil Round Sign Relu Clip Where Add Sub Mul Div Mod Min Max Reshape Flatten
    Squeeze Unsqueeze Transpose Expand Tile Identity Dropout ConstantOfShape Constant Cast Concat
    Split Slice Gather Pad MaxPool ReduceMax ReduceMin ThresholdedRelu
    """.split()
)


def label(case: Case) -> str:
    shapes = [None if a is None else a.shape for a in case.inputs]
    return f"{case.op}-{shapes}-{sorted(case.attrs)}"


def upcast(value: Array | None) -> Array | None:
    floats = value is not None and value.dtype.kind == "f"
    return value.astype(np.float64) if floats and value is not None else value


@pytest.mark.parametrize("case", CASES, ids=label)
def test_operator_equals_onnx_runtime(case: Case) -> None:
    attrs = {
        k: numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v
        for k, v in case.attrs.items()
    }
    want = run_node(case.op, case.inputs, attrs, outputs=case.outputs)
    native = OPS[case.op](*case.inputs, **case.attrs)
    wide = OPS[case.op](*(upcast(a) for a in case.inputs), **case.attrs)
    for n, d, w in zip(native, wide, want, strict=False):
        assert n.dtype == w.dtype
        if w.dtype.kind != "f" or case.op in EXACT:
            np.testing.assert_array_equal(n, w)
        else:
            assert_close(n, w, ORT_OPERATOR)
        assert_close(d, w, ORT_OPERATOR)


def test_every_operator_has_cases() -> None:
    assert {case.op for case in CASES} | OURS == set(OPS)


@pytest.mark.parametrize(
    ("op", "attrs", "want"),
    [
        ("Affine", {"alpha": 0.5, "beta": 2.0}, lambda x: 0.5 * x + 2),
        ("ScaledTanh", {"alpha": 0.5, "beta": 2.0}, lambda x: 0.5 * np.tanh(2 * x)),
        ("Square", {}, lambda x: x * x),
    ],
)
def test_functions_of_our_own(op: str, attrs: dict[str, float], want: Any) -> None:
    x = np.linspace(-3, 3, 13)
    assert_close(OPS[op](x, **attrs)[0], want(x), FLOAT64)


def test_axes_may_be_an_attribute() -> None:
    x = f32(2, 3)
    np.testing.assert_array_equal(
        OPS["ReduceMax"](x, axes=[1], keepdims=0)[0], OPS["ReduceMax"](x, i64(1), keepdims=0)[0]
    )


def test_slice_of_an_end_before_the_first_element() -> None:
    x = np.arange(4)
    np.testing.assert_array_equal(OPS["Slice"](x, i64(3), i64(-5), i64(0), i64(-1))[0], x[::-1])
    np.testing.assert_array_equal(OPS["Slice"](x, i64(3), i64(-4), i64(0), i64(-1))[0], [3, 2, 1])


BIG = 1 << 40
HUGE: list[tuple[str, list[Array], dict[str, Any]]] = [
    ("Expand", [f32(1), i64(BIG)], {}),
    ("Expand", [f32(1), i64(1 << 20, 1 << 20, 1 << 40)], {}),
    ("ConstantOfShape", [i64(BIG)], {}),
    ("ConstantOfShape", [i64(1 << 62, 1 << 62)], {}),
    ("Tile", [f32(2, 2), i64(BIG, BIG)], {}),
    ("Range", [np.array(0), np.array(BIG), np.array(1)], {}),
    ("Range", [np.float32(0), np.float32(1), np.float32(1e-30)], {}),
    ("Pad", [f32(2), i64(BIG, 0)], {}),
    ("Pad", [f32(2), i64(0, BIG)], {"mode": "edge"}),
    ("Reshape", [f32(2), i64(BIG)], {}),
    ("Add", [np.zeros((1 << 15, 1)), np.zeros((1, 1 << 15))], {}),
    ("Where", [np.ones((1 << 15, 1), bool), np.zeros((1, 1 << 15)), np.zeros(1)], {}),
    ("MatMul", [np.zeros((1 << 15, 1)), np.zeros((1, 1 << 15))], {}),
    ("Gemm", [np.zeros((1 << 15, 1)), np.zeros((1, 1 << 15))], {}),
    ("Gather", [np.zeros((1, 1 << 15)), np.zeros(1 << 15, np.int64)], {}),
    ("Max", [np.zeros((1 << 15, 1)), np.zeros((1, 1 << 15))], {}),
    ("Conv", [f32(1, 1, 3), f32(1, 1, 2)], {"pads": [BIG, BIG]}),
    ("MaxPool", [f32(1, 1, 3)], {"kernel_shape": [2], "pads": [BIG, BIG]}),
    ("AveragePool", [f32(1, 1, 3)], {"kernel_shape": [2], "pads": [BIG, BIG]}),
]


@pytest.mark.parametrize(("op", "inputs", "attrs"), HUGE, ids=[h[0] for h in HUGE])
def test_huge_results_are_refused_before_they_are_made(
    op: str, inputs: list[Array], attrs: dict[str, Any]
) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"^{op}: .*at most"):
        OPS[op](*inputs, **attrs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_the_limit_is_that_of_the_block() -> None:
    with size_limit(10):
        assert OPS["ConstantOfShape"](i64(10))[0].shape == (10,)
        with pytest.raises(ValueError, match="at most 10 elements"):
            OPS["ConstantOfShape"](i64(11))
    assert OPS["ConstantOfShape"](i64(11))[0].shape == (11,)


BAD: list[tuple[str, list[Array | None], dict[str, Any], str]] = [
    ("Reshape", [f32(6), i64(4)], {}, "cannot reshape"),
    ("Reshape", [f32(6), i64(-1, -1)], {}, "one size may be -1"),
    ("Reshape", [f32(6), i64(-2, 3)], {}, "none less"),
    ("Reshape", [f32(6), i64(6, 0)], {}, "keeps a size"),
    ("Reshape", [f32(6), f32(1)], {}, "integers are needed"),
    ("Squeeze", [f32(2, 1), i64(0)], {}, "size"),
    ("Squeeze", [f32(2, 1), i64(2)], {}, "axis is 2"),
    ("Unsqueeze", [f32(2), i64(0, 0)], {}, "may appear once"),
    ("Gather", [f32(3), i64(3)], {}, "from -3 to 2"),
    ("Gather", [f32(3), f32(1)], {}, "must be integers"),
    ("Slice", [f32(3), i64(0), i64(1), i64(0), i64(0)], {}, "a step is 0"),
    ("Slice", [f32(3), i64(0), i64(1, 2)], {}, "differ"),
    ("Split", [f32(4), i64(1, 2)], {}, "add up to 4"),
    ("Split", [f32(4), i64(5, -1)], {}, "add up to 4"),
    ("Split", [f32(4)], {}, "num_outputs is None"),
    ("Split", [f32(4)], {"num_outputs": BIG}, "num_outputs is"),
    ("Concat", [f32(2), f32(2, 2)], {"axis": 0}, "dimension"),
    ("Concat", [], {"axis": 0}, "tuple index"),
    ("Tile", [f32(2), i64(1, 1)], {}, "1 are needed"),
    ("ConstantOfShape", [i64(-1)], {}, "must not be negative"),
    ("ConstantOfShape", [i64(2)], {"value": f32(2)}, "value has 2 elements"),
    ("Constant", [], {}, "exactly one"),
    ("Range", [np.array(0), np.array(1), np.array(0)], {}, "delta is 0"),
    ("Range", [f32(), np.array(np.inf, np.float32), f32()], {}, "must be finite"),
    ("Cast", [f32(1)], {"to": 8}, "type 8"),
    ("Cast", [f32(1)], {"to": "object"}, "type 'object'"),
    ("Div", [i64(1), i64(0)], {}, "divided by 0"),
    ("Mod", [i64(1), i64(0)], {}, "divided by 0"),
    ("Mod", [f32(1), f32(1)], {}, "fmod is 0"),
    ("Add", [f32(1), i64(1)], {}, "must be the same"),
    ("Add", [f32(2), f32(3)], {}, "mismatch"),
    ("Add", [f32(2), None], {}, "NoneType"),
    ("And", [f32(1), f32(1)], {}, "must be bool"),
    ("Where", [f32(1), f32(1), f32(1)], {}, "must be bool"),
    ("MatMul", [f32(2, 3), f32(2, 3)], {}, "mismatch"),
    ("Gemm", [f32(2), f32(2, 3)], {}, "must be matrices"),
    ("Gemm", [f32(2, 3), f32(3, 2), f32(3, 2)], {}, "shape"),
    ("PRelu", [f32(2), f32(3, 2)], {}, "must broadcast"),
    ("Softmax", [f32(2)], {"axis": 1}, "axis is 1"),
    ("Gelu", [f32(2)], {"approximate": "erf"}, "approximate is 'erf'"),
    ("Dropout", [f32(2), None, np.array(True)], {}, "training_mode"),
    ("Pad", [f32(3), i64(3, 0)], {"mode": "reflect"}, "reflect by"),
    ("Pad", [f32(3), i64(1, 0, 0)], {}, "3 pads"),
    ("Pad", [f32(3), i64(-2, -2)], {}, "negative"),
    ("Pad", [f32(3), i64(5, -4)], {}, "remove more"),
    ("Pad", [f32(3), i64(1, 1)], {"mode": "mirror"}, "mode is 'mirror'"),
    ("Conv", [f32(1, 4, 5), f32(2, 3, 2)], {}, "do not fit"),
    ("Conv", [f32(1, 4, 5), f32(2, 4, 6)], {}, "does not fit"),
    ("Conv", [f32(1, 4, 5), f32(2, 4, 3)], {"strides": [0]}, "strides"),
    ("Conv", [f32(1, 4, 5), f32(2, 4, 3)], {"auto_pad": "SAME"}, "auto_pad is 'SAME'"),
    ("MaxPool", [f32(1, 4, 5)], {}, "kernel_shape"),
    ("Relu", [f32(2)], {"alpha": 1.0}, "alpha"),
    ("Relu", [], {}, "missing"),
    ("Relu", [f32(2), f32(2)], {}, "too many"),
]


@pytest.mark.parametrize(("op", "inputs", "attrs", "message"), BAD)
def test_what_does_not_fit_is_refused(
    op: str, inputs: list[Array | None], attrs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        OPS[op](*inputs, **attrs)
    assert str(caught.value).startswith(f"{op}: ")
