# SPDX-License-Identifier: MIT
"""Random layers of Keras along time that are rarer: other convolutions, UpSampling, group norms."""

from __future__ import annotations

from typing import Any

import numpy as np

from fuzz.keras_blocks import (
    Array,
    Era,
    Form,
    Made,
    Rng,
    Weight,
    dropped,
    for_windows,
    one_of,
    plain,
    weights,
)
from fuzz.keras_cells import activate


def _time(time: int | str | None, steps: int, what: str) -> int | str:
    return steps if isinstance(time, int) else f"{time}/{what}"


def by_itself(rng: Rng, form: Form, era: Era) -> Made:
    """Return a convolution of each feature, and perhaps a mixing product after it."""
    kernel, count = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    separable, bias = bool(rng.random() < 0.5), bool(rng.random() < 0.8)
    paddings = ["valid", "same"] + (["causal"] if separable and era.major < 3 else [])
    padding = str(one_of(rng, *paddings))
    stride, dilation = (int(one_of(rng, 1, 2)), 1) if rng.random() < 0.6 else (1, 2)
    w = weights(rng, kernel, form.size, count)
    wide, filters = form.size * count, int(rng.integers(1, 6))
    mixing, size = weights(rng, 1, wide, filters), filters if separable else wide
    added, name = weights(rng, size), str(one_of(rng, "linear", "tanh"))
    reach = (kernel - 1) * dilation

    def run(x: Array) -> Array:
        x = for_windows(x, padding, kernel, stride, dilation)
        outs = []
        for t in range(0, x.shape[1] - reach, stride):
            taps = [x[:, t + k * dilation, :, None] * w[k].astype(np.float64)
                    for k in range(kernel)]  # fmt: skip
            outs.append(np.sum(taps, 0).reshape(len(x), -1))
        y = np.stack(outs, 1)
        y = y @ mixing[0] if separable else y
        return activate(name, y + (added if bias else 0), era.major)

    config: dict[str, Any] = {
        "kernel_size": [kernel], "strides": [stride], "dilation_rate": [dilation],
        "padding": padding, "depth_multiplier": count, "use_bias": bias, "activation": name,
        "data_format": "channels_last",
    }  # fmt: skip
    own = "depthwise_kernel" if separable or era.major < 3 else "kernel"
    found = [Weight("", own, w)]
    if separable:
        config |= {"filters": filters, "groups": 1}
        found.append(Weight("", "pointwise_kernel", mixing))
    found += [Weight("", "bias", added)] if bias else []
    kind = "SeparableConv1D" if separable else "DepthwiseConv1D"
    if stride == 1 and (padding != "valid" or reach == 0):
        time = form.time
    else:
        steps = form.time if isinstance(form.time, int) else 0
        left = -(-(steps - (reach if padding == "valid" else 0)) // stride)
        time = _time(form.time, left, f"{padding}{reach}/{stride}")
    return Made(kind, config, [Form(time, size)], dropped(run), found)


def transposed(rng: Rng, form: Form, era: Era) -> Made:
    """Return a transposed convolution."""
    kernel, filters = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    stride, dilation = (int(one_of(rng, 1, 2, 3)), 1) if rng.random() < 0.7 else (1, 2)
    padding, bias = str(one_of(rng, "valid", "same")), bool(rng.random() < 0.8)
    w, added = weights(rng, kernel, filters, form.size), weights(rng, filters)
    reach = (kernel - 1) * dilation + 1
    cut = max(reach - stride, 0) if padding == "same" else 0

    def run(x: Array) -> Array:
        n, t = x.shape[:2]
        y = np.zeros((n, (t - 1) * stride + max(reach, stride), filters))
        for i in range(t):
            for k in range(kernel):
                y[:, i * stride + k * dilation] += x[:, i] @ w[k].T.astype(np.float64)
        y = y[:, cut // 2 : y.shape[1] - (cut - cut // 2)]
        return np.maximum(y + (added if bias else 0), 0)

    config = {"filters": filters, "kernel_size": [kernel], "strides": [stride], "padding": padding,
              "dilation_rate": [dilation], "use_bias": bias, "activation": "relu",
              "output_padding": None, "data_format": "channels_last"}  # fmt: skip
    steps = form.time if isinstance(form.time, int) else 0
    steps = (steps - 1) * stride + max(reach, stride) - cut
    time = form.time if stride == 1 and cut == reach - 1 else None
    time = _time(form.time, steps, f"up{stride},{reach},{cut}") if time is None else time
    found = [Weight("", "kernel", w)] + ([Weight("", "bias", added)] if bias else [])
    return Made("Conv1DTranspose", config, [Form(time, filters)], dropped(run), found)


def repeated(rng: Rng, form: Form, era: Era) -> Made:
    """Return an UpSampling1D."""
    count = int(rng.integers(1, 4))
    steps = form.time * count if isinstance(form.time, int) else 0
    time = (
        form.time if count == 1 and form.time is not None else _time(form.time, steps, f"x{count}")
    )
    run = dropped(lambda x: np.repeat(x, count, 1))
    return Made("UpSampling1D", {"size": count}, [Form(time, form.size)], run)


def group_norm(rng: Rng, form: Form, era: Era) -> Made:
    """Return a norm over all steps and groups of features."""
    groups = int(one_of(rng, *(n for n in range(1, form.size + 1) if form.size % n == 0), -1))
    scale, center = bool(rng.random() < 0.8), bool(rng.random() < 0.8)
    gamma, beta = weights(rng, form.size) + np.float32(1), weights(rng, form.size)
    epsilon = float(one_of(rng, 1e-3, 1e-2))

    def run(x: Array) -> Array:
        parts = x.reshape(*x.shape[:-1], form.size if groups == -1 else groups, -1)
        axes = tuple(axis for axis in range(1, parts.ndim) if axis != parts.ndim - 2)
        parts = parts - parts.mean(axes, keepdims=True)
        y = (parts / np.sqrt((parts**2).mean(axes, keepdims=True) + epsilon)).reshape(x.shape)
        return np.asarray(y * (gamma if scale else 1) + (beta if center else 0))

    found = [Weight("", "gamma", gamma)] * scale + [Weight("", "beta", beta)] * center
    config = {"groups": groups, "axis": -1, "epsilon": epsilon, "scale": scale, "center": center}
    return Made("GroupNormalization", config, [form], plain(run), found)


ALL = (by_itself, by_itself, transposed, repeated, group_norm)
