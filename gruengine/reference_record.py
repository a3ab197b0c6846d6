# SPDX-License-Identifier: MIT
"""Steps of recurrent cells, whatever surrounds them, with all their gates: float64 NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gruengine.reference_activations import Array
from gruengine.reference_backward import cells_of
from gruengine.reference_variants import Variant, lstm_row_step, surrounded

LETTERS = ("i", "o", "f", "g", "c", "z", "r", "n", "h")

#: x, h, c to what happened in the step by letter, the new h and the new c.
Recorder = Callable[[Array, Array, Array], tuple[dict[str, Array], Array, Array]]


def recorders_of(attrs: Mapping[str, Any], operands: Mapping[str, Array]) -> list[Recorder]:
    """Return the recording step of each direction of a ``Recurrent`` node.

    Parameters
    ----------
    operands : the constant inputs of the node by name, float64.
    """
    cells = cells_of(
        attrs, operands["W"], operands["R"], operands["B"], operands.get("P"),
        operands.get("projection"),
    )  # fmt: skip
    return [_recorder(cell, attrs, operands, d) for d, cell in enumerate(cells)]


def _recorder(
    cell: Any, attrs: Mapping[str, Any], operands: Mapping[str, Array], d: int
) -> Recorder:
    fed, norm, skip = (
        operands[key][d] if key in operands else None for key in ("gate_recurrence", "norm", "skip")
    )
    shares = attrs.get("zoneout", (0.0, 0.0))
    variant = Variant(
        fed, norm, float(attrs.get("norm_epsilon", 1e-5)), skip, (shares[0], shares[1])
    )
    H = int(attrs["hidden_size"])
    lstm = attrs["cell"] == "lstm"

    def record(x: Array, h: Array, c: Array) -> tuple[dict[str, Array], Array, Array]:
        found: dict[str, Array] = {}

        def step(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
            if variant.by_rows:
                s: Any = lstm_row_step(
                    x, h, c, cell.W, cell.R, cell.b, variant, cell.P, cell.projection
                )
            else:
                s = cell.whole_step(x, h, c)
            found.update({k: getattr(s, k) for k in LETTERS if hasattr(s, k)})
            if not lstm:
                return s.h, c
            kept = [s.c, s.i, s.o, s.f] if fed is not None else [s.c]
            return s.h, np.concatenate(kept, axis=1)

        h_new, c_new = surrounded(step, variant, H)(x, h, c)
        found["h"] = h_new
        if lstm:
            found["c"] = c_new[:, :H]
        if skip is not None:
            found["u"] = (c[:, -1:] <= 0.5).astype(np.float64)
        return found, h_new, c_new

    return record
