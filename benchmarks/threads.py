# SPDX-License-Identifier: MIT
"""Two threads beside one: ``python -m benchmarks.threads [--quick] [--crowded]``.

Sweeps cells, layers, directions, sizes, rows and compute types, and times a model of two threads in
turns with the same of one. The numbers of ``cpp/src/engine/thread_worth.h`` come from here: no row
may be slower than one thread by more than the noise. ``--crowded`` runs two processes at once, each
of two threads and then each of one, as on a machine whose cores others have taken.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import gruengine as gr

CELLS = {"lstm": gr.LSTM, "gru": gr.GRU, "rnn": gr.RNN}
SIZES = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


@dataclass(frozen=True)
class Row:
    """A model of equal layers with I = H; T = 0: single steps of a stream."""

    cell: str
    layers: int
    both: bool
    H: int
    T: int
    N: int
    compute_type: str

    def __str__(self) -> str:
        what = "step" if self.T == 0 else f"T={self.T}"
        both = " both ways" if self.both else ""
        size = f"{self.layers} x {self.H}{both}"
        return f"{self.compute_type:9} {self.cell:4} {size}, {what}, N={self.N}"

    def call(self, threads: int) -> Callable[[], object]:
        layer = CELLS[self.cell]
        layers = [
            layer(self.H, return_sequences=True, bidirectional=self.both)
            for _ in range(self.layers)
        ]
        model = gr.Sequential(layers, self.H, seed=0).compile(
            num_threads=threads, compute_type=self.compute_type
        )
        rng = np.random.default_rng(0)
        if self.T > 0:
            x = rng.normal(size=(self.N, self.T, self.H)).astype(np.float32)
            return lambda: model(x)
        stream = model.stream(batch_size=self.N)
        frame = rng.normal(size=(self.N, self.H)).astype(np.float32)
        out = np.empty_like(stream.step(frame))
        return lambda: stream.step(frame, out=out)


def rows(quick: bool) -> Iterator[Row]:
    types = ("float32", "int8") if quick else ("float32", "bfloat16", "int8")
    cells = ("lstm",) if quick else ("lstm", "gru", "rnn")
    for compute_type, cell, H in itertools.product(types, cells, SIZES[1::2] if quick else SIZES):
        heavy = H >= 512
        for T, N in ((0, 1), (0, 8), (0, 32), (100, 1), (25, 16)):
            if quick and N == 32:
                continue
            yield Row(cell, 1, False, H, T // 4 if heavy else T, N, compute_type)
        yield Row(cell, 1, True, H, 25 if heavy else 100, 1, compute_type)
        for layers in (2, 3):
            yield Row(cell, layers, False, H, 25 if heavy else 100, 1, compute_type)


def timed(call: Callable[[], object], repeats: int) -> float:
    for _ in range(repeats // 3 + 1):
        call()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def compare(row: Row, seconds: float) -> tuple[float, float]:
    """Seconds a call of one thread and of two: the tenth percentiles of turns."""
    one, two = row.call(1), row.call(2)
    once = min(timed(one, 1) for _ in range(3))
    repeats = max(3, int(1e-3 / once))
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        times.append((timed(one, repeats), timed(two, repeats)))
    a, b = np.percentile(np.array(times), 10, axis=0)
    return float(a), float(b)


def pin_helpers(core: int) -> None:
    """Keep the engine's threads away from the main one where other work fills the machine."""
    own = threading.get_native_id()
    for task in os.listdir("/proc/self/task"):
        name = Path("/proc/self/task", task, "comm").read_text().strip()
        if int(task) != own and name == "gruengine":
            os.sched_setaffinity(int(task), {core})


def sweep(quick: bool, seconds: float, pin: int | None) -> None:
    slower = []
    Row("lstm", 1, False, 256, 100, 1, "float32").call(2)()
    if pin is not None:
        pin_helpers(pin)
    print(f"{'':44}{'1 thread':>12}{'2 threads':>12}  ratio")
    for row in rows(quick):
        one, two = compare(row, seconds)
        if one / two < 0.95:  # noise, or true? Once more and longer.
            one, two = compare(row, 4 * seconds)
        print(f"{row!s:44}{one * 1e6:9.1f} us{two * 1e6:9.1f} us{one / two:7.2f}", flush=True)
        if one / two < 0.95:
            slower.append(row)
    print(f"slower than one thread by over 5 %: {len(slower)}")
    for row in slower:
        print(" ", row)


def crowded(H: int, seconds: float = 3.0) -> None:
    program = (
        "import sys, time; from benchmarks.threads import Row\n"
        f"call = Row('lstm', 1, False, {H}, 50, 1, 'float32').call(int(sys.argv[1])); call()\n"
        f"end = time.perf_counter() + {seconds}; n = 0\n"
        "while time.perf_counter() < end: call(); n += 1\n"
        "print(n)"
    )
    counts = {}
    for threads in (1, 2, 1, 2):
        command = [sys.executable, "-c", program, str(threads)]
        both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        counts.setdefault(threads, []).append(sum(int(each.communicate()[0]) for each in both))
    one, two = (sum(counts[threads]) for threads in (1, 2))
    print(f"two processes, H={H}: {one} sequences with one thread each, {two} with two")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sizes, cells and types")
    parser.add_argument("--seconds", type=float, default=0.3, help="of a row")
    parser.add_argument("--crowded", action="store_true", help="two processes at once")
    parser.add_argument("--pin", type=int, help="the core of the second thread")
    chosen = parser.parse_args()
    if chosen.crowded:
        for H in (128, 256, 512):
            crowded(H)
    else:
        sweep(chosen.quick, chosen.seconds, chosen.pin)


if __name__ == "__main__":
    main()
