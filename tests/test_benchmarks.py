# SPDX-License-Identifier: MIT
"""The benchmarks themselves: cases, bounds, peers, report and plot. Nothing is timed here."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import recordings  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
MODULES = (
    "accuracy",
    "bound",
    "cases",
    "catalogue",
    "machine",
    "onnx_cell",
    "peers",
    "plot",
    "report",
    "run",
    "timing",
    "training",
)


@pytest.fixture(scope="module")
def benchmarks():
    """The package of the checkout, which has taken itself off the path."""
    package = importlib.import_module("benchmarks")
    for name in MODULES:
        importlib.import_module(f"benchmarks.{name}")
    assert str(ROOT) not in sys.path
    return package


@pytest.fixture
def known(benchmarks, monkeypatch):
    """A machine that needs no measuring."""
    machine = benchmarks.machine.REFERENCE
    monkeypatch.setattr(benchmarks.machine, "here", lambda notes: machine)
    return machine


def small(benchmarks, stack=None, **changes):
    cases = benchmarks.cases
    cell = cases.Stack(**(stack or {"kind": "LSTM", "H": 5}))
    return cases.Case("small", "step", (cell,), **{"carried": True, "N": 2, **changes})


def test_cases_are_named_once_and_have_bounds(benchmarks):
    cases = benchmarks.catalogue.catalogue()
    assert len({case.name for case in cases}) == len(cases) > 30
    for case in cases:
        seconds, level = benchmarks.bound.bound(case)
        assert 1e-8 < seconds < 10
        assert level in ("L1", "L2", "L3")
        operations, read = benchmarks.bound.work(case)
        assert operations >= 2 * sum(part.weights for part in case.parts) * case.N
        assert read > 0
        assert set(case.targets) <= set(benchmarks.peers.NAMES)
        assert benchmarks.bound.reason(case, 0.79)
        assert not benchmarks.bound.reason(case, 0.8)


def test_the_bound_of_a_step_is_that_of_its_weights(benchmarks):
    by_name = {case.name: case for case in benchmarks.catalogue.catalogue()}
    seconds, level = benchmarks.bound.bound(by_name["LSTM step H=128"])
    weights = 4 * 4 * 128 * 256
    assert level == "L2"
    near = 48 << 10
    assert seconds == pytest.approx(near / 223e9 + (weights - near) / 150e9 + 55 * 8 / 3e9)


def test_more_memory_takes_longer_and_more_rows_too(benchmarks):
    load = benchmarks.bound.load_seconds
    sizes = [1e3, 48 << 10, 50e3, 1e6, 2 << 20, 3e6, 1e8]
    times = [load(size) for size in sizes]
    assert times == sorted(times)
    assert load(3e6) - load(2 << 20) == pytest.approx((3e6 - (2 << 20)) / 31e9)


def test_this_machine_is_measured(benchmarks):
    machines = benchmarks.machine
    notes: list[str] = []
    machine = machines.here(notes)
    assert notes == []
    assert machine.name.startswith("this machine")
    near, *others, far = (level.gb_per_s for level in machine.levels)
    assert near > max(others) > far > 0.1
    assert [level.bytes for level in machine.levels] == sorted(
        level.bytes for level in machine.levels
    )
    assert machine.gflops["int8"] >= machine.gflops["float32"] > machine.ghz > 0.1
    # A peak is no less than what two sums of vectors a nanosecond would give.
    assert machine.gflops["float32"] > machine.width


def test_a_machine_that_cannot_be_measured_is_the_reference(benchmarks, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    notes: list[str] = []
    assert benchmarks.machine.here(notes) is benchmarks.machine.REFERENCE
    assert "machine.cpp does not compile" in notes[0]


STACKS = [
    {"kind": "LSTM", "H": 5},
    {"kind": "GRU", "H": 5, "layers": 2},
    {"kind": "RNN", "H": 5},
    {"kind": "LSTM", "H": 5, "layers": 2, "inputs": 1, "dense": 3},
]


def peers_of(compute_type):
    """The peers that are here; OpenVINO is one of those that need not be."""
    from benchmarks import peers

    names = [name for name in peers.NAMES if peers.compute_type(name) == compute_type]
    return [name for name in names if not peers.peer(name).missing()]


@pytest.mark.parametrize("stack", STACKS, ids=str)
@pytest.mark.parametrize(("carried", "T"), [(True, 1), (False, 4)])
def test_peers_compute_what_we_compute(benchmarks, stack, carried, T):
    case = small(benchmarks, stack, carried=carried, T=T)
    peers, run = benchmarks.peers, benchmarks.run
    ours = run.first_outputs(peers.peer("ours").prepare(case))
    assert np.array_equal(ours[0], ours[2]) is not carried
    names = peers_of("float32")
    assert {"onnxruntime", "torch"} <= set(names)
    for name in names:
        theirs = peers.peer(name).prepare(case)
        if theirs is None:
            assert name == "gruengine-float32" or (name, carried) == ("onnxruntime-binding", False)
            continue
        run.check(case, name, ours, run.first_outputs(theirs))


@pytest.mark.parametrize("compute_type", ["bfloat16", "int8"])
def test_peers_of_less_precision_compute_about_the_same(benchmarks, compute_type):
    """Their size is one that their kernels like: we compute in float32."""
    peers, run = benchmarks.peers, benchmarks.run
    case = small(benchmarks, {"kind": "LSTM", "H": 32})
    ours = run.first_outputs(peers.peer("ours").prepare(case))
    for name in peers_of(compute_type):
        run.check(case, name, ours, run.first_outputs(peers.peer(name).prepare(case)))


def test_rivals_are_of_the_same_kind_or_named(benchmarks):
    rivals, names = benchmarks.peers.rivals, benchmarks.peers.NAMES
    assert rivals(small(benchmarks), ("torch", "torch-int8")) == ["torch"]
    case = small(benchmarks, compute_type="int8", targets={"onnxruntime": 2})
    assert rivals(case, names) == ["onnxruntime", "onnxruntime-int8", "torch-int8"]


def test_a_wrong_result_is_never_timed(benchmarks):
    run = benchmarks.run
    right = [np.ones(3, np.float32)]
    for wrong in (right[0] + 2e-4, np.array([1, np.nan, 1], np.float32)):
        with pytest.raises(SystemExit, match="small: an output is off torch's by"):
            run.check(small(benchmarks), "torch", [wrong], right)


def test_a_race_takes_turns(benchmarks):
    order = []
    race = benchmarks.timing.race
    found = race(lambda: order.append("a"), lambda: order.append("b"), rounds=4, seconds=1e-5)
    turns = [name for name, before in zip(order, [None, *order], strict=False) if name != before]
    assert turns[:8] == ["a", "b"] * 4  # a disturbed round may add one more turn at the end
    assert found.rounds >= 2
    assert found.low <= found.ratio <= found.high


def test_the_state_of_the_process_is_restored(benchmarks):
    import gc
    import os

    before = os.sched_getaffinity(0)
    with benchmarks.timing.quiet(max(before)):
        assert not gc.isenabled()
        assert os.sched_getaffinity(0) == {max(before)}
    assert gc.isenabled()
    assert os.sched_getaffinity(0) == before


def test_a_run_writes_its_report(benchmarks, known, tmp_path, monkeypatch, capsys):
    cases = [small(benchmarks, targets={"onnxruntime": 1e-9})]
    absent = benchmarks.cases.File("no/such.onnx", "x", (1,), "y", (), 1, 1)
    cases.append(benchmarks.cases.Case("absent", "model", (absent,), True))
    monkeypatch.setattr(benchmarks.run, "catalogue", lambda: cases)
    monkeypatch.setitem(benchmarks.run.MODES, "quick", (3, 1e-5))
    file = tmp_path / "found.json"
    assert benchmarks.run.main(["--quick", "--json", str(file), "--peers", "onnxruntime"]) == 0
    found = json.loads(file.read_text())
    assert [row["case"] for row in found["rows"]] == ["small"]
    assert found["rows"][0]["ratio"] > 0
    assert "no/such.onnx" in found["notes"][0]
    assert set(found["versions"]) == {"gruengine", "python", "numpy", "onnxruntime"}
    text = file.with_suffix(".md").read_text()
    assert text == capsys.readouterr().out.rstrip("\n") + "\n"
    assert "| small | onnxruntime |" in text
    assert known.describe() in text
    assert benchmarks.machine.from_json(found["machine"]) == known
    assert "1e-09x met" in text


def test_plots_are_drawn(benchmarks, tmp_path):
    row = {"case": "LSTM step", "ours_us": 0.3, "bound_us": 0.2, "peer": "torch", "peer_us": 70.0}
    row |= {"operations": 1e6, "weight_bytes": 1e6, "threads": 1, "compute_type": "float32"}
    rows = [{**row, "group": "step", "H": H, "N": 1} for H in (32, 64)]
    rows += [{**row, "group": "streams", "H": 256, "N": N} for N in (1, 16)]
    found = {"cpu": "some", "machine": asdict(benchmarks.machine.REFERENCE)}
    files = benchmarks.plot.save({**found, "rows": rows}, tmp_path)
    assert [file.name for file in files] == ["steps.png", "streams.png", "roofline.png"]
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="nothing to draw"):
        benchmarks.plot.save({**found, "rows": []}, tmp_path)


def test_training_is_timed_beside_torch(benchmarks, known, tmp_path, monkeypatch, capsys):
    training = benchmarks.training
    small = training.Training("GRU", 3, 4, 5, 2, 2)
    monkeypatch.setattr(training, "CASES", (small,))
    monkeypatch.setitem(training.MODES, "quick", (3, 0.001))
    file = tmp_path / "training.json"
    assert training.main(["--json", str(file), "--threads", "1", "2"]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["threads"] for row in rows] == [1, 2]
    assert all(row["ours"] > row["bound"] > 0 for row in rows)
    assert file.with_suffix(".md").read_text() in capsys.readouterr().out
    # Products of two layers, 2 operations each; the input needs no gradient.
    macs = 5 * 2 * 3 * (3 * 4 * (3 + 4) + 3 * 4 * (4 + 4)) - 5 * 2 * 3 * 4 * 3
    gflops = benchmarks.machine.REFERENCE.gflops["float32"]
    seconds = small.bound(1, "float32", benchmarks.machine.REFERENCE)
    assert seconds == pytest.approx(2 * macs / (gflops * 1e9))
