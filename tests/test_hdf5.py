# SPDX-License-Identifier: MIT
"""The reader of HDF5: what h5py wrote is read alike, and every attack ends in one clear error."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import h5py
import keras_hostile as kh
import numpy as np
import pytest

from gruengine.converters import Options
from gruengine.converters.hdf5 import read as read_hdf5
from gruengine.converters.keras import read_keras
from gruengine.errors import GruEngineError
from gruengine.spec import ModelSpec


def convert(data: bytes) -> ModelSpec:
    return read_keras(data, path=None, name="file", options=Options())[0]


# -- HDF5 against h5py ----------------------------------------------------------------------------


def many(file: Any) -> None:
    rng = np.random.default_rng(0)
    for index in range(120):  # enough for B-trees of two levels
        group = file.create_group(f"layers/layer_{index:03d}/vars")
        group.attrs["name"] = f"l{index}"
        group["0"] = rng.normal(size=(3, index % 5 + 1)).astype(np.float32)
    file.attrs["long"] = "x" * 100_000
    for index in range(30):
        file.attrs[f"a{index}"] = np.array([b"abc", b"de"])
    for name in ("<f2", ">f4", "<f8", "<i8", ">i2", "<u1", "?"):
        file[f"types/{name}"] = rng.normal(size=(4, 3)).astype(name)
    file["scalar"], file["empty"] = np.float32(3), np.zeros((0, 4), np.float32)


def chunked(file: Any) -> None:
    values = np.random.default_rng(1).normal(size=(40, 25))
    every = {"compression": 9, "shuffle": True, "fletcher32": True}
    for index, keys in enumerate(({}, {"compression": "gzip"}, {"shuffle": True}, every)):
        for name in ("f4", "f8", "u1"):
            file.create_dataset(f"c{index}{name}", data=values.astype(name), chunks=(7, 6), **keys)


@pytest.mark.parametrize("libver", ["earliest", "v108", "latest"])
@pytest.mark.parametrize("fill", [many, chunked])
def test_hdf5_reads_what_h5py_wrote(libver: str, fill: kh.Edit) -> None:
    if libver == "latest" and fill is chunked:
        libver = "v108"  # newer indices of chunks are refused, below
    stream = io.BytesIO()
    with h5py.File(stream, "w", libver=(libver, "latest")) as file:
        fill(file)
        root = file.create_group("deep")
        for level in range(20):
            root = root.create_group(f"d{level}")
    found = read_hdf5(stream.getvalue())
    seen = 0
    with h5py.File(stream) as file:

        def check(name: str, item: Any) -> None:
            nonlocal seen
            seen += 1
            if isinstance(item, h5py.Dataset):
                array = found.dataset(name)
                assert array is not None
                np.testing.assert_array_equal(array, item[()])
                assert array.shape == item.shape
            else:
                group = found.find(name)
                assert group is not None
                for key, value in item.attrs.items():
                    texts = [t.decode() for t in value] if np.ndim(value) else value
                    assert group.attributes[key] == texts

        file.visititems(check)
        assert found.attributes.keys() == set(file.attrs)
    assert seen > 10


# -- hostile HDF5 ---------------------------------------------------------------------------------

KERNEL = "model_weights/lstm/lstm/kernel:0"


def replaced(make: Callable[[Any], Any]) -> bytes:
    """Return a file whose LSTM kernel is made by ``make(group)`` under the same name."""

    def edit(file: Any) -> None:
        del file[KERNEL]
        make(file["model_weights/lstm/lstm"])

    return kh.h5(edit)


def virtual(group: Any) -> None:
    layout = h5py.VirtualLayout((3, 8), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (3, 8))
    group.create_virtual_dataset("kernel:0", layout)


def external(group: Any) -> None:
    group.create_dataset("kernel:0", (3, 8), "f4", external=[("/etc/passwd", 0, 96)])


def linked(link: Any) -> Callable[[Any], None]:
    return lambda group: group.__setitem__("kernel:0", link)


def compound(group: Any) -> None:
    group["kernel:0"] = np.zeros((3, 8), [("a", "f4"), ("b", "i4")])


def committed(group: Any) -> None:
    group.file["type"] = np.dtype("f4")
    group.create_dataset("kernel:0", data=np.zeros((3, 8), "f4"), dtype=group.file["type"])


def twice(group: Any) -> None:
    group["kernel:0"] = group.file["model_weights/dense/dense/kernel:0"]


def itself(group: Any) -> None:
    group["kernel:0"] = np.zeros((3, 8), "f4")
    group["loop"] = group.file["model_weights"]


def deep(file: Any) -> None:
    for _ in range(70):
        file = file.create_group("d")


def bomb(group: Any) -> None:
    zeros = np.zeros((1 << 12, 1 << 12), np.float32)
    group.create_dataset("kernel:0", data=zeros, chunks=zeros.shape, compression=9)


def many_bombs(group: Any) -> None:
    zeros = np.zeros((1 << 10, 1 << 10), np.float32)
    for index in range(12):
        group.create_dataset(f"b{index}", data=zeros, chunks=zeros.shape, compression=9)


def other_filter(group: Any) -> None:
    group.create_dataset("kernel:0", data=np.ones((3, 8), "f4"), compression="lzf")


def unfinished(group: Any) -> None:
    group.create_dataset("kernel:0", (3, 8), "f4", chunks=(1, 8))[0] = 1


def new_chunks() -> bytes:
    stream = io.BytesIO()
    with h5py.File(stream, "w", libver="latest") as file:
        file.create_dataset("c", data=np.ones((9, 9)), chunks=(2, 2))
    return stream.getvalue()


def patched(old: bytes, new: bytes) -> bytes:
    data = kh.h5()
    assert old in data
    return data.replace(old, new, 1)


def looped(signature: bytes, offset: int) -> bytes:
    """Return a file in which an address behind ``signature`` points to the block itself."""
    data = bytearray(kh.h5())
    at = data.index(signature)
    data[at + offset : at + offset + 8] = struct.pack("<Q", at)
    return bytes(data)


def repeated_text() -> bytes:
    """Return a file whose attribute names one long text thousands of times."""
    stream = io.BytesIO()
    with h5py.File(stream, "w", libver="earliest") as file:
        file.attrs["long"] = "y" * 60_000
        file.attrs["many"] = np.array(["z"] * 3000, dtype=h5py.string_dtype())
    data = stream.getvalue()
    at = data.index(struct.pack("<I", 60_000))
    heaps = [i for i in range(len(data)) if data[i : i + 4] == b"GCOL"]
    first = min(data.index(struct.pack("<IQ", 1, heap)) for heap in heaps[1:])
    return data[:first] + data[at : at + 16] * 3000 + data[first + 16 * 3000 :]


HDF5: dict[str, tuple[Callable[[], bytes], str]] = {
    "external link": (lambda: replaced(linked(h5py.ExternalLink("a.h5", "/x"))), "external link"),
    "soft link": (lambda: replaced(linked(h5py.SoftLink("/model_weights/dense"))), "soft link"),
    "dangling link": (lambda: replaced(linked(h5py.SoftLink("/../../etc"))), "soft link"),
    "cve_2026_1669_external_storage": (lambda: replaced(external), "in another file"),
    "cve_2026_12480_virtual": (lambda: replaced(virtual), "virtual|version 4"),
    "cve_2026_0897_shape": (
        lambda: replaced(lambda g: g.create_dataset("kernel:0", (1 << 40, 1 << 10), "f8")),
        "2\\^40 elements",
    ),
    "shape of 2^36": (
        lambda: replaced(lambda g: g.create_dataset("kernel:0", (1 << 20, 1 << 16), "f8")),
        "0 are stored",
    ),
    "huge and empty": (
        lambda: replaced(lambda g: g.create_dataset("kernel:0", (1 << 61, 0), "f4")),
        "2\\^40 elements",
    ),
    "shape of 2^62": (
        lambda: replaced(lambda g: g.create_dataset("kernel:0", (1 << 30,) * 2, "f4")),
        "2\\^40 elements",
    ),
    "chunks of nothing": (
        lambda: replaced(
            lambda g: g.create_dataset("kernel:0", (1 << 30, 64), "f4", chunks=(64, 64))
        ),
        "times as large",
    ),
    "chunks that are missing": (lambda: replaced(unfinished), "1 of 3 HDF5 chunks"),
    "deflate bomb": (lambda: replaced(bomb), "times as large"),
    "many deflate bombs": (lambda: replaced(many_bombs), "times as large"),
    "lzf": (lambda: replaced(other_filter), "HDF5 filter 32000"),
    "new index of chunks": (new_chunks, "version 4"),
    "compound": (lambda: replaced(compound), "class 6"),
    "committed type": (lambda: replaced(committed), "shared HDF5 message"),
    "strings": (
        lambda: replaced(lambda g: g.__setitem__("kernel:0", ["a", "b"])),
        "variable length",
    ),
    "references": (
        lambda: replaced(lambda g: g.create_dataset("kernel:0", data=g.ref, dtype=h5py.ref_dtype)),
        "class 7",
    ),
    "hard link": (lambda: replaced(twice), "under two names"),
    "cycle": (lambda: replaced(itself), "under two names"),
    "depth": (lambda: kh.h5(deep), "64 levels"),
    "B-tree that is its child": (lambda: looped(b"TREE", 32), "SNOD|own descendant"),
    "heap elsewhere": (lambda: looped(b"HEAP", 24), "HDF5|no arrays"),
    "no superblock": (lambda: kh.h5()[:8], "cut off"),
    "superblock version": (lambda: kh.h5()[:8] + b"\x09" + kh.h5()[9:], "superblock of version 9"),
    "offsets of 4 bytes": (lambda: kh.h5()[:13] + b"\x04" + kh.h5()[14:], "of \\(4, 8\\) bytes"),
    "cut": (lambda: kh.h5()[:-100], "cut off"),
    "texts over and over": (repeated_text, "larger than the file"),
    "text that is none": (lambda: patched(b"lstm/bias:0", b"lstm/\xff\xfe\xfd\xfc:0"), "UTF-8"),
    "dataset as group": (
        lambda: patched(b"dense/kernel:0", b"dense/kernal:0"), "kernal|no array"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HDF5)
def test_hostile_hdf5(name: str) -> None:
    make, message = HDF5[name]
    data = make()
    tracemalloc.start()
    try:
        with pytest.raises(GruEngineError, match=message):
            convert(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (64 << 20) + 4 * len(data)
