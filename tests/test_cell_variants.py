# SPDX-License-Identifier: MIT
"""Variants around the cells: gradients of the core against differences, on every ISA."""

from __future__ import annotations

import functools
import zlib
from typing import Any

import numpy as np
import pytest

from gruengine import _core, reference
from gruengine.reference_checks import GATES, state_size

TOLERANCE = 1e-4
# Those of which there are gradients, in the order in which backward returns them.
NAMES = ("x", "W", "R", "B", "P", "projection", "gate_recurrence", "norm", "skip", "h0", "c0")
ACTIVATIONS = {"rnn": 1, "lstm": 3, "gru": 2}

# name -> attributes and, in capitals or as flags, which weights and masks there are.
LSTM = {"cell": "lstm"}
CASES: dict[str, dict[str, Any]] = {
    "full gates": {**LSTM, "fed": True},
    "full gates, peepholes": {**LSTM, "fed": True, "P": True},
    "full gates, projection": {**LSTM, "fed": True, "P": True, "K": 3},
    "full gates, zoneout": {**LSTM, "fed": True, "zoneout": [0.3, 0.2]},
    "norm": {**LSTM, "norm": True},
    "norm, full gates, peepholes": {**LSTM, "norm": True, "fed": True, "P": True},
    "norm, wide projection": {**LSTM, "norm": True, "K": 21},
    "norm, zoneout masks": {**LSTM, "norm": True, "zoneout": [0.3, 0.2], "masks": True},
    "norm, recurrent mask": {**LSTM, "norm": True, "recurrent_mask": True},
    "zoneout rnn": {"cell": "rnn", "zoneout": [0.4, 0.0]},
    "zoneout rnn masks": {"cell": "rnn", "zoneout": [0.4, 0.0], "masks": True},
    "zoneout lstm": {**LSTM, "zoneout": [0.2, 0.5], "P": True},
    "zoneout lstm masks": {**LSTM, "zoneout": [0.2, 0.5], "masks": True, "K": 3},
    "zoneout lstm of c": {**LSTM, "zoneout": [0.0, 0.5], "coupled": 1},
    "zoneout gru after masks": {"cell": "gru", "zoneout": [0.3, 0.0], "masks": True},
    "zoneout gru before": {"cell": "gru", "reset": "before", "zoneout": [0.3, 0.0]},
    "recurrent mask rnn": {"cell": "rnn", "recurrent_mask": True},
    "recurrent mask lstm": {**LSTM, "recurrent_mask": True, "K": 3, "P": True},
    "recurrent mask gru after": {"cell": "gru", "recurrent_mask": True, "update": "take"},
    "recurrent mask gru before": {"cell": "gru", "recurrent_mask": True, "reset": "before"},
    "all of them": {**LSTM, "norm": True, "fed": True, "P": True, "K": 4, "masks": True,
                    "zoneout": [0.3, 0.2], "recurrent_mask": True},
}  # fmt: skip
# T, N, I, H, direction, lengths
SHAPES = {
    "plain": (4, 3, 5, 7, "forward", None),
    "two panels, lengths": (5, 4, 3, 17, "forward", (2, 5, 0, 4)),
    "both ways, lengths": (4, 5, 2, 5, "bidirectional", (1, 4, 3, 4, 2)),
    "reverse": (3, 2, 4, 9, "reverse", None),
}
FLAGS = ("fed", "P", "K", "norm", "masks", "recurrent_mask", "skip")


def made_of(name: str, case: dict[str, Any], shape: str) -> dict[str, Any]:
    """Attributes, float32 arrays and gradients of the outputs; nothing is zero."""
    T, N, I, H, direction, lengths = SHAPES[shape]
    rng = np.random.default_rng(zlib.crc32(f"{name} {shape}".encode()))
    cell, D = case["cell"], 2 if direction == "bidirectional" else 1
    G, K = GATES[cell], case.get("K", H)
    C = state_size(cell, H, "fed" in case, "skip" in case)
    attrs = {k: v for k, v in case.items() if k not in FLAGS} | {"direction": direction}
    if "norm" in case:
        attrs["norm_epsilon"] = 1e-3
    sizes: dict[str, tuple[int, ...]] = {
        "x": (T, N, I), "W": (D, G * H, I), "R": (D, G * H, K), "B": (D, 2 * G * H),
        "h0": (D, N, K), "c0": (D, N, C), "P": (D, 3 * H), "projection": (D, K, H),
        "gate_recurrence": (D, 3 * H, 3 * H), "norm": (D, 10 * H), "skip": (D, K + 1),
    }  # fmt: skip
    absent = {
        *([] if C else ["c0"]), *([] if "P" in case else ["P"]),
        *([] if "K" in case else ["projection"]), *([] if "fed" in case else ["gate_recurrence"]),
        *([] if "norm" in case else ["norm"]), *([] if "skip" in case else ["skip"]),
    }  # fmt: skip
    arrays = {n: rng.normal(0, 0.5, s).astype(np.float32) for n, s in sizes.items()
              if n not in absent}  # fmt: skip
    if "norm" in arrays:
        arrays["norm"][:, : 9 * H] += 1
    masks: dict[str, Any] = {}
    if "masks" in case:
        masks["keep_h"] = (rng.random((D, T, N, K)) < 0.3).astype(np.float32)
        if cell == "lstm":
            masks["keep_c"] = (rng.random((D, T, N, H)) < 0.4).astype(np.float32)
    if "recurrent_mask" in case:
        masks["recurrent_mask"] = (rng.random((D, N, K)) < 0.6).astype(np.float32) / 0.6
    shapes = ((T, N, D * K), (D, N, K), *([(D, N, C)] if C else []))
    gradients = [rng.normal(size=s).astype(np.float32) for s in shapes]
    ends = None if lengths is None else np.array(lengths, np.int64)
    return {"attrs": attrs, "arrays": arrays, "masks": masks, "gradients": gradients,
            "lengths": ends, "H": H}  # fmt: skip


def forward(made: dict[str, Any], arrays: dict[str, Any]) -> list[np.ndarray]:
    """Return y [T, N, D*K], h and c of the reference, each row with its own recurrent mask."""
    mask = made["masks"].get("recurrent_mask")
    masks = {k: v for k, v in made["masks"].items() if k != "recurrent_mask"}
    N = arrays["x"].shape[1]
    rows = [slice(None)] if mask is None else [slice(n, n + 1) for n in range(N)]
    parts = []
    for row in rows:
        R = arrays["R"] if mask is None else arrays["R"] * mask[:, row].astype(np.float64)
        own = {n: arrays.get(n) for n in NAMES} | {"R": R}
        lengths = None if made["lengths"] is None else made["lengths"][row]
        parts.append(reference.recurrent(
            own["x"][:, row], own["W"], R, own["B"], lengths, own["h0"][:, row],
            None if own["c0"] is None else own["c0"][:, row], own["P"], own["projection"],
            own["gate_recurrence"], own["norm"], own["skip"], hidden_size=made["H"],
            **{k: v[:, :, row] for k, v in masks.items()}, **made["attrs"],
        ))  # fmt: skip
    y = np.concatenate([p[0] for p in parts], axis=2)
    T, D, N, K = y.shape
    rest = [np.concatenate([p[i] for p in parts], axis=1) for i in (1, 2)]
    return [y.transpose(0, 2, 1, 3).reshape(T, N, D * K), *rest][: len(made["gradients"])]


def run(made: dict[str, Any], threads: int = 1) -> tuple[list[Any], dict[str, Any]]:
    arrays = made["arrays"]
    layer = _core.RecurrentTraining(
        {**made["attrs"], "hidden_size": made["H"]}, arrays["x"].shape[2], made["H"], threads
    )
    y, h, c, tape = layer.forward(**arrays, lengths=made["lengths"], **made["masks"])
    found = dict(zip(NAMES, layer.backward(tape, *made["gradients"]), strict=True))
    return [y, h, c][: len(made["gradients"])], found


@functools.cache
def example(name: str, shape: str) -> dict[str, Any]:
    """The problem with the float64 differences of its loss along some ways."""
    made = made_of(name, CASES[name], shape)
    rng = np.random.default_rng(7)
    ways, slopes = {}, {}
    for n, array in made["arrays"].items():
        ways[n] = rng.normal(size=(2, *array.shape))
        slopes[n] = [difference(made, n, way) for way in ways[n]]
    exact = {n: a.astype(np.float64) for n, a in made["arrays"].items()}
    return {**made, "ways": ways, "slopes": slopes, "outputs": forward(made, exact)}


def difference(made: dict[str, Any], name: str, way: np.ndarray, step: float = 1e-6) -> float:
    """Return the change of the loss along ``way`` in the array ``name``: central differences."""
    values = []
    for sign in (1, -1):
        arrays = {n: a.astype(np.float64) for n, a in made["arrays"].items()}
        arrays[name] = arrays[name] + sign * step * way
        pairs = zip(made["gradients"], forward(made, arrays), strict=True)
        values.append(sum(np.vdot(g, y) for g, y in pairs))
    return float((values[0] - values[1]) / (2 * step))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_differences(isa, name, shape):
    made = example(name, shape)
    outputs, found = run(made)
    for got, exact in zip(outputs, made["outputs"], strict=True):
        np.testing.assert_allclose(got, exact, rtol=0, atol=1e-5 * max(1, np.abs(exact).max()))
    assert {n for n, a in found.items() if a is not None} == set(made["arrays"])
    for n, ways in made["ways"].items():
        size = np.linalg.norm(found[n]) * np.linalg.norm(ways[0]) / np.sqrt(ways[0].size)
        got = [np.vdot(found[n].astype(np.float64), way) for way in ways]
        np.testing.assert_allclose(got, made["slopes"][n], rtol=0, atol=TOLERANCE * size, err_msg=n)
