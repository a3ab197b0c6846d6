# SPDX-License-Identifier: MIT
"""The reference of backpropagation beside finite differences of the forward reference.

What surrounds the cells: test_reference_variants.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from gruengine.reference import recurrent
from gruengine.reference_activations import ACTIVATIONS
from gruengine.reference_training import OPERANDS, RecurrentTraining

T, N, I, H, K = 5, 3, 4, 3, 2
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
COUNT = {"rnn": 1, "lstm": 3, "gru": 2}
NAMES = {"rnn": ["Tanh"], "lstm": ["Sigmoid", "Tanh", "Tanh"], "gru": ["Sigmoid", "Tanh"]}
# name, cell, attributes, peepholes, projection
CASES = [
    ("rnn", "rnn", {}, False, False),
    ("rnn clip", "rnn", {"clip": 0.6}, False, False),
    ("lstm", "lstm", {}, False, False),
    ("lstm all", "lstm", {"clip": 0.9}, True, True),
    ("lstm coupled", "lstm", {"coupled": 1}, True, False),
    ("lstm projection", "lstm", {}, False, True),
    ("gru after keep", "gru", {"reset": "after", "update": "keep"}, False, False),
    ("gru after take", "gru", {"reset": "after", "update": "take", "clip": 0.7}, False, False),
    ("gru before keep", "gru", {"reset": "before", "update": "keep"}, False, False),
    ("gru before take", "gru", {"reset": "before", "update": "take"}, False, False),
]


def problem(rng, cell, attrs, peepholes, projection, direction, names=None):
    """Attributes and every input, none of them zero."""
    D = 2 if direction == "bidirectional" else 1
    G, k = GATES[cell], K if projection else H
    attrs = {"cell": cell, "direction": direction, "activations": (names or NAMES[cell]) * D,
             "activation_alpha": [0.3] * (COUNT[cell] * D),
             "activation_beta": [0.6] * (COUNT[cell] * D), **attrs}  # fmt: skip
    shapes = {"x": (T, N, I), "W": (D, G * H, I), "R": (D, G * H, k), "B": (D, 2 * G * H),
              "h0": (D, N, k)}  # fmt: skip
    if cell == "lstm":
        shapes["c0"] = (D, N, H)
    if peepholes:
        shapes["P"] = (D, 3 * H)
    if projection:
        shapes["projection"] = (D, k, H)
    return attrs, {key: rng.normal(0, 0.7, shape) for key, shape in shapes.items()}


def outputs(attrs, values, lengths):
    y, h, c = recurrent(
        values["x"], values["W"], values["R"], values["B"], lengths, values["h0"],
        values.get("c0"), values.get("P"), values.get("projection"), hidden_size=H, **attrs,
    )  # fmt: skip
    return y.transpose(0, 2, 1, 3).reshape(T, N, -1), h, c


def gradients(attrs, values, lengths, rng):
    """Ours, and central differences of a random sum of all outputs."""
    net = RecurrentTraining(attrs, I, H)
    names = ("W", "R", "B", "P", "projection", "h0", "c0")
    gradients = ("x", *OPERANDS, "h0", "c0")
    y, h, c, tape = net.forward(values["x"], *(values.get(n) for n in names), lengths)
    expected = outputs(attrs, values, lengths)
    np.testing.assert_allclose(y, expected[0], rtol=1e-12)
    np.testing.assert_allclose(h, expected[1], rtol=1e-12)
    weights = [rng.normal(size=a.shape) for a in expected]
    dc = weights[2] if c is not None else None
    found = dict(zip(gradients, net.backward(tape, weights[0], weights[1], dc), strict=True))

    def loss():
        return sum(float(np.sum(w * a)) for w, a in zip(weights, outputs(attrs, values, lengths),
                                                        strict=True))  # fmt: skip

    wanted = {}
    for key, value in values.items():
        wanted[key] = np.zeros_like(value)
        for at in np.ndindex(*value.shape):
            kept, eps = value[at], 1e-6
            value[at] = kept + eps
            above = loss()
            value[at] = kept - eps
            wanted[key][at] = (above - loss()) / (2 * eps)
            value[at] = kept
    return found, wanted


def check(found, wanted):
    assert set(wanted) == {key for key, value in found.items() if value is not None}
    for key, value in wanted.items():
        scale = np.abs(value).max()
        assert scale > 0, key
        np.testing.assert_allclose(found[key], value, atol=2e-7 * scale, rtol=0, err_msg=key)


@pytest.mark.parametrize("lengths", [None, [5, 2, 3]], ids=["whole", "lengths"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_gradients_are_those_of_finite_differences(case, direction, lengths, rng):
    if direction != "forward" and case[0] in ("rnn clip", "gru before take", "lstm projection"):
        direction = "reverse"
    attrs, values = problem(rng, *case[1:], direction)
    check(*gradients(attrs, values, None if lengths is None else np.array(lengths), rng))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_in_every_place(name, rng):
    for cell in COUNT:
        attrs, values = problem(rng, cell, {}, cell == "lstm", False, "forward",
                                [name] * COUNT[cell])  # fmt: skip
        for key in values:
            values[key] *= 0.5
        if name == "ThresholdedRelu":  # below its threshold it is flat
            attrs["activation_alpha"] = [0.01] * COUNT[cell]
        found, wanted = gradients(attrs, values, None, rng)
        for key, value in wanted.items():
            scale = max(np.abs(value).max(), 1e-3)
            np.testing.assert_allclose(
                found[key], value, atol=1e-6 * scale, err_msg=f"{cell} {key}"
            )


def test_a_row_of_length_zero_has_no_gradient(rng):
    attrs, values = problem(rng, "lstm", {}, True, False, "bidirectional")
    found, wanted = gradients(attrs, values, np.array([0, 5, 1]), rng)
    check(found, wanted)
    assert not found["h0"][:, 0].any()
    assert not found["x"][:, 0].any()


def test_the_input_gradient_may_be_left_out(rng):
    attrs, values = problem(rng, "gru", {}, False, False, "forward")
    net = RecurrentTraining(attrs, I, H)
    _, h, _, tape = net.forward(values["x"], values["W"], values["R"])
    assert net.backward(tape, None, h, None, input_gradient=False)[0] is None
