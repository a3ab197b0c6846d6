# SPDX-License-Identifier: MIT
"""PyTorch's dynamic quantisation of its own modules to int8."""

from __future__ import annotations

import warnings
from typing import Any

from benchmarks.cases import Case, Stack
from benchmarks.peers import Runner, torch

COMPUTE_TYPE = "int8"
version = torch.version
missing = torch.missing


def prepare(case: Case) -> Runner | None:
    """Return a quantised module; PyTorch quantises no plain RNN dynamically."""
    stack = case.parts[0]
    if not isinstance(stack, Stack) or stack.kind == "RNN":
        return None
    recurrent, linear = torch.modules(stack)
    return torch.run(case, (_quantised(recurrent), linear and _quantised(linear)))


def _quantised(module: Any) -> Any:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import quantize_dynamic

        kinds = {torch.nn.LSTM, torch.nn.GRU, torch.nn.Linear}
        holder = torch.nn.Sequential(module)  # what is replaced is a child of something
        return quantize_dynamic(holder, kinds, dtype=torch.qint8)[0]
