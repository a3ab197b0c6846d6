# SPDX-License-Identifier: MIT
"""Random PyTorch models through both exporters, and traced; more: python -m fuzz.torch_models."""

from __future__ import annotations

import pytest
from fuzz.tally import Outcome
from fuzz.torch_models import quiet, run

SEEDS = {"legacy": range(24), "dynamo": range(5), "direct": range(8)}


def outcomes(seeds: range, exporter: str) -> dict[int, Outcome]:
    with quiet():
        return {seed: run(seed, exporter) for seed in seeds}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("exporter", [*SEEDS])
def test_random_models(exporter: str) -> None:
    found = outcomes(SEEDS[exporter], exporter)
    bad = {seed: o.notes for seed, o in found.items() if o.kind in ("wrong", "refused")}
    assert bad == {}
    converted = sum(outcome.kind == "converted" for outcome in found.values())
    assert converted >= 0.6 * len(found)  # some that an exporter gets wrong are among them
