# SPDX-License-Identifier: MIT
"""Mutants of model files: none may crash, hang, flood memory or raise what is not ours."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fuzz import mutate, seeds

SEED, COUNT = 7, 5000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    seeds.write(folder)
    return folder


def test_mutants_are_refused_or_run(folder: Path) -> None:
    report = mutate.run(COUNT, SEED, folder=folder)
    assert report["bad"] == []
    assert sum(report["counts"].values()) == COUNT
    # Where everything is refused, or nothing, the mutants test little.
    assert report["counts"]["refused"] > COUNT // 10
    assert report["counts"]["loaded"] > COUNT // 20


def test_a_mutant_is_the_same_every_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days = itertools.count(1e9, 86400)
    monkeypatch.setattr(time, "time", lambda: next(days))
    seen = set()
    for number in range(40):
        one, two = (mutate.mutant(folder, SEED, number) for _ in range(2))
        assert one == two
        seen.add(one[1])
    assert len(seen) > 35


@pytest.mark.parametrize(
    ("trouble", "found"),
    [
        ("os.abort()", "CRASH"),
        ("raise KeyError('x')", "WRONG ERROR"),
        ("kept.append(np.ones(1 << 24))", "MEMORY"),
        ("exec('while True: pass')", "HANG"),
    ],
)
def test_the_watch_sees_trouble(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str, found: str
) -> None:
    """Mutant 3 of 6 misbehaves; the watch names it and goes on."""
    loaded = len(list(folder.glob("*.bin"))) - 1  # each seed but the state, before the mutants
    program = (
        "import os, sys\n"
        f"sys.path.insert(0, {str(mutate.TESTS)!r})\n"
        "import numpy as np, gruengine as gr\n"
        "from fuzz import mutate\n"
        "mutate.CPU_SECONDS = 1\n"
        "real, kept, calls = gr.load, [], []\n"
        "def load(source, **hints):\n"
        "    calls.append(1)\n"
        f"    if len(calls) == {loaded} + 4: {trouble}\n"
        "    return real(source, **hints)\n"
        "gr.load = load\n"
        "sys.exit(mutate.main())\n"
    )
    (tmp_path / "worker.py").write_text(program)
    monkeypatch.setattr(mutate, "WORKER", [sys.executable, str(tmp_path / "worker.py")])
    report = mutate.run(6, SEED, folder=folder)
    assert [(number, what) for number, what, _ in report["bad"]] == [(3, found)]
    assert sum(report["counts"].values()) == 6


def test_the_number_of_seeds(folder: Path) -> None:
    names = sorted(path.stem for path in folder.glob("*.bin"))
    assert len(names) == 18
    kinds = {name.split("-")[0] for name in names}
    assert kinds == {"onnx", "torch", "safetensors", "model", "keras", "npz", "json", "state"}
    sizes = [path.stat().st_size for path in folder.glob("*.bin")]
    assert np.max(sizes) < 20_000
