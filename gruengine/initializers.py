# SPDX-License-Identifier: MIT
"""How parameters start.

Sources: Glorot and Bengio 2010 (uniform); Saxe et al. 2014 (orthogonal); Le et al. 2015 (identity,
the IRNN); Gers et al. 1999 and Jozefowicz et al. 2015 (forget bias); Tallec and Ollivier 2018
(chrono).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gruengine.errors import InvalidInputError

Array = np.ndarray[Any, Any]


def glorot_uniform(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Return ``[rows, columns]`` float32, uniform in +-sqrt(6 / (rows + columns)) (Glorot 2010)."""
    limit = np.sqrt(6.0 / (rows + columns))
    return rng.uniform(-limit, limit, (rows, columns)).astype(np.float32)


def orthogonal(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Return ``[rows, columns]`` float32 whose shorter side is orthonormal (Saxe et al. 2014)."""
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return np.ascontiguousarray(q if rows >= columns else q.T, dtype=np.float32)


def orthogonal_gates(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Return ``[rows, columns]`` float32: a square orthogonal block for each gate.

    Where ``rows`` is no multiple of ``columns`` (a projection) it is ``orthogonal`` as a whole.
    """
    if rows % columns:
        return orthogonal(rng, rows, columns)
    return np.concatenate([orthogonal(rng, columns, columns) for _ in range(rows // columns)])


def identity(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Return the identity for each gate: with relu and zero biases the IRNN (Le et al. 2015)."""
    if rows % columns:
        raise InvalidInputError(
            f"an identity of {rows} rows and {columns} columns; rows must be a multiple of columns"
        )
    return np.tile(np.eye(columns, dtype=np.float32), (rows // columns, 1))


def uniform(scale: float) -> Callable[[np.random.Generator, int, int], Array]:
    """Return an initialiser uniform in +-``scale``."""
    return lambda rng, rows, columns: rng.uniform(-scale, scale, (rows, columns)).astype(np.float32)


#: The initialisers of matrices by name.
INITIALIZERS: dict[str, Callable[[np.random.Generator, int, int], Array]] = {
    "glorot": glorot_uniform,
    "orthogonal": orthogonal,
    "orthogonal_gates": orthogonal_gates,
    "identity": identity,
}

#: A name of ``INITIALIZERS``, or a function of the generator, rows and columns.
Initializer = str | Callable[[np.random.Generator, int, int], Array]


def start(
    which: Initializer, name: str, rng: np.random.Generator, rows: int, columns: int
) -> Array:
    """Return the matrix that ``which`` starts, float32.

    Raises
    ------
    InvalidInputError
        A name that is not known, or a function whose result has another shape.
    """
    if isinstance(which, str):
        if which not in INITIALIZERS:
            allowed = ", ".join(repr(key) for key in INITIALIZERS)
            raise InvalidInputError(f"{name} is {which!r}; it must be one of {allowed}")
        return INITIALIZERS[which](rng, rows, columns)
    found = np.array(which(rng, rows, columns), np.float32)
    if found.shape != (rows, columns):
        raise InvalidInputError(f"{name} gave shape {found.shape}; it must be {(rows, columns)}")
    return found


@dataclass(frozen=True)
class Chrono:
    """Gate biases for memories of up to ``steps`` steps (Tallec and Ollivier 2018).

    ``b_f = log(U(1, steps - 1))`` and ``b_i = -b_f``, one draw for each unit; of a GRU the update
    gate gets that of the forget gate.
    """

    steps: float

    def __post_init__(self) -> None:
        if not 2 < self.steps < float("inf"):
            raise InvalidInputError(f"steps is {self.steps!r}; it must be more than 2")

    def __call__(self, rng: np.random.Generator, units: int) -> Array:
        """Return ``[units]`` float32: the biases of the forget gate."""
        return np.log(rng.uniform(1.0, self.steps - 1.0, units)).astype(np.float32)
