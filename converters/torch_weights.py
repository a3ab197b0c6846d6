# SPDX-License-Identifier: MIT
"""Weights by name as the layers need them: float32 without a change, weight norm worked out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gruengine.converters.base import Options, Reason

Array = np.ndarray[Any, Any]


class Weights:
    """Arrays by name that become float32 when they are asked for; what hinders is a reason.

    Parameters
    ----------
    arrays : mapping of str to ndarray
    options : Options
        The hint ``allow_rounding=True`` lets float64 be rounded.
    reasons : list of Reason
        Reasons are added here.
    """

    def __init__(
        self, arrays: Mapping[str, Array], options: Options, reasons: list[Reason]
    ) -> None:
        self.reasons = reasons
        self._rounding = options.hints.get("allow_rounding") is True
        self.arrays = _without_weight_norm(arrays, reasons)

    def refuse(self, where: str, what: str, why: str) -> None:
        """Add a reason."""
        self.reasons.append(Reason(where, what, why))

    def floats(self, name: str) -> Array:
        """Return an array in float32; where that would change a number, a reason is added."""
        array = self.arrays[name]
        if array.dtype.kind != "f":
            self.refuse(name, f"dtype {array.dtype}", "weights are float16, bfloat16 or float32")
            return np.zeros(array.shape, np.float32)
        with np.errstate(over="ignore"):
            result = array.astype(np.float32)
        if array.dtype.itemsize > 4 and not np.array_equal(result, array, equal_nan=True):
            largest = float(np.max(np.abs(array), initial=0, where=np.isfinite(array)))
            if largest > float(np.finfo(np.float32).max):
                self.refuse(name, f"the value {largest:g}", "float32 holds up to 3.4e38")
            elif not self._rounding:
                self.refuse(
                    name,
                    f"{array.dtype} values that float32 does not hold",
                    "pass the hint allow_rounding=True, or save the model after model.float()",
                )
        return result


def _without_weight_norm(arrays: Mapping[str, Array], reasons: list[Reason]) -> dict[str, Array]:
    """Replace the pairs ``x_g, x_v`` and ``parametrizations.x.original0, 1`` by ``x``."""
    result: dict[str, Array] = {}
    for name, array in arrays.items():
        pair = _norm_pair(name)
        if pair is None or not all(other in arrays for other in pair[1:]):
            result[name] = array
        elif name == pair[1]:
            plain, magnitude, direction = pair
            value = _weight_norm(arrays[magnitude], arrays[direction])
            if value is None or plain in arrays:
                reasons.append(
                    Reason(
                        name,
                        f"weight norm of shapes {arrays[magnitude].shape}, {array.shape}",
                        "g has the shape of v with 1 where v is normed over, and there is no "
                        f"{plain} beside it",
                    )
                )
            else:
                result[plain] = value
    return result


def _norm_pair(name: str) -> tuple[str, str, str] | None:
    """Return (plain name, name of g, name of v) if ``name`` may be g or v of a weight norm."""
    if name.endswith(("_g", "_v")):
        return name[:-2], name[:-2] + "_g", name[:-2] + "_v"
    prefix, mark, rest = name.rpartition("parametrizations.")
    base, _, part = rest.rpartition(".")
    if mark and base and part in ("original0", "original1"):
        path = prefix + mark + base
        return prefix + base, f"{path}.original0", f"{path}.original1"
    return None


def _weight_norm(g: Array, v: Array) -> Array | None:
    """Compute ``v * g / ||v||``, the norm over the axes where g has size 1 (all if g is scalar)."""
    if g.dtype.kind != "f" or v.dtype.kind != "f" or (g.ndim and g.ndim != v.ndim):
        return None
    if g.ndim and any(a not in (1, b) for a, b in zip(g.shape, v.shape, strict=True)):
        return None
    axes = tuple(axis for axis in range(v.ndim) if g.ndim == 0 or g.shape[axis] == 1)
    wide = v.astype(np.float64)
    with np.errstate(all="ignore"):
        norm = np.sqrt(np.sum(np.square(wide), axis=axes, keepdims=True))
        value = wide * (g.astype(np.float64) / norm)
        return np.asarray(value.astype(np.float32))
