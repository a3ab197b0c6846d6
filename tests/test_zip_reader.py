# SPDX-License-Identifier: MIT
"""The zip reader: what has two meanings is refused, each rule by one archive."""

from __future__ import annotations

import dataclasses
import io
import struct
import zipfile
import zlib
from typing import Any

import pytest
import torch_hostile as th
from torch_hostile import Member, checkpoint, members, state

from gruengine.converters.base import Options
from gruengine.converters.torch import read_checkpoint
from gruengine.converters.zip_reader import ZipArchive
from gruengine.errors import GruEngineError, ModelFileError
from gruengine.spec import ModelSpec


def read(data: bytes) -> ModelSpec:
    options = Options(hints={"batch_first": True})
    return read_checkpoint(data, path=None, name="file", options=options)[0]


def test_archives_of_zipfile() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a/x", b"one")
        with file.open("a/y", "w", force_zip64=True) as member:
            member.write(b"two")
        file.writestr("a/é", b"")
    archive = ZipArchive(buffer.getvalue())
    assert archive.names == ("a/x", "a/y", "a/é")
    assert bytes(archive.read("a/y")) == b"two"
    assert "a/x" in archive
    assert "a/z" not in archive
    with pytest.raises(ModelFileError, match="no member 'a/z'"):
        archive.read("a/z")


def with_member(index: int, **fields: Any) -> bytes:
    parts = members()
    parts[index] = dataclasses.replace(parts[index], **fields)
    return th.zip_of(parts)


def end64(count: int = 5, size: int = 0, offset: int = 0, at: int = 0, **fields: int) -> bytes:
    """Return a 64-bit end record and its locator."""
    here, disk, disks = fields.get("here", count), fields.get("disk", 0), fields.get("disks", 1)
    record = struct.pack(
        "<4sQ2H2I4Q", b"PK\x06\x06", 44, 30, 45, disk, 0, here, count, size, offset
    )
    return record + struct.pack("<4sIQI", b"PK\x06\x07", 0, at, disks)


def wide_zip(**fields: int) -> bytes:
    """Return a checkpoint with 64-bit end records, as torch writes them."""
    plain = th.zip_of(members())
    size, offset = struct.unpack_from("<II", plain, len(plain) - 10)
    values = {"size": size, "offset": offset, "at": offset + size, **fields}
    return th.zip_of(members(), end64=end64(**values))


def descriptor(m: Member, wrong: int = 0) -> bytes:
    return struct.pack("<4s3I", b"PK\x07\x08", zlib.crc32(m.data) ^ wrong, len(m.data), len(m.data))


def late(wrong: int = 0, keep: int = 16, **fields: Any) -> bytes:
    """Return a checkpoint whose third member has a data descriptor."""
    part = members()[2]
    return with_member(
        2, flags=8, local_crc=0, local_size=0,
        **{"descriptor": descriptor(part, wrong)[:keep], **fields},
    )  # fmt: skip


def with_more(*more: Member) -> bytes:
    return th.zip_of(members() + list(more))


def test_descriptors_and_wide_records_of_torch_are_valid() -> None:
    read(late())
    read(wide_zip())


ZIP_CASES: list[tuple[str, bytes, str]] = [
    ("empty", b"PK\x03\x04", "must end with its end record"),
    ("duplicate pickle", with_more(members()[0]), "share a name"),
    ("pickle in capitals", with_more(Member("m/DATA.PKL", state())), "share a name"),
    ("folder in capitals", with_more(Member("M/data.pkl", state())), "share a name"),
    ("second root", with_more(Member("n/data.pkl", state())), "one folder with one data.pkl"),
    ("pickle below", with_more(Member("m/x/data.pkl", state())), "one folder with one data.pkl"),
    ("no pickle", th.zip_of(members()[1:]), "one folder with one data.pkl"),
    ("pickle at the top", th.zip_of([Member("data.pkl", state())]), "one folder"),
    ("other local name", with_member(0, local_name="m/data.pkk"), "disagree"),
    ("shorter local name", with_member(0, local_name="m/d"), "disagree"),
    ("other local size", with_member(2, local_size=95), "disagree"),
    ("other local crc", with_member(2, local_crc=1), "disagree"),
    ("other local method", with_member(2, local_method=8), "disagree"),
    ("other local flags", with_member(2, local_flags=2), "disagree"),
    ("encrypted", with_member(0, flags=1), "encrypted"),
    ("strongly encrypted", with_member(0, flags=0x41), "encrypted"),
    ("patched", with_member(0, flags=0x20), "flags"),
    ("hidden local encryption", with_member(0, local_flags=1), "disagree"),
    ("deflated", with_member(0, method=8), "compressed.*method 8.*TorchScript"),
    ("zstd", with_member(0, method=93), "compressed"),
    ("sizes of a deflate", with_member(2, packed=90), "the same two sizes"),
    ("bad crc of the pickle", with_member(0, crc=7), "has CRC"),
    ("bad crc of a storage", with_member(2, crc=7), "has CRC"),
    ("descriptor with another crc", late(wrong=1), "data descriptor that repeats"),
    ("descriptor missing", late(descriptor=b""), "data descriptor that repeats"),
    ("descriptor cut", late(keep=12), "data descriptor that repeats"),
    ("descriptor unannounced", with_member(2, descriptor=descriptor(members()[2])), "must begin"),
    ("size past the end", with_member(4, size=10**6, packed=10**6), "runs past"),
    ("size 2^32-1", with_member(4, size=2**32 - 1, packed=2**32 - 1), "lacks the 64-bit"),
    (
        "size 2^63 in 64 bits",
        with_member(
            4, size=2**32 - 1, packed=2**32 - 1, extra=struct.pack("<2H2Q", 1, 16, 2**63, 2**63)
        ),
        "runs past",
    ),
    ("64-bit field cut", with_member(4, size=2**32 - 1, extra=b"\1\0\x08\0" + b"\0" * 4), "broken"),
    ("two 64-bit fields", with_member(4, extra=b"\1\0\0\0\1\0\0\0"), "broken extra"),
    ("extra field runs out", with_member(4, extra=b"\1\0\xff\xff"), "broken extra"),
    ("offset of another member", with_member(2, offset=0), "must begin at"),
    ("offset one too far", with_member(2, offset=1), "must begin at"),
    ("offset past the file", with_member(4, offset=2**31), "must begin at"),
    ("disk 1", with_member(2, disk=1), "on disk 1"),
    ("bytes before", th.zip_of(members(), head=b"#!/bin/sh\n"), "not a file of torch.save"),
    ("a zip before", th.zip_of(members(), head=checkpoint()), "must begin at"),
    ("bytes between", with_member(1, before=b"hidden"), "must begin at"),
    ("bytes before the directory", th.zip_of(members(), gap=b"hidden"), "directory begins"),
    ("bytes after", checkpoint() + b"\0", "must end with its end record"),
    ("a zip after", checkpoint() + checkpoint(), "directory"),
    ("comment", th.zip_of(members(), comment=b"hello"), "must end with its end record"),
    ("comment with an end", th.zip_of(members(), comment=checkpoint()[-22:]), "directory"),
    ("comment that is not there", th.zip_of(members(), comment_size=9), "comment"),
    ("two disks", th.zip_of(members(), disk=1), "several disks"),
    ("count too large", th.zip_of(members(), count=6), "no entry 5 of 6"),
    ("count too small", th.zip_of(members(), count=4), "bytes after its last entry"),
    ("nothing but an end", th.zip_of([]), "not a file of torch.save"),
    ("count 65535", th.zip_of(members(), count=65535), "64-bit record"),
    ("counts differ", th.zip_of(members(), here=4), "several disks"),
    ("directory too long", th.zip_of(members(), size=10**6), "must end at"),
    ("directory elsewhere", th.zip_of(members(), offset=0), "must end at"),
    ("wide count 2^40", wide_zip(count=2**40), "disagree"),
    ("wide offset differs", wide_zip(offset=5), "disagree"),
    ("wide record elsewhere", wide_zip(at=0), "must be at byte"),
    ("wide record of two disks", wide_zip(disks=2), "of one disk"),
    ("wide counts differ", wide_zip(here=4), "broken"),
    ("absolute name", with_more(Member("/m/x")), "not allowed"),
    ("name upwards", with_more(Member("m/../x")), "not allowed"),
    ("name with backslash", with_more(Member("m\\x")), "not allowed"),
    ("name with zero", with_more(Member("m/x\0.txt")), "not allowed"),
    ("long name", with_more(Member("m/" + "x" * 2000)), "not allowed"),
    ("name that is no text", with_more(Member("m/é")), "no text"),
    ("TorchScript", with_more(Member("m/constants.pkl")), "TorchScript"),
    ("byteorder middle", with_member(1, data=b"middle"), "byteorder"),
    ("storage missing", th.zip_of(members()[:2] + members()[3:]), "no member 'm/data/0'"),
    ("storage short", with_member(2, data=th.floats(23)), "has 92 bytes"),
    ("storage long", with_member(2, data=th.floats(25)), "has 100 bytes"),
]


@pytest.mark.parametrize(
    ("data", "message"), [c[1:] for c in ZIP_CASES], ids=[c[0] for c in ZIP_CASES]
)
def test_hostile_archives(data: bytes, message: str) -> None:
    with pytest.raises(GruEngineError, match=message):
        read(data)


def test_too_many_members() -> None:
    data = th.zip_of([Member("m/data.pkl", state())], end64=None)
    size = struct.unpack_from("<I", data, len(data) - 10)[0]
    body = data[: len(data) - 22 - size] + b"PK\x01\x02" * 2_000_000
    entries = 8_000_000
    record = struct.pack(
        "<4s4H2IH", b"PK\x05\x06", 0, 0, 65534, 65534, entries, len(body) - entries, 0
    )
    with pytest.raises(ModelFileError):
        read(body + record)
