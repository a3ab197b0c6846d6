# SPDX-License-Identifier: MIT
"""Products of the compute types below float32, in float64 NumPy: what is rounded, and how.

bfloat16: both sides to the nearest bfloat16, ties to even. int8: both sides to integers in
[-127, 127], weights with a scale for each output, values with a scale for each row. int4: values as
in int8, weights to integers in [-7, 7], with a scale for each 32 inputs of each output. bf16x3:
both sides as sums of two bfloat16, without the product of the two lower ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from gruengine.quantise import expand_int4, quantise_int4, quantise_weights, round_bfloat16
from gruengine.reference_activations import Array
from gruengine.reference_product import made_by


def quantise_rows(a: Array) -> tuple[Array, Array]:
    """Return the integers [..., k] of the rows of ``a`` and their scales [...]."""
    a = np.asarray(a, np.float32)
    most = np.abs(a).max(axis=-1, initial=0.0)
    used = most > np.float32(1e-30)
    inverse = np.where(used, np.float32(127) / np.where(used, most, np.float32(1)), np.float32(0))
    return np.rint(a * inverse[..., None]).astype(np.int64), (most / np.float32(127))


def split(a: Array) -> tuple[Array, Array]:
    """Return the bfloat16 nearest to ``a``, and the one nearest to what that leaves."""
    high = round_bfloat16(a)
    return high, round_bfloat16(np.asarray(a, np.float32) - high.astype(np.float32))


def product(a: Array, W: Array, compute_type: str) -> Array:
    """Return ``a W^T`` of a [N, k] and W [M, k] as the compute type makes it: float64 [N, M]."""
    if compute_type == "bfloat16":
        return np.asarray(round_bfloat16(a) @ round_bfloat16(W).T)
    if compute_type == "bf16x3":
        (high, low), (other, rest) = split(a), split(W)
        return np.asarray(high @ other.T + high @ rest.T + low @ other.T)
    if compute_type == "int8":
        rows, row_scales = quantise_rows(a)
        weights, scales = quantise_weights(W)
        sums = (rows @ weights.T.astype(np.int64)).astype(np.float64)
        return np.asarray(sums * (row_scales[:, None] * scales).astype(np.float64))
    if compute_type == "int4":
        rows, row_scales = quantise_rows(a)
        sums = rows.astype(np.float64) @ expand_int4(*quantise_int4(W)).astype(np.float64).T
        return np.asarray(sums * row_scales[:, None].astype(np.float64))
    return np.asarray(a @ W.T)


@contextmanager
def products(compute_type: str) -> Iterator[None]:
    """Make the reference cells compute their products in ``compute_type`` inside the block."""
    with made_by(lambda a, W: product(a, W, compute_type)):
        yield
