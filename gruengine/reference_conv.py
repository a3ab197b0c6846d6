# SPDX-License-Identifier: MIT
"""Convolutions and pools over any number of axes. Definitions: the ONNX operators of that name."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gruengine.reference_ops import Array, check_size, register


@dataclass(frozen=True)
class Window:
    """How a kernel moves over each spatial axis: all lists have one number an axis."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    before: list[int]
    after: list[int]
    out: list[int]

    def padded(self, x: Array, fill: float) -> Array:
        """Return ``x`` [N, C, ...] with the pads, and whatever the last windows need past them."""
        widths = [(0, 0), (0, 0)]
        for i, size in enumerate(x.shape[2:]):
            reach = (self.out[i] - 1) * self.strides[i] + self.extent(i)
            widths.append((self.before[i], max(self.after[i], reach - size - self.before[i], 0)))
        check_size([s + b + a for s, (b, a) in zip(x.shape, widths, strict=True)])
        return np.pad(x, widths, constant_values=fill)

    def extent(self, i: int) -> int:
        """Return the inputs from the first to the last that the kernel covers on axis ``i``."""
        return (self.kernel[i] - 1) * self.dilations[i] + 1

    def views(self, padded: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
        """Yield each position in the kernel with what stands there: [N, C, out...]."""
        for offset in itertools.product(*(range(k) for k in self.kernel)):
            index = [slice(None), slice(None)]
            for i, o in enumerate(offset):
                start, step = o * self.dilations[i], self.strides[i]
                index.append(slice(start, start + (self.out[i] - 1) * step + 1, step))
            yield offset, padded[tuple(index)]


def window(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int] | None,
    dilations: Sequence[int] | None,
    pads: Sequence[int] | None,
    auto_pad: str,
    ceil_mode: int = 0,
) -> Window:
    """Resolve the attributes of a convolution or pool over ``x`` [N, C, ...].

    With ``ceil_mode`` a last window may reach past the pads, but not begin there.
    """
    n = x.ndim - 2
    step, by = list(strides or [1] * n), list(dilations or [1] * n)
    pad = list(pads or [0] * 2 * n)
    if not len(kernel) == len(step) == len(by) == n or len(pad) != 2 * n or n < 1:
        raise ValueError(
            f"kernel {list(kernel)}, strides {step}, dilations {by}, pads {pad} "
            f"do not fit x of shape {x.shape}"
        )
    if min(*kernel, *step, *by) < 1 or min(pad) < 0:
        raise ValueError(f"kernel {list(kernel)}, strides {step}, dilations {by}, pads {pad}")
    if auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"auto_pad is {auto_pad!r}")
    before: list[int] = []
    after: list[int] = []
    out: list[int] = []
    for i, size in enumerate(x.shape[2:]):
        extent = (kernel[i] - 1) * by[i] + 1
        b, a = (0, 0) if auto_pad == "VALID" else (pad[i], pad[n + i])
        if auto_pad.startswith("SAME"):
            total = max((-(-size // step[i]) - 1) * step[i] + extent - size, 0)
            small, large = total // 2, total - total // 2
            b, a = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
        room = size + b + a - extent
        count = (-(-room // step[i]) if ceil_mode else room // step[i]) + 1
        if ceil_mode and (count - 1) * step[i] >= size + b:
            count -= 1
        if count < 1:
            raise ValueError(f"a kernel that covers {extent} does not fit {size + b + a} inputs")
        before.append(b)
        after.append(a)
        out.append(count)
    padded = [s + b + a for s, b, a in zip(x.shape[2:], before, after, strict=True)]
    check_size([*x.shape[:2], *padded])
    return Window(list(kernel), step, by, before, after, out)


@register("Conv")
def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    /,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Array:
    """Correlate ``x`` [N, C, ...] with ``weight`` [M, C / group, ...]: [N, M, ...]."""
    kernel = weight.shape[2:]
    N, C, M = *x.shape[:2], weight.shape[0]
    if group < 1 or weight.shape[1] * group != C or M % group or weight.ndim != x.ndim:
        raise ValueError(f"x {x.shape} and weight {weight.shape} do not fit {group} groups")
    if kernel_shape is not None and tuple(kernel_shape) != kernel:
        raise ValueError(f"kernel_shape is {kernel_shape}; the weight has {kernel}")
    w = window(x, kernel, strides, dilations, pads, auto_pad)
    check_size([N, M, *w.out])
    rows = weight.reshape(group, M // group, C // group, *kernel)
    y = np.zeros((N, group, M // group, *w.out), x.dtype)
    for offset, view in w.views(w.padded(x, 0)):
        place: tuple[Any, ...] = (..., *offset)
        groups = view.reshape(N, group, C // group, *w.out)
        y += np.einsum("gmc,ngc...->ngm...", rows[place], groups)
    y = y.reshape(N, M, *w.out)
    return y if bias is None else y + bias.reshape(M, *[1] * len(kernel))


@register("ConvTranspose")
def conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    /,
    *,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Array:
    """Spread ``x`` [N, C, ...] by ``weight`` [C, M / group, ...]: [N, M, ...], pads cut off."""
    kernel, n = weight.shape[2:], x.ndim - 2
    step, by = list(strides or [1] * n), list(dilations or [1] * n)
    pad, extra = list(pads or [0] * 2 * n), list(output_padding or [0] * n)
    N, C, M = *x.shape[:2], weight.shape[1] * group
    if group < 1 or weight.shape[0] != C or C % group or weight.ndim != x.ndim or n < 1:
        raise ValueError(f"x {x.shape} and weight {weight.shape} do not fit {group} groups")
    if kernel_shape is not None and tuple(kernel_shape) != kernel:
        raise ValueError(f"kernel_shape is {kernel_shape}; the weight has {kernel}")
    fits = len(step) == len(by) == len(extra) == n and len(pad) == 2 * n
    if not fits or min(*kernel, *step, *by) < 1 or min(*pad, *extra) < 0:
        raise ValueError(
            f"kernel {kernel}, strides {step}, dilations {by}, pads {pad}, output_padding {extra}"
        )
    if any(e >= max(s, d) for e, s, d in zip(extra, step, by, strict=True)):
        raise ValueError(f"output_padding is {extra}; it must be less than a stride or dilation")
    whole = [
        (size - 1) * s + (k - 1) * d + 1 + e
        for size, s, k, d, e in zip(x.shape[2:], step, kernel, by, extra, strict=True)
    ]
    check_size([N, M, *whole])
    groups = x.reshape(N, group, C // group, *x.shape[2:])
    rows = weight.reshape(group, C // group, M // group, *kernel)
    y = np.zeros((N, group, M // group, *whole), x.dtype)
    for offset in itertools.product(*(range(k) for k in kernel)):
        index: list[slice] = [slice(None)] * 3
        for i, o in enumerate(offset):
            start = o * by[i]
            index.append(slice(start, start + (x.shape[i + 2] - 1) * step[i] + 1, step[i]))
        place: tuple[Any, ...] = (..., *offset)
        y[tuple(index)] += np.einsum("gcm,ngc...->ngm...", rows[place], groups)
    cut = [slice(pad[i], whole[i] - pad[n + i]) for i in range(n)]
    if any(s.stop < s.start for s in cut):
        raise ValueError(f"pads {pad} leave less than nothing of {whole}")
    inside = (slice(None), slice(None), *cut)
    y = y.reshape(N, M, *whole)[inside]
    return y if bias is None else y + bias.reshape(M, *[1] * n)


@register("MaxPool")
def max_pool(
    x: Array,
    /,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
) -> Array:
    """Return the largest element of each window of ``x`` [N, C, ...]; no indices."""
    w = window(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    y = np.full((*x.shape[:2], *w.out), -np.inf, x.dtype)
    for _, view in w.views(w.padded(x, -np.inf)):
        y = np.maximum(y, view)
    return y


@register("AveragePool")
def average_pool(
    x: Array,
    /,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Array:
    """Return the mean of each window of ``x`` [N, C, ...], of its pads too if asked."""
    w = window(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    edges = [(0, 0), (0, 0), *zip(w.before, w.after, strict=True)]
    counted = np.pad(np.ones_like(x), edges, constant_values=int(bool(count_include_pad)))
    none = [0] * len(w.out)
    bare = replace(w, before=none, after=none)
    total = sum(view for _, view in bare.views(bare.padded(np.pad(x, edges), 0)))
    return np.asarray(total / sum(view for _, view in bare.views(bare.padded(counted, 0))))


@register("GlobalAveragePool")
def global_average_pool(x: Array, /) -> Array:
    """Return the mean of ``x`` [N, C, ...] over all but the first two axes, kept as 1."""
    if x.ndim < 3:
        raise ValueError(f"x has shape {x.shape}; it must be [N, C, ...]")
    return np.asarray(np.mean(x, tuple(range(2, x.ndim)), keepdims=True))
