# SPDX-License-Identifier: MIT
"""Variants of the cells as layers: the engine against the reference, streams, files, training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gruengine as gr
from gruengine.layer_base import Pass
from gruengine.layer_cells import LSTM_VARIANTS
from gruengine.reference_graph import run_graph

# name -> a layer of H units; each gives every output.
LAYERS: dict[str, Any] = {
    **{
        name: lambda H, name=name, **o: gr.LSTM.named(name, H, return_sequences=True, **o)
        for name in LSTM_VARIANTS
    },
    "FGR projection": lambda H, **o: gr.LSTM(
        H, full_gates=True, projection=5, return_sequences=True, **o
    ),
    "LN FGR": lambda H, **o: gr.LSTM(
        H, full_gates=True, layer_norm=True, peepholes=True, return_sequences=True, **o
    ),
    "LN zoneout": lambda H, **o: gr.LSTM(
        H, layer_norm=True, zoneout=0.2, return_sequences=True, **o
    ),
    "LN skip": lambda H, **o: gr.LSTM(H, layer_norm=True, skip=True, return_sequences=True, **o),
    "FGR skip": lambda H, **o: gr.LSTM(
        H, full_gates=True, skip=True, projection=4, return_sequences=True, **o
    ),
    "RNN zoneout": lambda H, **o: gr.RNN(H, zoneout=0.3, return_sequences=True, **o),
    "RNN skip": lambda H, **o: gr.RNN(H, skip=True, return_sequences=True, **o),
    "GRU zoneout": lambda H, **o: gr.GRU(H, zoneout=0.3, return_sequences=True, **o),
    "GRU before zoneout": lambda H, **o: gr.GRU(
        H, zoneout=0.3, reset="before", return_sequences=True, **o
    ),
    "GRU skip": lambda H, **o: gr.GRU(H, skip=True, return_sequences=True, **o),
    "GRU before skip": lambda H, **o: gr.GRU(
        H, reset="before", update="take", skip=True, return_sequences=True, **o
    ),
    "LSTM skip projection": lambda H, **o: gr.LSTM(
        H, skip=True, projection=6, return_sequences=True, **o
    ),
}


def net_of(name: str, rng: np.random.Generator, H: int = 19, **options: Any) -> gr.Sequential:
    """Return a model whose parameters are all random and, with skip, which does skip."""
    net = gr.Sequential([LAYERS[name](H, **options)], input_size=3)
    shake(net, rng)
    return net


def shake(net: gr.Sequential, rng: np.random.Generator) -> None:
    values = {n: v + rng.normal(0, 0.3, v.shape) for n, v in net.parameters().items()}
    for n, v in values.items():
        if n.rpartition(".")[2].startswith("skip"):  # probabilities on both sides of one half
            v[:, :-1] *= 4
            v[:, -1] = -0.3
    net.set_parameters(values)


@pytest.mark.parametrize("both", [False, True], ids=["forward", "both ways"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_engine_computes_what_the_reference_does(isa, name, both, rng):
    net = net_of(name, rng, bidirectional=both, num_layers=2)
    spec = net.spec()
    x = rng.normal(size=(4, 9, 3)).astype(np.float32)
    y = net(x)
    exact = run_graph(spec.graph, spec.tensors, {"x": x})["y"]
    np.testing.assert_allclose(y, exact, rtol=0, atol=2e-5)
    trained, *_ = net.begin_update(x, run=Pass(training=False))
    np.testing.assert_allclose(trained, exact, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_streams_and_rows_have_the_bits_of_sequences(isa, name, rng):
    net = net_of(name, rng, num_layers=2)
    x = rng.normal(size=(5, 23, 3)).astype(np.float32)
    whole = net(x)
    for row in range(5):
        np.testing.assert_array_equal(net(x[row : row + 1])[0], whole[row])
    stream = net.stream(batch_size=5)
    for t in range(23):
        np.testing.assert_array_equal(stream.step(x[:, t].copy()), whole[:, t])


@pytest.mark.parametrize("name", ["FGR", "LN zoneout", "FGR skip", "GRU before skip"])
def test_pools_and_lengths(name, rng):
    net = net_of(name, rng)
    x = rng.normal(size=(5, 12, 3)).astype(np.float32)
    whole = net(x)
    model = gr.Model.from_spec(net.spec(every_step=True))
    pool = model.pool(8)
    streams = [pool.open() for _ in range(5)]
    for t in range(12):
        y = pool.step(streams, x[:, t].copy())
        np.testing.assert_array_equal(y, whole[:, t])
    lengths = np.array([3, 12, 0, 7, 1])
    y, state, _ = net.begin_update(x, run=Pass(lengths, training=False))
    for row, n in enumerate(lengths):
        np.testing.assert_allclose(y[row, :n], whole[row, :n], atol=2e-5)
        assert not y[row, n:].any()
        if n:
            np.testing.assert_array_equal(state[0].h[0, row], y[row, n - 1])


@pytest.mark.parametrize("name", LAYERS)
def test_files_and_layers_of_models_keep_the_variant(name, rng, tmp_path):
    net = net_of(name, rng, bidirectional=True)
    net.save(tmp_path / "model.safetensors")
    model = gr.load(tmp_path / "model.safetensors")
    x = rng.normal(size=(2, 6, 3)).astype(np.float32)
    np.testing.assert_array_equal(model(x), net(x))
    if name in ("NIG", "NFG", "NOG", "NIAF", "NOAF", "1997"):
        return  # their gates are constants of the file
    again = gr.Sequential.from_model(model)
    np.testing.assert_array_equal(again(x), net(x))
    assert {n: v.shape for n, v in again.parameters().items()} == {
        n.replace(net.layers[0].name, again.layers[0].name): v.shape
        for n, v in net.parameters().items()
    }
    assert "total" in net.summary()


@pytest.mark.parametrize("name", ["FGR", "LN", "zoneout", "LN FGR", "skip", "GRU skip"])
def test_variants_learn_from_carried_states_and_resume(name, rng):
    def trainer() -> tuple[gr.Sequential, gr.Trainer]:
        net = gr.Sequential([LAYERS[name](12), gr.Dense(1)], input_size=3, seed=1)
        return net, gr.Trainer(net, "mse", gr.optimizers.Adam(1e-2), seed=5)

    x = rng.normal(size=(16, 20, 3)).astype(np.float32)
    target = np.cumsum(x[..., :1], axis=1) * 0.3
    first, learner = trainer()
    losses = []
    for _ in range(60):
        state = None
        for at in (0, 10):
            done = learner.step(x[:, at : at + 10], target[:, at : at + 10], state=state)
            state = done.state
        losses.append(done.loss)
    assert losses[-1] < 0.6 * losses[0]
    second, other = trainer()
    for _ in range(60):
        state = None
        for at in (0, 10):
            state = other.step(x[:, at : at + 10], target[:, at : at + 10], state=state).state
    for a, b in zip(first.parameters().values(), second.parameters().values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_zoneout_keeps_units_in_training_and_shares_in_inference(rng):
    net = gr.Sequential([gr.GRU(64, zoneout=0.3, return_sequences=True)], input_size=3, seed=2)
    x = rng.normal(size=(8, 30, 3)).astype(np.float32)
    y, *_ = net.begin_update(x, run=Pass(seed=(4,)))
    same = (y[:, 1:] == y[:, :-1]).mean()
    assert abs(same - 0.3) < 0.02
    quiet, *_ = net.begin_update(x, run=Pass(training=False))
    assert (quiet[:, 1:] == quiet[:, :-1]).mean() < 0.01
    np.testing.assert_allclose(net(x), quiet, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gr.GRU(3, zoneout=(0.1, 0.1)), "h and c of an LSTM"),
        (lambda: gr.LSTM(3, zoneout=1.0), "below 1"),
        (lambda: gr.LSTM(3, zoneout=0.1, skip=True), "exclude each other"),
        (lambda: gr.LSTM(3, skip_cost=0.1), "skip_cost is 0.1"),
        (lambda: gr.LSTM(3, full_gates=True, coupled=True), "full_gates and layer_norm need"),
        (lambda: gr.LSTM(3, layer_norm=True, clip=1.0), "full_gates and layer_norm need"),
        (lambda: gr.LSTM(3, layer_norm=True, norm_epsilon=0.0), "norm_epsilon is 0.0"),
        (lambda: gr.LSTM.named("FRG", 3), "name is 'FRG'; it must be one of 'V', 'NIG'"),
    ],
)
def test_bad_variants_are_refused(make, message):
    with pytest.raises(gr.InvalidInputError, match=message):
        make()


def test_gates_are_recorded_and_gradients_flow(rng):
    for name in ("FGR", "LN", "FGR skip", "GRU zoneout"):
        net = net_of(name, rng, H=5)
        x = rng.normal(size=(4, 25, 3)).astype(np.float32)
        gates = gr.diagnostics.record_gates(net, x)[net.layers[0].name]
        np.testing.assert_allclose(gates["h"].swapaxes(0, 1), net(x), atol=1e-5)
        if "skip" in name:
            assert set(np.unique(gates["u"])) == {0.0, 1.0}
            still = gates["u"][1:, :, 0] == 0
            np.testing.assert_array_equal(gates["h"][1:][still], gates["h"][:-1][still])
        flow = gr.diagnostics.gradient_flow(net, x, dy=rng.normal(size=net(x).shape))
        assert all(np.isfinite(norms).all() and norms.all() for norms in flow.values())


@pytest.mark.parametrize("name", ["FGR", "LN zoneout", "GRU skip", "LSTM skip projection",
                                  "GRU before zoneout"])  # fmt: skip
def test_threads_and_compute_types(name, rng):
    net = net_of(name, rng, H=40, bidirectional=True, num_layers=2)
    x = rng.normal(size=(6, 30, 3)).astype(np.float32)
    whole = net(x)
    np.testing.assert_array_equal(net.compile(num_threads=3)(x), whole)
    for low in ("bfloat16", "int8"):
        y = net.compile(compute_type=low)(x)
        np.testing.assert_array_equal(net.compile(compute_type=low, num_threads=3)(x), y)
        np.testing.assert_array_equal(net.compile(compute_type=low)(x[2:3]), y[2:3])
        if "skip" not in name:  # a decision to skip may turn
            assert 0 < np.abs(y - whole).mean() < 0.02
        ahead = net_of(name, rng, H=40, num_layers=2)
        model = gr.Model.from_spec(ahead.spec(every_step=True), compute_type=low)
        stream, y = model.stream(6), model(x)
        for t in range(30):
            np.testing.assert_array_equal(stream.step(x[:, t].copy()), y[:, t])
        alone = model.stream(1)
        np.testing.assert_array_equal(alone.run(x[4:5, :11]), y[4:5, :11])
        np.testing.assert_array_equal(alone.run(x[4:5, 11:]), y[4:5, 11:])


@pytest.mark.parametrize("name", ["FGR", "LN"])
def test_packed_weights_of_rows_are_smaller(name, rng):
    net = net_of(name, rng, H=96)
    full, small = net.compile(), net.compile(compute_type="int8")
    x = rng.normal(size=(1, 2, 3)).astype(np.float32)
    assert full(x).shape == small(x).shape
    assert small.packed_bytes < 0.4 * full.packed_bytes


@pytest.mark.parametrize("name", ["FGR", "LN", "zoneout", "skip"])
def test_training_in_bfloat16_and_with_threads(name, rng):
    x = rng.normal(size=(24, 15, 3)).astype(np.float32)
    target = np.tanh(np.cumsum(x[..., :1], axis=1))
    losses = {}
    for low, threads in (("float32", 1), ("float32", 2), ("bfloat16", 1)):
        layer = LAYERS[name](24, recurrent_dropout=0.1)
        net = gr.Sequential([layer, gr.Dense(1)], input_size=3, seed=1)
        trainer = gr.Trainer(
            net, "mse", gr.optimizers.Adam(1e-2), seed=5, compute_type=low, num_threads=threads
        )
        losses[low, threads] = [trainer.step(x, target).loss for _ in range(30)]
    assert losses["float32", 1] == losses["float32", 2]
    ends = [values[-1] for values in losses.values()]
    assert max(ends) < 0.7 * losses["float32", 1][0]
    assert max(ends) - min(ends) < 0.15 * max(ends)
