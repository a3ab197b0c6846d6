# SPDX-License-Identifier: MIT
"""Pools: any subset in any order gives the bits of streams alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_models import draw

import gruengine as gr

Array = np.ndarray[Any, Any]


def lstm(units: int = 9, features: int = 4, **options: Any) -> gr.Model:
    layers = [gr.LSTM(units, return_sequences=True), gr.Dense(3)]
    return gr.Sequential(layers, features).compile(**options)


class Twins:
    """A pool beside a stream of its own for every id; each action is done to both."""

    def __init__(self, model: gr.Model, rng: np.random.Generator, capacity: int, draw_input: Any):
        self.model, self.rng, self.draw_input = model, rng, draw_input
        self.pool = model.pool(capacity)
        self.solo: dict[int, gr.Stream] = {}

    def some(self, most: int | None = None) -> Array:
        count = int(self.rng.integers(1, min(most or len(self.solo), len(self.solo)) + 1))
        return self.rng.permutation(np.array(list(self.solo), np.int64))[:count]

    def act(self) -> None:
        action = self.rng.random()
        full = len(self.pool) == self.pool.capacity
        if not self.solo or (action < 0.2 and not full):
            key = self.pool.open()
            assert key not in self.solo
            self.solo[key] = self.model.stream()
        elif action < 0.3 and not full:
            parent = int(self.some(1)[0])
            self.solo[self.pool.fork(parent)] = self.solo[parent].clone()
        elif action < 0.4:
            for key in self.some(2):
                self.pool.close(int(key))
                del self.solo[int(key)]
        elif action < 0.5 and not full:
            parent = self.solo[int(self.some(1)[0])]
            self.solo[self.pool.open(parent.get_state())] = parent.clone()
        elif action < 0.55:
            self.run()
        else:
            self.step()

    def step(self) -> None:
        ids = self.some()
        x = self.draw_input(self.rng, len(ids), 1)[:, 0]
        x = np.ascontiguousarray(x)
        y = self.pool.step(ids if self.rng.integers(2) else ids.tolist(), x)
        for row, key in enumerate(ids):
            alone = self.solo[int(key)].step(np.ascontiguousarray(x[row : row + 1]))
            assert np.array_equal(y[row : row + 1], alone, equal_nan=True)

    def run(self) -> None:
        ids = self.some(9)
        lengths = self.rng.integers(1, 40, len(ids))
        chunks = [self.draw_input(self.rng, 1, int(length)) for length in lengths]
        found = self.pool.run(ids, [np.ascontiguousarray(chunk[0]) for chunk in chunks])
        for key, chunk, y in zip(ids, chunks, found, strict=True):
            alone = self.solo[int(key)].run(chunk)
            assert np.array_equal(y, alone[0], equal_nan=True)

    def check_states(self) -> None:
        assert sorted(self.pool) == sorted(self.solo)
        for key, stream in self.solo.items():
            assert self.pool.get_state(key) == stream.get_state()


@pytest.mark.parametrize("seed", range(12))
def test_random_lives_give_the_bits_of_streams_alone(isa: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = draw(rng)
    model = case.load()
    assert model.isa == isa
    twins = Twins(model, rng, int(rng.integers(3, 80)), case.input)
    for _ in range(120):
        twins.act()
    twins.check_states()


def test_ten_thousand_steps() -> None:
    rng = np.random.default_rng(7)
    model = gr.Sequential(
        [gr.GRU(5, return_sequences=True), gr.LSTM(4, return_sequences=True), gr.Dense(2)], 3
    ).compile()
    twins = Twins(model, rng, 24, lambda rng, n, t: rng.normal(size=(n, t, 3)).astype(np.float32))
    for _ in range(10_000):
        twins.act()
    twins.check_states()


@pytest.mark.parametrize("rows", [1, 2, 5, 7, 64, 65, 127, 128, 129, 300])
def test_every_number_of_rows(isa: str, rows: int, rng: np.random.Generator) -> None:
    model = lstm(33, 5)
    pool = model.pool(300)
    ids = [pool.open() for _ in range(rows)]
    batch = model.stream(rows)
    for _ in range(3):
        x = rng.normal(size=(rows, 5)).astype(np.float32)
        assert np.array_equal(pool.step(ids, x), batch.step(x))
    for name, value in pool.states(ids).items():
        assert np.array_equal(value, batch.state[name])


@pytest.mark.parametrize("compute_type", ["bfloat16", "int8"])
def test_compute_types(isa: str, compute_type: str, rng: np.random.Generator) -> None:
    model = gr.load(lstm(37, 5).spec.to_bytes(), compute_type=compute_type)
    pool = model.pool(90)
    solo = {pool.open(): model.stream() for _ in range(90)}
    for _ in range(6):
        ids = rng.permutation(list(solo))[: rng.integers(1, 91)]
        x = rng.normal(size=(len(ids), 5)).astype(np.float32)
        y = pool.step(ids, x)
        for row, key in enumerate(ids):
            assert np.array_equal(y[row : row + 1], solo[int(key)].step(x[row : row + 1]))


def test_two_threads_give_the_bits_of_one(rng: np.random.Generator) -> None:
    net = gr.Sequential([gr.LSTM(130, return_sequences=True)], 40)
    one, two = (net.compile(num_threads=n).pool(40) for n in (1, 2))
    ids, others = ([pool.open() for _ in range(40)] for pool in (one, two))
    for _ in range(5):
        x = rng.normal(size=(40, 40)).astype(np.float32)
        assert np.array_equal(one.step(ids, x), two.step(others, x))


def test_models_that_have_time_first(isa: str, rng: np.random.Generator) -> None:
    net = gr.Sequential([gr.GRU(19, return_sequences=True)], 5, batch_first=False)
    model = net.compile()
    pool = model.pool(8)
    ids = [pool.open() for _ in range(5)]
    x = rng.normal(size=(33, 5, 5)).astype(np.float32)
    whole = model(x)
    for t in range(9):
        assert np.array_equal(pool.step(ids, x[t]), whole[t])
    lengths = [24, 0, 3, 17, 16]
    chunks = [np.ascontiguousarray(x[9 : 9 + n, i]) for i, n in enumerate(lengths)]
    for i, y in enumerate(pool.run(ids, chunks)):
        assert np.array_equal(y, whole[9 : 9 + lengths[i], i])


# -- real models ----------------------------------------------------------------------------------


def windows(models: Path, count: int) -> Array:
    import wave

    with wave.open(str(models / "audio/speech_16k.wav")) as file:
        raw = np.frombuffer(file.readframes(count * 512 + 64), np.int16)
    audio = raw.astype(np.float32) / 32768
    return np.stack([audio[512 * i : 512 * i + 576] for i in range(count)])


def test_silero_at_different_places(isa: str, models: Path) -> None:
    model = gr.load(models / "silero/silero_vad_v6.2.onnx", bind={"sr": 16000})
    speech = windows(models, 60)
    pool = model.pool(8, sizes={"input_1": 576})
    ids = [pool.open() for _ in range(8)]
    solo = [model.stream() for _ in range(8)]
    rng = np.random.default_rng(0)
    places = rng.integers(0, 30, 8)
    for _ in range(12):
        some = rng.permutation(8)[: rng.integers(1, 9)]
        y = pool.step([ids[i] for i in some], np.ascontiguousarray(speech[places[some]]))
        for row, i in enumerate(some):
            assert np.array_equal(y[row], solo[i].step(speech[places[i]][None])[0])
        places[some] += 1
    chunks = [np.ascontiguousarray(speech[place : place + 3 * i]) for i, place in enumerate(places)]
    for i, y in enumerate(pool.run(ids, chunks)):
        alone = [solo[i].step(chunk[None])[0] for chunk in chunks[i]]
        assert np.array_equal(y, np.array(alone, np.float32).reshape(y.shape))


@pytest.mark.parametrize(("name", "I"), [("model_1", 257), ("model_2", 512)])
def test_a_graph_of_one_row_steps_many(models: Path, name: str, I: int) -> None:
    """Its states have the row axis first; the graph fixes it to one, model_2 in a Reshape too."""
    model = gr.load(models / f"dtln/{name}.onnx")
    pool = model.pool(9)
    ids = [pool.open() for _ in range(9)]
    solo = [model.stream() for _ in range(9)]
    rng = np.random.default_rng(1)
    for _ in range(4):
        x = rng.random((9, 1, I)).astype(np.float32)
        y = pool.step(ids, x)
        for row, stream in enumerate(solo):
            assert np.array_equal(y[row], stream.step(x[row : row + 1])[0])
