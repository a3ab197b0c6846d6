# SPDX-License-Identifier: MIT
"""The benchmarks themselves: cases, bounds, peers, report and plot. Nothing is timed here."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("bound", "cases", "onnx_cell", "peers", "plot", "report", "run", "timing")


@pytest.fixture(scope="module")
def benchmarks():
    """The package, imported from the checkout, which it takes off the path by itself."""
    before = list(sys.path)
    sys.path.insert(0, str(ROOT))
    try:
        package = importlib.import_module("benchmarks")
        for name in MODULES:
            importlib.import_module(f"benchmarks.{name}")
        assert str(ROOT) not in sys.path
    finally:
        sys.path[:] = before
    return package


def small(benchmarks, **changes):
    cases = benchmarks.cases
    cell = cases.Cell(changes.pop("kind", "LSTM"), 5)
    return cases.Case("small", "step", (cell,), **{"carried": True, "N": 2, **changes})


def test_cases_are_named_once_and_have_bounds(benchmarks):
    cases = benchmarks.cases.catalogue()
    assert len({case.name for case in cases}) == len(cases) > 30
    for case in cases:
        seconds, level = benchmarks.bound.bound(case)
        assert 1e-8 < seconds < 1
        assert level in ("L1", "L2", "L3")
        assert set(case.targets) <= set(benchmarks.peers.NAMES)


def test_the_bound_of_a_step_is_that_of_its_weights(benchmarks):
    by_name = {case.name: case for case in benchmarks.cases.catalogue()}
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


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize(("carried", "T"), [(True, 1), (False, 4)])
@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-binding", "torch"])
def test_a_peer_computes_what_we_compute(benchmarks, kind, carried, T, name):
    case = small(benchmarks, kind=kind, carried=carried, T=T)
    peers, run = benchmarks.peers, benchmarks.run
    theirs = peers.peer(name).prepare(case)
    if theirs is None:
        assert (name, carried) == ("onnxruntime-binding", False)
        return
    expected = run.first_outputs(theirs)
    run.check(case, name, run.first_outputs(peers.peer("ours").prepare(case)), expected)
    assert all(output.size == 2 * T * 5 for output in expected)
    assert np.array_equal(expected[0], expected[2]) is not carried


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


def test_a_run_writes_its_report(benchmarks, tmp_path, monkeypatch, capsys):
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
    assert "1e-09x met" in text


def test_a_plot_is_drawn(benchmarks, tmp_path):
    row = {"group": "step", "case": "LSTM step", "H": 32, "ours_us": 0.3, "bound_us": 0.2}
    rows = [{**row, "H": H, "peer": "torch", "peer_us": 70.0} for H in (32, 64)]
    file = tmp_path / "steps.png"
    benchmarks.plot.save({"cpu": "some", "rows": rows}, str(file))
    assert file.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no steps"):
        benchmarks.plot.save({"cpu": "some", "rows": []}, str(file))
