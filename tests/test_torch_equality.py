# SPDX-License-Identifier: MIT
"""PyTorch's modules beside the engine: live, as checkpoints, and as both exporters write them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx_models import export
from tolerances import TORCH_MODULE, relative_error
from torch import nn
from torch_models import Model, saved

import gruengine as gr
from gruengine.conversion import read_spec

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")

N, T = 3, 9
Options = dict[str, Any]


def constructions() -> list[tuple[type[nn.Module], Options]]:
    """Every constructor argument of RNN, LSTM and GRU in all combinations, with odd sizes."""
    found: list[tuple[type[nn.Module], Options]] = []
    for kind in (nn.RNN, nn.LSTM, nn.GRU):
        extra: list[Options] = [{}]
        if kind is nn.RNN:
            extra = [{"nonlinearity": "tanh"}, {"nonlinearity": "relu"}]
        elif kind is nn.LSTM:
            extra = [{"proj_size": 0}, {"proj_size": 5}]
        for layers, bias, first, two, own in itertools.product(
            (1, 3), (True, False), (True, False), (True, False), extra
        ):
            options = {"num_layers": layers, "bias": bias, "batch_first": first}
            # Dropout acts in training alone.
            dropout = 0.4 if layers > 1 and first else 0.0
            found.append((kind, {**options, "bidirectional": two, "dropout": dropout, **own}))
    return found


def named(value: object) -> str:
    if isinstance(value, dict):
        return "-".join(f"{k[:5]}={v}" for k, v in value.items())
    return getattr(value, "__name__", str(value))


def build(kind: type[nn.Module], options: Options, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    module = kind(7, 11, **options).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-0.45, 0.45)
    return module


def sequence(module: nn.Module) -> torch.Tensor:
    return torch.randn((N, T, 7) if module.batch_first else (T, N, 7))


def states(module: nn.Module) -> tuple[torch.Tensor, ...]:
    """Return random initial states: (h,) or (h, c)."""
    D = module.num_layers * (2 if module.bidirectional else 1)
    h = torch.randn(D, N, module.proj_size or module.hidden_size)
    return (h, torch.randn(D, N, module.hidden_size)) if isinstance(module, nn.LSTM) else (h,)


def check(found: Array, want: Any) -> None:
    error = relative_error(found, want.detach().numpy())
    assert error <= TORCH_MODULE, f"{error:.2g}"


CONSTRUCTIONS = pytest.mark.parametrize(("kind", "options"), constructions(), ids=named)


@CONSTRUCTIONS
def test_live_modules(kind: type[nn.Module], options: Options) -> None:
    module = build(kind, options)
    x = sequence(module)
    check(gr.from_torch(module)(x.numpy()), module(x)[0])


@CONSTRUCTIONS
def test_live_modules_from_a_state(kind: type[nn.Module], options: Options) -> None:
    """``run`` from a state that is not zero, layer by layer, and the state after it."""
    module = build(kind, options)
    model, x, initial = gr.from_torch(module), sequence(module), states(module)
    want, after = module(x, initial if len(initial) > 1 else initial[0])
    after = after if isinstance(after, tuple) else (after,)
    _, fresh = model.run(x.numpy())
    D = 2 if module.bidirectional else 1
    # Names are those of the nodes, in the order of the layers.
    names = {part: [name for name in fresh if name.endswith(f".{part}")] for part in "hc"}
    state = {
        name: values[D * layer : D * layer + D].numpy()
        for part, values in zip("hc", initial, strict=False)
        for layer, name in enumerate(names[part])
    }
    y, final = model.run(x.numpy(), state)
    check(y, want)
    for part, values in zip("hc", after, strict=False):
        check(np.concatenate([final[name] for name in names[part]]), values)


@CONSTRUCTIONS
def test_state_dicts(kind: type[nn.Module], options: Options, tmp_path: Path) -> None:
    module = build(kind, options)
    path = tmp_path / "weights.pt"
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=options["batch_first"])
    hints = {k: options[k] for k in ("batch_first", "nonlinearity") if k in options}
    x = sequence(module)
    check(gr.load(path, **hints)(x.numpy()), module(x)[0])


def check_export(kind: type[nn.Module], options: Options, dynamo: bool) -> None:
    """Export with initial states as inputs, and compare every output."""
    module = build(kind, options)
    x, initial = sequence(module), states(module)
    given = initial if len(initial) > 1 else initial[0]
    proto = export(module, (x, given), dynamo=dynamo)
    y, after = module(x, given)
    model = gr.load(proto.SerializeToString())
    ports = [port.name for port in model.signature.inputs]
    found = model.run_graph(dict(zip(ports, (v.numpy() for v in (x, *initial)), strict=True)))
    wanted = (y, *(after if isinstance(after, tuple) else (after,)))
    for value, want in zip(found.values(), wanted, strict=True):
        check(value, want)


# Neither exporter can write projections.
EXPORTED = [(kind, options) for kind, options in constructions() if not options.get("proj_size")]


@pytest.mark.parametrize(("kind", "options"), EXPORTED, ids=named)
def test_torchscript_exports(kind: type[nn.Module], options: Options) -> None:
    check_export(kind, options, dynamo=False)


# An export takes seconds: every seventh meets every value of every argument.
@pytest.mark.parametrize(("kind", "options"), EXPORTED[::7], ids=named)
def test_dynamo_exports(kind: type[nn.Module], options: Options) -> None:
    check_export(kind, {**options, "num_layers": min(options["num_layers"], 2)}, dynamo=True)


def test_the_wrong_export_of_a_projection_is_refused() -> None:
    """PyTorch writes a node that ONNX does not allow, and ONNX Runtime does not run."""
    module = build(nn.LSTM, {"proj_size": 5})
    proto = export(module, (torch.randn(T, N, 7), states(module)), dynamo=True)
    with pytest.raises(gr.ConversionError, match="exports of an LSTM with proj_size"):
        gr.load(proto.SerializeToString())


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU], ids=named)
def test_exports_with_named_sizes(kind: type[nn.Module], dynamo: bool) -> None:
    module = build(kind, {"num_layers": 2, "batch_first": True})
    x = torch.randn(2, 5, 7)
    if dynamo:
        dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("frames")}
        proto = export(module, (x,), dynamo=True, dynamic_shapes=(dims,))
    else:
        axes = {"x": {0: "batch", 1: "frames"}}
        proto = export(module, (x,), input_names=["x"], dynamic_axes=axes)
    model = gr.load(proto.SerializeToString())
    # This exporter writes out the steps of an RNN one by one.
    frames = 5 if dynamo and kind is nn.RNN else 23
    longer = torch.randn(4, frames, 7)
    name = model.signature.inputs[0].name
    found = model.run_graph({name: longer.numpy()})
    check(next(iter(found.values())), module(longer)[0])


CELLS = [
    (nn.RNNCell, {"nonlinearity": "tanh"}),
    (nn.RNNCell, {"nonlinearity": "relu"}),
    (nn.LSTMCell, {}),
    (nn.GRUCell, {}),
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "options"), CELLS, ids=named)
def test_cells(kind: type[nn.Module], options: Options, bias: bool, tmp_path: Path) -> None:
    module = build(kind, {"bias": bias, **options})
    x, h, c = torch.randn(N, 7), torch.randn(N, 11), torch.randn(N, 11)
    given: Any = (h, c) if kind is nn.LSTMCell else h
    want = module(x, given)
    wanted = want if isinstance(want, tuple) else (want,)
    inputs = {"x": x.numpy(), "h": h.numpy()} | ({"c": c.numpy()} if len(wanted) > 1 else {})
    path = tmp_path / "cell.pt"
    torch.save(module.state_dict(), path)
    hints = {k: v for k, v in options.items() if k == "nonlinearity"}
    for model in (gr.from_torch(module), gr.load(path, **hints)):
        for value, expected in zip(model.run_graph(inputs).values(), wanted, strict=True):
            check(value, expected)


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
@pytest.mark.parametrize(("kind", "options"), CELLS, ids=named)
def test_exported_cells_become_one_node(
    kind: type[nn.Module], options: Options, dynamo: bool
) -> None:
    module = build(kind, options)
    x, h, c = torch.randn(N, 7), torch.randn(N, 11), torch.randn(N, 11)
    given: Any = (h, c) if kind is nn.LSTMCell else h
    source = export(module, (x, given), dynamo=dynamo).SerializeToString()
    assert [node.op for node in read_spec(source).graph.nodes].count("Recurrent") == 1
    model = gr.load(source)
    want = module(x, given)
    wanted = want if isinstance(want, tuple) else (want,)
    ports = [port.name for port in model.signature.inputs]
    arrays = [x.numpy(), h.numpy(), c.numpy()][: 1 + len(wanted)]
    found = model.run_graph(dict(zip(ports, arrays, strict=True)))
    for value, expected in zip(found.values(), wanted, strict=True):
        check(value, expected)


@pytest.mark.parametrize(("kind", "options"), CELLS, ids=named)
def test_a_cell_streams_and_gives_its_state(kind: type[nn.Module], options: Options) -> None:
    module = build(kind, options)
    x = torch.randn(6, N, 7)
    h, c = torch.zeros(N, 11), torch.zeros(N, 11)
    stream = gr.from_torch(module).stream(N)
    for frame in x:
        found = stream.step(frame.numpy())
        if kind is nn.LSTMCell:
            h, c = module(frame, (h, c))
            check(found["h_out"], h)
            check(found["c_out"], c)
        else:
            h = module(frame, h)
            check(found, h)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("output", ["sequence", "last"])
@pytest.mark.parametrize("embedding", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU], ids=named)
def test_checkpoints_of_whole_models(
    kind: type[nn.Module], embedding: bool, output: str, legacy: bool
) -> None:
    """What people train: embedding, recurrence, norm, dense layers, batch norm."""
    torch.manual_seed(3)
    module = Model(kind(5, 6, 2, batch_first=True, bidirectional=legacy), output, embedding, True)
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.1, 0.6)
    module.eval()
    x = torch.randint(0, 11, (N, T)) if embedding else torch.randn(N, T, 5)
    model = gr.load(
        saved(module.state_dict(), legacy),
        batch_first=True,
        output="last" if output == "last" else "sequence",
        eps={"norm": 1e-3, "bn": 1e-5},
        kinds={"norm": "layernorm"},
        activations={"norm": "none", "fc1": "relu", "bn": "none", "fc2": "log_softmax"},
    )
    check(model(x.numpy()), module(x))
