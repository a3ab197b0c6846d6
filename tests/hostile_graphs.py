# SPDX-License-Identifier: MIT
"""Model files whose graph breaks a rule: part of the corpus of ``hostile_files``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hostile_seed import Case, changed, recurrent_spec

BIG = (1 << 63) - 1


def graph_cases(seed: bytes) -> list[Case]:
    """Return graphs that break a rule whatever their operators are."""

    def of_graph(change: Callable[[dict[str, Any]], Any]) -> bytes:
        return changed(seed, lambda h, d: change(d["graph"]))

    def of_node(index: int, key: str, value: Any) -> bytes:
        return of_graph(lambda g: g["nodes"][index].__setitem__(key, value))

    def of_port(key: str, value: Any, side: str = "inputs") -> bytes:
        return of_graph(lambda g: g[side][0].__setitem__(key, value))

    def of_attr(value: Any, name: str = "a") -> bytes:
        return of_graph(lambda g: g["nodes"][1]["attrs"].__setitem__(name, value))

    def nested(depth: int) -> Any:
        graph: dict[str, Any] = {"inputs": [], "outputs": [], "nodes": []}
        for _ in range(depth):
            node = {"op": "If", "name": "", "inputs": ["flag"], "outputs": ["o"]}
            node["attrs"] = {"then_branch": {"g": graph}}  # type: ignore[assignment]
            graph = {"inputs": [], "outputs": [], "nodes": [node]}
        return {"g": graph}

    cases = {
        "no nodes key": of_graph(lambda g: g.pop("nodes")),
        "unknown key": of_graph(lambda g: g.__setitem__("extra", 1)),
        "nodes an object": of_graph(lambda g: g.__setitem__("nodes", {})),
        "node a string": of_graph(lambda g: g["nodes"].append("x")),
        "node without attrs": of_graph(lambda g: g["nodes"][1].pop("attrs")),
        "node with one key too many": of_node(1, "domain", ""),
        "operator empty": of_node(1, "op", ""),
        "operator a number": of_node(1, "op", 1),
        "operator with zero character": of_node(1, "op", "a\0b"),
        "node name a number": of_node(1, "name", 1),
        "inputs a string": of_node(1, "inputs", "y4"),
        "input a number": of_node(1, "inputs", [1]),
        "input unknown": of_node(1, "inputs", ["q"]),
        "input of a parity tensor": of_node(1, "inputs", ["parity/in/x"]),
        "input of itself": of_node(1, "inputs", ["y3"]),
        "cycle of two": of_node(1, "inputs", ["y"]),
        "order reversed": of_graph(lambda g: g["nodes"].reverse()),
        "outputs empty": of_node(1, "outputs", []),
        "outputs all absent": of_node(1, "outputs", ["", ""]),
        "output twice": of_node(1, "outputs", ["y3", "y3"]),
        "output of another node": of_node(1, "outputs", ["y4"]),
        "output named as a tensor": of_node(1, "outputs", ["W"]),
        "output named as an input": of_node(1, "outputs", ["x"]),
        "output with zero character": of_node(1, "outputs", ["y3", "a\0"]),
        "name of a branch used outside": of_graph(lambda g: g["outputs"][0].update(name="t")),
        "branch hides a name": of_graph(
            lambda g: g["nodes"][2]["attrs"]["then_branch"]["g"]["nodes"][0].update(outputs=["x"])
        ),
        "branch without its output": of_graph(
            lambda g: g["nodes"][2]["attrs"]["then_branch"]["g"].update(nodes=[])
        ),
        "graphs nested 17 times": of_attr(nested(16)),
        "port a string": of_graph(lambda g: g["inputs"].append("x")),
        "port twice": of_graph(lambda g: g["inputs"].append(g["inputs"][0])),
        "port name empty": of_port("name", ""),
        "port named as a tensor": of_port("name", "W"),
        "port dtype unknown": of_port("dtype", "float64"),
        "port dtype of the container": of_port("dtype", "F32"),
        "port size negative": of_port("shape", ["T", "N", -1]),
        "port size a float": of_port("shape", ["T", "N", 2.0]),
        "port size null": of_port("shape", ["T", "N", None]),
        "port size without name": of_port("shape", ["T", "", 2]),
        "port of rank 33": of_port("shape", [1] * 33),
        "port with one key too many": of_port("layout", "TNF"),
        "output unknown": of_port("name", "q", "outputs"),
        "output listed twice": of_graph(lambda g: g["outputs"].append(g["outputs"][0])),
        "attribute untyped": of_attr(1),
        "attribute without type": of_attr({}),
        "attribute of two types": of_attr({"i": 1, "f": 1.0}),
        "attribute of unknown type": of_attr({"t": 1}),
        "attribute name empty": of_attr({"i": 1}, ""),
        "attribute i of a float": of_attr({"i": 1.0}),
        "attribute i of a string": of_attr({"i": "1"}),
        "attribute i of true": of_attr({"i": True}),
        "attribute i beyond 64 bits": of_attr({"i": 1 << 63}),
        "attribute f of a string": of_attr({"f": "1"}),
        "attribute f of null": of_attr({"f": None}),
        "attribute s of a number": of_attr({"s": 1}),
        "attribute is of floats": of_attr({"is": [1.0]}),
        "attribute is of a number": of_attr({"is": 1}),
        "attribute fs of strings": of_attr({"fs": ["1"]}),
        "attribute ss of numbers": of_attr({"ss": [1]}),
        "attribute gs": of_attr({"gs": []}),
        "attribute g of a list": of_attr({"g": []}),
    }
    return [(f"graph: {name}", data) for name, data in cases.items()]


def recurrent_cases(seed: bytes) -> list[Case]:
    """Return ``Recurrent`` nodes that break their contract."""
    gru = recurrent_spec("gru").to_bytes()

    def attr(name: str, value: Any, base: bytes = seed) -> bytes:
        return changed(base, lambda h, d: d["graph"]["nodes"][0]["attrs"].__setitem__(name, value))

    def without(name: str, base: bytes = seed) -> bytes:
        return changed(base, lambda h, d: d["graph"]["nodes"][0]["attrs"].pop(name))

    def wired(index: int, name: str, base: bytes = seed) -> bytes:
        def change(_: dict[str, Any], d: dict[str, Any]) -> None:
            inputs = d["graph"]["nodes"][0]["inputs"]
            inputs += [""] * (index + 1 - len(inputs))
            inputs[index] = name

        return changed(base, change)

    def reshaped(name: str, shape: list[int]) -> bytes:
        return changed(seed, lambda h, d: h[name].update(shape=shape))

    def outputs(names: list[str], base: bytes = seed) -> bytes:
        return changed(base, lambda h, d: d["graph"]["nodes"][0].update(outputs=names))

    required = ("cell", "hidden_size", "direction", "activations", "activation_alpha")
    cases = {f"no {name}": without(name) for name in (*required, "activation_beta")}
    cases |= {
        "GRU without reset": without("reset", gru),
        "GRU without update": without("update", gru),
        "attribute unknown": attr("layout", {"i": 0}),
        "cell unknown": attr("cell", {"s": "LSTM"}),
        "cell a number": attr("cell", {"i": 1}),
        "cell of fewer gates": attr("cell", {"s": "rnn"}),
        "direction unknown": attr("direction", {"s": "backward"}),
        "direction of two": attr("direction", {"s": "bidirectional"}),
        "hidden_size a float": attr("hidden_size", {"f": 3.0}),
        **{f"hidden_size {h}": attr("hidden_size", {"i": h}) for h in (0, -3, 2, 4, 1 << 31, BIG)},
        "hidden_size that wraps": attr("hidden_size", {"i": (1 << 62) + 3}),
        "activations too few": attr("activations", {"ss": ["Sigmoid", "Tanh"]}),
        "activations too many": attr("activations", {"ss": ["Sigmoid"] * 4}),
        "activations none": attr("activations", {"ss": []}),
        "activation unknown": attr("activations", {"ss": ["Sigmoid", "Tanh", "Gelu"]}),
        "activation of no cell": attr("activations", {"ss": ["Sigmoid", "Tanh", "Exp"]}),
        "activation in small letters": attr("activations", {"ss": ["sigmoid", "tanh", "tanh"]}),
        "alpha too few": attr("activation_alpha", {"fs": [0.0]}),
        "beta of integers": attr("activation_beta", {"is": [1, 1, 1]}),
        "clip negative": attr("clip", {"f": -1.0}),
        "clip an integer": attr("clip", {"i": 1}),
        "coupled 2": attr("coupled", {"i": 2}),
        "coupled GRU": attr("coupled", {"i": 1}, gru),
        "reset unknown": attr("reset", {"s": "never"}, gru),
        "update unknown": attr("update", {"s": ""}, gru),
        "W transposed": reshaped("W", [1, 2, 12]),
        "W of rank 2": reshaped("W", [12, 2]),
        "R of other rows": reshaped("R", [1, 3, 12]),
        "B in two rows": reshaped("B", [2, 12]),
        "R absent": wired(2, ""),
        "W absent": wired(1, ""),
        "X absent": wired(0, ""),
        "W computed": wired(1, "x"),
        "W of integers": wired(1, "axes"),
        "B of other sizes": wired(3, "W"),
        "peepholes of other sizes": wired(7, "B"),
        "projection of other sizes": wired(8, "R"),
        "peepholes of a GRU": wired(7, "B", gru),
        "cell state of a GRU": wired(6, "h", gru),
        "gate recurrence computed": wired(9, "h"),
        "gate recurrence of other sizes": wired(9, "W"),
        "gate recurrence of a GRU": wired(9, "W", gru),
        "norm of other sizes": wired(10, "B"),
        "norm of a GRU": wired(10, "B", gru),
        "skip of other sizes": wired(11, "B"),
        "skip computed": wired(11, "x"),
        "thirteen inputs": wired(12, "h"),
        "zoneout of one": attr("zoneout", {"fs": [0.1]}),
        "zoneout of all": attr("zoneout", {"fs": [1.0, 0.0]}),
        "zoneout negative": attr("zoneout", {"fs": [-0.5, 0.0]}),
        "zoneout a float": attr("zoneout", {"f": 0.1}),
        "zoneout of the cell of a GRU": attr("zoneout", {"fs": [0.1, 0.1]}, gru),
        "norm_epsilon zero": attr("norm_epsilon", {"f": 0.0}),
        "norm_epsilon an integer": attr("norm_epsilon", {"i": 1}),
        "four outputs": outputs(["y4", "hn", "cn", "more"]),
        "cell output of a GRU": outputs(["y4", "hn", "cn"], gru),
    }
    return [(f"Recurrent: {name}", data) for name, data in cases.items()]
