# SPDX-License-Identifier: MIT
"""Forms in which projects save their models: protocols, lists, wrappers, objects of their own."""

from __future__ import annotations

import collections
import enum
import functools
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch_models import H, I, from_state, in_float64, reasons_of, run, sequence

from gruengine.converters.base import Options
from gruengine.converters.torch import looks_like_checkpoint, read_checkpoint
from gruengine.errors import ModelFileError

ATOL = 1e-12


@pytest.fixture
def gru() -> nn.GRU:
    return nn.GRU(I, H, 2, batch_first=True)


def check(spec: Any, module: nn.Module) -> None:
    x = sequence(True)
    want = in_float64(module, x)[0].numpy()
    np.testing.assert_allclose(run(spec, x), want, rtol=0, atol=ATOL)


def from_bytes(data: bytes, **hints: Any) -> Any:
    return read_checkpoint(data, path=None, name="m", options=Options(hints=hints))[0]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_later_protocols(gru: nn.GRU, protocol: int, legacy: bool) -> None:
    checkpoint = {"state_dict": gru.state_dict(), "words": {b"a": 0, ("b", 1): {2}}, "raw": b"x"}
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer, pickle_protocol=protocol,
               _use_new_zipfile_serialization=not legacy)  # fmt: skip
    data = buffer.getvalue()
    assert looks_like_checkpoint(data[:64])
    check(from_bytes(data, batch_first=True), gru)


@pytest.mark.parametrize("form", [list, tuple])
def test_a_list_of_networks(gru: nn.GRU, form: Any) -> None:
    """What stands in a list is called by its number; the state of an optimizer is none."""
    other = nn.GRU(3, 4)
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": torch.ones(1)}]}
    check(from_state(form([gru.state_dict(), optimizer, 3]), batch_first=True)[0], gru)
    check(from_state(form([gru, None]))[0], gru)
    both = form([gru.state_dict(), {"net": other.state_dict()}])
    assert "['0', '1.net']" in reasons_of(both, batch_first=True)[0]
    check(from_state(both, batch_first=True, state_dict="0")[0], gru)
    alone = reasons_of(form([torch.zeros(2), torch.ones(2)]), batch_first=True)
    assert alone[0].startswith(f"a {form.__name__} without a state dict")


def test_wrapped_modules(gru: nn.GRU) -> None:
    check(from_state(nn.DataParallel(gru))[0], gru)
    check(from_state({"model": nn.DataParallel(nn.Sequential(gru))})[0], gru)
    averaged = torch.optim.swa_utils.AveragedModel(gru)
    check(from_state(averaged)[0], gru)


class Own(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.DataParallel(nn.GRU(I, H, 2, batch_first=True))
        self.head = nn.Linear(H, 3)


def test_a_wrapper_inside_a_module() -> None:
    own = Own()
    spec, _ = from_state(own, output="sequence", activations={"head": "none"})
    x = sequence(True)
    with torch.no_grad():
        y = own.double().head(own.inner.module(x.double())[0])
    np.testing.assert_allclose(run(spec, x), y.numpy(), rtol=0, atol=ATOL)


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_module_of_an_own_class() -> None:
    module = torch.ao.quantization.quantize_dynamic(Own().eval(), {nn.GRU, nn.Linear})
    reasons = reasons_of(module, activations={"head": "none"}, output="sequence")
    assert any("quantised weights; save the float model" in one for one in reasons)


# -- objects of projects --------------------------------------------------------------------------


class Mode(enum.Enum):
    TRAIN = "train"


class Scaler:
    def __reduce__(self) -> Any:
        return (Scaler, (), {"mean": torch.zeros(2)})


def test_objects_beside_the_weights(gru: nn.GRU) -> None:
    checkpoint = {
        "state_dict": gru.state_dict(), "mode": Mode.TRAIN, "transform": Scaler(),
        "call": functools.partial(Scaler), "queue": collections.deque([1]),
        "range": range(3), "generator": np.random.default_rng(1), "state": np.random.RandomState(2),
        "type": torch.float32, "numbers": {np.float64(1.5): np.ones(2)},
    }  # fmt: skip
    check(from_state(checkpoint, batch_first=True)[0], gru)


def test_storages_inside_objects_of_legacy_files(gru: nn.GRU) -> None:
    """An optimizer holds its own tensors, in a dict of another class."""
    optimizer = torch.optim.SGD(gru.parameters(), 0.1, momentum=0.9)
    gru(sequence(True))[0].sum().backward()
    optimizer.step()
    checkpoint = {"model": gru.state_dict(), "optimizer": optimizer}
    check(from_state(checkpoint, legacy=True, batch_first=True)[0], gru)


def test_a_program_of_torch_export_is_named() -> None:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(nn.Linear(I, H), (sequence(True),)), buffer)
    with pytest.raises(ModelFileError, match=r"a program of torch\.export"):
        from_bytes(buffer.getvalue())


def test_an_object_among_the_weights_is_named(gru: nn.GRU) -> None:
    reasons = reasons_of({**gru.state_dict(), "scaler": Scaler(), "n": [1]}, batch_first=True)
    assert any(f"an object of class {__name__}.Scaler" in one for one in reasons)
    assert any("n: a list" in one for one in reasons)


def test_calls_of_the_standard_library_are_refused(gru: nn.GRU) -> None:
    class Call:
        def __reduce__(self) -> Any:
            import os

            return (os.getenv, ("HOME",))

    for protocol in (2, 4):
        buffer = io.BytesIO()
        torch.save({"state_dict": gru.state_dict(), "x": Call()}, buffer, pickle_protocol=protocol)
        with pytest.raises(ModelFileError, match=r"calls os\.getenv; nothing of a file"):
            from_bytes(buffer.getvalue(), batch_first=True)


# -- tensors --------------------------------------------------------------------------------------


def test_parameters_with_attributes(gru: nn.GRU) -> None:
    state = collections.OrderedDict(gru.named_parameters())
    state["weight_hh_l0"].learning_rate = 0.5
    state["bias_ih_l0"] = state["bias_ih_l0"].data.clone()
    state["bias_ih_l0"].note = "own"
    check(from_state(state, batch_first=True)[0], gru)


class Marked(torch.Tensor):  # type: ignore[misc]
    """A tensor whose class may compute something else."""


def test_tensors_of_an_own_class_are_refused(gru: nn.GRU) -> None:
    state = {**gru.state_dict(), "weight_hh_l0": gru.weight_hh_l0.detach().as_subclass(Marked)}
    assert any("Marked" in one for one in reasons_of(state, batch_first=True))


def test_tensors_of_the_first_releases(gru: nn.GRU) -> None:
    """They were made from storage, offset, sizes and strides alone."""
    check(from_bytes(pickle_with_old_tensors(gru), batch_first=True), gru)


def pickle_with_old_tensors(module: nn.Module) -> bytes:
    """Write a legacy file whose tensors are calls of ``_rebuild_tensor``."""

    class Old:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def __reduce__(self) -> Any:
            t = self.tensor
            args = (t._typed_storage(), t.storage_offset(), tuple(t.shape), t.stride())
            return torch._utils._rebuild_tensor, args

    state = collections.OrderedDict((k, Old(v)) for k, v in module.state_dict().items())
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()
