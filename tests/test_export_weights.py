# SPDX-License-Identifier: MIT
"""Weights as PyTorch and Keras keep them: the same bits, the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from export_specs import H, I, feed, recurrent_spec, refusals
from keras_models import L, keras
from safetensors.numpy import load as load_safetensors
from torch import nn

import gruengine as gr
from gruengine.reference_graph import run_graph
from gruengine.spec import Node


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(3)


# -- PyTorch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [
    nn.LSTM(I, H, 2, batch_first=True, bidirectional=True),
    nn.GRU(I, H, 3, batch_first=True), nn.RNN(I, H, batch_first=True, nonlinearity="relu"),
    nn.LSTM(I, H, 2, batch_first=True, proj_size=3, bidirectional=True),
    nn.GRU(I, H, batch_first=True, bias=False),
    nn.LSTMCell(I, H), nn.GRUCell(I, H, bias=False),
    nn.Sequential(nn.Embedding(9, I), nn.LSTM(I, H, 2, batch_first=True)),
], ids=str)  # fmt: skip
def test_state_dicts_return_as_they_were(module, tmp_path):
    model = gr.from_torch(module)
    model.export(tmp_path / "weights.safetensors")
    found = load_safetensors((tmp_path / "weights.safetensors").read_bytes())
    expected = {name: value.numpy() for name, value in module.state_dict().items()}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(found[name], value), name


def test_layers_beside_recurrent_ones_and_back(tmp_path):
    net = gr.Sequential(
        [gr.GRU(H, num_layers=2, return_sequences=True), gr.LayerNorm(), gr.Dense(3)], input_size=I
    )
    gr.export(net, tmp_path / "w.safetensors")
    twin = nn.ModuleDict({"gru": nn.GRU(I, H, 2, batch_first=True),
                          "layer_norm": nn.LayerNorm(H), "dense": nn.Linear(H, 3)})  # fmt: skip
    state = load_safetensors((tmp_path / "w.safetensors").read_bytes())
    twin.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    x = torch.randn(2, 6, I)
    with torch.no_grad():
        y = twin["dense"](twin["layer_norm"](twin["gru"](x)[0])).numpy()
    assert np.abs(net(x.numpy()) - y).max() <= 2e-6
    again = gr.load(
        tmp_path / "w.safetensors", batch_first=True, order=["gru", "layer_norm", "dense"],
        kinds={"layer_norm": "layernorm"}, eps={"layer_norm": 1e-5}, output="sequence",
        activations={"dense": "none"},
    )  # fmt: skip
    assert np.array_equal(again(x.numpy()), net(x.numpy()))


def test_a_flipped_update_gate_is_turned_for_torch():
    rng = np.random.default_rng(2)
    spec = recurrent_spec("gru", rng, update="take")
    spec.graph.nodes[0] = Node("Recurrent", *(getattr(spec.graph.nodes[0], name) for name in
                               ("inputs", "outputs", "attrs")), "g")  # fmt: skip
    state = gr.converters.to_torch.to_state_dict(spec)
    twin = nn.ModuleDict({"g": nn.GRU(I, H)})
    twin.load_state_dict({name: torch.tensor(value) for name, value in state.items()})
    inputs = feed(spec, rng)
    expected = run_graph(spec.graph, spec.tensors, inputs)
    with torch.no_grad():
        y, _ = twin["g"](torch.tensor(inputs["x"]), torch.tensor(inputs["h"]))
    assert np.abs(y.numpy() - expected["y"][:, 0]).max() <= 2e-6


@pytest.mark.parametrize(("cell", "options", "reason"), [
    ("gru", {"reset": "before"}, "reset 'before'"),
    ("gru", {"update": "take", "activations": ["Tanh", "Tanh"]}, "update 'take'"),
    ("lstm", {"coupled": 1}, "coupled gates"),
    ("lstm", {"clip": 1.0}, "clip 1.0"),
    ("lstm", {"peephole": True}, "peepholes"),
    ("lstm", {"direction": "reverse"}, "direction 'reverse'"),
    ("lstm", {"activations": ["Sigmoid", "Relu", "Tanh"]}, "activations"),
    ("rnn", {"activations": ["Elu"], "activation_alpha": [1.0]}, "torch has"),
])  # fmt: skip
def test_what_torch_has_not(cell, options, reason, tmp_path):
    spec = recurrent_spec(cell, np.random.default_rng(0), **options)
    assert reason in refusals(gr.export, spec, tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


# -- Keras ----------------------------------------------------------------------------------------


def keras_pairs():
    yield [gr.LSTM(H, return_sequences=True), gr.Dense(3)], [
        L.LSTM(H, return_sequences=True), L.Dense(3)]  # fmt: skip
    yield [gr.GRU(H, return_sequences=True), gr.GRU(4)], [
        L.GRU(H, return_sequences=True), L.GRU(4)]  # fmt: skip
    yield [gr.GRU(H, reset="before"), gr.LayerNorm(1e-3)], [
        L.GRU(H, reset_after=False), L.LayerNormalization(epsilon=1e-3)]  # fmt: skip
    yield [gr.RNN(H, bidirectional=True)], [L.Bidirectional(L.SimpleRNN(H))]
    yield [gr.LSTM(H, bidirectional=True, return_sequences=True)], [
        L.Bidirectional(L.LSTM(H, return_sequences=True))]  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs"), list(keras_pairs()))
def test_keras_loads_the_weights(ours, theirs, tmp_path):
    net = gr.Sequential(ours, input_size=I, seed=4)
    rng = np.random.default_rng(0)
    net.set_parameters({k: v + rng.normal(size=v.shape) * 0.2 for k, v in net.parameters().items()})
    model = keras.Sequential([keras.Input((None, I)), *theirs])
    gr.export(net, tmp_path / "m.weights.h5")
    model.load_weights(tmp_path / "m.weights.h5")
    x = rng.normal(size=(2, 6, I)).astype(np.float32)
    y = model(x, training=False).detach().cpu().numpy()
    assert np.abs(net(x) - y).max() <= 2e-6
    gr.export(net, tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz") as arrays:
        expected = [weight.value.detach().cpu().numpy() for weight in model.weights]
        assert len(arrays.files) == len(expected)
        for name, value in zip(arrays.files, expected, strict=True):
            assert np.array_equal(arrays[name], value), name


@pytest.mark.parametrize(("cell", "options", "reason"), [
    ("lstm", {"peephole": True}, "peepholes"),
    ("lstm", {"coupled": 1}, "coupled gates"),
    ("gru", {"clip": 1.0}, "clip 1.0"),
    ("gru", {"direction": "reverse"}, "direction 'reverse'"),
    ("lstm", {"activations": ["Sigmoid", "Relu", "Tanh"]}, "the candidate and the output"),
    ("rnn", {"activations": ["Affine"]}, "Keras has"),
])  # fmt: skip
def test_what_keras_has_not(cell, options, reason, tmp_path):
    spec = recurrent_spec(cell, np.random.default_rng(0), **options)
    assert reason in refusals(gr.export, spec, tmp_path / "w.npz")
