# SPDX-License-Identifier: MIT
"""Real-time recurrent learning beside backpropagation through time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import gruengine as gr
from gruengine.layer_base import Pass


def random_net(seed):
    """A small random network: one to three layers of any cell and variant, and a head."""
    rng = np.random.default_rng(seed)
    options = {"num_layers": int(rng.integers(1, 3)), "return_sequences": True}
    if rng.random() < 0.2:
        options["clip"] = 0.9
    options["residual"] = options["num_layers"] == 2 and bool(rng.random() < 0.5)
    around = [{}, {}, {"zoneout": 0.3}, {"skip": True, "skip_cost": float(rng.choice([0, 0.2]))}]
    options |= around[rng.integers(4)]
    gated = {"layer_norm": bool(rng.random() < 0.5), "full_gates": bool(rng.random() < 0.7)}
    kinds = [
        lambda: gr.RNN(int(rng.integers(1, 6)), str(rng.choice(["tanh", "relu"])), **options),
        lambda: gr.LSTM(int(rng.integers(2, 5)), peepholes=bool(rng.random() < 0.5),
                        coupled=bool(rng.random() < 0.3),
                        projection=2 if rng.random() < 0.3 else None, **options),
        lambda: gr.LSTM(int(rng.integers(2, 5)), peepholes=bool(rng.random() < 0.5), **gated,
                        projection=2 if rng.random() < 0.3 else None, **options | {"clip": 0.0}),
        lambda: gr.GRU(int(rng.integers(1, 6)), reset=str(rng.choice(["after", "before"])),
                       update=str(rng.choice(["keep", "take"])), **options),
    ]  # fmt: skip
    layers = [kinds[rng.integers(4)]() for _ in range(rng.integers(1, 3))]
    heads = [[gr.Dense(2)], [gr.Dense(3, "tanh"), gr.Dense(2)], [gr.LayerNorm(), gr.Dense(2)], []]
    layers += heads[rng.integers(len(heads))]
    size = int(rng.integers(1, 4))
    net = gr.Sequential(layers, input_size=size)
    shapes = {name: value.shape for name, value in net.parameters().items()}
    net.set_parameters({name: rng.normal(0, 0.6, shape) for name, shape in shapes.items()})
    x = rng.normal(size=(1, int(rng.integers(3, 9)), size)).astype(np.float32)
    return net, x


@pytest.mark.parametrize("seed", range(50))
def test_the_gradient_is_that_of_backpropagation(seed):
    net, x = random_net(seed)
    T, C = x.shape[1], net.shapes()[-1][-1]
    targets = np.random.default_rng(seed + 100).normal(size=(1, T, C)).astype(np.float32)
    learner = gr.RTRL(net, "mse")
    total, outputs = {}, []
    for t in range(T):
        outputs.append(learner.step(x[:, t]))
        _, found = learner.gradients(targets[:, t])
        for name, value in found.items():
            total[name] = total.get(name, 0) + value.astype(np.float64)
    np.testing.assert_allclose(np.stack(outputs, 1), net(x), rtol=1e-4, atol=1e-5)
    y, _, backprop = net.begin_update(x, run=Pass(training=False))  # shares of zoneout, no masks
    backprop(np.asarray(2 * (y - targets) / C, np.float32))
    places = {f"{layer.name}.{key}": layer.gradients[key] for layer in net.layers
              for key in layer.params}  # fmt: skip
    assert set(total) == set(places)
    norm = np.sqrt(sum(float(np.sum(g.astype(np.float64) ** 2)) for g in places.values()))
    error = np.sqrt(sum(float(np.sum((g - total[name]) ** 2)) for name, g in places.items()))
    assert norm > 0
    assert error <= 1e-5 * norm


def test_it_learns_a_stream():
    """Predict the next value of a sine while it streams by."""
    net = gr.Sequential([gr.GRU(6), gr.Dense(1)], input_size=1, seed=2)
    learner = gr.RTRL(net, "mse", gr.optimizers.Adam(0.01))
    wave = np.sin(0.4 * np.arange(401)).astype(np.float32)
    losses = []
    for now, after in itertools.pairwise(wave):
        learner.step([now])
        losses.append(learner.learn([[after]]))
    assert np.mean(losses[-50:]) < 0.05 * np.mean(losses[:20])
    assert np.mean(losses[:20]) > 0.05
    stream = net.stream()
    assert abs(stream.step(np.array([[wave[0]]], np.float32))[0, 0]) < 2


@pytest.mark.parametrize(("x", "target"), [(np.nan, 0.0), (1.0, np.inf)])
def test_what_is_not_finite_updates_nothing(x, target):
    net = gr.Sequential([gr.LSTM(3), gr.Dense(1)], input_size=2)
    learner = gr.RTRL(net, "mse", "adam")
    kept = {name: value.copy() for name, value in net.parameters().items()}
    learner.step([1.0, x])
    with pytest.raises(gr.DivergenceError, match=r"step 0, layer .*nothing was updated"):
        learner.learn([[target]])
    for name, value in net.parameters().items():
        np.testing.assert_array_equal(value, kept[name])
    learner.reset()
    learner.step([1.0, 1.0])
    assert np.isfinite(learner.learn([[0.0]]))


def test_a_loss_with_a_softmax():
    net = gr.Sequential([gr.LSTM(3), gr.Dense(4, "softmax")], input_size=2)
    learner = gr.RTRL(net, "cross_entropy")
    y = learner.step(np.ones(2))
    assert y.sum() == pytest.approx(1)
    assert learner.learn(np.array([1])) == pytest.approx(-np.log(y[0, 1]), rel=1e-5)
    learner.reset()
    assert not learner.cells[0].S.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gr.RTRL(gr.Sequential([gr.Dense(3)], 2)), "recurrent layers first"),
        (lambda: gr.RTRL(gr.Sequential([gr.GRU(3, bidirectional=True)], 2)), "one direction"),
        (lambda: gr.RTRL(gr.Sequential([gr.GRU(3)], 2)).learn([[0.0] * 3]), "call step first"),
        (lambda: gr.RTRL(gr.Sequential([gr.GRU(3)], 2)).step(np.ones(3)), r"\[1, 2\]"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(gr.InvalidInputError, match=message):
        call()
