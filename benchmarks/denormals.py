# SPDX-License-Identifier: MIT
"""Steps on subnormal numbers beside ordinary ones: ``python -m benchmarks.denormals``.

Inputs are around 1e-40, where a CPU that doesn't flush them takes a hundred times as long for each
operation. The ratio should be 1.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

import gruengine as gr
from benchmarks.timing import Call, quiet, race

SIZES = (64, 256)
COMPUTE_TYPES = ("float32", "bfloat16", "int8", "bf16x3")


def steps(model: gr.Model, size: int, scale: float) -> Call:
    """Return a step of a stream of its own on inputs of this scale."""
    x = (np.random.default_rng(0).uniform(0.5, 1, (1, size)) * scale).astype(np.float32)
    stream = model.stream()
    out = np.empty((1, size), np.float32)
    return lambda: stream.step(x, out)


def main() -> None:
    print("| layer | compute type | ordinary us | subnormal us | subnormal / ordinary |")
    print("|---|---|--:|--:|--:|")
    last = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    with quiet(last), tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "net"
        for size in SIZES:
            for layer in (gr.LSTM, gr.GRU):
                gr.Sequential([layer(size)], size).save(file)
                for compute_type in COMPUTE_TYPES:
                    model = gr.load(file, compute_type=compute_type)
                    ordinary, tiny = (steps(model, size, scale) for scale in (1.0, 1e-40))
                    found = race(ordinary, tiny, rounds=15, seconds=0.002)
                    print(
                        f"| {layer.__name__} {size} | {compute_type} | {found.ours * 1e6:.3g} "
                        f"| {found.peer * 1e6:.3g} | {found.ratio:.2f} |"
                    )


if __name__ == "__main__":
    main()
