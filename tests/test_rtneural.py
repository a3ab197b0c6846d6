# SPDX-License-Identifier: MIT
"""The vectors of RTNeural: small stacks from PyTorch and Keras with inputs and outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tolerances import RTNEURAL, relative_error

import gruengine as gr

Array = np.ndarray[Any, Any]

LAYERS = {"lstm": gr.LSTM, "gru": gr.GRU}
# Rows of the gates as their sources order them, brought to i, o, f, c and z, r, h.
FROM_TORCH = {"lstm": [0, 3, 1, 2], "gru": [1, 0, 2]}
FROM_KERAS = {"lstm": [0, 3, 1, 2], "gru": [0, 1, 2]}


def ordered(values: Array, order: list[int]) -> Array:
    """Reorder the gates along the first axis."""
    return np.concatenate([np.split(values, len(order))[gate] for gate in order])


def parameters(cell: str, order: list[int], W: Array, R: Array, bx: Array, bh: Array) -> Any:
    """Parameters of one layer from rows of gates; an LSTM has the sum of both biases."""
    parts = [ordered(np.asarray(part, np.float32), order) for part in (W, R, bx, bh)]
    b = np.concatenate(parts[2:]) if cell == "gru" else parts[2] + parts[3]
    return {"W": parts[0][None], "R": parts[1][None], "b": b[None]}


def from_torch(cell: str, weights: dict[str, Any]) -> gr.Sequential:
    net = gr.Sequential(
        [
            LAYERS[cell](8, return_sequences=True, name="one"),
            LAYERS[cell](8, return_sequences=True, num_layers=3, name="two"),
            gr.Dense(1, name="dense"),
        ],
        1,
    )
    values = {
        "dense.W": np.array(weights["dense.weight"]).T,
        "dense.b": np.array(weights["dense.bias"]),
    }
    for name, source, count in (("one", cell, 1), ("two", f"{cell}2", 3)):
        for layer in range(count):
            given = [
                np.array(weights[f"{source}.{part}_l{layer}"])
                for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ]
            suffix = f"_l{layer}" if layer else ""
            for key, value in parameters(cell, FROM_TORCH[cell], *given).items():
                values[f"{name}.{key}{suffix}"] = value
    net.set_parameters(values)
    return net


def from_keras(cell: str, layers: list[dict[str, Any]]) -> gr.Sequential:
    made: list[Any] = []
    values: dict[str, Array] = {}
    for at, layer in enumerate(layers):
        units, weights = layer["shape"][-1], [np.array(w) for w in layer["weights"]]
        if layer["type"].endswith("dense"):
            made.append(gr.Dense(units, layer["activation"] or "linear", name=f"l{at}"))
            values |= {f"l{at}.W": weights[0], f"l{at}.b": weights[1]}
            continue
        assert layer["type"] == cell
        made.append(LAYERS[cell](units, return_sequences=True, name=f"l{at}"))
        bias = weights[2] if weights[2].ndim == 2 else np.stack([weights[2], 0 * weights[2]])
        given = (weights[0].T, weights[1].T, bias[0], bias[1])
        found = parameters(cell, FROM_KERAS[cell], *given)
        values |= {f"l{at}.{key}": value for key, value in found.items()}
    net = gr.Sequential(made, 1)
    net.set_parameters(values)
    return net


@pytest.mark.parametrize("source", ["torch", "keras"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_vectors_of_rtneural(isa: str, models: Path, cell: str, source: str) -> None:
    base = models / f"rtneural/{cell}_{source}"
    content = json.loads(base.with_suffix(".json").read_text())
    net = from_torch(cell, content) if source == "torch" else from_keras(cell, content["layers"])
    x, y = (
        np.loadtxt(f"{base}_{part}.csv", delimiter=",", dtype=np.float32).reshape(1, -1, 1)
        for part in "xy"
    )
    assert x.shape[1] >= 100
    assert relative_error(net(x), y) <= RTNEURAL
    stream = net.stream()
    found = np.stack([stream.step(frame) for frame in x[0][:, None]], 1)
    assert relative_error(found, y) <= RTNEURAL
