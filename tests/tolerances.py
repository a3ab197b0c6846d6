# SPDX-License-Identifier: MIT
"""The budgets of all comparisons of numbers, in one place, each with its reason."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Budget(NamedTuple):
    """How far a number may be from what an oracle says: ``atol + rtol * |expected|``."""

    rtol: float
    atol: float


# Both sides compute in float64 and differ in the order of their sums.
FLOAT64 = Budget(rtol=1e-11, atol=1e-12)
# The oracle computes in float32, with its own approximations of exp and tanh, over a few steps.
ORT_RECURRENT = Budget(rtol=2e-5, atol=2e-5)
# The same for one operator of the graph.
ORT_OPERATOR = Budget(rtol=5e-6, atol=5e-6)
# The engine against float64: a few roundings of elements near 10, or of sums of a hundred of them.
ENGINE_OPERATOR = Budget(rtol=3e-6, atol=5e-6)
# Products of up to 400 terms near 10, whose partial sums reach hundreds; and normalised rows, where
# the rounding of the mean is divided by a small deviation.
ENGINE_PRODUCT = Budget(rtol=3e-6, atol=1e-4)
# The engine's recurrences against float64: some ten steps through up to four layers.
ENGINE_RECURRENT = Budget(rtol=1e-5, atol=1e-5)

# Errors as a part of the largest expected value of an output.
# One recurrent node of ONNX, both sides in float32.
ONNX_NODE = 1e-5
# A module or checkpoint of PyTorch: up to three layers, both sides in float32.
TORCH_MODULE = 1e-5
# A model of Keras: up to four layers, both sides in float32.
KERAS_MODEL = 1e-5
# A real model over thousands of steps that feed their own states.
REAL_MODEL = 1e-4
# The vectors of RTNeural, printed with seven digits.
RTNEURAL = 1e-5


def assert_close(actual: npt.ArrayLike, expected: npt.ArrayLike, budget: Budget) -> None:
    """Fail unless shapes are equal and each element is within ``budget``; NaN equals NaN."""
    a: npt.NDArray[Any] = np.asarray(actual)
    e: npt.NDArray[Any] = np.asarray(expected)
    assert a.shape == e.shape, f"shape {a.shape}; expected {e.shape}"
    np.testing.assert_allclose(a, e, rtol=budget.rtol, atol=budget.atol)


def relative_error(actual: npt.ArrayLike, expected: npt.ArrayLike) -> float:
    """Return the largest error as a part of the largest expected value.

    Shapes must be equal; NaN or infinity on either side gives infinity, as does an error where all
    that is expected is zero.
    """
    a, e = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert a.shape == e.shape, f"shape {a.shape}; expected {e.shape}"
    if not (np.isfinite(a).all() and np.isfinite(e).all()):
        return float("inf")
    error, scale = np.max(np.abs(a - e), initial=0.0), np.max(np.abs(e), initial=0.0)
    if error == 0:
        return 0.0
    return float(error / scale) if scale > 0 else float("inf")
