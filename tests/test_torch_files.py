# SPDX-License-Identifier: MIT
"""Files of torch.save and safetensors: valid ones beside torch, broken ones refused by name."""

from __future__ import annotations

import io
import json
import random
import struct
import sys
import tracemalloc
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
import torch_hostile as th
from torch import nn
from torch_hostile import checkpoint, legacy, members, number, state, storage, tensor, text
from torch_models import saved

from gruengine.converters.base import Options
from gruengine.converters.pickle_values import Mapping
from gruengine.converters.torch import read_checkpoint
from gruengine.converters.torch_file import Checkpoint, TensorRef
from gruengine.errors import GruEngineError, ModelFileError
from gruengine.spec import ModelSpec

HINTS = Options(hints={"batch_first": True})


def read(data: bytes) -> ModelSpec:
    return read_checkpoint(data, path=None, name="file", options=HINTS)[0]


def tensors_of(data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    file = Checkpoint(data)
    assert isinstance(file.root, Mapping)
    return {k: file.array(v) for k, v in file.root.items() if isinstance(v, TensorRef)}


# -- valid files ----------------------------------------------------------------------------------


def test_the_seeds_are_valid() -> None:
    for data in (checkpoint(), legacy(), th.zip_of(members())):
        spec = read(data)
        rows = spec.tensors["l0.W"].reshape(4, 2, 3)[[0, 2, 3, 1]]
        np.testing.assert_array_equal(rows.reshape(-1), np.arange(24, dtype=np.float32))


@pytest.mark.parametrize("legacy", [True, False])
def test_every_dtype_and_view(legacy: bool) -> None:
    torch.manual_seed(0)
    base = torch.randn(5, 6, 7)
    value = {
        "f32": base,
        "f64": base.double(),
        "f16": base.half(),
        "bf16": base.bfloat16(),
        "i64": (base * 99).long(),
        "i32": (base * 99).int(),
        "i16": (base * 99).short(),
        "i8": (base * 99).char(),
        "u8": (base.abs() * 99).byte(),
        "bool": base > 0,
        "transposed": base.permute(2, 0, 1),
        "sliced": base[1:4:2, :, 3],
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "one": base[2:3, 1:2, 4:5],
        "param": nn.Parameter(base),
    }
    arrays = tensors_of(saved(value, legacy))
    assert list(arrays) == list(value)
    for key, want in value.items():
        wide = want.float() if want.dtype is torch.bfloat16 else want
        np.testing.assert_array_equal(arrays[key], wide.detach().numpy(), err_msg=key)
        assert arrays[key].dtype == wide.detach().numpy().dtype


def test_big_endian_files() -> None:
    values = np.arange(24, dtype=">f4")
    parts = members()
    parts[1].data = b"big"
    parts[2].data = values.tobytes()
    parts[3].data = np.arange(16, dtype=">f4").tobytes()
    big, little = read(th.zip_of(parts)), read(checkpoint())
    for key in little.tensors:
        np.testing.assert_array_equal(big.tensors[key], little.tensors[key])


def test_arrays_are_views_of_the_file() -> None:
    data = saved({"weight": torch.zeros(1000, 1000)})
    tracemalloc.start()
    array = tensors_of(data)["weight"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert array.nbytes == 4_000_000
    assert not array.flags.writeable
    assert peak < 400_000


# -- tensors --------------------------------------------------------------------------------------

BIG = 2**62
TENSOR_CASES: list[tuple[str, bytes, str]] = [
    ("huge numel", tensor(store=storage(numel=2**40)), "has 96 bytes; the pickle says"),
    ("numel 2^63", tensor(store=storage(numel=2**63)), "allowed are sizes"),
    ("numel negative", tensor(store=storage(numel=-1)), "allowed are sizes"),
    ("numel too small", tensor(store=storage(numel=23)), "larger than its storage"),
    ("sizes whose product overflows", tensor((2**32, 2**32, 2**32), (0, 0, 0)), "larger than"),
    ("sizes whose product wraps to 0", tensor((2**32, 2**32), (1, 1)), "larger than"),
    ("size negative", tensor((-8, 3)), "allowed are sizes"),
    ("size 2^62", tensor((BIG, 1)), "allowed are sizes"),
    ("stride negative", tensor((8, 3), (-3, 1)), "allowed are sizes"),
    ("stride overflows", tensor((8, 3), (2**61, 1)), "larger than"),
    ("stride reaches out", tensor((8, 3), (4, 1)), "larger than"),
    ("stride of one step", tensor((1, 24), (2**61, 1)), "shape"),
    ("expanded", tensor((2**20, 2**20), (0, 0)), "larger than"),
    ("expanded a little", tensor((16, 3), (0, 1)), "larger than"),
    ("offset past the storage", tensor(offset=1), "larger than its storage"),
    ("offset 2^61", tensor(offset=2**61), "larger than its storage"),
    ("offset negative", tensor(offset=-1), "allowed are sizes"),
    ("empty with huge sizes", tensor((0, 2**61), (1, 1)), "of the sizes"),
    ("empty with an offset", tensor((0, 3), (3, 1), offset=25), "larger than"),
    ("more strides than sizes", tensor((8, 3), (3, 1, 1)), "2 sizes and 3 strides"),
    ("rank 17", tensor((1,) * 17, (1,) * 17), "at most 16"),
    ("size that is a text", tensor().replace(number(8), text("8"), 1), "allowed are sizes"),
    ("hooks", tensor(hooks=b"}" + text("a") + b"Ns"), "hooks"),
    ("hooks of another kind", tensor(hooks=b"K\1"), "hooks"),
    ("conjugate bit", tensor(hooks=b"}}" + text("conj") + b"\x88s"), "hooks or a conjugate"),
    ("complex", tensor(store=storage(kind="ComplexFloatStorage")), "torch.ComplexFloatStorage"),
    ("quantised", tensor(store=storage(kind="QInt8Storage")), "torch.QInt8Storage"),
    ("no storage class", tensor(store=storage(kind="Tensor")), "a storage of class"),
    ("another element size", tensor(store=storage(kind="DoubleStorage")), "has 96 bytes"),
    ("another key", tensor(store=storage(key="7")), "no member"),
    ("key upwards", tensor(store=storage(key="../data.pkl")), "no member"),
    ("key is the pickle", tensor(store=storage(key="/../data.pkl")), "no member"),
    ("persid of one", b"(" + text("storage") + b"tQ", "persistent id"),
    ("persid of a text", text("storage") + b"Q", "persistent id"),
    ("persid of a list", b"](" + text("storage") + b"eQ", "persistent id"),
    ("persid of another name", b"(" + text("file") + text("x") * 4 + b"tQ", "persistent id"),
    ("persid with a text as class", b"(" + text("storage") + text("x") * 3 + b"K\1tQ", "class"),
    ("persid with a view", storage()[:-2] + text("view") + b"tQ", "persistent id"),
    ("persid of os", storage().replace(b"ctorch\nFloatStorage", b"cos\nFloatStorage"), "class"),
    ("tensor of a text", tensor(store=text("storage")), "needs its storage"),
    ("tensor of nothing", th.name("torch._utils", "_rebuild_tensor_v2") + b")R", "needs its"),
    ("parameter of nothing", th.name("torch._utils", "_rebuild_parameter") + b")R", "parameter"),
    ("ordered dict of texts", th.name("collections", "OrderedDict") + b"](K\1K\2e\x85R", "pairs"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("weight", "message"), [c[1:] for c in TENSOR_CASES], ids=[c[0] for c in TENSOR_CASES]
)
def test_hostile_tensors(weight: bytes, message: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(GruEngineError, match=message):
            read(checkpoint(state(weight)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    with pytest.raises(GruEngineError):
        read(legacy(state(weight)))


def test_many_tensors_of_one_storage_are_bounded() -> None:
    big = tensor((250_000,), (1,), store=storage("2", 250_000))
    more = b"".join(text(f"x{i}.weight") + b"h\7" for i in range(1000))
    data = checkpoint(state(None, text("a.weight") + big + b"q\7" + more), _2=th.floats(250_000))
    tracemalloc.start()
    with pytest.raises(ModelFileError, match="too many share one storage"):
        read(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * len(data)


def test_bytes_after_the_pickle() -> None:
    with pytest.raises(ModelFileError, match=r"after the end of data\.pkl"):
        read(checkpoint(state() + b"\0"))


def test_a_bool_storage_of_other_bytes() -> None:
    weight = tensor((2,), (1,), store=storage("2", 2, "BoolStorage"))
    with pytest.raises(ModelFileError, match="BoolStorage"):
        read(checkpoint(state(weight), _2=b"\1\2"))


# -- legacy files ---------------------------------------------------------------------------------

TWO_TYPES = state(tensor(), text("b") + tensor(store=storage("0", 24, "IntStorage")))
CALL = th.pickle_of(b"cos\nsystem\n" + text("x") + b"\x85R")
LEGACY_CASES: list[tuple[str, bytes, str]] = [
    ("another protocol", legacy(protocol=1000), "protocol 1000"),
    ("no system", legacy(system=b"}"), "little_endian"),
    ("system of a list", legacy(system=b"]"), "little_endian"),
    ("endian of a number", legacy(system=b"}" + text("little_endian") + b"K\1s"), "little_endian"),
    ("key missing", legacy(keys=["0"]), "not those that its pickle names"),
    ("key unknown", legacy(keys=["0", "1", "2"]), "not those"),
    ("key twice", legacy(keys=["0", "1", "1"]), "there twice|runs past"),
    ("keys of a number", legacy(pickle=state()).replace(b"](" + text("0"), b"](K\0"), "not those"),
    ("record missing", legacy(records=[(24, th.floats(24))]), "runs past"),
    ("record short", legacy(records=[(24, th.floats(24)), (16, th.floats(15))]), "runs past"),
    ("record long", legacy(records=[(24, th.floats(24)), (16, th.floats(17))]), "after the last"),
    ("count negative", legacy(records=[(-1, b""), (16, th.floats(16))]), "runs past"),
    ("count 2^62", legacy(records=[(2**62, b""), (16, th.floats(16))]), "runs past"),
    ("count differs", legacy(records=[(23, th.floats(23)), (16, th.floats(16))]), "has 92 bytes"),
    ("bytes after", legacy(tail=b"\0"), "after the last storage"),
    ("a zip after", legacy(tail=checkpoint()), "after the last storage"),
    ("storage in the keys", legacy().replace(b"](" + text("0"), b"](" + storage()), "persistent"),
    ("two types of a key", legacy(TWO_TYPES), "two types"),
    ("second pickle broken", th.LEGACY_HEAD[:-6] + b"junk", "protocol 2"),
    ("second pickle calls", th.LEGACY_HEAD[:-6] + CALL, "calls os.system"),
    ("only the head", th.LEGACY_HEAD, "protocol 2"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "message"), [c[1:] for c in LEGACY_CASES], ids=[c[0] for c in LEGACY_CASES]
)
def test_hostile_legacy_files(data: bytes, message: str) -> None:
    with pytest.raises(GruEngineError, match=message):
        read(data)


# -- safetensors ----------------------------------------------------------------------------------


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(first: int, last: int, shape: Any = (2,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


A = b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
SAFETENSORS_CASES: list[tuple[str, bytes]] = [
    ("hole", safetensors({"a": entry(0, 8), "b": entry(12, 20)}, b"\0" * 20)),
    ("hole at the start", safetensors({"a": entry(4, 12)}, b"\0" * 12)),
    ("overlap", safetensors({"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12)),
    ("same bytes twice", safetensors({"a": entry(0, 8), "b": entry(0, 8)}, b"\0" * 8)),
    ("bytes after", safetensors({"a": entry(0, 8)}, b"\0" * 9)),
    ("bytes missing", safetensors({"a": entry(0, 8)}, b"\0" * 7)),
    ("offsets swapped", safetensors({"a": entry(8, 0)}, b"\0" * 8)),
    ("offset negative", safetensors({"a": entry(-8, 0)}, b"")),
    ("offset 2^63", safetensors({"a": entry(0, 2**63)}, b"\0" * 8)),
    ("shape overflows", safetensors({"a": entry(0, 0, (2**32, 2**32))})),
    ("shape wraps", safetensors({"a": entry(0, 8, (2**62, 4, 2))}, b"\0" * 8)),
    ("shape negative", safetensors({"a": entry(0, 8, (-1, -2))}, b"\0" * 8)),
    ("shape of floats", safetensors({"a": entry(0, 8, (2.0,))}, b"\0" * 8)),
    ("shape of bools", safetensors({"a": entry(0, 4, (True,))}, b"\0" * 4)),
    ("duplicate key", safetensors(b"{" + A + b"," + A + b"}", b"\0" * 8)),
    ("duplicate field", safetensors(b"{" + A[:-1] + b',"dtype":"F32"}}', b"\0" * 8)),
    ("unknown dtype", safetensors({"a": entry(0, 8, (2,), "F31")}, b"\0" * 8)),
    ("unknown field", safetensors({"a": {**entry(0, 8), "x": 1}}, b"\0" * 8)),
    ("no dtype", safetensors({"a": {"shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8)),
    ("metadata of numbers", safetensors({"__metadata__": {"a": 1}})),
    ("metadata of a list", safetensors({"__metadata__": []})),
    ("header of 100 MB", safetensors(b"{}", length=100_000_000)),
    ("header of 2^64-1", safetensors(b"{}", length=2**64 - 1)),
    ("header past the file", safetensors(b"{}", length=3)),
    ("header of spaces", safetensors(b"{" + b" " * (1 << 23) + b"}")),
    ("a list", safetensors([1])),
    ("not UTF-8", safetensors(b'{"\xff":1}')),
    ("NaN", safetensors(b'{"a":NaN}')),
    ("deep", safetensors(b'{"a":' + b"[" * 100_000)),
    ("cut", b"\x08\0\0"),
    ("nothing", b""),
]  # fmt: skip


@pytest.mark.parametrize(
    "data", [c[1] for c in SAFETENSORS_CASES], ids=[c[0] for c in SAFETENSORS_CASES]
)
def test_hostile_safetensors(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError):
            read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (1 << 20) + 4 * len(data)


# -- all seeds ------------------------------------------------------------------------------------


def seeds() -> list[bytes]:
    torch.manual_seed(3)
    lstm = nn.LSTM(2, 1)
    model = nn.Sequential(nn.GRU(2, 1, batch_first=True), nn.Linear(1, 1))
    weights = {"weight_ih_l0": entry(0, 96, (8, 3)), "weight_hh_l0": entry(96, 160, (8, 2))}
    return [
        checkpoint(),
        legacy(),
        safetensors(weights, th.floats(40)),
        saved(lstm.state_dict()),
        saved(lstm.state_dict(), legacy=True),
        saved({"state_dict": lstm.state_dict(), "score": np.float64(1)}),
        saved(model),
    ]


@pytest.mark.parametrize("index", range(7))
def test_files_cut_anywhere_are_refused(index: int) -> None:
    data = seeds()[index]
    read(data)
    for size in range(len(data)):
        with pytest.raises(GruEngineError):
            read(data[:size])


def mutated(data: bytes, rng: random.Random) -> bytes:
    result = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        at, kind = rng.randrange(len(result) + 1), rng.randrange(6)
        if kind == 0:
            result[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            result[at : at + 1] = bytes(
                [rng.choice(b"\x00\x01\x7f\x80\xff.()tRbcQsu}]\x81\x85\x86q")]
            )
        elif kind == 2:
            del result[at : at + rng.randrange(1, 20)]
        elif kind == 3:
            result[at:at] = result[at : at + rng.randrange(1, 20)]
        elif kind == 4:
            result[at : at + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"])
        else:
            other = rng.randrange(len(result) + 1)
            result[at : at + 8] = result[other : other + 8]
    return bytes(result)


RUNS_CODE = ("import", "exec", "compile", "os.system", "subprocess.Popen", "open",
             "pickle.find_class")  # fmt: skip


def test_mutants_end_in_an_error_or_a_valid_model() -> None:
    rng = random.Random(5)
    files = seeds()
    pickles = [state(), state(None, text("x") + number(3)), *(pickle_in(f) for f in files[3:4])]
    for data in files:
        read(data)  # what is imported on first use, e.g. by ModelSpec.validate, is imported now
    events: list[str] = []
    watching = True

    def audit(event: str, _: Any) -> None:
        if watching and event in RUNS_CODE:
            events.append(event)

    sys.addaudithook(audit)
    outcomes = {"error": 0, "model": 0}
    for turn in range(20_000):
        if turn % 2:
            data = checkpoint(mutated(rng.choice(pickles), rng))
        else:
            data = mutated(rng.choice(files), rng)
        try:
            read(data).validate()
            outcomes["model"] += 1
        except GruEngineError:
            outcomes["error"] += 1
    watching = False
    assert outcomes["error"] > 5000
    assert outcomes["model"] > 500
    assert events == []


def pickle_in(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return next(file.read(n) for n in file.namelist() if n.endswith("data.pkl"))
