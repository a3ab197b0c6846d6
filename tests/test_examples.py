# SPDX-License-Identifier: MIT
"""Each training example runs, briefly, and writes its table and its figure."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
NAMES = sorted(p.stem for p in EXAMPLES.glob("train_*.py") if p.stem != "train_demo")


@pytest.mark.parametrize("name", NAMES)
def test_example(name, tmp_path):
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--quick", "--out", str(tmp_path)]
    if name == "train_co2":
        t = np.arange(420)
        np.savetxt(tmp_path / "series.txt", 315 + 0.11 * t + 3 * np.sin(t * np.pi / 6))
        command += ["--data", str(tmp_path / "series.txt")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    short = name.removeprefix("train_")
    assert (tmp_path / f"{short}.png").stat().st_size > 5000
    table = (tmp_path / f"{short}.md").read_text().splitlines()
    assert len(table) > 2
    assert table[0].startswith("| ")
    assert "nan" not in "".join(table).lower()


def test_the_classic_examples_are_there():
    assert {"train_gradient_flow", "train_memory", "train_characters", "train_pronouns",
            "train_co2", "train_gates", "train_odyssey", "train_translate",
            "train_moving_dots"} <= set(NAMES)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_an_example_states_its_result(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert "Result" in text
    assert "RESULT" not in text
    assert f"python examples/{name}.py" in text
    assert f"`{name}.py`" in (EXAMPLES / "README.md").read_text()
