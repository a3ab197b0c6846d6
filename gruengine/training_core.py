# SPDX-License-Identifier: MIT
"""Where training meets the compiled engine: recurrences, products, sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from gruengine import _core
from gruengine.spec import Attr

Array = np.ndarray[Any, Any]


def recurrent_training(
    attrs: dict[str, Attr],
    input_size: int,
    hidden_size: int,
    num_threads: int,
    compute_type: str = "float32",
) -> Any:
    """Return the training form of a ``Recurrent`` node.

    Its interface is that of :class:`gruengine.reference_training.RecurrentTraining`.
    """
    return _core.RecurrentTraining(attrs, input_size, hidden_size, num_threads, compute_type)


def product(
    a: Array,
    b: Array,
    *,
    a_transposed: bool = False,
    b_transposed: bool = False,
    bias: Array | None = None,
    num_threads: int = 1,
    compute_type: str = "float32",
) -> Array:
    """Return ``a b`` (+ bias) of matrices; float32 by the engine, others by NumPy.

    With ``compute_type="bfloat16"`` the engine rounds both operands, and sums in float32.
    """
    if a.dtype == b.dtype == np.float32:
        return _core.train_matmul(
            np.ascontiguousarray(a), np.ascontiguousarray(b), a_transposed, b_transposed, bias,
            num_threads=num_threads, compute_type=compute_type,
        )  # fmt: skip
    found = (a.T if a_transposed else a) @ (b.T if b_transposed else b)
    return np.asarray(found if bias is None else found + bias)


def add_rows(ids: Array, dy: Array, table: Array) -> None:
    """Add the rows of ``dy`` ``[..., F]`` to those of ``table`` that ``ids`` ``[...]`` name."""
    flat = np.ascontiguousarray(ids.reshape(-1), np.int64)
    rows = np.ascontiguousarray(dy.reshape(-1, dy.shape[-1]), np.float32)
    _core.train_embedding_gradient(flat, rows, table)


def sum_of_squares(x: Array) -> float:
    """Return the sum of the squares of all elements, in float64."""
    found = _core.train_sum_of_squares(np.ascontiguousarray(x, np.float32))
    # The squares may leave the range of float32 where their root does not.
    return found if np.isfinite(found) else float(np.sum(np.square(x, dtype=np.float64)))
