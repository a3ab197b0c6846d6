# SPDX-License-Identifier: MIT
"""Trainer: curves beside PyTorch's, truncation, lengths, resuming, and what stops it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

import gruengine as gr
from gruengine.progress import Progress

N, T, I, H = 6, 9, 4, 7
torch.set_num_threads(1)
TORCH_ROWS = {"lstm": [0, 2, 3, 1], "gru": [1, 0, 2], "rnn": [0]}  # of ours, in torch's order


def sample(seed=0, out=2):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, T, I)).astype(np.float32)
    return x, np.tanh(np.cumsum(x, 1)[..., :out]).astype(np.float32)


class Twin(torch.nn.Module):
    """The PyTorch module with the weights of ``Sequential([recurrent, Dense])``."""

    def __init__(self, net):
        super().__init__()
        layer, head = net.layers[0], net.layers[-1]
        kind = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[layer.cell]
        self.rnn = kind(I, H, batch_first=True)
        self.head = torch.nn.Linear(H, head.units)

        def rows(value):
            blocks = np.split(value, layer.gates)
            return torch.from_numpy(np.concatenate([blocks[i] for i in TORCH_ROWS[layer.cell]]))

        halves = np.split(layer.params["b"][0], layer.biases)
        zeros = np.zeros_like(halves[0])
        self.rnn.load_state_dict({
            "weight_ih_l0": rows(layer.params["W"][0]), "weight_hh_l0": rows(layer.params["R"][0]),
            "bias_ih_l0": rows(halves[0]),
            "bias_hh_l0": rows(halves[1] if layer.biases == 2 else zeros),
        })  # fmt: skip
        # Ours has one bias; what it would move by has the same gradient as either of torch's.
        self.rnn.bias_hh_l0.requires_grad_(layer.biases == 2)
        self.head.load_state_dict({"weight": torch.from_numpy(head.params["W"].T.copy()),
                                   "bias": torch.from_numpy(head.params["b"].copy())})  # fmt: skip

    def forward(self, x, state=None):
        y, state = self.rnn(x, state)
        return self.head(y), state


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("make", [gr.RNN, gr.LSTM, gr.GRU])
def test_training_curves_are_torchs(make, optimizer):
    net = gr.Sequential([make(H, return_sequences=True), gr.Dense(2)], input_size=I, seed=3)
    twin = Twin(net)
    leaves = [p for p in twin.parameters() if p.requires_grad]
    ours, theirs = {
        "sgd": (gr.optimizers.SGD(0.1, momentum=0.9),
                torch.optim.SGD(leaves, 0.1, momentum=0.9)),
        "adam": (gr.optimizers.Adam(5e-3), torch.optim.Adam(leaves, 5e-3)),
    }[optimizer]  # fmt: skip
    trainer = gr.Trainer(net, "mse", ours, clip_norm=0.2)
    losses, clipped = [], 0
    for step in range(200):
        x, y = sample(step % 10)
        found = trainer.step(x, y)
        value = torch.nn.functional.mse_loss(twin(torch.from_numpy(x))[0], torch.from_numpy(y))
        theirs.zero_grad()
        value.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(leaves, 0.2))
        assert found.norm == pytest.approx(norm, rel=2e-3)
        theirs.step()
        clipped += norm > 0.2
        losses.append((found.loss, value.item()))
    ours_curve, torch_curve = np.array(losses).T
    np.testing.assert_allclose(ours_curve, torch_curve, rtol=1e-3)
    assert ours_curve[-10:].mean() < 0.5 * ours_curve[:10].mean()
    assert clipped > 10


def test_truncated_backpropagation_is_torchs_detach():
    net = gr.Sequential([gr.GRU(H, return_sequences=True), gr.Dense(2)], input_size=I, seed=1)
    twin = Twin(net)
    theirs = torch.optim.SGD(twin.parameters(), 0.1)
    trainer = gr.Trainer(net, "mse", gr.optimizers.SGD(0.1))
    x, y = sample()
    for _ in range(5):
        history = trainer.fit(x, y, batch_size=N, shuffle=False, truncate=4, progress=False)
        state, total = None, 0.0
        for start in range(0, T, 4):
            part = slice(start, start + 4)
            found, state = twin(torch.from_numpy(x[:, part]), state)
            value = torch.nn.functional.mse_loss(found, torch.from_numpy(y[:, part]))
            theirs.zero_grad()
            value.backward()
            theirs.step()
            state = state.detach()
            total += value.item() * len(x[0, part]) / T
        assert history["loss"][0] == pytest.approx(total, rel=1e-4)


def test_later_steps_are_not_learned():
    x, y = sample()
    lengths = np.array([9, 3, 5, 1, 9, 2])
    other_x, other_y = x.copy(), y.copy()
    for row, length in enumerate(lengths):
        other_x[row, length:], other_y[row, length:] = 7, -7
    found = []
    for values in ((x, y), (other_x, other_y)):
        net = gr.Sequential([gr.LSTM(5, bidirectional=True, return_sequences=True), gr.Dense(2)], I)
        trainer = gr.Trainer(net, "mse", "adam")
        found.append([trainer.step(*values, lengths).loss for _ in range(4)])
    assert found[0] == found[1]


def test_a_final_sigmoid_or_softmax_belongs_to_the_loss():
    x, _ = sample()
    bits = (x.sum((1, 2)) > 0).astype(np.float32)[:, None]
    losses = []
    for layers in ([gr.Dense(1, "sigmoid")], [gr.Dense(1), gr.Activation("sigmoid")],
                   [gr.Dense(1)]):  # fmt: skip
        net = gr.Sequential([gr.GRU(5), *layers], input_size=I, seed=2)
        trainer = gr.Trainer(net, "binary_cross_entropy", "adam", metrics=["accuracy"])
        losses.append([trainer.step(x, bits).loss for _ in range(3)])
        metric = trainer.evaluate(x, bits)["accuracy"]
        y = net(x) if len(net.layers) == 3 or net.layers[-1].activation == "sigmoid" else None
        if y is not None:
            assert metric == pytest.approx(((y > 0.5) == bits).mean())
    assert losses[0] == losses[1] == losses[2]
    with pytest.raises(gr.InvalidInputError, match="ends in 'relu'"):
        gr.Trainer(gr.Sequential([gr.GRU(5), gr.Dense(1, "relu")], I), "cross_entropy")


def test_ctc_trains():
    rng = np.random.default_rng(0)
    labels = [rng.integers(1, 4, 3) for _ in range(8)]
    x = np.zeros((8, 12, 4), np.float32)
    for row, own in zip(x, labels, strict=True):
        row[[1, 5, 9], own] = 1
    net = gr.Sequential([gr.GRU(16, return_sequences=True), gr.Dense(4)], input_size=4)
    trainer = gr.Trainer(net, "ctc", gr.optimizers.Adam(0.02))
    history = trainer.fit(x, labels, np.full(8, 12), epochs=40, batch_size=8, progress=False)
    assert history["loss"][-1] < 0.3 * history["loss"][0]


# -- fit ------------------------------------------------------------------------------------------


def small(seed=0, **options):
    net = gr.Sequential([gr.GRU(5, dropout=0.2, num_layers=2), gr.Dropout(0.1), gr.Dense(2)], I)
    x, y = sample(seed)
    return gr.Trainer(net, "mse", gr.optimizers.Adam(0.01), seed=4, **options), x, y[:, -1]


def test_a_seed_repeats_a_run_bit_for_bit():
    found = []
    for _ in range(2):
        trainer, x, y = small()
        rows = trainer.fit(x, y, epochs=3, batch_size=4, progress=False).rows
        found.append((rows, {k: v.tobytes() for k, v in trainer.net.parameters().items()}))
    assert found[0] == found[1]


@pytest.mark.parametrize("make", [gr.RNN, gr.LSTM, gr.GRU])
def test_threads_change_no_bit(make):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 11, 24)), rng.normal(size=(9, 11, 3))
    found = []
    for threads in (1, 2):
        layer = make(40, bidirectional=True, return_sequences=True)
        net = gr.Sequential([layer, gr.Dense(3)], 24)
        trainer = gr.Trainer(net, "mse", "adam", clip_norm=0.1, num_threads=threads)
        losses = [trainer.step(x, y).loss for _ in range(4)]
        found.append((losses, {k: v.tobytes() for k, v in net.parameters().items()}))
    assert found[0] == found[1]


def test_batches_are_shuffled_by_seed_and_epoch():
    seen = []
    for seed in (1, 1, 2):
        net = gr.Sequential([gr.GRU(3), gr.Dense(1)], input_size=1)
        trainer = gr.Trainer(net, "mse", seed=seed)
        x = np.arange(8, dtype=np.float32).reshape(8, 1, 1)
        order = []
        trainer.step = lambda x, *a, o=order, s=trainer.step, **k: (o.append(x.ravel()),
                                                                    s(x, *a, **k))[1]  # fmt: skip
        trainer.fit(x, x[:, 0], epochs=2, batch_size=4, progress=False)
        seen.append(np.array(order).reshape(2, 8))
    np.testing.assert_array_equal(seen[0], seen[1])
    assert not np.array_equal(seen[0], seen[2])
    assert not np.array_equal(seen[0][0], seen[0][1])
    np.testing.assert_array_equal(np.sort(seen[0]), np.tile(np.arange(8), (2, 1)))


def test_early_stopping_restores_the_best():
    trainer, x, y = small(metrics=["mae"])
    other_x, other_y = sample(9)  # unrelated rows: what fits x gets worse on these
    kept = []
    history = trainer.fit(
        x, y, epochs=400, validation=(other_x, other_y[:, -1]), patience=5, progress=False,
        callback=lambda epoch, row: kept.append(trainer.net(other_x)),
    )  # fmt: skip
    assert history.stopped
    losses = history["validation_loss"]
    assert history.best == int(np.argmin(losses)) == len(losses) - 6
    assert set(history.rows[0]) == {"loss", "mae", "validation_loss", "validation_mae"}
    np.testing.assert_array_equal(trainer.net(other_x), kept[history.best])
    assert trainer.evaluate(other_x, other_y[:, -1])["loss"] == pytest.approx(min(losses))


def test_the_engine_runs_what_was_trained():
    trainer, x, y = small()
    before = trainer.net(x)
    trainer.step(x, y)
    after = trainer.net(x)
    assert not np.array_equal(before, after)
    trainer.net.set_parameters({"dense.b": [5.0, 5.0]})
    trainer.step(x, y)
    assert np.all(np.abs(trainer.net.parameters()["dense.b"] - 5) < 0.011)
    assert trainer.net.parameters()["dense.b"].flags.writeable is False


def test_the_progress_bar_says_where_it_is():
    out = io.StringIO()
    bar = Progress(4, True, out)
    bar.last = 0
    bar.show("epoch 1/2", 2, {"loss": 0.25})
    bar.end("epoch 1/2", {"loss": 0.125})
    assert "epoch 1/2 [############............] 2/4  loss 0.25" in out.getvalue()
    assert out.getvalue().endswith("s\n")
    Progress(4, None, out).end("epoch", {})
    assert out.getvalue().count("\n") == 1


# -- what stops it --------------------------------------------------------------------------------


def test_nan_stops_with_a_report(tmp_path):
    path = tmp_path / "run.safetensors"
    trainer, x, y = small()
    trainer.step(x, y)
    trainer.save(path)
    kept = {k: v.copy() for k, v in trainer.net.parameters().items()}
    bad = x.copy()
    bad[2, 3] = np.nan
    with pytest.raises(gr.DivergenceError, match=r"step 1, layer 'x'.*last good checkpoint") as got:
        trainer.step(bad, y)
    assert (got.value.step, got.value.layer, got.value.checkpoint) == (1, "x", str(path))
    for key, value in trainer.net.parameters().items():
        np.testing.assert_array_equal(value, kept[key])
    assert trainer.steps == 1
    np.testing.assert_array_equal(gr.load(path)(x), trainer.net(x))
    with pytest.raises(gr.DivergenceError, match="layer 'loss'"):
        trainer.step(x, np.full_like(y, np.inf))
    trainer.net.set_parameters({"gru.R_l1": np.full((1, 15, 5), np.inf)})
    with pytest.raises(gr.DivergenceError, match=r"layer 'gru'.*gru\.R_l1 holds"):
        trainer.step(x, y)


def test_infinity_names_the_layer_it_came_from():
    net = gr.Sequential([gr.RNN(4, "relu"), gr.Dense(2, "exponential"), gr.Dense(2)], I)
    net.set_parameters({"dense.b": [200.0, 0.0]})
    x, y = sample()
    with pytest.raises(gr.DivergenceError, match="layer 'dense' gave NaN or infinity"):
        gr.Trainer(net, "mse").step(x, y[:, -1])
    net = gr.Sequential([gr.RNN(4), gr.Dense(2), gr.Dense(2)], I)
    net.set_parameters({"dense.W": np.full((4, 2), 1e30), "dense_1.W": np.full((2, 2), 1e10),
                        "rnn.b": np.full((1, 4), 1e-37), "rnn.W": np.zeros((1, 4, I)),
                        "rnn.R": np.zeros((1, 4, 4))})  # fmt: skip
    with pytest.raises(gr.DivergenceError, match="layer 'rnn': the gradient of"):
        gr.Trainer(net, "mse").step(x, y[:, -1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t, x, y: t.step(x, y[:3]), r"target has shape \(3, 2\)"),
        (lambda t, x, y: t.step(x, y, np.ones(6)), "lengths are float64"),
        (lambda t, x, y: t.step(x[0], y), "3 axes"),
        (lambda t, x, y: t.fit(x, y[:4]), "y has 4 rows; x has 6"),
        (lambda t, x, y: t.fit(x, y, truncate=3), "truncate needs a target for each step"),
        (
            lambda t, x, y: gr.Trainer(
                gr.Sequential([gr.GRU(2, bidirectional=True, return_sequences=True)], I)
            ).fit(x, x, truncate=3),
            "'gru' reads backwards too",
        ),
        (lambda t, x, y: t.fit(x, y, epochs=0), "epochs is 0"),
        (lambda t, x, y: t.fit(x[:0], y[:0]), "no rows"),
        (lambda t, x, y: t.fit(x, y, validation=(x[:0], y[:0])), "no rows"),
        (lambda t, x, y: gr.Trainer(t.net, clip_norm=0), "clip_norm is 0"),
        (lambda t, x, y: gr.Trainer(t.net, metrics=["f1"]), "metric is 'f1'"),
        (lambda t, x, y: gr.Trainer(gr.Sequential([gr.GRU(3)])), "not built"),
    ],
)
def test_refusals(call, message):
    trainer, x, y = small()
    with pytest.raises(gr.InvalidInputError, match=message):
        call(trainer, x, y)
