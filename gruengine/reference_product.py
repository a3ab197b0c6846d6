# SPDX-License-Identifier: MIT
"""The product of weights in the reference cells: exact, or as ``made_by`` says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gruengine.reference_activations import Array

Product = Callable[[Array, Array], Array]


def exact(a: Array, W: Array) -> Array:
    """Return ``a W^T`` in the type of its operands."""
    result: Array = a @ W.T
    return result


_make: Product = exact


def product(a: Array, W: Array) -> Array:
    """Return ``a W^T``, the product that compute types below float32 round: see reference_low."""
    return _make(a, W)


@contextmanager
def made_by(make: Product) -> Iterator[None]:
    """Let ``make`` compute every :func:`product` inside the block."""
    global _make
    before, _make = _make, make
    try:
        yield
    finally:
        _make = before
