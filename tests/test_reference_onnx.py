# SPDX-License-Identifier: MIT
"""The Recurrent operator of the reference beside the RNN, LSTM and GRU of ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ort_oracle import run_node
from tolerances import ORT_RECURRENT, assert_close

from gruengine.reference import recurrent
from gruengine.reference_activations import ACTIVATIONS

Array = np.ndarray[Any, Any]

PER_DIRECTION = {"rnn": 1, "lstm": 3, "gru": 2}
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
# ONNX lists one alpha (beta) for each activation that takes one; where the list is too short ONNX
# Runtime goes on with these.
ALPHA = {
    "Affine": 0.0, "Elu": 1.0, "HardSigmoid": 0.2, "LeakyRelu": 0.01, "ScaledTanh": 0.0,
    "ThresholdedRelu": 0.0,
}  # fmt: skip
BETA = {"Affine": 0.0, "HardSigmoid": 0.5, "ScaledTanh": 0.0}


def resolve(names: list[str], given: list[float], defaults: dict[str, float]) -> list[float]:
    """Return one parameter for each activation as ONNX Runtime assigns them."""
    left = list(given)
    return [(left.pop(0) if left else defaults[n]) if n in defaults else 0.0 for n in names]


def attributes(
    rng: np.random.Generator, cell: str, H: int, D: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return random attributes of the ONNX node, and the same for ``recurrent``."""
    direction = "bidirectional" if D == 2 else str(rng.choice(["forward", "reverse"]))
    onnx: dict[str, Any] = {"hidden_size": H, "direction": direction}
    ours: dict[str, Any] = {"cell": cell, "hidden_size": H, "direction": direction}
    if rng.random() < 0.75:
        names = [str(n) for n in rng.choice(sorted(ACTIVATIONS), D * PER_DIRECTION[cell])]
        onnx["activations"] = ours["activations"] = names
        for key, defaults in (("activation_alpha", ALPHA), ("activation_beta", BETA)):
            takers = sum(n in defaults for n in names)
            given = rng.uniform(0.2, 0.9, rng.integers(0, takers + 1)).astype(np.float32).tolist()
            if given:
                onnx[key] = given
            ours[key] = resolve(names, given, defaults)
    if rng.random() < 0.5:
        onnx["clip"] = ours["clip"] = float(np.float32(rng.uniform(0.1, 1.0)))
    if cell == "lstm" and rng.random() < 0.4:
        onnx["input_forget"] = ours["coupled"] = 1
    if cell == "gru":
        after = int(rng.integers(2))
        onnx["linear_before_reset"] = after
        ours["reset"] = "after" if after else "before"
    return onnx, ours


def inputs(rng: np.random.Generator, cell: str, H: int, D: int) -> list[Array | None]:
    """Return random inputs of the ONNX node, each optional one present or not."""
    T, N, I = (int(rng.integers(1, high)) for high in (8, 6, 9))
    G = GATES[cell]

    def normal(scale: float, *shape: int) -> Array:
        return rng.normal(scale=scale, size=shape).astype(np.float32)

    def maybe(value: Array) -> Array | None:
        return value if rng.random() < 0.7 else None

    values: list[Array | None] = [
        normal(1.0, T, N, I),
        normal(0.5, D, G * H, I),
        normal(0.5 / np.sqrt(H), D, G * H, H),
        maybe(normal(0.5, D, 2 * G * H)),
        maybe(rng.integers(0, T + 1, N).astype(np.int32)),
        maybe(normal(1.0, D, N, H)),
    ]
    if cell == "lstm":
        values += [maybe(normal(1.0, D, N, H)), maybe(normal(0.5, D, 3 * H))]
    return values


def draw(cell: str, seed: int) -> tuple[list[Array | None], dict[str, Any], dict[str, Any]]:
    """Return a random problem: inputs, attributes of the node, arguments of ``recurrent``.

    Unbounded activations can grow past what the float32 Softplus of ONNX Runtime holds; such
    problems are drawn again.
    """
    rng = np.random.default_rng([seed, GATES[cell]])
    while True:
        H, D = int(rng.integers(1, 20)), int(rng.integers(1, 3))
        onnx_attrs, attrs = attributes(rng, cell, H, D)
        args = inputs(rng, cell, H, D)
        results = recurrent(*args, **attrs)  # type: ignore[arg-type]
        if max(np.abs(r).max() for r in results) < 20:
            return args, onnx_attrs, attrs


@pytest.mark.parametrize("seed", range(80))
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_recurrent_equals_onnx_runtime(cell: str, seed: int) -> None:
    args, onnx_attrs, attrs = draw(cell, seed)
    count = 3 if cell == "lstm" else 2
    want = run_node(cell.upper(), args, onnx_attrs, outputs=count)
    got = recurrent(*args, **attrs)  # type: ignore[arg-type]
    for g, w in zip(got[:count], want, strict=True):
        assert_close(g, w, ORT_RECURRENT)


def test_parameters_of_activations_go_to_those_that_take_them() -> None:
    names = ["LeakyRelu", "Tanh", "Sigmoid", "ScaledTanh"]
    assert resolve(names, [0.5, 2.0], ALPHA) == [0.5, 0.0, 0.0, 2.0]
    assert resolve(names, [], ALPHA) == [0.01, 0.0, 0.0, 0.0]
    assert resolve(names, [3.0], BETA) == [0.0, 0.0, 0.0, 3.0]
