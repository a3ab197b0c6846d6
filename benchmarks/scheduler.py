# SPDX-License-Identifier: MIT
"""The scheduler under open-loop load: Poisson arrivals from 1,000 streams, latency against load.

``python -m benchmarks.scheduler --plot benchmarks/results/`` runs each engine on one thread beside
the one that gives the steps. The clock of a step starts when it should have been given, however the
engine is doing. The peers are ONNX Runtime with one session for all streams, a step at a time, and
the same with batches that wait for rows; both keep the states in arrays. Overheads of single steps
come first.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gruengine as gr
from benchmarks.cases import Stack
from benchmarks.onnx_cell import onnx_model, states
from benchmarks.peers.onnxruntime import session
from gruengine._scheduler import Mailbox

Array = np.ndarray[Any, Any]
STREAMS, SIZE, LAYERS = 1000, 256, 2
LATE = 0.010  # seconds: the bound of p99
STACK = Stack("LSTM", SIZE, layers=LAYERS)


class Ours:
    """The scheduler, its answers fetched by the giver."""

    name = "gruengine scheduler"

    def __init__(self, model: gr.Model, max_batch: int = 64) -> None:
        self.scheduler = gr.Scheduler(
            model, max_streams=STREAMS, max_batch=max_batch, max_queue=1 << 16
        )
        self.ids = [self.scheduler.open() for _ in range(STREAMS)]
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.box = Mailbox(self.scheduler, self.fd)
        self.outputs = [np.empty((1, SIZE), np.float32) for _ in range(STREAMS)]

    def give(self, at: float, stream: int, x: Array) -> None:
        self.box.submit(self.ids[stream], [x], [self.outputs[stream]], 0, at)

    def answers(self) -> list[float]:
        now = time.perf_counter()
        return [now - at for at, _ in self.box.collect()]

    def stop(self) -> None:
        self.scheduler.shutdown()


class Runtime:
    """ONNX Runtime in a thread; with ``batch`` > 1 rows are waited for ``wait`` seconds."""

    def __init__(self, batch: int, wait: float) -> None:
        self.name = f"ORT, batches of {batch} within {wait * 1e3:g} ms" if batch > 1 else "ORT"
        self.batch, self.wait = batch, wait
        self.run = session(onnx_model(STACK)).run
        self.pairs = states(STACK)
        self.wanted = ["Y", *(after for _, after in self.pairs)]
        self.state = np.zeros((len(self.pairs), STREAMS, SIZE), np.float32)
        self.queue: queue.SimpleQueue[tuple[float, int, Array] | None] = queue.SimpleQueue()
        self.done: list[float] = []
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def give(self, at: float, stream: int, x: Array) -> None:
        self.queue.put((at, stream, x))

    def answers(self) -> list[float]:
        found, self.done = self.done, []
        return found

    def take(self) -> list[tuple[float, int, Array]] | None:
        """Return steps of different streams."""
        first = self.queue.get()
        if first is None:
            return None
        taken, until = [first], time.perf_counter() + self.wait
        while len(taken) < self.batch:
            try:
                step = self.queue.get(timeout=max(0.0, until - time.perf_counter()))
            except queue.Empty:
                break
            if step is None or any(step[1] == other[1] for other in taken):
                self.queue.put(step)
                break
            taken.append(step)
        return taken

    def work(self) -> None:
        while (taken := self.take()) is not None:
            rows = [stream for _, stream, _ in taken]
            padding = rows + [rows[0]] * (self.batch - len(rows))
            feed = {"X": np.stack([x for *_, x in taken] + [taken[0][2]] *
                                  (self.batch - len(rows)), 1)}  # fmt: skip
            for k, (before, _) in enumerate(self.pairs):
                feed[before] = self.state[k, padding][None]
            _, *after = self.run(self.wanted, feed)
            for k, value in enumerate(after):
                self.state[k, rows] = value[0, : len(rows)]
            now = time.perf_counter()
            self.done += [now - at for at, *_ in taken]

    def stop(self) -> None:
        self.queue.put(None)
        self.thread.join()


def drive(engine: Any, rate: float, seconds: float) -> tuple[float, float, float]:
    """Give steps at random times; return p50 and p99 of the latency, and the rate of answers."""
    random = np.random.default_rng(int(rate))
    count = max(100, int(rate * seconds))
    due = np.cumsum(random.exponential(1 / rate, count)).tolist()
    streams = random.integers(0, STREAMS, count).tolist()
    x = random.normal(size=(1, SIZE)).astype(np.float32)
    found: list[float] = []
    start, given = time.perf_counter(), 0
    give_up = start + 3 * seconds + 1
    while len(found) < count and time.perf_counter() < give_up:
        now = time.perf_counter() - start
        while given < count and due[given] <= now:
            engine.give(start + due[given], streams[given], x)
            given += 1
        found += engine.answers()
        time.sleep(0.0001)  # lets the other thread have the interpreter
    spent = time.perf_counter() - start
    while len(found) < given:  # those beyond the time are late, and are waited for
        found += engine.answers()
        time.sleep(0.001)
    middle, late = np.quantile(found, [0.5, 0.99])
    return float(middle), float(late), len(found) / spent


def sweep(make: Callable[[], Any], rates: list[float], seconds: float) -> list[tuple[float, ...]]:
    """Raise the load until p99 is far beyond the bound."""
    rows = []
    engine = make()
    print(f"\n{engine.name}\n{'steps/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'answered/s':>11}")
    for rate in rates:
        middle, late, answered = drive(engine, rate, seconds)
        rows.append((rate, middle * 1e3, late * 1e3))
        print(f"{rate:10,.0f} {middle * 1e3:8.2f} {late * 1e3:8.2f} {answered:11,.0f}")
        if late > 5 * LATE:
            break
    engine.stop()
    good = [rate for rate, _, late in rows if late <= LATE * 1e3]
    print(f"most within p99 <= 10 ms: {max(good, default=0):,.0f} steps/s")
    return rows


def overhead(rounds: int) -> None:
    """Print what a step costs through the scheduler and asyncio beyond the stream's own."""
    model = gr.Sequential([gr.LSTM(32, return_sequences=True)], 32).compile()
    stream, x = model.stream(), np.zeros((1, 32), np.float32)
    scheduler = gr.Scheduler(model)
    own = scheduler.open()
    timer = time.perf_counter

    def median(call: Callable[[], object]) -> float:
        times = []
        for _ in range(rounds):
            start = timer()
            call()
            times.append(timer() - start)
        return float(np.median(times)) * 1e6

    async def asked() -> float:
        times = []
        for _ in range(rounds):
            start = timer()
            await scheduler.step_async(own, x)
            times.append(timer() - start)
        return float(np.median(times)) * 1e6

    alone = median(lambda: stream.step(x))
    through = median(lambda: scheduler.step(own, x))
    awaited = asyncio.run(asked())
    scheduler.shutdown()
    print(f"stream.step {alone:.1f} us; scheduler.step +{through - alone:.1f} us; "
          f"step_async +{awaited - alone:.1f} us")  # fmt: skip


def draw(found: dict[str, list[tuple[float, ...]]], folder: Path) -> None:
    """Draw latency against load."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for name, rows in found.items():
        rates = [rate for rate, *_ in rows]
        (line,) = axes.plot(rates, [late for *_, late in rows], "o-", label=f"{name}, p99")
        axes.plot(rates, [middle for _, middle, _ in rows], ":", color=line.get_color())
    axes.axhline(LATE * 1e3, color="grey", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="steps a second, 1,000 streams",
             ylabel="latency, ms (dotted: p50)")  # fmt: skip
    axes.legend()
    axes.set_title(f"LSTM {LAYERS} x {SIZE}, one thread")
    figure.tight_layout()
    figure.savefig(folder / "scheduler.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3000, help="steps of the overheads")
    parser.add_argument("--plot", type=Path, help="folder for scheduler.png")
    options = parser.parse_args()
    overhead(options.rounds)
    layers = [gr.LSTM(SIZE, return_sequences=True) for _ in range(LAYERS)]
    model = gr.Sequential(layers, SIZE).compile()
    rates = [500.0 * 1.5**k for k in range(14)]
    engines: list[Callable[[], Any]] = [
        lambda: Ours(model), lambda: Runtime(1, 0.0), lambda: Runtime(32, 0.002),
    ]  # fmt: skip
    found = {}
    for make in engines:
        engine = make()
        name = engine.name
        engine.stop()
        found[name] = sweep(make, rates, options.seconds)
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    main()
