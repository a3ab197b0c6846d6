# SPDX-License-Identifier: MIT
"""The reference of the recurrent cells beside PyTorch and the facts of its contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tolerances import FLOAT64, assert_close

from gruengine.reference import gru_step, lstm_step, recurrent, rnn_step
from gruengine.reference_activations import ACTIVATIONS, Activation

Array = np.ndarray[Any, Any]

# PyTorch has the gates i, f, g, o and r, z, n; these rows give i, o, f, c and z, r, h.
FROM_TORCH = {"rnn": [0], "lstm": [0, 3, 1, 2], "gru": [1, 0, 2]}


def gates(cell: str, rows: torch.Tensor) -> Array:
    """Return the rows of a PyTorch parameter in the order of the reference."""
    array = rows.detach().numpy()
    parts = np.split(array, len(FROM_TORCH[cell]))
    return np.concatenate([parts[i] for i in FROM_TORCH[cell]])


def weights(module: Any, cell: str, suffixes: list[str]) -> dict[str, Any]:
    """Return W, R, B and projection of the PyTorch parameters with these suffixes."""

    def stack(name: str) -> Array:
        return np.stack([gates(cell, getattr(module, name + s)) for s in suffixes])

    bias = module.bias
    proj = getattr(module, "proj_size", 0)
    return {
        "W": stack("weight_ih"),
        "R": stack("weight_hh"),
        "B": np.concatenate([stack("bias_ih"), stack("bias_hh")], axis=1) if bias else None,
        "projection": np.stack(
            [getattr(module, "weight_hr" + s).detach().numpy() for s in suffixes]
        )
        if proj
        else None,
    }


def run_module(
    module: Any, x: Array, h0: Array, c0: Array | None, lengths: Array | None
) -> tuple[Array, Array, Array]:
    """Run the layers of a torch.nn.RNN, LSTM or GRU with the reference; x is [T, N, I]."""
    cell = {"RNN_TANH": "rnn", "RNN_RELU": "rnn", "LSTM": "lstm", "GRU": "gru"}[module.mode]
    D = 2 if module.bidirectional else 1
    finals_h, finals_c = [], []
    for layer in range(module.num_layers):
        suffixes = [f"_l{layer}", f"_l{layer}_reverse"][:D]
        rows = slice(layer * D, layer * D + D)
        y, y_h, y_c = recurrent(
            x,
            lengths=lengths,
            initial_h=h0[rows],
            initial_c=None if c0 is None else c0[rows],
            **weights(module, cell, suffixes),
            cell=cell,
            hidden_size=module.hidden_size,
            direction="bidirectional" if D == 2 else "forward",
            activations=["Relu"] * D if module.mode == "RNN_RELU" else None,
        )
        x = y.transpose(0, 2, 1, 3).reshape(*y.shape[:1], y.shape[2], -1)
        finals_h.append(y_h)
        finals_c.append(y_c)
    return x, np.concatenate(finals_h), np.concatenate(finals_c)


def random_like(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


MODULES = [
    (torch.nn.RNN, {"nonlinearity": "tanh"}),
    (torch.nn.RNN, {"nonlinearity": "relu"}),
    (torch.nn.LSTM, {}),
    (torch.nn.LSTM, {"proj_size": 3}),
    (torch.nn.GRU, {}),
]


@pytest.mark.parametrize("lengths", [None, [6, 1, 4]])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(("kind", "options"), MODULES)
def test_layers_equal_torch(
    kind: Any,
    options: dict[str, Any],
    layers: int,
    bidirectional: bool,
    bias: bool,
    lengths: list[int] | None,
) -> None:
    T, N, I, H = 6, 3, 5, 7
    torch.manual_seed(1)
    module = kind(
        I, H, num_layers=layers, bidirectional=bidirectional, bias=bias, dtype=torch.float64,
        **options,
    )  # fmt: skip
    DL = layers * (1 + bidirectional)
    K = options.get("proj_size") or H
    x, h0, c0 = random_like(2, T, N, I), random_like(3, DL, N, K), random_like(4, DL, N, H)
    is_lstm = kind is torch.nn.LSTM
    state: Any = (h0, c0) if is_lstm else h0
    packed: Any = x
    if lengths is not None:
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            x, torch.tensor(lengths), enforce_sorted=False
        )
    with torch.no_grad():
        y, last = module(packed, state)
    if lengths is not None:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y)
    ends = None if lengths is None else np.array(lengths)
    c = c0.numpy() if is_lstm else None
    got_y, got_h, got_c = run_module(module, x.numpy(), h0.numpy(), c, ends)
    assert_close(got_y, y.numpy(), FLOAT64)
    assert_close(got_h, (last[0] if is_lstm else last).numpy(), FLOAT64)
    if is_lstm:
        assert_close(got_c, last[1].numpy(), FLOAT64)


@pytest.mark.parametrize("bias", [True, False])
def test_cells_equal_torch(bias: bool) -> None:
    N, I, H = 3, 5, 7
    torch.manual_seed(5)
    x, h, c = random_like(6, N, I), random_like(7, N, H), random_like(8, N, H)
    options: dict[str, Any] = {"bias": bias, "dtype": torch.float64}

    def arguments(module: Any, cell: str) -> tuple[Array, Array, Array]:
        w = weights(module, cell, [""])
        b = w["B"]
        return w["W"][0], w["R"][0], np.zeros(2 * len(w["W"][0])) if b is None else b[0]

    with torch.no_grad():
        rnn = torch.nn.RNNCell(I, H, nonlinearity="relu", **options)
        args = arguments(rnn, "rnn")
        got = rnn_step(x.numpy(), h.numpy(), *args, f=Activation("Relu")).h
        assert_close(got, rnn(x, h).numpy(), FLOAT64)
        lstm = torch.nn.LSTMCell(I, H, **options)
        step = lstm_step(x.numpy(), h.numpy(), c.numpy(), *arguments(lstm, "lstm"))
        want_h, want_c = lstm(x, (h, c))
        assert_close(step.h, want_h.numpy(), FLOAT64)
        assert_close(step.c, want_c.numpy(), FLOAT64)
        gru = torch.nn.GRUCell(I, H, **options)
        assert_close(
            gru_step(x.numpy(), h.numpy(), *arguments(gru, "gru")).h, gru(x, h).numpy(), FLOAT64
        )


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_equal_torch(name: str) -> None:
    alpha, beta = 0.7, 0.3
    F = torch.nn.functional
    oracle: dict[str, Any] = {
        "Sigmoid": torch.sigmoid,
        "Tanh": torch.tanh,
        "Relu": torch.relu,
        "Affine": lambda x: alpha * x + beta,
        "LeakyRelu": lambda x: F.leaky_relu(x, alpha),
        "ThresholdedRelu": lambda x: F.threshold(x, alpha, 0.0),
        "ScaledTanh": lambda x: alpha * torch.tanh(beta * x),
        "HardSigmoid": lambda x: (alpha * x + beta).clamp(0, 1),
        "Elu": lambda x: F.elu(x, alpha),
        "Softsign": F.softsign,
        "Softplus": lambda x: F.softplus(x, threshold=1e9),
    }
    x = np.concatenate([np.linspace(-40, 40, 8001), [-0.0, alpha, -700.0, 700.0, np.nan]])
    got = Activation(name, alpha, beta)(x)
    want = oracle[name](torch.from_numpy(x)).numpy()
    if name == "ThresholdedRelu":  # NaN > alpha is false; torch keeps the NaN
        got, want = got[:-1], want[:-1]
    assert_close(got, want, FLOAT64)


def problem(cell: str, D: int = 1, seed: int = 9) -> dict[str, Any]:
    """Return arguments of ``recurrent`` with every input that the cell has, N = 4 and T = 5."""
    rng = np.random.default_rng(seed)
    T, N, I, H = 5, 4, 3, 6
    G = {"rnn": 1, "lstm": 4, "gru": 3}[cell]

    def normal(*shape: int) -> Array:
        return rng.normal(size=shape)

    args: dict[str, Any] = {
        "x": normal(T, N, I),
        "W": normal(D, G * H, I),
        "R": normal(D, G * H, H),
        "B": normal(D, 2 * G * H),
        "initial_h": normal(D, N, H),
        "cell": cell,
        "hidden_size": H,
        "direction": "bidirectional" if D == 2 else "forward",
    }
    if cell == "lstm":
        args |= {"initial_c": normal(D, N, H), "P": normal(D, 3 * H)}
    return args


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_lengths_mean_each_row_alone(cell: str) -> None:
    args = problem(cell, D=2)
    lengths = np.array([5, 0, 2, 1], np.int32)
    for n, length in enumerate(lengths):
        args["x"][length:, n] = np.nan  # what stands after the end is never looked at
    Y, Y_h, Y_c = recurrent(**args, lengths=lengths)
    for n, length in enumerate(lengths):
        row = slice(n, n + 1)
        assert not Y[length:, :, n].any()
        if length == 0:
            assert not Y_h[:, n].any()
            assert not Y_c[:, n].any()
            continue
        own = {k: v[:, row] if k in ("initial_h", "initial_c") else v for k, v in args.items()}
        own["x"] = args["x"][:length, row]
        y, y_h, y_c = recurrent(**own)
        assert_close(Y[:length, :, row], y, FLOAT64)
        assert_close(Y_h[:, row], y_h, FLOAT64)
        assert_close(Y_c[:, row], y_c, FLOAT64)
        assert_close(Y_h[0, n], Y[length - 1, 0, n], FLOAT64)
        assert_close(Y_h[1, n], Y[0, 1, n], FLOAT64)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_no_steps_keep_the_state(cell: str) -> None:
    args = problem(cell)
    args["x"] = args["x"][:0]
    Y, Y_h, Y_c = recurrent(**args)
    assert Y.shape == (0, 1, 4, 6)
    np.testing.assert_array_equal(Y_h, args["initial_h"])
    np.testing.assert_array_equal(Y_c, args.get("initial_c", np.zeros((1, 4, 6))))


def test_update_take_is_keep_with_the_gate_negated() -> None:
    args = problem("gru")
    H = args["hidden_size"]
    keep = recurrent(**args)[0]
    negated = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in args.items()}
    negated["W"][:, :H] *= -1
    negated["R"][:, :H] *= -1
    negated["B"].reshape(1, 2, 3, H)[:, :, 0] *= -1
    assert_close(recurrent(**negated, update="take")[0], keep, FLOAT64)
    assert np.abs(recurrent(**args, update="take")[0] - keep).max() > 0.1


def test_reverse_is_forward_on_the_flipped_sequence() -> None:
    args = problem("lstm")
    args["direction"] = "reverse"
    Y, Y_h, Y_c = recurrent(**args)
    args |= {"direction": "forward", "x": args["x"][::-1]}
    y, y_h, y_c = recurrent(**args)
    np.testing.assert_array_equal(Y, y[::-1])
    np.testing.assert_array_equal(Y_h, y_h)
    np.testing.assert_array_equal(Y_c, y_c)


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("lstm", {"cell": "sru"}, "cell is 'sru'"),
    ("lstm", {"direction": "backward"}, "direction is 'backward'"),
    ("gru", {"reset": "never"}, "reset is 'never'"),
    ("gru", {"update": "drop"}, "update is 'drop'"),
    ("gru", {"P": np.zeros((1, 18))}, "was given P"),
    ("rnn", {"initial_c": np.zeros((1, 4, 6))}, "was given initial_c"),
    ("rnn", {"clip": -1.0}, "clip is -1.0"),
    ("rnn", {"clip": float("nan")}, "clip is nan"),
    ("rnn", {"x": np.zeros((4, 3))}, "X has shape"),
    ("gru", {"W": np.zeros((1, 18, 4))}, "W has shape"),
    ("gru", {"R": np.zeros((1, 17, 6))}, "R has shape"),
    ("gru", {"R": np.zeros((1, 18, 5))}, "R has 5 columns"),
    ("gru", {"B": np.zeros((1, 18))}, "B has shape"),
    ("gru", {"initial_h": np.zeros((1, 3, 6))}, "initial_h has shape"),
    ("lstm", {"P": np.zeros((1, 4 * 6))}, "P has shape"),
    ("lstm", {"projection": np.zeros((1, 5, 6))}, "projection has shape"),
    ("gru", {"lengths": np.array([1, 2, 3, 6])}, "from 0 to 5"),
    ("gru", {"lengths": np.array([-1, 2, 3, 5])}, "from 0 to 5"),
    ("gru", {"lengths": np.array([1, 2, 3])}, "4 integers"),
    ("gru", {"lengths": np.ones(4)}, "4 integers"),
    ("gru", {"activations": ["Sigmoid"]}, "needs 2 of each"),
    ("gru", {"activations": ["Sigmoid", "Swish"]}, "activation is 'Swish'"),
    ("rnn", {"activation_alpha": [0.1, 0.2]}, "needs 1 of each"),
]


@pytest.mark.parametrize(("cell", "change", "message"), BAD)
def test_what_does_not_fit_is_refused(cell: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recurrent(**{**problem(cell), **change})
