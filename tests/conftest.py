# SPDX-License-Identifier: MIT
"""What tests of several files share: every ISA of this CPU, the real models, random numbers."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gruengine as gr

ISAS = [name for name, status in gr.info()["isas"].items() if status["supported"]]
FLOAT_ISAS = [name for name in ISAS if gr.info()["isas"][name]["floats"] == name]


@pytest.fixture(params=FLOAT_ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Force each set of float32 kernels of this CPU in turn; models loaded in the test run it."""
    with gr.isa(request.param):
        yield request.param


@pytest.fixture(scope="session")
def models() -> Path:
    """Return the folder of the real models; without it the tests that need it are skipped.

    With GRUENGINE_REQUIRE_MODELS=1 they fail instead.
    """
    default = Path(__file__).parents[2] / "shared/models"
    folder = Path(os.environ.get("GRUENGINE_MODELS", default)).resolve()
    if not (folder / "README.md").is_file():
        text = f"no real models in {folder}; set GRUENGINE_MODELS to their folder"
        if os.environ.get("GRUENGINE_REQUIRE_MODELS") == "1":
            pytest.fail(text)
        pytest.skip(text)
    return folder


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Return a generator whose seed is the name of the test."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))
