# SPDX-License-Identifier: MIT
"""Specs of one recurrent node with everything that it may have, for tests of exports."""

from __future__ import annotations

import numpy as np
import pytest

from gruengine.converters.base import ConversionError
from gruengine.spec import Graph, ModelSpec, Node, Port

I, H = 5, 6


def recurrent_spec(cell, rng, *, directions=1, peephole=False, lengths=None, **attrs):
    """One recurrent node with every input and output that it may have."""
    G, count = {"rnn": (1, 1), "gru": (3, 2), "lstm": (4, 3)}[cell]
    D = directions
    names = {"rnn": ["Tanh"], "gru": ["Sigmoid", "Tanh"], "lstm": ["Sigmoid", "Tanh", "Tanh"]}
    base = {
        "cell": cell, "hidden_size": H, "direction": "bidirectional" if D == 2 else "forward",
        "activations": names[cell] * D, "activation_alpha": [0.0] * count * D,
        "activation_beta": [0.0] * count * D,
        **({"reset": "after", "update": "keep"} if cell == "gru" else {}),
    }  # fmt: skip
    tensors = {
        "W": rng.normal(size=(D, G * H, I)), "R": rng.normal(size=(D, G * H, H)),
        "B": rng.normal(size=(D, 2 * G * H)),
    }  # fmt: skip
    inputs = ["x", "W", "R", "B", "lengths" if lengths else "", "h", "c" if cell == "lstm" else ""]
    ports = [Port("x", "float32", ("T", "N", I)), Port("h", "float32", (D, "N", H))]
    outputs = [Port("y", "float32", ("T", D, "N", H)), Port("h_out", "float32", (D, "N", H))]
    if cell == "lstm":
        ports.append(Port("c", "float32", (D, "N", H)))
        outputs.append(Port("c_out", "float32", (D, "N", H)))
    if peephole:
        tensors["P"] = rng.normal(size=(D, 3 * H))
        inputs.append("P")
    if lengths:
        ports.append(Port("lengths", lengths, ("N",)))
    while not inputs[-1]:
        inputs.pop()
    node = Node("Recurrent", tuple(inputs), tuple(port.name for port in outputs), {**base, **attrs})
    tensors = {name: array.astype(np.float32) * 0.5 for name, array in tensors.items()}
    return ModelSpec(Graph(ports, outputs, [node]), tensors)


def feed(spec, rng, T=6, N=3):
    sizes = {"T": T, "N": N}
    found = {}
    for port in spec.graph.inputs:
        shape = [sizes.get(size, size) for size in port.shape]
        if port.name == "lengths":
            found["lengths"] = np.array([6, 2, 4], port.dtype)
        else:
            found[port.name] = rng.normal(size=shape).astype(np.float32)
    return found


def refusals(run, *arguments):
    with pytest.raises(ConversionError) as caught:
        run(*arguments)
    return " | ".join(str(reason) for reason in caught.value.reasons)
