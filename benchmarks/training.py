# SPDX-License-Identifier: MIT
"""Time a step of training beside PyTorch: ``python -m benchmarks.training --threads 1 2``.

A step is forward, mean squared error, backward, clipping by the global norm and Adam, as a user
writes it on either side, on arrays ``[N, T, I]``. The bound counts three times the products of the
forward pass (less the gradient of the input) at the peak of the compute type. Steps in bfloat16 are
compared with our own in float32. ``--memory`` adds how far a process of either side grows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import gruengine as gr
from benchmarks import ROOT, report
from benchmarks import machine as machines
from benchmarks.timing import cores, quiet, race

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
MODES = {"quick": (7, 0.05), "full": (31, 0.2)}  # rounds, seconds of a turn
HEAD = (
    "| case | type | threads | ours ms | peer | peer ms | peer / ours | quartiles | target "
    "| of bound | ours MiB | peer MiB |"
)
MEMORY_STEPS = 5
# Of bfloat16 against our own float32, by whether H >= 256.
LOW_TARGETS = {True: 2.0, False: 1.0}
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

    def bound(self, threads: int, compute_type: str, machine: machines.Machine) -> float:
        """Return the seconds that the products of a step take at the peak."""
        G = GATES[self.kind]
        forward = sum(
            G * self.H * ((self.H if level else self.I) + self.H) for level in range(self.layers)
        )
        macs = self.T * self.N * (3 * forward - G * self.H * self.I)
        return 2 * macs / (threads * machine.gflops[compute_type] * 1e9)


CASES = (
    Training("LSTM", 64, 128, 50, 32, 1),
    Training("LSTM", 256, 256, 50, 32, 2),
    Training("LSTM", 512, 512, 25, 32, 1),
    Training("LSTM", 32, 32, 100, 16, 1, (3.0, 3.0)),
    Training("GRU", 256, 256, 50, 32, 2),
    Training("RNN", 256, 256, 50, 32, 1),
)


def ours(case: Training, x: Any, y: Any, threads: int, compute_type: str = "float32") -> Step:
    """Return a step of this engine."""
    layer = getattr(gr, case.kind)(case.H, num_layers=case.layers, return_sequences=True)
    net = gr.Sequential([layer], input_size=case.I, seed=0)
    trainer = gr.Trainer(
        net, "mse", gr.optimizers.Adam(1e-3), clip_norm=1.0, num_threads=threads,
        compute_type=compute_type,
    )  # fmt: skip
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


def arrays(case: Training) -> tuple[Any, Any]:
    """Return inputs and targets."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(case.N, case.T, case.I)).astype(np.float32)
    return x, rng.normal(size=(case.N, case.T, case.H)).astype(np.float32)


def row(
    case: Training,
    threads: int,
    compute_type: str,
    rounds: int,
    seconds: float,
    machine: machines.Machine,
) -> dict[str, Any]:
    """Time one case."""
    x, y = arrays(case)
    low = compute_type != "float32"
    peer = ours(case, x, y, threads) if low else torchs(case, x, y, threads)
    steps = ours(case, x, y, threads, compute_type), peer
    losses = [step() for step in steps]
    if abs(losses[0] - losses[1]) > TOLERANCE * losses[1]:
        raise SystemExit(f"{case.name}: the losses are {losses[0]} and {losses[1]}")
    with cores(threads):
        found = race(*steps, rounds=rounds, seconds=seconds, cores=threads)
    return {
        "case": case.name,
        "threads": threads,
        "compute_type": compute_type,
        "peer_name": "float32" if low else "torch",
        "target": LOW_TARGETS[case.H >= 256] if low else case.targets[min(threads, 2) - 1],
        "bound": case.bound(threads, compute_type, machine),
        **asdict(found),
    }


def growth(case: Training, threads: int, compute_type: str) -> float:
    """Return by how many MiB a process grows at most while it trains; ``torch`` is a type too."""
    command = [sys.executable, "-m", "benchmarks.training", "--only", f"^{re.escape(case.name)}$"]
    command += ["--threads", str(threads), "--grow", compute_type]
    found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(found.stdout)


def _grow(case: Training, threads: int, compute_type: str) -> float:
    # A first small step loads whatever is loaded only then.
    for one in (replace(case, T=1, N=1), case):
        before = _status("VmRSS")
        x, y = arrays(one)
        step = torchs(one, x, y, threads) if compute_type == "torch" else (
            ours(one, x, y, threads, compute_type)
        )  # fmt: skip
        for _ in range(MEMORY_STEPS if one is case else 1):
            step()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    """Return a figure of this process in MiB; that of getrusage would begin with the parent's."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


def markdown(found: dict[str, Any]) -> str:
    """Return the report."""
    lines = [f"{found['cpu']}, {found['isa']}; {found['bounds']}", "", HEAD, "|" + "---|" * 12]
    for r in found["rows"]:
        sizes = (f"{r[key]:.0f}" if key in r else "" for key in ("memory", "peer_memory"))
        lines.append(
            f"| {r['case']} | {r['compute_type']} | {r['threads']} | {1e3 * r['ours']:.2f} "
            f"| {r['peer_name']} | {1e3 * r['peer']:.2f} | {r['ratio']:.2f} "
            f"| {r['low']:.2f}-{r['high']:.2f} | {r['target']:.1f} "
            f"| {100 * r['bound'] / r['ours']:.0f}% | {' | '.join(sizes)} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the cases asked for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", default="", help="a regular expression for the names of cases")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--types", nargs="+", default=["float32"], help="float32, bfloat16")
    parser.add_argument("--memory", action="store_true", help="how far either side grows (Linux)")
    parser.add_argument("--grow", metavar="TYPE", help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, default=1, help="the core of one thread")
    parser.add_argument("--full", action="store_true", help="more and longer rounds")
    parser.add_argument("--json", help="write the rows, and a table beside them")
    options = parser.parse_args(argv)
    rounds, seconds = MODES["full" if options.full else "quick"]
    rows = []
    chosen = [case for case in CASES if re.search(options.only, case.name)]
    if options.grow:
        print(_grow(chosen[0], options.threads[0], options.grow))
        return 0
    notes: list[str] = []
    with quiet(options.core):
        machine = machines.here(notes)
    for case, threads, kind in itertools.product(chosen, options.threads, options.types):
        with quiet(options.core):
            rows.append(row(case, threads, kind, rounds, seconds, machine))
        if options.memory:
            peer = "torch" if kind == "float32" else "float32"
            rows[-1]["memory"] = growth(case, threads, kind)
            rows[-1]["peer_memory"] = growth(case, threads, peer)
    found = {
        **report.machine(["torch"]),
        "machine": asdict(machine),
        "bounds": machine.describe(),
        "rows": rows,
        "notes": notes,
    }
    print(markdown(found))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
        Path(options.json).with_suffix(".md").write_text(markdown(found) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
