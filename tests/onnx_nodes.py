# SPDX-License-Identifier: MIT
"""Random RNN, LSTM and GRU nodes of ONNX over the product of their attributes and inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
FUNCTIONS = {"RNN": 1, "LSTM": 3, "GRU": 2}
# Every activation that ONNX names, and how many of alpha and beta it takes.
TAKES = {
    "Relu": 0, "Tanh": 0, "Sigmoid": 0, "Softsign": 0, "Softplus": 0,
    "LeakyRelu": 1, "ThresholdedRelu": 1, "Elu": 1,
    "Affine": 2, "ScaledTanh": 2, "HardSigmoid": 2,
}  # fmt: skip
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
OUTPUTS = ("Y", "Y_h", "Y_c")


@dataclass
class NodeCase:
    """One node: its attributes and its inputs by their ONNX names, absent ones left out."""

    op: str
    attrs: dict[str, Any]
    values: dict[str, Array]
    constants: tuple[str, ...] = ("W", "R", "B", "P")
    opset: int = 22
    outputs: tuple[str, ...] = OUTPUTS
    feed: dict[str, Array] = field(init=False)

    def __post_init__(self) -> None:
        self.feed = {n: v for n, v in self.values.items() if n not in self.constants}

    def model(self, layout: int = 0) -> bytes:
        """Return the node as a model; ``layout`` 1 has the batch first."""
        attrs = dict(self.attrs, layout=1) if layout else self.attrs
        names = [name if name in self.values else "" for name in INPUTS]
        names = names[: 8 if self.op == "LSTM" else 6]
        while names[-1] == "":
            names.pop()
        every = OUTPUTS if self.op == "LSTM" else OUTPUTS[:2]
        outputs = [name if name in self.outputs else "" for name in every]
        node = helper.make_node(self.op, names, outputs, name="cell", **attrs)
        graph = helper.make_graph(
            [node],
            "node",
            [
                helper.make_tensor_value_info(
                    n, helper.np_dtype_to_tensor_dtype(v.dtype), turned(n, v).shape if layout
                    else v.shape,
                )
                for n, v in self.feed.items()
            ],
            [
                helper.make_tensor_value_info(
                    name, onnx.TensorProto.FLOAT, [None] * (4 if name == "Y" else 3)
                )
                for name in outputs
                if name
            ],
            [
                numpy_helper.from_array(
                    np.ascontiguousarray(turned(n, self.values[n])) if layout else self.values[n], n
                )
                for n in names
                if n in self.constants
            ],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8
        data: bytes = model.SerializeToString()
        onnx.checker.check_model(model)
        return data


def turned(name: str, value: Array) -> Array:
    """Bring a value of the node from layout 0 to layout 1."""
    if name == "Y":
        return value.transpose(2, 0, 1, 3)
    if name in ("X", "Y_h", "Y_c", "initial_h", "initial_c"):
        return value.swapaxes(0, 1)
    return value


def spelled(rng: np.random.Generator, op: str, name: str) -> str:
    """Write an activation in one of the cases that ONNX Runtime takes."""
    if op == "RNN":
        return name
    return [name, name.lower(), name.upper()][int(rng.choice(3, p=[0.8, 0.1, 0.1]))]


def attributes(rng: np.random.Generator, op: str, H: int, D: int) -> dict[str, Any]:
    """Return random attributes."""
    direction = "bidirectional" if D == 2 else str(rng.choice(["forward", "reverse"]))
    attrs: dict[str, Any] = {"hidden_size": H}
    if direction != "forward" or rng.random() < 0.5:
        attrs["direction"] = direction
    if rng.random() < 0.6:
        names = [str(name) for name in rng.choice(sorted(TAKES), D * FUNCTIONS[op])]
        attrs["activations"] = [spelled(rng, op, name) for name in names]
        for key, least in (("activation_alpha", 1), ("activation_beta", 2)):
            takers = sum(TAKES[name] >= least for name in names)
            # A list may be absent, end early, or give one number for each that takes one.
            given = rng.uniform(0.2, 0.9, rng.integers(0, takers + 1)).astype(np.float32).tolist()
            if given:
                attrs[key] = given
    if rng.random() < 0.4:
        attrs["clip"] = float(np.float32(rng.uniform(0.1, 1.5)))
    if op == "LSTM" and rng.random() < 0.4:
        attrs["input_forget"] = int(rng.integers(2))
    if op == "GRU" and rng.random() < 0.7:
        attrs["linear_before_reset"] = int(rng.integers(2))
    return attrs


def draw_node(rng: np.random.Generator) -> NodeCase:
    """Return a random node with random weights, tame enough to compare."""
    op = str(rng.choice(sorted(GATES)))
    H, D = int(rng.integers(1, 41)), int(rng.integers(1, 3))
    T, N, I = int(rng.integers(1, 12)), int(rng.integers(1, 8)), int(rng.integers(1, 30))
    G = GATES[op]

    def normal(scale: float, *shape: int) -> Array:
        return rng.normal(scale=scale, size=shape).astype(np.float32)

    values = {
        "X": normal(1.0, T, N, I),
        "W": normal(0.7 / np.sqrt(I), D, G * H, I),
        "R": normal(0.7 / np.sqrt(H), D, G * H, H),
    }
    maybe: dict[str, Array] = {
        "B": normal(0.3, D, 2 * G * H),
        "sequence_lens": rng.integers(0, T + 1, N).astype(np.int32),
        "initial_h": normal(0.7, D, N, H),
    }
    if op == "LSTM":
        maybe |= {"initial_c": normal(0.7, D, N, H), "P": normal(0.3, D, 3 * H)}
    values |= {name: value for name, value in maybe.items() if rng.random() < 0.65}
    constants = ["W", "R", "B", "P"]
    # Exporters write states and lengths as constants too.
    constants += [n for n in ("sequence_lens", "initial_h", "initial_c") if rng.random() < 0.2]
    every = OUTPUTS[: 3 if op == "LSTM" else 2]
    wanted = tuple(name for name in every if rng.random() < 0.8) or ("Y",)
    opset = int(rng.choice([7, 14, 17, 22]))
    attrs = attributes(rng, op, H, D)
    return NodeCase(op, attrs, values, tuple(constants), opset, wanted)
