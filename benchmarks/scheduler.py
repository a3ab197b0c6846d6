# SPDX-License-Identifier: MIT
"""The scheduler under open-loop load: Poisson arrivals from 1,000 streams, latency against load.

``python -m benchmarks.scheduler --plot benchmarks/results/`` runs each engine on one thread beside
the one that gives the steps. The clock of a step starts when it should have been given, however the
engine is doing. The peers are ONNX Runtime a step at a time (one session does for all streams: each
feeds its own states) and the same with batches that wait for rows. The models are an LSTM and,
where ``GRUENGINE_MODELS`` names the folder of the real ones, the first stage of DTLN, whose graph
takes no batches in ONNX Runtime. Overheads of single steps come first.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Case:
    """A model for both engines. Shapes are those of one row."""

    name: str
    ours: gr.Model
    peer: bytes
    x: tuple[str, tuple[int, ...]]  # name and shape of the input
    y: str
    states: tuple[tuple[str, str, tuple[int, ...]], ...]  # inputs, outputs and shapes
    row_axis: int  # of all of them
    batches: bool  # whether the peer's graph takes more than one row


def lstm() -> Case:
    stack = Stack("LSTM", SIZE, layers=LAYERS)
    net = gr.Sequential([gr.LSTM(SIZE, return_sequences=True) for _ in range(LAYERS)], SIZE)
    pairs = tuple((before, after, (1, 1, SIZE)) for before, after in states(stack))
    return Case(f"LSTM {LAYERS} x {SIZE}", net.compile(), onnx_model(stack),
                ("X", (1, 1, SIZE)), "Y", pairs, 1, True)  # fmt: skip


def dtln() -> Case | None:
    default = Path(__file__).parents[2] / "shared/models"
    path = Path(os.environ.get("GRUENGINE_MODELS", default)) / "dtln/model_1.onnx"
    if not path.is_file():
        return None
    pairs = (("input_3", "tf_op_layer_stack_2", (1, 2, 128, 2)),)
    return Case("DTLN model_1", gr.load(path), path.read_bytes(), ("input_2", (1, 1, 257)),
                "activation_2", pairs, 0, False)  # fmt: skip


class Ours:
    """The scheduler, its answers fetched by the giver."""

    def __init__(self, case: Case, max_batch: int = 64) -> None:
        self.name = "gruengine scheduler"
        model = case.ours
        self.scheduler = gr.Scheduler(
            model, max_streams=STREAMS, max_batch=max_batch, max_queue=1 << 16
        )
        self.ids = [self.scheduler.open() for _ in range(STREAMS)]
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.box = Mailbox(self.scheduler, self.fd)
        (port,) = self.scheduler.outputs
        self.outputs = [np.empty(port.step, port.dtype) for _ in range(STREAMS)]
        self.shape = self.scheduler.inputs[0].step

    def give(self, at: float, stream: int, x: Array) -> None:
        rows, y = x.reshape(self.shape), self.outputs[stream]
        self.box.submit(self.ids[stream], [rows], [y], 0, at)

    def answers(self) -> list[float]:
        now = time.perf_counter()
        return [now - at for at, _ in self.box.collect()]

    def stop(self) -> None:
        self.scheduler.shutdown()


class Runtime:
    """ONNX Runtime in a thread; with ``batch`` > 1 rows are waited for ``wait`` seconds."""

    def __init__(self, case: Case, batch: int, wait: float) -> None:
        self.name = "ORT, one by one"
        if batch > 1:
            self.name = f"ORT, batches of {batch} within {wait * 1e3:g} ms"
        self.case, self.batch, self.wait = case, batch, wait
        self.run = session(case.peer).run
        self.wanted = [case.y, *(after for _, after, _ in case.states)]
        self.state = [
            np.zeros((*shape[: case.row_axis], STREAMS, *shape[case.row_axis + 1 :]), np.float32)
            for *_, shape in case.states
        ]
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
        case, axis = self.case, self.case.row_axis
        put = (slice(None),) * axis
        while (taken := self.take()) is not None:
            rows = [stream for _, stream, _ in taken]
            spare = self.batch - len(rows)
            feed = {case.x[0]: np.concatenate([x for *_, x in taken] + [taken[0][2]] * spare, axis)}
            for (before, *_), state in zip(case.states, self.state, strict=True):
                feed[before] = state.take(rows + [rows[0]] * spare, axis)
            _, *after = self.run(self.wanted, feed)
            for state, value in zip(self.state, after, strict=True):
                state[(*put, rows)] = value.take(range(len(rows)), axis)
            now = time.perf_counter()
            self.done += [now - at for at, *_ in taken]

    def stop(self) -> None:
        self.queue.put(None)
        self.thread.join()


def drive(engine: Any, case: Case, rate: float, seconds: float) -> tuple[float, float, float]:
    """Give steps at random times; return p50 and p99 of the latency, and the rate of answers."""
    random = np.random.default_rng(int(rate))
    count = max(100, int(rate * seconds))
    due = np.cumsum(random.exponential(1 / rate, count)).tolist()
    streams = random.integers(0, STREAMS, count).tolist()
    x = random.normal(size=case.x[1]).astype(np.float32)
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


def sweep(
    make: Callable[[], Any], case: Case, rates: list[float], seconds: float
) -> tuple[str, list[tuple[float, ...]]]:
    """Raise the load until p99 is far beyond the bound; return the engine's name and the rows."""
    rows = []
    engine = make()
    print(f"\n{case.name}, {engine.name}\n"
          f"{'steps/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'answered/s':>11}")  # fmt: skip
    drive(engine, case, rates[0], 0.2)
    for rate in rates:
        middle, late, answered = drive(engine, case, rate, seconds)
        rows.append((rate, middle * 1e3, late * 1e3))
        print(f"{rate:10,.0f} {middle * 1e3:8.2f} {late * 1e3:8.2f} {answered:11,.0f}", flush=True)
        if late > 5 * LATE and middle > LATE:  # not a moment in which the machine was busy
            break
    engine.stop()
    good = [rate for rate, _, late in rows if late <= LATE * 1e3]
    print(f"most within p99 <= 10 ms: {max(good, default=0):,.0f} steps/s")
    return engine.name, rows


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


def draw(found: dict[str, dict[str, list[tuple[float, ...]]]], folder: Path) -> None:
    """Draw latency against load, a picture for each model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, plots = pyplot.subplots(
        1, len(found), figsize=(6 * len(found), 4.5), squeeze=False, sharey=True
    )
    for axes, (model, engines) in zip(plots[0], found.items(), strict=True):
        for name, rows in engines.items():
            rates = [rate for rate, *_ in rows]
            (line,) = axes.plot(rates, [late for *_, late in rows], "o-", label=f"{name}, p99")
            axes.plot(rates, [middle for _, middle, _ in rows], ":", color=line.get_color())
        axes.axhline(LATE * 1e3, color="grey", linewidth=0.8)
        axes.set(xscale="log", yscale="log", xlabel=f"steps a second, {STREAMS:,} streams")
        axes.set_title(f"{model}, one thread")
        axes.legend()
    plots[0][0].set_ylabel("latency, ms (dotted: p50)")
    figure.tight_layout()
    figure.savefig(folder / "scheduler.png", dpi=100)


def engines_of(case: Case) -> list[Callable[[], Any]]:
    makers: list[Callable[[], Any]] = [lambda: Ours(case), lambda: Runtime(case, 1, 0.0)]
    if case.batches:
        makers.append(lambda: Runtime(case, 32, 0.002))
    return makers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3000, help="steps of the overheads")
    parser.add_argument("--plot", type=Path, help="folder for scheduler.png")
    options = parser.parse_args()
    overhead(options.rounds)
    sys.setswitchinterval(0.0002)  # a peer's thread gets the interpreter as soon as it asks
    rates = [1000.0 * 1.5**k for k in range(12)]
    found: dict[str, dict[str, list[tuple[float, ...]]]] = {}
    for case in filter(None, (lstm(), dtln())):
        swept = (sweep(make, case, rates, options.seconds) for make in engines_of(case))
        found[case.name] = dict(swept)
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    main()
