# SPDX-License-Identifier: MIT
"""Layers and Sequential: parameters, shapes, and numbers beside PyTorch and the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gruengine as gr
from gruengine.reference_graph import run_graph

RECURRENT = {
    "rnn": lambda **k: gr.RNN(7, **k),
    "rnn relu": lambda **k: gr.RNN(7, "relu", **k),
    "lstm": lambda **k: gr.LSTM(7, **k),
    "lstm peepholes": lambda **k: gr.LSTM(7, peepholes=True, **k),
    "lstm coupled": lambda **k: gr.LSTM(7, coupled=True, peepholes=True, **k),
    "lstm projection": lambda **k: gr.LSTM(7, projection=3, **k),
    "gru": lambda **k: gr.GRU(7, **k),
    "gru before": lambda **k: gr.GRU(7, reset="before", **k),
}
VARIANTS = [
    {},
    {"return_sequences": True},
    {"bidirectional": True},
    {"bidirectional": True, "return_sequences": True, "num_layers": 2},
    {"num_layers": 3, "clip": 0.4},
]


def randomise(net: gr.Sequential, seed: int = 3) -> None:
    """Give every parameter, biases too, a value that matters."""
    rng = np.random.default_rng(seed)
    shapes = {name: value.shape for name, value in net.parameters().items()}
    net.set_parameters({name: rng.normal(0, 0.5, shape) for name, shape in shapes.items()})


def by_reference(net: gr.Sequential, x):
    spec = net.spec()
    return run_graph(spec.graph, spec.tensors, {"x": x})["y"]


def sample(*shape, seed=1):
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


# -- parameters and shapes ------------------------------------------------------------------------


def test_the_summary_counts_like_keras():
    net = gr.Sequential([gr.Embedding(5000, 32), gr.LSTM(100), gr.Dense(1, activation="sigmoid")])
    rows = net.summary().splitlines()
    assert [row.split()[-1] for row in rows[2:5]] == ["160,000", "53,200", "101"]
    assert rows[-1].split() == ["total", "213,301"]
    assert "[N, T, 32]" in rows[2]
    assert "[N, 100]" in rows[3]
    assert "[N, 1]" in rows[4]


@pytest.mark.parametrize(
    ("layer", "count"),
    [
        (gr.RNN(7), 7 * (5 + 7 + 1)),
        (gr.GRU(7), 3 * 7 * (5 + 7 + 2)),
        (gr.GRU(7, reset="before"), 3 * 7 * (5 + 7 + 1)),
        (gr.LSTM(7), 4 * 7 * (5 + 7 + 1)),
        (gr.LSTM(7, coupled=True), 3 * 7 * (5 + 7 + 1)),
        (gr.LSTM(7, peepholes=True), 4 * 7 * (5 + 7 + 1) + 3 * 7),
        (gr.LSTM(7, projection=3), 4 * 7 * (5 + 3 + 1) + 3 * 7),
        (gr.LSTM(7, bidirectional=True), 2 * 4 * 7 * (5 + 7 + 1)),
        (gr.LSTM(7, num_layers=2), 4 * 7 * (5 + 7 + 1) + 4 * 7 * (7 + 7 + 1)),
        (gr.Dense(4), 5 * 4 + 4),
        (gr.Dense(4, use_bias=False), 5 * 4),
        (gr.LayerNorm(), 10),
        (gr.Dropout(0.5), 0),
        (gr.Softmax(), 0),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else "",
)
def test_counts(layer, count):
    net = gr.Sequential([layer], input_size=5)
    assert sum(value.size for value in net.parameters().values()) == count


def test_parameters_start_as_documented():
    lstm = gr.LSTM(40)
    gr.Sequential([lstm], input_size=30, seed=4)
    W, R, b = (lstm.params[key][0] for key in ("W", "R", "b"))
    np.testing.assert_allclose(R.T @ R, np.eye(40), atol=1e-6)
    assert np.abs(W).max() <= np.sqrt(6 / (160 + 30))
    assert np.abs(W).max() > 0.9 * np.sqrt(6 / (160 + 30))
    np.testing.assert_array_equal(b, np.repeat([0, 0, 1, 0], 40))
    assert {value.dtype for value in lstm.params.values()} == {np.dtype(np.float32)}


def test_the_seed_decides():
    def first(seed):
        return gr.Sequential([gr.GRU(6)], input_size=3, seed=seed).parameters()["gru.W"]

    np.testing.assert_array_equal(first(1), first(1))
    assert not np.array_equal(first(1), first(2))


def test_names_are_unique():
    net = gr.Sequential([gr.Dense(3), gr.Dense(3), gr.Dense(2, name="head")], input_size=2)
    assert list(net.parameters()) == [
        "dense.W", "dense.b", "dense_1.W", "dense_1.b", "head.W", "head.b"
    ]  # fmt: skip


# -- numbers --------------------------------------------------------------------------------------

TORCH_ROWS = {"lstm": [0, 2, 3, 1], "gru": [1, 0, 2], "rnn": [0]}  # of ours, in torch's order


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ["rnn", "rnn relu", "lstm", "lstm projection", "gru"])
def test_recurrent_layers_compute_what_torch_computes(kind, bidirectional):
    layer = RECURRENT[kind](num_layers=2, bidirectional=bidirectional, return_sequences=True)
    net = gr.Sequential([layer], input_size=5)
    randomise(net)
    options = {"batch_first": True, "num_layers": 2, "bidirectional": bidirectional}
    cell = layer.cell
    if cell == "rnn":
        options["nonlinearity"] = layer.activation
    if kind == "lstm projection":
        options["proj_size"] = 3
    module = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell](
        5, 7, **options
    )

    def rows(value):
        blocks = np.split(value, layer.gates)
        return torch.from_numpy(np.concatenate([blocks[i] for i in TORCH_ROWS[cell]]))

    state = {}
    for index in range(2):
        ours = {key: layer.params[key + ("_l1" if index else "")] for key in ("W", "R", "b")}
        for d, tail in enumerate(["", "_reverse"][: layer.directions]):
            end = f"_l{index}{tail}"
            halves = np.split(ours["b"][d], layer.biases)
            state["weight_ih" + end] = rows(ours["W"][d])
            state["weight_hh" + end] = rows(ours["R"][d])
            state["bias_ih" + end] = rows(halves[0])
            state["bias_hh" + end] = rows(halves[1] if layer.biases == 2 else 0 * halves[0])
            if kind == "lstm projection":
                projection = layer.params["projection" + ("_l1" if index else "")][d]
                state["weight_hr" + end] = torch.from_numpy(projection.copy())
    module.load_state_dict(state)
    x = sample(3, 9, 5)
    with torch.no_grad():
        expected, _ = module(torch.from_numpy(x))
    np.testing.assert_allclose(net(x), expected.numpy(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_layers_agree_with_the_reference(kind, options):
    net = gr.Sequential([RECURRENT[kind](**options)], input_size=5)
    randomise(net)
    x = sample(3, 6, 5)
    found = net(x)
    directions = 2 if options.get("bidirectional") else 1
    size = 3 if "projection" in kind else 7
    steps = (6,) if options.get("return_sequences") else ()
    assert found.shape == (3, *steps, directions * size)
    np.testing.assert_allclose(found, by_reference(net, x), rtol=2e-5, atol=2e-6)


def test_the_last_output_is_that_of_the_sequence():
    whole = gr.Sequential([gr.LSTM(6, return_sequences=True)], input_size=4)
    last = gr.Sequential([gr.LSTM(6)], input_size=4)
    randomise(whole)
    last.set_parameters(whole.parameters())
    x = sample(2, 5, 4)
    np.testing.assert_array_equal(last(x), whole(x)[:, -1])


@pytest.mark.parametrize(
    "activation",
    ["linear", "relu", "sigmoid", "tanh", "softmax", "elu", "leaky_relu", "softplus", "softsign",
     "exponential", "hard_sigmoid"],
)  # fmt: skip
def test_activations(activation):
    net = gr.Sequential([gr.Dense(6, activation), gr.Activation(activation)], input_size=4)
    randomise(net)
    x = sample(2, 5, 4)
    W, b = (net.parameters()[key].astype(np.float64) for key in ("dense.W", "dense.b"))
    v = torch.from_numpy(x.astype(np.float64) @ W + b)
    function = {
        "linear": lambda a: a, "relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
        "softmax": lambda a: torch.softmax(a, -1), "elu": torch.nn.functional.elu,
        "leaky_relu": lambda a: torch.nn.functional.leaky_relu(a, 0.2),
        "softplus": torch.nn.functional.softplus, "softsign": torch.nn.functional.softsign,
        "exponential": torch.exp, "hard_sigmoid": torch.nn.functional.hardsigmoid,
    }[activation]  # fmt: skip
    expected = function(function(v)).numpy()
    np.testing.assert_allclose(net(x), expected, rtol=3e-5, atol=2e-6)


def test_a_deep_mix_agrees_with_torch():
    net = gr.Sequential(
        [gr.Embedding(11, 6), gr.Dropout(0.3), gr.GRU(7, return_sequences=True), gr.LayerNorm(1e-3),
         gr.RNN(5), gr.Dense(4), gr.Softmax()]
    )  # fmt: skip
    randomise(net)
    x = np.random.default_rng(0).integers(0, 11, (3, 8))
    np.testing.assert_allclose(net(x), by_reference(net, x), rtol=2e-5, atol=1e-6)
    values = {k: torch.from_numpy(v.copy()) for k, v in net.parameters().items()}
    norm = torch.nn.functional.layer_norm(
        torch.from_numpy(sample(3, 7)),
        (7,),
        values["layer_norm.scale"],
        values["layer_norm.shift"],
        1e-3,
    )
    alone = gr.Sequential([gr.LayerNorm(1e-3)], input_size=7)
    alone.set_parameters({k: v for k, v in net.parameters().items() if k.startswith("layer_norm.")})
    np.testing.assert_allclose(alone(sample(3, 7)[:, None])[:, 0], norm, rtol=1e-5, atol=1e-6)


def test_time_first_is_the_transpose():
    first = gr.Sequential([gr.GRU(6, return_sequences=True), gr.Dense(2)], input_size=4)
    other = gr.Sequential(
        [gr.GRU(6, return_sequences=True), gr.Dense(2)], input_size=4, batch_first=False
    )
    x = sample(3, 5, 4)
    np.testing.assert_array_equal(
        other(np.ascontiguousarray(x.swapaxes(0, 1))), first(x).swapaxes(0, 1)
    )
    assert other.spec().graph.outputs[0].shape == ("T", "N", 2)


# -- streams, files, parameters -------------------------------------------------------------------


def test_a_stream_gives_the_bits_of_the_sequence():
    net = gr.Sequential([gr.LSTM(9, return_sequences=True), gr.Dense(3)], input_size=4)
    randomise(net)
    x = sample(2, 12, 4)
    stream = net.stream(2)
    steps = [stream.step(np.ascontiguousarray(x[:, t])).copy() for t in range(12)]
    np.testing.assert_array_equal(np.stack(steps, 1), net(x))


def test_a_stream_gives_the_output_for_the_frames_so_far():
    net = gr.Sequential([gr.GRU(9), gr.Dense(3)], input_size=4)
    randomise(net)
    x = sample(1, 7, 4)
    stream = net.stream()
    for t in range(7):
        step = stream.step(np.ascontiguousarray(x[:, t]))
        np.testing.assert_array_equal(step, net(np.ascontiguousarray(x[:, : t + 1])))


def test_a_saved_model_is_the_same_model(tmp_path):
    net = gr.Sequential([gr.LSTM(9, bidirectional=True), gr.Dense(3)], input_size=4)
    randomise(net)
    net.save(tmp_path / "net.safetensors")
    x = sample(3, 5, 4)
    np.testing.assert_array_equal(gr.load(tmp_path / "net.safetensors")(x), net(x))
    report = gr.verify(tmp_path / "net.safetensors")
    assert report.passed
    assert report.notes == []


def test_the_model_follows_its_parameters():
    net = gr.Sequential([gr.GRU(4)], input_size=3)
    x = sample(1, 5, 3)
    before = net(x)
    assert net.model() is net.model()
    net.set_parameters({"gru.W": net.parameters()["gru.W"] * 2})
    assert not np.array_equal(net(x), before)
    with pytest.raises(ValueError, match="read-only"):
        net.parameters()["gru.W"][:] = 0


def test_a_wrong_parameter_changes_nothing():
    net = gr.Sequential([gr.GRU(4)], input_size=3)
    before = net.parameters()
    with pytest.raises(gr.InvalidInputError, match=r"gru\.R has shape \(1, 12, 4\), not \(2,\)"):
        net.set_parameters({"gru.W": before["gru.W"] * 2, "gru.R": [1, 2]})
    with pytest.raises(gr.InvalidInputError, match=r"no parameter 'W'.*gru\.W"):
        net.set_parameters({"W": 1})
    assert all(net.parameters()[name] is value for name, value in before.items())


def test_the_first_input_builds_the_model():
    net = gr.Sequential([gr.GRU(4)])
    with pytest.raises(gr.InvalidInputError, match="not built"):
        net.summary()
    with pytest.raises(gr.InvalidInputError, match="3 axes"):
        net(sample(3, 5))
    assert net(sample(2, 5, 3)).shape == (2, 4)
    assert net.input_size == 3


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gr.Sequential([]), "no layers"),
        (lambda: gr.Sequential([3]), "3 is no layer"),
        (lambda: gr.LSTM(0), "units is 0; it must be a positive integer"),
        (lambda: gr.LSTM(2.5), "units is 2.5"),
        (lambda: gr.LSTM(3, clip=-1), "clip is -1"),
        (lambda: gr.LSTM(3, name="a.b"), "layer name 'a.b'"),
        (lambda: gr.RNN(3, "sigmoid"), "activation is 'sigmoid'; it must be one of 'tanh', 'relu'"),
        (lambda: gr.GRU(3, reset="never"), "reset is 'never'"),
        (lambda: gr.Dense(3, "swish"), "activation is 'swish'"),
        (lambda: gr.Dropout(1.0), "rate is 1.0"),
        (lambda: gr.LayerNorm(0.0), "epsilon is 0.0"),
        (lambda: gr.Sequential([gr.GRU(3), gr.LSTM(3)], input_size=2), "return_sequences=True"),
        (lambda: gr.Sequential([gr.Dense(2), gr.Embedding(3, 4)], input_size=2), "first layer"),
        (lambda: gr.Sequential([gr.Embedding(3, 4)], input_size=2), "an Embedding reads integers"),
        (lambda: gr.Sequential([gr.GRU(3, name="x")], input_size=2), "'x' or 'y'"),
        (lambda: gr.Sequential([gr.GRU(3)], input_size=0), "input_size is 0"),
        (lambda: gr.Sequential([gr.GRU(3)]).build(), "input_size is not known"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(gr.InvalidInputError, match=message):
        make()


def test_a_layer_stands_in_one_model():
    layer = gr.GRU(3)
    gr.Sequential([layer], input_size=2)
    with pytest.raises(gr.InvalidInputError, match="in a model already"):
        gr.Sequential([layer], input_size=4)
