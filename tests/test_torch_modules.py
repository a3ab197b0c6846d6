# SPDX-License-Identifier: MIT
"""Live and pickled Sequential models against torch itself in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch_models import First, H, I, N, T, from_module, from_state, in_float64, run, sequence

ATOL = 1e-12


ACTIVATIONS = [
    nn.ReLU(),
    nn.Tanh(),
    nn.Sigmoid(),
    nn.LeakyReLU(0.2),
    nn.ELU(0.7),
    nn.Hardsigmoid(),
    nn.Softplus(),
    nn.Softplus(beta=2.5, threshold=30),
    nn.Softsign(),
    nn.GELU(),
    nn.SiLU(),
    nn.Softmax(-1),
    nn.Softmax(2),
    nn.LogSoftmax(-1),
    nn.LayerNorm(H),
    nn.LayerNorm(H, eps=0.1, bias=False),
    nn.LayerNorm(H, elementwise_affine=False),
    nn.Dropout(0.5),
    nn.Identity(),
]


@pytest.mark.parametrize("module", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("pickled", [True, False])
def test_modules_after_a_gru(module: nn.Module, pickled: bool) -> None:
    module = copy.deepcopy(module)
    model = nn.Sequential(nn.GRU(I, H, batch_first=True), module, nn.Linear(H, 3))
    if isinstance(module, nn.LayerNorm) and module.weight is not None:
        nn.init.normal_(module.weight)
    model.eval()
    spec, report = from_state(model) if pickled else from_module(model)
    x = sequence(True) * 4
    want = in_float64(First(model), x).numpy()
    # The last term is the float32 of constants such as 1 / sqrt(2).
    np.testing.assert_allclose(run(spec, x), want, rtol=0, atol=1e-7)
    assert report.warnings == []


def test_nested_sequential_with_everything() -> None:
    model = nn.Sequential(
        nn.Embedding(9, I),
        nn.Sequential(
            nn.LSTM(I, H, 2, bidirectional=True, dropout=0.3), nn.Sequential(nn.RNN(2 * H, 4))
        ),
        nn.Linear(4, 3),
        nn.Sigmoid(),
    )
    spec, report = from_module(model)
    x = torch.randint(0, 9, (T, N))
    want = in_float64(First(model), x).numpy()
    np.testing.assert_allclose(run(spec, x), want, rtol=0, atol=ATOL)
    assert len(report.recognised) == 2
    assert report.recognised[0] == "1.0: LSTM, 5 -> 6, 2 layers, bidirectional"
    assert len(report.warnings) == 1
    assert "training mode" in report.warnings[0]
    assert spec.graph.inputs[0].shape == ("T", "N")


def test_matrices_alone() -> None:
    model = nn.Sequential(
        nn.Linear(I, H), nn.BatchNorm1d(H), nn.Flatten(), nn.Softmax(1), nn.Linear(H, 2)
    )
    spec, _ = from_module(model.eval())
    x = torch.randn(N, I)
    want = in_float64(model, x).numpy()
    np.testing.assert_allclose(run(spec, x), want, rtol=0, atol=1e-6)
    assert spec.graph.inputs[0].shape == ("N", I)


def test_flatten_of_a_sequence() -> None:
    model = nn.Sequential(nn.GRU(I, H, batch_first=True), nn.Flatten(), nn.Linear(T * H, 2))
    spec, _ = from_module(model)
    x = sequence(True)
    want = in_float64(First(model), x).numpy()
    np.testing.assert_allclose(run(spec, x), want, rtol=0, atol=ATOL)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_wrapped_modules() -> None:
    module = nn.GRU(I, H)
    plain, _ = from_module(module)
    for wrapped in (torch.compile(module), nn.DataParallel(module)):
        spec, _ = from_module(wrapped)
        assert spec.graph == plain.graph
