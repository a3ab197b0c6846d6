# SPDX-License-Identifier: MIT
"""What the Keras layers share: configurations read with reasons, weights, values of the graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gruengine.converters.base import Reason
from gruengine.converters.keras_config import MAX_SIZE, LayerDef
from gruengine.spec import Dim

if TYPE_CHECKING:
    from gruengine.converters.keras_graph import Builder

Array = np.ndarray[Any, Any]

#: A mask that Keras versions compute differently: whoever needs it is refused.
AMBIGUOUS = "?"

#: Keys that do not change what a trained layer computes.
_HARMLESS = frozenset(
    "name trainable batch_input_shape batch_shape seed implementation unroll unit_forget_bias "
    "dropout recurrent_dropout momentum synchronized virtual_batch_size fused input_dim "
    "input_length input_shape ragged sparse optional rate stddev noise_shape renorm_momentum "
    "autocast time_distributed dynamic input_dtype use_cudnn l1 l2 axis_list".split()
)
_HARMLESS_ENDS = ("_initializer", "_regularizer", "_constraint")


class Refused(Exception):  # noqa: N818 - it is a reason
    """A layer that cannot be converted: what was found and what is allowed."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what)
        self.what, self.why = what, why


@dataclass(frozen=True)
class Era:
    """What depends on the version that wrote a file.

    major : 2 or 3
    zeroes : a Bidirectional of sequences gives zeros, not repeated outputs, for masked steps
    flips : kernels of convolutions are stored turned round (Theano)
    """

    major: int = 3
    zeroes: bool = True
    flips: bool = False


@dataclass(frozen=True)
class Value:
    """A value of the graph in Keras' layout; ``mask`` is a bool value [N, T] or AMBIGUOUS."""

    name: str
    dims: tuple[Dim, ...]
    mask: str | None = None
    dtype: str = "float32"

    def to(self, name: str, dims: Sequence[Dim] | None = None) -> Value:
        """Return the value after an operator that keeps mask and sizes, or gives new ones."""
        return replace(self, name=name, dims=self.dims if dims is None else tuple(dims))

    def features(self) -> int:
        """Return the size of the last axis."""
        if len(self.dims) < 2 or not isinstance(self.dims[-1], int):
            raise Refused(f"an input of shape {list(self.dims)}", "the last size must be known")
        return self.dims[-1]


@dataclass(frozen=True)
class Var:
    """One array of a layer: where Keras tracks it below the layer, its name, how it is kept."""

    path: str
    name: str
    trainable: bool = True


class Arrays:
    """The arrays of one layer by ``path/name``; what hinders them is raised."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._arrays = arrays

    def below(self, path: str) -> Arrays:
        """Return the arrays of a part of the layer."""
        start = f"{path}/"
        kept = {k[len(start) :]: v for k, v in self._arrays.items() if k.startswith(start)}
        return Arrays(kept)

    def get(self, name: str, *shapes: tuple[int, ...]) -> Array:
        """Return an array that has one of ``shapes``."""
        if name not in self._arrays:
            raise Refused(f"no {name}", "the weights must be in the file")
        array = self._arrays[name]
        if array.shape not in shapes or 0 in array.shape:
            allowed = " or ".join(str(list(shape)) for shape in shapes)
            raise Refused(f"{name} of shape {list(array.shape)}", f"{allowed} is needed")
        return array

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array, () where there is none."""
        return self._arrays[name].shape if name in self._arrays else ()


Emit = Callable[["Builder", Sequence[Value], Arrays], "list[Value]"]


@dataclass
class Parsed:
    """A layer whose configuration was understood: its arrays, and how it joins the graph."""

    emit: Emit
    variables: list[Var] = field(default_factory=list)
    words: str = ""  # of a recurrent layer


class Config:
    """Reads one configuration; each value that is not allowed becomes a reason."""

    def __init__(self, layer: LayerDef, era: Era, reasons: list[Reason], where: str) -> None:
        self.layer, self.era, self.where = layer, era, where
        self.config = layer.config
        self.reasons = reasons
        self._used = {"dtype"}
        self._check_dtype(layer.config.get("dtype"))

    def refuse(self, what: str, why: str) -> None:
        """Add a reason."""
        self.reasons.append(Reason(self.where, f"{self.layer.kind} {what}", why))

    def raw(self, key: str, default: Any = None) -> Any:
        """Return a value as it is."""
        self._used.add(key)
        value = self.config.get(key, default)
        return value.get("value") if _is_array(value) else value

    def size(self, key: str, default: int | None = None) -> int:
        """Return a positive integer; a list of one counts as its element."""
        value = self.raw(key, default)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if type(value) is not int or not 0 < value <= MAX_SIZE:
            self.refuse(f"{key}={value!r:.80}", "a positive integer")
            return 1
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean."""
        value = self.raw(key, default)
        if value is None:
            value = default
        if not isinstance(value, bool):
            self.refuse(f"{key}={value!r:.80}", "true or false")
        return bool(value)

    def number(self, key: str, default: float | None) -> float:
        """Return a finite number."""
        value = self.raw(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.refuse(f"{key}={value!r:.80}", "a number")
            return 0.0
        if not math.isfinite(value) or abs(value) > 3e38:
            self.refuse(f"{key}={value!r:.80}", "a finite number")
            return 0.0
        return float(value)

    def choice(self, key: str, allowed: Sequence[Any], default: Any) -> Any:
        """Return one of ``allowed``."""
        value = self.raw(key, default)
        if not any(value is one or value == one for one in allowed):
            self.refuse(f"{key}={value!r:.80}", f"allowed: {', '.join(map(repr, allowed))}")
            return default
        return value

    def axes(self, key: str, default: int) -> list[int]:
        """Return an axis, or a list of axes."""
        value = self.raw(key, default)
        values = value if isinstance(value, list) else [value]
        if not values or not all(type(one) is int and abs(one) < 64 for one in values):
            self.refuse(f"{key}={value!r:.80}", "an axis or a list of axes")
            return [default]
        return values

    def sizes(self, key: str, count: int | None = None) -> list[int]:
        """Return a list of integers; of ``count`` of them, one number stands for all."""
        value = self.raw(key)
        values = [value] * (count or 1) if type(value) is int else value
        if (
            not isinstance(values, list)
            or not all(type(one) is int and abs(one) <= MAX_SIZE for one in values)
            or (count is not None and len(values) != count)
        ):
            self.refuse(f"{key}={value!r:.80}", "a list of integers")
            return [1] * (count or 1)
        return values

    def inner(self, key: str) -> LayerDef | None:
        """Return a layer that this one holds."""
        return self.layer_of(self.raw(key), key)

    def layer_of(self, entry: Any, key: str) -> LayerDef | None:
        """Return the layer that ``{"class_name": ..., "config": ...}`` describes."""
        kind = entry.get("class_name") if isinstance(entry, dict) else None
        config = entry.get("config") if isinstance(entry, dict) else None
        if not isinstance(kind, str) or not isinstance(config, dict):
            self.refuse(f"{key}={entry!r:.80}", "a layer")
            return None
        module, registered = entry.get("module"), entry.get("registered_name")
        own = isinstance(module, str) and not module.startswith(("keras", "tensorflow"))
        if own or ">" in kind or (isinstance(registered, str) and ">" in registered):
            self.refuse(f"{key} of class {kind:.80}", "a custom class is code; allowed are Keras'")
            return None
        name = config.get("name")
        return LayerDef(name if isinstance(name, str) else key, kind, "", config)

    def done(self) -> None:
        """Refuse what is set and was not read."""
        for key, value in self.config.items():
            known = key in self._used or key in _HARMLESS or key.endswith(_HARMLESS_ENDS)
            if not known and value not in (None, False, [], {}):
                self.refuse(f"{key}={value!r:.80}", "an attribute that is not converted")

    def _check_dtype(self, dtype: Any) -> None:
        policy = dtype.get("config") if isinstance(dtype, dict) else {"name": dtype}
        name = policy.get("name") if isinstance(policy, dict) else dtype
        if isinstance(dtype, dict) and dtype.get("class_name") not in _POLICIES:
            self.refuse(f"dtype={dtype.get('class_name')!r:.80}", "quantised weights; save floats")
        elif name not in _DTYPES:
            self.refuse(f"dtype={name!r:.80}", f"allowed: {', '.join(map(str, _DTYPES))}")


_POLICIES = ("DTypePolicy", "Policy", "PolicyV1")
_DTYPES = (
    None, "float32", "float64", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16",
    "int32", "int64",
)  # fmt: skip


def _is_array(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") == "ndarray"
