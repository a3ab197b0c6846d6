# SPDX-License-Identifier: MIT
"""The contract of the ``Recurrent`` operator: attributes, and weights of the sizes they state."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from gruengine.safetensors import shown
from gruengine.spec import Node

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
ACTIVATION_COUNTS = {"rnn": 1, "lstm": 3, "gru": 2}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
ACTIVATIONS = (
    "Sigmoid",
    "Tanh",
    "Relu",
    "Affine",
    "LeakyRelu",
    "ThresholdedRelu",
    "ScaledTanh",
    "HardSigmoid",
    "Elu",
    "Softsign",
    "Softplus",
)
INPUTS = (
    "X", "W", "R", "B", "lengths", "initial_h", "initial_c", "P", "projection", "gate_recurrence",
    "norm", "skip",
)  # fmt: skip
CONSTANTS = ("W", "R", "B", "P", "projection", "gate_recurrence", "norm", "skip")
# Only an LSTM has them; the state c also where steps are skipped.
OF_LSTM = ("P", "gate_recurrence", "norm")
CHOICES = {
    "cell": tuple(GATES),
    "direction": tuple(DIRECTIONS),
    "reset": ("after", "before"),
    "update": ("keep", "take"),
}
REQUIRED = (
    "cell",
    "hidden_size",
    "direction",
    "activations",
    "activation_alpha",
    "activation_beta",
)
OPTIONAL = ("clip", "coupled", "reset", "update", "zoneout", "norm_epsilon")
MAX_SIZE = (1 << 31) - 1

Array = np.ndarray[Any, Any]


def recurrent_problems(node: Node, tensors: dict[str, Array]) -> list[str]:
    """Return every way in which a ``Recurrent`` node breaks its contract.

    Parameters
    ----------
    node : Node
        A node whose ``op`` is ``"Recurrent"``.
    tensors : dict of str to ndarray
        The constants of the model.
    """
    problems = _attribute_problems(node)
    if problems:  # the sizes below follow from valid attributes
        return problems
    cell = str(node.attrs["cell"])
    given = {name: value for name, value in zip(INPUTS, node.inputs, strict=False) if value}
    if len(node.inputs) > len(INPUTS):
        problems.append(f"{len(node.inputs)} inputs; allowed: up to {len(INPUTS)}")
    if not 1 <= len(node.outputs) <= 3:
        problems.append(f"{len(node.outputs)} outputs; allowed: Y, Y_h, Y_c")
    for name in ("X", "W", "R"):
        if name not in given:
            problems.append(f"input {name} is absent; allowed: a name")
    if cell != "lstm":
        none = OF_LSTM if "skip" in given else (*OF_LSTM, "initial_c")
        problems += [
            f"input {name} with cell {cell!r}; allowed: with 'lstm'"
            for name in none
            if name in given
        ]
        if len(node.outputs) > 2 and node.outputs[2] and "skip" not in given:
            problems.append(f"output Y_c with cell {cell!r}; allowed: with 'lstm'")
    return problems + _variant_problems(node, given) + _weight_problems(node, given, tensors)


def state_size(node: Node) -> int:
    """Return C, the size of the state c of a valid ``Recurrent`` node: 0 where it has none."""
    H = cast(int, node.attrs["hidden_size"])
    given = dict(zip(INPUTS, node.inputs, strict=False))
    cell = H if node.attrs["cell"] == "lstm" else 0
    return cell + 3 * H * bool(given.get("gate_recurrence")) + bool(given.get("skip"))


def _variant_problems(node: Node, given: dict[str, str]) -> list[str]:
    """Check what surrounds the cell."""
    attrs, problems = node.attrs, []
    if "skip" in given and any(cast("list[float]", attrs.get("zoneout", []))):
        problems.append("input skip with zoneout; allowed: one of them")
    standard = (
        all(name == ("Sigmoid", "Tanh", "Tanh")[i % 3]
            for i, name in enumerate(cast("list[str]", attrs["activations"])))
        and not attrs.get("clip") and not attrs.get("coupled")
    )  # fmt: skip
    if ("gate_recurrence" in given or "norm" in given) and not standard:
        problems.append(
            "inputs gate_recurrence and norm; allowed: with activations Sigmoid, Tanh, Tanh, no "
            "clip and gates that are not coupled"
        )
    return problems


def _attribute_problems(node: Node) -> list[str]:
    attrs = node.attrs
    required = (*REQUIRED, "reset", "update") if attrs.get("cell") == "gru" else REQUIRED
    problems = [f"attribute {name!r} is missing" for name in required if name not in attrs]
    known = (*REQUIRED, *OPTIONAL)
    problems += [
        f"attribute {shown(name)}; allowed: {', '.join(known)}"
        for name in attrs
        if name not in known
    ]
    for name, allowed in CHOICES.items():
        if name in attrs and attrs[name] not in allowed:
            problems.append(_not_allowed(name, attrs[name], ", ".join(map(repr, allowed))))
    size = attrs.get("hidden_size", 1)
    if type(size) is not int or not 1 <= size <= MAX_SIZE:
        problems.append(_not_allowed("hidden_size", size, f"1 to {MAX_SIZE}"))
    clip = attrs.get("clip", 0.0)
    if not isinstance(clip, float) or not 0 <= clip < math.inf:
        problems.append(_not_allowed("clip", clip, "a finite float >= 0.0"))
    coupled = attrs.get("coupled", 0)
    if type(coupled) is not int or coupled not in ((0, 1) if attrs.get("cell") == "lstm" else (0,)):
        problems.append(_not_allowed("coupled", coupled, "0, or 1 with cell 'lstm'"))
    lstm = attrs.get("cell") == "lstm"
    zoneout = attrs.get("zoneout", [0.0, 0.0])
    if (
        not isinstance(zoneout, list)
        or len(zoneout) != 2
        or not all(isinstance(share, float) and 0 <= share < 1 for share in zoneout)
        or (zoneout[1] and not lstm)
    ):
        shares = "two shares from 0.0 to below 1.0, of h and c, that of c with cell 'lstm'"
        problems.append(_not_allowed("zoneout", zoneout, shares))
    epsilon = attrs.get("norm_epsilon", 1e-5)
    if not isinstance(epsilon, float) or not 0 < epsilon < math.inf:
        problems.append(_not_allowed("norm_epsilon", epsilon, "a finite float above 0.0"))
    return problems or _activation_problems(node)


def _not_allowed(name: str, value: object, allowed: str) -> str:
    return f"attribute {name!r} is {shown(value)}; allowed: {allowed}"


def _activation_problems(node: Node) -> list[str]:
    attrs = node.attrs
    cell, direction = str(attrs["cell"]), str(attrs["direction"])
    count = DIRECTIONS[direction] * ACTIVATION_COUNTS[cell]
    names = attrs["activations"]
    problems = []
    if (
        not isinstance(names, list)
        or len(names) != count
        or any(name not in ACTIVATIONS for name in names)
    ):
        problems.append(_not_allowed("activations", names, f"{count} of {', '.join(ACTIVATIONS)}"))
    for name in ("activation_alpha", "activation_beta"):
        values = attrs[name]
        if (
            not isinstance(values, list)
            or len(values) != count
            or not all(isinstance(value, float) for value in values)
        ):
            problems.append(_not_allowed(name, values, f"{count} floats"))
    return problems


def _weight_problems(node: Node, given: dict[str, str], tensors: dict[str, Array]) -> list[str]:
    """Check that the weights are float32 constants whose sizes agree with the attributes."""
    problems = []
    weights = {}
    for name in CONSTANTS:
        if name not in given:
            continue
        array = tensors.get(given[name])
        if array is None:
            problems.append(f"input {name} ({shown(given[name])}) is computed; allowed: a constant")
        elif array.dtype != np.float32:
            problems.append(f"input {name} has dtype {array.dtype}; allowed: float32")
        else:
            weights[name] = array.shape
    if problems or "W" not in weights or "R" not in weights:
        return problems
    d, h = DIRECTIONS[str(node.attrs["direction"])], cast(int, node.attrs["hidden_size"])
    g = GATES[str(node.attrs["cell"])]
    if len(weights["W"]) != 3 or weights["W"][2] < 1:
        return [f"input W has shape {list(weights['W'])}; allowed: [{d}, {g * h}, I], I >= 1"]
    k = h
    if "projection" in weights:
        if len(weights["projection"]) != 3 or weights["projection"][1] < 1:
            shape = list(weights["projection"])
            return [f"input projection has shape {shape}; allowed: [{d}, K, {h}], K >= 1"]
        k = weights["projection"][1]
    expected = {
        "W": (d, g * h, weights["W"][2]),
        "R": (d, g * h, k),
        "B": (d, 2 * g * h),
        "P": (d, 3 * h),
        "projection": (d, k, h),
        "gate_recurrence": (d, 3 * h, 3 * h),
        "norm": (d, 10 * h),
        "skip": (d, k + 1),
    }
    return [
        f"input {name} has shape {list(shape)}; allowed: {list(expected[name])} "
        f"for cell {node.attrs['cell']!r}, hidden_size {h}, direction {node.attrs['direction']!r}"
        for name, shape in weights.items()
        if shape != expected[name]
    ]
