# SPDX-License-Identifier: MIT
"""Streams: reset, clone, states as bytes, and every way to misuse one."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gruengine as gr

Array = np.ndarray[Any, Any]
I, K = 6, 5


def make(seed: int = 0, units: int = K) -> gr.Model:
    layers = [gr.LSTM(9, return_sequences=True), gr.GRU(units, return_sequences=True)]
    return gr.Sequential(layers, I, seed=seed).compile()


@pytest.fixture(scope="module")
def model() -> gr.Model:
    return make()


def frames(rng: np.random.Generator, T: int, N: int = 1) -> Array:
    return rng.normal(size=(T, N, I)).astype(np.float32)


def advance(stream: gr.Stream, x: Array) -> Array:
    return np.stack([stream.step(frame) for frame in x])


# -- what a stream can do -------------------------------------------------------------------------


def test_reset_goes_back_to_the_initial_state(model: gr.Model, rng: np.random.Generator) -> None:
    x = frames(rng, 7, 2)
    stream = model.stream(2)
    fresh = stream.get_state()
    first = advance(stream, x)
    assert stream.get_state() != fresh
    stream.reset()
    assert stream.get_state() == fresh
    np.testing.assert_array_equal(advance(stream, x), first)


def test_a_clone_goes_on_alone(model: gr.Model, rng: np.random.Generator) -> None:
    x, y = frames(rng, 5), frames(rng, 5)
    stream = model.stream()
    advance(stream, x)
    twin = stream.clone()
    assert twin.batch_size == 1
    assert twin.model is model
    ours = advance(stream, y)
    np.testing.assert_array_equal(advance(twin, y), ours)
    advance(twin, x)
    assert twin.get_state() != stream.get_state()


def test_a_state_continues_in_another_stream(rng: np.random.Generator) -> None:
    x, y = frames(rng, 4, 3), frames(rng, 4, 3)
    one = make().stream(3)
    advance(one, x)
    state = one.get_state()
    # A second model with the same graph and weights, as after a restart.
    two = make().stream(3)
    two.set_state(state)
    assert two.get_state() == state
    np.testing.assert_array_equal(advance(two, y), advance(one, y))


def test_the_state_by_name_is_a_copy(model: gr.Model, rng: np.random.Generator) -> None:
    stream = model.stream(2)
    advance(stream, frames(rng, 3, 2))
    state = stream.state
    assert {name: value.shape for name, value in state.items()} == {
        "lstm.h": (1, 2, 9), "lstm.c": (1, 2, 9), "gru.h": (1, 2, K),
    }  # fmt: skip
    before = stream.get_state()
    for value in state.values():
        value[:] = 3
    assert stream.get_state() == before
    x = frames(rng, 1, 2)
    np.testing.assert_array_equal(stream.step(x[0]), stream.state["gru.h"][0])


def test_the_state_of_run_and_of_a_stream_are_one(
    model: gr.Model, rng: np.random.Generator
) -> None:
    x = np.ascontiguousarray(frames(rng, 6, 2).swapaxes(0, 1))
    stream = model.stream(2)
    stream.run(x)
    _, after = model.run(x)
    assert set(after) == set(stream.state)
    for name, value in stream.state.items():
        np.testing.assert_array_equal(value, after[name])


def test_a_batch_of_one_may_be_left_out(model: gr.Model, rng: np.random.Generator) -> None:
    x = frames(rng, 4)
    whole = advance(model.stream(), x)
    assert whole.shape == (4, 1, K)
    np.testing.assert_array_equal(advance(model.stream(), x[:, 0]), whole[:, 0])
    np.testing.assert_array_equal(model.stream().run(x[:, 0]), whole[:, 0])
    np.testing.assert_array_equal(model.stream().run(x.swapaxes(0, 1)), whole.swapaxes(0, 1))


def test_out_is_written_and_returned(model: gr.Model, rng: np.random.Generator) -> None:
    x = frames(rng, 4, 2)
    want = advance(model.stream(2), x)
    stream, out = model.stream(2), np.full((2, K), np.nan, np.float32)
    for frame, y in zip(x, want, strict=True):
        assert stream.step(frame, out=out) is out
        np.testing.assert_array_equal(out, y)
    chunk, whole = np.ascontiguousarray(x.swapaxes(0, 1)), np.empty((2, 4, K), np.float32)
    assert model.stream(2).run(chunk, out=whole) is whole
    np.testing.assert_array_equal(whole, want.swapaxes(0, 1))


def test_a_chunk_of_no_frames_changes_nothing(model: gr.Model, rng: np.random.Generator) -> None:
    stream = model.stream(2)
    advance(stream, frames(rng, 2, 2))
    before = stream.get_state()
    assert stream.run(np.empty((2, 0, I), np.float32)).shape == (2, 0, K)
    assert stream.get_state() == before


# -- states that do not fit -----------------------------------------------------------------------


def test_states_of_others_are_refused(model: gr.Model, rng: np.random.Generator) -> None:
    stream = model.stream(2)
    advance(stream, frames(rng, 2, 2))
    before = stream.get_state()
    others = {
        "other weights": make(seed=1).stream(2).get_state(),
        "other sizes": make(units=4).stream(2).get_state(),
        "other batch": model.stream(3).get_state(),
        "nothing": b"",
        "too short": before[:-1],
        "header alone": before[:24],
        "too long": before + b"\0",
        "other bytes": b"x" * len(before),
    }
    for what, state in others.items():
        with pytest.raises(gr.InvalidInputError, match="cannot set this state"):
            stream.set_state(state)
        assert stream.get_state() == before, what
    with pytest.raises(TypeError):
        stream.set_state(None)  # type: ignore[arg-type]


def test_every_flipped_bit_of_the_header_is_refused(model: gr.Model) -> None:
    stream = model.stream()
    state = stream.get_state()
    values = sum(value.nbytes for value in stream.state.values())
    header = struct.calcsize("<4sIQQ64s")
    assert len(state) >= header + values
    for bit in range(8 * header):
        broken = bytearray(state)
        broken[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(gr.InvalidInputError):
            stream.set_state(bytes(broken))
    assert stream.get_state() == state


# -- misuse ---------------------------------------------------------------------------------------


def zeros(*shape: int, dtype: Any = np.float32) -> Array:
    return np.zeros(shape, dtype)


def read_only() -> Array:
    out = zeros(2, K)
    out.flags.writeable = False
    return out


MISUSES: dict[str, tuple[Callable[[gr.Stream], Any], type[Exception], str]] = {
    "other features": (lambda s: s.step(zeros(2, I + 1)), gr.InvalidInputError, r"\(2, 6\)"),
    "other batch": (lambda s: s.step(zeros(3, I)), gr.InvalidInputError, r"\(2, 6\)"),
    "no batch": (lambda s: s.step(zeros(I)), gr.InvalidInputError, r"\(2, 6\)"),
    "scalar": (lambda s: s.step(zeros()), gr.InvalidInputError, r"\(2, 6\)"),
    "float64": (lambda s: s.step(zeros(2, I, dtype=float)), gr.InvalidTypeError, "float32"),
    "integers": (lambda s: s.step(zeros(2, I, dtype=int)), gr.InvalidTypeError, "float32"),
    "big endian": (lambda s: s.step(zeros(2, I, dtype=">f4")), gr.InvalidTypeError, "float32"),
    "a list": (lambda s: s.step([[0.0] * I] * 2), gr.InvalidTypeError, "numpy array"),
    "None": (lambda s: s.step(None), gr.InvalidTypeError, "numpy array"),
    "Fortran order": (lambda s: s.step(zeros(I, 2).T), gr.InvalidTypeError, "contiguous"),
    "every second": (lambda s: s.step(zeros(2, 2 * I)[:, ::2]), gr.InvalidTypeError, "contig"),
    "not aligned": (
        lambda s: s.step(np.frombuffer(bytes(8 * I + 1), np.uint8)[1:].view("f4").reshape(2, I)),
        gr.InvalidTypeError,
        "aligned",
    ),
    "dict of another name": (lambda s: s.step({"z": zeros(2, I)}), gr.InvalidInputError, "'x'"),
    "out shape": (lambda s: s.step(zeros(2, I), zeros(2, I)), gr.InvalidInputError, r"\(2, 5\)"),
    "out dtype": (
        lambda s: s.step(zeros(2, I), zeros(2, K, dtype=float)), gr.InvalidTypeError, "float32",
    ),
    "out order": (lambda s: s.step(zeros(2, I), zeros(K, 2).T), gr.InvalidTypeError, "contig"),
    "out a list": (lambda s: s.step(zeros(2, I), [0]), gr.InvalidTypeError, "numpy array"),
    "out read-only": (lambda s: s.step(zeros(2, I), read_only()), gr.InvalidInputError, "read-"),
    "chunk features": (lambda s: s.run(zeros(2, 4, 1)), gr.InvalidInputError, "'T', 6"),
    "chunk rank": (lambda s: s.run(zeros(2, I)), gr.InvalidInputError, "'T', 6"),
    "chunk dtype": (lambda s: s.run(zeros(2, 4, I, dtype=float)), gr.InvalidTypeError, "float32"),
    "chunk out": (
        lambda s: s.run(zeros(2, 4, I), zeros(2, 3, K)), gr.InvalidInputError, r"\(2, 4, 5\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISUSES)
def test_misuse_is_refused_and_changes_nothing(
    name: str, model: gr.Model, rng: np.random.Generator
) -> None:
    call, error, says = MISUSES[name]
    stream = model.stream(2)
    advance(stream, frames(rng, 2, 2))
    before = stream.get_state()
    with pytest.raises(error, match=says) as caught:
        call(stream)
    assert isinstance(caught.value, gr.GruEngineError)
    assert stream.get_state() == before


@pytest.mark.parametrize("shift", [-K, -1, 0, 1, I - 1])
def test_out_must_not_overlap_the_input(model: gr.Model, shift: int) -> None:
    memory = np.zeros(64, np.float32)
    x, out = memory[20 : 20 + I].reshape(1, I), memory[20 + shift :][:K].reshape(1, K)
    stream = model.stream()
    before = stream.get_state()
    if shift == -K:
        assert stream.step(x, out) is out
        return
    with pytest.raises(gr.InvalidInputError, match="overlaps"):
        stream.step(x, out)
    with pytest.raises(gr.InvalidInputError, match="overlaps"):
        stream.run(x.reshape(1, 1, I), out.reshape(1, 1, K))
    assert stream.get_state() == before


@pytest.mark.parametrize("place", [0, 1, 16, 129, 149])
def test_a_chunk_that_fails_in_the_middle_changes_nothing(place: int) -> None:
    layers = [gr.Embedding(5, 3), gr.GRU(4, return_sequences=True)]
    stream = gr.Sequential(layers).stream()
    stream.run(np.array([[1, 2, 3]]))
    before = stream.get_state()
    tokens = np.ones((1, 150), np.int64)
    tokens[0, place] = 5
    with pytest.raises(gr.InvalidInputError, match="index 5"):
        stream.run(tokens)
    assert stream.get_state() == before
    with pytest.raises(gr.InvalidInputError, match="index -6"):
        stream.step(np.array([-6]))
    assert stream.get_state() == before


@pytest.mark.parametrize("batch", [0, -1, "2", 1.5, None])
def test_batch_sizes_are_checked(model: gr.Model, batch: Any) -> None:
    with pytest.raises((gr.InvalidInputError, TypeError)):
        model.stream(batch)


@pytest.mark.parametrize("sizes", [{"M": 3}, {"T": 4}, {"N": 2}, {"": 1}, {"N": 0}])
def test_sizes_that_are_not_open_are_refused(model: gr.Model, sizes: dict[str, int]) -> None:
    with pytest.raises(gr.InvalidInputError, match="no size open"):
        model.stream(1, sizes)


def test_a_stream_needs_a_model() -> None:
    for make_one in (gr.Stream, lambda: gr.Stream.__new__(gr.Stream), lambda: gr.Stream("x")):
        with pytest.raises(gr.InvalidTypeError, match="needs a gruengine"):
            make_one()  # type: ignore[no-untyped-call]


def test_streams_are_not_pickled_or_copied(model: gr.Model) -> None:
    import copy

    for call in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="get_state"):
            call(model.stream())


def test_a_stream_outlives_its_model_object(rng: np.random.Generator) -> None:
    x = frames(rng, 3)
    want = advance(make().stream(), x)
    stream = make().stream()
    np.testing.assert_array_equal(advance(stream, x), want)
