# SPDX-License-Identifier: MIT
"""ONNX's RNN, GRU and LSTM as the graph's ``Recurrent``: every attribute, every size checked.

What the ONNX specification leaves open follows ONNX Runtime: alphas and betas are consumed in
order by the activations that have them, with its defaults when they run out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gruengine.converters.gates import DEFAULT_ACTIVATIONS, GATES
from gruengine.converters.onnx_ops import Call, Refused, lower, shown
from gruengine.spec import Attr

Array = np.ndarray[Any, Any]
Problems = list[tuple[str, str]]

ACTIVATIONS = {
    name.lower(): name
    for name in (
        "Sigmoid", "Tanh", "Relu", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh",
        "HardSigmoid", "Elu", "Softsign", "Softplus",
    )
}  # fmt: skip

#: Activation -> default alpha and beta of ONNX Runtime; None where it has no such parameter.
PARAMETERS: dict[str, tuple[float | None, float | None]] = {
    "Affine": (0.0, 0.0),
    "LeakyRelu": (0.01, None),
    "ThresholdedRelu": (0.0, None),
    "ScaledTanh": (0.0, 0.0),
    "HardSigmoid": (0.2, 0.5),
    "Elu": (1.0, None),
}

_COMMON = "direction hidden_size activations activation_alpha activation_beta clip layout"


@lower("RNN", attrs=_COMMON)
@lower("GRU", attrs=f"{_COMMON} linear_before_reset")
@lower("LSTM", attrs=f"{_COMMON} input_forget")
def _recurrent(call: Call) -> list[str]:
    cell = call.node.op.lower()
    call.needs(3, 8 if cell == "lstm" else 6)
    problems: Problems = []
    attrs = _attributes(call, cell, problems)
    hidden = _weights(call, cell, str(attrs["direction"]), problems)
    layout = call.integer("layout", 0)
    directions = 2 if attrs["direction"] == "bidirectional" else 1
    _check_states(call, directions, hidden, bool(layout), problems)
    if problems:
        raise Refused(*problems)
    attrs["hidden_size"] = hidden
    inputs = list(call.inputs)
    if layout:
        for place in (0, 5, 6):
            if call.input(place):
                inputs[place] = call.tmp("Transpose", [inputs[place]], {"perm": [1, 0, 2]})
    wanted = [*call.node.outputs[:3], *[""] * 3][:3]
    if not layout:
        return call.builder.emit("Recurrent", inputs, attrs, _trim(wanted), call.node.name)
    raw = [f"{name}_time_major" if name else "" for name in wanted]
    made = call.builder.emit("Recurrent", inputs, attrs, _trim(raw), call.node.name)
    result = []
    for i, (wish, value) in enumerate(zip(wanted, made, strict=False)):
        perm = [2, 0, 1, 3] if i == 0 else [1, 0, 2]
        result += (
            call.builder.emit("Transpose", [value], {"perm": perm}, (wish,), call.node.name)
            if wish
            else [""]
        )
    return result


def _trim(names: list[str]) -> list[str]:
    while len(names) > 1 and not names[-1]:
        names = names[:-1]
    return names


def _attributes(call: Call, cell: str, problems: Problems) -> dict[str, Attr]:
    """Return the attributes of Recurrent but ``hidden_size``; adds what is wrong."""
    direction = call.text("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        allowed = "forward, reverse or bidirectional is needed"
        raise Refused((f"attribute direction = {direction!r}", allowed))
    attrs: dict[str, Attr] = {"cell": cell, "direction": direction}
    if "clip" in call.node.attrs:
        clip = call.real("clip", 0.0)
        if clip <= 0:
            problems.append((f"attribute clip = {clip}", "a number above 0 is needed"))
        attrs["clip"] = clip
    layout = call.integer("layout", 0)
    if layout not in (0, 1) or (layout and call.opset < 14):
        problems.append((f"attribute layout = {layout}", "0, or 1 since opset 14, is needed"))
    if cell == "lstm":
        attrs["coupled"] = int(call.integer("input_forget", 0) != 0)
    if cell == "gru":
        attrs["reset"] = "after" if _resets_after(call) else "before"
        attrs["update"] = "keep"
    directions = 2 if direction == "bidirectional" else 1
    attrs.update(_activations(call, cell, directions, problems))
    return attrs


def _resets_after(call: Call) -> bool:
    """Return linear_before_reset: the file's, or the user's, who knows what it was made of."""
    own = bool(call.integer("linear_before_reset", 0))
    told = bool(call.builder.hints.get("linear_before_reset", own))
    if told != own:
        call.builder.warnings.append(
            f"GRU {call.title!r}: linear_before_reset={int(told)} as told; the file has {int(own)}"
        )
    return told


def _activations(call: Call, cell: str, directions: int, problems: Problems) -> dict[str, Attr]:
    default = list(DEFAULT_ACTIVATIONS[cell]) * directions
    given = call.attr("activations", list, default)
    names: list[str] = []
    for name in given:
        known = ACTIVATIONS.get(name.lower()) if isinstance(name, str) else None
        if known is None:
            why = "the activations are " + ", ".join(ACTIVATIONS.values())
            problems.append((f"attribute activations has {shown(name)}", why))
        names.append(known or "Tanh")
    if len(given) != len(default):
        what = f"attribute activations = {shown(given)}"
        problems.append((what, f"{len(default)} names are needed"))
    values: list[list[float]] = []
    for side, key in enumerate(("activation_alpha", "activation_beta")):
        numbers = call.attr(key, list, [])
        if not all(isinstance(n, (int, float)) and np.isfinite(n) for n in numbers):
            raise Refused((f"attribute {key} = {shown(numbers)}", "finite numbers are needed"))
        left, resolved = [float(n) for n in numbers], []
        for name in names:
            usual = PARAMETERS.get(name, (None, None))[side]
            resolved.append(0.0 if usual is None else left.pop(0) if left else usual)
        if left:
            what = f"attribute {key} = {shown(numbers)}"
            problems.append((what, f"{len(left)} numbers are left over by {', '.join(names)}"))
        values.append(resolved)
    return {"activations": names, "activation_alpha": values[0], "activation_beta": values[1]}


def _weights(call: Call, cell: str, direction: str, problems: Problems) -> int:
    """Check the constants against each other; return H."""
    arrays: dict[str, Array] = {}
    for name, place in (("W", 1), ("R", 2), ("B", 3), ("P", 7)):
        if not call.input(place):
            continue
        array = call.builder.array(call.inputs[place])
        if array is None:
            problems.append((f"{name} ({call.inputs[place]!r})", "weights must be constants"))
        elif array.dtype.kind != "f":
            problems.append((f"{name} of {array.dtype}", "weights must be floats"))
        else:
            arrays[name] = array
    recurrent = arrays.get("R")
    usual = recurrent.shape[-1] if recurrent is not None and recurrent.ndim == 3 else None
    hidden = call.integer("hidden_size", usual or 1)
    if hidden < 1 or hidden >= 1 << 31:
        problems.append((f"attribute hidden_size = {hidden}", "1 to 2**31 - 1 is needed"))
    directions, rows = (2 if direction == "bidirectional" else 1), GATES[cell] * hidden
    inputs = arrays["W"].shape[-1] if "W" in arrays and arrays["W"].ndim else 0
    needed = {
        "W": (directions, rows, inputs),
        "R": (directions, rows, hidden),
        "B": (directions, 2 * rows),
        "P": (directions, 3 * hidden),
    }
    for name, array in arrays.items():
        if array.shape != needed[name]:
            what = f"{name} of shape {list(array.shape)}"
            problems.append((what, f"{list(needed[name])} is needed for hidden_size {hidden}"))
    _check_input(call, inputs if "W" in arrays else None, problems)
    return hidden


def _check_input(call: Call, inputs: int | None, problems: Problems) -> None:
    shape = call.builder.info(call.inputs[0]).shape
    if inputs == 0:
        problems.append(("W without columns", "an input size of at least 1 is needed"))
    if shape is None:
        return
    if len(shape) != 3:
        problems.append((f"X with {len(shape)} axes", "3 are needed: time, batch, features"))
    elif isinstance(shape[2], int) and inputs and shape[2] != inputs:
        problems.append((f"X with {shape[2]} features", f"W has {inputs} columns"))


def _check_states(
    call: Call, directions: int, hidden: int, batchwise: bool, problems: Problems
) -> None:
    """Check what is known of lengths and initial states against X and the weights."""
    shape = call.builder.info(call.inputs[0]).shape
    batch = None if shape is None or len(shape) != 3 else shape[0 if batchwise else 1]
    state = (batch, directions, hidden) if batchwise else (directions, batch, hidden)
    for name, place, needed in (
        ("sequence_lens", 4, (batch,)), ("initial_h", 5, state), ("initial_c", 6, state)
    ):  # fmt: skip
        given = call.builder.info(call.input(place)).shape
        if given is None:
            continue
        if name == "initial_c" and _lost_projection(given, state, hidden):
            why = "exports of an LSTM with proj_size lack its projection: convert its checkpoint"
            problems.append((f"initial_c of {given[-1]} values beside {hidden} of h", why))
            continue
        pairs = zip(given, needed, strict=False)
        clash = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)
        if clash or len(given) != len(needed):
            what = f"{name} of shape {_sizes(given)}"
            problems.append((what, f"{_sizes(needed)} is needed"))


def _lost_projection(
    given: Sequence[int | str | None], state: Sequence[int | str | None], hidden: int
) -> bool:
    """Whether c is wider than h: PyTorch's newer exporter writes projected LSTMs so."""
    width = given[-1] if len(given) == len(state) else None
    return isinstance(width, int) and width > hidden


def _sizes(shape: Sequence[int | str | None]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
