# SPDX-License-Identifier: MIT
"""Variants around the cells: values and gradients of the core beside the float64 reference."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from variant_cases import CASES, NAMES, SHAPES, made_of

from gruengine import _core
from gruengine.reference_training import RecurrentTraining

TOLERANCE = 3e-5


def run(kind: Any, made: dict[str, Any]) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Return the outputs and the gradients by name, of the core or of the reference."""
    arrays = made["arrays"]
    layer = kind({**made["attrs"], "hidden_size": made["H"]}, arrays["x"].shape[2], made["H"], 1)
    *outputs, tape = layer.forward(**arrays, lengths=made["lengths"], **made["masks"])
    found = dict(zip(NAMES, layer.backward(tape, *made["gradients"]), strict=True))
    return outputs[: len(made["gradients"])], found


@functools.cache
def example(name: str, shape: str) -> dict[str, Any]:
    made = made_of(name, CASES[name], shape)
    outputs, gradients = run(RecurrentTraining, made)
    return {**made, "outputs": outputs, "wanted": gradients}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_reference(isa, name, shape):
    made = example(name, shape)
    outputs, found = run(_core.RecurrentTraining, made)
    for got, exact in zip(outputs, made["outputs"], strict=True):
        np.testing.assert_allclose(got, exact, rtol=0, atol=1e-5 * max(1, np.abs(exact).max()))
    assert {n for n, a in found.items() if a is not None} == set(made["arrays"])
    for n in made["arrays"]:
        exact = made["wanted"][n]
        error = np.linalg.norm(found[n] - exact) / np.linalg.norm(exact)
        assert error <= TOLERANCE, n
