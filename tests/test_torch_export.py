# SPDX-License-Identifier: MIT
"""Traced recurrent models beside PyTorch: layers, states, streams, and what is refused."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_torch_export_ops import check, resized
from torch import nn
from torch_export_models import H, I, Stateful, build
from torch_models import from_module

import gruengine as gr
from gruengine.converters.base import ConversionError

N, T = 3, 7
torch.set_num_threads(1)


def layers() -> list[tuple[type[nn.Module], dict[str, Any]]]:
    found: list[tuple[type[nn.Module], dict[str, Any]]] = []
    for kind, depth, first, two in itertools.product(
        (nn.RNN, nn.LSTM, nn.GRU), (1, 2), (True, False), (True, False)
    ):
        options: dict[str, Any] = {"num_layers": depth, "batch_first": first, "bidirectional": two}
        options["bias"] = not (first and two)
        if kind is nn.RNN:
            options["nonlinearity"] = "relu" if first else "tanh"
        if kind is nn.LSTM and two:
            options["proj_size"] = 4
        found.append((kind, options))
    return found


def states(module: nn.Module, batch: int = N) -> Any:
    D = module.num_layers * (2 if module.bidirectional else 1)
    h = torch.randn(D, batch, module.proj_size or H)
    return (h, torch.randn(D, batch, H)) if isinstance(module, nn.LSTM) else h


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize(("kind", "options"), layers())
@pytest.mark.parametrize("with_state", [True, False])
def test_layers(kind: type[nn.Module], options: dict[str, Any], with_state: bool) -> None:
    """Time stays free for several layers and directions; states go in and out."""
    torch.manual_seed(2)
    module = kind(I, H, **options)
    shape = (N, T, I) if options["batch_first"] else (T, N, I)
    state = states(module)
    inputs = (torch.randn(shape), state) if with_state else (torch.randn(shape),)
    model = gr.from_torch(module, inputs)
    ports = model.signature.inputs
    assert ports[0].shape == (("N", "T", I) if options["batch_first"] else ("T", "N", I))
    flat = [inputs[0], *(state if isinstance(state, tuple) else [state])] if with_state else inputs
    module.eval()
    for number, time in ((N, T), (1, 4), (5, 1)):
        sizes = {"N": number, "T": time}
        given = [resized(one, p.shape, sizes) for one, p in zip(flat, ports, strict=True)]
        hx = () if not with_state else (tuple(given[1:]) if len(given) > 2 else given[1],)
        check(model, _Leaves(module, hx), (given[0],) if not hx else tuple(given))
    names = [port.name for port in model.signature.outputs]
    if with_state:
        assert dict(model.signature.state) == {p.name: f"{p.name}_out" for p in ports[1:]}
    assert names[0] == "y"


class _Leaves(nn.Module):  # type: ignore[misc]
    """Call a module whose states are a tuple with flat arguments."""

    def __init__(self, inner: nn.Module, hx: tuple[Any, ...]) -> None:
        super().__init__()
        self.inner, self.hx = inner, hx

    def forward(self, x: torch.Tensor, *_: torch.Tensor) -> Any:
        return self.inner(x, *self.hx)


MODELS = build()
#: Models whose time, or more, is fixed by a loop.
FIXED_TIME = {"loop", "norm_cell", "step", "by_hand", "gru_by_hand"}


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    module, example = MODELS[name]
    model = gr.from_torch(module, example)
    flat = [one for item in example for one in (item if isinstance(item, tuple) else (item,))]
    ports = model.signature.inputs
    free = {size for port in ports for size in port.shape if isinstance(size, str)}
    assert "N" in free
    assert ("T" in free) == (name not in FIXED_TIME)
    module.eval()
    for number, time in ((3, 8), (2, 9), (1, 12)):
        sizes = {"N": number, **({"T": time} if "T" in free else {})}
        given = [resized(one, p.shape, sizes) for one, p in zip(flat, ports, strict=True)]
        if name == "last_valid":
            given[1] = torch.clamp(given[1], max=time)
        check(model, _Tree(module, example), tuple(given))


class _Tree(nn.Module):  # type: ignore[misc]
    """Call a module with flat arguments in the structure of an example."""

    def __init__(self, inner: nn.Module, example: tuple[Any, ...]) -> None:
        super().__init__()
        self.inner, self.example = inner, example

    def forward(self, *flat: torch.Tensor) -> Any:
        values = iter(flat)
        args = [
            tuple(next(values) for _ in item) if isinstance(item, tuple) else next(values)
            for item in self.example
        ]
        return self.inner(*args)


@pytest.mark.parametrize("name", ["step", "by_hand", "gru_by_hand"])
def test_steps_stream(name: str) -> None:
    """A module that is one step carries its states call by call."""
    module, example = MODELS[name]
    model = gr.from_torch(module, example)
    assert model.streamable.form == "calls"
    assert len(model.signature.state) == {"step": 3, "by_hand": 2, "gru_by_hand": 1}[name]
    stream = model.stream(2)
    state: Any = {
        "step": ((torch.zeros(2, H), torch.zeros(2, H)), torch.zeros(2, 4)),
        "by_hand": (torch.zeros(2, H), torch.zeros(2, H)),
        "gru_by_hand": (torch.zeros(2, H),),
    }[name]
    torch.manual_seed(0)
    for _ in range(4):
        x = torch.randn(2, I)
        with torch.no_grad():
            result = module(x, *state)
        found = stream.step(x.numpy())
        if name == "step":
            y, *state = result
        else:
            state = result if isinstance(result, tuple) else (result,)
            y = state[0]
        value = found if isinstance(found, np.ndarray) else next(iter(found.values()))
        np.testing.assert_allclose(value, y.numpy(), rtol=0, atol=2e-6)


def test_frames_stream() -> None:
    module, (x,) = MODELS["residual"]
    model = gr.from_torch(module, x)
    assert (model.streamable.form, model.streamable.time) == ("frames", "T")
    stream = model.stream(3)
    found = np.stack([stream.step(x[:, t].contiguous().numpy()) for t in range(x.shape[1])], 1)
    with torch.no_grad():
        np.testing.assert_allclose(found, module.eval()(x).numpy(), rtol=0, atol=5e-6)


def test_a_state_in_a_buffer() -> None:
    module = Stateful()
    model = gr.from_torch(module, torch.randn(1, I))
    assert dict(model.signature.state) == {"h": "h_out"}
    assert not module.h.any()
    stream = model.stream(1)
    for x in torch.randn(5, 1, I):
        found = stream.step(x.numpy())
        value = found if isinstance(found, np.ndarray) else found["y"]
        with torch.no_grad():
            np.testing.assert_allclose(value, module(x).numpy(), rtol=0, atol=2e-6)


def test_decomposed_cells_become_recurrent_nodes() -> None:
    for name in ("by_hand", "gru_by_hand"):
        module, example = MODELS[name]
        spec, report = from_module(module, example_inputs=example)
        assert [node.op for node in spec.graph.nodes].count("Recurrent") == 1
        assert len(report.fused) == 1


def test_the_module_stays_as_it_was() -> None:
    module = nn.Sequential(nn.Linear(I, I), nn.Dropout(0.3), nn.LSTM(I, H, 2, dropout=0.2)).train()
    module[0].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    parameters = list(module.parameters())
    flags = [one.training for one in module.modules()]
    attributes = {name: dict(vars(one)) for name, one in module.named_modules()}
    gr.from_torch(module, torch.randn(T, N, I))
    assert all(a is b for a, b in zip(parameters, module.parameters(), strict=True))
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert flags == [one.training for one in module.modules()]
    assert {name: set(vars(one)) for name, one in module.named_modules()} == {
        name: set(values) for name, values in attributes.items()
    }
    assert all(a is b for a, b in zip(module[2]._flat_weights, module[2].parameters(), strict=True))


def test_inputs_by_name_and_as_arrays() -> None:
    class Named(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(I, H, batch_first=True)

        def forward(self, frames: torch.Tensor, gain: float = 1.0, *, bias: torch.Tensor) -> Any:
            return {"out": self.rnn(frames)[0] * gain, "last": bias}

    module = Named()
    x, bias = np.float32(np.random.default_rng(0).normal(size=(N, T, I))), np.ones(2, np.float32)
    model = gr.from_torch(module, {"frames": x, "gain": 2.0, "bias": bias})
    assert [port.name for port in model.signature.inputs] == ["frames", "bias"]
    found = model.run_graph({"frames": x, "bias": bias})
    with torch.no_grad():
        want = module(torch.from_numpy(x), 2.0, bias=torch.from_numpy(bias))
    assert set(found) == {"out", "last"}
    np.testing.assert_allclose(found["out"], want["out"].numpy(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types(dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Linear(I, H), nn.Tanh(), nn.Linear(H, 2)).to(dtype)
    x = torch.randn(N, I).to(dtype)
    hints = {"allow_rounding": True} if dtype is torch.float64 else {}
    if hints:
        for parameter in module.parameters():
            parameter.data += 1e-12
        with pytest.raises(ConversionError, match="allow_rounding=True"):
            gr.from_torch(module, x)
    model = gr.from_torch(module, x, **hints)
    want = module.float()(x.float()).detach().numpy()
    np.testing.assert_allclose(model(x.float().numpy()), want, rtol=0, atol=1e-6)


def test_verify_beside_the_module(tmp_path: Path) -> None:
    for name in ("step", "attention", "encoder_decoder"):
        module, example = MODELS[name]
        path = tmp_path / f"{name}.safetensors"
        gr.from_torch(module, example).spec.save(path)
        report = gr.verify(path, module)
        assert report.passed
        assert {check.against for check in report.checks} >= {"PyTorch"}


# -- decisions by sizes ---------------------------------------------------------------------------


class BySize(nn.Module):  # type: ignore[misc]
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.shape[1] > 5 else x * 3


def test_a_decision_by_a_size_fixes_it() -> None:
    for time in (9, 4):
        x = torch.randn(N, time, I)
        model = gr.from_torch(BySize(), x)
        assert model.signature.inputs[0].shape == (N, time, I)
        np.testing.assert_array_equal(model(x.numpy()), BySize()(x).numpy())


def test_sizes_of_the_user() -> None:
    module, (x,) = MODELS["residual"]
    batch = torch.export.Dim("batch")
    model = gr.from_torch(module, x, dynamic_shapes={"x": {0: batch}})
    assert model.signature.inputs[0].shape == ("N", 8, I)


# -- what is refused ------------------------------------------------------------------------------


class Bad(nn.Module):  # type: ignore[misc]
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("count", torch.ones(()))

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, x)


def _assigns(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    self.kept = x * 2
    return x


def _counts(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    self.count += 1
    return x * self.count


def _packed(self: nn.Module, x: torch.Tensor) -> Any:
    packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2, 1]), batch_first=True)
    return packed.data


REFUSED: dict[str, tuple[Any, str]] = {
    "random": (lambda s, x: x + torch.rand_like(x), r"aten\.rand"),
    "dropout": (lambda s, x: nn.functional.dropout(x, 0.5, True), r"dropout"),
    "kth": (lambda s, x: x.kthvalue(2)[0], r"aten\.kthvalue"),
    "complex": (lambda s, x: torch.fft.rfft(x).abs(), r"fft"),
    "values": (lambda s, x: x * 2 if x.sum() > 0 else x, "torch.export fails"),
    "nonzero": (lambda s, x: x[x > 0], "booleans"),
    "item": (lambda s, x: x * int(x.sum().item()), "values"),
    "assigned": (_assigns, "kept: an attribute that the forward assigns"),
    "counter": (_counts, "count: a buffer that the forward writes"),
    "packed": (_packed, "a packed sequence"),
    "bytes": (lambda s, x: x.to(torch.uint8), "uint8"),
    "halves": (lambda s, x: x.half().float(), "float16"),
    "none": (lambda s, x: None, "no tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    function, message = REFUSED[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConversionError, match=message):
            gr.from_torch(Bad(function), torch.randn(3, 4, 5))


def test_every_reason_at_once_and_where() -> None:
    class Inner(nn.Module):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.kthvalue(2, -1)[0].unsqueeze(-1)

    class Outer(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + torch.randn(5) + torch.linalg.inv(x @ x.mT).sum()

    with pytest.raises(ConversionError) as caught:
        gr.from_torch(Outer(), torch.randn(3, 4, 5))
    texts = [str(reason) for reason in caught.value.reasons]
    assert len(texts) >= 3
    assert any(text.startswith("inner (test_torch_export.py:") for text in texts)


def test_without_example_inputs_the_way_out_is_named() -> None:
    with pytest.raises(ConversionError, match="example_inputs"):
        gr.from_torch(MODELS["residual"][0])


def test_hints_that_mean_nothing_here() -> None:
    with pytest.raises(ConversionError, match="batch_first"):
        gr.from_torch(nn.GRU(I, H), torch.randn(T, N, I), batch_first=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_modules() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.GRU(I, H))
    with pytest.raises(TypeError, match="TorchScript"):
        gr.from_torch(scripted, torch.randn(T, N, I))
