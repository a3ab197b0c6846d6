# SPDX-License-Identifier: MIT
"""The graph of one recurrent module of a live PyTorch model, for ``gruengine.torch``."""

from __future__ import annotations

from typing import Any

import numpy as np

from gruengine.converters import gates
from gruengine.spec import Attr, Dim, Graph, ModelSpec, Node, Port


def places_of(module: Any) -> list[tuple[str, ...]]:
    """Return the suffixes of the names of the parameters: those of the directions of each layer."""
    if not hasattr(module, "num_layers"):
        return [("",)]  # a cell
    ways = ("", "_reverse") if module.bidirectional else ("",)
    return [tuple(f"_l{layer}{way}" for way in ways) for layer in range(module.num_layers)]


def kinds_of(module: Any) -> list[str]:
    """Return the names of the parameters of one direction, without the suffix of its place."""
    kinds = ["weight_ih", "weight_hh"]
    kinds += ["bias_ih", "bias_hh"] if module.bias else []
    return kinds + (["weight_hr"] if getattr(module, "proj_size", 0) else [])


def names_of(module: Any) -> list[str]:
    """Return the names of the parameters that a module of its settings has."""
    kinds = kinds_of(module)
    return [kind + place for places in places_of(module) for place in places for kind in kinds]


def sizes_of(module: Any) -> tuple[int, int, int, int, int]:
    """Return layers, directions, I, H and K."""
    places = places_of(module)
    hidden = module.hidden_size
    width = getattr(module, "proj_size", 0) or hidden
    return len(places), len(places[0]), module.input_size, hidden, width


def _activations(module: Any, kind: str) -> list[str]:
    relu = getattr(module, "mode", "") == "RNN_RELU" or (
        kind == "rnn" and module.nonlinearity == "relu"
    )
    return ["Relu"] if relu else list(gates.DEFAULT_ACTIVATIONS[kind])


def attributes_of(module: Any, kind: str, directions: int) -> dict[str, Attr]:
    """Return the attributes of the Recurrent node of one layer."""
    activations = _activations(module, kind) * directions
    attrs: dict[str, Attr] = {
        "cell": kind,
        "hidden_size": module.hidden_size,
        "direction": "bidirectional" if directions == 2 else "forward",
        "activations": activations,
        "activation_alpha": [0.0] * len(activations),
        "activation_beta": [0.0] * len(activations),
    }
    if kind == "gru":
        attrs.update(reset="after", update="keep")
    return attrs


def spec_of(module: Any, kind: str, is_cell: bool) -> ModelSpec:
    """Return the graph of a module, time first, with every state an input and an output.

    Parameters
    ----------
    module : recurrent module or cell of torch.nn, float32 on the CPU
    kind : {"rnn", "lstm", "gru"}
    is_cell : bool
        Its output is its next h, which is then no output of its own.
    """
    _, directions, features, hidden, width = sizes_of(module)
    attrs = attributes_of(module, kind, directions)
    tensors: dict[str, Any] = {"axis": np.array([1], np.int64)}
    tensors["merged"] = np.array([0, 0, directions * width], np.int64)
    x: list[Dim] = ["T", "N", features]
    inputs, outputs = [Port("x", "float32", tuple(x))], []
    nodes: list[Node] = []
    value = "x"
    for layer, places in enumerate(places_of(module)):
        operands = _operands(module, kind, places)
        tensors.update({f"{name}{layer}": array for name, array in operands.items()})
        named = {name: f"{name}{layer}" for name in operands}
        states = {"h": width, "c": hidden} if kind == "lstm" else {"h": width}
        inputs += [Port(f"{s}{layer}", "float32", (directions, "N", size))
                   for s, size in states.items()]  # fmt: skip
        node_inputs = [value, named["W"], named["R"], named.get("B", ""), "", f"h{layer}"]
        node_inputs += [f"c{layer}"] if kind == "lstm" else []
        if "projection" in named:
            node_inputs += ["", named["projection"]]
        # The output of a cell is its next state.
        after = [f"y{layer}", "" if is_cell else f"h{layer}_out"]
        after += [f"c{layer}_out"] if kind == "lstm" else []
        nodes.append(Node("Recurrent", tuple(node_inputs), tuple(after), attrs, f"layer{layer}"))
        outputs += [Port(f"{s}{layer}_out", "float32", (directions, "N", size))
                    for s, size in states.items() if f"{s}{layer}_out" in after]  # fmt: skip
        value = f"joined{layer}"
        if directions == 1:
            nodes.append(Node("Squeeze", (f"y{layer}", "axis"), (value,)))
        else:
            turn: dict[str, Attr] = {"perm": [0, 2, 1, 3]}
            nodes.append(Node("Transpose", (f"y{layer}",), (f"turned{layer}",), turn))
            nodes.append(Node("Reshape", (f"turned{layer}", "merged"), (value,)))
    outputs.insert(0, Port(value, "float32", ("T", "N", directions * width)))
    unused = "merged" if directions == 1 else "axis"
    del tensors[unused]
    return ModelSpec(Graph(inputs, outputs, nodes), tensors)


def operands_of(ways: list[dict[str, Any]], kind: str, hidden: int) -> dict[str, Any]:
    """Return W, R, B and the projection of one layer.

    Parameters
    ----------
    ways : of each direction its arrays by the names of ``kinds_of``
    """
    found: dict[str, list[Any]] = {}
    for parts in ways:
        found.setdefault("W", []).append(gates.weights(parts["weight_ih"], kind, "torch"))
        found.setdefault("R", []).append(gates.weights(parts["weight_hh"], kind, "torch"))
        size = gates.GATES[kind] * hidden
        bias = gates.biases(kind, "torch", size, parts.get("bias_ih"), parts.get("bias_hh"))
        if bias is not None:
            found.setdefault("B", []).append(bias)
        if "weight_hr" in parts:
            found.setdefault("projection", []).append(parts["weight_hr"])
    return {name: np.stack(arrays) for name, arrays in found.items()}


def _operands(module: Any, kind: str, places: tuple[str, ...]) -> dict[str, Any]:
    ways = [
        {name: module._parameters[name + place].detach().numpy() for name in kinds_of(module)}
        for place in places
    ]
    return operands_of(ways, kind, module.hidden_size)
