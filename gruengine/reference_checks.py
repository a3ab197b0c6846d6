# SPDX-License-Identifier: MIT
"""What the Recurrent operator refuses, and how it says so."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gruengine.errors import InvalidInputError
from gruengine.reference_activations import Array

GATES = {"rnn": 1, "lstm": 4, "gru": 3}


def check_attributes(cell: str, direction: str, reset: str, update: str, clip: float) -> None:
    """Refuse an attribute that has no meaning."""
    allowed = {
        "cell": (cell, tuple(GATES)),
        "direction": (direction, ("forward", "reverse", "bidirectional")),
        "reset": (reset, ("after", "before")),
        "update": (update, ("keep", "take")),
    }
    for name, (value, choices) in allowed.items():
        if value not in choices:
            raise InvalidInputError(f"Recurrent: {name} is {value!r}; it must be one of {choices}")
    if not 0 <= clip < np.inf:
        raise InvalidInputError(f"Recurrent: clip is {clip}; it must be finite and not negative")


def check_lstm_only(cell: str, **inputs: Array | None) -> None:
    """Refuse the inputs that only an LSTM has."""
    for name, value in inputs.items():
        if cell != "lstm" and value is not None:
            raise InvalidInputError(
                f"Recurrent: cell {cell!r} was given {name}; only 'lstm' has it"
            )


def state_size(cell: str, H: int, fed: bool, skips: bool) -> int:
    """Return C, the size of the state c.

    Parameters
    ----------
    fed : gates feed gates.
    skips : steps may be skipped.
    """
    return (H if cell == "lstm" else 0) + (3 * H if fed else 0) + skips


def shaped(name: str, value: Array | None, shape: tuple[int, ...]) -> Array:
    """Return ``value`` in float64 (zeros if absent) after checking its shape."""
    if value is None:
        return np.zeros(shape)
    if np.shape(value) != shape:
        raise InvalidInputError(
            f"Recurrent: {name} has shape {np.shape(value)}; it must be {shape}"
        )
    return np.asarray(value, np.float64)


def optional_operands(
    given: Mapping[str, Array | None], *, D: int, T: int, N: int, H: int, K: int
) -> dict[str, Array]:
    """Return those operands and masks of ``given`` that are there, float64, shapes checked."""
    shapes: dict[str, tuple[int, ...]] = {
        "P": (3 * H,), "projection": (K, H), "gate_recurrence": (3 * H, 3 * H),
        "norm": (10 * H,), "skip": (K + 1,),
        "keep_h": (T, N, K), "keep_c": (T, N, H), "recurrent_mask": (N, K),
    }  # fmt: skip
    return {n: shaped(n, a, (D, *shapes[n])) for n, a in given.items() if a is not None}


def check_lengths(lengths: Array | None, T: int, N: int) -> Array:
    """Return the length of each row, T where none are given."""
    if lengths is None:
        return np.full(N, T)
    ends = np.asarray(lengths)
    if ends.shape != (N,) or ends.dtype.kind not in "iu":
        raise InvalidInputError(
            f"Recurrent: lengths are {ends.dtype} of shape {ends.shape}; they must be {N} integers"
        )
    if N and (ends.min() < 0 or ends.max() > T):
        raise InvalidInputError(
            f"Recurrent: lengths are {ends.tolist()}; each must be from 0 to {T}"
        )
    return ends
