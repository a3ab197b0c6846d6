# SPDX-License-Identifier: MIT
"""Converted models that are trained further, and trained models that leave for other frameworks."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import gruengine as gr
from gruengine import safetensors

N, T, I, H = 3, 7, 4, 5
torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self, kind, *, batch_first=True, last=False, **options):
        super().__init__()
        self.rnn = kind(I, H, batch_first=batch_first, **options)
        self.head = nn.Linear(H * (2 if options.get("bidirectional") else 1), 2)
        self.last, self.time = last, 1 if batch_first else 0

    def forward(self, x):
        y, _ = self.rnn(x)
        if self.last:
            y = y.select(self.time, -1)
        return torch.sigmoid(self.head(y))


CASES = {
    "lstm": (nn.LSTM, {"num_layers": 2}),
    "gru last": (nn.GRU, {"last": True}),
    "rnn": (nn.RNN, {"nonlinearity": "relu", "batch_first": False}),
    "both": (nn.GRU, {"bidirectional": True, "num_layers": 2}),
}


def sample(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("source", ["torch", "onnx"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")
def test_a_converted_model_learns_as_torchs_does(case, source, tmp_path):
    kind, options = CASES[case]
    torch.manual_seed(1)
    module = Net(kind, **options)
    first = options.get("batch_first", True)
    x = sample((N, T, I) if first else (T, N, I))
    if source == "torch":
        model = gr.from_torch(module.eval(), (torch.from_numpy(x),))
    else:
        path = tmp_path / "model.onnx"
        torch.onnx.export(module.eval(), (torch.from_numpy(x),), path, input_names=["x"],
                          output_names=["y"], dynamo=False,
                          dynamic_axes={"x": {0: "A", 1: "B"}})  # fmt: skip
        model = gr.load(path)
    net = gr.Sequential.from_model(model)
    assert net.batch_first is first
    wanted = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(net(x), wanted, rtol=1e-4, atol=1e-5)
    target = np.random.default_rng(3).random(wanted.shape).astype(np.float32)
    trainer = gr.Trainer(net, "binary_cross_entropy", gr.optimizers.SGD(0.05))
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), 0.05)
    for step in range(5):
        value = nn.functional.binary_cross_entropy(module(torch.from_numpy(x)),
                                                   torch.from_numpy(target))  # fmt: skip
        found = trainer.step(x, target).loss
        assert found == pytest.approx(value.item(), rel=1e-4 if step == 0 else 2e-2)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def test_our_own_files_come_back(tmp_path):
    layers = [gr.Embedding(9, 4), gr.LSTM(5, peepholes=True, return_sequences=True),
              gr.LSTM(4, coupled=True, projection=3, bidirectional=True, return_sequences=True),
              gr.LayerNorm(1e-3), gr.GRU(5, reset="before"), gr.Dense(3, "softmax")]  # fmt: skip
    net = gr.Sequential(layers)
    net.save(tmp_path / "net.safetensors")
    again = gr.Sequential.from_model(tmp_path / "net.safetensors")
    assert [type(layer).__name__ for layer in again.layers] == [
        "Embedding", "LSTM", "LSTM", "LayerNorm", "GRU", "Dense"]  # fmt: skip
    x = np.random.default_rng(0).integers(0, 9, (N, T))
    np.testing.assert_allclose(again(x), net(x), rtol=1e-5)
    trainer = gr.Trainer(again, "cross_entropy", gr.optimizers.Adam(0.01))
    losses = [trainer.step(x, np.array([0, 1, 2])).loss for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.filterwarnings("ignore")
def test_a_graph_that_is_no_chain_is_refused():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(I, I, batch_first=True)

        def forward(self, x):
            return self.rnn(x)[0] + x

    model = gr.from_torch(Skip().eval(), (torch.zeros(N, T, I),))
    with pytest.raises(gr.UnsupportedError, match=r"Add.* reads 2 values"):
        gr.Sequential.from_model(model)


# -- trained models leave -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rnn", "lstm", "lstm variants", "gru", "gru take"])
def test_a_trained_model_exports_to_onnx(kind, tmp_path):
    layer = {
        "rnn": lambda: gr.RNN(H, bidirectional=True),
        "lstm": lambda: gr.LSTM(H, num_layers=2),
        "lstm variants": lambda: gr.LSTM(H, peepholes=True, without=["forget"],
                                         output_activation="linear"),
        "gru": lambda: gr.GRU(H, dropout=0.3, num_layers=2),
        "gru take": lambda: gr.GRU(H, update="take", reset="before"),
    }[kind]()  # fmt: skip
    net = gr.Sequential([layer, gr.Dense(2)], input_size=I)
    trainer = gr.Trainer(net, "mse", "adam")
    x, y = sample((N, T, I)), sample((N, 2), 1)
    for _ in range(5):
        trainer.step(x, y)
    gr.export(net, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    (found,) = session.run(None, {"x": x})
    np.testing.assert_allclose(found, net(x), rtol=1e-4, atol=1e-5)


def test_a_trained_model_exports_to_a_state_dict(tmp_path):
    net = gr.Sequential([gr.LSTM(H, num_layers=2, return_sequences=True), gr.Dense(2)], I)
    trainer = gr.Trainer(net, "mse", "adam")
    x, y = sample((N, T, I)), sample((N, T, 2), 1)
    for _ in range(5):
        trainer.step(x, y)
    gr.export(net, tmp_path / "state.safetensors")
    tensors, _ = safetensors.read((tmp_path / "state.safetensors").read_bytes())
    module = nn.LSTM(I, H, 2, batch_first=True)
    prefixes = sorted({name.rsplit(".", 1)[0] for name in tensors if "weight_ih" in name})
    state = {}
    for level, prefix in enumerate(prefixes):
        for name, value in tensors.items():
            if name.startswith(prefix + "."):
                tail = name.rsplit(".", 1)[1]
                tail = tail if len(prefixes) == 1 else tail.replace("_l0", f"_l{level}")
                state[tail] = torch.from_numpy(value.copy())
    module.load_state_dict(state)
    head = {k.rsplit(".", 1)[1]: torch.from_numpy(v.copy()) for k, v in tensors.items()
            if k.rsplit(".", 1)[1] in ("weight", "bias")}  # fmt: skip
    with torch.no_grad():
        found = nn.functional.linear(module(torch.from_numpy(x))[0], head["weight"], head["bias"])
    np.testing.assert_allclose(found.numpy(), net(x), rtol=1e-4, atol=1e-5)
