# SPDX-License-Identifier: MIT
"""The demo that ships with the package: its model, its files, its command."""

from __future__ import annotations

import numpy as np
import pytest

import gruengine as gr
from gruengine.cli import main
from gruengine.cli_demo import CHECKPOINT_HINTS, demo_file, errors_of

NAMES = ("demo.onnx", "demo.pt", "demo_signal.npy")


@pytest.fixture(scope="module")
def signal():
    return np.load(demo_file("demo_signal.npy"))


@pytest.fixture(scope="module")
def models():
    return gr.load(demo_file("demo.onnx")), gr.load(demo_file("demo.pt"), **CHECKPOINT_HINTS)


def test_the_files_are_small():
    assert sum(demo_file(name).stat().st_size for name in NAMES) < 200_000


def test_the_prediction_is_far_better_than_repeating_the_last_sample(models, signal):
    for model in models:
        stream = model.stream()
        steps = [stream.step(np.ascontiguousarray(x[None, :1])) for x in signal]
        error, naive = errors_of(np.array(steps).reshape(-1), signal)
        assert error < 0.5 * naive


def test_the_baseline_is_that_of_the_signal(signal):
    _, naive = errors_of(signal[:, 0], signal)
    difference = signal[50:-1, 0] - signal[51:, 1]
    assert naive == pytest.approx(np.sqrt(np.mean(difference**2)))


def test_both_files_hold_the_model_that_pytorch_computes(models, signal):
    import torch

    state = torch.load(demo_file("demo.pt"), weights_only=True)
    lstm, head = torch.nn.LSTM(1, 32, batch_first=True), torch.nn.Linear(32, 1)
    lstm.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith("lstm.")})
    head.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith("head.")})
    x = np.stack([signal[:300, :1], signal[300:, :1]])
    with torch.no_grad():
        expected = head(lstm(torch.from_numpy(x))[0]).numpy()
    for model in models:
        np.testing.assert_allclose(model(x), expected, rtol=0, atol=5e-6)


def test_the_command_shows_every_part_and_succeeds(capsys):
    assert main(["demo"]) == 0
    shown = capsys.readouterr().out
    for word in ("convert demo.onnx", "convert demo.pt", "against reference float64",
                 "same bits as one call: True", "predicted", "step", "sequence"):  # fmt: skip
        assert word in shown
    assert "FAILED" not in shown
    assert max(len(line) for line in shown.splitlines()) <= 100
