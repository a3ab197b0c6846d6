# SPDX-License-Identifier: MIT
"""Random models over cells, variants and the layers around them, with parameters that matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import gruengine as gr
from gruengine.layer_base import Flow, GraphBuilder, Layer
from gruengine.spec import ModelSpec

Array = np.ndarray[Any, Any]

# From 0 to 1, as a gate must be if states are not to grow.
GATES = ("Sigmoid", "HardSigmoid")
BOUNDED = (*GATES, "Tanh", "Softsign")
ANY = (*BOUNDED, "ScaledTanh", "Relu", "Elu", "LeakyRelu", "Softplus")


class FeatureConv(Layer):
    """A convolution over the features of every frame: what speech models have in front."""

    def __init__(self, channels: int, kernel: int, stride: int, time_first: bool) -> None:
        super().__init__()
        self.channels, self.kernel, self.stride = channels, kernel, stride
        self.time_first = time_first  # frames are the images of a batch, or the rows of one image

    def build(self, features: int | None, rng: np.random.Generator) -> None:
        assert features is not None
        assert features >= self.kernel
        shape = (self.channels, 1, 1, self.kernel)
        self.params = {
            "W": rng.normal(scale=0.5, size=shape).astype(np.float32),
            "b": rng.normal(size=self.channels).astype(np.float32),
        }

    def emit(self, graph: GraphBuilder, flow: Flow) -> Flow:
        name, width = self.name, (int(flow.features or 0) - self.kernel) // self.stride + 1
        if self.time_first:
            value, back = flow.name, [0, 2, 1, 3]
        else:
            value = graph.add("Transpose", f"{name}.turn", [flow.name], {"perm": [1, 0, 2]})
            back = [2, 0, 1, 3]
        axis = graph.ints(f"{name}.axis", [1])
        value = graph.add("Unsqueeze", f"{name}.image", [value, axis], {})
        constants = [graph.constant(f"{name}.{k}", v) for k, v in self.params.items()]
        attrs = {"strides": [1, self.stride], "kernel_shape": [1, self.kernel]}
        value = graph.add("Conv", f"{name}.conv", [value, *constants], {**attrs})
        value = graph.add("Transpose", f"{name}.back", [value], {"perm": back})
        shape = graph.ints(f"{name}.shape", [0, 0, self.channels * width])
        out = graph.add("Reshape", name, [value, shape], {"allowzero": 0})
        return flow.to(out, self.channels * width)


@dataclass
class Case:
    """A model and what it takes.

    spec : one output a frame
    features : of the input; 0: integers
    """

    spec: ModelSpec
    features: int
    rows: int = 7

    def input(self, rng: np.random.Generator, N: int, T: int) -> Array:
        if self.features == 0:
            return rng.integers(0, self.rows, (N, T))
        return rng.normal(size=(N, T, self.features)).astype(np.float32)

    def load(self, num_threads: int = 1) -> gr.Model:
        return gr.Model.from_spec(self.spec, num_threads=num_threads)


def recurrent_layer(
    rng: np.random.Generator, most: int, bidirectional: bool, bounded: bool
) -> Layer:
    """Return a recurrent layer with a random cell, variant and number of layers."""
    cell, units = rng.integers(3), int(rng.integers(1, most))
    options: dict[str, Any] = {
        "return_sequences": bool(rng.integers(2)),
        "num_layers": int(rng.integers(1, 3)),
        "clip": float(rng.choice([0.0, 0.0, 0.7])),
        "bidirectional": bidirectional,
    }
    if cell == 0:
        return gr.RNN(units, "tanh" if bounded else str(rng.choice(["tanh", "relu"])), **options)
    if cell == 1:
        return gr.GRU(units, reset=str(rng.choice(["after", "before"])), **options)
    return gr.LSTM(
        units,
        peepholes=bool(rng.integers(2)),
        coupled=bool(rng.random() < 0.3),
        projection=int(rng.integers(1, most)) if rng.random() < 0.4 else None,
        **options,
    )


def vary(spec: ModelSpec, rng: np.random.Generator, bounded: bool) -> None:
    """Give recurrent nodes activations, updates and initial states that layers don't have."""
    for_gates, for_values = (GATES, BOUNDED) if bounded else (BOUNDED, ANY)
    for node in spec.graph.nodes:
        if node.op != "Recurrent":
            continue
        cell, size = node.attrs["cell"], len(node.attrs["activations"])  # type: ignore[arg-type]
        if rng.random() < 0.4:
            gates, values = rng.choice(for_gates, size), rng.choice(for_values, size)
            first = {"rnn": 0, "lstm": 3, "gru": 2}[str(cell)]
            node.attrs["activations"] = [
                str(gates[i] if first and i % first == 0 else values[i]) for i in range(size)
            ]
            node.attrs["activation_alpha"] = rng.uniform(0.1, 0.9, size).tolist()
            node.attrs["activation_beta"] = rng.uniform(0.1, 0.9, size).tolist()
        if cell == "gru" and rng.random() < 0.3:
            node.attrs["update"] = "take"


def randomise(net: gr.Sequential, rng: np.random.Generator) -> None:
    """Draw every parameter, biases too: about as large as in a trained model."""
    values = {}
    for name, value in net.parameters().items():
        scale = 1 / np.sqrt(value.shape[-1]) if value.ndim > 1 else 0.4
        drawn = rng.normal(scale=scale, size=value.shape)
        values[name] = drawn + 1.0 if name.endswith(".scale") else drawn
    net.set_parameters(values)


def draw(
    rng: np.random.Generator, most: int = 40, bidirectional: bool = False, bounded: bool = False
) -> Case:
    """Return a random model of one or two recurrent layers of up to two each.

    ``most`` bounds their sizes; ``bounded`` leaves out functions whose values can grow with time.
    """
    layers: list[Layer] = []
    front = rng.choice(["none", "embedding", "conv", "dense"])
    features = int(rng.integers(1, most))
    if front == "embedding":
        layers.append(gr.Embedding(Case.rows, features))
    elif front == "conv":
        kernel = int(rng.integers(1, min(5, features) + 1))
        stride, channels = int(rng.integers(1, 3)), int(rng.integers(1, 6))
        layers.append(FeatureConv(channels, kernel, stride, bool(rng.integers(2))))
    elif front == "dense":
        layers.append(gr.Dense(int(rng.integers(1, most)), str(rng.choice(["relu", "elu"]))))
    if rng.random() < 0.3:
        layers.append(gr.LayerNorm(0.1))
    for _ in range(int(rng.integers(1, 3))):
        layer = recurrent_layer(rng, most, bidirectional, bounded)
        layer.return_sequences = True  # type: ignore[attr-defined]
        layers.append(layer)
        if rng.random() < 0.2:
            layers.append(gr.Dropout(0.5))
    if rng.random() < 0.5:
        names = ["linear", "sigmoid", "softmax", "tanh", "softplus", "hard_sigmoid"]
        layers.append(gr.Dense(int(rng.integers(1, 9)), str(rng.choice(names))))
    if rng.random() < 0.2:
        layers.append(gr.LayerNorm(0.1))
    embedded = front == "embedding"
    net = gr.Sequential(layers, None if embedded else features)
    randomise(net, rng)
    spec = net.spec()
    vary(spec, rng, bounded)
    return Case(spec, 0 if embedded else features)
