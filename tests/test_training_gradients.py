# SPDX-License-Identifier: MIT
"""Gradients of the core: each cell, flag and activation beside reference and PyTorch."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

import gruengine as gr
from gruengine import _core, reference
from gruengine.recurrent_checks import ACTIVATION_COUNTS, ACTIVATIONS, GATES
from gruengine.reference_training import RecurrentTraining

TOLERANCE = 1e-4
NAMES = ("x", "W", "R", "B", "P", "projection", "h0", "c0")

# name -> attributes; "P" and "projection" ask for those weights.
CELLS: dict[str, dict[str, Any]] = {
    "rnn": {"cell": "rnn"},
    "rnn relu": {"cell": "rnn", "activations": ["Relu"]},
    "lstm": {"cell": "lstm"},
    "lstm peepholes": {"cell": "lstm", "P": True},
    "lstm coupled": {"cell": "lstm", "coupled": 1},
    "lstm coupled peepholes": {"cell": "lstm", "coupled": 1, "P": True},
    "lstm clip": {"cell": "lstm", "clip": 0.4, "P": True},
    "lstm projection": {"cell": "lstm", "projection": 3},
    "lstm wide projection peepholes": {"cell": "lstm", "projection": 21, "P": True},
    "lstm identity candidate": {"cell": "lstm", "activations": ["Sigmoid", "Affine", "Tanh"]},
    "lstm identity output": {"cell": "lstm", "activations": ["Sigmoid", "Tanh", "Affine"]},
    "gru after keep": {"cell": "gru", "reset": "after", "update": "keep"},
    "gru after take": {"cell": "gru", "reset": "after", "update": "take"},
    "gru before keep": {"cell": "gru", "reset": "before", "update": "keep"},
    "gru before take": {"cell": "gru", "reset": "before", "update": "take"},
    "gru clip": {"cell": "gru", "reset": "after", "clip": 0.4},
    "gru before clip": {"cell": "gru", "reset": "before", "clip": 0.4},
    **{f"rnn {name}": {"cell": "rnn", "activations": [name]} for name in ACTIVATIONS},
    **{
        f"lstm {name}": {"cell": "lstm", "activations": ["Sigmoid", name, name]}
        for name in ACTIVATIONS[3:]
    },
    **{f"gru {name}": {"cell": "gru", "activations": [name, name]} for name in ACTIVATIONS[3:]},
}
# T, N, I, H, direction, lengths
SHAPES = {
    "plain": (4, 3, 5, 7, "forward", None),
    "two panels, lengths": (5, 4, 3, 17, "forward", (2, 5, 0, 4)),
    "both ways, lengths": (4, 5, 2, 5, "bidirectional", (1, 4, 3, 4, 2)),
    "reverse": (3, 2, 4, 9, "reverse", None),
}


def attributes(name: str, direction: str, rng: np.random.Generator) -> dict[str, Any]:
    attrs = {k: v for k, v in CELLS[name].items() if k not in ("P", "projection")}
    count = ACTIVATION_COUNTS[attrs["cell"]] * (2 if direction == "bidirectional" else 1)
    if "activations" in attrs:
        attrs["activations"] = attrs["activations"] * (2 if direction == "bidirectional" else 1)
        # Of every activation the slope changes within the range of the pre-activations.
        attrs["activation_alpha"] = [float(a) for a in rng.uniform(0.3, 0.7, count)]
        attrs["activation_beta"] = [float(b) for b in rng.uniform(0.2, 0.6, count)]
        attrs["activation_alpha"] = [
            0.05 if name == "ThresholdedRelu" else a
            for name, a in zip(attrs["activations"], attrs["activation_alpha"], strict=True)
        ]
    return {**attrs, "direction": direction}


@functools.cache
def example(name: str, shape: str) -> dict[str, Any]:
    """Return attributes, float32 arrays, gradients of the outputs and the float64 differences."""
    T, N, I, H, direction, lengths = SHAPES[shape]
    rng = np.random.default_rng([len(name), T, N, H])
    attrs = attributes(name, direction, rng)
    D = 2 if direction == "bidirectional" else 1
    G = GATES[attrs["cell"]]
    lstm = attrs["cell"] == "lstm"
    K = CELLS[name].get("projection", H)
    sizes: dict[str, tuple[int, ...] | None] = {
        "x": (T, N, I),
        "W": (D, G * H, I),
        "R": (D, G * H, K),
        "B": (D, 2 * G * H),
        "P": (D, 3 * H) if CELLS[name].get("P") else None,
        "projection": (D, K, H) if "projection" in CELLS[name] else None,
        "h0": (D, N, K),
        "c0": (D, N, H) if lstm else None,
    }
    scale = {"W": 0.5, "R": 0.3, "x": 1.0}
    arrays = {
        n: None if s is None else rng.normal(0, scale.get(n, 0.4), s).astype(np.float32)
        for n, s in sizes.items()
    }
    gradients = [
        rng.normal(size=s).astype(np.float32)
        for s in ((T, N, D * K), (D, N, K), *([(D, N, H)] if lstm else []))
    ]
    ends = None if lengths is None else np.array(lengths, np.int64)
    made = {"attrs": attrs, "arrays": arrays, "gradients": gradients, "lengths": ends, "H": H}
    made["wanted"] = run(made, kind=RecurrentTraining)[1]
    directions, slopes = {}, {}
    for n in NAMES:
        if arrays[n] is None:
            continue
        directions[n] = rng.normal(size=(4, *arrays[n].shape))
        slopes[n] = [difference(made, n, v) for v in directions[n]]
    return {**made, "directions": directions, "slopes": slopes}


def difference(made: dict[str, Any], name: str, way: np.ndarray) -> float:
    """Return the change of the loss along ``way`` in the array ``name``: central differences."""
    step = 1e-7
    values = []
    for sign in (1, -1):
        arrays = {n: None if a is None else a.astype(np.float64) for n, a in made["arrays"].items()}
        arrays[name] = arrays[name] + sign * step * way
        Y, Y_h, Y_c = reference.recurrent(
            arrays["x"], arrays["W"], arrays["R"], arrays["B"], made["lengths"], arrays["h0"],
            arrays["c0"], arrays["P"], arrays["projection"], hidden_size=made["H"],
            **made["attrs"],
        )  # fmt: skip
        T, D, N, K = Y.shape
        outputs = (Y.transpose(0, 2, 1, 3).reshape(T, N, D * K), Y_h, Y_c)
        values.append(sum(np.vdot(g, y) for g, y in zip(made["gradients"], outputs, strict=False)))
    return float((values[0] - values[1]) / (2 * step))


def run(
    made: dict[str, Any], threads: int = 1, kind: Any = _core.RecurrentTraining
) -> tuple[Any, dict[str, Any]]:
    arrays = made["arrays"]
    layer = kind(
        {**made["attrs"], "hidden_size": made["H"]}, arrays["x"].shape[2], made["H"], threads
    )
    y, h, c, tape = layer.forward(*(arrays[n] for n in NAMES), made["lengths"])
    found = dict(
        zip(("x", "W", "R", "B", "P", "projection", "", "", "", "h0", "c0"),
            layer.backward(tape, *made["gradients"]), strict=True)
    )  # fmt: skip
    return (y, h, c), found


def compare(name: str, shape: str) -> None:
    made = example(name, shape)
    (y, h, c), found = run(made)
    arrays = made["arrays"]
    Y, Y_h, Y_c = reference.recurrent(
        arrays["x"], arrays["W"], arrays["R"], arrays["B"], made["lengths"], arrays["h0"],
        arrays["c0"], arrays["P"], arrays["projection"], hidden_size=made["H"], **made["attrs"],
    )  # fmt: skip
    expected = (Y.transpose(0, 2, 1, 3).reshape(y.shape), Y_h, Y_c)
    for got, exact in zip((y, h) if c is None else (y, h, c), expected, strict=False):
        np.testing.assert_allclose(got, exact, rtol=0, atol=1e-5 * max(1, np.abs(exact).max()))
    for n, ways in made["directions"].items():
        size = np.linalg.norm(found[n]) * np.linalg.norm(ways[0]) / np.sqrt(ways[0].size)
        got = [np.vdot(found[n].astype(np.float64), way) for way in ways]
        np.testing.assert_allclose(got, made["slopes"][n], rtol=0, atol=TOLERANCE * size, err_msg=n)
        exact = made["wanted"][n]
        assert np.linalg.norm(found[n] - exact) <= TOLERANCE / 10 * np.linalg.norm(exact), n


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CELLS)
def test_gradients_are_those_of_differences(isa, name, shape):
    compare(name, shape)


# -- PyTorch --------------------------------------------------------------------------------------

# Where PyTorch's gates are in ONNX's order.
ORDER = {"lstm": (0, 2, 3, 1), "gru": (1, 0, 2), "rnn": (0,)}
LAYERS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}


def to_onnx(array: torch.Tensor, cell: str) -> np.ndarray:
    blocks = np.split(array.detach().numpy().astype(np.float32), len(ORDER[cell]))
    return np.concatenate([blocks[ORDER[cell].index(g)] for g in range(len(blocks))])


@functools.cache
def torch_example(cell: str, sizes: tuple[int, ...], both: bool, projection: int, packed: bool):
    T, N, I, H = sizes
    torch.manual_seed(7)
    options = {"proj_size": projection} if projection else {}
    net = LAYERS[cell](I, H, bidirectional=both, **options).double()
    D, K = 2 if both else 1, projection or H
    x = torch.randn(T, N, I, dtype=torch.float64, requires_grad=True)
    states = [torch.randn(D, N, K, dtype=torch.float64, requires_grad=True)]
    if cell == "lstm":
        states.append(torch.randn(D, N, H, dtype=torch.float64, requires_grad=True))
    initial = tuple(states) if cell == "lstm" else states[0]
    lengths = torch.randint(1, T + 1, (N,)) if packed else None
    if packed:
        inputs = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        y, final = net(inputs, initial)
        y = torch.nn.utils.rnn.pad_packed_sequence(y, total_length=T)[0]
    else:
        y, final = net(x, initial)
    outputs = [y, *(final if cell == "lstm" else [final])]
    weights = [torch.randn_like(o).float().double() for o in outputs]
    sum((o * w).sum() for o, w in zip(outputs, weights, strict=True)).backward()

    def stacked(name: str, of_gradient: bool) -> np.ndarray:
        found = [getattr(net, name + end) for end in ("_l0", "_l0_reverse")[:D]]
        arrays = [f.grad if of_gradient else f for f in found]
        if name == "weight_hr":
            return np.stack([a.detach().numpy() for a in arrays]).astype(np.float32)
        return np.stack([to_onnx(a, cell) for a in arrays])

    def parameters(of_gradient: bool) -> dict[str, np.ndarray | None]:
        B = [stacked(n, of_gradient) for n in ("bias_ih", "bias_hh")]
        return {
            "W": stacked("weight_ih", of_gradient),
            "R": stacked("weight_hh", of_gradient),
            "B": np.concatenate(B, axis=1),
            "P": None,
            "projection": stacked("weight_hr", of_gradient) if projection else None,
        }

    names = ("h0", "c0")[: len(states)]
    plain = [None if a is None else a.detach().numpy().astype(np.float32) for a in (x, *states)]
    given = {"x": plain[0], **parameters(False), "h0": plain[1], "c0": (*plain, None)[2]}
    expected = {"x": x.grad.numpy(), **parameters(True)}
    expected |= {n: s.grad.numpy() for n, s in zip(names, states, strict=True)}
    return {
        "attrs": {"cell": cell, "direction": "bidirectional" if both else "forward"},
        "arrays": given,
        "gradients": [w.numpy().astype(np.float32) for w in weights],
        "lengths": None if lengths is None else lengths.numpy(),
        "H": H,
        "expected": expected,
        "y": y.detach().numpy(),
    }


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(
    ("cell", "projection"), [("rnn", 0), ("lstm", 0), ("lstm", 11), ("gru", 0)]
)
@pytest.mark.parametrize("sizes", [(3, 2, 5, 4), (9, 15, 33, 37), (150, 3, 3, 20)])
def test_gradients_are_those_of_torch(isa, cell, projection, sizes, both, packed):
    if projection >= sizes[3]:
        projection = 2
    made = torch_example(cell, sizes, both, projection, packed)
    (y, _, _), found = run(made)
    np.testing.assert_allclose(y, made["y"], rtol=0, atol=1e-5)
    for name, expected in made["expected"].items():
        if expected is None:
            assert found[name] is None
            continue
        error = np.linalg.norm(found[name] - expected) / np.linalg.norm(expected)
        assert error <= TOLERANCE / 10, name


# -- the contract ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rnn", "lstm projection", "lstm peepholes", "gru before keep",
                                  "gru after take"])  # fmt: skip
@pytest.mark.parametrize("sizes", [(6, 40, 20, 70), (6, 3, 150, 260)])
def test_threads_change_no_bit(name, sizes):
    T, N, I, H = sizes
    rng = np.random.default_rng(3)
    attrs = attributes(name, "bidirectional", rng)
    G, K = GATES[attrs["cell"]], CELLS[name].get("projection", H)
    lstm = attrs["cell"] == "lstm"
    shapes = {"x": (T, N, I), "W": (2, G * H, I), "R": (2, G * H, K), "B": (2, 2 * G * H),
              "h0": (2, N, K)}  # fmt: skip
    shapes |= {"P": (2, 3 * H)} if CELLS[name].get("P") else {}
    shapes |= {"projection": (2, K, H)} if K != H else {}
    arrays = {n: rng.normal(0, 0.3, s).astype(np.float32) for n, s in shapes.items()}
    made = {
        "attrs": attrs,
        "arrays": {n: arrays.get(n) for n in NAMES},
        "gradients": [rng.normal(size=(T, N, 2 * K)).astype(np.float32)],
        "lengths": rng.integers(1, T + 1, N),
        "H": H,
    }
    one, gradients = run(made)
    for threads in (2, 3):
        many, found = run(made, threads)
        for a, b in zip((*one, *gradients.values()), (*many, *found.values()), strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                np.testing.assert_array_equal(a, b)
    assert lstm == (found["c0"] is not None)


def lstm_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {"x": (3, 2, 4), "W": (1, 20, 4), "R": (1, 20, 5)}
    return {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}


def test_a_tape_is_used_once_and_by_its_layer():
    layer, other = (_core.RecurrentTraining({"cell": "lstm"}, 4, 5) for _ in range(2))
    y, h, c, tape = layer.forward(**lstm_arrays())
    assert (y.shape, h.shape, c.shape) == ((3, 2, 5), (1, 2, 5), (1, 2, 5))
    assert (tape.steps, tape.rows) == (3, 2)
    with pytest.raises(gr.InvalidInputError, match="another layer"):
        other.backward(tape, y)
    dx, *_ = layer.backward(tape, y, input_gradient=False)
    assert dx is None
    with pytest.raises(gr.InvalidInputError, match="used by a backward pass"):
        layer.backward(tape, y)


def test_rows_past_their_length_may_hold_anything():
    arrays = lstm_arrays()
    layer = _core.RecurrentTraining({"cell": "lstm"}, 4, 5)
    found = []
    for fill in (0.0, np.nan):
        arrays["x"][1:, 0] = fill
        y, h, _, tape = layer.forward(**arrays, lengths=np.array([1, 3]))
        found.append((y, h, *layer.backward(tape, np.ones_like(y))[:3]))
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("T", [0, 1])
@pytest.mark.parametrize("N", [0, 1])
def test_empty_sequences(T, N):
    layer = _core.RecurrentTraining({"cell": "gru"}, 4, 5)
    x = np.ones((T, N, 4), np.float32)
    W, R, h0 = np.ones((1, 15, 4)), np.ones((1, 15, 5)), np.ones((1, N, 5))
    W, R, h0 = (a.astype(np.float32) for a in (W, R, h0))
    y, h, _, tape = layer.forward(x, W, R, h0=h0)
    dx, dW, *_, dh0, dc0 = layer.backward(tape, y, 2 * h0)
    assert (y.shape, dx.shape, dc0) == ((T, N, 5), x.shape, None)
    if T == 0:
        np.testing.assert_array_equal(h, h0)
        np.testing.assert_array_equal(dh0, 2 * h0)
    if T * N == 0:
        assert not dW.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((3, 2, 5), np.float32)}, r"x has shape \[3, 2, 5\]; it must be \[3, 2, 4"),
        ({"W": np.zeros((1, 16, 4), np.float32)}, r"W has shape .* must be \[1, 20, 4\]"),
        ({"R": np.zeros((1, 20, 6), np.float32)}, r"R has shape .* must be \[1, 20, 5\]"),
        ({"B": np.zeros((1, 20), np.float32)}, r"B has shape .* must be \[1, 40\]"),
        ({"P": np.zeros((1, 5), np.float32)}, r"P has shape .* must be \[1, 15\]"),
        ({"h0": np.zeros((2, 5), np.float32)}, r"h0 has shape .* must be \[1, 2, 5\]"),
        ({"lengths": np.array([1])}, r"lengths has shape \[1\]; it must be \[2\]"),
        ({"lengths": np.array([1, 4])}, "length 4 of row 1; it must be from 0 to 3"),
        ({"lengths": np.array([-1, 3])}, "length -1 of row 0"),
    ],
)
def test_bad_arrays_are_refused(change, message):
    layer = _core.RecurrentTraining({"cell": "lstm"}, 4, 5)
    with pytest.raises(gr.InvalidInputError, match=message):
        layer.forward(**{**lstm_arrays(), **change})


def test_bad_layouts_are_refused():
    arrays = lstm_arrays()
    layer = _core.RecurrentTraining({"cell": "lstm"}, 4, 5)
    with pytest.raises(gr.InvalidTypeError, match="x has dtype float64; it must be float32"):
        layer.forward(**{**arrays, "x": arrays["x"].astype(np.float64)})
    with pytest.raises(gr.InvalidTypeError, match="W is not C-contiguous"):
        layer.forward(**{**arrays, "W": np.asfortranarray(arrays["W"])})


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"cell": "elman"}, "cell is 'elman'; it must be one of 'rnn', 'lstm', 'gru'"),
        ({"cell": "lstm", "direction": "up"}, "direction is 'up'"),
        ({"cell": "gru", "coupled": 1}, "coupled"),
        ({"cell": "lstm", "clip": -1.0}, "clip is -1"),
        ({"cell": "lstm", "clip": "x"}, "attribute clip is 'x'"),
        ({"cell": "lstm", "gates": 4}, "attribute 'gates'"),
        ({"cell": "lstm", "hidden_size": 4}, "hidden_size is 4"),
        ({"cell": "gru", "reset": "never"}, "reset is 'never'"),
        ({"cell": "gru", "activations": ["Tanh"]}, "there must be 2 of each"),
        (
            {"cell": "rnn", "activations": ["Sine"], "activation_alpha": [0.0],
             "activation_beta": [0.0]},
            "activation is 'Sine'",
        ),
    ],
)  # fmt: skip
def test_bad_attributes_are_refused(attrs, message):
    with pytest.raises(gr.InvalidInputError, match=message):
        _core.RecurrentTraining(attrs, 4, 5)


def test_states_of_the_cell_are_an_lstms_alone():
    layer = _core.RecurrentTraining({"cell": "rnn"}, 4, 5)
    arrays = {**lstm_arrays(), "W": np.zeros((1, 5, 4), np.float32)}
    arrays["R"] = np.zeros((1, 5, 5), np.float32)
    with pytest.raises(gr.InvalidInputError, match="c0 is given; only a cell 'lstm'"):
        layer.forward(**arrays, c0=np.zeros((1, 2, 5), np.float32))
