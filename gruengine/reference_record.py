# SPDX-License-Identifier: MIT
"""Steps of recurrent cells, whatever surrounds them, with all their gates: float64 NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gruengine.reference_activations import Array
from gruengine.reference_cell import Cell, cells_of
from gruengine.reference_variants import surrounded

LETTERS = ("i", "o", "f", "g", "c", "z", "r", "n", "h")

#: x, h, c to what happened in the step by letter, the new h and the new c.
Recorder = Callable[[Array, Array, Array], tuple[dict[str, Array], Array, Array]]


def recorders_of(attrs: Mapping[str, Any], operands: Mapping[str, Array]) -> list[Recorder]:
    """Return the recording step of each direction of a ``Recurrent`` node.

    Parameters
    ----------
    operands : the constant inputs of the node by name, float64.
    """
    return [_recorder(cell) for cell in cells_of(attrs, operands)]


def _recorder(cell: Cell) -> Recorder:
    def record(x: Array, h: Array, c: Array) -> tuple[dict[str, Array], Array, Array]:
        found: dict[str, Array] = {}

        def step(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
            s = cell.whole_step(x, h, c)
            found.update({k: getattr(s, k) for k in LETTERS if hasattr(s, k)})
            return cell.inner(x, h, c)

        h_new, c_new = surrounded(step, cell.variant, cell.H)(x, h, c)
        found["h"] = h_new
        if cell.kind == "lstm":
            found["c"] = c_new[:, : cell.H]
        if cell.variant.skip is not None:
            found["u"] = (c[:, -1:] <= 0.5).astype(np.float64)
        return found, h_new, c_new

    return record
