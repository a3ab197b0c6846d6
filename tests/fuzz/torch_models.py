# SPDX-License-Identifier: MIT
"""Random PyTorch models through both exporters to ONNX, and traced directly, beside PyTorch itself.

    python -m fuzz.torch_models --count 2000 --seed 0      (from the folder tests)

counts what was converted, what was refused (by reason), what no exporter could write or wrote
wrong itself, and what was wrong. Without --exporter each model goes one of the ways at random.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx_models import export
from torch import Tensor, nn

import gruengine as gr
from fuzz.tally import Outcome, Tally
from fuzz.torch_blocks import CellLoop, Packed, Projected, block, layer
from fuzz.torch_networks import Scripted, Tower
from gruengine.converters.base import ConversionError

Array = np.ndarray[Any, Any]

#: Largest error as a part of the largest value; both sides compute in float32.
BUDGET = 1e-4
LEGACY = (11, 12, 13, 14, 15, 16, 17)
EXPORTERS = {"legacy": 0.6, "dynamo": 0.25, "direct": 0.15}
HEADS = {"sequence": 0.45, "last": 0.18, "mean": 0.1, "max": 0.08, "attention": 0.08,
         "argmax": 0.04, "pair": 0.07}  # fmt: skip
UNROLLED = (CellLoop, Projected, Tower)  # their loops fix the number of frames


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
        self.head = str(rng.choice([*HEADS], p=[*HEADS.values()]))
        self.score = nn.Linear(width, 1)

    def has(self, *kinds: type[nn.Module]) -> bool:
        return any(isinstance(module, kinds) for module in self.modules())

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Any:
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
        if self.head == "pair":
            return y, torch.tanh(y[:, 0])
        return y.argmax(-1) if self.head == "argmax" else y


@dataclass
class Case:
    """A network with an input, and how it is exported."""

    network: Network
    n: int
    t: int
    exporter: str
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


def draw(seed: int, exporter: str | None = None) -> Case:
    """Return the case of a seed."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    network = Network(rng)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    network.eval()
    way = str(rng.choice([*EXPORTERS], p=[*EXPORTERS.values()]))
    way = exporter or way
    if network.packs or network.has(Scripted):  # torch.export takes neither
        way = "legacy"
    free: tuple[int, ...] = (0,) if rng.random() < 0.6 else ()
    if free and rng.random() < 0.5 and not network.has(*UNROLLED):
        free = (0, 1)
    opset = int(rng.choice(LEGACY)) if way == "legacy" else None
    if network.has(Scripted):
        opset = max(opset or 17, 13)
    return Case(network, int(rng.integers(2, 4)), int(rng.integers(3, 8)), way, opset, free)


def export_case(case: Case, args: tuple[Tensor, ...]) -> bytes:
    """Return the case as an ONNX file."""
    names = ["x", "lengths"][: len(args)]
    outputs = ["y", "z"] if case.network.head == "pair" else ["y"]
    options: dict[str, Any] = {"input_names": names, "output_names": outputs}
    if case.free and case.exporter == "dynamo":
        dims = dict.fromkeys(case.free, torch.export.Dim.DYNAMIC)
        options["dynamic_shapes"] = (dims,)
    elif case.free:
        options["dynamic_axes"] = {"x": {a: f"s{a}" for a in case.free}, "lengths": {0: "s0"}}
        options["dynamic_axes"] = {name: options["dynamic_axes"][name] for name in names}
    model = export(case.network, args, case.exporter == "dynamo", case.opset, **options)
    return bytes(model.SerializeToString())


def check(case: Case, seed: int) -> Outcome:
    """Export, convert, run and compare a case."""
    rng = np.random.default_rng(seed)
    args = case.feed(rng, case.n, case.t)
    source = b""
    if case.exporter != "direct":
        try:
            with torch.no_grad():
                source = export_case(case, args)
        except Exception as error:  # whatever keeps an exporter from writing a file
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return Outcome("unexported", [lines[0][:120]])
    try:
        model = gr.load(source) if source else gr.from_torch(case.network, args)
    except ConversionError as error:
        return Outcome("refused", [str(reason) for reason in error.reasons])
    feeds = [args]
    free = case.free or ((0,) if case.exporter == "direct" else ())
    if free:
        feeds.append(case.feed(rng, case.n + 2, case.t + (4 if 1 in free else 0)))
    for feed in feeds:
        if not fits(model, feed):  # an exporter, or the module, may have fixed a size
            continue
        outcome = compare(case, model, feed, source)
        if outcome.kind != "converted":
            return outcome
    return Outcome("converted")


def fits(model: gr.Model, feed: tuple[Tensor, ...]) -> bool:
    """Tell whether the sizes that a model says are fixed are those of a feed."""
    return all(
        isinstance(said, str) or said == size
        for port, value in zip(model.signature.inputs, feed, strict=False)
        for said, size in zip(port.shape, value.shape, strict=True)
    )


def compare(case: Case, model: gr.Model, feed: tuple[Tensor, ...], source: bytes) -> Outcome:
    """Run a model, and compare with PyTorch; of a file that is wrong itself ONNX Runtime tells."""
    with torch.no_grad():
        wanted = case.network(*feed)
    wanted = [one.numpy() for one in (wanted if isinstance(wanted, tuple) else (wanted,))]
    names = [port.name for port in model.signature.inputs]
    inputs = dict(zip(names, (value.numpy() for value in feed), strict=False))
    try:
        found = model.run_graph(inputs)
        outputs = [found[port.name] for port in model.signature.outputs]
        problem = difference(outputs, wanted)
    except gr.GruEngineError as error:
        outputs, problem = [], f"not run: {error}"
    if problem and source:
        said = runtime(source, inputs)
        if isinstance(said, str):
            return Outcome("unexported", [f"ONNX Runtime does not run the file: {said}"])
        if outputs and difference(said, wanted) and not difference(outputs, said):
            return Outcome("unexported", ["the exporter's file computes something else"])
    return Outcome("wrong", [problem]) if problem else Outcome("converted")


def runtime(source: bytes, inputs: dict[str, Array]) -> list[Array] | str:
    """Return what ONNX Runtime computes, or why it does not."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
        names = {value.name for value in session.get_inputs()}
        return list(session.run(None, {k: v for k, v in inputs.items() if k in names}))
    except Exception as error:
        return str(error).strip().splitlines()[0][:100]


def difference(found: list[Array], wanted: list[Array]) -> str:
    """Return how values differ from those that are right, "" where they do not."""
    if len(found) != len(wanted):
        return f"{len(found)} outputs; {len(wanted)} is right"
    for one, right in zip(found, wanted, strict=True):
        if one.shape != right.shape:
            return f"shape {one.shape}; {right.shape} is right"
        if right.dtype.kind != "f":
            if np.mean(one != right) > 0.05:  # a tie may fall either way
                return "other indices"
        elif not (error := error_of(one, right)) <= BUDGET:
            return f"error {error:.2e}"
    return ""


def error_of(found: Array, wanted: Array) -> float:
    """Return the largest error as a part of the largest value; sums that cancel are no scale."""
    if not np.isfinite(found).all():
        return float("inf")
    scale = max(float(np.abs(wanted).max()), 0.01)
    return float(np.abs(found - wanted).max()) / scale


def run(seed: int, exporter: str | None = None) -> Outcome:
    """Return what becomes of the case of a seed; whatever is raised is wrong."""
    case = draw(seed, exporter)
    try:
        return check(case, seed)
    except Exception as error:  # a script that counts goes on
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return Outcome("wrong", [text[:300]])


def parts(case: Case) -> set[str]:
    """Return what a network is made of, for the count."""
    found = {type(m).__name__ for m in case.network.modules() if type(m).__module__ != "torch"}
    own = {"Recurrent", "Network", "Sequential", "ModuleList", "Turned", "ScriptFunction"}
    both = any(getattr(module, "bidirectional", False) for module in case.network.modules())
    return (found - own) | ({"bidirectional"} if both else set())


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


def main() -> int:
    """Count the outcomes of many cases."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exporter", choices=[*EXPORTERS])
    parser.add_argument("--keep", type=Path, help="write the ONNX file of --seed here and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.keep:
        case = draw(arguments.seed, arguments.exporter)
        rng = np.random.default_rng(arguments.seed)
        arguments.keep.write_bytes(export_case(case, case.feed(rng, case.n, case.t)))
        return 0
    tally = Tally()
    with suppress(KeyboardInterrupt):  # what was counted until then is printed
        for seed in range(arguments.seed, arguments.seed + arguments.count):
            with quiet():
                outcome = run(seed, arguments.exporter)
            case = draw(seed, arguments.exporter)
            free = ["fixed sizes", "free N", "free N, T"][len(case.free)]
            tally.add(f"{case.exporter}, {free}", outcome, parts(case))
            tally.tell(seed, outcome)
    print(tally.table())
    return 1 if tally.total("wrong") else 0


if __name__ == "__main__":
    sys.exit(main())
