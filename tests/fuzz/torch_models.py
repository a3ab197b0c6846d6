# SPDX-License-Identifier: MIT
"""Random PyTorch models through both exporters to ONNX and back, beside PyTorch itself.

    python -m fuzz.torch_models --count 200 --seed 0      (from the folder tests)

counts what was converted, what was refused (by reason) and what was wrong.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from onnx_models import export
from torch import Tensor, nn

import gruengine as gr
from fuzz.torch_blocks import Packed, block, layer
from gruengine.converters.base import ConversionError

Array = np.ndarray[Any, Any]

#: Largest error as a part of the largest value; both sides compute in float32.
BUDGET = 1e-4
LEGACY = (11, 12, 13, 14, 15, 16, 17)
HEADS = ("sequence", "last", "mean", "max", "attention", "argmax")


class Network(nn.Module):  # type: ignore[misc]
    """Blocks after one another, and a head; tokens or features go in."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        width = int(rng.integers(2, 9))
        self.inputs = width
        self.table = nn.Embedding(11, width) if rng.random() < 0.15 else None
        self.packs = bool(rng.random() < 0.12)
        blocks: list[nn.Module] = []
        if self.packs:
            made, width = layer(rng, width, int(rng.integers(2, 10)), True)
            blocks.append(made)
        for _ in range(int(rng.integers(1, 6))):
            made, width = block(rng, width)
            blocks.append(made)
        self.blocks = nn.Sequential(*blocks)
        self.head = str(rng.choice(HEADS, p=[0.5, 0.2, 0.1, 0.08, 0.08, 0.04]))
        self.score = nn.Linear(width, 1)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        for module in self.blocks:
            if isinstance(module, Packed):
                module.lengths = lengths
        y = self.blocks(x if self.table is None else self.table(x))
        if self.head == "last":
            return y[:, -1]
        if self.head == "mean":
            return y.mean(1)
        if self.head == "max":
            return y.max(1).values
        if self.head == "attention":
            return (torch.softmax(self.score(y), 1) * y).sum(1)
        return y.argmax(-1) if self.head == "argmax" else y


@dataclass
class Case:
    """A network with an input, and how it is exported."""

    network: Network
    n: int
    t: int
    dynamo: bool
    opset: int | None
    free: tuple[int, ...]  # axes of x whose size is free

    def feed(self, rng: np.random.Generator, n: int, t: int) -> tuple[Tensor, ...]:
        """Return what to run."""
        if self.network.table is not None:
            x = torch.from_numpy(rng.integers(0, 11, (n, t)))
        else:
            x = torch.from_numpy(rng.standard_normal((n, t, self.network.inputs)).astype("f4"))
        if not self.network.packs:
            return (x,)
        lengths = np.sort(rng.integers(1, t + 1, n))[::-1].copy()
        lengths[0] = t
        return x, torch.from_numpy(lengths)


def draw(seed: int, dynamo: bool | None = None) -> Case:
    """Return the case of a seed."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    network = Network(rng)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    network.eval()
    new = bool(rng.random() < 0.3) if dynamo is None else dynamo
    new = new and not network.packs
    free: tuple[int, ...] = ()
    if rng.random() < 0.5:
        free = (0,)
    opset = None if new else int(rng.choice(LEGACY))
    return Case(network, int(rng.integers(2, 4)), int(rng.integers(3, 8)), new, opset, free)


@dataclass
class Outcome:
    """What became of a case: "converted", "refused", "unexported" or "wrong"."""

    kind: str
    notes: list[str] = field(default_factory=list)
    recurrent: int = 0


def export_case(case: Case, args: tuple[Tensor, ...]) -> bytes:
    """Return the case as an ONNX file."""
    names = ["x", "lengths"][: len(args)]
    options: dict[str, Any] = {"input_names": names, "output_names": ["y"]}
    if case.free and case.dynamo:
        dims = dict.fromkeys(case.free, torch.export.Dim.DYNAMIC)
        options["dynamic_shapes"] = (dims,)
    elif case.free:
        options["dynamic_axes"] = {name: {a: f"s{a}" for a in case.free} for name in names}
    model = export(case.network, args, case.dynamo, case.opset, **options)
    return bytes(model.SerializeToString())


def check(case: Case, seed: int) -> Outcome:
    """Export, convert, run and compare a case."""
    rng = np.random.default_rng(seed)
    args = case.feed(rng, case.n, case.t)
    try:
        with torch.no_grad():
            source = export_case(case, args)
    except Exception as error:  # whatever keeps an exporter from writing a file
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Outcome("unexported", [lines[0][:120]])
    try:
        model = gr.load(source)
    except ConversionError as error:
        return Outcome("refused", [str(reason) for reason in error.reasons])
    return compare(case, model, rng, args)


def compare(
    case: Case, model: gr.Model, rng: np.random.Generator, args: tuple[Tensor, ...]
) -> Outcome:
    """Run a model on what it was exported with, and on another batch where that is free."""
    feeds = [args]
    if case.free:
        feeds.append(case.feed(rng, case.n + 2, case.t))
    for feed in feeds:
        with torch.no_grad():
            wanted = case.network(*feed).numpy()
        names = [port.name for port in model.signature.inputs]
        inputs = dict(zip(names, (value.numpy() for value in feed), strict=False))
        found = model.run_graph(inputs)["y"]
        if found.shape != wanted.shape:
            return Outcome("wrong", [f"shape {found.shape}; {wanted.shape} is right"])
        if wanted.dtype.kind != "f":
            if np.mean(found != wanted) > 0.05:  # a tie may fall either way
                return Outcome("wrong", ["other indices"])
        elif not (error := error_of(found, wanted)) <= BUDGET:
            return Outcome("wrong", [f"error {error:.2e}"])
    return Outcome("converted")


def error_of(found: Array, wanted: Array) -> float:
    """Return the largest error as a part of the largest value; sums that cancel are no scale."""
    if not np.isfinite(found).all():
        return float("inf")
    scale = max(float(np.abs(wanted).max()), 0.01)
    return float(np.abs(found - wanted).max()) / scale


def run(seed: int, dynamo: bool | None = None) -> Outcome:
    """Return what becomes of the case of a seed; whatever is raised is wrong."""
    case = draw(seed, dynamo)
    try:
        return check(case, seed)
    except Exception as error:  # a script that counts goes on
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        return Outcome("wrong", [text[:300]])


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters print to the terminal, in C++ too, away from it."""
    sys.stdout.flush()
    saved = os.dup(1), os.dup(2)
    with open(os.devnull, "w") as nowhere:
        try:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            sys.stdout.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            os.close(saved[0])
            os.close(saved[1])


def _general(reason: str) -> str:
    """Return a reason without the names of nodes."""
    return re.sub(r"\d+", "#", reason.split(": ", 1)[-1])[:120]


def main() -> int:
    """Count the outcomes of many cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exporter", choices=["legacy", "dynamo"])
    arguments = parser.parse_args()
    dynamo = None if arguments.exporter is None else arguments.exporter == "dynamo"
    kinds: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    torch.set_num_threads(1)
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        with quiet():
            outcome = run(seed, dynamo)
        kinds[outcome.kind] += 1
        reasons.update({f"{outcome.kind}: {_general(note)}" for note in outcome.notes})
        if outcome.kind in ("wrong", "refused"):
            print(seed, outcome.kind, *outcome.notes[:3], sep="\n    ", flush=True)
    print("\n".join(f"{count:5} {reason}" for reason, count in reasons.most_common(40)))
    print(", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))
    return 1 if kinds["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
