# SPDX-License-Identifier: MIT
"""Problems for what surrounds the cells: attributes, arrays, masks and gradients of outputs."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from gruengine.reference_checks import GATES, state_size

# Those of which there are gradients, in the order in which backward returns them.
NAMES = ("x", "W", "R", "B", "P", "projection", "gate_recurrence", "norm", "skip", "h0", "c0")

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
    "skip rnn": {"cell": "rnn", "skip": True, "skip_cost": 0.3},
    "skip lstm": {**LSTM, "skip": True, "P": True},
    "skip lstm, projection": {**LSTM, "skip": True, "K": 3, "skip_cost": 0.3},
    "skip gru after": {"cell": "gru", "skip": True, "update": "take"},
    "skip gru before": {"cell": "gru", "skip": True, "reset": "before", "skip_cost": 0.3},
    "skip gru, recurrent mask": {"cell": "gru", "skip": True, "recurrent_mask": True},
    "skip, full gates, norm": {**LSTM, "skip": True, "fed": True, "norm": True, "P": True},
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
    if "skip" in case:  # decisions of both kinds, and so at the first step
        arrays["skip"][:, -1] = -0.5
        arrays["c0"][..., -1] = rng.random((D, N))
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
