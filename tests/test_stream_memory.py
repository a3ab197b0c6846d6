# SPDX-License-Identifier: MIT
"""What a step costs in memory: nothing, in Python and below it."""

from __future__ import annotations

import ctypes
import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gruengine as gr

STEPS = 10_000


class MallInfo(ctypes.Structure):
    """What glibc says of its heap (struct mallinfo2)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


def heap_in_use() -> int:
    """Bytes that malloc has handed out and not got back, mapped blocks included."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = MallInfo
    info = mallinfo2()
    return int(info.uordblks) + int(info.hblkhd)


def stepper(layers: list[Any], inputs: int | None, N: int) -> Callable[[], object]:
    """Return a call that makes one step into memory of its own."""
    stream = gr.Sequential(layers, inputs).stream(N)
    x = np.ones((N,) if inputs is None else (N, inputs), np.int64 if inputs is None else np.float32)
    out = stream.step(x)
    step = stream.step
    return lambda: step(x, out)


CASES: dict[str, Callable[[], Callable[[], object]]] = {
    "lstm": lambda: stepper([gr.LSTM(33)], 7, 1),
    "batch of gru": lambda: stepper([gr.GRU(20, reset="before"), gr.Dense(3, "softmax")], 5, 6),
    "projection": lambda: stepper([gr.LSTM(300, projection=20, num_layers=2)], 40, 2),
    "embedding": lambda: stepper([gr.Embedding(9, 4), gr.LayerNorm(), gr.RNN(8)], None, 3),
}


def repeat(step: Callable[[], object], times: int) -> None:
    for _ in range(times):
        step()


def python_memory(call: Callable[[], object]) -> tuple[int, int]:
    """Return the largest growth while ``call`` is repeated, and what stays of it, in bytes."""
    repeat(call, 100)
    gc.collect()
    tracemalloc.start()
    try:
        repeat(call, 10)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        repeat(call, STEPS)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - before, after - before


@pytest.mark.parametrize("name", CASES)
def test_a_step_with_out_allocates_no_python_memory(name: str) -> None:
    """No more than a call of nothing does, not even for a moment."""
    x = np.zeros((1, 7), np.float32)
    assert python_memory(lambda: x.copy()) > python_memory(lambda: None), "the measure is blind"
    assert python_memory(CASES[name]()) == python_memory(lambda: None)


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this C library has no mallinfo2"
)
@pytest.mark.parametrize("name", CASES)
def test_steps_leave_the_heap_as_it_was(name: str) -> None:
    step = CASES[name]()
    repeat(step, 100)
    gc.collect()
    before = heap_in_use()
    repeat(step, STEPS)
    assert heap_in_use() - before < 1024, "something is kept for every step"


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this C library has no mallinfo2"
)
def test_streams_and_runs_give_their_memory_back() -> None:
    net = gr.Sequential([gr.LSTM(64, return_sequences=True)], 16)
    model, x = net.compile(), np.zeros((2, 50, 16), np.float32)

    def use() -> None:
        for T in (1, 7, 50):
            model(x[:, :T])
            model.run(x[:, :T], lengths=[T, 0])
        stream = model.stream(2)
        stream.run(x)
        stream.clone().set_state(stream.get_state())

    for _ in range(5):
        use()
    gc.collect()
    before = heap_in_use()
    for _ in range(100):
        use()
    gc.collect()
    assert heap_in_use() - before < 64 * 1024


def test_a_stream_is_small_beside_its_model() -> None:
    """Many streams share the weights: each has its state and the memory of one step."""
    model = gr.Sequential([gr.LSTM(96, num_layers=2)], 96).compile()
    gc.collect()
    before = heap_in_use()
    streams = [model.stream() for _ in range(100)]
    each = (heap_in_use() - before) / len(streams)
    state = sum(value.nbytes for value in streams[0].state.values())
    assert state <= each < 8 * state + 16 * 1024
