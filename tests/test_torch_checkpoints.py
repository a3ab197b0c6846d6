# SPDX-License-Identifier: MIT
"""Checkpoints as trainers and wrappers write them, and TorchScript archives, beside PyTorch."""

from __future__ import annotations

import argparse
import collections
import io
import pathlib
import sys
import types
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch_models import H, I, N, T, from_state, in_float64, reasons_of, run, sequence

from gruengine.converters.base import ConversionError, Options
from gruengine.converters.torch import read_checkpoint
from gruengine.errors import ModelFileError

ATOL = 1e-12


def check(spec: Any, module: nn.Module) -> None:
    x = sequence(True)
    want = in_float64(module, x)[0].numpy()
    np.testing.assert_allclose(run(spec, x), want, rtol=0, atol=ATOL)


@pytest.fixture
def gru() -> nn.GRU:
    return nn.GRU(I, H, 2, batch_first=True)


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "rnn.", "rnn.rnn.", "module.", "module.model.encoder.rnn."])
def test_wrapped_names(gru: nn.GRU, prefix: str) -> None:
    state = {prefix + name: value for name, value in gru.state_dict().items()}
    spec, _ = from_state(state, batch_first=True)
    check(spec, gru)


@pytest.mark.parametrize("inside", ["", "module."])
@pytest.mark.parametrize("copy", [True, False])
def test_raw_weights_of_dropped_weights(gru: nn.GRU, inside: str, copy: bool) -> None:
    """The raw weight counts; what stands beside it is the copy of one training step."""
    state: dict[str, torch.Tensor] = {}
    for name, value in gru.state_dict().items():
        if name.startswith("weight_hh"):
            state[f"rnns.0.{name}_raw"] = value
            if copy:
                state[f"rnns.0.{inside}{name}"] = value * 0.5
        else:
            state[f"rnns.0.{inside}{name}"] = value
    spec, _ = from_state(state, batch_first=True)
    check(spec, gru)


def test_raw_weights_that_belong_to_nothing(gru: nn.GRU) -> None:
    state = {f"a.{name}": value for name, value in gru.state_dict().items()}
    state["b.weight_hh_l0_raw"] = torch.zeros(3 * H, H)
    assert any("b.weight_hh_l0_raw: a raw weight" in one for one in reasons_of(state))
    state = {**gru.state_dict(), "weight_hh_l0_raw": torch.zeros(3, 3)}
    assert any("weight_hh_l0_raw: shape [3, 3]" in one for one in reasons_of(state))


def test_a_second_name_of_an_embedding() -> None:
    table, rnn = nn.Embedding(11, I), nn.LSTM(I, H, batch_first=True)
    state = {"encoder.weight": table.weight, "encoder_dp.emb.weight": table.weight}
    state.update({f"rnns.0.module.{name}": value for name, value in rnn.state_dict().items()})
    spec, _ = from_state(state, batch_first=True)
    i = torch.randint(0, 11, (N, T))
    want = rnn.double()(table.double()(i))[0].detach().numpy()
    np.testing.assert_allclose(run(spec, i), want, rtol=0, atol=ATOL)


def test_ignored_names(gru: nn.GRU) -> None:
    state: dict[str, Any] = dict(gru.state_dict())
    state.update({"loss.weight": torch.ones(3), "positions": torch.arange(4), "_extra_state": None})
    reasons = reasons_of(state, batch_first=True)
    assert any("ignore" in reason for reason in reasons)
    spec, _ = from_state(state, batch_first=True, ignore=["loss", "positions", "_extra_state"])
    check(spec, gru)
    del state["_extra_state"]
    assert any("ignore has 'los'" in one for one in reasons_of(state, ignore=["los"]))
    assert any("hint ignore is 3" in one for one in reasons_of(state, ignore=3))


# -- checkpoints ----------------------------------------------------------------------------------


def own_modules(names: list[str]) -> Iterator[None]:
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    yield
    for name in names:
        del sys.modules[name]


@pytest.fixture
def trainer() -> Iterator[dict[str, Any]]:
    """Classes with the names of those that trainers pickle."""
    made: dict[str, Any] = {}

    def define(module: str, name: str, bases: tuple[type, ...] = (object,), **body: Any) -> None:
        kind = type(name, bases, {"__module__": module, **body})
        setattr(sys.modules[module], name, kind)
        made[name] = kind

    names = ["pytorch_lightning", "pytorch_lightning.parsing", "omegaconf", "omegaconf.dictconfig"]
    for _ in own_modules(names):
        define("pytorch_lightning.parsing", "AttributeDict", (dict,))
        define("pytorch_lightning.parsing", "ModelCheckpoint")
        define("omegaconf.dictconfig", "DictConfig")
        reduce = lambda self: (made["Kind"], ("train",))  # noqa: E731
        define("omegaconf.dictconfig", "Kind", __init__=lambda self, *_: None, __reduce__=reduce)
        yield made


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_of_a_trainer(gru: nn.GRU, trainer: dict[str, Any], legacy: bool) -> None:
    optimizer = torch.optim.Adam(gru.parameters())
    gru(sequence(True))[0].sum().backward()
    optimizer.step()
    config = trainer["DictConfig"]()
    config.content, config.kind = {"lr": 0.1, "layers": [1, 2]}, trainer["Kind"]()
    checkpoint = {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": collections.OrderedDict(
            (f"model.rnn.{name}", value) for name, value in gru.state_dict().items()
        ),
        "loops": {"fit_loop": {"state_dict": {}, "progress": {"total": {"ready": 1}}}},
        "callbacks": {
            "ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.5)},
            trainer["ModelCheckpoint"]: {"best": torch.tensor(1.0)},
        },
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": trainer["AttributeDict"](hidden=6, config=config),
        "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a/b")),
        "metrics": collections.defaultdict(list, loss=[0.1, 0.2]),
        "numbers": np.arange(3.0),
    }
    spec, _ = from_state(checkpoint, legacy, batch_first=True)
    check(spec, gru)


def test_weights_beside_their_average(gru: nn.GRU) -> None:
    other = nn.GRU(I, H, 2, batch_first=True)
    checkpoint = {
        "model": gru.state_dict(),
        "ema": {"decay": 0.9, "module": other.state_dict()},
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []},
    }
    reasons = reasons_of(checkpoint, batch_first=True)
    assert len(reasons) == 1
    assert "['model', 'ema.module']" in reasons[0]
    assert "state_dict='name'" in reasons[0]
    check(from_state(checkpoint, batch_first=True, state_dict="model")[0], gru)
    check(from_state(checkpoint, batch_first=True, state_dict="ema.module")[0], other)
    assert any("the file has" in one for one in reasons_of(checkpoint, state_dict="ema"))


def test_tensors_beside_a_state_dict(gru: nn.GRU) -> None:
    checkpoint = {"loss": torch.tensor(0.25), "state_dict": gru.state_dict(), "step": 4}
    check(from_state(checkpoint, batch_first=True)[0], gru)


def test_a_whole_module_in_a_checkpoint(gru: nn.GRU) -> None:
    spec, _ = from_state({"model": gru, "epoch": 1})
    check(spec, gru)


def test_two_networks_need_a_choice(gru: nn.GRU) -> None:
    checkpoint = {"generator": gru.state_dict(), "discriminator": nn.GRU(3, 4).state_dict()}
    assert "['generator', 'discriminator']" in reasons_of(checkpoint, batch_first=True)[0]
    check(from_state(checkpoint, batch_first=True, state_dict="generator")[0], gru)


# -- TorchScript ----------------------------------------------------------------------------------


class Net(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(H, H)  # a square: only its class tells what it is
        self.rnn = nn.LSTM(H, H, 2, batch_first=True, bidirectional=True)
        self.norm = nn.LayerNorm(2 * H)
        self.head = nn.Linear(2 * H, 3)

    def forward(self, i: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.rnn(self.table(i))[0]))


def script(module: nn.Module, how: str) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "trace":
            made = torch.jit.trace(module, torch.randint(0, H, (N, T)))
        else:
            made = torch.jit.script(module)
        if how == "freeze":
            made = torch.jit.freeze(made.eval())
        torch.jit.save(made, buffer)
    return buffer.getvalue()


HINTS = {"batch_first": True, "eps": 1e-5, "activations": {"head": "none"}, "output": "sequence"}


@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript_archives(how: str) -> None:
    module = Net().eval()
    data = script(module, how)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert any(member.compress_type for member in archive.infolist())
    options = Options(hints=HINTS)
    spec, report = read_checkpoint(data, path=None, name="m", options=options)
    assert report.source_format == "pytorch torchscript"
    assert any("not the code" in warning for warning in report.warnings)
    i = torch.randint(0, H, (N, T))
    want = in_float64(module, i).numpy()
    np.testing.assert_allclose(run(spec, i), want, rtol=0, atol=ATOL)


def test_torchscript_without_hints_asks_for_them() -> None:
    with pytest.raises(ConversionError) as caught:
        read_checkpoint(script(Net(), "script"), path=None, name="m", options=Options())
    text = str(caught.value)
    assert "batch_first=True" in text
    assert "kinds" not in text


def test_frozen_torchscript_is_refused() -> None:
    data = script(Net(), "freeze")
    with pytest.raises(ConversionError, match=r"torch\.jit\.freeze"):
        read_checkpoint(data, path=None, name="m", options=Options(hints=HINTS))


def test_compressed_data_is_refused() -> None:
    """The code of TorchScript may be compressed; nothing else, and the code is never read."""
    source, target = io.BytesIO(script(Net(), "script")), io.BytesIO()
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            method = zipfile.ZIP_DEFLATED if member.filename.endswith("data.pkl") else 0
            new.writestr(member.filename, old.read(member), method)
    with pytest.raises(ModelFileError, match="compressed"):
        read_checkpoint(target.getvalue(), path=None, name="m", options=Options(hints=HINTS))


@pytest.mark.filterwarnings("ignore")
def test_quantised_torchscript_is_refused() -> None:
    module = torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.LSTM, nn.Linear})
    data = script(module, "script")
    with pytest.raises(ConversionError, match="quantised weights"):
        read_checkpoint(data, path=None, name="m", options=Options(hints=HINTS))
