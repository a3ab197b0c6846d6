# SPDX-License-Identifier: MIT
"""What is known of the outputs of products, windows, reductions and cells, one rule each."""

from __future__ import annotations

from collections.abc import Sequence

from gruengine.converters.shapes import Info, Shape, Size, attr, axis_of, broadcast, given, rule
from gruengine.spec import Node

# -- products and reductions ----------------------------------------------------------------------


@rule("MatMul")
def _matmul(node: Node, x: Sequence[Info]) -> Info:
    a, b = x[0].shape, x[1].shape
    if a is None or b is None or not a or not b:
        return Info(x[0].dtype)
    batch = broadcast(a[:-2], b[:-2])
    rows, columns = a[-2:-1], b[-1:] if len(b) > 1 else ()
    return Info(x[0].dtype, None if batch is None else (*batch, *rows, *columns))


@rule("Gemm")
def _gemm(node: Node, x: Sequence[Info]) -> Info:
    def side(info: Info, place: int, flag: str) -> Size:
        if info.shape is None:
            return None
        return info.shape[1 - place if attr(node, flag, 0) else place]

    return Info(x[0].dtype, (side(x[0], 0, "transA"), side(x[1], 1, "transB")))


def _windows(node: Node, x: Shape, kernel: Sequence[Size]) -> list[Size]:
    """Return the sizes after a kernel has moved over the axes of ``x`` behind the first two."""
    n = len(kernel)
    if x is None or len(x) != n + 2:
        return [None] * n

    def numbers(name: str, default: int, length: int) -> list[int]:
        value = node.attrs.get(name)
        given = value if isinstance(value, list) else [default] * length
        return [int(v) for v in given if not isinstance(v, str)]

    pads, ceil = numbers("pads", 0, 2 * n), attr(node, "ceil_mode", 0)
    strides, dilations = numbers("strides", 1, n), numbers("dilations", 1, n)
    same = str(node.attrs.get("auto_pad", "")).startswith("SAME")
    out: list[Size] = []
    for i, (size, width) in enumerate(zip(x[2:], kernel, strict=True)):
        if same:
            one = size if strides[i] == 1 else None
            out.append(-(-size // strides[i]) if isinstance(size, int) else one)
            continue
        if not isinstance(size, int) or not isinstance(width, int) or ceil:
            known = isinstance(width, int) and not ceil and strides[i] == 1
            grown = pads[i] + pads[i + n] - (int(width or 1) - 1) * dilations[i] if known else 1
            out.append(size if grown == 0 else None)
            continue
        room = size + pads[i] + pads[i + n] - ((width - 1) * dilations[i] + 1)
        out.append(room // strides[i] + 1 if room >= 0 else None)
    return out


@rule("Conv")
def _conv(node: Node, x: Sequence[Info]) -> Info:
    a, w = x[0].shape, x[1].shape
    if a is None or w is None or len(a) != len(w):
        return Info(x[0].dtype)
    return Info(x[0].dtype, (a[0], w[0], *_windows(node, a, w[2:])))


@rule("ConvTranspose")
def _conv_transpose(node: Node, x: Sequence[Info]) -> Info:
    a, w = x[0].shape, x[1].shape
    if a is None or w is None or len(a) != len(w):
        return Info(x[0].dtype)
    n, group = len(a) - 2, attr(node, "group", 1)

    def numbers(name: str, default: int, length: int) -> list[int]:
        value = node.attrs.get(name)
        return [int(v) for v in value] if isinstance(value, list) else [default] * length

    strides, dilations = numbers("strides", 1, n), numbers("dilations", 1, n)
    pads, extra = numbers("pads", 0, 2 * n), numbers("output_padding", 0, n)
    out: list[Size] = []
    for i, (size, width) in enumerate(zip(a[2:], w[2:], strict=True)):
        if isinstance(width, int) and isinstance(size, int):
            whole = (size - 1) * strides[i] + (width - 1) * dilations[i] + 1 + extra[i]
            out.append(whole - pads[i] - pads[n + i])
        elif isinstance(width, int) and strides[i] == 1:
            grown = (width - 1) * dilations[i] + extra[i] - pads[i] - pads[n + i]
            out.append(size if grown == 0 else None)
        else:
            out.append(None)
    outputs = w[1] * group if isinstance(w[1], int) else None
    return Info(x[0].dtype, (a[0], outputs, *out))


@rule("ScatterND", "CumSum")
def _like_first(node: Node, x: Sequence[Info]) -> Info:
    return Info(x[0].dtype, x[0].shape)


@rule("ArgMax", "ArgMin")
def _arg(node: Node, x: Sequence[Info]) -> Info:
    if x[0].shape is None:
        return Info("int64")
    axis = axis_of(attr(node, "axis", 0), len(x[0].shape))
    middle = (1,) if attr(node, "keepdims", 1) else ()
    return Info("int64", (*x[0].shape[:axis], *middle, *x[0].shape[axis + 1 :]))


@rule("TopK")
def _top_k(node: Node, x: Sequence[Info]) -> list[Info]:
    if x[0].shape is None:
        return [Info(x[0].dtype), Info("int64")]
    axis, k = axis_of(attr(node, "axis", -1), len(x[0].shape)), x[1].value
    size = k[0] if k else None
    shape = (*x[0].shape[:axis], size, *x[0].shape[axis + 1 :])
    return [Info(x[0].dtype, shape), Info("int64", shape)]


@rule("MaxPool", "AveragePool")
def _pool(node: Node, x: Sequence[Info]) -> Info:
    kernel = node.attrs["kernel_shape"]
    if x[0].shape is None or not isinstance(kernel, list):
        return Info(x[0].dtype)
    sizes: list[Size] = [int(k) for k in kernel]
    return Info(x[0].dtype, (*x[0].shape[:2], *_windows(node, x[0].shape, sizes)))


@rule("GlobalAveragePool")
def _global_pool(node: Node, x: Sequence[Info]) -> Info:
    if x[0].shape is None:
        return Info(x[0].dtype)
    return Info(x[0].dtype, (*x[0].shape[:2], *[1] * (len(x[0].shape) - 2)))


@rule(
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceL2",
    "ReduceL1", "ReduceProd",
)  # fmt: skip
def _reduce(node: Node, x: Sequence[Info]) -> Info:
    if x[0].shape is None:
        return Info(x[0].dtype)
    axes = x[1].integers() if given(node, 1) else []
    keep, rank = attr(node, "keepdims", 1), len(x[0].shape)
    if axes is None:
        return Info(x[0].dtype, (None,) * rank if keep else None)
    if not axes and attr(node, "noop_with_empty_axes", 0):
        return Info(x[0].dtype, x[0].shape)
    gone = {axis_of(a, rank) for a in axes} or set(range(rank))
    sizes = [(1 if i in gone else s, i in gone) for i, s in enumerate(x[0].shape)]
    return Info(x[0].dtype, tuple(s for s, reduced in sizes if keep or not reduced))


@rule("Recurrent")
def _recurrent(node: Node, x: Sequence[Info]) -> list[Info]:
    hidden, dtype = attr(node, "hidden_size", 0), x[0].dtype
    directions = 2 if node.attrs.get("direction") == "bidirectional" else 1
    time, batch = (None, None) if x[0].shape is None else x[0].shape[:2]
    width = hidden if x[2].shape is None else x[2].shape[2]
    return [
        Info(dtype, (time, directions, batch, width)),
        Info(dtype, (directions, batch, width)),
        Info(dtype, (directions, batch, hidden)),
    ]
