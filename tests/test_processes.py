# SPDX-License-Identifier: MIT
"""Forks, exits and signals end well; ``tests/soak/processes.py`` repeats the cases 100 times."""

from __future__ import annotations

import pytest
from soak.processes import CASES, run_case


@pytest.mark.parametrize("name", CASES)
def test_a_process(name: str) -> None:
    run_case(name, 2)
