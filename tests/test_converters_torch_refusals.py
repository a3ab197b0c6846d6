# SPDX-License-Identifier: MIT
"""PyTorch models that are refused, each with all its reasons."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch_models import (
    First,
    H,
    I,
    Model,
    N,
    T,
    from_module,
    from_state,
    in_float64,
    reasons_of,
    run,
    saved,
)

from gruengine.converters.base import ConversionError, Options
from gruengine.converters.torch import read_checkpoint
from gruengine.errors import InvalidTypeError

ATOL = 1e-12
STATE = nn.LSTM(I, H, 2).state_dict()


class Custom(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(I, H)


class OwnLSTM(nn.LSTM):  # type: ignore[misc]
    pass


def hooked() -> nn.Module:
    module = nn.GRU(I, H)
    module.register_forward_hook(lambda *_: None)
    return module


def patched() -> nn.Module:
    module = nn.GRU(I, H)
    module.forward = lambda x: x
    return module


REFUSED: list[tuple[Any, str]] = [
    (Custom, "Custom.*example_inputs"),
    (lambda: OwnLSTM(I, H), "OwnLSTM"),
    (hooked, "hook"),
    (patched, "forward of its own"),
    (lambda: nn.Sequential(nn.Conv3d(2, 3, 3)), "^  - 0: module of class.*Conv3d"),
    (lambda: nn.Sequential(nn.GRU(I, H), nn.Softmax(0)), "Softmax of dim 0"),
    (lambda: nn.Sequential(nn.GRU(I, H), nn.Softmax(None)), "Softmax of dim None"),
    (lambda: nn.Sequential(nn.GRU(I, H), nn.Softmax(1)), "Softmax of dim 1"),
    (lambda: nn.Sequential(nn.GRU(I, H), nn.LSTM(H, H, batch_first=True)), "batch_first of both"),
    (lambda: nn.Sequential(nn.GRU(I, H), nn.LayerNorm([N, H])), "normalized_shape"),
    (lambda: nn.Sequential(nn.GRU(I, H), nn.Flatten(), nn.GRU(I, H)), "a matrix as input"),
    (lambda: nn.Sequential(nn.GRU(I, H), nn.Linear(H + 1, 2)), "7 features after 6"),
    (lambda: nn.Sequential(nn.GRU(I, H), nn.Embedding(3, 4)), "Embedding after other"),
    (lambda: nn.Sequential(nn.GRU(I, H), nn.GRUCell(H, H)), "cells among"),
    (lambda: nn.Embedding(5, 6, max_norm=1.0), "max_norm 1.0"),
    (lambda: nn.Sequential(nn.Linear(2, 3), nn.Softplus(threshold=2)), "threshold >= 20"),
    (lambda: nn.BatchNorm1d(3, track_running_stats=False), "no running statistics"),
    (lambda: nn.Flatten(2), "Flatten from 2 to -1 of 2 axes"),
    (lambda: nn.GRU(I, H, device="meta"), "on meta"),
    (lambda: nn.GRU(I, H).to(torch.complex64), "complex64"),
    (lambda: nn.ModuleList([nn.GRU(I, H)]), "ModuleList"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_modules_that_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConversionError) as caught:
        from_module(make())
    assert re.search(message, str(caught.value), re.MULTILINE)


def test_all_reasons_of_a_module_at_once() -> None:
    inner = nn.Sequential(nn.GLU(), nn.LPPool1d(1, 2))
    model = nn.Sequential(nn.Conv3d(1, 1, 1), nn.GRU(I, H), inner)
    with pytest.raises(ConversionError) as caught:
        from_module(model)
    assert [reason.where for reason in caught.value.reasons] == ["0", "2.0", "2.1"]


@pytest.mark.filterwarnings("ignore")
def test_something_that_is_no_module() -> None:
    with pytest.raises(InvalidTypeError, match="OrderedDict"):
        from_module(STATE)
    with pytest.raises(InvalidTypeError, match="dynamo=False exports all"):
        from_module(torch.jit.script(nn.GRU(I, H)))


@pytest.mark.filterwarnings("ignore")
def test_quantised_models_are_refused_with_the_way_out() -> None:
    model = nn.Sequential(nn.LSTM(I, H), nn.Linear(H, 2))
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM, nn.Linear})
    reasons = reasons_of(quantised.state_dict())
    assert sum("save the float model" in reason for reason in reasons) >= 2
    with pytest.raises(ConversionError, match=r"quantized\.dynamic"):
        from_module(quantised)


def changed(**arrays: Any) -> dict[str, Any]:
    return {k: v for k, v in {**nn.LSTM(I, H).state_dict(), **arrays}.items() if v is not None}


BAD_STATES: list[tuple[Mapping[str, Any], str]] = [
    ({}, "without a state dict"),
    ({"epoch": 3}, "without a state dict"),
    (changed(alpha=torch.zeros(3)), "alpha: an unknown name"),
    (changed(weight_hh_l0=None), "weights without their pair|no weight_hh"),
    (changed(weight_ih_l0=None), "weights without their pair"),
    (changed(bias_ih_l0=None), "one bias"),
    (changed(bias_ih_l0=torch.zeros(3)), r"shape \[3\]"),
    (changed(weight_hh_l0=torch.zeros(4 * H, 7)), "rows are 1"),
    (changed(weight_hh_l0=torch.zeros(4 * H)), "rows are 1"),
    (changed(weight_ih_l0=torch.zeros(4 * H, 0)), "no size is 0"),
    (changed(weight_hr_l0=torch.zeros(3, 9)), "shape"),
    (changed(weight_ih_l2=torch.zeros(3, 9)), "incomplete weights"),
    (changed(weight_ih_l9999=torch.zeros(3, 9)), "incomplete weights"),
    (changed(weight_ih_l0_reverse=torch.zeros(4 * H, I)), "incomplete weights"),
    (changed(weight_ih_l0=torch.zeros(4 * H, I, dtype=torch.int64)), "dtype int64"),
    (changed(epoch=3), "epoch: a int"),
    (changed(**{"fc.weight": torch.zeros(2, 3, 4)}), r"a weight of shape \[2, 3, 4\]"),
    (changed(**{"fc.bias": torch.zeros(2)}), "only bias"),
    (changed(**{"c.weight": torch.zeros(2, 3, 4, 5)}), r"of a convolution.*torch\.onnx\.export"),
    ({f"{gate}.weight": torch.zeros(H, I + H) for gate in "ifgo"}, "no recurrent module of torch"),
    (changed(**{"fc.weight": torch.zeros(2, 9), "fc.bias": torch.zeros(2)}), "takes 9 features"),
    (changed(**{"bn.running_mean": torch.zeros(2)}), "a norm with"),
]


@pytest.mark.parametrize(("state", "message"), BAD_STATES)
def test_state_dicts_that_are_refused(state: Mapping[str, Any], message: str) -> None:
    assert any(re.search(message, reason) for reason in reasons_of(state, batch_first=True))


def test_two_recurrent_modules_need_an_order() -> None:
    model = nn.ModuleDict({"encoder": nn.GRU(H, H), "decoder": nn.GRU(H, H)})
    reasons = reasons_of(model.state_dict(), batch_first=False)
    assert len(reasons) == 1
    assert "order=['encoder', 'decoder']" in reasons[0]
    spec, _ = from_state(model.state_dict(), batch_first=False, order=["decoder", "encoder"])
    x = torch.randn(T, N, H)
    want = in_float64(First(nn.Sequential(model["decoder"], model["encoder"])), x)
    np.testing.assert_allclose(run(spec, x), want.numpy(), rtol=0, atol=ATOL)


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        ({"batchfirst": True}, "hint 'batchfirst'"),
        ({"batch_first": 1}, "batch_first=True"),
        ({"batch_first": True, "output": "first"}, "output 'first'"),
        ({"batch_first": True, "activations": {"fc": "relu"}}, "hint activations for 'fc'"),
        ({"batch_first": True, "activations": {"": "step"}}, "activation 'step'"),
        ({"batch_first": True, "activations": {"": ["relu"]}}, "activation"),
        ({"batch_first": True, "activations": "relu"}, "a dict"),
        ({"batch_first": True, "order": ["a"]}, "order"),
        ({"batch_first": True, "order": 3}, "order 3"),
        ({"batch_first": True, "kinds": {"fc": "linear"}}, "hint kinds for 'fc'"),
        ({"batch_first": True, "state_dict": ["x"]}, "state_dict"),
    ],
)
def test_wrong_hints(hints: dict[str, Any], message: str) -> None:
    assert any(message in reason for reason in reasons_of(STATE, **hints))


def test_state_pairs_of_the_user() -> None:
    data = saved(nn.GRUCell(I, H).state_dict())
    spec, report = read_checkpoint(data, path=None, name="m", options=Options(state={"h": "h_out"}))
    assert spec.state == report.state == (("h", "h_out"),)
    with pytest.raises(ConversionError, match="state pair"):
        read_checkpoint(data, path=None, name="m", options=Options(state={"h": "other"}))
    with pytest.raises(ConversionError, match="bind"):
        read_checkpoint(data, path=None, name="m", options=Options(bind={"h": 1}))


def test_a_pickled_model_of_an_own_class_is_read_as_its_state() -> None:
    model = Model(nn.RNN(I, H, nonlinearity="relu", batch_first=True), "last", True, True)
    model.bn.running_mean.normal_()
    reasons = reasons_of(model)
    assert len(reasons) == 3  # what its modules don't say: two activations and the output
    activations = {"fc1": "relu", "fc2": "log_softmax"}
    spec, report = from_state(model, output="last", activations=activations)
    x = torch.randint(0, 11, (N, T))
    want = in_float64(model, x).numpy()
    np.testing.assert_allclose(run(spec, x), want, rtol=0, atol=2e-6)
    assert "torch_models.Model" in report.warnings[0]
    assert "were made: embedding, rnn, norm, fc1, bn, fc2;" in report.warnings[1]
    by_hand, _ = from_state(
        model.float().state_dict(), output="last", activations=activations, batch_first=True,
        nonlinearity="relu", kinds={"norm": "layernorm"}, eps={"norm": 1e-3, "bn": 1e-5},
    )  # fmt: skip
    assert by_hand.graph == spec.graph
