# SPDX-License-Identifier: MIT
"""Small valid models that tests of the model file start from."""

from __future__ import annotations

import numpy as np

from gruengine.spec import Attr, Graph, ModelSpec, Node, Parity, Port


def recurrent_spec(cell: str = "lstm", hidden: int = 3, inputs: int = 2) -> ModelSpec:
    """A recurrent layer with all that a file can hold: state pair, subgraphs, parity."""
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[cell]
    count = {"rnn": 1, "lstm": 3, "gru": 2}[cell]
    rng = np.random.default_rng(7)

    def weights(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    branch = Graph([], [Port("t", "float32", ("T", "N", hidden))], [Node("Neg", ("y3",), ("t",))])
    other = Graph([], [Port("e", "float32", ("T", "N", hidden))], [Node("Abs", ("y3",), ("e",))])
    names = ["Sigmoid", "Tanh", "Tanh"][:count]
    attrs: dict[str, Attr] = {
        "cell": cell,
        "hidden_size": hidden,
        "direction": "forward",
        "activations": names,
        "activation_alpha": [0.0] * count,
        "activation_beta": [1.0] * count,
        "clip": 0.0,
        "reset": "after",
        "update": "keep",
    }
    nodes = [
        Node("Recurrent", ("x", "W", "R", "B", "", "h"), ("y4", "hn"), attrs, "rnn"),
        Node("Squeeze", ("y4", "axes"), ("y3",), {}, "squeeze"),
        Node("If", ("flag",), ("y",), {"then_branch": branch, "else_branch": other}, "choice"),
    ]
    graph = Graph(
        [Port("x", "float32", ("T", "N", inputs)), Port("h", "float32", (1, "N", hidden))],
        [Port("y", "float32", ("T", "N", hidden)), Port("hn", "float32", (1, "N", hidden))],
        nodes,
    )
    tensors = {
        "W": weights(1, gates * hidden, inputs),
        "R": weights(1, gates * hidden, hidden),
        "B": weights(1, 2 * gates * hidden),
        "axes": np.array([1], np.int64),
        "flag": np.array(True),
    }
    parity = Parity({"x": weights(5, 1, inputs)}, {"y": weights(5, 1, hidden)}, "made up")
    return ModelSpec(graph, tensors, (("h", "hn"),), {"source": "seed", "opset": 17}, parity)
