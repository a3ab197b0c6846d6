# SPDX-License-Identifier: MIT
"""One number: an element does not depend on the batch, the frames or the chunks around it.

And the other side of it: an operator that combines frames says so, by the name of its node.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from operator_cases import f32, i64
from operator_models import model_of, node

import gruengine as gr
from gruengine.spec import Node

Array = np.ndarray[Any, Any]

W, BIAS = f32(6, 33), f32(6)
C = {
    "w": W,
    "bias": BIAS,
    "kernel": f32(20, 6, 1),
    "kernel3": f32(20, 6, 3),
    "scale": f32(6),
    "var": f32(6, low=0.1),
    "table": f32(9, 5),
    "two": np.array(2, np.float32),
    "half": np.array(0.5, np.float32),
    "power": np.array(2.5, np.float32),
    "flags": np.array([True, False, True, True, False, False]),
    "zero": np.array(0),
    "one": np.array(1),
    "minus": np.array(-1),
    "first": i64(0),
    "second": i64(1),
    "third": i64(2),
    "last": i64(-1),
    "start": i64(1),
    "end": i64(5),
    "far": i64(2**40),
    "back": i64(-1),
    "halves": i64(2, 4),
    "merge": i64(-1, 6),
    "split": i64(0, 0, 2, 3),
    "swap": i64(0, -1, 1, 6),
    "pads": i64(0, 0, 1, 0, 0, 2),
    "late": i64(0, 1, 0, 0, 0, 0),
    "thrice": i64(1, 1, 3),
    "again": i64(1, 2, 1),
    "wide": i64(1, 1, 4, 1),
}


class Graph(NamedTuple):
    """Nodes from ``x [N, T, 6]`` to ``y``."""

    nodes: list[Node]
    rank: int = 3
    dtype: str = "float32"


def chain(*nodes: Node, rank: int = 3, dtype: str = "float32") -> Graph:
    """Return a graph of ``nodes``."""
    return Graph(list(nodes), rank, dtype)


def model_for(graph: Graph, batch: int | str = "N") -> gr.Model:
    """Return the graph as a model with all the constants."""
    return model_of(
        {"x": (batch, "T", 6)}, graph.nodes, tensors=C, rank=graph.rank, dtype=graph.dtype
    )


FUNCTIONS = (
    "Sigmoid Tanh Relu Affine LeakyRelu ThresholdedRelu ScaledTanh HardSigmoid Elu Softsign "
    "Softplus Neg Abs Exp Square Erf Floor Ceil Round Sign Sin Cos Gelu HardSwish Identity"
)

# What works frame by frame. Every graph keeps the batch as axis 0 and the time as axis 1.
BY_FRAME: dict[str, Graph] = {
    **{op: chain(node(op, "x")) for op in FUNCTIONS.split()},
    **{op: chain(node(op, "x bias")) for op in ["Add", "Sub", "Mul", "Div", "Min", "Max", "PRelu"]},
    **{f"{op} itself": chain(node(op, "x x")) for op in ["Add", "Mul", "Sum", "Mean"]},
    "Pow": chain(node("Abs", "x", "a"), node("Pow", "a power")),
    "square": chain(node("Pow", "x two")),
    "Mod": chain(node("Mod", "x two", fmod=1)),
    "Clip": chain(node("Clip", "x half two")),
    "Less": chain(node("Less", "x bias"), dtype="bool"),
    "Not": chain(node("Less", "x bias", "l"), node("Not", "l"), dtype="bool"),
    "Where": chain(node("Where", "flags x bias")),
    "Cast": chain(node("Cast", "x", to=7), dtype="int64"),
    "Gather table": chain(
        node("Abs", "x", "a"), node("Cast", "a", "i", to=7), node("Gather", "table i"), rank=4
    ),
    "Gather feature": chain(node("Gather", "x halves", axis=2)),
    "Slice": chain(node("Slice", "x start end third")),
    "Slice back": chain(node("Slice", "x back far third minus1"), rank=3),
    "Split": chain(node("Split", "x halves", "p y", axis=-1)),
    "Concat": chain(node("Neg", "x", "n"), node("Concat", "x n x", axis=2)),
    "Tile": chain(node("Tile", "x thrice")),
    "Pad": chain(node("Pad", "x pads", mode="reflect")),
    "Expand": chain(node("Unsqueeze", "x third", "u"), node("Expand", "u wide"), rank=4),
    "Reshape": chain(node("Reshape", "x split"), rank=4),
    "Squeeze": chain(node("Unsqueeze", "x third", "u"), node("Squeeze", "u third")),
    "Transpose": chain(
        node("Transpose", "x", "t", perm=[2, 1, 0]),
        node("Tanh", "t", "h"),
        node("Transpose", "h", perm=[2, 1, 0]),
    ),
    "MatMul": chain(node("MatMul", "x w")),
    "MatMul itself": chain(
        node("Unsqueeze", "x third", "row"),
        node("Unsqueeze", "x last", "column"),
        node("MatMul", "column row"),
        rank=4,
    ),
    "Conv": chain(
        node("Transpose", "x", "t", perm=[0, 2, 1]),
        node("Conv", "t kernel", "c"),
        node("Transpose", "c", perm=[0, 2, 1]),
    ),
    **{f"Reduce{kind}": chain(node(f"Reduce{kind}", "x last")) for kind in
       ("Sum", "Mean", "Max", "Min", "Prod", "SumSquare", "L1", "L2")},
    "Reduce first": chain(
        node("Transpose", "x", "t", perm=[2, 0, 1]),
        node("ReduceSum", "t first", keepdims=0),
        rank=2,
    ),
    "Softmax": chain(node("Softmax", "x")),
    "LogSoftmax": chain(node("LogSoftmax", "x")),
    "Softmax over the first": chain(
        node("Transpose", "x", "t", perm=[2, 0, 1]),
        node("Softmax", "t", "s", axis=0),
        node("Transpose", "s", perm=[1, 2, 0]),
    ),
    "LayerNormalization": chain(node("LayerNormalization", "x scale bias")),
    "BatchNormalization": chain(
        node("Transpose", "x", "t", perm=[0, 2, 1]),
        node("BatchNormalization", "t scale bias bias var", "b"),
        node("Transpose", "b", perm=[0, 2, 1]),
    ),
    "a constant for each frame": chain(
        node("Shape", "x", "s"),
        node("ConstantOfShape", "s", "zeros", value=1.5),
        node("Add", "x zeros"),
    ),
    "a size that is no number of frames": chain(
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Cast", "n", "f", to=1),
        node("Mul", "x f"),
    ),
    "the shape of itself": chain(
        node("Shape", "x", "s"), node("Tanh", "x", "h"), node("Reshape", "h s")
    ),
}  # fmt: skip
C["minus1"] = i64(-2)


@pytest.mark.parametrize("name", BY_FRAME)
def test_works_by_frame(name: str, isa: str) -> None:
    model = model_for(BY_FRAME[name])
    assert model.streamable.form == "frames", model.streamable.reason
    assert (model.streamable.time, model.streamable.batch) == ("T", "N")


@pytest.mark.parametrize("name", [n for n in BY_FRAME if n != "a size that is no number of frames"])
def test_one_number(name: str, isa: str, rng: np.random.Generator) -> None:
    model = model_for(BY_FRAME[name])
    x = (4 * rng.standard_normal((7, 37, 6))).astype(np.float32).clip(-8, 8)
    whole = model.run_graph({"x": x})["y"]
    for first, last in ((0, 1), (3, 4), (2, 7)):
        rows = model.run_graph({"x": x[first:last]})["y"]
        np.testing.assert_array_equal(rows, whole[first:last])
    for first, last in ((0, 1), (36, 37), (5, 22)):
        part = model.run_graph({"x": x[:, first:last]})["y"]
        np.testing.assert_array_equal(part, whole[:, first:last])
    stream = model.stream(batch_size=7)
    chunks = [stream.run(np.ascontiguousarray(x[:, a:b])) for a, b in ((0, 1), (1, 20), (20, 37))]
    np.testing.assert_array_equal(np.concatenate(chunks, axis=1), whole)


@pytest.mark.parametrize("length", [1, 2, 3, 31, 63, 64, 65, 130])
@pytest.mark.parametrize(
    "attrs", [{}, {"strides": [2]}, {"dilations": [2]}, {"group": 2}, {"group": 6}], ids=str
)
def test_a_convolution_does_not_depend_on_what_follows(
    attrs: dict[str, Any], length: int, isa: str, rng: np.random.Generator
) -> None:
    """A prefix of the input gives a prefix of the output, whichever form computes it."""
    groups = attrs.get("group", 1)
    weights = rng.standard_normal((36, 6 // groups, 3)).astype(np.float32)
    reach = 2 * attrs.get("dilations", [1])[0]
    model = model_of(
        {"x": ("N", 6, "L")},
        [node("Conv", "x w b", pads=[reach, 0], **attrs)],
        tensors={"w": weights, "b": f32(36)},
    )
    x = rng.standard_normal((3, 6, 150)).astype(np.float32)
    whole = model.run_graph({"x": x})["y"]
    part = model.run_graph({"x": x[:, :, :length]})["y"]
    np.testing.assert_array_equal(part, whole[:, :, : part.shape[2]])
    one = model.run_graph({"x": x[1:2, :, :length]})["y"]
    np.testing.assert_array_equal(one, part[1:2])


@pytest.mark.parametrize("rows", [1, 2, 5, 16, 33])
def test_a_product_does_not_depend_on_its_other_rows(
    rows: int, isa: str, rng: np.random.Generator
) -> None:
    a = rng.standard_normal((40, 50)).astype(np.float32)
    b = rng.standard_normal((50, 67)).astype(np.float32)
    inputs: dict[str, tuple[Any, ...]] = {"a": ("M", 50), "b": (50, "K")}
    packed = model_of({"a": ("M", 50)}, [node("MatMul", "a b")], tensors={"b": b})
    dynamic = model_of(inputs, [node("MatMul", "a b")])
    added = model_of({"a": ("M", 50)}, [node("Gemm", "a b")], tensors={"b": b})
    whole = packed.run_graph({"a": a})["y"]
    some = np.ascontiguousarray(a[7 : 7 + rows])
    for result in (
        packed.run_graph({"a": some}),
        dynamic.run_graph({"a": some, "b": b}),
        added.run_graph({"a": some}),
    ):
        np.testing.assert_array_equal(result["y"], whole[7 : 7 + rows])
    columns = dynamic.run_graph({"a": a, "b": np.ascontiguousarray(b[:, 5 : 5 + rows])})["y"]
    np.testing.assert_array_equal(columns, whole[:, 5 : 5 + rows])


@pytest.mark.parametrize(
    ("product", "shape"),
    [
        (node("MatMul", "x w"), (301, 257)),
        (node("Gemm", "x w b", transB=1), (301, 130)),
        (node("Conv", "x c"), (3, 130, 67)),
        (node("Conv", "x c"), (200, 130, 1)),
    ],
    ids=lambda value: str(getattr(value, "op", value)),
)
def test_threads_change_nothing(
    product: Node, shape: tuple[int, ...], isa: str, rng: np.random.Generator
) -> None:
    tensors = {"w": f32(257, 130), "b": f32(257), "c": f32(257, 130, 1)}
    x = rng.standard_normal(shape).astype(np.float32)
    symbols = tuple(f"d{i}" for i in range(len(shape)))
    one, two, three = (
        model_of({"x": symbols}, [product], tensors=tensors, num_threads=n) for n in (1, 2, 3)
    )
    alone = one.run_graph({"x": x})["y"]
    np.testing.assert_array_equal(two.run_graph({"x": x})["y"], alone)
    np.testing.assert_array_equal(three.run_graph({"x": x})["y"], alone)


LAST = {
    "Gather": chain(node("Gather", "x minus", axis=1), rank=2),
    "Slice": chain(node("Slice", "x last far second")),
    "and what follows": chain(
        node("Gather", "x minus", "l", axis=1),
        node("MatMul", "l w", "m"),
        node("Tanh", "m"),
        rank=2,
    ),
}


@pytest.mark.parametrize("name", LAST)
def test_the_last_frame_is_the_newest(name: str, rng: np.random.Generator) -> None:
    model = model_for(LAST[name])
    assert model.streamable.form == "frames", model.streamable.reason
    x = rng.standard_normal((2, 9, 6)).astype(np.float32)
    stream = model.stream(batch_size=2)
    for t in range(9):
        newest = stream.step(np.ascontiguousarray(x[:, t]))
        whole = model.run_graph({"x": x[:, : t + 1]})["y"]
        np.testing.assert_array_equal(newest, whole.reshape(newest.shape))


# What combines frames, the node that does, and what it says.
MIXES: dict[str, tuple[Graph, str, str]] = {
    "sum": (chain(node("ReduceSum", "x second")), "ReduceSum", "reduces the time axis"),
    "mean of all": (chain(node("ReduceMean", "x", keepdims=0), rank=0), "ReduceMean", "time axis"),
    "softmax": (chain(node("Softmax", "x", axis=1)), "Softmax", "softmax over the time axis"),
    "layer norm": (
        chain(node("Transpose", "x", "t", perm=[0, 2, 1]), node("LayerNormalization", "t two")),
        "LayerNormalization",
        "normalises over the time axis",
    ),
    "kernel": (
        chain(node("Transpose", "x", "t", perm=[0, 2, 1]), node("Conv", "t kernel3")),
        "Conv",
        "kernel of 3 spans frames",
    ),
    "stride": (
        chain(node("Transpose", "x", "t", perm=[0, 2, 1]), node("Conv", "t kernel", strides=[2])),
        "Conv",
        "stride of 2 skips frames",
    ),
    "pool": (
        chain(node("Transpose", "x", "t", perm=[0, 2, 1]),
              node("MaxPool", "t", kernel_shape=[2])),
        "MaxPool",
        "kernel of 2 spans frames",
    ),
    "average": (
        chain(node("Transpose", "x", "t", perm=[0, 2, 1]), node("GlobalAveragePool", "t")),
        "GlobalAveragePool",
        "averages over the time axis",
    ),
    "attention": (
        chain(node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t")),
        "MatMul",
        "do not line up",
    ),
    "covariance": (
        chain(node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "t x")),
        "MatMul",
        "sums over the time axis",
    ),
    "delay": (chain(node("Pad", "x late")), "Pad", "pads the time axis"),
    "drop": (chain(node("Slice", "x start far second")), "Slice", "slices the time axis"),
    "turn": (chain(node("Slice", "x back minusfar second minus2")), "Slice", "slices the time"),
    "pick": (chain(node("Gather", "x one", axis=1), rank=2), "Gather", "looks up frames"),
    "repeat": (chain(node("Tile", "x again")), "Tile", "repeats the time axis"),
    "join": (chain(node("Concat", "x x", axis=1)), "Concat", "along the time axis"),
    "part": (
        chain(node("Split", "x", "y z", axis=1, num_outputs=2)), "Split", "splits the time axis"
    ),
    "turn over": (
        chain(node("Transpose", "x", "t", perm=[1, 0, 2]), node("Sub", "t x")),
        "Sub",
        "do not line up",
    ),
    "merge": (chain(node("Reshape", "x mixed"), rank=2), "Reshape", "time axis"),
    "last beside all": (
        chain(node("Slice", "x last far second", "l"), node("Sub", "x l")),
        "Sub",
        "last value",
    ),
    "count": (
        chain(
            node("Shape", "x", "s"),
            node("Gather", "s one", "t"),
            node("Cast", "t", "f", to=1),
            node("Mul", "x f"),
        ),
        "Mul",
        "number of frames as data",
    ),
    "count and one": (
        chain(
            node("Shape", "x", "s"),
            node("Add", "s one", "more"),
            node("Gather", "more second", "t"),
            node("Cast", "t", "f", to=1),
            node("Mul", "x f"),
        ),
        "Mul",
        "number of frames as data",
    ),
    "positions": (
        chain(
            node("Shape", "x", "s"),
            node("Gather", "s one", "t"),
            node("Range", "zero t one", "r"),
            node("Cast", "r", "f", to=1),
            node("Unsqueeze", "f second", "column"),
            node("Add", "x column"),
        ),
        "Add",
        "number of frames as data",
    ),
}  # fmt: skip
C["minusfar"], C["minus2"] = i64(-(2**40)), i64(-1)
C["mixed"] = i64(3, -1)


@pytest.mark.parametrize("name", MIXES)
def test_mixes_frames(name: str) -> None:
    graph, culprit, reason = MIXES[name]
    streamable = model_for(graph, batch=1).streamable
    assert streamable.form is None
    assert reason in streamable.reason
    assert culprit in streamable.node or culprit in streamable.reason
    with pytest.raises(gr.UnsupportedError, match=culprit):
        model_for(graph, batch=1).stream()
