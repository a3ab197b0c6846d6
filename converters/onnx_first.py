# SPDX-License-Identifier: MIT
"""What stands in the way of joining steps: projections in advance, and first steps from zeros.

Exporters multiply a whole sequence at once and cut the product into frames, and fold the product of
a state of zeros away. Here the frames are cut first, and the first step gets its state back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gruengine.converters.affine import Affine, Forms
from gruengine.converters.cell_match import Cell, attributes, match
from gruengine.converters.gates import TABLE
from gruengine.converters.onnx_fold import Builder, live_nodes
from gruengine.converters.onnx_steps import Steps, turned_axis
from gruengine.converters.shapes import UNKNOWN, infer
from gruengine.spec import Attr, Node

Array = np.ndarray[Any, Any]

#: How far a folded bias may be from the sum of its parts, both in float32.
FOLDED = 1e-5


# -- frames of products are products of frames ----------------------------------------------------


def cut_first(nodes: Sequence[Node], builder: Builder) -> list[Node]:
    """Return nodes in which frames are cut before they are multiplied, where all of them are."""
    users: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            users.setdefault(name, []).append(node)
    makers = {name: node for node in nodes for name in node.outputs if name}
    sunk: dict[int, list[Node]] = {}
    for node in nodes:
        name = node.outputs[0] if node.outputs else ""
        product = _product(name, makers, builder)
        cuts = users.get(name, [])
        if product is None or len(cuts) < 2 or not all(_is_cut(c, name, builder) for c in cuts):
            continue
        x, weight, bias, turned = product
        for cut in cuts:
            sunk[id(cut)] = [*turned, *_sunk(cut, x, weight, bias, builder)]
            turned = []
    return [new for node in nodes for new in sunk.get(id(node), [node])]


def _product(
    name: str, makers: Mapping[str, Node], builder: Builder
) -> tuple[str, str, str, list[Node]] | None:
    """Return X, W and b of a value X W + b of three axes, and what turns X around; or None."""
    node, bias = makers.get(name), ""
    if node is not None and turned_axis(node, builder) in (0, 1):
        inner = _product(node.inputs[0], makers, builder)
        if inner is None or inner[3]:
            return None
        turned = Node("Slice", (inner[0], *node.inputs[1:]), (builder.fresh(f"{name}_x"),))
        learn([turned], builder)
        return turned.outputs[0], inner[1], inner[2], [turned]
    if node is not None and node.op == "Add":
        for product, other in (node.inputs, node.inputs[::-1]):
            array = builder.array(other)
            if array is not None and array.ndim == 1:
                node, bias = makers.get(product), other
                break
    if node is None or node.op != "MatMul" or builder.info(node.inputs[0]).rank != 3:
        return None
    weight = builder.array(node.inputs[1])
    if weight is None or weight.ndim != 2:
        return None
    return node.inputs[0], node.inputs[1], bias, []


def _is_cut(node: Node, name: str, builder: Builder) -> bool:
    if node.inputs[0] != name or name in node.inputs[1:]:
        return False
    if node.op == "Gather":
        place = builder.array(node.inputs[1])
        return place is not None and place.size == 1 and node.attrs.get("axis", 0) in (0, 1)
    if node.op != "Slice" or len(node.inputs) < 4:
        return False
    axes = builder.array(node.inputs[3])
    shape = builder.info(node.outputs[0]).shape
    one = axes is not None and axes.size == 1 and int(axes.reshape(-1)[0]) in (0, 1)
    return one and shape is not None and axes is not None and shape[int(axes.reshape(-1)[0])] == 1


def _sunk(cut: Node, x: str, weight: str, bias: str, builder: Builder) -> list[Node]:
    """Return the nodes that cut X, then multiply and add."""
    frame = builder.fresh(f"{cut.outputs[0]}_x")
    product = builder.fresh(f"{cut.outputs[0]}_xw") if bias else cut.outputs[0]
    made = [
        Node(cut.op, (x, *cut.inputs[1:]), (frame,), cut.attrs, cut.name),
        Node("MatMul", (frame, weight), (product,), {}, cut.name),
    ]
    if bias:
        made.append(Node("Add", (product, bias), cut.outputs, {}, cut.name))
    learn(made, builder)
    return made


def learn(nodes: Sequence[Node], builder: Builder) -> None:
    """Note what is known of the values of new nodes."""
    for node in nodes:
        given = [builder.infos.get(name, UNKNOWN) for name in node.inputs]
        for name, info in zip(node.outputs, infer(node, given), strict=True):
            if name:
                builder.infos.setdefault(name, info)


# -- first steps ----------------------------------------------------------------------------------


def first_steps(nodes: Sequence[Node], builder: Builder, keep: set[str]) -> list[Node]:
    """Return nodes in which the step before a step of the same cell is one, if it is from zeros."""
    steps = Steps(list(nodes), builder)
    forms = Forms(nodes, builder.tensors, builder.infos)
    gone: set[int] = set()
    made: dict[int, list[Node]] = {}
    for step in nodes:
        if not steps.is_step(step) or steps.before(step) is not None:
            continue
        h_new = steps.origin(step.inputs[5])
        maker = forms.makers.get(h_new)
        cell = _cell_from_zeros(maker, step, forms)
        if cell is None or maker is None or id(maker) in gone:
            continue
        if cell.c_new and (len(step.inputs) < 7 or steps.origin(step.inputs[6]) != cell.c_new):
            continue
        added = _first_step(cell, step, builder)
        if added is None:
            continue
        first = forms.makers[cell.c_new] if cell.c_new else maker
        gone |= {id(first), id(maker)}
        made[id(first)] = added
    if not made:
        return list(nodes)
    result: list[Node] = []
    for node in nodes:
        result += made.get(id(node), [])
        if id(node) not in gone:
            result.append(node)
    return live_nodes(result, set(keep))


def _cell_from_zeros(maker: Node | None, step: Node, forms: Forms) -> Cell | None:
    """Return the cell of one step whose states are constants of zeros, with x as its one source."""
    kind = step.attrs.get("cell")
    if maker is None or maker.op == "Recurrent":
        return None
    cell = match(maker, forms)
    gate = forms.gates.get(maker.outputs[0])
    if kind == "rnn" and gate is not None and len(gate.inner.sources) == 1:
        cell = Cell("rnn", maker, maker.outputs[0], {"h": gate.inner}, [gate.activation])
    if cell is None or cell.kind != kind:
        return None
    states = [name for name in (cell.c_old, cell.state) if name]
    if any(name not in forms.tensors or np.any(forms.tensors[name]) for name in states):
        return None
    width = step.attrs.get("hidden_size")
    if not isinstance(width, int) or len(states) != (0 if kind == "rnn" else 1):
        return None
    wanted = attributes(cell, width)
    if any(step.attrs.get(key) != value for key, value in wanted.items()):
        return None
    return cell if _is_same(cell, step, forms, width) else None


def _is_same(cell: Cell, step: Node, forms: Forms, width: int) -> bool:
    """Whether the gates have the weights of the step, and its biases without the state."""
    weights, given = (
        forms.tensors[step.inputs[1]][0],
        step.inputs[3] if len(step.inputs) > 3 else "",
    )
    order = TABLE["onnx"][cell.kind].order
    size = len(order) * width
    biases = forms.tensors[given][0] if given else np.zeros(2 * size, np.float32)
    sources = {t.source for form in cell.gates.values() for t in form.terms} - {cell.reset_source}
    if len(sources) != 1:
        return False
    for i, gate in enumerate(order):
        form, rows = cell.gates[gate], slice(i * width, (i + 1) * width)
        terms = [term for term in form.terms if term.source in sources]
        if form.width != width or len(terms) != 1:
            return False
        array = forms.tensors[terms[0].weight]
        across, down = slice(*terms[0].rows), slice(*terms[0].columns)
        block = array[down, across] if terms[0].transposed else array[across, down].T
        if not np.array_equal(block, weights[rows]):
            return False
        low = biases[:size][rows].astype(np.float64)
        high = biases[size:][rows].astype(np.float64)
        after = cell.recurrent if gate == "h" and cell.kind == "gru" else None
        if after is None:
            low = low + high
        elif not _are_near(_total(after, forms), high):
            return False
        own = _total(form, forms) + sum(
            (forms.tensors[b].reshape(-1) for b in (cell.biases if after is not None else [])),
            np.zeros(width),
        )
        if not _are_near(own, low):
            return False
    return True


def _total(form: Affine, forms: Forms) -> Array:
    total = np.zeros(form.width, np.float64)
    for bias in form.biases:
        row = forms.tensors[bias.tensor].reshape(-1)
        total += row[slice(*bias.columns)] if row.size > 1 else row
    return total


def _are_near(a: Array, b: Array) -> bool:
    return bool(np.all(np.abs(a - b) <= FOLDED * (1 + np.abs(b))))


def _first_step(cell: Cell, step: Node, builder: Builder) -> list[Node] | None:
    """Return the node of the first step, from constants of zeros."""
    (x,) = {t.source for form in cell.gates.values() for t in form.terms} - {cell.reset_source}
    shape = builder.info(x).shape
    if shape is None or len(shape) not in (2, 3) or not isinstance(shape[-2], int):
        return None
    width = step.attrs["hidden_size"]
    assert isinstance(width, int)
    zero = builder.integers([0], "axis_0")
    nodes: list[Node] = []
    if len(shape) == 2:
        wide = builder.fresh(f"{x}_step")
        nodes.append(Node("Unsqueeze", (x, zero), (wide,), {}, cell.node.name))
        x = wide
    state = builder.constant(np.zeros((1, shape[-2], width), np.float32), "zeros")
    inputs = [x, *step.inputs[1:4], "", state, *([state] if cell.c_new else [])]
    results = [cell.h_new, *([cell.c_new] if cell.c_new else [])]
    outputs = [""]
    attrs: dict[str, Attr] = dict(step.attrs)
    after: list[Node] = []
    for name in results:
        if builder.info(name).rank == 3:
            outputs.append(name)
            continue
        outputs.append(builder.fresh(f"{name}_step"))
        after.append(Node("Squeeze", (outputs[-1], zero), (name,), {}, cell.node.name))
    nodes.append(Node("Recurrent", tuple(inputs), tuple(outputs), attrs, cell.node.name))
    nodes += after
    learn(nodes, builder)
    return nodes
