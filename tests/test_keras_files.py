# SPDX-License-Identifier: MIT
"""Hostile Keras archives, and mutants of every form: errors or valid specs, nothing run."""

from __future__ import annotations

import io
import json
import random
import struct
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any

import keras_hostile as kh
import pytest

from gruengine.converters import Options, read, sniff
from gruengine.converters.keras import read_keras
from gruengine.errors import GruEngineError, ModelFileError, UnsupportedError
from gruengine.spec import ModelSpec
from gruengine.spec_checks import problems_of


def convert(data: bytes) -> ModelSpec:
    return read_keras(data, path=None, name="file", options=Options())[0]


def test_the_seeds_are_valid() -> None:
    forms = [kh.h5(libver=v) for v in ("earliest", "v108", "latest")]
    forms += [kh.archive(kh.members(kh.modern(libver=v))) for v in ("earliest", "v108", "latest")]
    forms.append(kh.archive(method=zipfile.ZIP_DEFLATED))
    hashes = set()
    for data in forms:
        assert sniff(data) == "keras"
        spec = convert(data)
        assert problems_of(spec) == []
        hashes.add(spec.hash())
    assert len(hashes) == 1
    convert(kh.h5(model=kh.graph()))


# -- hostile archives -----------------------------------------------------------------------------


def with_member(name: str, data: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    return kh.archive({**kh.members(), name: data}, method)


def doubled() -> bytes:
    stream = io.BytesIO(kh.archive())
    with zipfile.ZipFile(stream, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("config.json", b"{}")
    return stream.getvalue()


def lying_size() -> bytes:
    """Return an archive whose config says it inflates to less than it does."""
    data = bytearray(with_member("config.json", b" " * 5000 + b"{}", zipfile.ZIP_DEFLATED))
    for at in range(len(data) - 4):
        if data[at : at + 4] == struct.pack("<I", 5002):
            data[at : at + 4] = struct.pack("<I", 100)
    return bytes(data)


def pickled() -> bytes:
    files = kh.members()
    del files["model.weights.h5"]
    return kh.archive({**files, "model.weights.npz": b"\x80\x04."})


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "two configs": (doubled, "share a name"),
    "case": (lambda: with_member("CONFIG.json", b"{}"), "share a name"),
    "path": (lambda: with_member("../config.json", b"{}"), "not allowed"),
    "absolute": (lambda: with_member("/config.json", b"{}"), "not allowed"),
    "deflate bomb": (
        lambda: with_member("assets/a", bytes(100 << 20), zipfile.ZIP_DEFLATED),
        "64 times the file",
    ),
    "size that lies": (lying_size, "more than the 100 bytes|disagree"),
    "bzip2": (lambda: kh.archive(method=zipfile.ZIP_BZIP2), "method 12"),
    "comment": (lambda: kh.archive() + b"x", "end record"),
    "bytes before": (lambda: b"PK\x03\x04" + kh.archive(), "model.weights.h5|must|begin"),
    "no config": (lambda: kh.archive({"model.weights.h5": kh.modern()}), "config.json|directory"),
    "pickled weights": (pickled, "pickled objects"),
    "weights that are none": (lambda: kh.archive(kh.members(b"hello")), "HDF5 file begins"),
    "JSON that is none": (lambda: kh.archive(kh.members(model=b"{")), "no JSON"),
    "JSON of bytes": (lambda: kh.archive(kh.members(model=b'"\xff"')), "not UTF-8"),
    "JSON too deep": (lambda: kh.archive(kh.members(model=b"[" * 100_000)), "too deep|no JSON"),
    "JSON with a huge number": (
        lambda: kh.archive(kh.members(model=b"9" * 10_000)), "no JSON|model"
    ),
    "JSON of h5": (lambda: kh.h5(model="nothing"), "no JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_hostile_archives(name: str) -> None:
    make, message = ARCHIVES[name]
    data = make()
    tracemalloc.start()
    try:
        with pytest.raises((ModelFileError, UnsupportedError, GruEngineError), match=message):
            convert(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (64 << 20) + 4 * len(data)


# -- truncation and mutants -----------------------------------------------------------------------


def test_every_truncation() -> None:
    for data in (kh.h5(), kh.archive()):
        for size in range(0, len(data), 23):
            with pytest.raises(GruEngineError):
                read(data[:size])


def every_bit(data: bytes, wrap: Callable[[bytes], bytes], step: int) -> int:
    valid = 0
    for bit in range(0, 8 * len(data), step):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            assert problems_of(convert(wrap(bytes(changed)))) == []
            valid += 1
        except GruEngineError:
            continue
    return valid


def test_every_few_bits() -> None:
    assert every_bit(kh.h5(), bytes, 91) > 100
    assert every_bit(kh.modern(), lambda weights: kh.archive(kh.members(weights)), 91) > 100


RUNS_CODE = {"exec", "compile", "import", "open", "os.system", "subprocess.Popen", "socket.connect"}


def test_mutants_end_in_an_error_or_a_valid_spec() -> None:
    """Nothing is opened, imported or run on the way, whatever the file says."""
    events: list[str] = []
    watching = False

    def audit(event: str, _: Any) -> None:
        if watching and event in RUNS_CODE:
            events.append(event)

    files = [kh.h5(), kh.h5(model=kh.graph()), kh.h5(libver="v108"), kh.h5(small_chunks)]
    inner = [kh.modern(), kh.modern(libver="latest")]
    rng = random.Random(0)
    valid, broken = [0, 0, 0], [0, 0, 0]
    for data in files:
        convert(data)
    sys.addaudithook(audit)
    for turn in range(4500):
        kind = turn % 3
        if kind == 0:
            data = kh.mutated(rng.choice(files), rng)
        elif kind == 1:
            data = kh.archive(kh.members(kh.mutated(rng.choice(inner), rng)))
        else:
            model = kh.mutated_json(rng.choice([kh.config(), kh.graph()]), rng)
            data = kh.archive(kh.members(model=json.dumps(model).encode()))
        try:
            watching = True
            spec = convert(data)
            watching = False
            assert problems_of(spec) == []
            valid[kind] += 1
        except GruEngineError:
            watching = False
            broken[kind] += 1
    assert min(valid) > 100
    assert min(broken) > 500
    assert events == []


def small_chunks(file: Any) -> None:
    place = "model_weights/lstm/lstm/kernel:0"
    kernel = file[place][()]
    del file[place]
    file.create_dataset(place, data=kernel, chunks=(2, 3), compression=4, shuffle=True)
