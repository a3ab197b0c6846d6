# SPDX-License-Identifier: MIT
"""Traced forwards beside PyTorch: operators, shapes and modules, on the example and other sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tolerances import TORCH_MODULE, relative_error
from torch.utils import _pytree
from torch_export_modules import CASES

import gruengine as gr


def arrays(value: Any) -> list[torch.Tensor]:
    return [one for one in _pytree.tree_leaves(value) if isinstance(one, torch.Tensor)]


def resized(example: torch.Tensor, shape: tuple[Any, ...], sizes: dict[str, int]) -> torch.Tensor:
    """The example repeated or cut to other sizes."""
    wanted = [sizes.get(size, n) for size, n in zip(shape, example.shape, strict=True)]
    return torch.from_numpy(np.resize(example.numpy(), wanted))


def check(model: gr.Model, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    with torch.no_grad():
        want = arrays(module.eval()(*[one.clone() for one in inputs]))
    ports = [port.name for port in model.signature.inputs]
    given = {name: one.numpy() for name, one in zip(ports, inputs, strict=True)}
    found = model.run_graph(given)
    assert len(found) == len(want)
    for (name, value), expected in zip(found.items(), want, strict=True):
        assert value.shape == tuple(expected.shape), name
        if expected.is_floating_point():
            finite = np.isfinite(expected.numpy())
            assert np.array_equal(np.isfinite(value), finite)
            wanted = np.where(finite, expected.numpy(), 0)
            error = relative_error(np.where(finite, value, 0), wanted)
            assert error <= TORCH_MODULE, f"{name}: {error:.2g}"
        else:
            assert np.array_equal(value, expected.numpy()), name


#: Their first size is fixed by the forward itself.
FIXED = {"module_conv1d_alone", "module_adaptive_two"}


@pytest.mark.parametrize("name", CASES)
def test_forwards(name: str) -> None:
    torch.set_num_threads(1)
    module, example = CASES[name]()
    model = gr.from_torch(module, example)
    check(model, module, example)
    shapes = [port.shape for port in model.signature.inputs]
    free = {size for shape in shapes for size in shape if isinstance(size, str)}
    assert "N" in free or name in FIXED, shapes
    for number in (2 if name == "shape_outer" else 1, 5):
        sizes = {"N": number}
        other = tuple(resized(a, s, sizes) for a, s in zip(example, shapes, strict=True))
        if name not in FIXED:
            check(model, module, other)
