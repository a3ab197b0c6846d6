# SPDX-License-Identifier: MIT
"""A training that is killed at random moments and resumed, beside one that is not.

    python tests/kill_training.py --kills 50

Exits with 1 if any resumed run ends with other bits than the undisturbed one.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import gruengine as gr
from gruengine import checkpoint


def train(path: str) -> None:
    """Train a small model with dropout, truncation and validation; resume if ``path`` exists."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(24, 20, 3)).astype(np.float32)
    y = np.cumsum(x, 1)[..., :1]
    net = gr.Sequential(
        [gr.LSTM(8, return_sequences=True, dropout=0.1, num_layers=2), gr.Dropout(0.2),
         gr.Dense(1)], input_size=3,
    )  # fmt: skip
    schedule = gr.optimizers.cosine(0.01, 120)
    trainer = gr.Trainer(net, "mse", gr.optimizers.Adam(schedule), clip_norm=1.0, seed=5)
    trainer.fit(
        x, y, epochs=6, batch_size=8, truncate=7, validation=(x[:5], y[:5]), patience=50,
        checkpoint=path, checkpoint_every=2, progress=False,
    )  # fmt: skip
    trainer.save(path + ".end")


def contents(path: Path) -> dict[str, bytes]:
    """What a finished training left, byte by byte."""
    found = checkpoint.load(path)
    return {name: value.tobytes() for name, value in found.tensors.items()} | {
        "facts": repr(sorted(found.facts.items())).encode()
    }


def kill_and_resume(folder: Path, seconds: float, seed: int) -> int:
    """Run a training, killing it at random moments until it ends by itself; return the kills."""
    path, kills, pause = folder / f"run{seed}.safetensors", 0, random.Random(seed)
    while True:
        process = subprocess.Popen([sys.executable, __file__, "--train", str(path)])
        limit = pause.uniform(0, 1.3 * seconds)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        if code != 0:
            raise RuntimeError(f"the training ended with {code}")
        return kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--train", metavar="PATH", help="run the training itself")
    parser.add_argument("--kills", type=int, default=50)
    options = parser.parse_args()
    if options.train:
        train(options.train)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.monotonic()
        subprocess.run(
            [sys.executable, __file__, "--train", str(folder / "whole.safetensors")], check=True
        )
        seconds = time.monotonic() - started
        wanted = contents(folder / "whole.safetensors.end")
        kills, runs, equal = 0, 0, 0
        while kills < options.kills:
            kills += kill_and_resume(folder, seconds, runs)
            equal += contents(folder / f"run{runs}.safetensors.end") == wanted
            runs += 1
    print(f"{kills} kills in {runs} runs; {equal} of {runs} ended bit-equal to the undisturbed run")
    return 0 if equal == runs else 1


if __name__ == "__main__":
    sys.exit(main())
