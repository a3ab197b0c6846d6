# SPDX-License-Identifier: MIT
"""Trees of torch.nn modules, live or pickled, as a chain of layers.

Both are first seen as ``ModuleView``: the class by name, plain attributes, arrays, children. One
table says what each class means; a class outside it is refused with its path.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gruengine.converters.base import Options, Reason
from gruengine.converters.torch_chain import check
from gruengine.converters.torch_layers import (
    Activation,
    Cell,
    Embedding,
    Flatten,
    Layer,
    Linear,
    Norm,
    Rnn,
    Slope,
)
from gruengine.converters.torch_rnn import read_direction
from gruengine.converters.torch_rnn import read_layers as read_rnn
from gruengine.converters.torch_state import batch_norm
from gruengine.converters.torch_weights import Weights
from gruengine.converters.torch_windows import WINDOWS, WindowError, read_window

Array = np.ndarray[Any, Any]


@dataclass
class ModuleView:
    """A module without its code.

    kind : class with its module, ``"torch.nn.modules.rnn.LSTM"``
    path : name inside the model, ``"encoder.0"``; empty for the model itself
    problems : what makes it something else than its class, e.g. a hook
    """

    kind: str
    path: str
    attrs: Mapping[str, Any]
    arrays: dict[str, Array]
    children: list[ModuleView] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Class without its module."""
        return self.kind.rpartition(".")[2]


def read_tree(
    view: ModuleView, options: Options, reasons: list[Reason], warnings: list[str]
) -> list[Layer]:
    """Return the layers of a module; reasons and warnings are added."""
    reader = _TreeReader(options, reasons, warnings)
    return check(reader.layers(view), reader.softmaxes, reasons)


class _TreeReader:
    def __init__(self, options: Options, reasons: list[Reason], warnings: list[str]) -> None:
        self.options = options
        self.reasons = reasons
        self.warnings = warnings
        self.softmaxes: list[tuple[Activation, Any]] = []

    def refuse(self, view: ModuleView, what: str, why: str) -> None:
        """Add a reason at a module."""
        self.reasons.append(Reason(view.path, what, why))

    def layers(self, view: ModuleView) -> list[Layer]:
        """Return the layers of a module and of those inside it."""
        for problem in view.problems:
            self.refuse(view, problem, "a module as torch.nn made it")
        if view.kind == "torch.nn.modules.container.Sequential":
            return [layer for child in view.children for layer in self.layers(child)]
        if view.kind in _SKIPPED:
            if view.attrs.get("training") is True and "Dropout" in view.name and not self.warnings:
                self.warnings.append(_TRAINING)
            return []
        reader = _READERS.get(view.kind)
        if reader is None:
            self.refuse(
                view,
                f"module of class {view.kind}",
                "known are Sequential and the recurrent modules, cells, Embedding, Linear, norms, "
                "convolutions, pools and activations of torch.nn; give the live module and "
                "example_inputs to from_torch, export it to ONNX, or convert its state_dict with "
                "hints",
            )
            return []
        weights = Weights(
            {f"{view.path}.{name}" if view.path else name: a for name, a in view.arrays.items()},
            self.options,
            self.reasons,
        )
        layer = reader(self, view, weights)
        return [] if layer is None else [layer]


_TRAINING = "the module is in training mode: it was converted as after model.eval()"


# -- readers of single modules --------------------------------------------------------------------


def _rnn(reader: _TreeReader, view: ModuleView, weights: Weights) -> Layer | None:
    mode = str(view.attrs.get("mode", view.name))
    cell = _MODES.get(mode)
    if cell is None:
        reader.refuse(view, f"mode {mode!r}", f"one of {', '.join(_MODES)}")
        return None
    before = len(weights.reasons)
    layers = read_rnn(weights, view.path, list(weights.arrays), cell)
    if layers is None:
        if len(weights.reasons) == before:
            reader.refuse(view, "incomplete weights", "those of its class")
        return None
    first = layers[0][0]
    seen = {
        "hidden_size": first.R.shape[0] // _GATE_COUNT[cell],
        "input_size": first.W.shape[1],
        "num_layers": len(layers),
        "bidirectional": len(layers[0]) == 2,
        "bias": first.b_ih is not None,
        "proj_size": 0 if first.projection is None else first.R.shape[1],
    }
    for name, value in seen.items():
        if view.attrs.get(name, value) != value:
            reader.refuse(view, f"{name} {view.attrs[name]!r}", f"{value!r}, as its weights have")
    batch_first = view.attrs.get("batch_first", False)
    if not isinstance(batch_first, bool):
        reader.refuse(view, f"batch_first {batch_first!r}", "True or False")
    dropout = view.attrs.get("dropout", 0)
    if view.attrs.get("training") is True and dropout and not reader.warnings:
        reader.warnings.append(_TRAINING)
    activation = "Relu" if mode == "RNN_RELU" else "Tanh"
    return Rnn(view.path, cell, layers, batch_first is True, activation)


def _cell(reader: _TreeReader, view: ModuleView, weights: Weights) -> Layer | None:
    cell = view.name[: -len("Cell")].lower()
    activation = {"tanh": "Tanh", "relu": "Relu"}.get(str(view.attrs.get("nonlinearity", "tanh")))
    if activation is None:
        reader.refuse(view, f"nonlinearity {view.attrs['nonlinearity']!r}", "'tanh' or 'relu'")
        return None
    parts = {name.rpartition(".")[2]: name for name in weights.arrays}
    if not set(parts) <= {"weight_ih", "weight_hh", "bias_ih", "bias_hh"} or not parts:
        reader.refuse(view, f"the weights {', '.join(parts)}", "those of its class")
        return None
    direction = read_direction(weights, cell, parts, None)
    if direction is None:
        return None
    return Cell(view.path, cell, direction, activation)


def _array(
    reader: _TreeReader, view: ModuleView, weights: Weights, name: str, rank: int
) -> Array | None:
    """Return one array in float32, None if it is absent; a wrong rank is refused."""
    full = f"{view.path}.{name}" if view.path else name
    if full not in weights.arrays:
        return None
    if weights.arrays[full].ndim != rank or weights.arrays[full].size == 0:
        reader.refuse(view, f"{name} of shape {list(weights.arrays[full].shape)}", f"rank {rank}")
        return None
    return weights.floats(full)


def _needed(
    reader: _TreeReader, view: ModuleView, weights: Weights, name: str, rank: int
) -> Array | None:
    before = len(reader.reasons)
    array = _array(reader, view, weights, name, rank)
    if array is None and len(reader.reasons) == before:
        reader.refuse(view, f"no {name}", "the weights of its class")
    return array


def _only(reader: _TreeReader, view: ModuleView, weights: Weights, names: set[str]) -> None:
    for full in weights.arrays:
        name = full[len(view.path) + 1 :] if view.path else full
        if name not in names:
            reader.refuse(view, f"an array {name!r}", f"{', '.join(sorted(names))}")


def _embedding(reader: _TreeReader, view: ModuleView, weights: Weights) -> Layer | None:
    _only(reader, view, weights, {"weight"})
    if view.attrs.get("max_norm") is not None:
        reader.refuse(view, f"max_norm {view.attrs['max_norm']!r}", "None: it changes the weights")
    weight = _needed(reader, view, weights, "weight", 2)
    return None if weight is None else Embedding(view.path, weight)


def _linear(reader: _TreeReader, view: ModuleView, weights: Weights) -> Layer | None:
    _only(reader, view, weights, {"weight", "bias"})
    weight = _needed(reader, view, weights, "weight", 2)
    bias = _array(reader, view, weights, "bias", 1)
    if weight is None:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        reader.refuse(view, f"bias of shape {list(bias.shape)}", f"[{weight.shape[0]}]")
    return Linear(view.path, weight, bias)


def _float(reader: _TreeReader, view: ModuleView, name: str, default: float) -> float:
    value = view.attrs.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e30:
        reader.refuse(view, f"{name} {value!r}", "a finite number")
        return default
    return float(value)


def _layer_norm(reader: _TreeReader, view: ModuleView, weights: Weights) -> Layer | None:
    _only(reader, view, weights, {"weight", "bias"})
    shape = view.attrs.get("normalized_shape")
    values = list(shape) if isinstance(shape, (list, tuple)) else []
    if len(values) != 1 or type(values[0]) is not int or not 0 < values[0] < 1 << 24:
        reader.refuse(view, f"normalized_shape {shape!r:.80}", "the last axis alone")
        return None
    scale = _array(reader, view, weights, "weight", 1)
    bias = _array(reader, view, weights, "bias", 1)
    if any(array is not None and array.shape != (values[0],) for array in (scale, bias)):
        reader.refuse(view, "weights of another size", f"[{values[0]}]")
        return None
    scale = np.ones(values[0], np.float32) if scale is None else scale
    return Norm(view.path, scale, bias, _float(reader, view, "eps", 1e-5))


def _batch_norm(reader: _TreeReader, view: ModuleView, weights: Weights) -> Layer | None:
    names = ("running_mean", "running_var", "weight", "bias")
    _only(reader, view, weights, {*names, "num_batches_tracked"})
    if not {"running_mean", "running_var"} <= set(view.arrays):
        reader.refuse(view, "no running statistics", "track_running_stats=True")
        return None
    values = {
        name: _needed(reader, view, weights, name, 1) for name in names if name in view.arrays
    }
    found = {name: array.astype(np.float64) for name, array in values.items() if array is not None}
    if len(found) < len(values) or len({array.shape for array in found.values()}) > 1:
        reader.refuse(view, "weights of different sizes", "[F] each")
        return None
    return batch_norm(view.path, found, _float(reader, view, "eps", 1e-5))


def _flatten(reader: _TreeReader, view: ModuleView, weights: Weights) -> Layer | None:
    start, end = view.attrs.get("start_dim", 1), view.attrs.get("end_dim", -1)
    if type(start) is not int or type(end) is not int or not -4 <= start <= 4 or not -4 <= end <= 4:
        reader.refuse(view, f"Flatten from {start!r:.40} to {end!r:.40}", "axes of the input")
        return None
    return Flatten(view.path, start, end)


def _prelu(reader: _TreeReader, view: ModuleView, weights: Weights) -> Layer | None:
    _only(reader, view, weights, {"weight"})
    weight = _needed(reader, view, weights, "weight", 1)
    return None if weight is None else Slope(view.path, weight)


def _clip(reader: _TreeReader, view: ModuleView, weights: Weights) -> Layer | None:
    low, high = 0.0, 6.0
    if view.name == "Hardtanh":
        low = _float(reader, view, "min_val", -1.0)
        high = _float(reader, view, "max_val", 1.0)
    return Activation(view.path, "Clip", {"min": low, "max": high})


def _window(reader: _TreeReader, view: ModuleView, weights: Weights) -> Layer | None:
    _only(reader, view, weights, {"weight", "bias"} if view.name.startswith("Conv") else set())
    try:
        if not view.name.startswith("Conv"):
            return read_window(view.path, view.name, view.attrs, None, None)
        n = int(view.name[4])
        weight = _needed(reader, view, weights, "weight", n + 2)
        bias = _array(reader, view, weights, "bias", 1)
        if weight is None:
            return None
        return read_window(view.path, view.name, view.attrs, weight, bias)
    except WindowError as error:
        reader.refuse(view, error.what, error.why)
        return None


def _activation(reader: _TreeReader, view: ModuleView, weights: Weights) -> Layer | None:
    _only(reader, view, weights, set())
    op, name, default = _ACTIVATIONS[view.name]
    attrs: dict[str, Any] = {}
    if op == "HardSigmoid":
        attrs = {"alpha": 1 / 6, "beta": 0.5}
    elif name:
        attrs = {"alpha": _float(reader, view, name, default)}
    if op == "Softplus":
        attrs = {"beta": _float(reader, view, "beta", 1.0)}
        # From 20 on, x and log(1 + exp(x)) are the same float32.
        if _float(reader, view, "threshold", 20.0) < 20 or attrs["beta"] <= 0:
            reader.refuse(view, "Softplus parameters", "beta > 0 and threshold >= 20")
    if op == "Gelu":
        attrs = {"approximate": str(view.attrs.get("approximate", "none"))}
        if attrs["approximate"] not in ("none", "tanh"):
            reader.refuse(view, f"approximate {attrs['approximate']!r:.40}", "'none' or 'tanh'")
    return Activation(view.path, op, attrs)


def _softmax(reader: _TreeReader, view: ModuleView, weights: Weights) -> Layer | None:
    layer = Activation(view.path, view.name, {"axis": -1})
    reader.softmaxes.append((layer, view.attrs.get("dim")))
    return layer


_MODES = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "rnn", "RNN_RELU": "rnn"}
_GATE_COUNT = {"rnn": 1, "gru": 3, "lstm": 4}

#: Class -> operator, the attribute that is its alpha, that attribute's default.
_ACTIVATIONS: dict[str, tuple[str, str, float]] = {
    "ReLU": ("Relu", "", 0.0),
    "Tanh": ("Tanh", "", 0.0),
    "Sigmoid": ("Sigmoid", "", 0.0),
    "LeakyReLU": ("LeakyRelu", "negative_slope", 0.01),
    "ELU": ("Elu", "alpha", 1.0),
    "Hardsigmoid": ("HardSigmoid", "", 0.0),
    "Softplus": ("Softplus", "", 0.0),
    "Softsign": ("Softsign", "", 0.0),
    "GELU": ("Gelu", "", 0.0),
    "SiLU": ("Silu", "", 0.0),
    "Mish": ("Mish", "", 0.0),
    "Hardswish": ("HardSwish", "", 0.0),
    "LogSigmoid": ("LogSigmoid", "", 0.0),
    "Tanhshrink": ("Tanhshrink", "", 0.0),
    "SELU": ("Selu", "", 0.0),
    "CELU": ("Celu", "alpha", 1.0),
}

_Reader = Callable[[_TreeReader, ModuleView, Weights], "Layer | None"]
_READERS: dict[str, _Reader] = {
    **{f"torch.nn.modules.rnn.{name}": _rnn for name in ("RNN", "LSTM", "GRU")},
    **{f"torch.nn.modules.rnn.{name}Cell": _cell for name in ("RNN", "LSTM", "GRU")},
    "torch.nn.modules.sparse.Embedding": _embedding,
    "torch.nn.modules.linear.Linear": _linear,
    "torch.nn.modules.normalization.LayerNorm": _layer_norm,
    **{f"torch.nn.modules.batchnorm.BatchNorm{n}d": _batch_norm for n in (1, 2)},
    "torch.nn.modules.flatten.Flatten": _flatten,
    **{f"torch.nn.modules.{place}.{name}": _window for name, place in WINDOWS.items()},
    **{f"torch.nn.modules.activation.{name}": _clip for name in ("ReLU6", "Hardtanh")},
    "torch.nn.modules.activation.PReLU": _prelu,
    **{f"torch.nn.modules.activation.{name}": _activation for name in _ACTIVATIONS},
    **{f"torch.nn.modules.activation.{name}": _softmax for name in ("Softmax", "LogSoftmax")},
}
_SKIPPED = (
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.dropout.Dropout",
    "torch.nn.modules.dropout.Dropout1d",
    "torch.nn.modules.dropout.Dropout2d",
    "torch.nn.modules.dropout.FeatureAlphaDropout",
    "torch.nn.modules.dropout.AlphaDropout",
)
