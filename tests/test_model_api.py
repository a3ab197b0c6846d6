# SPDX-License-Identifier: MIT
"""Models from Python: what they say of themselves, what they take, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gruengine as gr
from gruengine.runtime import level_of
from gruengine.spec import Graph, ModelSpec, Node, Port

Array = np.ndarray[Any, Any]
H, I, O = 4, 3, 2


def rnn_attrs(**more: Any) -> dict[str, Any]:
    return {
        "cell": "rnn", "hidden_size": H, "direction": "forward", "activations": ["Tanh"],
        "activation_alpha": [0.0], "activation_beta": [0.0], "clip": 0.0, **more,
    }  # fmt: skip


def spec_of(
    nodes: list[Node],
    out: tuple[int | str, ...],
    shape: tuple[int, ...] = (),
    dtype: str = "float32",
    **attrs: Any,
) -> ModelSpec:
    """A recurrence over ``x`` [T, N, 3] whose output ``Y`` goes through ``nodes`` to ``y``."""
    rng = np.random.default_rng(0)
    tensors = {
        "W": rng.normal(size=(1, H, I)).astype(np.float32),
        "R": rng.normal(size=(1, H, H)).astype(np.float32),
        "D": rng.normal(size=(H, O)).astype(np.float32),
        "b": np.ones(O, np.float32),
        "axis": np.array([1]),
        "shape": np.array(shape, np.int64),
        "zero": np.array(0),
        "one": np.array(1),
    }
    head = [
        Node("Recurrent", ("x", "W", "R"), ("Y",), rnn_attrs(**attrs), "rnn"),
        Node("Squeeze", ("Y", "axis"), ("s",)),
    ]
    graph = Graph([Port("x", "float32", ("T", "N", I))], [Port("y", dtype, out)], head + nodes)
    return ModelSpec(graph, tensors)


DENSE = [Node("MatMul", ("s", "D"), ("m",)), Node("Add", ("m", "b"), ("y",))]


@pytest.fixture(scope="module")
def model() -> gr.Model:
    return gr.Model.from_spec(spec_of(DENSE, ("T", "N", O)))


def inputs(T: int = 5, N: int = 2) -> Array:
    return np.random.default_rng(1).normal(size=(T, N, I)).astype(np.float32)


# -- facts ----------------------------------------------------------------------------------------


def test_a_model_says_what_it_is(model: gr.Model) -> None:
    assert model.signature.inputs == (Port("x", "float32", ("T", "N", I)),)
    assert model.signature.outputs == (Port("y", "float32", ("T", "N", O)),)
    assert model.signature.state == ()
    assert (model.compute_type, model.num_threads) == ("float32", 1)
    assert model.isa == gr.info()["isa"]
    assert model.packed_bytes > 0
    assert gr.info(model)["model"] == {
        "isa": model.isa, "compute_type": "float32", "num_threads": 1,
        "packed_bytes": model.packed_bytes, "fits": level_of(model.packed_bytes),
    }  # fmt: skip
    assert "model" not in gr.info()
    assert (model.streamable.form, model.streamable.time, model.streamable.batch) == (
        "frames", "T", "N",
    )  # fmt: skip
    assert "x['T', 'N', 3]" in repr(model)


def test_the_hash_follows_graph_and_weights(tmp_path: Path) -> None:
    spec = spec_of(DENSE, ("T", "N", O))
    spec.save(tmp_path / "model.safetensors")
    from_file = gr.load(tmp_path / "model.safetensors")
    from_bytes = gr.load(spec.to_bytes())
    assert from_file.hash == from_bytes.hash == spec.hash() == gr.Model.from_spec(spec).hash
    spec.tensors["b"] = spec.tensors["b"] + np.float32(1)
    assert gr.Model.from_spec(spec).hash != from_file.hash


def test_compute_types_and_threads_are_checked() -> None:
    data = spec_of(DENSE, ("T", "N", O)).to_bytes()
    fastest = "bfloat16" if gr.info()["isa"] == "amx" else "float32"
    assert gr.load(data, compute_type="auto").compute_type == fastest
    assert gr.load(data, compute_type=None).compute_type == "float32"
    for kind in ("int9", "", "Float32"):
        with pytest.raises(gr.UnsupportedError, match="float32"):
            gr.load(data, compute_type=kind)
    for threads in (0, -1):
        with pytest.raises(gr.InvalidInputError, match="1 or more"):
            gr.load(data, num_threads=threads)
    with pytest.raises(gr.InvalidInputError, match="no options"):
        gr.load(data, batch_first=True)


# -- runs -----------------------------------------------------------------------------------------


def test_every_form_of_a_run_agrees(model: gr.Model) -> None:
    x = inputs()
    y = model(x)
    np.testing.assert_array_equal(model({"x": x}), y)
    np.testing.assert_array_equal(model.run(x)[0], y)
    np.testing.assert_array_equal(model.run_graph({"x": x})["y"], y)
    np.testing.assert_array_equal(model(x.astype(np.float64)), y)
    np.testing.assert_array_equal(model(x.tolist()), y)
    np.testing.assert_array_equal(model(np.asfortranarray(x)), y)
    np.testing.assert_array_equal(model(x.astype(">f4")), y)


def test_no_rows_and_no_frames(model: gr.Model) -> None:
    assert model(inputs(0)).shape == (0, 2, O)
    assert model(inputs(5, 0)).shape == (5, 0, O)
    y, state = model.run(inputs(0))
    assert y.shape == (0, 2, O)
    assert not state["rnn.h"].any()


def test_the_state_continues_and_belongs_to_the_caller(model: gr.Model) -> None:
    x = inputs(6)
    y, after = model.run(x)
    first, state = model.run(x[:4])
    kept = {name: value.copy() for name, value in state.items()}
    second, final = model.run(x[4:], state)
    np.testing.assert_array_equal(np.concatenate([first, second]), y)
    np.testing.assert_array_equal(final["rnn.h"], after["rnn.h"])
    np.testing.assert_array_equal(state["rnn.h"], kept["rnn.h"])
    assert state["rnn.h"].shape == (1, 2, H)


@pytest.mark.parametrize("sizes", [(5, 2), (3, 3), (2, 4)])
@pytest.mark.parametrize("turn", [False, True])
def test_lengths_blank_the_output_in_every_layout(turn: bool, sizes: tuple[int, int]) -> None:
    T, N = sizes
    nodes = [DENSE[0], Node("Add", ("m", "b"), ("a",))]
    perm = [1, 0, 2] if turn else [0, 1, 2]
    nodes.append(Node("Transpose", ("a",), ("y",), {"perm": perm}))
    model = gr.Model.from_spec(spec_of(nodes, ("N", "T", O) if turn else ("T", "N", O)))
    x, lengths = inputs(T, N), np.arange(N) % (T + 1)
    y, state = model.run(x, lengths=lengths)
    whole = model(x)
    if turn:
        y, whole = y.swapaxes(0, 1), whole.swapaxes(0, 1)
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(y[:length, row], whole[:length, row])
        assert not y[length:, row].any()
        if length:
            _, alone = model.run(x[:length, row : row + 1])
            np.testing.assert_array_equal(state["rnn.h"][:, row : row + 1], alone["rnn.h"])


def test_the_inputs_are_left_alone(model: gr.Model) -> None:
    x = inputs()
    x.flags.writeable = False
    kept = x.copy()
    model.run(x, lengths=[1, 5])
    np.testing.assert_array_equal(x, kept)


REFUSED: dict[str, tuple[Callable[[gr.Model], Any], type[Exception], str]] = {
    "complex": (lambda m: m(inputs() + 1j), gr.InvalidTypeError, "float32"),
    "text": (lambda m: m("x"), gr.InvalidTypeError, "float32"),
    "None": (lambda m: m(None), gr.InvalidTypeError, "float32"),
    "rank": (lambda m: m(inputs()[0]), gr.InvalidInputError, r"\[T, N, 3\]"),
    "features": (lambda m: m(np.zeros((2, 2, 4), "f4")), gr.InvalidInputError, r"\[T, N, 3\]"),
    "another name": (lambda m: m({"z": inputs()}), gr.InvalidInputError, r"\['x'\]"),
    "one name too many": (
        lambda m: m.run_graph({"x": inputs(), "z": 1}), gr.InvalidInputError, r"\['x'\]",
    ),
    "no dict": (lambda m: m.run_graph([inputs()]), gr.InvalidTypeError, "dict"),
    "state no dict": (lambda m: m.run(inputs(), 5), gr.InvalidTypeError, "dict"),
    "state names": (lambda m: m.run(inputs(), {}), gr.InvalidInputError, r"rnn\.h"),
    "state shape": (
        lambda m: m.run(inputs(), {"rnn.h": np.zeros((1, 3, H))}), gr.InvalidInputError, "1, 2, 4",
    ),
    "state text": (lambda m: m.run(inputs(), {"rnn.h": "x"}), gr.InvalidTypeError, "float32"),
    "too few lengths": (lambda m: m.run(inputs(), lengths=[1]), gr.InvalidInputError, "each row"),
    "long length": (lambda m: m.run(inputs(), lengths=[1, 6]), gr.InvalidInputError, "from 0 to 5"),
    "negative length": (lambda m: m.run(inputs(), lengths=[-1, 5]), gr.InvalidInputError, "-1"),
    "float lengths": (lambda m: m.run(inputs(), lengths=[1.0, 5.0]), gr.InvalidTypeError, "integ"),
    "lengths of rows": (lambda m: m.run(inputs(), lengths=[[1, 5]]), gr.InvalidTypeError, r"\[N\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_calls_are_refused(name: str, model: gr.Model) -> None:
    call, error, says = REFUSED[name]
    with pytest.raises(error, match=says) as caught:
        call(model)
    assert isinstance(caught.value, gr.GruEngineError)


def test_integers_are_not_made_of_floats() -> None:
    net = gr.Sequential([gr.Embedding(5, 3), gr.GRU(2)])
    assert net(np.array([[1, 2]], np.int8)).shape == (1, 2)
    for wrong in (np.array([[1.0]]), np.array([["1"]])):
        with pytest.raises(gr.InvalidTypeError, match="int64"):
            net(wrong)
    for index in (5, -6):
        with pytest.raises(gr.InvalidInputError, match="5 rows"):
            net(np.array([[0, index]]))


# -- streaming ------------------------------------------------------------------------------------

COUNT = [
    Node("Shape", ("x",), ("sizes",)),
    Node("Gather", ("sizes", "zero"), ("count",), {"axis": 0}),
    Node("Range", ("zero", "count", "one"), ("y",)),
]
MERGED = [Node("Reshape", ("s", "shape"), ("f",)), Node("MatMul", ("f", "D"), ("y",))]


def test_merged_frames_and_rows_stream_one_row_only() -> None:
    model = gr.Model.from_spec(spec_of(MERGED, ("M", O), (-1, H)))
    x = inputs(40, 1)
    whole = model(x)
    stream = model.stream()
    np.testing.assert_array_equal(np.stack([stream.step(frame) for frame in x]), whole)
    np.testing.assert_array_equal(model.stream().run(x), whole)
    assert model(inputs(5, 2)).shape == (10, O)
    with pytest.raises(gr.UnsupportedError, match="batch_size 2"):
        model.stream(2)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (spec_of(DENSE, ("T", "N", O), direction="reverse"), "'rnn'.*backwards"),
        (spec_of([Node("ReduceMean", ("s",), ("y",), {"axes": [0]})], (1, "N", H)), "ReduceMean"),
        (spec_of([Node("Softmax", ("s",), ("y",), {"axis": 0})], ("T", "N", H)), "Softmax"),
        (spec_of([Node("Shape", ("x",), ("y",))], (3,), dtype="int64"), "output 'y'"),
        (spec_of(COUNT, ("T",), dtype="int64"), "output 'y'"),
        # Which axes this removes depends on how many frames there are.
        (spec_of([Node("Squeeze", ("Y",), ("y",))], ("T", "N", H)), "'y' has shape"),
    ],
    ids=[
        "reverse",
        "mean over time",
        "softmax over time",
        "shape",
        "range",
        "squeeze of any axis",
    ],
)
def test_models_that_mix_frames_say_where(spec: ModelSpec, says: str) -> None:
    try:
        model = gr.Model.from_spec(spec)
    except gr.GruEngineError as error:
        pytest.fail(f"does not load: {error}")
    assert not model.streamable
    with pytest.raises(gr.UnsupportedError, match=f"does not stream.*{says}"):
        model.stream()


def test_the_last_output_streams_as_the_newest(model: gr.Model) -> None:
    net = gr.Sequential([gr.LSTM(5), gr.Dense(2)], I)
    x = inputs(7, 2).swapaxes(0, 1).copy()
    stream = net.compile().stream(2)
    for t in range(7):
        newest = stream.step(np.ascontiguousarray(x[:, t]))
        np.testing.assert_array_equal(newest, net(np.ascontiguousarray(x[:, : t + 1])))
    again = net.compile().stream(2)
    np.testing.assert_array_equal(again.run(x), newest)
