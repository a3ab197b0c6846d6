# SPDX-License-Identifier: MIT
"""Time this engine beside its peers: ``python -m benchmarks.run --quick``, from the checkout."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bound, report
from benchmarks import machine as machines
from benchmarks.cases import Case
from benchmarks.catalogue import catalogue
from benchmarks.peers import NAMES, Array, Runner, compute_type, peer, rivals
from benchmarks.timing import cores, quiet, race
from gruengine import GruEngineError

# The largest difference of an output, in float32 and where either side computes in less.
TOLERANCES = {"float32": 1e-4, "bf16x3": 1e-4, "bfloat16": 0.05, "int8": 0.1, "int4": 0.3}
MODES = {"quick": (15, 0.001), "full": (51, 0.002)}  # rounds, seconds of a turn


def main(argv: list[str] | None = None) -> int:
    """Run the cases asked for; return the exit status."""
    options = _arguments().parse_args(argv)
    cases = [
        case
        for case in catalogue()
        if re.search(options.only, case.name) and (case.quick or options.full or options.only)
    ]
    rounds, seconds = MODES["full" if options.full else "quick"]
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    present = [name for name in options.peers.split(",") if not _absent(name, notes)]
    with quiet(options.core):
        machine = machines.here(notes)
        for case in cases:
            if reason := case.missing():
                notes.append(f"{case.name}: {reason}")
                continue
            with cores(case.threads):  # threads of an engine may run where their maker may
                rows += _rows(case, present, rounds, seconds, notes, machine)
    settings = {"rounds": rounds, "seconds": seconds, "core": options.core}
    found = {
        **report.machine(present),
        "machine": asdict(machine),
        "bounds": machine.describe(),
        "settings": settings,
        "rows": rows,
        "notes": notes,
    }
    print(report.markdown(found))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
        Path(options.json).with_suffix(".md").write_text(report.markdown(found))
    if options.plot:
        from benchmarks.plot import save

        for file in save(found, Path(options.plot)):
            print(f"drawn: {file}", file=sys.stderr)
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--quick", action="store_true", help="few cases, 15 rounds of 1 ms (the default)"
    )
    mode.add_argument("--full", action="store_true", help="all cases, 51 rounds of 2 ms")
    parser.add_argument("--only", default="", metavar="PATTERN", help="cases whose name matches")
    parser.add_argument("--peers", default=",".join(NAMES), help="default: %(default)s")
    parser.add_argument("--json", metavar="FILE", help="write results, and Markdown beside them")
    parser.add_argument("--plot", metavar="FOLDER", help="draw what was run (needs matplotlib)")
    last = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    parser.add_argument("--core", type=int, default=last, help="core to run on (%(default)s)")
    return parser


def _absent(name: str, notes: list[str]) -> bool:
    reason = peer(name).missing()
    if reason:
        notes.append(f"{name}: {reason}")
    return bool(reason)


def _rows(
    case: Case,
    names: list[str],
    rounds: int,
    seconds: float,
    notes: list[str],
    machine: machines.Machine,
) -> list[dict[str, Any]]:
    rows = []
    limit, level = bound.bound(case, machine)
    operations, read = bound.work(case, machine)
    for name in rivals(case, names):
        try:
            theirs = peer(name).prepare(case)
            if theirs is None:
                continue
            expected = first_outputs(theirs)
        except Exception as error:  # a peer's own failure is no reason to stop
            notes.append(f"{case.name}: {name} fails: {str(error)[-120:]}")
            continue
        try:
            ours = peer("ours-native" if case.native else "ours").prepare(case)
        except GruEngineError as error:
            notes.append(f"{case.name}: {error}")
            return rows
        check(case, name, first_outputs(ours), expected)
        found = race(ours.call, theirs.call, rounds=rounds, seconds=seconds, cores=case.threads)
        of_bound = limit * ours.steps / found.ours
        rows.append(
            {
                "case": case.name,
                "group": case.group,
                "H": case.size,
                "compute_type": case.compute_type,
                "threads": case.threads,
                "N": case.N,
                "T": case.T,
                "peer": name,
                "detail": theirs.detail,
                "ours_us": found.ours / ours.steps * 1e6,
                "peer_us": found.peer / theirs.steps * 1e6,
                "ratio": found.ratio,
                "ratio_quartiles": [found.low, found.high],
                "rounds": found.rounds,
                "void_rounds": found.void,
                "bound_us": limit * 1e6,
                "operations": operations,
                "weight_bytes": read,
                "level": level,
                "of_bound": of_bound,
                "reason": bound.reason(case, of_bound, machine),
                "target": case.targets.get(name),
            }
        )
        print(report.progress(rows[-1]), file=sys.stderr, flush=True)
    return rows


def first_outputs(runner: Runner) -> list[Array]:
    """Return copies of all outputs of the first three calls, flat."""
    found = []
    for _ in range(3):
        runner.call()
        found += [np.ravel(output).copy() for output in runner.outputs()]
    return found


def check(case: Case, name: str, ours: list[Array], theirs: list[Array]) -> None:
    """Refuse to time a wrong result."""
    types = (case.compute_type, compute_type(name))
    # Two engines below float32 err both.
    low = sum(TOLERANCES[kind] for kind in types if kind != "float32")
    tolerance = low or TOLERANCES["float32"]
    for mine, other in zip(ours, theirs, strict=True):
        error = np.abs(mine - other).max()
        if not error <= tolerance:
            raise SystemExit(f"{case.name}: an output is off {name}'s by {error:.2g}")


if __name__ == "__main__":
    raise SystemExit(main())
