# SPDX-License-Identifier: MIT
"""PyTorch's own modules in inference mode, NumPy array to NumPy array."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.cases import Case, Cell
from benchmarks.onnx_cell import weights
from benchmarks.peers import Array, Runner, inputs

# ONNX i, o, f, c -> PyTorch i, f, g, o; ONNX z, r, h -> PyTorch r, z, n.
ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}


def missing() -> str:
    return "" if find_spec("torch") and find_spec("onnx") else "not installed"


def version() -> str:
    import torch

    return str(torch.__version__)


def prepare(case: Case) -> Runner | None:
    """Return a module; files are left to others."""
    import torch

    cell = case.parts[0]
    if not isinstance(cell, Cell):
        return None
    torch.set_num_threads(1)
    module = _module(cell)
    x = inputs(case)[0]
    holder: list[Any] = [None, None]

    def call() -> None:
        with torch.inference_mode():
            y, state = module(torch.from_numpy(x), holder[1] if case.carried else None)
        holder[0], holder[1] = y.numpy(), state

    return Runner(call, lambda: [holder[0]])


def _module(cell: Cell) -> Any:
    import torch

    made = getattr(torch.nn, cell.kind)(cell.H, cell.H).eval()
    arrays = weights(cell)
    bias = np.split(arrays["B"][0], 2)
    ordered = {
        "weight_ih_l0": arrays["W"][0],
        "weight_hh_l0": arrays["R"][0],
        "bias_ih_l0": bias[0],
        "bias_hh_l0": bias[1],
    }
    made.load_state_dict({name: _reorder(cell, array) for name, array in ordered.items()})
    return made


def _reorder(cell: Cell, array: Array) -> Any:
    import torch

    blocks = np.split(array, len(ORDER[cell.kind]))
    return torch.from_numpy(np.concatenate([blocks[g] for g in ORDER[cell.kind]]))
