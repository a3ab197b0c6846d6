# SPDX-License-Identifier: MIT
"""Random Keras files beside a NumPy oracle, and that beside Keras; more: fuzz.keras_models."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import keras_models as real
import numpy as np
import pytest
from fuzz.keras_blocks import Memory
from fuzz.keras_models import BUDGET, ERAS, draw, error_of, run

SEEDS = range(5000, 5180)


def test_random_files_are_converted_right() -> None:
    kinds: Counter[str] = Counter()
    groups, made = set(), set()
    bad = {}
    for seed in SEEDS:
        group, outcome, parts = run(seed)
        kinds[outcome.kind] += 1
        groups.add(group)
        made |= parts
        if outcome.kind != "converted":
            bad[seed] = outcome.notes
    assert bad == {}
    assert kinds["converted"] == len(SEEDS)
    assert len(groups) == 2 * len(ERAS)
    wanted = "LSTM GRU SimpleRNN RNN Bidirectional TimeDistributed Embedding Masking Conv1D"
    assert made >= {*wanted.split(), "masked", "stateful", "nested", "CuDNNLSTM", "CuDNNGRU"}


def test_a_row_without_steps_gives_zeros_and_keeps_its_state() -> None:
    """Stateful and masked: the output is zero there, and the carried state is not."""
    for seed in (0, 413, 636):
        draft, net, _ = draw(seed)
        assert draft.stateful
        assert any(form.masked for made in net.layers() for form in made.forms)
        assert run(seed)[1].kind == "converted"


@pytest.mark.filterwarnings("ignore")
def test_the_oracle_is_keras(tmp_path: Path) -> None:
    """What the oracle says of a file is what Keras says that loads it."""
    seen = 0
    for seed in range(200):
        draft, net, data = draw(seed)
        if not draft.era.archive or draft.era.major < 3 or seen == 16:
            continue
        seen += 1
        path = tmp_path / f"{seed}.keras"
        path.write_bytes(data)
        model = real.keras.models.load_model(path)
        memory: Memory = {}
        stateful = any(made.stateful for made in net.layers())
        for feed in draft.feeds:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wanted = net.run(feed, memory if stateful else None)
                found = real.run(model, list(feed.values()))
            for one, right in zip(found, wanted, strict=True):
                assert one.shape == right.shape, seed
                assert error_of(one, right) <= BUDGET, seed
    assert seen == 16
