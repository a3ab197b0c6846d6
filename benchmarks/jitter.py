# SPDX-License-Identifier: MIT
"""How evenly single steps take their time, in C: ``python -m benchmarks.jitter [MODEL.onnx ...]``.

Compiles ``micro/jitter.c`` against the installed package and prints quantiles of the time of a step
for LSTMs of three sizes and the models of the command line. On a machine with other work the tail
is that of the machine: the line ``nothing`` times an empty loop beside it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import gruengine as gr
from benchmarks.compiled import build, flags

QUANTILES = ("p50", "p90", "p99", "p99.9", "p99.99", "max")
STEPS = 1_000_000


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder) / "jitter", "jitter.c", ["-O2", *flags()])
        print(f"{'us':24}" + "".join(f"{name:>9}" for name in QUANTILES) + "  p99.9 / p50")
        show("nothing", empty())
        for H in (32, 128, 256):
            gr.Sequential([gr.LSTM(H)], H).save(Path(folder) / "net")
            show(f"lstm {H}", measure(program, Path(folder) / "net"))
        for name in sys.argv[1:]:
            bind = {"sr": 16000} if "silero_vad" in name else {}
            gr.convert(name, Path(folder) / "net", bind=bind)
            sizes = ("input_0=1", "input_1=576") if bind else ()
            show(Path(name).stem, measure(program, Path(folder) / "net", *sizes))


def measure(program: Path, model: Path, *sizes: str) -> list[float]:
    command = [str(program), str(model), str(STEPS), *sizes]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(text) / 1000 for text in done.stdout.split()]


def empty() -> list[float]:
    times = np.empty(STEPS)
    for t in range(STEPS):
        begin = time.perf_counter_ns()
        times[t] = time.perf_counter_ns() - begin
    return [float(q) for q in np.quantile(times, [0.5, 0.9, 0.99, 0.999, 0.9999, 1.0]) / 1000]


def show(name: str, found: list[float]) -> None:
    print(f"{name:24}" + "".join(f"{t:9.2f}" for t in found) + f"  {found[3] / found[0]:11.1f}")


if __name__ == "__main__":
    main()
