# SPDX-License-Identifier: MIT
"""Converted PyTorch models against torch itself in float64."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch_models import (
    H,
    I,
    Model,
    N,
    from_module,
    from_state,
    in_float64,
    reasons_of,
    run,
    saved,
    sequence,
)

from gruengine.converters.base import ConversionError, Options
from gruengine.converters.torch import looks_like_checkpoint, read_checkpoint
from gruengine.reference_graph import run_graph
from gruengine.spec import ModelSpec

# Weights are float32 on both sides and all sums run in float64.
ATOL = 1e-12
CONFIGS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"batch_first": True},
    {"bidirectional": True},
    {"num_layers": 3, "batch_first": True},
    {"num_layers": 2, "bidirectional": True, "bias": False},
    {"num_layers": 3, "bidirectional": True, "batch_first": True},
]
MODULES: list[tuple[type[nn.Module], dict[str, Any]]] = [
    *((kind, config) for kind in (nn.LSTM, nn.GRU, nn.RNN) for config in CONFIGS),
    (nn.RNN, {"nonlinearity": "relu", "num_layers": 2, "bidirectional": True}),
    (nn.LSTM, {"proj_size": 4}),
    (nn.LSTM, {"proj_size": 4, "bias": False, "batch_first": True}),
    (nn.LSTM, {"proj_size": 2, "num_layers": 3, "bidirectional": True}),
]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(7)


def check_ports(spec: ModelSpec, batch_first: bool, features: int) -> None:
    layout = ("N", "T") if batch_first else ("T", "N")
    assert [(p.name, p.shape) for p in spec.graph.inputs] == [("x", (*layout, I))]
    assert [(p.name, p.shape) for p in spec.graph.outputs] == [("y", (*layout, features))]
    assert spec.state == ()
    assert spec.parity is None


@pytest.mark.parametrize(("kind", "config"), MODULES)
@pytest.mark.parametrize("how", ["module", "zip", "legacy", "pickled", "pickled legacy"])
def test_recurrent_modules(kind: type[nn.Module], config: dict[str, Any], how: str) -> None:
    module = kind(I, H, **config)
    x = sequence(config.get("batch_first", False))
    if how == "module":
        spec, report = from_module(module)
    elif how.startswith("pickled"):
        spec, report = from_state(module, legacy="legacy" in how)
    else:
        hints: dict[str, Any] = {"batch_first": config.get("batch_first", False)}
        if kind is nn.RNN:
            hints["nonlinearity"] = config.get("nonlinearity", "tanh")
        spec, report = from_state(module.state_dict(), legacy=how == "legacy", **hints)
    want, _ = in_float64(module, x)
    got = run(spec, x)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=ATOL)
    check_ports(spec, config.get("batch_first", False), want.shape[-1])
    assert len(report.recognised) == 1
    assert spec.provenance["format"] == "pytorch"
    assert re.fullmatch("[0-9a-f]{64}", spec.provenance["sha256"])


def test_float32_values_are_kept_bit_for_bit() -> None:
    module = nn.LSTM(I, H)
    spec, _ = from_module(module)
    state = module.state_dict()
    order = [0, 3, 1, 2]  # i, f, g, o -> i, o, f, c
    want = state["weight_ih_l0"].reshape(4, H, I)[order].reshape(1, 4 * H, I)
    np.testing.assert_array_equal(spec.tensors["l0.W"], want.numpy())
    both = torch.cat([state[f"bias_{k}_l0"].reshape(4, H)[order].flatten() for k in ("ih", "hh")])
    np.testing.assert_array_equal(spec.tensors["l0.B"], both[None].numpy())


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("how", ["module", "state"])
def test_cells_step_with_their_states(kind: type[nn.Module], bias: bool, how: str) -> None:
    module = kind(I, H, bias=bias)
    hints: dict[str, Any] = (
        {"nonlinearity": "tanh"} if kind is nn.RNNCell and how == "state" else {}
    )
    state = module.state_dict()
    spec, _ = from_module(module) if how == "module" else from_state(state, **hints)
    pairs = (("h", "h_out"), ("c", "c_out"))[: 2 if kind is nn.LSTMCell else 1]
    assert spec.state == pairs
    assert [port.name for port in spec.graph.inputs] == ["x", *(a for a, _ in pairs)]
    assert [port.name for port in spec.graph.outputs] == [b for _, b in pairs]
    states = [torch.randn(N, H) for _ in pairs]
    values = {name: value.numpy() for (name, _), value in zip(pairs, states, strict=True)}
    module = module.double()
    states = [one.double() for one in states]
    for _ in range(3):
        x = torch.randn(N, I)
        values = {
            before: run_graph(spec.graph, spec.tensors, {"x": x.numpy(), **values})[after]
            for before, after in pairs
        }
        with torch.no_grad():
            result = module(x.double(), tuple(states) if len(pairs) == 2 else states[0])
        states = list(result) if len(pairs) == 2 else [result]
        for (name, _), want in zip(pairs, states, strict=True):
            np.testing.assert_allclose(values[name], want.numpy(), rtol=0, atol=ATOL)


def test_a_relu_cell() -> None:
    module = nn.RNNCell(I, H, nonlinearity="relu")
    x, h = torch.randn(N, I), torch.randn(N, H)
    for spec in (from_module(module)[0], from_state(module.state_dict(), nonlinearity="relu")[0]):
        got = run_graph(spec.graph, spec.tensors, {"x": x.numpy(), "h": h.numpy()})["h_out"]
        want = module.double()(x.double(), h.double()).detach().numpy()
        np.testing.assert_allclose(got, want, rtol=0, atol=ATOL)
        module = module.float()


@pytest.mark.parametrize("output", ["sequence", "last", "last_step"])
@pytest.mark.parametrize("embedding", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_models_from_state_dicts(
    output: str, embedding: bool, batch_first: bool, bidirectional: bool
) -> None:
    rnn = nn.GRU(I, H, 2, batch_first=batch_first, bidirectional=bidirectional)
    model = Model(rnn, output, embedding, batch_first)
    model.bn.running_mean.normal_()
    model.bn.running_var.uniform_(0.5, 2)
    hints: dict[str, Any] = {
        "batch_first": batch_first,
        "output": output,
        "activations": {"fc1": "relu", "fc2": "log_softmax"},
        "kinds": {"norm": "layernorm"},
        "eps": {"norm": 1e-3, "bn": 1e-5},
    }
    spec, _ = from_state(model.state_dict(), **hints)
    x = sequence(batch_first)
    if embedding:
        x = torch.randint(0, 11, x.shape[:2])
    want = in_float64(model, x).numpy()
    got = run(spec, x)
    assert got.shape == want.shape
    # Batch norm is folded to one product and one sum in float32.
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)
    assert spec.graph.inputs[0].dtype == ("int64" if embedding else "float32")


def test_everything_that_a_state_dict_lacks_is_asked_for_at_once() -> None:
    model = Model(nn.RNN(I, I), "last", True, True)
    reasons = reasons_of(model.state_dict())
    for hint in (
        "batch_first=True",
        "nonlinearity='tanh'",
        "output='sequence'",
        "activations={'fc1'",
        "activations={'fc2'",
        "kinds={'norm': 'layernorm'}",
        "eps={'norm'",
        "eps={'bn'",
    ):
        assert sum(hint in reason for reason in reasons) == 1, (hint, reasons)
    assert len(reasons) == 8


def test_the_hints_that_the_reasons_name_are_enough() -> None:
    model = nn.Sequential(nn.Embedding(I, I), nn.LSTM(I, H))
    reasons = reasons_of(model.state_dict(), batch_first=True)
    assert len(reasons) == 1
    assert "kinds={'0': 'embedding'}" in reasons[0]
    from_state(model.state_dict(), batch_first=True, kinds={"0": "embedding"})
    as_linear = reasons_of(model.state_dict(), batch_first=True, kinds={"0": "linear"})
    assert len(as_linear) == 1
    assert "activations={'0'" in as_linear[0]


STATE = nn.LSTM(I, H, 2).state_dict()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3, "loss": 0.5},
        lambda s: {"model": s, "optimizer": {"state": {0: {"step": 1}}, "param_groups": [{}]}},
        lambda s: {"model_state_dict": s, "args": {"lr": 1e-3}},
        lambda s: {"weights": s},
        lambda s: {f"module.{key}": value for key, value in s.items()},
        lambda s: {f"_orig_mod.module.{key}": value for key, value in s.items()},
        lambda s: {"state_dict": {f"model.rnn.{key}": value for key, value in s.items()}},
        lambda s: {"state_dict": s, "score": np.float64(0.25)},
        lambda s: {key: nn.Parameter(value) for key, value in s.items()},
    ],
)
@pytest.mark.parametrize("legacy", [True, False])
def test_state_dicts_inside_checkpoints(wrap: Any, legacy: bool) -> None:
    plain, _ = from_state(STATE, batch_first=False)
    spec, _ = from_state(wrap(STATE), legacy=legacy, batch_first=False)
    assert [t.tobytes() for t in spec.tensors.values()] == [
        t.tobytes() for t in plain.tensors.values()
    ]


def test_several_state_dicts_are_ambiguous() -> None:
    both = {"state_dict": STATE, "model": STATE}
    assert "state_dict='name'" in reasons_of(both, batch_first=False)[0]
    from_state(both, batch_first=False, state_dict="model")
    assert "the file has" in reasons_of(both, batch_first=False, state_dict="other")[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_become_float32_exactly(dtype: torch.dtype) -> None:
    half = {key: value.to(dtype) for key, value in STATE.items()}
    spec, _ = from_state(half, batch_first=False)
    wide, _ = from_state({key: value.float() for key, value in half.items()}, batch_first=False)
    live, _ = from_module(nn.LSTM(I, H, 2).to(dtype))
    for key, value in wide.tensors.items():
        np.testing.assert_array_equal(spec.tensors[key], value)
        assert live.tensors[key].dtype == value.dtype


def test_float64_is_rounded_only_when_asked() -> None:
    exact = {key: value.double() for key, value in STATE.items()}
    spec, _ = from_state(exact, batch_first=False)
    plain, _ = from_state(STATE, batch_first=False)
    for key, value in plain.tensors.items():
        np.testing.assert_array_equal(spec.tensors[key], value)
    inexact = {key: value + 1e-12 for key, value in exact.items()}
    reasons = reasons_of(inexact, batch_first=False)
    assert len(reasons) == len(STATE)
    assert "allow_rounding=True" in reasons[0]
    spec, _ = from_state(inexact, batch_first=False, allow_rounding=True)
    np.testing.assert_allclose(spec.tensors["l0.W"], plain.tensors["l0.W"], atol=1e-7)
    huge = {**exact, "weight_ih_l0": exact["weight_ih_l0"] * 1e300}
    assert "3.4e38" in reasons_of(huge, batch_first=False, allow_rounding=True)[0]


def test_weight_norm_of_both_kinds() -> None:
    with pytest.warns(FutureWarning):
        old = nn.utils.weight_norm(nn.LSTM(I, H), "weight_hh_l0")
    new = nn.utils.parametrizations.weight_norm(nn.LSTM(I, H), "weight_hh_l0", dim=1)
    whole = nn.utils.parametrizations.weight_norm(nn.Linear(I, H), dim=None)
    with torch.no_grad():
        old.weight_hh_l0_g.mul_(1.5)
        new.parametrizations.weight_hh_l0.original0.mul_(0.3)
    x = sequence()
    for module, hints in (
        (old, {"batch_first": False}),
        (new, {"batch_first": False}),
        (whole, {"activations": {"": "none"}}),
    ):
        state = {key: value.clone() for key, value in module.state_dict().items()}
        live, _ = from_module(module)
        spec, _ = from_state(state, **hints)
        x = x if hints.get("batch_first") is False else x[0]
        result = in_float64(module, x)
        want = (result[0] if isinstance(result, tuple) else result).numpy()
        np.testing.assert_allclose(run(spec, x), want, rtol=0, atol=1e-6)
        np.testing.assert_allclose(run(live, x), want, rtol=0, atol=1e-6)


def test_other_parametrizations_are_refused() -> None:
    module = nn.utils.parametrizations.orthogonal(nn.Linear(I, I))
    with pytest.raises(ConversionError, match="parametrized by"):
        from_module(module)
    assert "unknown name" in reasons_of(module.state_dict())[0]


def test_safetensors_weights(tmp_path: Any) -> None:
    save_file = pytest.importorskip("safetensors.torch").save_file
    path = tmp_path / "model.safetensors"
    model = Model(nn.LSTM(I, H, batch_first=True), "last", False, True)
    save_file({key: value.bfloat16() for key, value in model.state_dict().items()
               if key != "bn.num_batches_tracked"}, path)  # fmt: skip
    hints: dict[str, Any] = {
        "batch_first": True,
        "output": "last",
        "activations": {"fc1": "relu", "fc2": "log_softmax"},
        "kinds": {"norm": "layernorm"},
        "eps": {"norm": 1e-3, "bn": 1e-5},
    }
    data = path.read_bytes()
    with pytest.raises(ConversionError, match="without the order of modules"):
        read_checkpoint(data, path=None, name="m", options=Options(hints=hints))
    hints["order"] = ["rnn", "norm", "fc1", "bn", "fc2"]
    spec, report = read_checkpoint(data, path=None, name="m", options=Options(hints=hints))
    model.load_state_dict({k: v.bfloat16().float() if v.is_floating_point() else v
                           for k, v in model.state_dict().items()})  # fmt: skip
    x = sequence(True)
    want = in_float64(model, x).numpy()
    np.testing.assert_allclose(run(spec, x), want, rtol=0, atol=2e-6)
    assert report.source_format == "pytorch safetensors"
    assert looks_like_checkpoint(data[:16])


def test_the_heads_of_checkpoints() -> None:
    assert looks_like_checkpoint(saved(STATE)[:16])
    assert looks_like_checkpoint(saved(STATE, legacy=True)[:64])
    for head in (b"", b"\x08\x07\x12\x00onnx model", b"\x89HDF\r\n\x1a\n", b"PK\x05\x06", b"{}"):
        assert not looks_like_checkpoint(head)


def test_views_share_a_storage() -> None:
    base = torch.randn(3, 100, 50)
    state = {
        "weight_ih_l0": base[1, 3 : 3 + 4 * H, 2 : 2 + I],
        "weight_hh_l0": base[2, :H, : 4 * H].t(),
        "bias_ih_l0": base[0, :48:2, 7],
        "bias_hh_l0": base[0].flatten()[10 : 10 + 4 * H],
    }
    want, _ = from_state({k: v.clone() for k, v in state.items()}, batch_first=True)
    for legacy in (False, True):
        spec, _ = from_state(state, legacy=legacy, batch_first=True)
        for key, value in want.tensors.items():
            np.testing.assert_array_equal(spec.tensors[key], value)


def test_converted_models_survive_the_file() -> None:
    spec, _ = from_module(nn.LSTM(I, H, 2, bidirectional=True, proj_size=3))
    again = ModelSpec.from_bytes(spec.to_bytes())
    assert again.graph == spec.graph
    assert again.provenance == spec.provenance
    for key, value in spec.tensors.items():
        np.testing.assert_array_equal(again.tensors[key], value)
