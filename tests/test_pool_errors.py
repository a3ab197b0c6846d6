# SPDX-License-Identifier: MIT
"""Pools refuse models whose rows depend on one another, and mistakes, which harm no stream."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gruengine as gr
from gruengine.spec import Graph, ModelSpec, Node, Port

Array = np.ndarray[Any, Any]


def lstm(units: int = 9, features: int = 4, **options: Any) -> gr.Model:
    layers = [gr.LSTM(units, return_sequences=True), gr.Dense(3)]
    return gr.Sequential(layers, features).compile(**options)


# -- refused models -------------------------------------------------------------------------------


def frames_model(nodes: list[Node], outputs: list[Port], tensors: dict[str, Array]) -> gr.Model:
    return gr.Model.from_spec(
        ModelSpec(Graph([Port("x", "float32", ("T", "N", 3))], outputs, nodes), tensors)
    )


def recurrent(rng: np.random.Generator, source: str = "x") -> tuple[Node, dict[str, Array]]:
    W, R = (rng.normal(size=(1, 4, k)).astype(np.float32) for k in (3, 4))
    attrs: dict[str, Any] = {
        "cell": "rnn", "hidden_size": 4, "direction": "forward", "activations": ["Tanh"],
        "activation_alpha": [0.0], "activation_beta": [0.0], "clip": 0.0,
    }  # fmt: skip
    return Node("Recurrent", (source, "W", "R"), ("y",), attrs, "cell"), {"W": W, "R": R}


def test_rows_that_see_each_other_are_refused(rng: np.random.Generator) -> None:
    node, tensors = recurrent(rng, "centred")
    tensors["axis"] = np.array([1], np.int64)
    nodes = [
        Node("ReduceMean", ("x", "axis"), ("mean",), {"keepdims": 1}, "over rows"),
        Node("Sub", ("x", "mean"), ("centred",), {}, "centre"),
        node,
    ]
    model = frames_model(nodes, [Port("y", "float32", ("T", 1, "N", 4))], tensors)
    assert model.streamable
    with pytest.raises(gr.UnsupportedError, match="as one batch: ReduceMean 'over rows'"):
        model.pool(4)


def test_an_output_without_rows_is_refused(rng: np.random.Generator) -> None:
    node, tensors = recurrent(rng)
    tensors["axis"] = np.array([2], np.int64)
    nodes = [node, Node("ReduceMax", ("y", "axis"), ("m",), {"keepdims": 0}, "best row")]
    model = frames_model(nodes, [Port("m", "float32", ("T", 1, 4))], tensors)
    assert model.streamable
    with pytest.raises(gr.UnsupportedError, match="best row"):
        model.pool(4)


@pytest.mark.parametrize(("shape", "placed"), [((2, 1, 2), False), ((1, 4), True)])
def test_shapes_written_down_for_one_row(
    shape: tuple[int, ...], placed: bool, rng: np.random.Generator
) -> None:
    """Where the 1 lies where the rows do, it may be their number."""
    nodes = [
        Node("Reshape", ("h", "shape"), ("seen",), {}, "see"),
        Node("Reshape", ("seen", "back"), ("again",), {}, "see again"),
        Node("Add", ("x", "again"), ("h2",), {}, "count"),
    ]
    one = ("float32", (1, 2, 2))
    graph = Graph([Port("x", *one), Port("h", *one)], [Port("h2", *one)], nodes)
    tensors = {"shape": np.array(shape, np.int64), "back": np.array([1, 2, 2], np.int64)}
    model = gr.Model.from_spec(ModelSpec(graph, tensors, state=(("h", "h2"),)))
    if not placed:
        with pytest.raises(gr.UnsupportedError, match="as one batch: Reshape 'see'"):
            model.pool(4)
        return
    pool = model.pool(4)
    ids = [pool.open() for _ in range(4)]
    x = rng.normal(size=(4, 2, 2)).astype(np.float32)
    pool.step(ids, x)
    assert np.array_equal(pool.step(ids[::-1], x), x + x[::-1])


def test_inputs_without_rows_are_refused(models: Path) -> None:
    with pytest.raises(gr.UnsupportedError, match="'input' has no axis for rows"):
        gr.load(models / "silero/silero_vad_v6_sequence.onnx").pool(4)
    model = gr.load(models / "silero/silero_vad_v6.2.onnx", bind={"sr": 16000})
    with pytest.raises(gr.InvalidInputError, match="'input_1' of input 'input' is open"):
        model.pool(4)


def test_models_that_do_not_stream_are_refused() -> None:
    net = gr.Sequential([gr.LSTM(4, bidirectional=True, return_sequences=True)], 3)
    with pytest.raises(gr.UnsupportedError, match="does not stream"):
        net.compile().pool(4)


# -- mistakes -------------------------------------------------------------------------------------


@pytest.fixture
def pool() -> gr.Pool:
    pool = lstm().pool(6)
    ids = [pool.open() for _ in range(4)]
    pool.step(ids, np.ones((4, 4), np.float32))
    return pool


def test_mistakes_harm_nothing(pool: gr.Pool) -> None:
    ids = list(pool)
    closed, other = pool.open(), lstm().pool(6).open()
    pool.close(closed)
    before = pool.get_state(ids)
    x = np.ones((2, 4), np.float32)
    wrong: list[tuple[Any, str]] = [
        (closed, "was closed"), (other, "another pool"), (ids[0], "occurs twice"),
        (-1, "never"), (0, "never"), (2**62, "another pool"), (ids[0] + (1 << 24), "never was"),
    ]  # fmt: skip
    for key, text in wrong:
        with pytest.raises(gr.InvalidInputError, match=text):
            pool.step([ids[0], key], x)
        with pytest.raises(gr.InvalidInputError, match=text):
            pool.run([ids[0], key], [x, x])
        with pytest.raises(gr.InvalidInputError, match=text):
            pool.close([ids[0], key])
    shapes = [(3, 4), (2, 5), (8,), (2, 1, 4), (0, 4)]
    for shape in shapes:
        with pytest.raises(gr.InvalidInputError, match=r"has shape .* must be \(2, 4\)"):
            pool.step(ids[:2], np.ones(shape, np.float32))
    for bad in (x.astype(np.float64), np.ones((4, 4), np.float32)[::2], [[1.0] * 4] * 2, None):
        with pytest.raises(gr.InvalidTypeError):
            pool.step(ids[:2], bad)
    for bad_ids in ([[ids[0]]], [0.5], "ab", [None]):
        with pytest.raises(gr.InvalidTypeError):
            pool.step(bad_ids, x)
    both = np.ones(14, np.float32)
    with pytest.raises(gr.InvalidInputError, match="overlaps"):
        pool.step(ids[:2], both[:8].reshape(2, 4), out=both[6:12].reshape(2, 3))
    out = np.ones((2, 3), np.float32)
    out.flags.writeable = False
    with pytest.raises(gr.InvalidInputError, match="read-only"):
        pool.step(ids[:2], x, out=out)
    with pytest.raises(gr.InvalidInputError, match="2 chunks for 1 ids"):
        pool.run(ids[:1], [x, x])
    with pytest.raises(gr.InvalidInputError, match="of chunk 1 has shape"):
        pool.run(ids[:2], [x, x[:, :3].copy()])
    assert pool.get_state(ids) == before
    assert list(pool) == ids


def test_a_full_pool_and_growing(pool: gr.Pool) -> None:
    ids = list(pool)
    states = pool.states(ids)
    more = [pool.open(), pool.fork(ids[2])]
    with pytest.raises(gr.Overloaded, match="all 6 places"):
        pool.open()
    with pytest.raises(gr.Overloaded, match="2 forks; 0 of 6"):
        pool.fork(ids[:2])
    assert len(pool) == 6
    for capacity in (6, 0, -1, 2**24 + 1):
        with pytest.raises(gr.InvalidInputError, match="capacity"):
            pool.grow(capacity)
    pool.grow(300)
    assert (pool.capacity, len(pool)) == (300, 6)
    for name, value in pool.states(ids).items():
        assert np.array_equal(value, states[name])
    more += [pool.open() for _ in range(294)]
    assert len(set(more)) == 296
    assert pool.step(list(pool), np.ones((300, 4), np.float32)).shape == (300, 3)


def test_capacities(pool: gr.Pool) -> None:
    for capacity in (0, -1, 2**24 + 1):
        with pytest.raises(gr.InvalidInputError, match="it must be from 1 to 16777216"):
            pool.model.pool(capacity)
    assert pool.bytes_per_stream <= pool.state_bytes + 128


def test_ids_never_come_again(pool: gr.Pool) -> None:
    seen = set(pool)
    for _ in range(3000):
        key = pool.open()
        assert key not in seen
        seen.add(key)
        pool.close(key)
        assert key not in pool
    assert len(pool) == 4


def test_states(pool: gr.Pool, rng: np.random.Generator) -> None:
    ids = list(pool)
    blobs, arrays = pool.get_state(ids), pool.states(ids)
    stream = pool.model.stream()
    stream.set_state(blobs[1])
    x = rng.normal(size=(4, 4)).astype(np.float32)
    first = pool.step(ids, x)
    assert np.array_equal(stream.step(x[1:2])[0], first[1])
    for key, blob in zip(ids, blobs, strict=True):
        pool.set_state(key, blob)
    assert np.array_equal(pool.step(ids, x), first)
    pool.set_states(ids[::-1], {name: value[:, ::-1].copy() for name, value in arrays.items()})
    assert np.array_equal(pool.step(ids, x), first)
    copies = pool.fork([ids[0], ids[0]])
    assert pool.get_state(copies) == [pool.get_state(ids[0])] * 2
    pool.reset(copies)
    assert pool.get_state(int(copies[0])) == pool.model.stream().get_state()
    kept = pool.get_state(ids)
    for bad in (blobs[0][:-1], b"", b"x" * len(blobs[0]), lstm(8).stream().get_state()):
        with pytest.raises(gr.InvalidInputError, match="cannot set this state"):
            pool.set_state(ids[0], bad)
        with pytest.raises(gr.InvalidInputError, match="cannot set this state"):
            pool.open(bad)
    with pytest.raises(gr.InvalidTypeError, match="bytes of get_state"):
        pool.set_state(ids[0], 3)  # type: ignore[arg-type]
    name = next(iter(arrays))
    with pytest.raises(gr.InvalidInputError, match="got states"):
        pool.set_states(ids, {name: arrays[name]})
    with pytest.raises(gr.InvalidInputError, match="has shape"):
        pool.set_states(ids, {**arrays, name: arrays[name][:, :2].copy()})
    assert pool.get_state(ids) == kept


def test_a_refused_value_leaves_every_row(isa: str) -> None:
    """One row of many names a word that is not there: no row of the step is taken."""
    net = gr.Sequential([gr.Embedding(5, 4), gr.LSTM(6, return_sequences=True)])
    pool = net.compile().pool(200)
    ids = [pool.open() for _ in range(150)]
    words = np.arange(150) % 5
    pool.step(ids, words)
    before = pool.get_state(ids)
    words[140] = 77
    with pytest.raises(gr.InvalidInputError, match="77"):
        pool.step(ids, words)
    chunks = [np.zeros(5, np.int64) for _ in ids]
    chunks[3][4] = -9
    with pytest.raises(gr.InvalidInputError, match="-9"):
        pool.run(ids, chunks)
    assert pool.get_state(ids) == before


def test_a_second_caller_gets_an_error() -> None:
    model = lstm(300, 200)
    pool = model.pool(128)
    ids = np.array([pool.open() for _ in range(128)])
    x, out = np.zeros((128, 200), np.float32), np.zeros((128, 3), np.float32)
    refused, done = [], threading.Event()

    def work() -> None:
        while not done.is_set():
            try:
                pool.step(ids, x)
            except gr.StreamBusyError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        try:
            pool.step(ids, x, out)
        except gr.StreamBusyError as error:
            refused.append(str(error))
    done.set()
    for thread in threads:
        thread.join()
    assert refused
    assert "in use by another caller" in refused[0]
    pool.step(ids, x, out)


def test_memory_does_not_grow_with_opens_and_steps(pool: gr.Pool) -> None:
    import tracemalloc

    ids = np.array(list(pool))
    x, out = np.ones((4, 4), np.float32), np.empty((4, 3), np.float32)
    pool.step(ids, x, out)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(2000):
        pool.step(ids, x, out)
        pool.close(pool.open())
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 2000
