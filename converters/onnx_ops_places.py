# SPDX-License-Identifier: MIT
"""ONNX operators that read or write at places, in those that do so along one axis or by rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gruengine.converters.onnx_ops import Call, Refused, lower
from gruengine.converters.onnx_ops_more import rank_of


class _Places:
    """Integers at run time, for one node: sizes, and places along axes."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def number(self, value: int) -> str:
        """Return a constant."""
        return self.call.builder.constant(np.array(value, np.int64), "number")

    def size(self, name: str, axis: int) -> str:
        """Return one size of a value."""
        return self.call.tmp("Gather", [self.call.tmp("Shape", [name]), self.number(axis)])

    def along(self, name: str, axis: int, rank: int) -> str:
        """Return 0, 1, ... along one axis of a value, in its shape."""
        steps = self.call.tmp("Range", [self.number(0), self.size(name, axis), self.number(1)])
        if axis < rank - 1:
            axes = self.call.builder.integers(range(1, rank - axis), "axes")
            steps = self.call.tmp("Unsqueeze", [steps, axes])
        return self.call.tmp("Expand", [steps, self.call.tmp("Shape", [name])])

    def counted(self, places: str, size: str) -> str:
        """Return places of which those below zero count from the end."""
        negative = self.call.tmp("Less", [places, self.number(0)])
        return self.call.tmp("Where", [negative, self.call.tmp("Add", [places, size]), places])

    def flat(self, data: str, columns: Sequence[str]) -> str:
        """Return the place in the first axes of ``data``, flat, of a place in each of them."""
        total = ""
        for axis, places in enumerate(columns):
            if total:
                total = self.call.tmp("Mul", [total, self.size(data, axis)])
            total = self.call.tmp("Add", [total, places]) if total else places
        return total


def _int64(call: Call, name: str) -> str:
    if call.builder.info(name).dtype == "int64":
        return name
    return call.tmp("Cast", [name], {"to": 7})


def _ranks(call: Call) -> tuple[int, int]:
    """Return the number of axes of data and indices, which is the same, and the axis."""
    rank = rank_of(call)
    if call.builder.info(call.inputs[1]).rank != rank:
        raise Refused((f"{call.node.op} of other ranks", "data and indices have the same"))
    axis = call.integer("axis", 0)
    if not -rank <= axis < rank:
        raise Refused((f"attribute axis = {axis}", f"the data have {rank} axes"))
    return rank, axis % rank


@lower("GatherElements", attrs="axis", since=11)
def _gather_elements(call: Call) -> list[str]:
    call.needs(2, 2)
    rank, axis = _ranks(call)
    places, data, at = _Places(call), call.inputs[0], _int64(call, call.inputs[1])
    if rank == 1:
        return call.out("Gather", [data, at], {"axis": 0})
    columns = [
        places.counted(at, places.size(data, axis)) if i == axis else places.along(at, i, rank)
        for i in range(rank)
    ]
    whole = call.tmp("Reshape", [data, call.builder.integers([-1], "flat")])
    return call.out("Gather", [whole, places.flat(data, columns)], {"axis": 0})


@lower("ScatterElements", "Scatter", attrs="axis reduction", since=9)
def _scatter_elements(call: Call) -> list[str]:
    call.needs(3, 3)
    rank, axis = _ranks(call)
    reduction = call.text("reduction", "none")
    if reduction not in ("none", "add", "mul", "min", "max"):
        raise Refused((f"attribute reduction = {reduction!r}", "it is not known"))
    places, at = _Places(call), _int64(call, call.inputs[1])
    last = call.builder.integers([rank], "axes")
    columns = [
        call.tmp("Unsqueeze", [at if i == axis else places.along(at, i, rank), last])
        for i in range(rank)
    ]
    rows = columns[0] if rank == 1 else call.tmp("Concat", columns, {"axis": rank})
    return call.out("ScatterND", [call.inputs[0], rows, call.inputs[2]], {"reduction": reduction})


@lower("GatherND", attrs="batch_dims", since=11)
def _gather_nd(call: Call) -> list[str]:
    call.needs(2, 2)
    rank, shape = rank_of(call), call.builder.info(call.inputs[1]).shape
    count = shape[-1] if shape else None
    if call.integer("batch_dims", 0) or not isinstance(count, int) or not 0 < count <= rank:
        raise Refused(("GatherND of a batch, or of unknown places", "no batch, a known number"))
    assert shape is not None
    places, data, at = _Places(call), call.inputs[0], _int64(call, call.inputs[1])
    columns = []
    for i in range(count):
        column = call.tmp("Gather", [at, places.number(i)], {"axis": len(shape) - 1})
        columns.append(places.counted(column, places.size(data, i)))
    if count > 1:
        bounds = [call.builder.integers([v], "cut") for v in (count, 2**63 - 1)]
        rest = call.tmp("Slice", [call.tmp("Shape", [data]), *bounds])
        one = call.builder.integers([-1], "flat")
        data = call.tmp("Reshape", [data, call.tmp("Concat", [one, rest], {"axis": 0})])
    return call.out("Gather", [data, places.flat(call.inputs[0], columns)], {"axis": 0})


@lower("OneHot", attrs="axis", since=9)
def _one_hot(call: Call) -> list[str]:
    call.needs(3, 3)
    rank = rank_of(call, 0)
    depth, values = (call.builder.array(name) for name in call.inputs[1:])
    if depth is None or depth.size != 1 or values is None or values.shape != (2,):
        raise Refused(("OneHot", "depth and values must be constant"))
    axis, size = call.integer("axis", -1), int(depth.reshape(()))
    if not -rank - 1 <= axis <= rank:
        raise Refused((f"attribute axis = {axis}", f"from {-rank - 1} to {rank}"))
    axis %= rank + 1
    places = _Places(call)
    at = places.counted(_int64(call, call.inputs[0]), places.number(size))
    at = call.tmp("Unsqueeze", [at, call.builder.integers([axis], "axes")])
    steps = np.arange(size).reshape([-1 if i == axis else 1 for i in range(rank + 1)])
    hit = call.tmp("Equal", [at, call.builder.constant(steps, "steps")])
    ends = [call.builder.constant(values[i], f"value{i}") for i in (1, 0)]
    return call.out("Where", [hit, *ends])


@lower(
    "Resize",
    "Upsample",
    attrs="mode scales coordinate_transformation_mode nearest_mode cubic_coeff_a exclude_outside "
    "extrapolation_value antialias axes keep_aspect_ratio_policy",
)
def _resize(call: Call) -> list[str]:
    """Repeat elements: the nearest neighbour, for whole factors."""
    rank, mode = rank_of(call), call.text("mode", "nearest")
    old = call.node.op == "Upsample" or call.opset < 11
    how = "asymmetric" if old else call.text("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if old else call.text("nearest_mode", "round_prefer_floor")
    given = call.node.attrs.get("scales")
    factors = [v for v in given if isinstance(v, (int, float))] if isinstance(given, list) else None
    name = call.input(1 if old else 2)
    array = call.builder.array(name) if name else None
    if factors is None and array is not None and array.size:
        factors = [float(v) for v in array.reshape(-1)]
    if mode != "nearest" or factors is None or len(factors) != rank or call.ints("axes"):
        raise Refused(
            (f"{call.node.op} of mode {mode!r}", "nearest, by constant scales of all axes")
        )
    # For whole factors every nearest neighbour of half pixels is this one, too.
    same = (how, rounding) == ("asymmetric", "floor") or how.startswith("half_pixel")
    if not same or any(float(f) != int(float(f)) or float(f) < 1 for f in factors):
        raise Refused((f"{call.node.op} by {factors}, {how}, {rounding}", "whole factors"))
    places, value = _Places(call), call.inputs[0]
    for axis, factor in enumerate(int(float(f)) for f in factors):
        if factor > 1:
            by = places.number(factor)
            end = call.tmp("Mul", [places.size(value, axis), by])
            steps = call.tmp("Range", [places.number(0), end, places.number(1)])
            value = call.tmp("Gather", [value, call.tmp("Div", [steps, by])], {"axis": axis})
    return call.out("Identity", [value])


@lower("IsNaN", since=9)
def _is_nan(call: Call) -> list[str]:
    call.needs(1, 1)
    return call.out("Not", [call.tmp("Equal", [call.inputs[0], call.inputs[0]])])
