# SPDX-License-Identifier: MIT
"""One number: steps, chunks, batches, halves and threads give the same bits, on every ISA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from random_models import draw

import gruengine as gr
from gruengine.spec import Graph, ModelSpec, Node, Port

Array = np.ndarray[Any, Any]
SEEDS = 40


def same(a: Array, b: Array) -> bool:
    """Equal in every bit: NaN, if any, stands where NaN stands, and zeros have equal signs."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def by_steps(stream: gr.Stream, x: Array) -> Array:
    frames = [stream.step(np.ascontiguousarray(x[:, t])) for t in range(x.shape[1])]
    return np.stack(frames, 1)


def by_chunks(stream: gr.Stream, x: Array, rng: np.random.Generator, longest: int) -> Array:
    parts, at = [], 0
    while at < x.shape[1]:
        size = int(rng.integers(0, longest + 1))
        parts.append(stream.run(np.ascontiguousarray(x[:, at : at + size])))
        at += size
    return np.concatenate(parts, 1)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_steps_chunks_halves_and_the_whole_give_the_same_bits(isa: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = draw(rng)
    model = case.load()
    assert model.isa == isa
    N, T = int(rng.integers(1, 9)), int(rng.integers(1, 24))
    x = case.input(rng, N, T)
    whole = model(x)
    assert np.isfinite(whole).all()
    assert same(by_steps(model.stream(N), x), whole)
    assert same(by_chunks(model.stream(N), x, rng, T), whole)
    half = int(rng.integers(0, T + 1))
    first, state = model.run(x[:, :half])
    second, _ = model.run(x[:, half:], state)
    assert same(np.concatenate([first, second], 1), whole)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_row_of_a_batch_is_the_row_alone(isa: str, seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    case = draw(rng, bidirectional=seed % 3 == 0)
    model = case.load()
    N, T = int(rng.integers(2, 20)), int(rng.integers(1, 9))
    x = case.input(rng, N, T)
    whole = model(x)
    for row in range(N):
        assert same(model(x[row : row + 1]), whole[row : row + 1]), row
    some = np.sort(rng.choice(N, int(rng.integers(1, N + 1)), replace=False))
    assert same(model(np.ascontiguousarray(x[some])), whole[some])


def scatter(net: gr.Sequential, rng: np.random.Generator) -> None:
    """Give a model random parameters that keep its sums near one."""
    net.set_parameters(
        {
            name: rng.normal(scale=1 / np.sqrt(value.shape[-1]), size=value.shape)
            for name, value in net.parameters().items()
        }
    )


def deep(kind: str, inputs: int, units: int, rng: np.random.Generator) -> gr.Sequential:
    """Return a layer whose products are so long that tiles of many rows take them in parts."""
    layers: dict[str, Any] = {
        "lstm": gr.LSTM(units, peepholes=True, return_sequences=True),
        "gru after": gr.GRU(units, return_sequences=True),
        "gru before": gr.GRU(units, reset="before", return_sequences=True),
        "rnn": gr.RNN(units, return_sequences=True),
    }
    net = gr.Sequential([layers[kind], gr.Dense(3)], inputs)
    scatter(net, rng)
    return net


@pytest.mark.parametrize(
    ("kind", "inputs", "units"),
    [
        ("lstm", 5003, 21),
        ("gru after", 6007, 21),
        ("gru before", 6007, 5),
        ("rnn", 5003, 70),
        ("lstm", 3, 2101),
    ],
)
def test_rows_of_long_products_are_the_rows_alone(
    isa: str, kind: str, inputs: int, units: int
) -> None:
    rng = np.random.default_rng(5)
    model = deep(kind, inputs, units, rng).model()
    assert model.isa == isa
    many = (2, 7) if units > 2000 else (2, 3, 4, 6, 7, 13, 67)
    x = rng.normal(size=(max(many), 3, inputs)).astype(np.float32)
    alone = np.concatenate([by_steps(model.stream(1), x[i : i + 1]) for i in range(len(x))])
    for rows in many:
        part = np.ascontiguousarray(x[:rows])
        assert same(model(part), alone[:rows]), rows
        assert same(by_steps(model.stream(rows), part), alone[:rows]), rows


@pytest.mark.parametrize("seed", range(10))
def test_lengths_give_the_bits_of_the_rows_alone(isa: str, seed: int) -> None:
    rng = np.random.default_rng(2000 + seed)
    case = draw(rng, bidirectional=seed % 2 == 0)
    model = case.load()
    N, T = int(rng.integers(1, 9)), int(rng.integers(1, 12))
    x = case.input(rng, N, T)
    lengths = rng.integers(0, T + 1, N)
    y, state = model.run(x, lengths=lengths)
    for row, length in enumerate(lengths):
        alone, after = model.run(x[row : row + 1, :length])
        assert same(y[row : row + 1, :length], alone)
        assert not y[row, length:].any()
        if length > 0:
            for name, value in after.items():
                assert same(np.ascontiguousarray(state[name][:, row : row + 1]), value), name


def big(kind: str, rng: np.random.Generator) -> tuple[gr.Sequential, int]:
    """Return a model whose steps are long enough for two threads, with odd sizes."""
    layers: dict[str, list[Any]] = {
        "lstm": [gr.LSTM(203, return_sequences=True)],
        "gru after": [gr.GRU(247, return_sequences=True)],
        "gru before": [gr.GRU(253, reset="before", return_sequences=True)],
        "rnn": [gr.RNN(401, return_sequences=True)],
        "projection": [
            gr.LSTM(259, projection=131, peepholes=True, return_sequences=True, num_layers=2),
            gr.Dense(17, "softmax"),
        ],
        "bidirectional": [gr.LSTM(211, bidirectional=True, return_sequences=True)],
    }
    net = gr.Sequential(layers[kind], 37)
    scatter(net, rng)
    return net, 37


@pytest.mark.parametrize(
    "kind", ["lstm", "gru after", "gru before", "rnn", "projection", "bidirectional"]
)
def test_two_threads_give_the_bits_of_one(isa: str, kind: str, rng: np.random.Generator) -> None:
    net, features = big(kind, rng)
    one, two = net.compile(), net.compile(num_threads=2)
    assert (one.num_threads, two.num_threads) == (1, 2)
    for N, T in ((1, 20), (5, 12)):
        x = rng.normal(size=(N, T, features)).astype(np.float32)
        whole = one(x)
        assert same(two(x), whole)
        lengths = rng.integers(0, T + 1, N)
        assert same(two.run(x, lengths=lengths)[0], one.run(x, lengths=lengths)[0])
        if one.streamable:
            assert same(by_steps(two.stream(N), x), whole)
            assert same(by_chunks(two.stream(N), x, rng, 7), whole)


def test_chunks_of_every_length(isa: str, rng: np.random.Generator) -> None:
    """The lengths around those that the engine runs in one piece."""
    case = draw(rng)
    model = case.load()
    x = case.input(rng, 2, 300)
    whole = model(x)
    for size in (1, 2, 15, 16, 17, 31, 33, 127, 128, 129, 145, 299, 300):
        stream = model.stream(2)
        parts = [stream.run(np.ascontiguousarray(x[:, t : t + size])) for t in range(0, 300, size)]
        assert same(np.concatenate(parts, 1), whole), size


def steps(model: gr.Model, x: Array) -> list[Array]:
    stream = model.stream(x.shape[1])
    return [stream.step(x[t]) for t in range(x.shape[0])]


def test_models_that_have_time_first(isa: str, rng: np.random.Generator) -> None:
    net = gr.Sequential([gr.GRU(19, return_sequences=True)], 5, batch_first=False)
    model = net.compile()
    x = rng.normal(size=(33, 3, 5)).astype(np.float32)
    whole = model(x)
    assert same(np.stack(steps(model, x)), whole)
    assert same(model.stream(3).run(x), whole)
    assert same(np.ascontiguousarray(whole[:, 1:2]), model(np.ascontiguousarray(x[:, 1:2])))


def test_a_reversed_recurrence_does_not_stream_but_runs(isa: str) -> None:
    rng = np.random.default_rng(0)
    W, R = (rng.normal(size=(1, 4, k)).astype(np.float32) for k in (3, 4))
    attrs: dict[str, Any] = {
        "cell": "rnn", "hidden_size": 4, "direction": "reverse", "activations": ["Tanh"],
        "activation_alpha": [0.0], "activation_beta": [0.0], "clip": 0.0,
    }  # fmt: skip
    spec = ModelSpec(
        Graph(
            [Port("x", "float32", ("T", "N", 3))],
            [Port("y", "float32", ("T", 1, "N", 4))],
            [Node("Recurrent", ("x", "W", "R"), ("y",), attrs, "backwards")],
        ),
        {"W": W, "R": R},
    )
    model = gr.Model.from_spec(spec)
    assert not model.streamable
    assert "backwards" in model.streamable.node
    x = rng.normal(size=(6, 2, 3)).astype(np.float32)
    late = model(np.ascontiguousarray(x[3:]))
    assert same(np.ascontiguousarray(model(x)[3:]), late)
