# SPDX-License-Identifier: MIT
"""Recognises one step of an LSTM, GRU or simple RNN in elementary operators.

Each matcher starts at the node that makes the new h and works backwards through every order of
operands. What it returns is the same maths as those nodes, whatever the model calls it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from gruengine.converters.affine import Affine, Bias, Forms, Gate, activation_of
from gruengine.spec import Attr, Node

Activation = tuple[str, float, float]
LINEAR: Activation = ("Affine", 1.0, 0.0)


@dataclass(frozen=True)
class Cell:
    """One recognised step.

    gates : affine values by gate letter, in the order of ONNX; for a GRU's ``h`` the input part
    recurrent : a GRU's candidate: its part of h (reset after), or None
    reset_source : what stands for h in a GRU's candidate (reset before: r * h)
    state : the old h, where the equations name it (GRU); else None
    """

    kind: str
    node: Node
    h_new: str
    gates: dict[str, Affine]
    activations: list[Activation]
    c_new: str = ""
    c_old: str = ""
    state: str | None = None
    update: str = "keep"
    recurrent: Affine | None = None
    reset_source: str | None = None
    biases: list[str] = field(default_factory=list)


def orders(node: Node | None, op: str) -> Iterator[tuple[str, str]]:
    """Yield the two inputs of a node of this operator, in both orders."""
    if node is not None and node.op == op and len(node.inputs) == 2:
        yield node.inputs[0], node.inputs[1]
        yield node.inputs[1], node.inputs[0]


def match(node: Node, forms: Forms) -> Cell | None:
    """Return the cell whose new h is the first output of ``node``, or None."""
    if node.op == "Mul":
        return _lstm(node, forms)
    if node.op == "Add":
        return _gru(node, forms)
    gate = forms.gates.get(node.outputs[0]) if node.outputs else None
    if gate is not None and len(gate.inner.sources) > 1 and activation_of(node) is not None:
        return Cell("rnn", node, node.outputs[0], {"h": gate.inner}, [gate.activation])
    return None


# -- LSTM: h' = o * act(f * c + i * g) ------------------------------------------------------------


def _lstm(node: Node, forms: Forms) -> Cell | None:
    for o_name, squashed in orders(node, "Mul"):
        o, outer = forms.gates.get(o_name), forms.makers.get(squashed)
        last = activation_of(outer) if outer is not None else None
        if o is None or outer is None or last is None or squashed in forms.gates:
            continue
        c_new = outer.inputs[0]
        for kept, added in orders(forms.makers.get(c_new), "Add"):
            found = _cell_state(kept, added, o, forms)
            if found is None:
                continue
            f, c_old, i, g = found
            gates = {"i": i.inner, "o": o.inner, "f": f.inner, "c": g.inner}
            activations = [o.activation, g.activation, last]
            return Cell("lstm", node, node.outputs[0], gates, activations, c_new, c_old)
    return None


def belongs(h: str, c: str, forms: Forms) -> bool:
    """Return whether a value is the h that the state c of an LSTM made."""
    maker = forms.makers.get(h)
    for _, squashed in orders(maker, "Mul"):
        outer = forms.makers.get(squashed)
        if outer is not None and outer.inputs and outer.inputs[0] == c:
            return activation_of(outer) is not None
    return False


def _cell_state(
    kept: str, added: str, o: Gate, forms: Forms
) -> tuple[Gate, str, Gate, Gate] | None:
    """Return f, c, i, g of ``f * c + i * g``; i and f have the activation of o."""
    for f_name, c_old in orders(forms.makers.get(kept), "Mul"):
        f = forms.gates.get(f_name)
        if f is None or f.activation != o.activation or c_old in forms.gates:
            continue
        for i_name, g_name in orders(forms.makers.get(added), "Mul"):
            i, g = forms.gates.get(i_name), forms.gates.get(g_name)
            if i is not None and g is not None and i.activation == o.activation:
                return f, c_old, i, g
    return None


# -- GRU ------------------------------------------------------------------------------------------


def _gru(node: Node, forms: Forms) -> Cell | None:
    for z_name, h, n_name, update in _blends(node, forms):
        z, maker = forms.gates.get(z_name), forms.makers.get(n_name)
        if z is None or maker is None or h in forms.gates:
            continue
        squash = activation_of(maker) if maker.op not in ("Add", "Gemm", "MatMul") else None
        inner = n_name if squash is None else maker.inputs[0]
        squash = squash or LINEAR
        candidate = _candidate(inner, h, z, forms)
        if candidate is None:
            continue
        r, inputs, recurrent, reset_source, biases = candidate
        return Cell(
            "gru",
            node,
            node.outputs[0],
            {"z": z.inner, "r": r.inner, "h": inputs},
            [z.activation, squash],
            state=h,
            update=update,
            recurrent=recurrent,
            reset_source=reset_source,
            biases=biases,
        )
    return None


def _blends(node: Node, forms: Forms) -> Iterator[tuple[str, str, str, str]]:
    """Yield (z, h, n, update) of every way to write the new state as a blend of h and n."""
    for base, product in orders(node, "Add"):
        for z, difference in orders(forms.makers.get(product), "Mul"):
            maker = forms.makers.get(difference)
            if maker is not None and maker.op == "Sub" and maker.inputs[1] == base:
                other = maker.inputs[0]
                yield z, other, base, "keep"  # n + z (h - n)
                yield z, base, other, "take"  # h + z (n - h)
    for first, second in orders(node, "Add"):
        for z, a in orders(forms.makers.get(first), "Mul"):
            for rest, b in orders(forms.makers.get(second), "Mul"):
                if _is_rest(rest, z, forms):
                    yield z, a, b, "keep"  # z h + (1 - z) n
                    yield z, b, a, "take"  # z n + (1 - z) h


def _is_rest(name: str, z: str, forms: Forms) -> bool:
    """Return whether a value is 1 - z."""
    maker = forms.makers.get(name)
    if maker is None or maker.op != "Sub" or maker.inputs[1] != z:
        return False
    one = forms.tensors.get(maker.inputs[0])
    return one is not None and one.size == 1 and float(one.reshape(-1)[0]) == 1.0


Candidate = tuple[Gate, Affine, "Affine | None", "str | None", list[str]]


def _candidate(value: str, h: str, z: Gate, forms: Forms) -> Candidate | None:
    """Return r and the parts of a candidate's argument: ``a(x) + r * b(h)`` or ``a(x, r * h)``."""
    whole = forms.affine.get(value)
    if whole is not None:
        for source in whole.sources:
            for r_name, other in orders(forms.makers.get(source), "Mul"):
                r = forms.gates.get(r_name)
                if r is not None and other == h and r.activation == z.activation:
                    return r, whole, None, source, []
        return None
    leaves = _leaves(value, forms)
    inputs = [leaf for leaf in leaves if leaf in forms.affine]
    rest = [leaf for leaf in leaves if leaf not in forms.affine]
    products = [leaf for leaf in rest if leaf not in forms.tensors]
    if len(inputs) != 1 or len(products) != 1:
        return None
    biases = [leaf for leaf in rest if leaf in forms.tensors]
    width = forms.affine[inputs[0]].width
    if any(forms.tensors[leaf].shape not in ((width,), (1, width)) for leaf in biases):
        return None
    for r_name, b_name in orders(forms.makers.get(products[0]), "Mul"):
        r, b = forms.gates.get(r_name), forms.affine.get(b_name)
        if b is None and h in forms.tensors and forms.row(b_name, width) is not None:
            b = Affine(width, (), (Bias(b_name, (0, width), h),))  # a product of zeros, folded
        fits = b is not None and b.sources <= {h}
        if r is not None and b is not None and fits and r.activation == z.activation:
            return r, forms.affine[inputs[0]], b, None, biases
    return None


def _leaves(value: str, forms: Forms) -> list[str]:
    """Return what a few nested additions add up."""
    leaves = [value]
    for _ in range(4):
        deeper: list[str] = []
        for leaf in leaves:
            maker = forms.makers.get(leaf)
            is_sum = maker is not None and maker.op == "Add" and leaf not in forms.affine
            deeper += maker.inputs if is_sum and maker is not None else [leaf]
        if deeper == leaves:
            break
        leaves = deeper
    return leaves


def attributes(cell: Cell, width: int) -> dict[str, Attr]:
    """Return the attributes of the Recurrent node that a cell is."""
    attrs: dict[str, Attr] = {
        "cell": cell.kind,
        "hidden_size": width,
        "direction": "forward",
        "activations": [name for name, _, _ in cell.activations],
        "activation_alpha": [alpha for _, alpha, _ in cell.activations],
        "activation_beta": [beta for _, _, beta in cell.activations],
    }
    if cell.kind == "gru":
        attrs["reset"] = "before" if cell.reset_source else "after"
        attrs["update"] = cell.update
    return attrs
