# SPDX-License-Identifier: MIT
"""Random layers of Keras: configuration, arrays, and what they compute in float64 NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fuzz.keras_cells import ACTIVATIONS, NEW, activate, elu, leaky, softmax

Array = np.ndarray[Any, Any]
Rng = np.random.Generator


@dataclass(frozen=True)
class Era:
    """The version that a file says it is from, and what depends on it.

    zeroes : a Bidirectional of sequences gives zeros for masked steps
    archive : a ``.keras`` archive, else HDF5
    """

    version: str
    zeroes: bool
    archive: bool

    @property
    def major(self) -> int:
        return int(self.version[0])

    def activations(self) -> list[str]:
        return [n for n in [*ACTIVATIONS, "hard_sigmoid"] if self.major >= 3 or n not in NEW]


@dataclass(frozen=True)
class Form:
    """What is known of a value: [N, time, size], or [N, size] where time is None.

    A time that is free is a name; equal names are equal times.
    """

    time: int | str | None
    size: int
    masked: bool = False


@dataclass(frozen=True)
class Value:
    """A value while the oracle runs, with its mask [N, T]."""

    x: Array
    mask: Array | None = None


Memory = dict[str, list[Array]]
Run = Callable[[list[Value], Memory], list[Value]]


@dataclass
class Weight:
    """One array of a layer: where Keras keeps it below the layer, and its name."""

    path: str
    name: str
    array: Array
    trainable: bool = True


@dataclass
class Made:
    """A layer; ``forms`` are those of its outputs."""

    kind: str
    config: dict[str, Any]
    forms: list[Form]
    run: Run
    weights: list[Weight] = field(default_factory=list)
    stateful: bool = False
    name: str = ""
    even: bool = True  # of a Bidirectional: both layers have as many states


def one_of(rng: Rng, *choices: Any) -> Any:
    """Return one of the choices."""
    return choices[int(rng.integers(len(choices)))]


def weights(rng: Rng, *shape: int) -> Array:
    """Return random values of a size that keeps sums near 1."""
    scale = 1.2 / max(shape[0], 1) ** 0.5 if len(shape) > 1 else 0.4
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def plain(function: Callable[[Array], Array]) -> Run:
    """Return a layer that is a function of the values and hands the mask on."""
    return lambda values, _: [replace(values[0], x=function(values[0].x))]


def dropped(function: Callable[[Array], Array]) -> Run:
    """Return a layer that loses the mask."""
    return lambda values, _: [Value(function(values[0].x))]


# -- layers that keep the time --------------------------------------------------------------------


def dense(rng: Rng, form: Form, era: Era) -> Made:
    units, bias = int(rng.integers(1, 7)), bool(rng.random() < 0.8)
    name = str(one_of(rng, "linear", *era.activations()))
    kernel, added = weights(rng, form.size, units), weights(rng, units)
    own: Any = name
    if era.major >= 3 and rng.random() < 0.1:
        own = {"module": "keras.layers", "class_name": "LeakyReLU", "registered_name": None,
               "config": {"name": "inner", "negative_slope": 0.15}}  # fmt: skip

    def run(x: Array) -> Array:
        y = x @ kernel.astype(np.float64) + (added if bias else 0)
        return activate(name, y, era.major) if own is name else leaky(y, 0.15)

    config = {"units": units, "use_bias": bias, "activation": own}
    found = [Weight("", "kernel", kernel)] + ([Weight("", "bias", added)] if bias else [])
    return Made("Dense", config, [replace(form, size=units)], plain(run), found)


def activation(rng: Rng, form: Form, era: Era) -> Made:
    """Return an activation, as a layer of that name or of its own."""
    old = era.major < 3
    kind = str(one_of(rng, "Activation", "Activation", "ReLU", "LeakyReLU", "ELU", "PReLU"))
    config: dict[str, Any] = {}
    found: list[Weight] = []
    if kind == "Activation":
        name = str(one_of(rng, *era.activations()))
        config, run = {"activation": name}, plain(lambda x: activate(name, x, era.major))
    elif kind == "ReLU":
        which = int(rng.integers(4))
        most, slope = (0.7 if which == 1 else None), (0.2 if which == 2 else 0.0)
        low = 0.25 if which == 3 else 0.0
        config = {"max_value": most, "negative_slope": slope, "threshold": low}

        def relu(x: Array) -> Array:
            y = np.where(x >= low, x, slope * (x - low))
            return np.minimum(y, np.inf if most is None else most)

        run = plain(relu)
    elif kind == "LeakyReLU":
        config = {"alpha" if old else "negative_slope": 0.3}
        run = plain(lambda x: leaky(x, 0.3))
    elif kind == "ELU":
        config, run = {"alpha": 0.7}, plain(lambda x: elu(x, 0.7))
    else:
        shared = None if form.time is None else [1]
        alpha = weights(rng, *((form.size,) if shared is None else (1, form.size)))
        config, found = {"shared_axes": shared}, [Weight("", "alpha", alpha)]
        run = plain(lambda x: np.where(x > 0, x, alpha * x))
    return Made(kind, config, [form], run, found)


def softmax_layer(rng: Rng, form: Form, era: Era) -> Made:
    if form.masked or form.time is None:
        return dense(rng, form, era)
    axis = int(one_of(rng, -1, 1, 2))
    return Made("Softmax", {"axis": axis}, [form], plain(lambda x: softmax(x, axis)))


def batch_norm(rng: Rng, form: Form, era: Era) -> Made:
    scale, center = bool(rng.random() < 0.8), bool(rng.random() < 0.8)
    epsilon, last = float(one_of(rng, 1e-3, 1e-5)), 1 if form.time is None else 2
    axis = [last] if era.major < 3 and rng.random() < 0.5 else int(one_of(rng, -1, last))
    gamma, beta = weights(rng, form.size) + np.float32(1), weights(rng, form.size)
    mean, var = weights(rng, form.size), np.abs(weights(rng, form.size)) + np.float32(0.3)

    def run(x: Array) -> Array:
        y = (x - mean) / np.sqrt(var.astype(np.float64) + epsilon)
        return y * (gamma if scale else 1) + (beta if center else 0)

    found = [Weight("", "gamma", gamma)] * scale + [Weight("", "beta", beta)] * center
    found += [
        Weight("", "moving_mean", mean, False), Weight("", "moving_variance", var, False),
    ]  # fmt: skip
    config = {"axis": axis, "epsilon": epsilon, "scale": scale, "center": center, "momentum": 0.9}
    return Made("BatchNormalization", config, [form], plain(run), found)


def layer_norm(rng: Rng, form: Form, era: Era) -> Made:
    scale, center = bool(rng.random() < 0.8), bool(rng.random() < 0.8)
    last = 1 if form.time is None else 2
    axis = [last] if rng.random() < 0.4 else -1
    gamma, beta = weights(rng, form.size) + np.float32(1), weights(rng, form.size)
    epsilon = float(one_of(rng, 1e-3, 1e-2))

    def run(x: Array) -> Array:
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
        return np.asarray(y * (gamma if scale else 1) + (beta if center else 0))

    found = [Weight("", "gamma", gamma)] * scale + [Weight("", "beta", beta)] * center
    config = {"axis": axis, "epsilon": epsilon, "scale": scale, "center": center}
    return Made("LayerNormalization", config, [form], plain(run), found)


def identity(rng: Rng, form: Form, era: Era) -> Made:
    names = ["Dropout", "GaussianNoise", "GaussianDropout"]
    names += ["SpatialDropout1D"] if form.time is not None else []
    kind = str(one_of(rng, *names))
    key = "stddev" if kind == "GaussianNoise" else "rate"
    return Made(kind, {key: 0.3}, [form], plain(lambda x: x))


def rescaling(rng: Rng, form: Form, era: Era) -> Made:
    if era.major < 3:
        return identity(rng, form, era)
    config = {"scale": 0.6, "offset": -0.1}
    return Made("Rescaling", config, [form], plain(lambda x: x * 0.6 - 0.1))


def distributed(rng: Rng, form: Form, era: Era) -> Made:
    """Return a layer for every step, which Keras says with TimeDistributed."""
    make = one_of(rng, dense, dense, activation, layer_norm, batch_norm)
    inner = make(rng, replace(form, time=None, masked=False), era)
    if inner.kind == "PReLU":
        inner = dense(rng, replace(form, time=None, masked=False), era)
    entry = {"class_name": inner.kind, "config": {"name": "inner", **inner.config}}
    found = [replace(one, path="layer") for one in inner.weights]
    out = replace(form, size=inner.forms[0].size)
    return Made("TimeDistributed", {"layer": entry}, [out], inner.run, found)


# -- layers that change it ------------------------------------------------------------------------


def padded(x: Array, before: int, after: int, value: float = 0.0) -> Array:
    return np.pad(x, ((0, 0), (before, after), (0, 0)), constant_values=value)


def same_pads(steps: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Return TensorFlow's padding: as little as needed, the odd one behind."""
    total = max((-(-steps // stride) - 1) * stride + (kernel - 1) * dilation + 1 - steps, 0)
    return total // 2, total - total // 2


def for_windows(x: Array, padding: str, kernel: int, stride: int, dilation: int) -> Array:
    """Return ``x`` with what the padding of a convolution adds."""
    if padding == "causal":
        return padded(x, (kernel - 1) * dilation, 0)
    if padding == "same":
        return padded(x, *same_pads(x.shape[1], kernel, stride, dilation))
    return x


def conv(rng: Rng, form: Form, era: Era) -> Made:
    """Return a convolution over time; its windows are summed one by one."""
    kernel, filters = int(rng.integers(1, 4)), 2 * int(rng.integers(1, 4))
    padding = str(one_of(rng, "valid", "same", "causal"))
    stride, dilation = (int(one_of(rng, 1, 2)), 1) if rng.random() < 0.5 else (1, 2)
    groups = 2 if form.size % 2 == 0 and rng.random() < 0.2 else 1
    bias, name = bool(rng.random() < 0.8), str(one_of(rng, "linear", "relu", "tanh"))
    w = weights(rng, kernel, form.size // groups, filters)
    added = weights(rng, filters)

    def run(x: Array) -> Array:
        reach = (kernel - 1) * dilation
        x = for_windows(x, padding, kernel, stride, dilation)
        outs = []
        for t in range(0, x.shape[1] - reach, stride):
            parts = []
            for g in range(groups):
                mine = slice(g * filters // groups, (g + 1) * filters // groups)
                rows = slice(g * form.size // groups, (g + 1) * form.size // groups)
                taps = [x[:, t + k * dilation, rows] @ w[k, :, mine] for k in range(kernel)]
                parts.append(np.sum(taps, 0))
            outs.append(np.concatenate(parts, -1))
        return activate(name, np.stack(outs, 1) + (added if bias else 0), era.major)

    config = {"filters": filters, "kernel_size": [kernel], "strides": [stride], "groups": groups,
              "dilation_rate": [dilation], "padding": padding, "use_bias": bias,
              "activation": name, "data_format": "channels_last"}  # fmt: skip
    keeps = stride == 1 and (padding != "valid" or kernel == 1)
    time = form.time if keeps else _time(form.time, padding, (kernel - 1) * dilation, stride)
    found = [Weight("", "kernel", w)] + ([Weight("", "bias", added)] if bias else [])
    return Made("Conv1D", config, [Form(time, filters)], dropped(run), found)


def _time(time: int | str | None, padding: str, reach: int, stride: int) -> int | str:
    if isinstance(time, int):
        return -(-(time - (reach if padding == "valid" else 0)) // stride)
    return f"{time}/{padding}{reach}/{stride}"


def pool(rng: Rng, form: Form, era: Era) -> Made:
    most = bool(rng.random() < 0.5)
    size, padding = int(rng.integers(1, 4)), str(one_of(rng, "valid", "same"))
    stride = int(one_of(rng, 1, 2, size))

    def run(x: Array) -> Array:
        real = np.ones_like(x[:, :, :1])
        if padding == "same":
            pads = same_pads(x.shape[1], size, stride)
            x, real = padded(x, *pads, -np.inf if most else 0.0), padded(real, *pads)
        outs = []
        for t in range(0, x.shape[1] - size + 1, stride):
            seen = x[:, t : t + size]
            mean = seen.sum(1) / real[:, t : t + size].sum(1)  # padding is not counted
            outs.append(seen.max(1) if most else mean)
        return np.stack(outs, 1)

    kind = "MaxPooling1D" if most else "AveragePooling1D"
    config = {"pool_size": [size], "strides": [stride], "padding": padding}
    config["data_format"] = "channels_last"
    out = Form(_time(form.time, padding, size - 1, stride), form.size)
    return Made(kind, config, [out], dropped(run))


def global_pool(rng: Rng, form: Form, era: Era) -> Made:
    most = bool(rng.random() < 0.4)

    def run(values: list[Value], _: Memory) -> list[Value]:
        x, mask = values[0].x, values[0].mask
        if most:
            return [Value(x.max(1))]
        if mask is None:
            return [Value(x.mean(1))]
        kept = mask[:, :, None].astype(np.float64)
        return [Value((x * kept).sum(1) / kept.sum(1))]

    kind = "GlobalMaxPooling1D" if most else "GlobalAveragePooling1D"
    return Made(kind, {"data_format": "channels_last"}, [Form(None, form.size)], run)


def moved(rng: Rng, form: Form, era: Era) -> Made:
    """Return a layer that pads, cuts, turns, flattens or reshapes."""
    fixed = form.time if isinstance(form.time, int) else 0
    kind = str(one_of(rng, "ZeroPadding1D", "Cropping1D", "Reshape", "Permute", "Flatten"))
    one, two = int(rng.integers(0, 3)), int(rng.integers(0, 2))
    if kind == "ZeroPadding1D" or (not fixed and kind not in ("Reshape",)):
        time: Any = fixed + one + two if fixed else f"{form.time}+{one},{two}"
        run = dropped(lambda x: padded(x, one, two))
        return Made("ZeroPadding1D", {"padding": [one, two]}, [Form(time, form.size)], run)
    if kind == "Cropping1D" and fixed > one + two:
        run = dropped(lambda x: x[:, one : x.shape[1] - two])
        return Made(kind, {"cropping": [one, two]}, [Form(fixed - one - two, form.size)], run)
    if kind == "Permute" and fixed:
        turned = dropped(lambda x: x.transpose(0, 2, 1))
        return Made(kind, {"dims": [2, 1]}, [Form(form.size, fixed)], turned)
    if kind == "Flatten" and fixed:
        flat = dropped(lambda x: x.reshape(len(x), -1))
        return Made(kind, {"data_format": "channels_last"}, [Form(None, fixed * form.size)], flat)
    same = dropped(lambda x: x)
    return Made("Reshape", {"target_shape": [-1, form.size]}, [replace(form, masked=False)], same)


def repeat(rng: Rng, form: Form, era: Era) -> Made:
    count = int(rng.integers(2, 5))
    run = dropped(lambda x: np.repeat(x[:, None], count, 1))
    return Made("RepeatVector", {"n": count}, [Form(count, form.size)], run)


def embedding(rng: Rng, rows: int, time: int | str, masks: bool) -> Made:
    size = int(rng.integers(2, 6))
    table = weights(rng, rows, size) * np.float32(2)

    def run(values: list[Value], _: Memory) -> list[Value]:
        ids = values[0].x
        return [Value(table[ids].astype(np.float64), ids != 0 if masks else None)]

    config = {"input_dim": rows, "output_dim": size, "mask_zero": masks}
    out = Form(time, size, masks)
    return Made("Embedding", config, [out], run, [Weight("", "embeddings", table)])


def masking(form: Form, value: float) -> Made:
    def run(values: list[Value], _: Memory) -> list[Value]:
        x = values[0].x
        mask = (x != value).any(-1)
        return [Value(np.where(mask[:, :, None], x, 0), mask)]

    return Made("Masking", {"mask_value": value}, [replace(form, masked=True)], run)


KEEPING = (dense, activation, softmax_layer, batch_norm, layer_norm, identity, rescaling)
