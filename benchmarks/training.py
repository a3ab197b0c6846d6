# SPDX-License-Identifier: MIT
"""Time a step of training beside PyTorch: ``python -m benchmarks.training --threads 1 2``.

A step is forward, mean squared error, backward, clipping by the global norm and Adam, as a user
writes it on either side, on arrays ``[N, T, I]``. The bound counts three times the products of the
forward pass (less the gradient of the input) at the peak of fused multiply-adds.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gruengine as gr
from benchmarks import report
from benchmarks.bound import REFERENCE
from benchmarks.timing import cores, quiet, race

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
MODES = {"quick": (7, 0.05), "full": (31, 0.2)}  # rounds, seconds of a turn
HEAD = "| case | threads | ours ms | torch ms | torch / ours | quartiles | target | of bound |"
# The first losses must agree to this part, or nothing is timed.
TOLERANCE = 0.3

Step = Callable[[], float]


@dataclass(frozen=True)
class Training:
    """One row: a stack of layers; targets are for one and two threads."""

    kind: str
    I: int
    H: int
    T: int
    N: int
    layers: int
    targets: tuple[float, float] = (1.4, 1.2)

    @property
    def name(self) -> str:
        return f"{self.kind} I={self.I} H={self.H} T={self.T} N={self.N} layers={self.layers}"

    def bound(self, threads: int) -> float:
        """Return the seconds that the products of a step take at the peak."""
        G = GATES[self.kind]
        forward = sum(
            G * self.H * ((self.H if level else self.I) + self.H) for level in range(self.layers)
        )
        macs = self.T * self.N * (3 * forward - G * self.H * self.I)
        return 2 * macs / (threads * REFERENCE.gflops["float32"] * 1e9)


CASES = (
    Training("LSTM", 64, 128, 50, 32, 1),
    Training("LSTM", 256, 256, 50, 32, 2),
    Training("LSTM", 512, 512, 25, 32, 1),
    Training("LSTM", 32, 32, 100, 16, 1, (3.0, 3.0)),
    Training("GRU", 256, 256, 50, 32, 2),
    Training("RNN", 256, 256, 50, 32, 1),
)


def ours(case: Training, x: Any, y: Any, threads: int) -> Step:
    """Return a step of this engine."""
    layer = getattr(gr, case.kind)(case.H, num_layers=case.layers, return_sequences=True)
    net = gr.Sequential([layer], input_size=case.I, seed=0)
    trainer = gr.Trainer(net, "mse", gr.optimizers.Adam(1e-3), clip_norm=1.0, num_threads=threads)
    return lambda: float(trainer.step(x, y).loss)


def torchs(case: Training, x: Any, y: Any, threads: int) -> Step:
    """Return a step of PyTorch."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = getattr(torch.nn, case.kind)(case.I, case.H, num_layers=case.layers, batch_first=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)

    def step() -> float:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(net(inputs)[0], targets)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def row(case: Training, threads: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Time one case."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(case.N, case.T, case.I)).astype(np.float32)
    y = rng.normal(size=(case.N, case.T, case.H)).astype(np.float32)
    steps = ours(case, x, y, threads), torchs(case, x, y, threads)
    losses = [step() for step in steps]
    if abs(losses[0] - losses[1]) > TOLERANCE * losses[1]:
        raise SystemExit(f"{case.name}: the losses are {losses[0]} and {losses[1]}")
    with cores(threads):
        found = race(*steps, rounds=rounds, seconds=seconds, cores=threads)
    return {
        "case": case.name,
        "threads": threads,
        "target": case.targets[min(threads, 2) - 1],
        "bound": case.bound(threads),
        **asdict(found),
    }


def markdown(found: dict[str, Any]) -> str:
    """Return the report."""
    lines = [f"{found['cpu']}, {found['isa']}, float32", "", HEAD, "|" + "---|" * 8]
    lines += [
        f"| {r['case']} | {r['threads']} | {1e3 * r['ours']:.2f} | {1e3 * r['peer']:.2f} "
        f"| {r['ratio']:.2f} | {r['low']:.2f}-{r['high']:.2f} | {r['target']:.1f} "
        f"| {100 * r['bound'] / r['ours']:.0f}% |"
        for r in found["rows"]
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the cases asked for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", default="", help="a regular expression for the names of cases")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--core", type=int, default=1, help="the core of one thread")
    parser.add_argument("--full", action="store_true", help="more and longer rounds")
    parser.add_argument("--json", help="write the rows, and a table beside them")
    options = parser.parse_args(argv)
    rounds, seconds = MODES["full" if options.full else "quick"]
    rows = []
    with quiet(options.core):
        for case in CASES:
            if re.search(options.only, case.name):
                rows += [row(case, threads, rounds, seconds) for threads in options.threads]
    found = {**report.machine(["torch"]), "rows": rows}
    print(markdown(found))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
        Path(options.json).with_suffix(".md").write_text(markdown(found) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
