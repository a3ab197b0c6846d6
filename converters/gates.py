# SPDX-License-Identifier: MIT
"""The one table of gate orders and bias conventions, and the functions that reorder rows.

The graph's own order is ONNX's: LSTM ``i, o, f, c`` and GRU ``z, r, h``. Gates are named by what
they do, in ONNX's letters: ``i`` input, ``o`` output, ``f`` forget, ``c`` candidate cell; ``z``
update, ``r`` reset, ``h`` candidate state. A new source of models is one row of ``TABLE``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]

#: Number of gates of each cell.
GATES: Mapping[str, int] = {"rnn": 1, "lstm": 4, "gru": 3}

#: Activations that a cell has unless its source says otherwise, one direction, in ONNX's slots.
DEFAULT_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "rnn": ("Tanh",),
    "lstm": ("Sigmoid", "Tanh", "Tanh"),
    "gru": ("Sigmoid", "Tanh"),
}


@dataclass(frozen=True)
class Convention:
    """How one source stores one cell.

    order : gates from the first block of rows to the last
    biases : ``"two"`` input and recurrent bias, ``"one"`` a single bias that is the input bias,
        ``"stacked"`` one array ``[2, G*H]`` (input, recurrent)
    transposed : weights are stored ``[I, G*H]`` instead of ``[G*H, I]``
    reset : ``"after"`` or ``"before"`` the recurrent product (GRU)
    update : ``"keep"`` h' = (1-z) n + z h, ``"take"`` h' = (1-z) h + z n (GRU)
    """

    order: str
    biases: Literal["two", "one", "stacked"]
    transposed: bool = False
    reset: Literal["after", "before"] = "after"
    update: Literal["keep", "take"] = "keep"


#: source -> cell -> convention. ``keras_before`` is a Keras GRU with ``reset_after=False``.
TABLE: Mapping[str, Mapping[str, Convention]] = {
    "onnx": {
        "rnn": Convention("h", "two"),
        "lstm": Convention("iofc", "two"),
        "gru": Convention("zrh", "two"),
    },
    "torch": {
        "rnn": Convention("h", "two"),
        "lstm": Convention("ifco", "two"),
        "gru": Convention("rzh", "two"),
    },
    "keras": {
        "rnn": Convention("h", "one", transposed=True),
        "lstm": Convention("ifco", "one", transposed=True),
        "gru": Convention("zrh", "stacked", transposed=True),
    },
    "keras_before": {
        "gru": Convention("zrh", "one", transposed=True, reset="before"),
    },
}


def permutation(cell: str, order: str) -> tuple[int, ...]:
    """Blocks of ``order`` in the graph's order: ``permutation("gru", "rzh") == (1, 0, 2)``.

    Raises
    ------
    ValueError
        ``order`` does not name every gate of ``cell`` once.
    """
    target = TABLE["onnx"][cell].order
    if sorted(order) != sorted(target):
        raise ValueError(f"gate order {order!r}; a {cell} has the gates {', '.join(target)}")
    return tuple(order.index(gate) for gate in target)


def reorder_rows(array: Array, cell: str, source: str, axis: int = 0) -> Array:
    """Bring the gate blocks along ``axis`` (size ``G*H``) from the order of ``source`` to ONNX's.

    Raises
    ------
    ValueError
        The size along ``axis`` is no multiple of the number of gates.
    """
    return reorder_blocks(array, permutation(cell, TABLE[source][cell].order), axis)


def reorder_blocks(array: Array, blocks: tuple[int, ...], axis: int = 0) -> Array:
    """Cut ``array`` into ``len(blocks)`` equal blocks along ``axis``; join them in this order."""
    size, count = array.shape[axis], len(blocks)
    if size % count:
        raise ValueError(f"{size} rows of gates; a multiple of {count} is needed")
    if blocks == tuple(range(count)):
        return np.ascontiguousarray(array)
    parts = np.split(array, count, axis=axis)
    return np.ascontiguousarray(np.concatenate([parts[block] for block in blocks], axis=axis))


def weights(array: Array, cell: str, source: str) -> Array:
    """One direction's input or recurrent weights of ``source`` as ``[G*H, I]`` in ONNX's order."""
    convention = TABLE[source][cell]
    return reorder_rows(array.T if convention.transposed else array, cell, source)


def biases(
    cell: str, source: str, size: int, first: Array | None, second: Array | None = None
) -> Array | None:
    """One direction's biases of ``source`` as ``[2*G*H]`` (input, then recurrent), or None.

    Parameters
    ----------
    size : int
        ``G*H``; an absent half becomes zeros of this size.
    first, second : array or None
        The bias arrays as stored: ``[G*H]`` each, or ``first`` alone as ``[2, G*H]`` (stacked).

    Raises
    ------
    ValueError
        A shape that the convention of ``source`` does not have.
    """
    if first is None and second is None:
        return None
    if TABLE[source][cell].biases == "stacked" and first is not None:
        if second is not None or first.shape != (2, size):
            raise ValueError(f"a bias of shape {first.shape}; {source} {cell} has (2, {size})")
        first, second = first[0], first[1]
    halves = []
    for half in (first, second):
        value = np.zeros(size, np.float32) if half is None else half
        if value.shape != (size,):
            raise ValueError(f"a bias of shape {value.shape}; {source} {cell} has ({size},)")
        halves.append(reorder_rows(value, cell, source))
    return np.concatenate(halves)


def flip_update(array: Array, cell: str = "gru", axis: int = 0) -> Array:
    """Negate the update gate's block of rows (ONNX order): turns ``"take"`` weights to ``"keep"``.

    Exact for a Sigmoid gate, because 1 - sigmoid(x) = sigmoid(-x).
    """
    flipped = np.array(array, copy=True)
    block = TABLE["onnx"][cell].order.index("z")
    rows = flipped.shape[axis] // GATES[cell]
    index: list[slice] = [slice(None)] * flipped.ndim
    index[axis] = slice(block * rows, (block + 1) * rows)
    flipped[tuple(index)] *= -1
    return flipped


def update_turns(activations: list[str], betas: list[float]) -> bool:
    """Tell whether ``flip_update`` is exact for these activations of a GRU, of each direction."""
    pairs = list(zip(activations, betas, strict=True))[::2]
    return all(n == "Sigmoid" or (n == "HardSigmoid" and b == 0.5) for n, b in pairs)


def weights_to(array: Array, cell: str, target: str) -> Array:
    """One direction's weights ``[G*H, I]`` in ONNX's order as ``target`` stores them."""
    convention = TABLE[target][cell]
    rows = _restored(array, cell, convention.order)
    return np.ascontiguousarray(rows.T) if convention.transposed else rows


def rows_to(array: Array, cell: str, target: str) -> Array:
    """``[G*H, ...]`` in ONNX's order in the order of ``target``."""
    return _restored(array, cell, TABLE[target][cell].order)


def _restored(array: Array, cell: str, order: str) -> Array:
    own = TABLE["onnx"][cell].order
    return reorder_blocks(array, tuple(own.index(gate) for gate in order))
