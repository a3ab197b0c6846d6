# SPDX-License-Identifier: MIT
"""Small valid models that tests of the model file start from, and how to change their files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from gruengine.spec import Attr, Graph, ModelSpec, Node, Parity, Port
from gruengine.spec_low import quantise

Change = Callable[[dict[str, Any], dict[str, Any]], object]
Case = tuple[str, bytes]


def recurrent_spec(cell: str = "lstm", hidden: int = 3, inputs: int = 2) -> ModelSpec:
    """A recurrent layer with all that a file can hold: state pair, subgraphs, parity."""
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[cell]
    count = {"rnn": 1, "lstm": 3, "gru": 2}[cell]
    rng = np.random.default_rng(7)

    def weights(*shape: int) -> np.ndarray[Any, Any]:
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


def nibble_file() -> bytes:
    """Return a model with int4 weights: W of 3, in two bytes, and R of 9."""
    return quantise(recurrent_spec("rnn", 3, 1), "int4").to_bytes()


def container(header: bytes | str, data: bytes = b"", length: int | None = None) -> bytes:
    """Return the bytes of a safetensors file with this header, whatever it says."""
    text = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def parts(seed: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Return header, description and data of a valid model file."""
    length = int.from_bytes(seed[:8], "little")
    header = json.loads(seed[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["gruengine"]), seed[8 + length :]


def changed(seed: bytes, change: Change, data: bytes | None = None) -> bytes:
    """Return ``seed`` after ``change(header, description)``."""
    header, description, body = copy.deepcopy(parts(seed))
    change(header, description)
    if "__metadata__" in header and "gruengine" in header["__metadata__"]:
        header["__metadata__"]["gruengine"] = json.dumps(description)
    return container(json.dumps(header), body if data is None else data)


def described(seed: bytes, text: str) -> bytes:
    """Return ``seed`` with another description, given as text."""
    header, _, body = parts(seed)
    header["__metadata__"]["gruengine"] = text
    return container(json.dumps(header), body)
