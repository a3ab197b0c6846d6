# SPDX-License-Identifier: MIT
"""Keras' ConvLSTM2D: a cell whose products are convolutions, step by step over a fixed time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gruengine.converters import keras_activations as acts
from gruengine.converters.keras_base import Arrays, Config, Parsed, Refused, Value, Var
from gruengine.converters.keras_image import pair_of, windows
from gruengine.spec import Attr

if TYPE_CHECKING:
    from gruengine.converters.keras_graph import Builder

#: Steps that are written out one after another.
MAX_STEPS = 128
_GATES = ("i", "f", "c", "o")


def _conv_lstm(c: Config) -> Parsed:
    filters, bias = c.size("filters"), c.flag("use_bias", True)
    kernel, strides = pair_of(c, "kernel_size", 1), pair_of(c, "strides", 1)
    dilation = pair_of(c, "dilation_rate", 1)
    same = c.choice("padding", ("valid", "same"), "valid") == "same"
    c.choice("data_format", (None, "channels_last"), "channels_last")
    sequences, backwards = c.flag("return_sequences", False), c.flag("go_backwards", False)
    for key in ("return_state", "stateful", "time_major", "zero_output_for_mask"):
        if c.flag(key, False):
            c.refuse(f"{key}=True", "false")
    inner, gate = acts.activation(c, "activation"), acts.activation(c, "recurrent_activation")
    names = ["kernel", "recurrent_kernel", *(["bias"] if bias else [])]

    def emit(b: Builder, inputs: Sequence[Value], arrays: Arrays) -> list[Value]:
        x, where, own = b.one(inputs), c.where, arrays.below("cell")
        b.need_no_mask(x)
        steps = x.dims[1] if len(x.dims) == 5 else None
        if not isinstance(steps, int) or not 0 < steps <= MAX_STEPS:
            allowed = f"[batch, time, height, width, channels], at most {MAX_STEPS} steps, no fewer"
            raise Refused(f"ConvLSTM2D of {list(x.dims)}", allowed)
        rest = [size for size in x.dims[2:] if isinstance(size, int)]
        if len(rest) < 3:
            raise Refused(f"ConvLSTM2D of {list(x.dims)}", "known sizes of every step")
        attrs: dict[str, Attr] = {"kernel_shape": list(kernel), "group": 1}
        w = own.get("kernel", (*kernel, rest[2], 4 * filters))
        r = own.get("recurrent_kernel", (*kernel, filters, 4 * filters))
        turned = (3, 2, 0, 1)
        made = [b.weight(where, n, np.transpose(a, turned)) for n, a in (("W", w), ("R", r))]
        # The products of the input, of all steps at once: [N*T, 4F, height, width].
        flat = b.node(where, "Reshape", [x.name, b.ints(where, "flat", [-1, *rest])], {})
        first = b.node(where, "Transpose", [flat], {"perm": [0, 3, 1, 2]})
        given = [first, made[0]]
        if bias:
            given.append(b.weight(where, "bias", own.get("bias", (4 * filters,))))
        place: dict[str, Attr] = {"strides": list(strides), "dilations": list(dilation)}
        place.update({"auto_pad": "SAME_UPPER"} if same else {"pads": [0, 0, 0, 0]})
        z = b.node(where, "Conv", given, {**attrs, **place})
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
        image = Value("", (x.dims[0], *rest))
        sizes = [s for s in windows(b, where, image, reach, strides, same) if isinstance(s, int)]
        shape = b.ints(where, "steps", [-1, steps, 4 * filters, *sizes])
        z = b.node(where, "Reshape", [z, shape], {})

        turn: dict[str, Attr] = {**attrs, "strides": [1, 1], "dilations": [1, 1],
                                 "auto_pad": "SAME_UPPER"}  # fmt: skip
        order = range(steps)[:: -1 if backwards else 1]
        outs = _written_out(b, where, z, made[1], order, turn, (filters, gate, inner))
        h, one = outs[-1], b.ints(where, "axis", [1])
        if not sequences:
            y = b.node(where, "Transpose", [h], {"perm": [0, 2, 3, 1]})
            return [Value(y, (x.dims[0], *sizes, filters))]
        wide = [b.node(where, "Unsqueeze", [out, one], {}) for out in outs]
        y = b.node(where, "Concat", wide, {"axis": 1})
        y = b.node(where, "Transpose", [y], {"perm": [0, 1, 3, 4, 2]})
        return [Value(y, (x.dims[0], steps, *sizes, filters))]

    return Parsed(emit, [Var("cell", name) for name in names])


def _written_out(
    b: Builder,
    where: str,
    z: str,
    kernel: str,
    order: Sequence[int],
    attrs: dict[str, Attr],
    cell: tuple[int, acts.Activation, acts.Activation],
) -> list[str]:
    """Add the steps; ``z`` holds the products of the input. Return h of each, from zero on."""
    filters, gate, inner = cell
    one = b.ints(where, "axis", [1])

    def function(name: str, found: acts.Activation) -> str:
        return acts.emit_activation(b, where, Value(name, ()), found).name

    def cut(name: str, start: int, size: int) -> str:
        bounds = [b.ints(where, "cut", [v]) for v in (start, start + size, 1)]
        return b.node(where, "Slice", [name, *bounds], {})

    h = state = ""
    outs: list[str] = []
    for t in order:
        now = b.node(where, "Squeeze", [cut(z, t, 1), one], {})
        if h:
            product = b.node(where, "Conv", [h, kernel], attrs)
            now = b.node(where, "Add", [now, product], {})
        parts = {g: cut(now, k * filters, filters) for k, g in enumerate(_GATES)}
        new = b.node(where, "Mul", [function(parts["i"], gate), function(parts["c"], inner)], {})
        if state:
            kept = b.node(where, "Mul", [function(parts["f"], gate), state], {})
            new = b.node(where, "Add", [kept, new], {})
        state = new
        h = b.node(where, "Mul", [function(parts["o"], gate), function(state, inner)], {})
        outs.append(h)
    return outs


READERS: dict[str, Callable[[Config], Parsed]] = {"ConvLSTM2D": _conv_lstm}
