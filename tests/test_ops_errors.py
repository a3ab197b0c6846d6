# SPDX-License-Identifier: MIT
"""Every mistake gives one error that names the node, what it got and what it allows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from operator_cases import f32, grid, i64
from operator_models import model_of, node

import gruengine as gr
from gruengine.spec import Node

Array = np.ndarray[Any, Any]


class Bad(NamedTuple):
    """One node from ``x`` to ``y``, the sizes of ``x``, and what its error says."""

    node: Node
    shape: tuple[int, ...]
    says: str
    dtype: str = "float32"


HUGE = 2**62
C: dict[str, Array] = {
    "w": f32(5, 4),
    "w3": f32(8, 3, 3),
    "w4": f32(8, 4, 3),
    "four": f32(4),
    "five": f32(5),
    "number": np.array(2.0, np.float32),
    "whole": np.array(2),
    "flag": np.array(True),
    "zero": i64(0),
    "one": i64(1),
    "minus": i64(-1),
    "last": i64(9),
    "axis": i64(7),
    "pair": i64(1, 1),
    "axes": i64(0, 0),
    "sizes": i64(3, 2),
    "wrong": i64(-1, -1, 3),
    "less": i64(-2, 3),
    "many": i64(HUGE, HUGE),
    "big": i64(HUGE, 1),
    "below": i64(-1, 4),
    "pads": i64(0, 9, 0, 0),
    "crop": i64(0, -3, 0, -3),
    "far": i64(0, HUGE, 0, 0),
    "rows": grid(2, 2) + 9,
    "inf": np.array(np.inf, np.float32),
}
BAD = [
    Bad(node("Add", "x five"), (3, 4), r"\[3, 4\] and \[5\]"),
    Bad(node("Add", "x whole"), (3, 4), "float32 and int64"),
    Bad(node("Add", "x flag"), (3,), "bool", "bool"),
    Bad(node("Sum", "x x"), (3,), "int64; it must be float32", "int64"),
    Bad(node("Mod", "x number"), (3,), "fmod = 1"),
    Bad(node("Pow", "x flag"), (3,), "bool"),
    Bad(node("PRelu", "x five"), (4, 1), "does not broadcast"),
    Bad(node("Less", "x flag"), (3,), "numbers", "bool"),
    Bad(node("And", "x flag"), (3,), "must be bool"),
    Bad(node("Not", "x"), (3,), "must be bool"),
    Bad(node("Where", "x x x"), (3,), "must be bool"),
    Bad(node("Where", "flag x whole"), (3,), "float32 and int64"),
    Bad(node("Tanh", "x"), (3,), "int32; it must be float32", "int32"),
    Bad(node("Sign", "x"), (3,), "bool; it must be float32", "bool"),
    Bad(node("Gelu", "x", approximate="erf"), (3,), "'none' or 'tanh'"),
    Bad(node("Clip", "x four"), (3,), "must be one number"),
    Bad(node("Clip", "x whole"), (3,), "int64; it must be float32"),
    Bad(node("Cast", "x", to=11), (3,), "type 11"),
    Bad(node("Cast", "x", to="float16"), (3,), "float16"),
    Bad(node("Cast", "x"), (3,), "no attribute 'to'"),
    Bad(node("Dropout", "x number flag"), (3,), "training_mode"),
    Bad(node("Reshape", "x sizes"), (3, 4), r"\[3, 4\] as \[3, 2\]"),
    Bad(node("Reshape", "x wrong"), (3, 4), r"\[3, 4\] as \[-1, -1, 3\]"),
    Bad(node("Reshape", "x less"), (3, 4), r"\[-2, 3\]"),
    Bad(node("Reshape", "x many"), (3, 4), "not possible"),
    Bad(node("Flatten", "x", axis=3), (3, 4), "axis 3"),
    Bad(node("Squeeze", "x one"), (3, 4), "size must be 1"),
    Bad(node("Squeeze", "x axis"), (3, 4), "axis 7"),
    Bad(node("Unsqueeze", "x axes"), (3, 4), "twice"),
    Bad(node("Transpose", "x", perm=[0, 0]), (3, 4), "once"),
    Bad(node("Transpose", "x", perm=[1]), (3, 4), "once"),
    Bad(node("Transpose", "x", perm=[0, 1, 5]), (3, 4), "once"),
    Bad(node("Concat", "x w", axis=0), (3, 3), r"\[3, 3\] and \[5, 4\]"),
    Bad(node("Concat", "x four", axis=0), (3, 4), "2 axes"),
    Bad(node("Concat", "x whole", axis=0), (), "axis 0"),
    Bad(node("Concat", "x w", axis=2), (5, 4), "axis 2"),
    Bad(node("Split", "x pair", "y z"), (3, 4), "splits 3 into"),
    Bad(node("Split", "x wrong", "y z a"), (1, 4), r"\[-1, -1, 3\]"),
    Bad(node("Split", "x", "y z", num_outputs=3), (3, 4), "3 for 2 outputs"),
    Bad(node("Slice", "x zero pair"), (3, 4), "as many"),
    Bad(node("Slice", "x zero one zero zero"), (3, 4), "a step is 0"),
    Bad(node("Slice", "x pair pair axes"), (3, 4), "twice"),
    Bad(node("Gather", "x last"), (3, 4), "index 9 at 0; the table has 3 rows"),
    Bad(node("Gather", "x rows", axis=1), (3, 11), "index 11 at 2; the table has 11 rows"),
    Bad(node("Gather", "x number"), (3, 4), "int32"),
    Bad(node("Gather", "x zero", axis=2), (3, 4), "axis 2"),
    Bad(node("Expand", "x sizes"), (3, 4), r"\[3, 4\] and \[3, 2\]"),
    Bad(node("Expand", "x many"), (1, 1), "not possible"),
    Bad(node("Expand", "x below"), (1, 4), "not possible"),
    Bad(node("Tile", "x one"), (3, 4), "each axis needs one"),
    Bad(node("Tile", "x many"), (3, 4), "not possible"),
    Bad(node("Tile", "x below"), (3, 4), "not possible"),
    Bad(node("Pad", "x zero"), (3, 4), "needs one before and one after"),
    Bad(node("Pad", "x far"), (3, 4), "at most"),
    Bad(node("Pad", "x pads", mode="reflect"), (3, 4), "do not fit an axis of size 4"),
    Bad(node("Pad", "x pads", mode="edge"), (3, 0), "do not fit an axis of size 0"),
    Bad(node("Pad", "x pads", mode="mirror"), (3, 4), "mirror"),
    Bad(node("Pad", "x crop"), (3, 4), r"not possible|do not fit"),
    Bad(node("Pad", "x pads four"), (3, 4), "one number"),
    Bad(node("Range", "x number number"), (), "must be one constant number"),
    Bad(node("Constant", "", value_int=1, value_float=1.0), (3,), "needs one of"),
    Bad(node("MatMul", "x w"), (3, 4), r"\[3, 4\] and \[5, 4\]"),
    Bad(node("MatMul", "x w"), (), "must have an axis"),
    Bad(node("MatMul", "x whole"), (3, 4), "int64; it must be float32"),
    Bad(node("Gemm", "x w", transA=1), (3, 5), "transA = 1"),
    Bad(node("Gemm", "x w five"), (3, 5), r"\[3, 4\] and \[5\]"),
    Bad(node("Gemm", "x w"), (3, 3, 5), "2 axes"),
    Bad(node("Conv", "x w3"), (1, 4, 9), "do not fit 1 groups"),
    Bad(node("Conv", "x w4", group=3), (1, 12, 9), "do not fit 3 groups"),
    Bad(node("Conv", "x w4", group=0), (1, 4, 9), "do not fit 0 groups"),
    Bad(node("Conv", "x w4"), (1, 4, 2), "covers 3 does not fit 2"),
    Bad(node("Conv", "x w4 four"), (1, 4, 9), r"\[4\]; it must be \[8\]"),
    Bad(node("Conv", "x w4", strides=[0]), (1, 4, 9), "strides"),
    Bad(node("Conv", "x w4", pads=[1]), (1, 4, 9), "pads"),
    Bad(node("Conv", "x w4", pads=[-1, 0]), (1, 4, 9), "pads"),
    Bad(node("Conv", "x w4", dilations=[HUGE]), (1, 4, 9), "dilations"),
    Bad(node("Conv", "x w4", kernel_shape=[4]), (1, 4, 9), "kernel_shape"),
    Bad(node("Conv", "x w4", auto_pad="SAME"), (1, 4, 9), "'SAME'"),
    Bad(node("Conv", "x w4"), (4, 9), "do not fit"),
    Bad(node("Conv", "x x"), (8, 8, 3), "must be constant"),
    Bad(node("MaxPool", "x", kernel_shape=[2, 2]), (1, 4, 9), "spatial axis"),
    Bad(node("MaxPool", "x", "y i", kernel_shape=[2]), (1, 4, 9), "indices"),
    Bad(node("AveragePool", "x", kernel_shape=[0]), (1, 4, 9), "from 1 on"),
    Bad(node("GlobalAveragePool", "x"), (4, 9), r"\[N, C, ...\]"),
    Bad(node("GlobalAveragePool", "x"), (1, 4, 0), "no elements"),
    Bad(node("ReduceSum", "x axis"), (3, 4), "axis 7"),
    Bad(node("ReduceSum", "x axes"), (3, 4), "twice"),
    Bad(node("ReduceMax", "x zero"), (0, 4), "no elements"),
    Bad(node("ReduceL2", "x zero"), (3, 4), "must be float32", "int64"),
    Bad(node("ReduceSum", "x zero"), (3, 4), "must be float32", "bool"),
    Bad(node("Softmax", "x", axis=2), (3, 4), "axis 2"),
    Bad(node("LayerNormalization", "x five"), (3, 4), r"\[4\] and \[5\]"),
    Bad(node("LayerNormalization", "x four four", "y m s"), (3, 4), "first output"),
    Bad(node("BatchNormalization", "x four four four five"), (3, 4), r"\[5\]; it must be \[4\]"),
    Bad(node("BatchNormalization", "x four four four four", training_mode=1), (3, 4), "inference"),
    Bad(node("BatchNormalization", "x four x four four"), (3, 4), "must be constant"),
    Bad(node("Wherever", "x"), (3, 4), "does not run the operator"),
    Bad(node("Add", "x"), (3, 4), "needs input 1"),
    Bad(node("Softmax", "x", axis="last"), (3, 4), "attribute 'axis' has the wrong type"),
]


def run(bad: Bad) -> None:
    """Load the model of one node and run it: either may refuse."""
    symbols = tuple(f"d{i}" for i in range(len(bad.shape)))
    model = model_of({f"x {bad.dtype}": symbols}, [bad.node], tensors=C, dtype=bad.dtype)
    model.run_graph({"x": np.ones(bad.shape, bad.dtype)})


@pytest.mark.parametrize("bad", BAD, ids=lambda b: f"{b.node.op} {b.says}")
def test_refuses(bad: Bad) -> None:
    with pytest.raises(gr.GruEngineError, match=bad.says) as error:
        run(bad)
    assert bad.node.op in str(error.value)


@pytest.mark.parametrize("index", [5, -6, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_an_index_from_data_is_checked(index: int, dtype: str, isa: str) -> None:
    table = f32(5, 3)
    model = model_of(
        {f"i {dtype}": ("N",)}, [node("Gather", "table i")], tensors={"table": table}, rank=2
    )
    good = np.array([4, -5, 0], dtype)
    np.testing.assert_array_equal(model.run_graph({"i": good})["y"], table[good])
    with pytest.raises(gr.InvalidInputError, match=rf"index {index} at 1; the table has 5 rows"):
        model.run_graph({"i": np.array([0, index], dtype)})
    np.testing.assert_array_equal(model.run_graph({"i": good})["y"], table[good])


@pytest.mark.parametrize("op", ["Div", "Mod"])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_integers_are_not_divided_by_zero(op: str, dtype: str) -> None:
    model = model_of({f"a {dtype}": ("N",), f"b {dtype}": ("N",)}, [node(op, "a b")], dtype=dtype)
    least = np.iinfo(dtype).min
    a, b = np.array([7, least], dtype), np.array([2, -1], dtype)
    expected = [3, least] if op == "Div" else [1, 0]
    np.testing.assert_array_equal(model.run_graph({"a": a, "b": b})["y"], expected)
    with pytest.raises(gr.InvalidInputError, match=f"{op}.*divides an integer by 0"):
        model.run_graph({"a": a, "b": np.array([2, 0], dtype)})


def test_a_shape_from_data_is_refused() -> None:
    model = model_of({"x": ("N", 4), "s int64": (2,)}, [node("Reshape", "x s")], rank=2)
    with pytest.raises(gr.UnsupportedError, match=r"Reshape.*'s' depends on data"):
        model.run_graph({"x": f32(3, 4), "s": i64(4, 3)})
