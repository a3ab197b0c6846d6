# SPDX-License-Identifier: MIT
"""ATen operators that reduce axes."""

from __future__ import annotations

import math
from typing import Any

from gruengine.converters.aten import Call, Refused, lower

_REDUCE = {
    "mean": "ReduceMean", "sum": "ReduceSum", "amax": "ReduceMax", "amin": "ReduceMin",
    "prod": "ReduceProd", "max": "ReduceMax", "min": "ReduceMin",
}  # fmt: skip


@lower(
    "mean.dim", "mean.default", "sum.dim_IntList", "sum.default", "amax.default", "amin.default",
    "prod.default", "prod.dim_int", "max.default", "min.default", "max.dim", "min.dim",
)  # fmt: skip
def _reduce(call: Call) -> str | list[str]:
    name = str(call.node.target).split(".")[1]
    pair = str(call.node.target).endswith("x.dim") or str(call.node.target).endswith("n.dim")
    pair = pair and name in ("max", "min")
    dtype = call.type_of(call.out[0].dtype) if pair else call.out_dtype
    axes, keep = call.axes(), int(bool(call.args.get("keepdim")))
    x = call.tensor("self", dtype)
    y = x if call.rank() == 0 else _reduced(call, _REDUCE[name], x, axes, keep)
    return [y, _place(call, name, axes, keep)] if pair else y


def _reduced(call: Call, op: str, x: str, axes: list[int], keep: int) -> str:
    return call.emit(op, [x, call.integers_value(axes)], keepdims=keep)


def _place(call: Call, name: str, axes: list[int], keep: int) -> str:
    op = "ArgMax" if name == "max" else "ArgMin"
    return call.emit(op, [call.tensor()], axis=axes[0], keepdims=keep)


@lower("argmax.default", "argmin.default")
def _arg(call: Call) -> str:
    op = "ArgMax" if "argmax" in str(call.node.target) else "ArgMin"
    keep = int(bool(call.args.get("keepdim")))
    if call.has("dim"):
        return call.emit(op, [call.tensor()], axis=call.axis(), keepdims=keep)
    flat = call.reshape(call.tensor(), call.shape("self"), [math.prod(call.shape("self"))])
    return call.emit(op, [flat], axis=0, keepdims=keep)


@lower("any.default", "any.dim", "any.dims", "all.default", "all.dim", "all.dims")
def _any(call: Call) -> str:
    op = "ReduceMax" if "any" in str(call.node.target) else "ReduceMin"
    own = call.type_of(call.meta("self").dtype)
    x = call.tensor()
    if own != "bool":
        x = call.emit("Not", [call.emit("Equal", [x, call.number(0, own)])])
    keep = int(bool(call.args.get("keepdim")))
    number = call.cast(x, "float32")
    if call.rank():
        number = _reduced(call, op, number, call.axes(), keep)
    return call.emit("Greater", [number, call.number(0.5)])


@lower("var.correction", "var_mean.correction", "std.correction", "std_mean.correction")
@lower("var.dim", "std.dim")
def _variance(call: Call) -> str | list[str]:
    name = str(call.node.target).split(".")[1]
    axes, keep = call.axes(), int(bool(call.args.get("keepdim")))
    x = call.tensor()
    mean = _reduced(call, "ReduceMean", x, axes, 1)
    centred = call.emit("Sub", [x, mean])
    total = _reduced(call, "ReduceSum", call.emit("Mul", [centred, centred]), axes, keep)
    if "correction" in str(call.node.target):
        correction = call.real("correction") if call.has("correction") else 1.0
    else:
        correction = 1.0 if call.args.get("unbiased", True) else 0.0
    count: Any = math.prod(call.shape("self")[axis] for axis in axes)
    if isinstance(count, int):
        divisor = call.number(max(count - correction, 0.0))
    else:
        divisor = call.cast(call.context.sizes.scalar(count), "float32")
        divisor = call.emit("Sub", [divisor, call.number(correction)])
    y = call.emit("Div", [total, divisor])
    if name.startswith("std"):
        y = call.emit("Sqrt", [y])
    if not name.endswith("mean"):
        return y
    return [y, mean if keep else call.squeeze(mean, axes)]


@lower("linalg_vector_norm.default", "norm.ScalarOpt_dim", "norm.Scalar")
def _norm(call: Call) -> str:
    order: float = 2.0
    for key in ("ord", "p"):
        if call.has(key):
            order = call.real(key)
    op = {1.0: "ReduceL1", 2.0: "ReduceL2"}.get(order)
    x = call.tensor()
    keep = int(bool(call.args.get("keepdim")))
    if op is not None:
        return _reduced(call, op, x, call.axes(), keep)
    if order in (math.inf, -math.inf):
        op = "ReduceMax" if order > 0 else "ReduceMin"
        return _reduced(call, op, call.emit("Abs", [x]), call.axes(), keep)
    raise Refused(f"a norm of order {order}", "1, 2 and infinity are run")


@lower("cumsum.default")
def _cumsum(call: Call) -> str:
    axis = call.number(call.axis(), "int64")
    return call.emit("CumSum", [call.tensor("self", call.out_dtype), axis])


@lower("topk.default", "sort.default", "sort.stable")
def _topk(call: Call) -> list[str]:
    axis = call.axis()
    if "topk" in str(call.node.target):
        count, largest = call.size("k"), int(bool(call.args.get("largest", True)))
    else:
        count, largest = call.shape("self")[axis], int(bool(call.args.get("descending")))
    inputs = [call.tensor(), call.context.sizes.vector([count])]
    return call.emit_all("TopK", inputs, 2, {"axis": axis, "largest": largest, "sorted": 1})


@lower("logsumexp.default")
def _logsumexp(call: Call) -> str:
    """Subtract the maximum, which keeps exp in its range, and add it again."""
    x, axes, keep = call.tensor(), call.axes(), int(bool(call.args.get("keepdim")))
    top = _reduced(call, "ReduceMax", x, axes, 1)
    parts = call.emit("Exp", [call.emit("Sub", [x, top])])
    total = call.emit("Log", [_reduced(call, "ReduceSum", parts, axes, 1)])
    y = call.emit("Add", [total, top])
    return y if keep else call.squeeze(y, axes)
