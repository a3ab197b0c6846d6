# SPDX-License-Identifier: MIT
"""Hand-made files of torch.save: zip archives and pickles with every field free to lie."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

LEGACY_HEAD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03."


@dataclass
class Member:
    """One zip member; what is None is what it should be."""

    name: str
    data: bytes = b""
    local_name: str | None = None
    crc: int | None = None
    local_crc: int | None = None
    size: int | None = None
    packed: int | None = None
    local_size: int | None = None
    offset: int | None = None
    method: int = 0
    local_method: int | None = None
    flags: int = 0
    local_flags: int | None = None
    extra: bytes = b""
    local_extra: bytes = b""
    descriptor: bytes = b""
    disk: int = 0
    before: bytes = b""


def pick(value: int | None, default: int) -> int:
    return default if value is None else value


def local(m: Member) -> bytes:
    """Return the local header, the bytes and the descriptor."""
    crc = pick(m.local_crc, pick(m.crc, zlib.crc32(m.data)))
    size = pick(m.local_size, pick(m.size, len(m.data)))
    packed = pick(m.local_size, pick(m.packed, len(m.data)))
    name = (m.local_name or m.name).encode()
    method, flags = pick(m.local_method, m.method), pick(m.local_flags, m.flags)
    head = struct.pack(
        "<4s5H3I2H", b"PK\x03\x04", 20, flags, method, 0, 0, crc, packed, size, len(name),
        len(m.local_extra),
    )  # fmt: skip
    return head + name + m.local_extra + m.data + m.descriptor


def central(m: Member, offset: int) -> bytes:
    """Return the entry of the directory."""
    crc = pick(m.crc, zlib.crc32(m.data))
    size, packed = pick(m.size, len(m.data)), pick(m.packed, len(m.data))
    name = m.name.encode()
    return struct.pack(
        "<4s6H3I5H2I", b"PK\x01\x02", 20, 20, m.flags, m.method, 0, 0, crc, packed, size,
        len(name), len(m.extra), 0, m.disk, 0, 0, pick(m.offset, offset),
    ) + name + m.extra  # fmt: skip


def zip_of(
    members: list[Member],
    *,
    head: bytes = b"",
    gap: bytes = b"",
    tail: bytes = b"",
    comment: bytes = b"",
    end64: bytes | None = None,
    **end: int,
) -> bytes:
    """Write an archive; ``end`` overrides count, here, size, offset, disk, comment_size."""
    body = head
    entries = []
    for m in members:
        body += m.before
        entries.append(central(m, len(body)))
        body += local(m)
    body += gap
    directory = b"".join(entries)
    count = end.get("count", len(members))
    record = struct.pack(
        "<4s4H2IH", b"PK\x05\x06", end.get("disk", 0), 0, end.get("here", count), count,
        end.get("size", len(directory)), end.get("offset", len(body)),
        end.get("comment_size", len(comment)),
    )  # fmt: skip
    wide = b"" if end64 is None else end64
    return body + directory + wide + record + comment + tail


# -- pickles --------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def sizes(values: Any) -> bytes:
    return b"(" + b"".join(number(one) for one in values) + b"t"


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


def storage(key: str = "0", numel: int = 24, kind: str = "FloatStorage") -> bytes:
    inner = text("storage") + name("torch", kind) + text(key) + text("cpu") + number(numel)
    return b"(" + inner + b"tQ"


def tensor(
    shape: Any = (8, 3),
    strides: Any = (3, 1),
    offset: int = 0,
    store: bytes | None = None,
    hooks: bytes = b"}",
) -> bytes:
    """Return the pickle of one tensor (``weight_ih`` of an LSTM of size 2 on 3 inputs)."""
    arguments = (
        (storage() if store is None else store)
        + number(offset) + sizes(shape) + sizes(strides) + b"\x89" + hooks
    )  # fmt: skip
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def pickle_of(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def state(weight: bytes | None = None, more: bytes = b"") -> bytes:
    """Return the pickle of a state dict with both weights of an LSTM."""
    weight = tensor() if weight is None else weight
    hh = tensor((8, 2), (2, 1), store=storage("1", 16))
    body = b"}(" + text("weight_ih_l0") + weight + text("weight_hh_l0") + hh + more + b"u"
    return pickle_of(body)


def floats(count: int) -> bytes:
    return np.arange(count, dtype="<f4").tobytes()


def members(pickle: bytes | None = None) -> list[Member]:
    """Return the members of a valid checkpoint."""
    return [
        Member("m/data.pkl", state() if pickle is None else pickle),
        Member("m/byteorder", b"little"),
        Member("m/data/0", floats(24)),
        Member("m/data/1", floats(16)),
        Member("m/version", b"3\n"),
    ]


def checkpoint(pickle: bytes | None = None, **storages: bytes) -> bytes:
    """Return a checkpoint; ``storages`` are further records, ``_2=...`` for key 2."""
    more = [Member(f"m/data/{key[1:]}", data) for key, data in storages.items()]
    return zip_of(members(pickle) + more)


def legacy(
    pickle: bytes | None = None,
    keys: list[str] | None = None,
    records: list[tuple[int, bytes]] | None = None,
    system: bytes | None = None,
    protocol: int = 1001,
    tail: bytes = b"",
) -> bytes:
    """Return a legacy file."""
    head = LEGACY_HEAD[:-6] + pickle_of(number(protocol))
    info = b"}" + text("little_endian") + b"\x88s" if system is None else system
    names = b"](" + b"".join(text(key) for key in (["0", "1"] if keys is None else keys)) + b"e"
    listed = [(24, floats(24)), (16, floats(16))] if records is None else records
    data = b"".join(struct.pack("<q", count) + values for count, values in listed)
    return (
        head + pickle_of(info) + (state() if pickle is None else pickle) + pickle_of(names)
        + data + tail
    )  # fmt: skip
