# SPDX-License-Identifier: MIT
"""The instruction set that is asked for is the one that runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ISAS
from random_models import draw
from tolerances import ENGINE_RECURRENT, assert_close

import gruengine as gr
from gruengine.reference_graph import run_graph

PROGRAM = """
import gruengine as gr
model = gr.Sequential([gr.GRU(4)], 3).compile()
info = gr.info()
print(model.isa, info["isa"], info["isa_choice"], sep="|")
"""


def python(program: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program as its own process, away from the source tree."""
    variables = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", program],
        env=variables, cwd=cwd, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def small() -> gr.Model:
    return gr.Sequential([gr.LSTM(3)], 2).compile()


def test_this_cpu_has_the_scalar_set_and_more() -> None:
    assert "scalar" in ISAS
    info = gr.info()
    assert info["isa"] in ISAS
    for status in info["isas"].values():
        assert status["supported"] == (status["reason"] == "")


@pytest.mark.parametrize("name", ISAS)
def test_the_environment_chooses(name: str, tmp_path: Path) -> None:
    result = python(PROGRAM, tmp_path, GRUENGINE_ISA=name)
    assert result.returncode == 0, result.stderr
    ran, now, choice = result.stdout.strip().split("|")
    assert (ran, now) == (name, name)
    assert "GRUENGINE_ISA" in choice


@pytest.mark.parametrize("name", ["sse9", "AVX2 ", "avx512;", " "])
def test_an_unknown_name_in_the_environment_is_refused(name: str, tmp_path: Path) -> None:
    result = python(PROGRAM, tmp_path, GRUENGINE_ISA=name)
    assert result.returncode == 1
    assert "InvalidInputError" in result.stderr
    for known in ISAS:
        assert known in result.stderr.splitlines()[-1]


def test_an_empty_name_in_the_environment_is_none(tmp_path: Path) -> None:
    result = python(PROGRAM, tmp_path, GRUENGINE_ISA="")
    assert result.stdout.split("|")[0] == gr.info()["isa"], result.stderr


def test_gr_isa_chooses_for_the_models_loaded_inside(isa: str) -> None:
    assert gr.info()["isa"] == isa
    assert "gr.isa" in gr.info()["isa_choice"]
    assert small().isa == isa


def test_a_model_keeps_its_instruction_set() -> None:
    before = gr.info()["isa"]
    with gr.isa("scalar"):
        model = small()
        with gr.isa(before):
            assert small().isa == before
        assert small().isa == "scalar"
    assert gr.info()["isa"] == before
    assert (model.isa, small().isa) == ("scalar", before)
    assert model.stream().model.isa == "scalar"


def test_an_error_inside_the_block_restores_the_choice() -> None:
    before = gr.info()["isa"], gr.info()["isa_choice"]
    with pytest.raises(KeyError), gr.isa("scalar"):
        raise KeyError
    assert (gr.info()["isa"], gr.info()["isa_choice"]) == before


@pytest.mark.parametrize("name", ["sse9", "", "AVX2", "scalar ", "neon"])
def test_unknown_names_are_refused(name: str) -> None:
    if name in ISAS:
        name += "x"
    before = gr.info()["isa"]
    with pytest.raises(gr.InvalidInputError) as caught, gr.isa(name):
        pass
    for known in ISAS:
        assert known in str(caught.value)
    assert gr.info()["isa"] == before


def test_instruction_sets_differ_in_bits() -> None:
    """A forced set that silently ran another would give its very bits."""
    rng = np.random.default_rng(5)
    found = {}
    cases = [(case, case.input(rng, 3, 9)) for case in (draw(rng) for _ in range(10))]
    for name in ISAS:
        with gr.isa(name):
            found[name] = b"".join(case.load()(x).tobytes() for case, x in cases)
    assert len(set(found.values())) >= min(2, len(ISAS))


@pytest.mark.parametrize("seed", range(25))
def test_every_instruction_set_computes_what_the_reference_does(isa: str, seed: int) -> None:
    rng = np.random.default_rng(3000 + seed)
    case = draw(rng, bidirectional=seed % 4 == 0, bounded=True)
    x = case.input(rng, 3, 11)
    want = run_graph(case.spec.graph, case.spec.tensors, {"x": x})["y"]
    assert_close(case.load()(x), want, ENGINE_RECURRENT)
