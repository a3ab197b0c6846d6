# SPDX-License-Identifier: MIT
"""How far back an error reaches: the gradient on the input weights of an RNN, an LSTM and a GRU.

    python examples/train_gradient_flow.py

All weights are uniform in [-0.1, 0.1], 15 inputs, 20 units, 128 steps of noise; the error enters at
step 128 alone. The figure shows, for each step, the norm of what that step adds to the gradient of
the input weights W. Nothing is trained.

Result (seed 0): what a step adds falls below 1/1000 of that of step 128 after 5 steps of the RNN,
11 of the GRU, 25 of the LSTM with its forget bias of 1, and 11 without it: with small weights a
gate is about one half, and only the forget bias opens the way back.
"""

from __future__ import annotations

import numpy as np
from example_parts import COLOURS, figure, options, save, table

import gruengine as gr

STEPS, INPUTS, UNITS = 128, 15, 20


def main() -> None:
    chosen = options(__doc__)
    x = np.random.default_rng(chosen.seed).normal(size=(1, STEPS, INPUTS)).astype(np.float32)
    made, axes = figure()
    rows = []
    cells = {"RNN": gr.RNN(UNITS), "GRU": gr.GRU(UNITS), "LSTM": gr.LSTM(UNITS),
             "LSTM, forget bias 0": gr.LSTM(UNITS)}  # fmt: skip
    for colour, (name, layer) in zip(COLOURS, cells.items(), strict=False):
        net = gr.Sequential([layer], input_size=INPUTS)
        rng = np.random.default_rng(chosen.seed + 1)
        shapes = {key: value.shape for key, value in net.parameters().items()}
        values = {key: rng.uniform(-0.1, 0.1, shape) for key, shape in shapes.items()}
        if name == "LSTM":
            values["lstm.b"][:, 2 * UNITS : 3 * UNITS] += 1  # the forget bias that layers start at
        net.set_parameters(values)
        error = np.ones((1, UNITS), np.float32)
        flow = gr.diagnostics.gradient_flow(net, x, dy=error, weights=True)[layer.name]
        axes.semilogy(
            np.arange(1, STEPS + 1), np.where(flow > 0, flow, np.nan), color=colour, label=name
        )
        reach = STEPS - int(np.flatnonzero(flow > 1e-3 * flow[-1])[0])
        rows.append([name, *(float(flow[t - 1] / flow[-1]) for t in (127, 118, 64, 1)), reach])
    axes.set_xlabel("step t")
    axes.set_ylabel("norm of the gradient on W from step t")
    axes.set_title("error at step 128 alone")
    axes.legend()
    save(made, chosen.out / "gradient_flow.png")
    table(
        chosen.out / "gradient_flow.md",
        ["cell", "t=127", "t=118", "t=64", "t=1", "steps above 1/1000"],
        rows,
    )


if __name__ == "__main__":
    main()
