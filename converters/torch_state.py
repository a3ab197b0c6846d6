# SPDX-License-Identifier: MIT
"""A state dict, names and arrays alone, as a chain of layers.

Names and shapes tell the kind, the sizes and the layers of most modules. What they don't tell is
never guessed: it is asked for, all at once, each with the hint that answers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gruengine.converters.base import Options, Reason
from gruengine.converters.torch_layers import (
    Activation,
    Affine,
    Cell,
    Embedding,
    Layer,
    Linear,
    Norm,
    Rnn,
    sizes,
)
from gruengine.converters.torch_rnn import (
    CELL_NAMES,
    RNN_NAME,
    find_cell,
    read_direction,
    read_layers,
)
from gruengine.converters.torch_weights import Weights

Array = np.ndarray[Any, Any]

#: What follows a layer, by the names of the hint ``activations``.
ACTIVATIONS: Mapping[str, tuple[str, dict[str, Any]] | None] = {
    "none": None,
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "log_softmax": ("LogSoftmax", {"axis": -1}),
    "gelu": ("Gelu", {}),
    "silu": ("Silu", {}),
}
KINDS = ("embedding", "linear", "layernorm")
OUTPUTS = ("sequence", "last", "last_step")
NONLINEARITIES = ("tanh", "relu")
_WAY_OUT = (
    "give the live module and example_inputs to from_torch, or export it with torch.onnx.export "
    "(a TorchScript archive with dynamo=False)"
)
_TAILS = (*CELL_NAMES, "weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def read_state(
    arrays: Mapping[str, Array], ordered: bool, options: Options, reasons: list[Reason]
) -> list[Layer]:
    """Return the layers of a state dict in the order in which they run.

    Parameters
    ----------
    arrays : mapping of str to ndarray
    ordered : bool
        The order of ``arrays`` is the one in which the modules were made; else it tells nothing.
    options : Options
        Hints ``batch_first``, ``nonlinearity``, ``output``, ``activations``, ``kinds``, ``eps``,
        ``order`` and ``allow_rounding``.
    reasons : list of Reason
        What is missing, contradictory or not supported is added; the layers hold only if it stays
        empty.
    """
    return _StateReader(arrays, options, reasons).read(ordered)


def strip_prefixes(names: list[str]) -> dict[str, str]:
    """Return name -> name without what torch.compile and DataParallel put around a module."""
    result = {name: name.replace("_orig_mod.", "") for name in names}
    while result and all(short.startswith("module.") for short in result.values()):
        result = {name: short[len("module.") :] for name, short in result.items()}
    return result if len(set(result.values())) == len(names) else {name: name for name in names}


class _StateReader:
    def __init__(
        self, arrays: Mapping[str, Array], options: Options, reasons: list[Reason]
    ) -> None:
        self.hints = options.hints
        self.reasons = reasons
        self.weights = Weights(arrays, options, reasons)
        self.groups: dict[str, list[str]] = {}
        self.undecided: str | None = None  # a matrix of which the kind was asked for
        for name in self.weights.arrays:
            prefix, _, tail = name.rpartition(".")
            if tail in _TAILS or RNN_NAME.fullmatch(tail):
                self.groups.setdefault(prefix, []).append(name)
            else:
                self._ask(name, "an unknown name", "weights of recurrent, Linear, Embedding, "
                          "LayerNorm and BatchNorm modules; the hint ignore=[...] leaves out "
                          "what the model has no use for")  # fmt: skip

    def read(self, ordered: bool) -> list[Layer]:
        """Read every group, put them in order, add what hints say."""
        if not self.groups and not self.reasons:
            self._ask("", "no weights", "a state dict with the weights of a recurrent module")
        found = {prefix: self._layer(prefix, names) for prefix, names in self.groups.items()}
        layers = {prefix: layer for prefix, layer in found.items() if layer is not None}
        if len(layers) < len(self.groups):
            self._hint_names()
            return []
        chain = self._ordered(layers, ordered)
        chain = self._kinds_from_chain(chain)
        self._check_chain(chain)
        chain = self._finished(chain)
        self._hint_names()
        return chain

    def _ask(self, where: str, what: str, why: str) -> None:
        self.reasons.append(Reason(where, what, why))

    def _by_name(self, hint: str) -> Mapping[str, Any]:
        value = self.hints.get(hint, {})
        return value if isinstance(value, Mapping) else {}

    # -- groups -----------------------------------------------------------------------------------

    def _layer(self, prefix: str, names: list[str]) -> Layer | None:
        tails = {name.rpartition(".")[2]: name for name in names}
        if any(RNN_NAME.fullmatch(tail) for tail in tails):
            return self._rnn(prefix, names)
        if "weight_hh" in tails or "weight_ih" in tails:
            return self._cell(prefix, tails)
        if "running_mean" in tails or "running_var" in tails:
            return self._batch_norm(prefix, tails)
        if "weight" not in tails or set(tails) - {"weight", "bias"}:
            self._ask(prefix, f"only {', '.join(tails)}", "a weight, and perhaps a bias")
            return None
        shape = self.weights.arrays[tails["weight"]].shape
        bias = self.weights.arrays[tails["bias"]].shape if "bias" in tails else None
        if len(shape) > 2:
            what = f"a weight of shape {list(shape)}, of a convolution or another module"
            self._ask(prefix, what, f"names alone tell of chains without them; {_WAY_OUT}")
            return None
        if 0 in shape or (bias is not None and bias != shape[:1]) or len(shape) not in (1, 2):
            self._ask(
                prefix,
                f"a weight of shape {list(shape)} and a bias of shape {bias and list(bias)}",
                "Linear [out, in] with bias [out], Embedding [V, E], LayerNorm [F]",
            )
            return None
        return self._matrix(prefix, tails) if len(shape) == 2 else self._norm(prefix, tails)

    def _nonlinearity(self, prefix: str, cell: str) -> str:
        if cell != "rnn":
            return "Tanh"
        value = self.hints.get("nonlinearity")
        if isinstance(value, Mapping):
            value = value.get(prefix)
        if value not in NONLINEARITIES:
            self._ask(
                prefix,
                "the nonlinearity of an RNN" if value is None else f"nonlinearity {value!r}",
                "not in the file: pass the hint nonlinearity='tanh' or 'relu'",
            )
        return "Relu" if value == "relu" else "Tanh"

    def _rnn(self, prefix: str, names: list[str]) -> Layer | None:
        cell = find_cell(self.weights, prefix, names)
        if cell is None:
            return None
        layers = read_layers(self.weights, prefix, names, cell)
        if layers is None:
            return None
        batch_first = self.hints.get("batch_first")
        return Rnn(prefix, cell, layers, batch_first is True, self._nonlinearity(prefix, cell))

    def _cell(self, prefix: str, tails: dict[str, str]) -> Layer | None:
        cell = find_cell(self.weights, prefix, list(tails.values()))
        if cell is None or set(tails) - set(CELL_NAMES):
            self._ask(prefix, f"a cell with {', '.join(tails)}", f"of {', '.join(CELL_NAMES)}")
            return None
        direction = read_direction(self.weights, cell, tails, None)
        if direction is None:
            return None
        return Cell(prefix, cell, direction, self._nonlinearity(prefix, cell))

    def _eps(self, prefix: str) -> float:
        hint = self.hints.get("eps")
        value = hint.get(prefix) if isinstance(hint, Mapping) else hint
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            self._ask(
                prefix,
                "the eps of a norm" if value is None else f"eps {value!r}",
                f"not in the file: pass the hint eps={{{prefix!r}: 1e-05}} (torch's default)",
            )
            return 1e-5
        return float(value)

    def _batch_norm(self, prefix: str, tails: dict[str, str]) -> Layer | None:
        read = [name for tail, name in tails.items() if tail != "num_batches_tracked"]
        shapes = {self.weights.arrays[name].shape for name in read}
        pairs = all(({a, b} <= set(tails)) or not ({a, b} & set(tails))
                    for a, b in (("running_mean", "running_var"), ("weight", "bias")))  # fmt: skip
        if not pairs or len(shapes) != 1 or len(next(iter(shapes))) != 1:
            self._ask(prefix, f"a norm with {', '.join(tails)}", "BatchNorm1d arrays [F]")
            return None
        values = {tail: self.weights.floats(name).astype(np.float64)
                  for tail, name in tails.items() if name in read}  # fmt: skip
        return batch_norm(prefix, values, self._eps(prefix))

    def _matrix(self, prefix: str, tails: dict[str, str]) -> Layer:
        weight = self.weights.floats(tails["weight"])
        if "bias" in tails:
            return Linear(prefix, weight, self.weights.floats(tails["bias"]))
        if self._by_name("kinds").get(prefix) == "embedding":
            return Embedding(prefix, weight)
        return Linear(prefix, weight, None)

    def _norm(self, prefix: str, tails: dict[str, str]) -> Layer:
        if self._by_name("kinds").get(prefix) != "layernorm":
            self._ask(
                prefix,
                "a weight [F], of LayerNorm or of another norm",
                f"pass the hint kinds={{{prefix!r}: 'layernorm'}} if it is nn.LayerNorm",
            )
        bias = self.weights.floats(tails["bias"]) if "bias" in tails else None
        return Norm(prefix, self.weights.floats(tails["weight"]), bias, self._eps(prefix))

    # -- the chain --------------------------------------------------------------------------------

    def _ordered(self, layers: dict[str, Layer], ordered: bool) -> list[Layer]:
        order = self.hints.get("order")
        if order is not None:
            names = list(order) if isinstance(order, (list, tuple)) else []
            if sorted(map(str, names)) == sorted(layers):
                return [layers[str(name)] for name in names]
            self._ask("", f"order {order!r}", f"each of {list(layers)} once")
        recurrent = sum(isinstance(layer, (Rnn, Cell)) for layer in layers.values())
        if order is None and len(layers) > 1 and (not ordered or recurrent > 1):
            why = "several recurrent modules" if ordered else "a file without the order of modules"
            self._ask(
                "", why, f"pass the hint order={list(layers)!r}, in the order in which they run"
            )
        return list(layers.values())

    def _kinds_from_chain(self, chain: list[Layer]) -> list[Layer]:
        """Decide whether a matrix without bias is an Embedding: only the first module can be."""
        first = chain[0] if chain else None
        if not isinstance(first, Linear) or first.bias is not None:
            return chain
        kind = self._by_name("kinds").get(first.where)
        rows, columns = first.weight.shape
        following = next((sizes(one)[0] for one in chain[1:] if sizes(one)[0] is not None), None)
        if kind is None and rows != columns and following in (rows, columns):
            kind = "embedding" if following == columns else "linear"
        if kind not in ("embedding", "linear"):
            self.undecided = first.where
            self._ask(
                first.where,
                f"a weight {list(first.weight.shape)} of Embedding or of Linear without bias",
                f"pass the hint kinds={{{first.where!r}: 'embedding'}} or 'linear'",
            )
        return [Embedding(first.where, first.weight), *chain[1:]] if kind == "embedding" else chain

    def _check_chain(self, chain: list[Layer]) -> None:
        size: int | None = None
        before, unchained = "", False
        for index, layer in enumerate(chain):
            takes, gives = sizes(layer)
            if isinstance(layer, Embedding) and index:
                self._ask(layer.where, "an Embedding after other modules", "one at the beginning")
            elif size is not None and takes is not None and takes != size:
                self._ask(
                    layer.where,
                    f"it takes {takes} features after {before or 'the module'} with {size}",
                    "modules whose sizes follow each other; give their order with the hint "
                    f"order=[...], or {_WAY_OUT}",
                )
                unchained = True
            size, before = gives if gives is not None else size, layer.where
        kinds = {type(layer) for layer in chain}
        if unchained and not kinds & {Rnn, Cell}:
            what = "no recurrent module of torch, which has weight_ih and weight_hh"
            self._ask("", what, f"names do not tell a cell made of other modules; {_WAY_OUT}")
        if Cell in kinds and kinds & {Rnn, Embedding}:
            self._ask("", "cells among sequence modules", "cells alone, with Linear and norms")

    def _finished(self, chain: list[Layer]) -> list[Layer]:
        """Add batch_first, output and the activations."""
        last = max((i for i, one in enumerate(chain) if isinstance(one, Rnn)), default=-1)
        if last >= 0 and not isinstance(self.hints.get("batch_first"), bool):
            self._ask(
                "",
                "the layout of the input",
                "not in the file: pass the hint batch_first=True for [N, T, I] or False for "
                "[T, N, I]",
            )
        output = self.hints.get("output", "sequence" if last + 1 >= len(chain) else None)
        if last >= 0 and output not in OUTPUTS:
            self._ask(
                chain[last].where,
                "which output feeds the next module" if output is None else f"output {output!r}",
                "not in the file: pass the hint output='sequence' (every step), 'last' (h_n of "
                "the last layer, directions side by side) or 'last_step' (y at the last step)",
            )
        result: list[Layer] = []
        for index, layer in enumerate(chain):
            if index == last and isinstance(layer, Rnn):
                layer = replace(layer, output=str(output))
            result.append(layer)
            result += self._activation(layer)
        return result

    def _activation(self, layer: Layer) -> list[Layer]:
        value = self._by_name("activations").get(layer.where)
        if value is None and (not isinstance(layer, Linear) or self.undecided == layer.where):
            return []
        if not isinstance(value, str) or value not in ACTIVATIONS:
            self._ask(
                layer.where,
                "the activation after it" if value is None else f"activation {value!r}",
                f"not in the file: pass the hint activations={{{layer.where!r}: ...}} with one of "
                f"{', '.join(ACTIVATIONS)}",
            )
            return []
        known = ACTIVATIONS[value]
        return [] if known is None else [Activation(f"{layer.where}.{value}", *known)]

    def _hint_names(self) -> None:
        """Refuse hints for modules that are not there: a typing error would change the model."""
        for hint in ("activations", "kinds", "eps", "nonlinearity"):
            value = self.hints.get(hint)
            names = list(value) if isinstance(value, Mapping) else []
            if value is not None and not isinstance(value, Mapping) and hint in _BY_NAME:
                self._ask("", f"hint {hint} is {value!r}", f"a dict, {_BY_NAME[hint]}")
            for name in names:
                if name not in self.groups:
                    self._ask("", f"hint {hint} for {name!r}", f"the modules are {[*self.groups]}")


_BY_NAME = {
    "activations": "{'fc': 'relu'}",
    "kinds": f"module name to one of {', '.join(KINDS)}",
}


def batch_norm(where: str, values: Mapping[str, Array], eps: float) -> Affine:
    """Fold ``(x - mean) / sqrt(var + eps) * weight + bias`` (float64 arrays) to one product."""
    with np.errstate(all="ignore"):
        scale = 1 / np.sqrt(values["running_var"] + eps)
        scale = scale * values["weight"] if "weight" in values else scale
        shift = -values["running_mean"] * scale
        shift = shift + values["bias"] if "bias" in values else shift
        return Affine(where, scale.astype(np.float32), shift.astype(np.float32))
