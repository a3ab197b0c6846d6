# SPDX-License-Identifier: MIT
"""Convolutions, pools, pads, norms and activations of nn.Sequential beside torch in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch_models import First, H, I, N, T, from_module, from_state, in_float64, run, sequence

from gruengine.converters.base import ConversionError

ATOL = 2e-6  # constants such as 1 / 6 are float32


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(4)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.uniform_(0.1, 0.7)
    return model.eval()


def check(model: nn.Module, x: torch.Tensor, pickled: bool = False) -> Any:
    randomised(model)
    spec, _ = from_state(model) if pickled else from_module(model)
    want = in_float64(First(model), x).numpy()
    np.testing.assert_allclose(run(spec, x), want, rtol=0, atol=ATOL)
    assert len(spec.graph.outputs[0].shape) == want.ndim
    return spec


ONE = [
    nn.Conv1d(4, 6, 3),
    nn.Conv1d(4, 6, (4,), stride=2, padding=3, dilation=2, groups=2, bias=False),
    nn.Conv1d(4, 4, 3, padding="same", groups=4),
    nn.Conv1d(4, 3, 2, padding="valid"),
    nn.Conv1d(4, 3, 5, padding=2, padding_mode="reflect"),
    nn.Conv1d(4, 3, 5, padding=2, padding_mode="replicate"),
    nn.MaxPool1d(3),
    nn.MaxPool1d(3, stride=2, padding=1, dilation=2),
    nn.AvgPool1d(3, 2, 1),
    nn.AvgPool1d(3, 2, 1, count_include_pad=False),
    nn.AdaptiveAvgPool1d(1),
    nn.AdaptiveMaxPool1d(1),
    nn.BatchNorm1d(4, eps=0.1),
    nn.PReLU(),
    nn.PReLU(4),
    nn.ConstantPad1d((1, 2), 0.3),
    nn.ZeroPad1d(2),
    nn.ReflectionPad1d((3, 0)),
    nn.ReplicationPad1d(1),
]
TWO = [
    nn.Conv2d(4, 6, 3),
    nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1), groups=2),
    nn.Conv2d(4, 2, (1, 3), padding="same"),
    nn.MaxPool2d((2, 3)),
    nn.MaxPool2d(3, (1, 2), padding=(0, 1)),
    nn.AvgPool2d(2, 1),
    nn.AdaptiveAvgPool2d(1),
    nn.AdaptiveMaxPool2d((1, 1)),
    nn.BatchNorm2d(4),
    nn.PReLU(4),
    nn.ZeroPad2d((1, 0, 2, 3)),
    nn.ReflectionPad2d(2),
]


@pytest.mark.parametrize("pickled", [True, False])
@pytest.mark.parametrize("module", ONE, ids=str)
def test_windows_over_one_axis(module: nn.Module, pickled: bool) -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 2), module, nn.Tanh())
    for size in (11, 14):
        spec = check(model.float(), torch.randn(N, 3, size), pickled)
    assert spec.graph.inputs[0].shape == ("N", 3, "L")


@pytest.mark.parametrize("module", TWO, ids=str)
def test_windows_over_two_axes(module: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2), module, nn.ReLU6())
    for size in ((9, 8), (7, 12)):
        check(model.float(), torch.randn(2, 3, *size))


def test_a_network_of_convolutions() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Dropout2d(), nn.Sequential(nn.Conv2d(4, 6, 3), nn.PReLU(6)), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(24, 5), nn.BatchNorm1d(5), nn.Softmax(1),
    )  # fmt: skip
    check(model, torch.randn(2, 1, 14, 13))


@pytest.mark.parametrize(
    "axes", [(0, 1), (0, -1), (1, 2), (1, -1), (2, 3), (-3, -2), (0, 2), (2, 2)]
)
def test_flatten_of_any_axes(axes: tuple[int, int]) -> None:
    check(nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(*axes)), torch.randn(2, 2, 6, 5))


@pytest.mark.parametrize("axes", [(0, 1), (1, 2), (0, 2)])
def test_flatten_of_sequences(axes: tuple[int, int]) -> None:
    check(nn.Sequential(nn.GRU(I, H, batch_first=True), nn.Flatten(*axes)), sequence(True))


ACTIVATIONS = [
    nn.ReLU6(), nn.Hardtanh(), nn.Hardtanh(-0.2, 0.3), nn.GELU(), nn.GELU("tanh"), nn.Mish(),
    nn.Hardswish(), nn.LogSigmoid(), nn.Tanhshrink(), nn.SELU(), nn.CELU(0.6),
]  # fmt: skip


@pytest.mark.parametrize("pickled", [True, False])
@pytest.mark.parametrize("module", ACTIVATIONS, ids=str)
def test_activations(module: nn.Module, pickled: bool) -> None:
    check(nn.Sequential(nn.Linear(I, H), module), torch.randn(N, I) * 4, pickled)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("pickled", [True, False])
def test_what_acts_on_the_second_axis_of_a_sequence(batch_first: bool, pickled: bool) -> None:
    size = T if batch_first else N
    rnn = nn.LSTM(I, H, batch_first=batch_first)
    model = nn.Sequential(rnn, nn.BatchNorm1d(size), nn.PReLU(size), nn.Linear(H, 2))
    spec = check(model, sequence(batch_first), pickled)
    first = "N" if batch_first else "T"
    assert spec.graph.inputs[0].shape == (first, size, I)
    sized = nn.Sequential(rnn.float(), nn.PReLU(), nn.Flatten(0, 1), nn.PReLU(H), nn.BatchNorm1d(H))
    spec = check(sized, sequence(batch_first), pickled)
    assert spec.graph.inputs[0].shape == (("N", "T", I) if batch_first else ("T", "N", I))


REFUSED: list[tuple[nn.Module, str]] = [
    (nn.Sequential(nn.Conv1d(3, 4, 2), nn.Conv1d(5, 4, 2)), "5 features after 4"),
    (nn.Sequential(nn.Conv1d(3, 4, 2), nn.Conv2d(4, 4, 2)), "3 axes"),
    (nn.Sequential(nn.Conv1d(3, 4, 2), nn.GRU(4, 4)), "example_inputs"),
    (nn.Sequential(nn.Conv1d(3, 4, 2, padding=1, padding_mode="circular")), "circular"),
    (nn.Sequential(nn.Conv1d(3, 4, 2), nn.PReLU(3)), "3 slopes for 4"),
    (nn.Sequential(nn.Conv1d(3, 4, 2), nn.BatchNorm1d(3)), "3 features after 4"),
    (nn.Sequential(nn.Conv1d(3, 4, 2), nn.Flatten(2, 5)), "Flatten from 2 to 5"),
    (nn.Sequential(nn.MaxPool1d(2, ceil_mode=True)), "ceil_mode"),
    (nn.Sequential(nn.MaxPool1d(2, return_indices=True)), "return_indices"),
    (nn.Sequential(nn.AvgPool2d(2, divisor_override=3)), "divisor_override"),
    (nn.Sequential(nn.AdaptiveAvgPool1d(2)), "output_size"),
    (nn.Sequential(nn.GRU(I, H), nn.PReLU(3), nn.PReLU(4)), r"sizes \[3, 4\]"),
    (nn.Sequential(nn.Linear(I, H), nn.MultiheadAttention(H, 2)), "MultiheadAttention"),
]


@pytest.mark.parametrize(("model", "message"), REFUSED)
def test_what_is_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        from_module(model)
