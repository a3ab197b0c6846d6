# SPDX-License-Identifier: MIT
"""PyTorch's own modules in inference mode, NumPy array to NumPy array."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.cases import Case, Stack
from benchmarks.onnx_cell import dense, weights
from benchmarks.peers import Array, Runner, inputs

# ONNX i, o, f, c -> PyTorch i, f, g, o; ONNX z, r, h -> PyTorch r, z, n.
ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}


def missing() -> str:
    return "" if find_spec("torch") and find_spec("onnx") else "not installed"


def version() -> str:
    import torch

    return str(torch.__version__)


def prepare(case: Case) -> Runner | None:
    """Return a module; files are left to others."""
    stack = case.parts[0]
    return run(case, modules(stack)) if isinstance(stack, Stack) else None


def run(case: Case, made: tuple[Any, Any]) -> Runner:
    """Return the call of a recurrent module and of the linear one on top, if any."""
    import torch

    torch.set_num_threads(1)
    recurrent, linear = made
    x = inputs(case)[0]
    holder: list[Any] = [None, None]

    def call() -> None:
        with torch.inference_mode():
            y, state = recurrent(torch.from_numpy(x), holder[1] if case.carried else None)
            holder[0] = (y if linear is None else linear(y)).numpy()
        holder[1] = state

    return Runner(call, lambda: [holder[0]])


def modules(stack: Stack) -> tuple[Any, Any]:
    """Return the recurrent module with the weights of the ONNX model, and the linear one."""
    import torch

    made = getattr(torch.nn, stack.kind)(stack.I, stack.H, stack.layers).eval()
    found = {}
    for layer, arrays in enumerate(weights(stack)):
        bias = np.split(arrays["B"][0], 2)
        ordered = {
            "weight_ih": arrays["W"][0],
            "weight_hh": arrays["R"][0],
            "bias_ih": bias[0],
            "bias_hh": bias[1],
        }
        found.update({f"{name}_l{layer}": _reorder(stack, a) for name, a in ordered.items()})
    made.load_state_dict(found)
    if not stack.dense:
        return made, None
    linear = torch.nn.Linear(stack.H, stack.dense, bias=False).eval()
    linear.load_state_dict({"weight": torch.from_numpy(dense(stack).T.copy())})
    return made, linear


def _reorder(stack: Stack, array: Array) -> Any:
    import torch

    blocks = np.split(array, len(ORDER[stack.kind]))
    return torch.from_numpy(np.concatenate([blocks[g] for g in ORDER[stack.kind]]))
