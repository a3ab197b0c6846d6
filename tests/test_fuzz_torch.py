# SPDX-License-Identifier: MIT
"""A few dozen random PyTorch models through both exporters; more: python -m fuzz.torch_models."""

from __future__ import annotations

import pytest
from fuzz.torch_models import Outcome, quiet, run

LEGACY, DYNAMO = range(48), range(12)


def outcomes(seeds: range, dynamo: bool) -> dict[int, Outcome]:
    with quiet():
        return {seed: run(seed, dynamo) for seed in seeds}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, True], ids=["legacy", "dynamo"])
def test_random_models(dynamo: bool) -> None:
    found = outcomes(DYNAMO if dynamo else LEGACY, dynamo)
    bad = {seed: o.notes for seed, o in found.items() if o.kind in ("wrong", "refused")}
    assert bad == {}
    converted = sum(outcome.kind == "converted" for outcome in found.values())
    assert converted > 0.9 * len(found)
