# SPDX-License-Identifier: MIT
"""Gates set by hand: what each setting of an LSTM's and a GRU's gates does.

    python examples/train_gates.py

1. Forget gate 1, input gate 0: the cell keeps its value for 10,000 steps, bit for bit.
2. The four rows of (input, forget): (0, 1) remembers, (1, 1) adds, (0, 0) erases, (1, 0)
   overwrites.
3. A GRU whose reset gate is 1 and whose update gate always takes the candidate is the plain RNN.

Nothing is trained. Result (seed 0): 1. no bit changes; 2. remember, add and overwrite are exact,
erase leaves 3e-28; 3. the outputs of GRU and RNN differ by at most 2.2e-7 over 10,000 steps.
"""

from __future__ import annotations

import numpy as np
from example_parts import figure, options, save, table

import gruengine as gr

OPEN = 64.0  # sigmoid(64) is 1 in float32, sigmoid(-64) is 1.6e-28
UNITS, INPUTS = 4, 3


def lstm(input_gate: int, forget_gate: int) -> gr.Sequential:
    """Return an LSTM whose gates don't depend on anything; its candidate does."""
    layer = gr.LSTM(UNITS, return_sequences=True)
    net = gr.Sequential([layer], input_size=INPUTS, seed=1)
    values = {key: value.copy() for key, value in net.parameters().items()}
    values["lstm.W"][:, : 3 * UNITS] = 0  # rows i, o, f, c
    values["lstm.R"][:, : 3 * UNITS] = 0
    bias = values["lstm.b"].reshape(4, UNITS)
    bias[0], bias[1], bias[2] = (OPEN * (2 * gate - 1) for gate in (input_gate, 1, forget_gate))
    net.set_parameters(values)
    return net


def cell_after(net: gr.Sequential, x: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the cell after a sequence that starts from the cell ``start``."""
    state = (gr.State(np.zeros((1, 1, UNITS), np.float32), start[None, None]),)
    _, after, _ = net.begin_update(x, state, gr.Pass(training=False))
    assert after[0].c is not None
    return after[0].c[0, 0]


def gru_and_rnn(rng: np.random.Generator) -> tuple[gr.Sequential, gr.Sequential]:
    """Return a GRU with its gates held and the RNN that it then is."""
    rnn = gr.Sequential([gr.RNN(UNITS, return_sequences=True)], input_size=INPUTS, seed=2)
    rnn.set_parameters({"rnn.b": rng.normal(size=(1, UNITS))})
    gru = gr.Sequential([gr.GRU(UNITS, return_sequences=True)], input_size=INPUTS, seed=2)
    values = {key: np.zeros_like(value) for key, value in gru.parameters().items()}
    for key in ("W", "R"):
        values[f"gru.{key}"][:, 2 * UNITS :] = rnn.parameters()[f"rnn.{key}"]
    bias = values["gru.b"].reshape(2, 3, UNITS)  # of the input, of the recurrence; rows z, r, h
    bias[0, 0], bias[0, 1], bias[0, 2] = -OPEN, OPEN, rnn.parameters()["rnn.b"][0]
    gru.set_parameters(values)
    return gru, rnn


def main() -> None:
    chosen = options(__doc__)
    rng = np.random.default_rng(chosen.seed)
    steps = 200 if chosen.quick else 10_000
    x = rng.normal(size=(1, steps, INPUTS)).astype(np.float32)
    start = rng.normal(size=UNITS).astype(np.float32)
    kept = cell_after(lstm(0, 1), x, start)
    rows = [[f"input 0, forget 1, {steps} steps", "remember",
             f"largest change {np.abs(kept - start).max():.3g}"]]  # fmt: skip
    short = x[:, :1]
    candidate = cell_after(lstm(1, 0), short, np.zeros(UNITS, np.float32))
    wanted = {(0, 1): ("remember", start), (1, 1): ("add", start + candidate),
              (0, 0): ("erase", 0 * start), (1, 0): ("overwrite", candidate)}  # fmt: skip
    made, axes = figure(1, 4, 10.0, 2.6)
    for ax, ((i, f), (name, expected)) in zip(axes, wanted.items(), strict=True):
        found = cell_after(lstm(i, f), short, start)
        error = float(np.abs(found - expected).max())
        rows.append([f"input {i}, forget {f}", name, f"largest error {error:.3g}"])
        ax.bar(np.arange(UNITS) - 0.2, start, 0.4, label="before")
        ax.bar(np.arange(UNITS) + 0.2, found, 0.4, label="after")
        ax.set_title(f"i={i}, f={f}: {name}")
    made.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    gru, rnn = gru_and_rnn(rng)
    difference = float(np.abs(gru(x) - rnn(x)).max())
    rows.append(["GRU, reset 1, update takes all", "plain RNN",
                 f"largest difference over {steps} steps {difference:.3g}"])  # fmt: skip
    save(made, chosen.out / "gates.png")
    table(chosen.out / "gates.md", ["gates", "what it does", "found"], rows)


if __name__ == "__main__":
    main()
