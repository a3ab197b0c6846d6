# SPDX-License-Identifier: MIT
"""EncoderDecoder: gradients through the states, training, one graph of both."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

import gruengine as gr

N, S, T = 4, 6, 5


def make(cell=gr.LSTM, seed=0, **options):
    encoder = gr.Sequential([gr.Embedding(7, 5), cell(6, **options)], seed=seed)
    decoder = gr.Sequential(
        [gr.Embedding(9, 4), cell(6, return_sequences=True, **options), gr.Dense(9)], seed=seed + 1
    )
    return gr.EncoderDecoder(encoder, decoder)


def sample(seed=0):
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 7, (N, S)), rng.integers(0, 9, (N, T))), rng.integers(0, 9, (N, T))


@pytest.mark.parametrize("cell", [gr.RNN, gr.LSTM, gr.GRU])
def test_gradients_go_through_the_states(cell):
    net = make(cell, num_layers=2)
    (source, given), _ = sample()
    lengths = np.array([6, 3, 5, 1])
    run = gr.Pass(lengths)
    y, _, backprop = net.begin_update((source, given), None, run)
    weights = np.random.default_rng(1).normal(size=y.shape)
    backprop(weights.astype(np.float32))
    rng = np.random.default_rng(2)
    for layer in net.encoder.layers:
        for key, gradient in layer.gradients.items():
            direction = rng.normal(size=gradient.shape)
            direction = direction / np.linalg.norm(direction) + gradient / np.linalg.norm(gradient)
            kept, values = layer.params[key], []
            for eps in (1e-2, -1e-2):
                layer.params[key] = (kept + eps * direction).astype(np.float32)
                found, _, _ = net.begin_update((source, given), None, run)
                values.append(float(np.sum(weights * found)))
            layer.params[key] = kept
            slope = (values[0] - values[1]) / 2e-2
            norm = float(np.linalg.norm(gradient))
            assert norm > 0
            assert np.sum(direction * gradient) == pytest.approx(slope, abs=5e-3 * norm)


def test_it_learns_to_reverse(tmp_path):
    rng = np.random.default_rng(0)
    source = rng.integers(1, 5, (256, 4))
    wanted = source[:, ::-1].copy()
    given = np.concatenate([np.zeros((256, 1), np.int64), wanted[:, :-1]], 1)
    encoder = gr.Sequential([gr.Embedding(5, 8), gr.GRU(32)])
    decoder = gr.Sequential([gr.Embedding(5, 8), gr.GRU(32, return_sequences=True), gr.Dense(5)],
                            seed=1)  # fmt: skip
    net = gr.EncoderDecoder(encoder, decoder)
    trainer = gr.Trainer(net, "cross_entropy", gr.optimizers.Adam(0.01), metrics=["accuracy"])
    path = tmp_path / "run.safetensors"
    history = trainer.fit((source, given), wanted, epochs=20, validation=((source, given), wanted),
                          checkpoint=path, progress=False)  # fmt: skip
    assert history["validation_accuracy"][-1] > 0.95
    assert (net.generate(source, 0, 4) == wanted).mean() > 0.9
    outputs = gr.load(path).run_graph({"source": source, "target": given})
    found, _, _ = net.begin_update((source, given), None, gr.Pass(training=False))
    np.testing.assert_allclose(outputs["y"], found, rtol=1e-4, atol=1e-5)


def test_both_are_one_graph():
    for cell in (gr.RNN, gr.LSTM, gr.GRU):
        net = make(cell, bidirectional=True, num_layers=2)
        (source, given), _ = sample()
        found, _, _ = net.begin_update((source, given), None, gr.Pass(training=False))
        model = gr.Model.from_spec(net.spec())
        outputs = model.run_graph({"source": source, "target": given})
        np.testing.assert_allclose(outputs["y"], found, rtol=1e-4, atol=1e-5)


def test_lengths_are_those_of_the_encoder_and_a_mask_that_of_the_decoder():
    x, y = sample()
    lengths, mask = np.array([1, 3, 6, 2]), np.arange(T) < np.array([5, 1, 2, 4])[:, None]
    for chosen in (None, mask):
        net = make()
        logits, _, _ = net.begin_update(x, None, gr.Pass(lengths, training=False))
        counts = np.ones((N, T), bool) if chosen is None else chosen
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        wanted = -np.take_along_axis(logs, y[..., None], -1)[..., 0][counts].mean()
        trainer = gr.Trainer(net, "cross_entropy")
        assert trainer.evaluate(x, y, lengths, mask=chosen)["loss"] == pytest.approx(wanted)
        step = trainer.step(x, y, lengths, mask=chosen)
        assert step.loss == pytest.approx(wanted)
        assert step.counted == counts.sum()


def test_it_is_saved_and_exported(tmp_path):
    net = make(gr.GRU)
    (source, given), _ = sample()
    found, _, _ = net.begin_update((source, given), None, gr.Pass(training=False))
    net.save(tmp_path / "both.safetensors")
    gr.export(net, tmp_path / "both.onnx")
    feeds = {"source": source, "target": given}
    outputs = gr.load(tmp_path / "both.safetensors").run_graph(feeds)
    np.testing.assert_allclose(outputs["y"], found, atol=1e-5)
    session = onnxruntime.InferenceSession(tmp_path / "both.onnx")
    np.testing.assert_allclose(session.run(["y"], feeds)[0], found, atol=1e-5)


def test_refusals():
    encoder = gr.Sequential([gr.GRU(4)], 3)
    with pytest.raises(gr.InvalidInputError, match=r"'gru', 4, 4, 0, 1.*'gru', 5, 5, 0, 1"):
        gr.EncoderDecoder(encoder, gr.Sequential([gr.GRU(5)], 3))
    net = make()
    with pytest.raises(gr.InvalidInputError, match="no parameter 'W'"):
        net.set_parameters({"W": 1})
    x, y = sample()
    with pytest.raises(gr.InvalidInputError, match="truncate needs one sequence"):
        gr.Trainer(net, "cross_entropy").fit(x, y, truncate=2)
    with pytest.raises(gr.InvalidInputError, match="'decoder_lstm' reads backwards too"):
        make(bidirectional=True).generate(x[0], 0, 3)
    assert {name.split("_")[0] for name in net.parameters()} == {"encoder", "decoder"}
