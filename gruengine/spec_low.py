# SPDX-License-Identifier: MIT
"""Which weights of a graph a compute type keeps in fewer bits, and what they become.

The rules are those of the engine: the weights of ``Recurrent``, the constant right sides of
``MatMul`` and ``Gemm``, the weights of ``Conv`` and the tables of ``Gather``, unless they are few.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from gruengine.quantise import expand_int4, quantise_int4, quantise_weights, round_bfloat16
from gruengine.spec import Graph, ModelSpec, Node

Array = np.ndarray[Any, Any]

FEW_WEIGHTS = 1024
MOST_ROWS = 65536
FEW_OUTPUTS = 16


def low_axes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Return the tensors that a compute type below float32 rounds.

    Returns
    -------
    dict of str to tuple of int
        For each the axes that share a scale in int8: those summed over by the product, the
        features of a table; none for convolutions, which are made in bfloat16 there too.
    """
    found: dict[str, set[tuple[int, ...] | None]] = {}
    _collect(spec.graph, spec, found)
    for port in spec.graph.outputs:
        found.setdefault(port.name, set()).add(None)
    alike = {name: next(iter(axes)) for name, axes in found.items() if len(axes) == 1}
    return {name: axes for name, axes in alike.items() if axes is not None and name in spec.tensors}


def _collect(graph: Graph, spec: ModelSpec, found: dict[str, set[tuple[int, ...] | None]]) -> None:
    for node in graph.nodes:
        for i, name in enumerate(node.inputs):
            if name in spec.tensors:
                found.setdefault(name, set()).add(_axes(node, i, spec.tensors[name]))
        for value in node.attrs.values():
            if isinstance(value, Graph):
                _collect(value, spec, found)


def _axes(node: Node, i: int, tensor: Array) -> tuple[int, ...] | None:
    """Return the axes of input ``i`` that share a scale, or None where it stays as it is."""
    if tensor.dtype != np.float32:
        return None
    rank, shape = tensor.ndim, tensor.shape
    if node.op == "Recurrent" and i in (1, 2, 8) and not any(node.inputs[9:11]):
        return (rank - 1,) if max(shape[1:]) <= 4 * MOST_ROWS and shape[-1] <= MOST_ROWS else None
    if node.op == "Conv" and i == 1:
        outputs = shape[0] // int(node.attrs.get("group", 1))  # type: ignore[arg-type]
        depth = math.prod(shape[1:])
        enough = outputs >= FEW_OUTPUTS and _enough(depth, outputs)
        return () if enough else None
    if node.op == "Gather" and i == 0 and rank == 2 and node.attrs.get("axis", 0) == 0:
        return (1,) if _enough(shape[1], shape[0]) else None
    if node.op == "Gemm" and i == 1:
        axis = 1 if node.attrs.get("transB", 0) else 0
        return (axis,) if _enough(shape[axis], shape[1 - axis]) else None
    if node.op == "MatMul" and i == 1 and rank >= 2 and math.prod(shape[:-2]) == 1:
        return (rank - 2,) if _enough(shape[-2], shape[-1]) else None
    return None


def _enough(k: int, n: int) -> bool:
    return k * n >= FEW_WEIGHTS and k <= MOST_ROWS


def pack(array: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the int8 elements of a tensor and their scales, of size 1 along ``axes``."""
    kept = [axis for axis in range(array.ndim) if axis not in axes]
    order = [*kept, *axes]
    turned = array.transpose(order)
    rows = turned.reshape(*turned.shape[: len(kept)], -1)
    q, scales = quantise_weights(rows)
    q = q.reshape(turned.shape).transpose(np.argsort(order))
    sizes = [1 if axis in axes else size for axis, size in enumerate(array.shape)]
    return np.ascontiguousarray(q), scales.reshape(sizes)


def pack_int4(array: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Return a tensor in int4: its integers and the scales of sections along ``axes[0]``."""
    q, scales = quantise_int4(np.moveaxis(array, axes[0], -1))
    turned = (np.ascontiguousarray(np.moveaxis(a, -1, axes[0])) for a in (q, scales))
    return next(turned), next(turned)


def unpack_int4(q: Array, scales: Array, axes: tuple[int, ...]) -> Array:
    """Return the floats that :func:`pack_int4` stands for."""
    floats = expand_int4(np.moveaxis(q, axes[0], -1), np.moveaxis(scales, axes[0], -1))
    return np.ascontiguousarray(np.moveaxis(floats, -1, axes[0]))


def int4_forms(spec: ModelSpec) -> dict[str, str]:
    """Return how int4 keeps the tensors of :func:`low_axes`: in int4, int8 or bfloat16.

    Tables are looked up in int8 and convolutions made in bfloat16; a tensor that is a table and a
    matrix at once is left alone.
    """
    tables: set[str] = set()
    others: set[str] = set()
    graphs = [spec.graph]
    while graphs:
        for node in graphs.pop().nodes:
            table = node.inputs[:1] if node.op == "Gather" else ()
            tables.update(table)
            others.update(node.inputs[len(table) :])
            graphs += [value for value in node.attrs.values() if isinstance(value, Graph)]
    found = {}
    for name, axes in low_axes(spec).items():
        if name not in tables:
            found[name] = "int4" if axes else "bfloat16"
        elif name not in others:
            found[name] = "int8"
    return found


def quantise(spec: ModelSpec, compute_type: str) -> ModelSpec:
    """Return the spec with its weights rounded as ``compute_type`` rounds them.

    The engine computes the very same numbers from it in that compute type as from ``spec``.
    """
    tensors = dict(spec.tensors)
    forms = int4_forms(spec) if compute_type == "int4" else {}
    for name, axes in low_axes(spec).items():
        form = forms.get(name) if compute_type == "int4" else compute_type
        if form == "bfloat16" or (form == "int8" and not axes):
            tensors[name] = round_bfloat16(tensors[name]).astype(np.float32)
        elif form == "int8":
            q, scales = pack(tensors[name], axes)
            tensors[name] = q.astype(np.float32) * scales
        elif form == "int4":
            tensors[name] = unpack_int4(*pack_int4(tensors[name], axes), axes)
    return replace(spec, tensors=tensors, compute_type=compute_type)
