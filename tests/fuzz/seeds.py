# SPDX-License-Identifier: MIT
"""The valid files that mutants are made of: every format, small, with all that a file can hold."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path
from typing import Any

import keras_hostile
import numpy as np
import torch
from hostile_seed import nibble_file, recurrent_spec
from onnx import helper, numpy_helper
from onnx_models import export
from onnx_nodes import NodeCase
from torch import nn
from torch_models import Model, saved
from zips import zipped

import gruengine as gr
from gruengine.conversion import save_spec

Array = np.ndarray[Any, Any]
HINTS = {"batch_first": True}


def node(op: str, gates: int, **attrs: Any) -> bytes:
    rng = np.random.default_rng(gates)
    shapes = {
        "X": (3, 2, 4), "W": (2, gates * 3, 4), "R": (2, gates * 3, 3), "B": (2, 6 * gates),
        "initial_h": (2, 2, 3),
    }  # fmt: skip
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    values["sequence_lens"] = np.array([3, 1], np.int32)
    if op == "LSTM":
        values["P"] = rng.normal(size=(2, 9)).astype(np.float32)
    case = NodeCase(op, {"hidden_size": 3, "direction": "bidirectional", **attrs}, values, opset=17)
    return case.model()


def branches() -> bytes:
    """An ONNX model with an If on a constant and shape arithmetic around a recurrence."""
    rng = np.random.default_rng(1)
    float_, constants = 1, {
        "W": rng.normal(size=(1, 9, 4)).astype(np.float32),
        "R": rng.normal(size=(1, 9, 3)).astype(np.float32),
        "flag": np.array(True),
        "shape": np.array([0, 0, -1]),
        "kernel": rng.normal(size=(4, 1, 3)).astype(np.float32),
    }  # fmt: skip
    info = helper.make_tensor_value_info
    then, other = (
        helper.make_graph(
            [helper.make_node(op, ["r"], [f"{op}_out"])], op, [], [info(f"{op}_out", float_, None)]
        )
        for op in ("Relu", "Neg")
    )
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["v"], pads=[1, 1]),
        helper.make_node("Transpose", ["v"], ["t"], perm=[2, 0, 1]),
        helper.make_node("GRU", ["t", "W", "R"], ["y"], hidden_size=3, linear_before_reset=1),
        helper.make_node("Reshape", ["y", "shape"], ["r"]),
        helper.make_node("If", ["flag"], ["out"], then_branch=then, else_branch=other),
    ]
    graph = helper.make_graph(
        nodes,
        "branches",
        [info("x", float_, ["N", 1, "T"])],
        [info("out", float_, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    data: bytes = model.SerializeToString()
    return data


def safetensors(state: dict[str, torch.Tensor]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, value in state.items():
        data = value.numpy().tobytes()
        span = [len(body), len(body) + len(data)]
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": span}
        body += data
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def amplifier() -> bytes:
    """A document of RTNeural: a GRU and a dense layer."""
    rng = np.random.default_rng(2)

    def values(*shape: int) -> list[Any]:
        found: list[Any] = np.round(rng.normal(size=shape), 3).tolist()
        return found

    layers = [
        {"type": "gru", "activation": "", "shape": [None, None, 3],
         "weights": [values(1, 9), values(3, 9), values(2, 9)]},
        {"type": "dense", "activation": "tanh", "shape": [None, None, 1],
         "weights": [values(3, 1), values(1)]},
    ]  # fmt: skip
    return json.dumps({"in_shape": [None, None, 1], "layers": layers, "in_gain": 3.0}).encode()


def nam() -> bytes:
    """A document of NAM: an LSTM with its initial states."""
    size = 3
    count = 4 * size * (1 + size) + 4 * size + 2 * size + size + 1
    document = {
        "version": "0.5.1", "architecture": "LSTM", "sample_rate": 48000,
        "config": {"input_size": 1, "hidden_size": size, "num_layers": 1},
        "weights": np.round(np.random.default_rng(3).normal(size=count), 3).tolist(),
    }  # fmt: skip
    return json.dumps(document).encode()


def arrays(state: dict[str, torch.Tensor]) -> bytes:
    members = []
    for name, value in state.items():
        stream = io.BytesIO()
        np.save(stream, value.numpy())
        members.append((f"{name}.npy", stream.getvalue()))
    return zipped(members)


@functools.cache
def _streaming() -> gr.Model:
    layers = [gr.LSTM(5, return_sequences=True), gr.GRU(3, return_sequences=True)]
    return gr.Sequential(layers, input_size=4, seed=1).compile()


def streamed() -> gr.Stream:
    """Return a new stream on [1, T, 4], whose states mutants are given to."""
    return _streaming().stream()


def state_bytes() -> bytes:
    stream = streamed()
    stream.run(np.ones((1, 4, 4), np.float32))
    blob: bytes = stream.get_state()
    return blob


def write(folder: Path) -> None:
    """Write every seed as ``<name>.bin`` and the hints that it needs as ``<name>.json``."""
    torch.manual_seed(0)
    rnn = nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True)
    whole = Model(nn.GRU(5, 6, batch_first=True), "sequence", False, True).eval()
    hints = {
        "batch_first": True, "output": "sequence", "eps": {"norm": 1e-3, "bn": 1e-5},
        "kinds": {"norm": "layernorm"},
        "activations": {"norm": "none", "fc1": "relu", "bn": "none", "fc2": "log_softmax"},
    }  # fmt: skip
    net = gr.Sequential([gr.Embedding(7, 4), gr.LSTM(5, peepholes=True), gr.Dense(2, "sigmoid")])
    save_spec(net.spec(), folder / "model-sequential.bin")
    cell = export(nn.LSTMCell(4, 3), (torch.randn(2, 4), (torch.randn(2, 3), torch.randn(2, 3))))
    files: dict[str, tuple[bytes, dict[str, Any]]] = {
        "onnx-lstm": (node("LSTM", 4, clip=0.7, input_forget=1), {}),
        "onnx-gru": (node("GRU", 3, activations=["Sigmoid", "Relu"] * 2), {}),
        "onnx-cell": (cell.SerializeToString(), {}),
        "onnx-branches": (branches(), {}),
        "torch-zip": (saved(rnn.state_dict()), HINTS),
        "torch-legacy": (saved(rnn.state_dict(), legacy=True), HINTS),
        "torch-whole": (saved({"epoch": 3, "state_dict": whole.state_dict()}), hints),
        "safetensors": (safetensors(rnn.state_dict()), HINTS),
        "model-state": (recurrent_spec().to_bytes(), {}),
        "model-int4": (nibble_file(), {}),
        "keras-archive": (keras_hostile.archive(), {}),
        "keras-graph": (
            keras_hostile.archive(keras_hostile.members(model=keras_hostile.graph())),
            {},
        ),
        "keras-h5": (keras_hostile.h5(), {}),
        "npz": (arrays(rnn.state_dict()), HINTS),
        "json-rtneural": (amplifier(), {}),
        "json-nam": (nam(), {}),
        "model-sequential": ((folder / "model-sequential.bin").read_bytes(), {}),
    }
    (folder / "state.bin").write_bytes(state_bytes())
    (folder / "state.json").write_text("{}")
    for name, (data, options) in files.items():
        gr.load(data, **options)  # a seed that is refused would make every mutant a pass
        (folder / f"{name}.bin").write_bytes(data)
        (folder / f"{name}.json").write_text(json.dumps(options))
