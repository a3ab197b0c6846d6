# SPDX-License-Identifier: MIT
"""Checkpoints: whole models, trainings that go on bit for bit, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_trainer import I, T, small

import gruengine as gr


def test_a_checkpoint_is_a_model_and_goes_on_bit_for_bit(tmp_path):
    path = tmp_path / "run.safetensors"
    whole, x, y = small()
    losses = [whole.step(x, y).loss for _ in range(6)]
    first, _, _ = small()
    for _ in range(3):
        first.step(x, y)
    first.save(path)
    np.testing.assert_array_equal(gr.load(path)(x), first.net(x))
    second, _, _ = small()
    second.load(path)
    assert [second.step(x, y).loss for _ in range(3)] == losses[3:]
    for key, value in whole.net.parameters().items():
        np.testing.assert_array_equal(second.net.parameters()[key], value)


def test_an_interrupted_fit_goes_on_bit_for_bit(tmp_path):
    class StopError(Exception):
        pass

    def run(path, stops):
        trainer, x, y = small()
        y = np.repeat(y[:, None], T, 1)
        net = gr.Sequential([gr.LSTM(4, return_sequences=True), gr.Dense(2)], I)
        trainer = gr.Trainer(net, "mse", gr.optimizers.RMSprop(0.01), seed=2, metrics=["mae"])
        step = trainer.step

        def counted(*args, **options):
            if trainer.steps in stops:
                stops.remove(trainer.steps)
                raise StopError
            return step(*args, **options)

        trainer.step = counted
        history = trainer.fit(
            x, y, epochs=4, batch_size=4, truncate=4, checkpoint=path, checkpoint_every=1,
            validation=(x, y), patience=3, progress=False,
        )  # fmt: skip
        return history.rows, {k: v.tobytes() for k, v in net.parameters().items()}

    wanted = run(tmp_path / "whole.safetensors", [])
    stops = [2, 3, 7, 12, 23]
    while True:
        try:
            found = run(tmp_path / "parts.safetensors", stops)
            break
        except StopError:
            continue
    assert stops == []
    assert found == wanted


def test_an_epoch_goes_on_with_its_batches_alone(tmp_path):
    trainer, x, y = small()
    options = {"checkpoint": tmp_path / "run.safetensors", "progress": False}
    step = trainer.step
    trainer.step = lambda *a, **k: step(*a, **k) if trainer.steps < 2 else 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.fit(x, y, batch_size=2, checkpoint_every=1, **options)
    again, _, _ = small()
    with pytest.raises(gr.InvalidInputError, match=r"within an epoch of .*'batch_size': 2"):
        again.fit(x, y, batch_size=3, **options)
    assert len(again.fit(x, y, batch_size=2, **options).rows) == 1
    assert len(again.fit(x, y, batch_size=3, epochs=2, **options).rows) == 2


def test_resuming_after_kill_is_bit_equal():
    script = Path(__file__).with_name("kill_training.py")
    done = subprocess.run(
        [sys.executable, str(script), "--kills", "3"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ended bit-equal" in done.stdout


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    trainer, x, y = small()
    trainer.step(x, y)
    trainer.save(path)
    kept = trainer.net.parameters()["dense.W"].copy()
    net = gr.Sequential([gr.GRU(3), gr.Dense(2)], I)
    for other, message in (
        (gr.Trainer(net, "mse", "adam", seed=4), "another model"),
        (gr.Trainer(net, "mse", "sgd", seed=4), "optimizer 'Adam'; this trainer has 'SGD'"),
        (gr.Trainer(net, "mae", "adam", seed=4), "loss 'MSE'"),
        (gr.Trainer(net, "mse", "adam", seed=5), "seed 4"),
    ):
        with pytest.raises(gr.ModelFileError, match=message):
            other.load(path)
    net.save(tmp_path / "model.safetensors")
    with pytest.raises(gr.ModelFileError, match="without a training"):
        trainer.load(tmp_path / "model.safetensors")
    with pytest.raises(gr.FileAccessError):
        trainer.load(tmp_path / "absent.safetensors")
    np.testing.assert_array_equal(trainer.net.parameters()["dense.W"], kept)


def test_an_optimizer_with_another_memory_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    trainer, x, y = small()
    for first, other in ((0.0, 0.9), (0.9, 0.0)):
        trainer.optimizer = gr.optimizers.RMSprop(0.01, momentum=first)
        trainer.step(x, y)
        trainer.save(path)
        again, _, _ = small()
        again.optimizer = gr.optimizers.RMSprop(0.01, momentum=other)
        with pytest.raises(gr.ModelFileError, match="an optimizer that keeps"):
            again.load(path)


def test_an_update_that_diverged_leaves_the_last_good_checkpoint(tmp_path):
    path = tmp_path / "run.safetensors"
    trainer, x, y = small()
    rates = iter([0.01, 0.01, 1e38])
    trainer.optimizer = gr.optimizers.SGD(lambda step: next(rates))
    options = {"checkpoint": path, "checkpoint_every": 1, "progress": False, "batch_size": 2}
    with pytest.raises(gr.DivergenceError, match=r"holds NaN or infinity.*no checkpoint was w"):
        trainer.fit(x, 1e3 * y, **options)
    assert trainer.steps == 3
    assert np.isfinite(gr.load(path)(x)).all()
    again, _, _ = small()
    again.optimizer = gr.optimizers.SGD(0.01)
    assert again.load(path).facts["steps"] == 2


def test_a_validation_that_diverged_stops_the_fit(tmp_path):
    path = tmp_path / "run.safetensors"
    trainer, x, y = small()
    options = {"checkpoint": path, "progress": False}
    trainer.fit(x, y, validation=(x, y), **options)
    with pytest.raises(gr.DivergenceError, match=r"validation loss is nan.*last good checkpoint"):
        trainer.fit(x, y, validation=(x, y * np.nan), epochs=2, **options)
    again, _, _ = small()
    assert again.load(path).facts["fit"]["place"][0] == 1
