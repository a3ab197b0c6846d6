# SPDX-License-Identifier: MIT
"""What a model must satisfy whatever its operators are: names, order, types, state, parity.

The C++ reader checks the same rules (``cpp/src/io/check_graph.cpp``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from gruengine.recurrent_checks import recurrent_problems
from gruengine.safetensors import MAX_RANK, shown
from gruengine.spec import DTYPES, Attr, Graph, ModelSpec, Node, Port

MAX_GRAPH_DEPTH = 16
INT64 = range(-(1 << 63), 1 << 63)
_NUMPY_DTYPES = tuple(np.dtype(name) for name in DTYPES)


def problems_of(spec: ModelSpec) -> list[str]:
    """Return every broken rule of ``spec``, each as one line; empty when it is valid."""
    problems = _tensor_problems("tensor", spec.tensors)
    _GraphChecker(spec.tensors, problems).check(spec.graph, "", 1)
    return problems + _state_problems(spec) + _parity_problems(spec)


def _tensor_problems(what: str, tensors: dict[str, np.ndarray[Any, Any]]) -> list[str]:
    problems = []
    for name, array in tensors.items():
        problem = name_problem(name)
        if problem:
            problems.append(f"{what} {shown(name)}: {problem}")
        elif not isinstance(array, np.ndarray):
            problems.append(f"{what} {shown(name)} is a {type(array).__name__}; allowed: ndarray")
        elif array.dtype not in _NUMPY_DTYPES:
            problems.append(
                f"{what} {shown(name)} has dtype {array.dtype}; allowed: {', '.join(DTYPES)}"
            )
        elif array.ndim > MAX_RANK:
            problems.append(f"{what} {shown(name)} has {array.ndim} axes; allowed: {MAX_RANK}")
    return problems


def name_problem(name: object) -> str:
    """Return what is wrong with a name, or the empty string."""
    if not isinstance(name, str) or not name:
        return "a name must be a string and not empty"
    if "\0" in name:
        return "a name must hold no zero character"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "a name must be valid Unicode"
    return ""


class _GraphChecker:
    """Walks a graph and those inside it, and collects problems."""

    def __init__(self, tensors: dict[str, np.ndarray[Any, Any]], problems: list[str]) -> None:
        self.tensors = tensors
        self.problems = problems
        self.visible = set(tensors)
        self.computed: set[str] = set()  # by any node, to tell a wrong order from a wrong name

    def check(self, graph: Graph, where: str, depth: int) -> None:
        """Check one graph; the names that it defines stay visible inside it only."""
        defined: list[str] = []
        for port in graph.inputs:
            self._port(port, f"{where}graph input")
            self._define(port.name, defined, f"{where}graph input")
        self.computed.update(name for node in graph.nodes for name in node.outputs)
        for index, node in enumerate(graph.nodes):
            title = f"{where}node {index} {shown(node.name)} ({node.op})"
            self._node(node, title, depth)
            for name in node.outputs:
                if name != "":
                    self._define(name, defined, f"{title}: output")
        for name, times in Counter(port.name for port in graph.outputs).items():
            what = f"{where}graph output {shown(name)}"
            if times > 1:
                self.problems.append(f"{what} is listed {times} times; allowed: once")
            if name not in self.visible:
                self.problems.append(f"{what} is computed by no node")
        for port in graph.outputs:
            self._port(port, f"{where}graph output")
        self.visible.difference_update(defined)

    def _define(self, name: str, defined: list[str], what: str) -> None:
        problem = name_problem(name)
        if problem:
            self.problems.append(f"{what} {shown(name)}: {problem}")
        elif name in self.visible:
            self.problems.append(f"{what} {shown(name)}: this name is already defined")
        else:
            self.visible.add(name)
            defined.append(name)

    def _port(self, port: Port, what: str) -> None:
        what = f"{what} {shown(port.name)}"
        if port.dtype not in DTYPES:
            self.problems.append(
                f"{what} has dtype {shown(port.dtype)}; allowed: {', '.join(DTYPES)}"
            )
        fits = isinstance(port.shape, tuple) and len(port.shape) <= MAX_RANK
        if not fits or not all(_is_size(size) for size in port.shape):
            self.problems.append(
                f"{what} has shape {shown(port.shape)}; "
                f"allowed: a tuple of up to {MAX_RANK} sizes >= 0 or names"
            )

    def _node(self, node: Node, title: str, depth: int) -> None:
        say = self.problems.append
        if name_problem(node.op):
            say(f"{title}: operator: {name_problem(node.op)}")
        if not isinstance(node.name, str) or (node.name and name_problem(node.name)):
            say(f"{title}: name {shown(node.name)}; allowed: valid text")
        for name in node.inputs:
            if name != "" and name not in self.visible:
                early = name in self.computed
                fault = "is used before it is computed" if early else "is not known"
                say(f"{title}: input {shown(name)} {fault}")
        if not any(node.outputs):
            say(f"{title}: no output has a name; allowed: at least one")
        for name, value in node.attrs.items():
            self._attribute(name, value, title, depth)
        if node.op == "Recurrent":
            self.problems += [f"{title}: {text}" for text in recurrent_problems(node, self.tensors)]

    def _attribute(self, name: str, value: Attr, title: str, depth: int) -> None:
        what = f"{title}: attribute {shown(name)}"
        if name_problem(name):
            self.problems.append(f"{what}: {name_problem(name)}")
        if not isinstance(value, Graph):
            problem = _value_problem(value)
            if problem:
                self.problems.append(f"{what} is {shown(value)}; {problem}")
        elif depth >= MAX_GRAPH_DEPTH:
            self.problems.append(f"{what}: graphs are nested deeper than {MAX_GRAPH_DEPTH}")
        else:
            self.check(value, f"{what}: ", depth + 1)


def _is_size(size: object) -> bool:
    if isinstance(size, str):
        return not name_problem(size)
    return type(size) is int and 0 <= size < 1 << 63


def _value_problem(value: object) -> str:
    if isinstance(value, list):
        kinds = {float if type(item) is int else type(item) for item in value}
        if kinds <= {str} or kinds <= {float, np.float64}:
            return next((text for text in map(_value_problem, value) if text), "")
        return "allowed: a list of integers, of floats or of strings"
    if type(value) is int:
        return "" if value in INT64 else "allowed: integers of 64 bits"
    if isinstance(value, float):
        return "" if math.isfinite(value) else "allowed: finite floats"
    if isinstance(value, str):
        return "" if not value or not name_problem(value) else name_problem(value)
    return "allowed: int, float, str, a list of one of them, Graph"


def _state_problems(spec: ModelSpec) -> list[str]:
    problems = []
    inputs = {port.name: port for port in spec.graph.inputs}
    outputs = {port.name: port for port in spec.graph.outputs}
    for source, target in spec.state:
        what = f"state pair {shown(source)} -> {shown(target)}"
        if source not in inputs or target not in outputs:
            problems.append(
                f"{what}; allowed: a graph input ({_listed(inputs)}) "
                f"and a graph output ({_listed(outputs)})"
            )
            continue
        before, after = inputs[source], outputs[target]
        if before.dtype != after.dtype or not _fits(before.shape, after.shape):
            problems.append(
                f"{what}: {before.dtype} {shown(before.shape)} becomes "
                f"{after.dtype} {shown(after.shape)}; allowed: the same dtype and sizes"
            )
    for side, what in ((0, "input"), (1, "output")):
        for name, times in Counter(pair[side] for pair in spec.state).items():
            if times > 1:
                problems.append(f"state {what} {shown(name)} is in {times} pairs; allowed: one")
    return problems


def _fits(first: object, second: object) -> bool:
    """Whether two shapes may be equal: names fit every size."""
    if not isinstance(first, tuple) or not isinstance(second, tuple):
        return True  # reported with the port
    return len(first) == len(second) and all(
        a == b or isinstance(a, str) or isinstance(b, str)
        for a, b in zip(first, second, strict=True)
    )


def _listed(names: Iterable[str]) -> str:
    return shown(", ".join(names), 200)


def _parity_problems(spec: ModelSpec) -> list[str]:
    if spec.parity is None:
        return []
    carried = {source for source, _ in spec.state}
    problems = [] if isinstance(spec.parity.oracle, str) else ["parity oracle is not a string"]
    for what, arrays, ports in (
        ("parity input", spec.parity.inputs, {port.name: port for port in spec.graph.inputs}),
        ("parity output", spec.parity.outputs, {port.name: port for port in spec.graph.outputs}),
    ):
        problems += _tensor_problems(what, arrays)
        for name, array in arrays.items():
            port = ports.get(name)
            if port is None:
                problems.append(f"{what} {shown(name)}; allowed: {_listed(ports)}")
            elif isinstance(array, np.ndarray) and (
                array.dtype.name != port.dtype or not _fits(array.shape, port.shape)
            ):
                problems.append(
                    f"{what} {shown(name)} is {array.dtype.name} {list(array.shape)}; "
                    f"allowed: {port.dtype} {shown(port.shape)}"
                )
    missing = [port.name for port in spec.graph.inputs if port.name not in spec.parity.inputs]
    problems += [f"no parity input {shown(name)}" for name in missing if name not in carried]
    if not spec.parity.outputs:
        problems.append("a parity sample without outputs; allowed: at least one")
    return problems
