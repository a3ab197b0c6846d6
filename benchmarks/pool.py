# SPDX-License-Identifier: MIT
"""Pools beside ONNX Runtime: many live streams of an LSTM, some of them stepped at a time.

``python -m benchmarks.pool`` prints stream-steps a second and how the cost grows with the streams
that are open. One core, in turns; rows of a step are drawn anew for every call.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

import gruengine as gr
from benchmarks.cases import Stack
from benchmarks.onnx_cell import onnx_model
from benchmarks.peers.onnxruntime import session
from benchmarks.timing import quiet, race

Array = np.ndarray[Any, Any]
SIZE = 256
BATCHES = (16, 32, 64, 128)


def our_step(model: gr.Model, live: int, rows: int) -> Callable[[], object]:
    """Return a step of ``rows`` random streams out of ``live``."""
    random = np.random.default_rng(0)
    pool = model.pool(live)
    ids = np.array([pool.open() for _ in range(live)])
    x = random.normal(size=(rows, SIZE)).astype(np.float32)
    out = np.empty((rows, SIZE), np.float32)
    draws = itertools.cycle([random.choice(ids, rows, replace=False) for _ in range(200)])
    return lambda: pool.step(next(draws), x, out)


def one_by_one(model: bytes, rows: int) -> Callable[[], object]:
    """Return ``rows`` runs of one session, each with the state of a stream of its own."""
    run = session(model).run
    zeros = np.zeros((1, 1, SIZE), np.float32)
    x = np.random.default_rng(1).normal(size=(1, 1, SIZE)).astype(np.float32)
    states = [(zeros, zeros)] * rows

    def step() -> None:
        for i, (h, c) in enumerate(states):
            _, *states[i] = run(["Y", "h0n", "c0n"], {"X": x, "h0": h, "c0": c})  # type: ignore[call-overload]

    return step


def padded(model: bytes, rows: int) -> Callable[[], object]:
    """Return one run of a batch that always has ``rows`` rows; the states stay where they are."""
    run = session(model).run
    state = [np.zeros((1, rows, SIZE), np.float32)] * 2
    x = np.random.default_rng(1).normal(size=(1, rows, SIZE)).astype(np.float32)

    def step() -> None:
        _, *state[:] = run(["Y", "h0n", "c0n"], {"X": x, "h0": state[0], "c0": state[1]})

    return step


def throughput(model: gr.Model, peer: bytes, rounds: int) -> None:
    """Print stream-steps a second beside both ways of the peer."""
    ours = our_step(model, 1000, 64)
    alone = race(ours, one_by_one(peer, 64), rounds=rounds, seconds=0.01)
    print(f"pool, 64 of 1,000 streams   {64 / alone.ours:12,.0f} stream-steps/s")
    print(f"ORT, one by one             {64 / alone.peer:12,.0f}   ours {alone.ratio:.1f}x "
          f"({alone.low:.1f}-{alone.high:.1f})")  # fmt: skip
    for rows in BATCHES:
        batch = race(our_step(model, 1000, rows), padded(peer, rows), rounds=rounds, seconds=0.01)
        print(f"ORT, batch of {rows:<4} no gather {rows / batch.peer:12,.0f}   "
              f"pool of {rows} rows {rows / batch.ours:12,.0f}: {batch.ratio:.2f}x "
              f"({batch.low:.2f}-{batch.high:.2f})")  # fmt: skip


def growth(model: gr.Model, rounds: int) -> None:
    """Print the cost of a step of 64 rows as the number of open streams grows."""
    few = our_step(model, 64, 64)
    for live in (64, 1000, 10_000):
        pair = race(few, our_step(model, live, 64), rounds=rounds, seconds=0.01)
        print(f"64 of {live:>6,} streams: {pair.peer * 1e6:7.1f} us a step, {pair.ratio:.2f}x "
              f"({pair.low:.2f}-{pair.high:.2f}) of 64 of 64")  # fmt: skip
    pool = model.pool(10_000)
    print(f"memory of a stream: {pool.bytes_per_stream} bytes, its state {pool.state_bytes}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--core", type=int, default=1)
    parser.add_argument("--types", default="float32,bfloat16", help="compute types")
    options = parser.parse_args()
    stack = Stack("LSTM", SIZE)
    peer = onnx_model(stack)
    net = gr.Sequential([gr.LSTM(SIZE, return_sequences=True)], SIZE)
    with quiet(options.core):
        for compute_type in options.types.split(","):
            print(f"{compute_type}, {gr.info()['isa']}")
            throughput(net.compile(compute_type=compute_type), peer, options.rounds)
        growth(net.compile(), options.rounds)


if __name__ == "__main__":
    main()
