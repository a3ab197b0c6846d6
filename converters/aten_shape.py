# SPDX-License-Identifier: MIT
"""ATen operators that make, shape and move tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gruengine.converters.aten import MAX_AXIS, Call, FreeSize, Refused, lower
from gruengine.converters.torch_sizes import Size, sizes_of

# -- the same values ------------------------------------------------------------------------------


@lower(
    "clone.default",
    "detach.default",
    "contiguous.default",
    "alias.default",
    "lift_fresh.default",
    "lift_fresh_copy.default",
    "dropout.default",
    "feature_dropout.default",
    "alpha_dropout.default",
    "feature_alpha_dropout.default",
    "native_dropout.default",
    "resolve_conj.default",
    "resolve_neg.default",
    "positive.default",
)
def _same(call: Call) -> str:
    if call.args.get("train") and call.args.get("p"):
        raise Refused(f"dropout of {call.args['p']} that is active", "in eval mode it is off")
    return call.tensor("input" if "input" in call.args else "self")


@lower(
    "_to_copy.default", "to.dtype", "to.dtype_layout", "to.device", "to.other", "type_as.default"
)
@lower("_assert_tensor_metadata.default")
def _to(call: Call) -> str:
    if "assert" in str(call.node.target):
        return call.given(call.node.args[0])
    dtype = call.out_dtype
    source, target = str(call.meta("self").dtype), str(call.out.dtype)
    if source in ("torch.float32", "torch.float64") and target in _HALF:
        raise Refused(f"{source} rounded to {target}", "float32 is computed")
    value = call.tensor()
    own = call.type_of(call.meta("self").dtype)
    if own != "bool" and dtype == "bool":
        return call.emit("Not", [call.emit("Equal", [value, call.number(0, own)])])
    return call.cast(value, dtype)


_HALF = ("torch.float16", "torch.bfloat16")


@lower("copy.default")
def _copy(call: Call) -> str:
    value = call.tensor("src", call.out_dtype)
    return call.expand(value, call.shape("src"), call.out_shape)


# -- shapes ---------------------------------------------------------------------------------------


@lower(
    "view.default",
    "reshape.default",
    "_unsafe_view.default",
    "flatten.using_ints",
    "unflatten.int",
    "view_as.default",
    "reshape_as.default",
)
def _view(call: Call) -> str:
    return call.reshape(call.tensor(), call.shape("self"), call.out_shape)


@lower("squeeze.default", "squeeze.dim", "squeeze.dims")
def _squeeze(call: Call) -> str:
    shape = call.shape("self")
    axes = call.axes() if call.has("dim") else list(range(len(shape)))
    gone = [axis for axis in axes if axis < len(shape) and shape[axis] == 1]
    return call.squeeze(call.tensor(), gone)


@lower("unsqueeze.default")
def _unsqueeze(call: Call) -> str:
    return call.unsqueeze(call.tensor(), [call.axis("dim", call.rank() + 1)])


@lower("expand.default", "expand_as.default", "broadcast_to.default")
def _expand(call: Call) -> str:
    return call.expand(call.tensor(), call.shape("self"), call.out_shape)


@lower("permute.default", "transpose.int", "t.default", "numpy_T.default", "mT.default")
@lower("movedim.int", "movedim.intlist", "swapaxes.default")
def _permute(call: Call) -> str:
    rank, name = call.rank(), str(call.node.target).split(".")[1]
    perm = list(range(rank))
    if name == "permute":
        perm = call.axes("dims")
    elif name in ("t", "numpy_T"):
        perm.reverse()
    elif name == "movedim":
        before, after = call.axes("source"), call.axes("destination")
        rest = iter(axis for axis in range(rank) if axis not in before)
        places = dict(zip(after, before, strict=True))
        perm = [places[axis] if axis in places else next(rest) for axis in range(rank)]
    else:
        names = {"transpose": ("dim0", "dim1"), "swapaxes": ("axis0", "axis1")}.get(name)
        a, b = (rank - 2, rank - 1) if names is None else (call.axis(n) for n in names)
        perm[a], perm[b] = perm[b], perm[a]
    return call.transpose(call.tensor(), perm)


# -- parts ----------------------------------------------------------------------------------------


def _bound(call: Call, name: str, default: Size, size: Size) -> Size:
    """Return a start or an end as Slice takes it; what torch clamps, Slice clamps too."""
    value = call.size(name) if call.has(name) else default
    if isinstance(value, int) and isinstance(size, int) and value >= size:
        return MAX_AXIS if name == "end" else value
    return value


@lower("slice.Tensor", "narrow.default", "slice_copy.Tensor")
def _slice(call: Call) -> str:
    axis = call.axis()
    size = call.shape("self")[axis]
    if "narrow" in str(call.node.target):
        start = call.size("start")
        return call.cut(call.tensor(), axis, start, start + call.size("length"))
    start, end = _bound(call, "start", 0, size), _bound(call, "end", MAX_AXIS, size)
    if end == size:
        end = MAX_AXIS
    return call.cut(call.tensor(), axis, start, end, call.integer("step"))


@lower("select.int", "select_copy.int")
def _select(call: Call) -> str:
    index = call.context.sizes.scalar(call.size("index"))
    return call.emit("Gather", [call.tensor(), index], axis=call.axis())


@lower("unbind.int")
def _unbind(call: Call) -> list[str]:
    axis, count = call.axis(), len(call.out)
    index = [call.number(i, "int64") for i in range(count)]
    return [call.emit("Gather", [call.tensor(), one], axis=axis) for one in index]


@lower(
    "split.Tensor",
    "split.sizes",
    "split_with_sizes.default",
    "chunk.default",
    "tensor_split.sections",
    "split_with_sizes_copy.default",
    "unsafe_split.Tensor",
    "unsafe_chunk.default",
)
def _split(call: Call) -> list[str]:
    axis = call.axis()
    parts = [sizes_of(one)[axis] for one in call.out]
    if len(parts) == 1:
        return [call.tensor()]
    inputs = [call.tensor(), call.context.sizes.vector(parts)]
    return call.emit_all("Split", inputs, len(parts), {"axis": axis})


@lower("cat.default", "concat.default")
def _cat(call: Call) -> str:
    dtype = call.out_dtype
    # torch passes over empty vectors here.
    full = [one for one in call.args["tensors"] if sizes_of(one.meta["val"]) != (0,)]
    if not full:
        return call.given(call.args["tensors"][0], dtype)
    rank = len(call.out_shape)
    return call.concat([call.given(one, dtype) for one in full], call.axis("dim", rank))


@lower("stack.default")
def _stack(call: Call) -> str:
    axis = call.axis("dim", len(call.out_shape))
    values = call.tensors("tensors", call.out_dtype)
    return call.concat([call.unsqueeze(one, [axis]) for one in values], axis)


@lower("slice_scatter.default", "select_scatter.default")
def _scatter(call: Call) -> str:
    """Put ``src`` in the place of a part: what is before it, it, what is behind it."""
    axis, size = call.axis(), call.shape("self")[call.axis()]
    x, new = call.tensor(), call.tensor("src", call.out_dtype)
    if "select" in str(call.node.target):
        index = call.size("index")
        start = index + size if isinstance(index, int) and index < 0 else index
        end, new = start + 1, call.unsqueeze(new, [axis])
    else:
        if call.integer("step") != 1:
            raise Refused("a part with steps that is written", "step 1")
        start, end = _bound(call, "start", 0, size), _bound(call, "end", MAX_AXIS, size)
        start = start + size if isinstance(start, int) and start < 0 else start
        new = call.expand(new, call.shape("src"), sizes_of(call.meta("src")))
    parts = [] if start == 0 else [call.cut(x, axis, 0, start)]
    parts.append(new)
    if end not in (MAX_AXIS, size):
        parts.append(call.cut(x, axis, end, MAX_AXIS))
    return call.concat(parts, axis)


@lower("index_select.default")
def _index_select(call: Call) -> str:
    return call.emit("Gather", [call.tensor(), call.tensor("index")], axis=call.axis())


@lower("embedding.default")
def _embedding(call: Call) -> str:
    return call.emit("Gather", [call.tensor("weight"), call.tensor("indices")], axis=0)


@lower("gather.default")
def _gather(call: Call) -> str:
    """Turn the places along one axis into places in the flat tensor."""
    axis, shape, places = call.axis(), call.shape("self"), call.shape("index")
    scalar = call.context.sizes.scalar
    total = ""
    for other in range(len(shape)):
        if other == axis:
            term = call.tensor("index", "int64")
        else:
            term = call.unsqueeze(call.range(0, places[other], 1), range(1, len(shape) - other))
        stride = math.prod(shape[other + 1 :])
        if stride != 1:
            term = call.emit("Mul", [term, scalar(stride)])
        total = call.emit("Add", [total, term]) if total else term
    whole = call.reshape(call.tensor(), shape, [math.prod(shape)])
    return call.emit("Gather", [whole, total], axis=0)


@lower("index_put.default")
def _index_put(call: Call) -> str:
    """Write at integer places of the leading axes, or one number where a mask is true."""
    given = list(call.args["indices"])
    x, dtype = call.tensor(), call.out_dtype
    if call.args.get("accumulate") or any(one is None for one in given):
        raise Refused("a sum, or axes left out, in what is written", "places of leading axes")
    kinds = {call.type_of(one.meta["val"].dtype) for one in given}
    if kinds == {"bool"} and len(given) == 1 and math.prod(call.shape("values")) == 1:
        mask = call.given(given[0])
        rank = len(sizes_of(given[0].meta["val"]))
        mask = call.unsqueeze(mask, range(rank, call.rank()))
        value = call.reshape(call.tensor("values", dtype), call.shape("values"), [1])
        return call.emit("Where", [mask, value, x])
    if "bool" in kinds:
        raise Refused("several values at a mask", "one number, or places as integers")
    shapes = [sizes_of(one.meta["val"]) for one in given]
    widest = max(shapes, key=len)
    full = _broadcast(shapes, len(widest))
    columns = [
        call.unsqueeze(call.expand(call.given(one, "int64"), size, full), [len(full)])
        for one, size in zip(given, shapes, strict=True)
    ]
    places = call.concat(columns, len(full))
    rows = [*full, *call.shape("self")[len(given) :]]
    values = call.expand(call.tensor("values", dtype), call.shape("values"), rows)
    return call.emit("ScatterND", [x, places, values])


def _broadcast(shapes: list[tuple[Size, ...]], rank: int) -> list[Size]:
    padded = [[1] * (rank - len(shape)) + list(shape) for shape in shapes]
    return [next((one for one in column if one != 1), 1) for column in zip(*padded, strict=True)]


@lower("index.Tensor")
def _index(call: Call) -> str:
    """Index neighbouring axes by integers: one Gather on the axes as one."""
    given = list(call.args["indices"])
    places = [axis for axis, one in enumerate(given) if one is not None]
    indices = [given[axis] for axis in places]
    if any(call.type_of(one.meta["val"].dtype) == "bool" for one in indices):
        raise Refused("an index of booleans", "integers: the sizes must not depend on values")
    first, last = places[0], places[-1]
    if last - first + 1 != len(places):
        raise Refused("indices of axes that are apart", "of neighbouring axes")
    shape = call.shape("self")
    if len(places) == 1:
        return call.emit("Gather", [call.tensor(), call.given(indices[0])], axis=first)
    sizes = [call.context.sizes.scalar(size) for size in shape[first : last + 1]]
    zero, flat = call.number(0, "int64"), ""
    for size, one in zip(sizes, indices, strict=True):
        index = call.given(one, "int64")
        behind = call.emit("Less", [index, zero])
        index = call.emit("Where", [behind, call.emit("Add", [index, size]), index])
        flat = call.emit("Add", [call.emit("Mul", [flat, size]), index]) if flat else index
    joined: Any = math.prod(shape[first : last + 1])
    x = call.reshape(call.tensor(), shape, [*shape[:first], joined, *shape[last + 1 :]])
    return call.emit("Gather", [x, flat], axis=first)


@lower("flip.default")
def _flip(call: Call) -> str:
    value = call.tensor()
    for axis in call.axes("dims"):
        bounds = [call.integers_value([one]) for one in (-1, -(1 << 62), axis, -1)]
        value = call.emit("Slice", [value, *bounds])
    return value


@lower("roll.default")
def _roll(call: Call) -> str:
    value, axes = call.tensor(), call.axes("dims")
    if not call.args.get("dims"):
        raise Refused("roll of all axes as one", "roll along named axes")
    for shift, axis in zip(call.integers("shifts"), axes, strict=True):
        if not isinstance(call.shape("self")[axis], int):
            raise FreeSize("roll of a free axis", "of a fixed one")
        at = -shift % max(call.shape("self")[axis], 1)
        if at:
            parts = [call.cut(value, axis, at, MAX_AXIS), call.cut(value, axis, 0, at)]
            value = call.concat(parts, axis)
    return value


@lower("repeat.default", "tile.default")
def _repeat(call: Call) -> str:
    repeats = call.sizes("repeats" if "repeats" in call.args else "dims")
    repeats = [1] * (call.rank() - len(repeats)) + repeats
    value = call.unsqueeze(call.tensor(), list(range(len(repeats) - call.rank())))
    if all(one == 1 for one in repeats):
        return value
    return call.emit("Tile", [value, call.context.sizes.vector(repeats)])


@lower("repeat_interleave.self_int")
def _repeat_interleave(call: Call) -> str:
    shape = list(call.shape("self"))
    if call.args.get("dim") is None:
        raise Refused("repeat_interleave without dim", "dim is needed")
    axis, times = call.axis(), call.size("repeats")
    wide = call.unsqueeze(call.tensor(), [axis + 1])
    one = [*shape[: axis + 1], 1, *shape[axis + 1 :]]
    many = [*shape[: axis + 1], times, *shape[axis + 1 :]]
    return call.reshape(call.expand(wide, one, many), many, call.out_shape)


@lower("unfold.default")
def _unfold(call: Call) -> str:
    """Gather the windows, then bring their axis to the end."""
    axis = call.axis("dimension")
    size, step = call.integer("size"), call.integer("step")
    count = call.out_shape[axis]
    starts = call.range(0, count, 1)
    if step != 1:
        starts = call.emit("Mul", [starts, call.number(step, "int64")])
    offsets = call.builder.constant(np.arange(size, dtype=np.int64), "window")
    index = call.emit("Add", [call.unsqueeze(starts, [1]), offsets])
    windows = call.emit("Gather", [call.tensor(), index], axis=axis)
    rank = call.rank() + 1
    perm = [a for a in range(rank) if a != axis + 1] + [axis + 1]
    return call.transpose(windows, perm)
