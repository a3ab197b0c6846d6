# SPDX-License-Identifier: MIT
"""The product of values and weights in the reference cells: all that compute types change."""

from __future__ import annotations

from gruengine.reference_activations import Array


def product(a: Array, W: Array) -> Array:
    """Return ``a W^T``, the product that compute types below float32 round: see reference_low."""
    result: Array = a @ W.T
    return result
