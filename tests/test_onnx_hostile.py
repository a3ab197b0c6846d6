# SPDX-License-Identifier: MIT
"""ONNX files that break the format or attack their reader, and external data."""

from __future__ import annotations

import os
import random
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_models import (
    Array,
    export,
    feeds,
    graph_model,
    read,
    recurrent_model,
)

from gruengine.converters.base import ConversionError
from gruengine.converters.onnx import read_onnx
from gruengine.converters.protobuf import Budget, Message
from gruengine.errors import FileAccessError, GruEngineError, ModelFileError
from gruengine.reference_graph import run_graph
from gruengine.spec_checks import problems_of

F = TensorProto.FLOAT


# -- files that break the format ------------------------------------------------------------------


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        out.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def small() -> bytes:
    return recurrent_model("LSTM", {}, "Bhc")[0].SerializeToString()


def nested(depth: int) -> bytes:
    graph = b""
    for _ in range(depth):
        attribute = field(1, b"then_branch") + varint(20 << 3) + varint(5) + field(6, graph)
        graph = field(1, field(4, b"If") + field(5, attribute))
    return varint(1 << 3) + varint(8) + field(7, graph)


def with_tensor(**changes: Any) -> bytes:
    model = onnx.load_from_string(small())
    tensor = model.graph.initializer[0]
    for key, value in changes.items():
        if key == "dims":
            del tensor.dims[:]
            tensor.dims.extend(value)
        else:
            setattr(tensor, key, value)
    return model.SerializeToString()


HEAD = varint(1 << 3) + varint(8) + field(8, varint(2 << 3) + varint(17))
BROKEN: dict[str, bytes] = {
    "empty": b"",
    "text": b"not a model at all",
    "no graph": HEAD,
    "two graphs": small() + field(7, b""),
    "field number 0": HEAD + b"\x02\x00",
    "group": HEAD + b"\x3b",
    "number of 11 bytes": HEAD + b"\x08" + b"\xff" * 10 + b"\x01",
    "number over 64 bits": HEAD + b"\x08" + b"\xff" * 9 + b"\x7f",
    "length beyond the end": HEAD + varint(7 << 3 | 2) + varint(1 << 62),
    "no UTF-8": HEAD + field(2, b"\xff\xfe"),
    "graph as a number": HEAD + varint(7 << 3) + b"\x05",
    "deep": nested(5000),
    "a little too deep": nested(40),
    "2**62 elements": with_tensor(dims=[1 << 31, 1 << 31]),
    "negative size": with_tensor(dims=[-1, 24, 4]),
    "2**63 - 1 in 8 axes": with_tensor(dims=[(1 << 63) - 1] * 8),
    "40 axes": with_tensor(dims=[1] * 40),
    "too few bytes": with_tensor(raw_data=b"\0" * 4),
    "zero beside huge": with_tensor(dims=[0, 1 << 40, 1 << 40], raw_data=b""),
    "a million empty initializers": HEAD + field(7, field(5, b"") * 1_000_000),
    "a million empty nodes": HEAD + field(7, field(1, b"") * 1_000_000),
    "a million nodes": HEAD + field(7, field(1, field(4, b"Relu")) * 200_000),
    "initializer twice": HEAD + field(
        7, field(5, field(8, b"a") + varint(2 << 3) + b"\1" + field(9, b"\0" * 4)) * 2),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(name: str) -> None:
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(ModelFileError) as caught:
        read(BROKEN[name])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (64 << 20) + 4 * len(BROKEN[name])
    assert time.process_time() - began < 20
    assert len(str(caught.value)) < 400


def test_packed_numbers_are_decoded_as_single_ones() -> None:
    values = [0, 1, 127, 128, 300, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
    packed = Message(memoryview(field(1, b"".join(map(varint, values)))), "x", Budget())
    loose = b"".join(varint(1 << 3) + varint(v) for v in values)
    single = Message(memoryview(loose), "x", Budget())
    expected = np.array(values, np.uint64).view(np.int64)
    np.testing.assert_array_equal(packed.integers(1), expected)
    np.testing.assert_array_equal(single.integers(1), expected)


@pytest.mark.parametrize(
    "kind", ["f4", "f8", "f2", "i1", "u1", "i2", "u2", "i4", "i8", "u4", "u8", "?"]
)
@pytest.mark.parametrize("raw", [True, False])
def test_tensors_of_every_storage(kind: str, raw: bool) -> None:
    array = (np.arange(-6, 6).reshape(3, 4) * 1.5).astype(kind)
    code = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = numpy_helper.from_array(array) if raw else helper.make_tensor(
        "k", code, array.shape, array.reshape(-1)
    )  # fmt: skip
    tensor.name = "k"
    node = helper.make_node("Cast", ["k"], ["y"], to=F)
    model = graph_model([node], {"x": (1,)}, ["y"])
    model.graph.initializer.append(tensor)
    spec, _ = read(model)
    result = run_graph(spec.graph, spec.tensors, {"x": np.zeros(1, np.float32)})["y"]
    np.testing.assert_array_equal(result, array.astype(np.float32))


BOMBS: dict[str, tuple[str, list[Array], dict[str, Any]]] = {
    "ConstantOfShape": ("ConstantOfShape", [np.array([1 << 31, 1 << 20])], {}),
    "Expand": ("Expand", [np.ones(1, np.float32), np.array([1 << 40])], {}),
    "Tile": ("Tile", [np.ones((1,), np.float32), np.array([1 << 40])], {}),
    "Range": ("Range", [np.array(0), np.array(1 << 50), np.array(1)], {}),
    "Pad": ("Pad", [np.ones(1, np.float32), np.array([1 << 40, 0])], {}),
    "Add": ("Add", [np.ones((60000, 1), np.float32), np.ones((1, 60000), np.float32)], {}),
    "Gather": ("Gather", [np.ones((1, 60000), np.float32), np.zeros(60000, np.int64)], {}),
    "MatMul": ("MatMul", [np.ones((60000, 1), np.float32), np.ones((1, 60000), np.float32)], {}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_folding_is_bounded(name: str) -> None:
    op, arrays, attrs = BOMBS[name]
    constants = {f"k{i}": a for i, a in enumerate(arrays)}
    nodes = [
        helper.make_node(op, list(constants), ["big"], **attrs),
        helper.make_node("Size", ["big"], ["y"]),
    ]
    source = graph_model(nodes, {"x": (1,)}, ["y"], constants).SerializeToString()
    tracemalloc.start()
    try:
        spec, _ = read(source)
        assert problems_of(spec) == []
    except ConversionError:
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (64 << 20) + 24 * len(source)


def test_repeated_doubling_is_bounded() -> None:
    nodes = [
        helper.make_node("Concat", [f"k{i}", f"k{i}"], [f"k{i + 1}"], axis=0) for i in range(60)
    ]
    model = graph_model(nodes, {"x": (1,)}, ["k60"], {"k0": np.ones(4, np.float32)})
    tracemalloc.start()
    read(model)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20


def test_every_truncation() -> None:
    source = small()
    for size in range(0, len(source), 7):
        with pytest.raises(GruEngineError):
            read(source[:size])


def mutated(source: bytes, rng: random.Random) -> bytes:
    data = bytearray(source)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, kind = rng.randrange(len(data)), rng.randrange(5)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at : at + rng.randrange(1, 20)]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.randrange(1, 6))
        else:
            begin = rng.randrange(len(data))
            data[at:at] = data[begin : begin + rng.randrange(1, 200)]
        data = data or bytearray(b"x")
    return bytes(data)


def test_mutants_end_in_an_error_or_a_valid_spec() -> None:
    seeds = [
        small(),
        recurrent_model("GRU", {"direction": "bidirectional"}, "BLh")[0].SerializeToString(),
    ]
    cell = torch.nn.LSTMCell(2, 3)
    state = (torch.randn(2, 3), torch.randn(2, 3))
    seeds.append(export(cell, (torch.randn(2, 2), state)).SerializeToString())
    rng = random.Random(0)
    valid = 0
    for _ in range(3000):
        try:
            spec, _ = read(mutated(rng.choice(seeds), rng))
        except GruEngineError:
            continue
        assert problems_of(spec) == []
        valid += 1
    assert valid > 100


def test_real_models_with_flipped_bits(models: Path) -> None:
    source = (models / "silero/silero_vad_v6.2.onnx").read_bytes()
    rng = random.Random(1)
    for _ in range(30):
        data = bytearray(source)
        data[rng.randrange(4096)] ^= 1 << rng.randrange(8)
        try:
            read(bytes(data), {"sr": 16000})
        except GruEngineError:
            continue


# -- external data --------------------------------------------------------------------------------


def external(folder: Path, location: str = "weights.bin", **keys: str) -> Path:
    """Write a model whose W lies in another file; return the model's path."""
    model, _ = recurrent_model("LSTM", {}, "Bhc")
    tensor = model.graph.initializer[0]
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    keys = {"location": location, "offset": "8", "length": str(len(data)), **keys}
    for key, value in keys.items():
        if value:
            tensor.external_data.add(key=key, value=value)
    folder.mkdir(exist_ok=True)
    (folder / "weights.bin").write_bytes(b"\0" * 8 + data + b"tail")
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def load(path: Path) -> Any:
    return read_onnx(path.read_bytes(), path=path, name="model")


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    whole, inputs = recurrent_model("LSTM", {}, "Bhc")
    expected, _ = read(whole)
    for path in (external(tmp_path / "a"), external(tmp_path / "b", length="")):
        spec, _ = load(path)
        assert spec.tensors.keys() == expected.tensors.keys()
        for name, array in spec.tensors.items():
            np.testing.assert_array_equal(array, expected.tensors[name])
    below = external(tmp_path / "c", "deep/er/weights.bin")
    (tmp_path / "c/deep/er").mkdir(parents=True)
    (tmp_path / "c/weights.bin").rename(tmp_path / "c/deep/er/weights.bin")
    load(below)
    with pytest.raises(ModelFileError, match="by its path"):
        read_onnx(below.read_bytes(), name="model")
    assert set(inputs) == {"X", "h", "c"}


@pytest.mark.parametrize(("location", "word"), [
    ("../secret.bin", "plain relative"), ("/etc/passwd", "plain relative"), ("a/../../s", "plain"),
    ("..", "plain relative"), (".", "plain relative"), ("a//b", "plain relative"),
    ("C:\\x", "plain relative"), ("c:x", "plain relative"), ("x\0y", "plain relative"),
])  # fmt: skip
def test_external_data_outside_the_folder(tmp_path: Path, location: str, word: str) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\0" * 4096)
    with pytest.raises(ModelFileError, match=word):
        load(external(tmp_path / "model", location))


@pytest.mark.parametrize(("keys", "word"), [
    ({"offset": "999999"}, "of a file of"), ({"offset": "-1"}, "no size"),
    ({"length": "5"}, "need"), ({"offset": "9" * 30}, "no size"), ({"length": "1e3"}, "no size"),
    ({"location": ""}, "without"), ({"offset": str(1 << 62)}, "of a file of"),
    ({"offset": "²"}, "no size"),
])  # fmt: skip
def test_external_data_of_wrong_sizes(tmp_path: Path, keys: dict[str, str], word: str) -> None:
    with pytest.raises(ModelFileError, match=word):
        load(external(tmp_path / "model", **keys))


def test_external_data_behind_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    path = external(tmp_path / "model")
    weights = path.parent / "weights.bin"
    weights.rename(outside / "weights.bin")
    with pytest.raises(FileAccessError):
        load(path)
    weights.symlink_to(outside / "weights.bin")
    with pytest.raises(ModelFileError, match="links"):
        load(path)
    weights.unlink()
    os.link(outside / "weights.bin", weights)
    with pytest.raises(ModelFileError, match="hard links"):
        load(path)
    weights.unlink()
    path = external(tmp_path / "other", "sub/weights.bin")
    (path.parent / "sub").symlink_to(outside)
    with pytest.raises(ModelFileError, match="links"):
        load(path)


def test_external_data_that_is_no_file(tmp_path: Path) -> None:
    path = external(tmp_path / "model")
    weights = path.parent / "weights.bin"
    weights.unlink()
    weights.mkdir()
    with pytest.raises(GruEngineError):
        load(path)
    weights.rmdir()
    os.mkfifo(weights)
    with pytest.raises(ModelFileError, match="no regular file"):
        load(path)


def test_exports_with_external_data(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.GRU(4, 6)
    args = (torch.randn(5, 2, 4), torch.randn(1, 2, 6))
    model = export(module, args, dynamo=True)
    onnx.save_model(
        model, str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.data",
        size_threshold=0, convert_attribute=False,
    )  # fmt: skip
    spec, _ = load(tmp_path / "m.onnx")
    y = run_graph(spec.graph, spec.tensors, feeds(model, args))
    np.testing.assert_allclose(
        next(iter(y.values())), module(*args)[0].detach().numpy(), rtol=1e-5, atol=1e-5
    )
