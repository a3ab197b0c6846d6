# SPDX-License-Identifier: MIT
"""Which cell solves which lag: the adding problem and copy memory.

    python examples/train_memory.py

The adding problem (Hochreiter and Schmidhuber 1997): of T random numbers two are marked; the last
output must be their sum. Always answering 1 has a mean squared error of 1/6. Copy memory (Arjovsky
et al. 2016): five symbols of eight, then T blanks; the symbols must be repeated. Guessing has a
cross-entropy of 5 log(8) / (T + 10). RNN, IRNN (Le et al. 2015), LSTM and GRU train with Adam,
64 units, rows of 32, clipped to norm 1.

Result (seed 0): below a tenth of the loss of guessing come, on adding after 2,000 updates, LSTM
and GRU at T = 20, 50 and 100, the IRNN at 20 and 50, the RNN at none; on copying after 4,000
updates, GRU and the LSTM with chrono biases (Tallec and Ollivier 2018) over 5, 10 and 20 blanks,
the plain LSTM over 5 and 10 (0.27 over 20), RNN and IRNN over none.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from example_parts import COLOURS, figure, options, save, table

import gruengine as gr

UNITS, BATCH, SYMBOLS, KINDS = 64, 32, 5, 8


def cells(lag: int) -> dict[str, gr.RNN | gr.LSTM | gr.GRU]:
    chrono = gr.initializers.Chrono(max(lag, 3))
    return {
        "RNN": gr.RNN(UNITS),
        "IRNN": gr.RNN(UNITS, "relu", recurrent_init="identity",
                       input_init=gr.initializers.uniform(0.03)),
        "LSTM": gr.LSTM(UNITS),
        "GRU": gr.GRU(UNITS),
        "LSTM, chrono": gr.LSTM(UNITS, forget_bias=chrono),
    }  # fmt: skip


def adding(rng: np.random.Generator, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``[N, T, 2]`` numbers and marks, ``[N, 1]`` sums."""
    x = np.zeros((BATCH, lag, 2), np.float32)
    x[..., 0] = rng.random((BATCH, lag))
    first, second = rng.integers(0, lag // 2, BATCH), rng.integers(lag // 2, lag, BATCH)
    rows = np.arange(BATCH)
    x[rows, first, 1] = x[rows, second, 1] = 1
    return x, (x[rows, first, 0] + x[rows, second, 0])[:, None]


def copying(rng: np.random.Generator, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``[N, T + 10, KINDS + 2]`` one-hot symbols and ``[N, T + 10]`` classes."""
    symbols = rng.integers(0, KINDS, (BATCH, SYMBOLS))
    blank, start = KINDS, KINDS + 1
    given = np.full((BATCH, lag + 2 * SYMBOLS), blank)
    wanted = given.copy()
    given[:, :SYMBOLS] = symbols
    given[:, -SYMBOLS - 1] = start
    wanted[:, -SYMBOLS:] = symbols
    return np.eye(KINDS + 2, dtype=np.float32)[given], wanted


# How to make a batch, the loss, that of guessing, the rate, and how many updates.
TASKS = {
    "adding": (adding, "mse", lambda lag: 1 / 6, 5e-3, 2000),
    "copy": (copying, "cross_entropy",
             lambda lag: SYMBOLS * math.log(KINDS) / (lag + 2 * SYMBOLS), 1e-2, 4000),
}  # fmt: skip


def train(task: str, name: str, lag: int, seed: int, quick: bool) -> float:
    """Return the mean loss of the last tenth of a training, as a part of that of guessing."""
    make, loss, guess, rate, steps = TASKS[task]
    steps = 20 if quick else steps
    layer = cells(lag)[name]
    layer.return_sequences = task == "copy"
    head = gr.Dense(KINDS + 2 if task == "copy" else 1)
    net = gr.Sequential([layer, head], KINDS + 2 if task == "copy" else 2, seed=seed)
    trainer = gr.Trainer(net, loss, gr.optimizers.Adam(rate), clip_norm=1.0, seed=seed)
    rng = np.random.default_rng(seed)
    losses = [trainer.step(*make(rng, lag)).loss for _ in range(steps)]
    return float(np.mean(losses[-max(steps // 10, 1) :])) / guess(lag)


def main() -> None:
    chosen = options(__doc__)
    lags = {"adding": [8] if chosen.quick else [20, 50, 100],
            "copy": [4] if chosen.quick else [5, 10, 20]}  # fmt: skip
    made, axes = figure(1, 2, 10.0, 4.0)
    rows = []
    for ax, task in zip(axes, TASKS, strict=True):
        for colour, name in zip(COLOURS, cells(10), strict=False):
            with ThreadPoolExecutor(2) as pool:  # the engine works without the lock of Python
                runs = [pool.submit(train, task, name, lag, chosen.seed, chosen.quick)
                        for lag in sorted(lags[task], reverse=True)]  # fmt: skip
                found = [run.result() for run in reversed(runs)]
            rows += [[task, name, lag, value, "yes" if value < 0.1 else "no"]
                     for lag, value in zip(lags[task], found, strict=True)]  # fmt: skip
            ax.semilogy(lags[task], found, "o-", color=colour, label=name)
            print(task, name, [f"{value:.3f}" for value in found], flush=True)
        ax.axhline(1, color="#999999", linestyle=":")
        ax.set_xlabel("lag T")
        ax.set_ylabel("loss / loss of guessing")
        ax.set_title(f"{task}, after {20 if chosen.quick else TASKS[task][-1]} updates")
    axes[0].legend()
    save(made, chosen.out / "memory.png")
    table(chosen.out / "memory.md", ["task", "cell", "T", "loss / guessing", "solved"], rows)


if __name__ == "__main__":
    main()
