# SPDX-License-Identifier: MIT
from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile_files import hostile_files, small_seed, truncations, unusual_files
from hostile_seed import Case, container, recurrent_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from gruengine import _core, safetensors
from gruengine.errors import FileAccessError, GruEngineError, InvalidInputError, ModelFileError
from gruengine.spec import Attr, Graph, ModelSpec, Node, Port

HOSTILE = hostile_files()
UNUSUAL = unusual_files()


def named(cases: list[Case]) -> dict[str, object]:
    return {"argvalues": [data for _, data in cases], "ids": [name for name, _ in cases]}


def assert_same(one: ModelSpec, other: ModelSpec) -> None:
    assert one.graph == other.graph
    assert one.state == other.state
    assert one.provenance == other.provenance
    pairs = [(one.tensors, other.tensors)]
    assert (one.parity is None) == (other.parity is None)
    if one.parity is not None and other.parity is not None:
        assert one.parity.oracle == other.parity.oracle
        pairs += [
            (one.parity.inputs, other.parity.inputs),
            (one.parity.outputs, other.parity.outputs),
        ]
    for left, right in pairs:
        assert left.keys() == right.keys()
        for name, array in left.items():
            assert array.dtype == right[name].dtype
            assert array.shape == right[name].shape
            assert array.tobytes() == right[name].tobytes()


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_round_trip(cell: str, tmp_path: Path) -> None:
    spec = recurrent_spec(cell)
    data = spec.to_bytes()
    assert_same(ModelSpec.from_bytes(data), spec)
    assert ModelSpec.from_bytes(memoryview(data)).to_bytes() == data
    path = tmp_path / "model.safetensors"
    spec.save(path)
    assert path.read_bytes() == data
    loaded = ModelSpec.load(path)
    assert_same(loaded, spec)
    assert loaded.hash() == spec.hash()
    assert not loaded.tensors["W"].flags.writeable


def test_attributes_keep_their_type() -> None:
    attrs: dict[str, Attr] = {
        "i": 1,
        "low": -(1 << 63),
        "f": 1.0,
        "zero": -0.0,
        "tiny": 5e-324,
        "third": 1 / 3,
        "s": 'é 🙂 "\\\n',
        "is": [1, -2],
        "fs": [1.0, 2.5],
        "mixed": [1, 2.5],
        "ss": ["a", ""],
        "none": [],
        "g": Graph([Port("in", "int32", ())], [Port("in", "int32", ())], []),
    }
    graph = Graph(
        [Port("x", "bool", (0, "é"))],
        [Port("y", "int64", ())],
        [Node("Op", ("x", ""), ("", "y"), attrs, "")],
    )
    read = ModelSpec.from_bytes(ModelSpec(graph, {}).to_bytes())
    result = read.graph.nodes[0].attrs
    assert result == attrs
    assert {name: type(value) for name, value in result.items()} == {
        name: type(value) for name, value in attrs.items()
    }
    assert [type(item) for item in result["mixed"]] == [float, float]  # type: ignore[union-attr]
    assert str(result["zero"]) == "-0.0"


def test_layout_is_what_any_reader_expects() -> None:
    """The safetensors library reads it; data begin at a multiple of 64 and elements are aligned."""
    from safetensors.numpy import load

    spec = recurrent_spec("gru", hidden=7)
    spec.tensors["odd"] = np.array([True, False, True])
    spec.tensors["empty"] = np.zeros((0, 3), np.int64)
    spec.tensors["block"] = np.arange(32, dtype=np.float32).reshape(2, 16)
    data = spec.to_bytes()
    arrays = load(data)
    for name, array in spec.tensors.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype
    length = int.from_bytes(data[:8], "little")
    assert (8 + length) % 64 == 0
    header = json.loads(data[8 : 8 + length])
    del header["__metadata__"]
    for name, entry in header.items():
        assert entry["data_offsets"][0] % arrays[name].itemsize == 0
    assert header["block"]["data_offsets"][0] % 64 == 0


def test_parity_names_avoid_tensors() -> None:
    spec = recurrent_spec()
    spec.tensors["parity/in/x"] = np.zeros(3, np.float32)
    assert_same(ModelSpec.from_bytes(spec.to_bytes()), spec)


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, np.float32(1), 1 << 70, "\ud800"])
def test_provenance_must_be_json(value: object) -> None:
    spec = recurrent_spec()
    spec.provenance["bad"] = value
    with pytest.raises((InvalidInputError, ModelFileError), match="JSON"):
        spec.to_bytes()


@pytest.mark.parametrize("data", **named(HOSTILE))  # type: ignore[arg-type]
def test_hostile_file_is_refused(data: bytes) -> None:
    with pytest.raises(ModelFileError):
        ModelSpec.from_bytes(data)
    with pytest.raises(ModelFileError):
        _core.Model.from_memory(data, 1)


@pytest.mark.parametrize("data", **named(UNUSUAL))  # type: ignore[arg-type]
def test_unusual_file_is_read(data: bytes, tmp_path: Path) -> None:
    spec = ModelSpec.from_bytes(data)
    assert all(array.flags.aligned for array in spec.tensors.values())
    assert_same(ModelSpec.from_bytes(spec.to_bytes()), spec)
    path = tmp_path / "model"
    path.write_bytes(data)
    for model in (_core.Model.from_memory(data, 1), _core.Model.open(str(path), 1)):
        assert model.hash == spec.hash()
        assert json.loads(model.provenance) == spec.provenance
        assert model.state_pairs == list(spec.state)
        assert model.inputs == [(p.name, p.dtype, p.shape) for p in spec.graph.inputs]
        assert model.outputs == [(p.name, p.dtype, p.shape) for p in spec.graph.outputs]
        sample = spec.parity.outputs if spec.parity else {}
        np.testing.assert_equal(model.parity_outputs, sample)


def test_every_truncation_is_refused() -> None:
    for _, data in truncations(small_seed()):
        with pytest.raises(ModelFileError):
            ModelSpec.from_bytes(data)
        with pytest.raises(ModelFileError):
            _core.Model.from_memory(data, 1)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_file_is_refused_or_valid(data: st.DataObject) -> None:
    """Both readers take the same files; a graph that the engine refuses is still a file."""
    seed = bytearray(small_seed())
    for _ in range(data.draw(st.integers(1, 4))):
        seed[data.draw(st.integers(0, len(seed) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(seed)
    try:
        spec = ModelSpec.from_bytes(damaged)
    except ModelFileError:
        with pytest.raises(ModelFileError):
            _core.Model.from_memory(damaged, 1)
        return
    spec.validate()
    with contextlib.suppress(GruEngineError):
        assert _core.Model.from_memory(damaged, 1).hash == spec.hash()


def test_save_replaces_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    bad = recurrent_spec()
    bad.state = (("h", "gone"),)
    with pytest.raises(InvalidInputError):
        bad.save(path)
    assert path.read_bytes() == b"old"
    before = os.stat(path).st_ino
    recurrent_spec().save(path)
    assert os.stat(path).st_ino != before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o666 & ~mask


def test_paths_that_the_system_refuses(tmp_path: Path) -> None:
    missing = tmp_path / "none" / "model.safetensors"
    with pytest.raises(FileAccessError, match="none") as caught:
        recurrent_spec().save(missing)
    assert caught.value.errno is not None
    with pytest.raises(FileAccessError, match="cannot write"):
        recurrent_spec().save(tmp_path)
    for load in (ModelSpec.load, lambda path: _core.Model.open(str(path), 1)):
        assert_refused(load, tmp_path)


def assert_refused(load: Callable[[Path], object], folder: Path) -> None:
    with pytest.raises(FileAccessError, match="none"):
        load(folder / "none" / "model.safetensors")
    with pytest.raises(FileAccessError, match=r"directory|regular"):
        load(folder)
    pipe = folder / "pipe"
    if not pipe.exists():
        os.mkfifo(pipe)
    with pytest.raises(FileAccessError, match="not a regular file"):
        load(pipe)
    empty = folder / "empty"
    empty.touch()
    with pytest.raises(ModelFileError, match=r"empty.*0 bytes"):
        load(empty)


def test_safetensors_reads_what_the_library_writes() -> None:
    from safetensors.numpy import save

    rng = np.random.default_rng(3)
    arrays = {
        str(dtype): (rng.standard_normal((3, 2)) * 9).astype(dtype)
        for dtype in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")
    }
    tensors, metadata = safetensors.read(save(arrays, {"a": "é"}))
    assert metadata == {"a": "é"}
    assert tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array)
    written = b"".join(safetensors.pieces(arrays, {"a": "é"}))
    np.testing.assert_equal(safetensors.read(written)[0], arrays)


def test_bfloat16_is_widened_exactly() -> None:
    bits = np.arange(1 << 16, dtype=np.uint32)
    header = {"a": {"dtype": "BF16", "shape": [256, 256], "data_offsets": [0, 1 << 17]}}
    data = container(json.dumps(header), bits.astype("<u2").tobytes())
    array = safetensors.read(data)[0]["a"]
    assert array.shape == (256, 256)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array.view(np.uint32).reshape(-1), bits << 16)
