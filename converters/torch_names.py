# SPDX-License-Identifier: MIT
"""The names of a state dict without what wrappers put around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gruengine.converters.base import Reason
from gruengine.converters.torch_rnn import RNN_NAME
from gruengine.converters.torch_state import strip_prefixes

Array = np.ndarray[Any, Any]


def clean(
    arrays: Mapping[str, Array], hints: Mapping[str, Any], reasons: list[Reason]
) -> dict[str, Array]:
    """Return the arrays under the names of plain modules.

    Parameters
    ----------
    arrays : mapping of str to ndarray
    hints : mapping
        ``ignore``: names, or beginnings of names up to a dot, that are left out.
    reasons : list of Reason
        Gets what is contradictory.
    """
    kept = _without_ignored(arrays, hints.get("ignore", ()), reasons)
    short = strip_prefixes(list(kept))
    named = {short[key]: array for key, array in kept.items()}
    return _without_copies(_without_raw(named, reasons))


def is_ignored(name: str, hints: Mapping[str, Any]) -> bool:
    """Whether the hint ``ignore`` leaves a name out."""
    names = hints.get("ignore", ())
    names = [names] if isinstance(names, str) else names
    return isinstance(names, (list, tuple)) and any(
        name == one or name.startswith(f"{one}.") for one in names
    )


def _without_ignored(
    arrays: Mapping[str, Array], ignored: Any, reasons: list[Reason]
) -> dict[str, Array]:
    names = [ignored] if isinstance(ignored, str) else ignored
    if not isinstance(names, (list, tuple)) or not all(isinstance(one, str) for one in names):
        reasons.append(Reason("", f"hint ignore is {ignored!r}", "a list of names"))
        return dict(arrays)
    kept = dict(arrays)
    for one in names:
        gone = [name for name in arrays if name == one or name.startswith(f"{one}.")]
        if not gone:
            why = "names of the state dict, or of modules in it"
            reasons.append(Reason("", f"hint ignore has {one!r}", why))
        for name in gone:
            kept.pop(name, None)
    return kept


def _without_raw(arrays: Mapping[str, Array], reasons: list[Reason]) -> dict[str, Array]:
    """Give weights that are dropped out in training, ``x_raw``, the name of the weight.

    The wrapper keeps them in itself or in the ``module`` inside it; what stands there as ``x`` is
    the copy of one training step.
    """
    result = {name: array for name, array in arrays.items() if not _is_raw(name)}
    for name, array in arrays.items():
        if not _is_raw(name):
            continue
        prefix, _, tail = name.removesuffix("_raw").rpartition(".")
        own = f"{prefix}." if prefix else ""
        places = [own, f"{own}module."]
        there = [one for one in places if f"{one}{_partner(tail)}" in arrays]
        if len(there) != 1:
            why = f"{_partner(tail)} of the same layer beside it, or in a module inside it"
            reasons.append(Reason(name, "a raw weight", why))
            continue
        full = f"{there[0]}{tail}"
        if full in result and result[full].shape != array.shape:
            reasons.append(Reason(name, f"shape {list(array.shape)}", f"that of {full}"))
        result[full] = array
    return result


def _is_raw(name: str) -> bool:
    tail = name.rpartition(".")[2]
    return tail.endswith("_raw") and RNN_NAME.fullmatch(tail.removesuffix("_raw")) is not None


def _partner(tail: str) -> str:
    """Return the input weight of the layer that a recurrent weight belongs to."""
    match = RNN_NAME.fullmatch(tail)
    assert match is not None
    return f"weight_ih_l{match[2]}{match[3] or ''}"


def _without_copies(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Leave out the second name that a wrapper of an embedding gives to the same weights."""
    result = dict(arrays)
    for name, array in arrays.items():
        first = name.replace("_dp.emb.weight", ".weight")
        if first != name and first in arrays and np.array_equal(arrays[first], array):
            del result[name]
    return result
