# SPDX-License-Identifier: MIT
"""The last steps of a conversion: names of outputs, element types of what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gruengine.converters.base import Reason
from gruengine.converters.onnx_fold import Builder, rename, walk
from gruengine.converters.onnx_model import Value
from gruengine.converters.onnx_tensor import type_name
from gruengine.converters.shapes import Info
from gruengine.spec import DTYPES, Graph, Node, Port

Array = np.ndarray[Any, Any]


def output_values(
    builder: Builder, names: Sequence[str], values: Sequence[str], inputs: set[str]
) -> list[Node]:
    """Return all nodes, such that each graph output has its name of the source."""
    made = {name for node in builder.nodes for name in node.outputs if name}
    renamed: dict[str, str] = {}
    extra: list[Node] = []
    for name, value in zip(names, values, strict=True):
        builder.infos[name] = builder.info(value)
        builder.origins[name] = builder.origins.get(value, -1)
        if value in made and value not in renamed:
            renamed[value] = name
        elif name not in inputs:
            extra.append(Node("Identity", (value,), (name,)))
    return rename([*builder.nodes, *extra], renamed)


def conditions_on_data(nodes: Sequence[Node], inputs: set[str]) -> list[tuple[Node, Reason]]:
    """Return the branches that cannot be chosen from shapes alone, naming the inputs to bind."""
    reasons: list[tuple[Node, Reason]] = []
    _follow(nodes, {name: frozenset([name]) for name in inputs}, reasons)
    return reasons


def _follow(
    nodes: Sequence[Node],
    roots: dict[str, frozenset[str]],
    reasons: list[tuple[Node, Reason]],
) -> None:
    """Add to ``roots`` the inputs whose values, not sizes, each value depends on."""
    none: frozenset[str] = frozenset()
    for node in nodes:
        found = none.union(*(roots.get(name, none) for name in node.inputs))
        branches = [value for value in node.attrs.values() if isinstance(value, Graph)]
        if branches and found:
            what = f"If on the values of {', '.join(sorted(found))}"
            why = "its condition must be constant, or follow from shapes: bind these inputs"
            reasons.append((node, Reason(node.name or node.outputs[0], what, why)))
        elif node.op in ("Shape", "Size"):
            found = none
        for branch in branches:
            _follow(branch.nodes, roots, reasons)
            found = found.union(*(roots.get(port.name, none) for port in branch.outputs))
        # A few names are enough for a message, and keep long graphs linear.
        roots.update(dict.fromkeys(node.outputs, frozenset(sorted(found)[:4])))


def output_ports(builder: Builder, declared: Sequence[Value]) -> list[Port]:
    """Return the graph outputs: what is known of them, else what the source declares."""
    ports = []
    for value in declared:
        info, told = builder.info(value.name), value.shape
        dtype = info.dtype or type_name(value.elem_type)
        sizes = info.shape if info.shape is not None else told or ()
        told = told if told is not None and len(told) == len(sizes) else (None,) * len(sizes)
        shape = tuple(
            size if size is not None else declared_size or f"{value.name}_{axis}"
            for axis, (size, declared_size) in enumerate(zip(sizes, told, strict=True))
        )
        clean = tuple(s.replace("\0", "") or "size" if isinstance(s, str) else s for s in shape)
        ports.append(Port(value.name, dtype if dtype in DTYPES else "float32", clean))
    return ports


def finish_tensors(
    graph: Graph, builder: Builder, reasons: list[Reason], warnings: list[str]
) -> dict[str, Array]:
    """Return the constants that the graph needs, in the types of a model file."""
    needed = {name for node in walk(graph.nodes) for name in node.inputs}
    needed |= {port.name for port in graph.outputs}
    tensors: dict[str, Array] = {}
    for name in [name for name in builder.tensors if name in needed]:
        array = np.ascontiguousarray(builder.tensors[name]).reshape(builder.tensors[name].shape)
        if array.dtype == np.float16:
            array = array.astype(np.float32)
        elif array.dtype == np.float64:
            with np.errstate(over="ignore"):
                narrow = array.astype(np.float32)
            if not np.array_equal(narrow.astype(np.float64), array, equal_nan=True):
                why = "float32 must hold every value, or allow_rounding=True be given"
                reasons.append(Reason(name, "a float64 constant", why))
            array = narrow
        elif array.dtype.name not in DTYPES:
            why = f"constants are {', '.join(DTYPES)} at run time"
            reasons.append(Reason(name, f"a constant of {array.dtype}", why))
        tensors[name] = array
    if builder.rounding and builder.rounded:
        warnings.append(f"float64 values were rounded to float32 in {builder.rounded} tensors")
    return tensors


def branch_port(name: str, info: Info) -> Port:
    """Return the declaration of what a branch makes."""
    sizes = enumerate(info.shape or ())
    shape = tuple(f"{name}_{i}" if s is None else s for i, s in sizes)
    return Port(name, info.dtype if info.dtype in DTYPES else "float32", shape)


def bound(value: Value, given: Any) -> tuple[Array | None, str]:
    """Return the array for a bound input, or None and why it does not fit."""
    dtype = type_name(value.elem_type)
    if value.kind != "tensor" or dtype not in DTYPES:
        return None, f"the input is {dtype}; {', '.join(DTYPES)} can be bound"
    try:
        array = np.asarray(given)
        wanted = array.astype(dtype)
    except (ValueError, TypeError, OverflowError):
        return None, f"the value is no array of {dtype}"
    if array.dtype.kind not in "biuf":
        return None, f"the value is {array.dtype}; the input is {dtype}"
    exact = np.array_equal(wanted, array) or (array.dtype.kind == "f" == wanted.dtype.kind)
    if not exact or (array.dtype.kind == "b") != (dtype == "bool"):
        return None, f"the value {str(given)[:40]} is {array.dtype}; the input is {dtype}"
    shape = value.shape
    if shape is not None:
        fits = len(shape) == wanted.ndim and all(
            not isinstance(s, int) or s == n for s, n in zip(shape, wanted.shape, strict=True)
        )
        if not fits:
            return None, f"the value has shape {list(wanted.shape)}; the input has {list(shape)}"
    return np.array(wanted), ""


def in_words(node: Node) -> str:
    """Return what a recurrent node is, for the report."""
    cell, hidden = str(node.attrs["cell"]).upper(), node.attrs["hidden_size"]
    return f"{node.name or node.outputs[0]}: {cell} {hidden} {node.attrs['direction']}"
