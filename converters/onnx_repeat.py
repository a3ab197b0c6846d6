# SPDX-License-Identifier: MIT
"""Loop and Scan: over whole sequences where their states are those of known cells, else unrolled.

How often a Loop runs must be known: a number, or the size of a sequence by its name. It is proved
that its condition does not end it before that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gruengine.converters.onnx_body import Body, Repeat, number, refused
from gruengine.converters.onnx_model import OnnxGraph, OnnxNode
from gruengine.converters.onnx_over_time import GivenUp
from gruengine.converters.shapes import Size
from gruengine.errors import ModelFileError

if TYPE_CHECKING:
    from gruengine.converters.onnx_walk import Scope, Walker

#: Loops of more turns, or that would become more nodes, are not unrolled.
MAX_TURNS = 1024
MAX_NODES = 1 << 15


def lower_loop(walker: Walker, node: OnnxNode, inputs: list[str], scope: Scope) -> list[str]:
    """Lower a Loop; return the values of its outputs."""
    body = node.attrs.get("body")
    if not isinstance(body, OnnxGraph) or len(body.inputs) != len(inputs):
        raise ModelFileError(f"Loop {node.name!r} needs a body of {len(inputs)} inputs")
    states = inputs[2:]
    if len(inputs) < 2 or len(body.outputs) < len(states) + 1:
        raise ModelFileError(f"Loop {node.name!r} needs a body of more outputs")
    limit = inputs[0]
    count = number(walker, limit) if limit else None
    return _lower(walker, Repeat(node, body, count, states, [], True, inputs[1]), scope)


def lower_scan(walker: Walker, node: OnnxNode, inputs: list[str], scope: Scope) -> list[str]:
    """Lower a Scan of opset 9 and later; return the values of its outputs."""
    body, builder = node.attrs.get("body"), walker.builder
    scans = node.attrs.get("num_scan_inputs")
    if not isinstance(body, OnnxGraph) or not isinstance(scans, int):
        raise ModelFileError(f"Scan {node.name!r} needs a body and num_scan_inputs")
    if walker.opset < 9 or not 0 < scans <= len(inputs) or len(body.inputs) != len(inputs):
        return refused(walker, node, inputs, "a body of other inputs, or opset 8")
    states, frames = inputs[: len(inputs) - scans], []
    outs = len(node.outputs) - len(states)
    axes, directions = (
        _numbers(node, "scan_input_axes", scans),
        _numbers(node, "scan_input_directions", scans),
    )
    counts: list[Size] = []
    for source, axis, back in zip(inputs[len(states) :], axes, directions, strict=True):
        shape = builder.info(source).shape
        if shape is None or not -len(shape) <= axis < len(shape):
            return refused(walker, node, inputs, f"a sequence {source!r} of unknown rank")
        axis %= len(shape)
        counts.append(shape[axis])
        if axis:
            perm = [axis, *(i for i in range(len(shape)) if i != axis)]
            source = builder.emit("Transpose", [source], {"perm": perm}, (f"{source}_t",))[0]
        frames.append(_reversed(walker, source, 0) if back else source)
    if len(set(counts)) != 1 or counts[0] is None:
        return refused(walker, node, inputs, f"sequences of {counts} frames")
    results = _lower(walker, Repeat(node, body, counts[0], states, frames, False), scope)
    axes, directions = (_numbers(node, f"scan_output_{k}", outs) for k in ("axes", "directions"))
    for i, (axis, back) in enumerate(zip(axes, directions, strict=True), len(states)):
        if back:
            results[i] = _reversed(walker, results[i], 0)
        rank = builder.info(results[i]).rank
        if axis and rank is not None:
            perm = [*range(1, rank)]
            perm.insert(axis % rank, 0)
            results[i] = builder.emit(
                "Transpose", [results[i]], {"perm": perm}, node.outputs[i : i + 1]
            )[0]
    return results


def _numbers(node: OnnxNode, key: str, count: int) -> list[int]:
    value = node.attrs.get(key, [0] * count)
    if (
        not isinstance(value, list)
        or len(value) != count
        or not all(isinstance(v, int) for v in value)
    ):
        raise ModelFileError(f"Scan {node.name!r}: {key} needs {count} numbers")
    return [int(v) for v in value]


def _reversed(walker: Walker, name: str, axis: int) -> str:
    builder = walker.builder
    bounds = [builder.integers([v], "back") for v in (-1, -(2**63 - 1), axis, -1)]
    return builder.emit("Slice", [name, *bounds], {}, (f"{name}_back",))[0]


def _lower(walker: Walker, repeat: Repeat, scope: Scope) -> list[str]:
    node = repeat.node
    if len(node.outputs) > len(repeat.outputs) or len(repeat.outputs) < len(repeat.states):
        raise ModelFileError(f"{node.op} {node.name!r} names more outputs than its body has")
    if any(not name for name in repeat.states):
        return refused(walker, node, [], "a state without a first value")
    inputs = [*repeat.states, *repeat.frames]
    before = walker.nodes_before
    try:
        return Body(walker, repeat, scope).over_time()
    except GivenUp as given_up:
        why = str(given_up)
    walker.nodes_before = before
    size = len(repeat.body.nodes)
    if not isinstance(repeat.count, int):
        return refused(walker, node, inputs, f"it is no known cell ({why}) and runs "
                        f"{repeat.count or 'an unknown number of'} times")  # fmt: skip
    if repeat.count > MAX_TURNS or repeat.count * size > MAX_NODES:
        allowed = f"at most {MAX_TURNS} turns and {MAX_NODES} nodes are unrolled"
        return refused(walker, node, inputs, f"it is no known cell ({why}); {allowed}")
    try:
        return _unrolled(walker, repeat, scope)
    except GivenUp as given_up:
        return refused(walker, node, inputs, f"it is no known cell ({why}), and {given_up}")


# -- one turn after another -----------------------------------------------------------------------


def _unrolled(walker: Walker, repeat: Repeat, scope: Scope) -> list[str]:
    from gruengine.converters.onnx_walk import Scope

    builder, count = walker.builder, repeat.count
    assert isinstance(count, int)
    states, stacks = (
        list(repeat.states),
        [list[str]() for _ in repeat.outputs[len(repeat.states) :]],
    )
    going = repeat.start
    for turn in range(count):
        if going and not _is_true(walker, going):
            break
        inner = Scope(scope)
        walker.enter(repeat.body, inner)
        place = builder.constant(np.array(turn, np.int64), "turn")
        if repeat.counted:
            inner.values[repeat.body.inputs[0].name] = place
            inner.values[repeat.body.inputs[1].name] = builder.constant(np.array(True), "going")
        inner.values.update(zip(repeat.state_names, states, strict=True))
        for name, source in zip(repeat.frame_names, repeat.frames, strict=True):
            inner.values[name] = builder.emit("Gather", [source, place], {"axis": 0}, (name,))[0]
        walker.nodes(repeat.body, inner)
        results = [walker.value(inner, name, "the body of a loop") for name in repeat.outputs]
        states = results[: len(states)]
        for stack, value in zip(stacks, results[len(states) :], strict=True):
            stack.append(value)
        if repeat.counted:
            going = walker.value(inner, repeat.body.outputs[0].name, "the body of a loop")
    zero = builder.integers([0], "axes")
    joined = []
    for stack, wish in zip(stacks, repeat.node.outputs[len(states) :], strict=False):
        if not stack:
            raise GivenUp("it does not run at all")
        parts = [builder.emit("Unsqueeze", [v, zero], {}, (f"{v}_row",))[0] for v in stack]
        joined.append(builder.emit("Concat", parts, {"axis": 0}, (wish,), repeat.node.name)[0])
    return [*states, *joined]


def _is_true(walker: Walker, name: str) -> bool:
    value = walker.builder.array(name)
    if value is None or value.size != 1:
        raise GivenUp("its condition depends on data")
    return bool(value.reshape(()))
