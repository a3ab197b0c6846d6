# SPDX-License-Identifier: MIT
"""Loop and Scan: cells over a sequence become one node, short loops are unrolled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import Array, all_nodes, compare, graph_model, ops, read, refusals
from ort_oracle import run_model
from tolerances import ORT_RECURRENT, assert_close

import gruengine as gr

N, I, H = 3, 4, 5
F, I64, I32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32
Nodes = list[onnx.NodeProto]
make = helper.make_node


def random(*shape: int, seed: int = 0) -> Array:
    return (np.random.default_rng(seed + sum(shape)).standard_normal(shape) * 0.6).astype("f4")


def value(name: str, kind: int = F, shape: Sequence[Any] | None = ()) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


# -- cells as TensorFlow writes them: x_t "x", state "h" and "c", the new state "h1" and "c1" ------


def weights(gates: int, separate: bool = False) -> dict[str, Array]:
    made = {"W": random(I, gates * H), "R": random(H, gates * H, seed=1), "b": random(gates * H)}
    if separate:
        made |= {"Rh": made["R"][:, 2 * H :], "R": made["R"][:, : 2 * H]}
    return made


def hard(name: str, form: str) -> Nodes:
    """A hard sigmoid of name_in, in one of the forms that exporters write."""
    if form == "keras2":
        return [
            make("Mul", ["fifth", f"{name}_in"], [f"{name}_m"]),
            make("Add", [f"{name}_m", "half"], [f"{name}_a"]),
            make("Min", [f"{name}_a", "one"], [f"{name}_b"]),
            make("Max", [f"{name}_b", "zero"], [name]),
        ]
    if form == "keras3":
        return [
            make("Add", ["three", f"{name}_in"], [f"{name}_a"]),
            make("Clip", [f"{name}_a", "zero", "six"], [f"{name}_c"]),
            make("Mul", [f"{name}_c", "sixth"], [name]),
        ]
    return [make("Sigmoid", [f"{name}_in"], [name])]


NUMBERS = {
    "fifth": 0.2, "half": 0.5, "one": 1.0, "zero": 0.0, "three": 3.0, "six": 6.0, "sixth": 1 / 6,
}  # fmt: skip


def gru(form: str, linear: bool) -> tuple[Nodes, dict[str, Array], list[str]]:
    """A reset-before GRU: z, r from two products, the candidate from r * h."""
    nodes = [
        make("MatMul", ["x", "W"], ["xw"]),
        make("Add", ["xw", "b"], ["xb"]),
        make("Split", ["xb"], ["xz", "xr", "xh"], axis=1),
        make("MatMul", ["h", "R"], ["hr"]),
        make("Slice", ["hr", "s0", "e0", "a01"], ["hz"]),
        make("Slice", ["hr", "s1", "e1", "a01"], ["hrr"]),
        make("Add", ["xz", "hz"], ["z_in"]),
        make("Add", ["xr", "hrr"], ["r_in"]),
        *hard("z", form),
        *hard("r", form),
        make("Mul", ["r", "h"], ["rh"]),
        make("MatMul", ["rh", "Rh"], ["hh"]),
        make("Add", ["xh", "hh"], ["n_in"]),
        make("Identity" if linear else "Tanh", ["n_in"], ["n"]),
        make("Mul", ["z", "h"], ["kept"]),
        make("Sub", ["one", "z"], ["rest"]),
        make("Mul", ["rest", "n"], ["new"]),
        make("Add", ["kept", "new"], ["h1"]),
    ]
    huge = 2**31 - 1
    cuts = {"s0": [0, 0], "e0": [huge, H], "s1": [0, H], "e1": [huge, 2 * H], "a01": [0, 1]}
    constants = weights(3, separate=True)
    return nodes, constants | {k: np.array(v, np.int64) for k, v in cuts.items()}, ["h"]


def lstm(form: str, linear: bool) -> tuple[Nodes, dict[str, Array], list[str]]:
    nodes = [
        make("MatMul", ["h", "R"], ["hr"]),
        make("Gemm", ["x", "W", "b"], ["xb"]),
        make("Add", ["xb", "hr"], ["all"]),
        make("Split", ["all"], ["i_in", "f_in", "g_in", "o_in"], axis=1),
        *[node for gate in "ifo" for node in hard(gate, form)],
        make("Tanh", ["g_in"], ["g"]),
        make("Mul", ["f", "c"], ["kept"]),
        make("Mul", ["i", "g"], ["new"]),
        make("Add", ["kept", "new"], ["c1"]),
        make("Elu" if linear else "Tanh", ["c1"], ["out"]),
        make("Mul", ["o", "out"], ["h1"]),
    ]
    return nodes, weights(4), ["h", "c"]


def simple(form: str, linear: bool) -> tuple[Nodes, dict[str, Array], list[str]]:
    nodes = [
        make("MatMul", ["x", "W"], ["xw"]),
        make("MatMul", ["h", "R"], ["hr"]),
        make("Add", ["xw", "b"], ["xb"]),
        make("Add", ["xb", "hr"], ["all"]),
        make("Relu" if linear else "Tanh", ["all"], ["h1"]),
    ]
    return nodes, weights(1), ["h"]


CELLS: dict[str, Callable[[str, bool], tuple[Nodes, dict[str, Array], list[str]]]] = {
    "gru": gru, "lstm": lstm, "rnn": simple,
}  # fmt: skip


def body_of(nodes: Nodes, states: list[str], constants: dict[str, Array], head: bool) -> Any:
    """The graph of one turn: x_t and states in, states and y_t out."""
    out = "y" if head else "h1"
    after = [make("MatMul", ["h1", "D"], ["d"]), make("Sigmoid", ["d"], ["y"])] if head else []
    after += [make("Identity", [out], ["frame"])]
    results = [f"{state}1" for state in states]
    return helper.make_graph(
        nodes + after,
        "body",
        [value(s, F, ("n", H)) for s in states] + [value("x", F, ("n", I))],
        [value(name, F, None) for name in [*results, "frame"]],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()],
    )


def constants_of(made: dict[str, Array]) -> dict[str, Array]:
    return made | {k: np.array(v, np.float32) for k, v in NUMBERS.items()} | {"D": random(H, 2)}


def feeds_of(states: list[str], n: int, t: int) -> dict[str, Array]:
    start = {f"{s}0": random(n, H, seed=i) for i, s in enumerate(states)}
    return {"X": random(t, n, I) * 2, **start}


def shapes_of(states: list[str], t: Any) -> dict[str, Any]:
    return {"X": (t, "n", I), **{f"{s}0": ("n", H) for s in states}}


def scan_model(cell: str, form: str, linear: bool, t: Any, head: bool, **attrs: Any) -> Any:
    nodes, made, states = CELLS[cell](form, linear)
    body = body_of(nodes, states, constants_of(made), head)
    outs = [f"{s}_last" for s in states]
    node = make("Scan", [f"{s}0" for s in states] + ["X"], [*outs, "Y"], "scan", body=body,
                num_scan_inputs=1, **attrs)  # fmt: skip
    return graph_model([node], shapes_of(states, t), [*outs, "Y"]), states


def loop_model(cell: str, form: str, linear: bool, t: Any, head: bool, limit: bool) -> Any:
    """The Loop that tf2onnx writes: counters, invariants, a condition on the number of frames."""
    nodes, made, states = CELLS[cell](form, linear)
    made = constants_of(made)
    inner = [
        make("Add", ["place", "i1"], ["next"]),
        make("Gather", ["X", "place"], ["x"], axis=0),
        *nodes,
        *([make("MatMul", ["h1", "D"], ["d"]), make("Sigmoid", ["d"], ["frame"])] if head else
          [make("Identity", ["h1"], ["frame"])]),
        make("Cast", ["next"], ["nf"], to=F),
        make("Cast", ["turns"], ["tf"], to=F),
        make("Less", ["nf", "tf"], ["c_a"]),
        make("Cast", ["turn"], ["jf"], to=F),
        make("Less", ["jf", "tf"], ["c_b"]),
        make("And", ["c_a", "c_b"], ["go"]),
    ]  # fmt: skip
    results = [f"{s}1" for s in states]
    body = helper.make_graph(
        inner,
        "body",
        [value("turn", I64), value("going", TensorProto.BOOL), value("place", I32)]
        + [value(s, F, ("n", H)) for s in states]
        + [value("turns", I32), value("R", F, made["R"].shape)],
        [value("go", TensorProto.BOOL), value("next", I32)]
        + [value(r, F, None) for r in results]
        + [value("turns", I32), value("R", F, None), value("frame", F, None)],
    )
    outs = [f"{s}_last" for s in states]
    outer = [
        make("Shape", ["X"], ["sizes"]),
        make("Gather", ["sizes", "at"], ["T"]),
        make("Cast", ["T"], ["T32"], to=I32),
        make("Cast", ["T32"], ["Tf"], to=F),
        make("Less", ["zero", "Tf"], ["start"]),
        make("Loop", ["T" if limit else "many", "start", "i0", *(f"{s}0" for s in states), "T32",
                      "R"], ["i_last", *outs, "t_last", "R_last", "Y"], "loop", body=body),
    ]  # fmt: skip
    constants = made | {
        "at": np.array(0), "i0": np.array(0, np.int32), "i1": np.array(1, np.int32),
        "many": np.array(2**62),
    }  # fmt: skip
    return graph_model(outer, shapes_of(states, t), [*outs, "Y"], constants), states


def check(model: Any, states: list[str], sizes: Sequence[tuple[int, int]]) -> Any:
    """Compare with ONNX Runtime in the reference and the engine; there is one Recurrent node."""
    for n, t in sizes:
        inputs = feeds_of(states, n, t)
        spec, report = compare(model, inputs)
        found = gr.Model.from_spec(spec).run_graph(inputs)
        for port, wanted in zip(spec.graph.outputs, run_model(model, inputs), strict=True):
            assert_close(found[port.name], wanted, ORT_RECURRENT)
    (node,) = [n for n in all_nodes(spec.graph) if n.op == "Recurrent"]
    assert any("decomposed" in text for text in report.fused)
    return node


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("form", ["keras2", "keras3", "sigmoid"])
@pytest.mark.parametrize("cell", CELLS)
def test_loops_of_tensorflow(cell: str, form: str, linear: bool) -> None:
    node = check(*loop_model(cell, form, linear, "T", cell == "lstm", True), [(N, 6), (1, 3)])
    if cell != "rnn" and form != "sigmoid":
        assert node.attrs["activations"][0] == "HardSigmoid"
    if cell == "gru":
        assert node.attrs["activations"][1] == ("Affine" if linear else "Tanh")
        assert node.attrs["reset"] == "before"


@pytest.mark.parametrize("cell", CELLS)
def test_scans(cell: str) -> None:
    for head in (False, True):
        for t in ("T", 6):
            check(*scan_model(cell, "keras2", False, t, head), [(N, 6)])


def test_the_condition_alone_ends_a_loop() -> None:
    check(*loop_model("gru", "keras2", True, "T", False, False), [(N, 6), (2, 1)])


def test_a_scan_backwards_along_another_axis() -> None:
    model, states = scan_model(
        "lstm", "sigmoid", False, "T", True, scan_input_directions=[1],
        scan_output_directions=[1], scan_output_axes=[1],
    )  # fmt: skip
    check(model, states, [(N, 6)])
    model, states = scan_model("gru", "sigmoid", False, 6, False, scan_input_axes=[1])
    inputs = {**feeds_of(states, 4, N), "X": random(4, 6, I)}
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    for size in (4, 6, I):
        model.graph.input[0].type.tensor_type.shape.dim.add().dim_value = size
    compare(model, inputs)


def test_a_loop_streams_frame_by_frame() -> None:
    model, _ = scan_model("gru", "keras3", False, "T", True)
    fixed = {"h0": np.zeros((1, H), np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in fixed.items())
    keep = [p for p in model.graph.input if p.name != "h0"]
    del model.graph.input[:]
    model.graph.input.extend(keep)
    del model.graph.output[0]
    for port in model.graph.input:
        port.type.tensor_type.shape.dim[1].dim_value = 1
    loaded = gr.load(model.SerializeToString())
    assert loaded.streamable.form == "frames", loaded.streamable.reason


# -- what is unrolled, what is refused ------------------------------------------------------------


def counting(nodes: Nodes, count: Any, start: Any = True, **constants: Array) -> Any:
    """A Loop with one state "s" [2], whose turns are ``nodes`` from s to s1 and go."""
    body = helper.make_graph(
        nodes,
        "body",
        [value("turn", I64), value("going", TensorProto.BOOL), value("s", F, (2,))],
        [value("go", TensorProto.BOOL), value("s1", F, (2,)), value("row", F, None)],
    )
    node = make("Loop", ["M", "start", "x"], ["y", "rows"], "loop", body=body)
    given = {"M": np.array(count), "start": np.array(start), **constants}
    return graph_model([node], {"x": (2,)}, ["y", "rows"], given)


ROW = make("Mul", ["s1", "s1"], ["row"])
ON = make("Identity", ["going"], ["go"])
GROW = [make("Cast", ["turn"], ["k"], to=F), make("Add", ["s", "k"], ["a"])]


def test_short_loops_are_unrolled() -> None:
    nodes = [*GROW, make("Tanh", ["a"], ["s1"]), ROW, ON]
    spec, _ = compare(counting(nodes, 4), {"x": random(2)})
    assert ops(spec).count("Tanh") == 4


def test_a_condition_on_the_turn_ends_a_loop() -> None:
    nodes = [*GROW, make("Tanh", ["a"], ["s1"]), ROW, make("Less", ["turn", "two"], ["go"])]
    spec, _ = compare(counting(nodes, 9, two=np.array(2)), {"x": random(2)})
    assert ops(spec).count("Tanh") == 3


REFUSED = {
    "depends on data": ([make("Neg", ["s"], ["s1"]), ROW, make("ReduceMax", ["s1"], ["m"]),
                         make("Greater", ["m", "zero"], ["g"]),
                         make("Squeeze", ["g"], ["go"])], 3),
    "at most 1024 turns": ([make("Tanh", ["s"], ["s1"]), ROW, ON], 5000),
    "does not run at all": ([make("Tanh", ["s"], ["s1"]), ROW, ON], 0),
    "Det": ([make("Det", ["s"], ["s1"]), ROW, ON], 3),
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_loops_refused(words: str) -> None:
    nodes, count = REFUSED[words]
    model = counting(nodes, count, zero=np.array(0, np.float32))
    assert any(words in reason for reason in refusals(model))


def test_a_loop_over_a_free_size_that_is_no_cell() -> None:
    nodes, made, states = simple("", False)
    nodes = [*nodes[:-1], make("Mul", ["all", "h"], ["h1"])]
    body = body_of(nodes, states, constants_of(made), False)
    node = make("Scan", ["h0", "X"], ["h_last", "Y"], "scan", body=body, num_scan_inputs=1)
    free = graph_model([node], shapes_of(states, "T"), ["Y"])
    assert any("no known cell" in reason and "T times" in reason for reason in refusals(free))
    compare(graph_model([node], shapes_of(states, 4), ["Y"]), feeds_of(states, N, 4))


def test_an_unused_output_of_a_loop_is_no_reason() -> None:
    model, _ = loop_model("rnn", "", False, "T", False, True)
    read(model)
