# SPDX-License-Identifier: MIT
"""ATen operators that make tensors from sizes and numbers."""

from __future__ import annotations

import math

import numpy as np

from gruengine.converters.aten import Call, Refused, lower
from gruengine.converters.torch_sizes import Size

#: Largest tensor of one number that is kept as a constant instead of a node.
MAX_FILL = 1 << 12


@lower(
    "zeros.default",
    "ones.default",
    "full.default",
    "empty.memory_format",
    "zeros_like.default",
    "ones_like.default",
    "full_like.default",
    "empty_like.default",
    "new_zeros.default",
    "new_ones.default",
    "new_full.default",
    "new_empty.default",
    "scalar_tensor.default",
    "fill.Scalar",
    "fill.Tensor",
    "empty.default",
    "zero.default",
)
def _full(call: Call) -> str:
    name, dtype = str(call.node.target).split(".")[1], call.out_dtype
    # What is empty has no values yet: zeros are as good as others.
    value: str = call.number(1 if "ones" in name else 0, dtype)
    for key in ("fill_value", "value", "s"):
        if key in call.args:
            value = call.operand(key, dtype)
    shape = call.out_shape
    made = _filled(call, value, shape)
    constant = call.builder.array(value)
    if constant is not None and not np.any(constant):
        call.context.zeros.add(made)
    return made


def _filled(call: Call, value: str, shape: tuple[Size, ...]) -> str:
    constant = call.builder.array(value)
    fixed = [size for size in shape if isinstance(size, int)]
    if constant is not None and len(fixed) == len(shape) and math.prod(fixed) <= MAX_FILL:
        array = np.full(fixed, constant.reshape(()), constant.dtype)
        return call.builder.constant(array, call.node.name)
    if not shape:
        return value
    return call.emit("Expand", [value, call.context.sizes.vector(shape)])


@lower("arange.default", "arange.start", "arange.start_step")
def _arange(call: Call) -> str:
    given = [call.args.get(key) for key in ("start", "end", "step")]
    dtype = call.out_dtype
    if any(isinstance(one, float) for one in given):
        start, end, step = (0 if one is None else one for one in given)
        values = np.arange(start, end, 1 if given[2] is None else step)
        return call.builder.constant(values.astype(dtype), call.node.name)
    start = call.size("start") if call.has("start") else 0
    step = call.integer("step") if call.has("step") else 1
    return call.cast(call.range(start, call.size("end"), step), dtype)


@lower("tril.default", "triu.default")
def _triangle(call: Call) -> str:
    """Keep one side of the diagonal; the other is zero."""
    shape, diagonal = call.shape("self"), call.integer("diagonal")
    rows = call.unsqueeze(call.range(0, shape[-2], 1), [1])
    rows = call.emit("Add", [rows, call.number(diagonal, "int64")]) if diagonal else rows
    columns = call.range(0, shape[-1], 1)
    op = "GreaterOrEqual" if "tril" in str(call.node.target) else "LessOrEqual"
    keep = call.emit(op, [rows, columns])
    dtype = call.out_dtype
    if dtype == "bool":
        return call.emit("And", [call.tensor(), keep])
    return call.emit("Where", [keep, call.tensor(), call.number(0, dtype)])


@lower("scatter.src", "scatter.value")
def _scatter(call: Call) -> str:
    """Put values at places of a vector, as the inverse of a permutation is made."""
    if call.rank() != 1 or call.rank("index") != 1:
        raise Refused(f"scatter along {call.rank()} axes", "a vector")
    dtype = call.out_dtype
    places = call.unsqueeze(call.tensor("index", "int64"), [1])
    values = call.operand("src" if call.has("src") else "value", dtype)
    if not call.has("src"):
        values = call.emit("Expand", [values, call.context.sizes.vector(call.shape("index"))])
    return call.emit("ScatterND", [call.tensor("self", dtype), places, values])
