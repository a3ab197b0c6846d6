# SPDX-License-Identifier: MIT
"""Convolutions, pools and pads of torch.nn from their attributes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gruengine.converters.torch_layers import Layer, Overall, Window

Array = np.ndarray[Any, Any]

#: Class -> its module in torch.nn.modules.
WINDOWS: dict[str, str] = {
    "Conv1d": "conv",
    "Conv2d": "conv",
    **{f"{kind}Pool{n}d": "pooling" for kind in ("Max", "Avg") for n in (1, 2)},
    **{f"Adaptive{kind}Pool{n}d": "pooling" for kind in ("Max", "Avg") for n in (1, 2)},
    **{f"{kind}Pad{n}d": "padding" for kind in ("Constant", "Reflection", "Replication", "Zero")
       for n in (1, 2)},
}  # fmt: skip
_PAD_MODES = {"Reflection": "reflect", "Replication": "edge"}
MAX_WINDOW = 1 << 20


class WindowError(ValueError):
    """Attributes that are not run: what they are, and what is allowed."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what, why)
        self.what, self.why = what, why


def read_window(
    where: str, name: str, attrs: Mapping[str, Any], weight: Array | None, bias: Array | None
) -> Layer:
    """Return the layer of one module.

    Parameters
    ----------
    where : its path
    name : its class, ``"Conv1d"``
    attrs : its attributes
    weight, bias : of a convolution

    Raises
    ------
    WindowError
    """
    n = int(name[-2])
    if name.startswith("Conv") and weight is not None and "Pad" not in name:
        return _conv(where, n, attrs, weight, bias)
    if name.startswith("Adaptive"):
        if _numbers(attrs, "output_size", n, 1) != [1] * n:
            raise WindowError(f"output_size {attrs['output_size']!r:.40}", "1")
        _no_indices(attrs)
        return Overall(where, "ReduceMax" if "Max" in name else "ReduceMean", n)
    if "Pad" in name:
        mode = next((mode for key, mode in _PAD_MODES.items() if key in name), "constant")
        value = attrs.get("value", 0.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise WindowError(f"value {value!r:.40}", "a number")
        pads = _numbers(attrs, "padding", 2 * n, 0)
        return Window(where, "Pad", n, {}, None, None, _in_order(pads), mode, float(value))
    return _pool(where, name, n, attrs)


def _conv(where: str, n: int, attrs: Mapping[str, Any], weight: Array, bias: Array | None) -> Layer:
    kernel = [int(size) for size in weight.shape[2:]]
    group = attrs.get("groups", 1)
    if type(group) is not int or group < 1 or weight.shape[0] % group:
        raise WindowError(f"groups {group!r:.40}", "a divisor of the channels")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise WindowError(f"bias of shape {list(bias.shape)}", f"[{weight.shape[0]}]")
    seen = _numbers(attrs, "kernel_size", n, 0, kernel)
    if seen != kernel:
        raise WindowError(f"kernel_size {seen}", f"{kernel}, as its weights have")
    strides = _numbers(attrs, "stride", n, 1, [1] * n)
    dilations = _numbers(attrs, "dilation", n, 1, [1] * n)
    if attrs.get("padding") == "same":
        total = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
        pads = [t // 2 for t in total] + [t - t // 2 for t in total]
    elif attrs.get("padding") == "valid":
        pads = [0] * (2 * n)
    else:
        pads = _numbers(attrs, "padding", n, 0, [0] * n) * 2
    modes = {"zeros": "", "reflect": "reflect", "replicate": "edge"}
    mode = modes.get(str(attrs.get("padding_mode", "zeros")))
    if mode is None:
        raise WindowError(f"padding_mode {attrs['padding_mode']!r:.40}", ", ".join(modes))
    before = tuple(pads) if mode and any(pads) else ()
    values = {"strides": strides, "dilations": dilations, "group": group, "kernel_shape": kernel}
    values["pads"] = [0] * (2 * n) if before else pads
    return Window(where, "Conv", n, values, weight, bias, before, mode or "constant")


def _pool(where: str, name: str, n: int, attrs: Mapping[str, Any]) -> Layer:
    kernel = _numbers(attrs, "kernel_size", n, 1)
    given = attrs.get("stride")
    values: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": kernel if given is None else _numbers(attrs, "stride", n, 1),
        "pads": _numbers(attrs, "padding", n, 0, [0] * n) * 2,
    }
    if attrs.get("ceil_mode", False) is not False:
        raise WindowError(f"ceil_mode {attrs['ceil_mode']!r:.40}", "False")
    if "Max" in name:
        _no_indices(attrs)
        values["dilations"] = _numbers(attrs, "dilation", n, 1, [1] * n)
        return Window(where, "MaxPool", n, values)
    if attrs.get("divisor_override") is not None:
        raise WindowError(f"divisor_override {attrs['divisor_override']!r:.40}", "None")
    values["count_include_pad"] = int(attrs.get("count_include_pad", True) is True)
    return Window(where, "AveragePool", n, values)


def _no_indices(attrs: Mapping[str, Any]) -> None:
    if attrs.get("return_indices", False) is not False:
        raise WindowError("return_indices", "False: the values alone")


def _numbers(
    attrs: Mapping[str, Any], name: str, count: int, least: int, default: list[int] | None = None
) -> list[int]:
    """Return an attribute of one number or of ``count``."""
    value = attrs.get(name, default)
    values = list(value) if isinstance(value, (list, tuple)) else [value] * count
    if len(values) == 1:
        values *= count
    plain = all(type(one) is int and least <= one < MAX_WINDOW for one in values)
    if len(values) != count or not plain:
        raise WindowError(f"{name} {value!r:.40}", f"{count} numbers of at least {least}")
    return values


def _in_order(pads: list[int]) -> tuple[int, ...]:
    """Bring torch's pads, the last axis first, to all beginnings and then all ends."""
    n = len(pads) // 2
    begin = [pads[2 * (n - 1 - axis)] for axis in range(n)]
    return (*begin, *(pads[2 * (n - 1 - axis) + 1] for axis in range(n)))
