# SPDX-License-Identifier: MIT
"""A strict reader of HDF5 files as Keras writes them, in Python alone.

Read are groups of hard links, their attributes, and datasets of numbers: compact, contiguous, or in
chunks (deflate, shuffle). Links out of the file or to a path, external storage, virtual datasets,
other filters, objects under two names and sizes that the file does not hold are errors. The
parser keeps to the bytes it was given; nothing is opened.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gruengine.converters.hdf5_blocks import UNDEFINED, Bytes, FractalHeap, tree_v1, tree_v2
from gruengine.converters.hdf5_types import (
    Type,
    decode,
    read_attribute,
    read_filters,
    read_space,
    read_type,
    undo_filters,
    unpack,
)
from gruengine.errors import ModelFileError

Array = np.ndarray[Any, Any]

MAGIC = b"\x89HDF\r\n\x1a\n"
MAX_LEVELS = 64
MAX_OBJECTS = 200_000
MAX_MESSAGES = 100_000
#: Compressed data may grow by this factor over the file, and by what small files need.
MAX_GROWTH, GROWTH_FLOOR = 32, 16 << 20

SPACE, LINK_INFO, TYPE, LINK, EXTERNAL, LAYOUT = 1, 2, 3, 6, 7, 8
FILTER, ATTRIBUTE, CONTINUED, SYMBOLS, ATTRIBUTE_INFO = 11, 12, 16, 17, 21


@dataclass
class Group:
    """A group: attributes, and members by name; ``path`` is ``""`` for the root."""

    path: str
    attributes: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    datasets: dict[str, Array] = field(default_factory=dict)

    def find(self, path: str) -> Group | None:
        """Return the group at a relative path, or None."""
        group: Group | None = self
        for part in path.split("/"):
            group = group.groups.get(part) if group is not None and part else group
        return group

    def dataset(self, path: str) -> Array | None:
        """Return the dataset at a relative path, or None."""
        folder, _, name = path.rpartition("/")
        group = self.find(folder)
        return None if group is None else group.datasets.get(name)


def read(data: bytes) -> Group:
    """Return the root group of a file with everything in it; arrays are read-only.

    Raises
    ------
    ModelFileError
        The file breaks its format or has something that is not allowed.
    """
    return _Reader(data).group(*_root(data), "")


def _root(data: bytes) -> tuple[int]:
    file = Bytes(data)
    if data[:8] != MAGIC:
        raise ModelFileError(f"an HDF5 file begins with {MAGIC!r}; this one with {data[:8]!r}")
    version = file.number(8, 1)
    if version in (0, 1):
        sizes, first = (file.number(13, 1), file.number(14, 1)), 24 + 4 * version
        base, _, end, _, _, root = struct.unpack("<6Q", file.at(first, 48, "the superblock"))
    elif version in (2, 3):
        sizes = (file.number(9, 1), file.number(10, 1))
        base, _, end, root = struct.unpack("<4Q", file.at(12, 32, "the superblock"))
    else:
        raise ModelFileError(f"an HDF5 superblock of version {version}; allowed are 0 to 3")
    if sizes != (8, 8) or base != 0:
        raise ModelFileError(
            f"HDF5 offsets and lengths of {sizes} bytes from byte {base}; allowed are 8, from 0"
        )
    if end > len(data):
        raise ModelFileError(
            f"the HDF5 file says it has {end} bytes; it has {len(data)}: is it cut off?"
        )
    return (root,)


class _Reader:
    """Reads objects by their addresses, each once."""

    def __init__(self, data: bytes) -> None:
        self.file = Bytes(data)
        self._seen: set[int] = set()
        self._text_budget = [2 * len(data)]
        self._stored = len(data)
        self._grown = MAX_GROWTH * len(data) + GROWTH_FLOOR

    # -- objects ----------------------------------------------------------------------------------

    def group(self, address: int, path: str) -> Group:
        """Read a group and everything below it."""
        messages = self._header(address, path)
        return self._group(messages, path)

    def _group(self, messages: list[tuple[int, memoryview]], path: str) -> Group:
        if path.count("/") >= MAX_LEVELS:
            raise ModelFileError(f"HDF5 groups of more than {MAX_LEVELS} levels")
        group = Group(path, self._attributes(messages, path))
        for name, address in self._links(messages, path):
            if not name or "/" in name or name in (".", ".."):
                raise ModelFileError(f"{path or '/'}: an HDF5 link of the name {name!r}")
            if name in group.groups or name in group.datasets:
                raise ModelFileError(f"{path or '/'}: two HDF5 links of the name {name!r}")
            inner = f"{path}/{name}" if path else name
            below = self._header(address, inner)
            kinds = {kind for kind, _ in below}
            if kinds & {SYMBOLS, LINK_INFO, LINK} or not kinds & {SPACE, LAYOUT}:
                group.groups[name] = self._group(below, inner)
            else:
                group.datasets[name] = self._dataset(below, inner)
        return group

    def _header(self, address: int, path: str) -> list[tuple[int, memoryview]]:
        """Return (type, bytes) of all messages of an object."""
        if address in self._seen:
            raise ModelFileError(f"{path or '/'}: an HDF5 object under two names")
        self._seen.add(address)
        if len(self._seen) > MAX_OBJECTS:
            raise ModelFileError(f"an HDF5 file of more than {MAX_OBJECTS} objects")
        modern = bytes(self.file.at(address, 4, f"the object {path!r}")) == b"OHDR"
        blocks = [self._first_modern(address) if modern else self._first(address)]
        messages: list[tuple[int, memoryview]] = []
        starts = {address}
        while blocks:
            block, ordered = blocks.pop(0)
            for kind, flags, data in self._messages(block, modern, ordered):
                if flags & 2 and kind in (SPACE, TYPE, LAYOUT, FILTER, ATTRIBUTE):
                    raise ModelFileError(f"{path or '/'}: a shared HDF5 message, type {kind}")
                if kind != CONTINUED:
                    messages.append((kind, data))
                    continue
                start, size = unpack("QQ", data, 0, "continuation")
                if start in starts or len(messages) > MAX_MESSAGES:
                    raise ModelFileError(f"{path or '/'}: an HDF5 object header without end")
                starts.add(start)
                more = self.file.at(start, size, "an object header")
                if modern:
                    self.file.signed(start, 4, b"OCHK")
                    more = more[4:-4]
                blocks.append((more, ordered))
        return messages

    def _first(self, address: int) -> tuple[memoryview, bool]:
        version, _, _, _, size = struct.unpack("<BBHII", self.file.at(address, 12, "an object"))
        if version != 1:
            raise ModelFileError(f"byte {address} of the HDF5 file is no object header")
        return self.file.at(address + 16, size, "an object header"), False

    def _first_modern(self, address: int) -> tuple[memoryview, bool]:
        version, flags = self.file.at(address, 6, "an object")[4:6]
        if version != 2:
            raise ModelFileError(f"an HDF5 object header of version {version}; allowed are 1, 2")
        position = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = self.file.number(position, width)
        return self.file.at(position + width, size, "an object header"), bool(flags & 4)

    @staticmethod
    def _messages(
        block: memoryview, modern: bool, ordered: bool
    ) -> Iterator[tuple[int, int, memoryview]]:
        position = 0
        lead = (6 if ordered else 4) if modern else 8
        while position + lead <= len(block):
            if modern:
                kind, size, flags = struct.unpack_from("<BHB", block, position)
            else:
                kind, size, flags = struct.unpack_from("<HHB", block, position)
            position += lead
            if size > len(block) - position:
                raise ModelFileError(f"an HDF5 message of {size} bytes runs past its header")
            yield kind, flags, block[position : position + size]
            position += size

    def _attributes(self, messages: list[tuple[int, memoryview]], path: str) -> dict[str, Any]:
        found: list[memoryview] = []
        for kind, data in messages:
            if kind == ATTRIBUTE:
                found.append(data)
            elif kind == ATTRIBUTE_INFO:
                (flags,) = unpack("B", data, 1, "attribute info")
                heap, names = unpack("QQ", data, 4 if flags & 1 else 2, "attribute info")
                if heap != UNDEFINED and names != UNDEFINED:
                    store = FractalHeap(self.file, heap)
                    found += [store.get(record[:8]) for record in tree_v2(self.file, names)]
        result: dict[str, Any] = {}
        for data in found:
            read_one = read_attribute(self.file, data, self._text_budget)
            if read_one is not None:
                if read_one[0] in result:
                    raise ModelFileError(f"{path or '/'}: two attributes {read_one[0]!r}")
                result[read_one[0]] = read_one[1]
        return result

    # -- links ------------------------------------------------------------------------------------

    def _links(
        self, messages: list[tuple[int, memoryview]], path: str
    ) -> Iterator[tuple[str, int]]:
        for kind, data in messages:
            if kind == SYMBOLS:
                yield from self._symbols(data, path)
            elif kind == LINK:
                yield self._link(data, path)
            elif kind == LINK_INFO:
                (flags,) = unpack("B", data, 1, "link info")
                heap, names = unpack("QQ", data, 10 if flags & 1 else 2, "link info")
                if heap != UNDEFINED and names != UNDEFINED:
                    store = FractalHeap(self.file, heap)
                    for record in tree_v2(self.file, names):
                        yield self._link(store.get(record[4:]), path)

    def _link(self, data: memoryview, path: str) -> tuple[str, int]:
        version, flags = unpack("BB", data, 0, "link")
        position = 2
        kind = 0
        if flags & 8:
            (kind,) = unpack("B", data, position, "link")
            position += 1
        position += (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(data[position : position + width], "little")
        name = decode(bytes(data[position + width : position + width + size][:1024]))
        if version != 1 or kind != 0:
            _refuse_link(path, name, {1: "a soft link", 64: "an external link"}.get(kind, "a link"))
        return name, int(unpack("Q", data, position + width + size, "link")[0])

    def _symbols(self, data: memoryview, path: str) -> Iterator[tuple[str, int]]:
        """Links of a group of the old form: a B-tree of symbol nodes, names in a local heap."""
        tree, heap = unpack("QQ", data, 0, "symbol table")
        head = self.file.signed(heap, 32, b"HEAP")
        size, _, start = struct.unpack_from("<3Q", head, 8)
        names = self.file.at(start, size, "names")
        for _, node in tree_v1(self.file, tree, 0, 8):
            count = int.from_bytes(self.file.signed(node, 8, b"SNOD")[6:8], "little")
            entries = self.file.at(node + 8, 40 * count, "a symbol table")
            for offset, address, kind in struct.iter_unpack("<2QI20x", entries):
                if offset >= len(names):
                    raise ModelFileError(f"{path or '/'}: an HDF5 link without a name")
                name = decode(bytes(names[offset : offset + 1024]).split(b"\0")[0])
                if kind == 2 or address == UNDEFINED:
                    _refuse_link(path, name, "a soft link")
                yield name, address

    # -- datasets ---------------------------------------------------------------------------------

    def _dataset(self, messages: list[tuple[int, memoryview]], path: str) -> Array:
        parts = dict(messages)
        if EXTERNAL in parts:
            raise ModelFileError(f"{path}: HDF5 data in another file; it must be in this one")
        missing = [name for name, kind in _NEEDED.items() if kind not in parts]
        if missing:
            raise ModelFileError(f"{path}: an HDF5 dataset without {', '.join(missing)}")
        kind = read_type(parts[TYPE])
        shape = read_space(parts[SPACE])
        if kind.dtype is None:
            raise ModelFileError(f"{path}: HDF5 strings of variable length; weights are numbers")
        filters = read_filters(parts[FILTER], path) if FILTER in parts else []
        raw = self._content(parts[LAYOUT], shape, kind, filters, path)
        array = np.frombuffer(raw, kind.dtype).reshape(shape)
        marked = self._attributes(messages, path).get("dtype") == "bfloat16"
        if kind.bfloat16 or (marked and kind.size == 2):
            words = array if kind.bfloat16 else array.view("<u2")
            return (words.astype(np.uint32) << 16).view(np.float32)
        return array

    def _content(
        self, layout: memoryview, shape: tuple[int, ...], kind: Type, filters: list[int], path: str
    ) -> bytes | memoryview:
        version, form = unpack("BB", layout, 0, "layout")
        if version not in (3, 4) or form > 3 or (version == 4 and form == 2):
            raise ModelFileError(
                f"{path}: HDF5 layout {form} of version {version}; allowed are compact, contiguous "
                "and chunks indexed by a B-tree of version 1"
            )
        size = math.prod(shape) * kind.size
        if form == 3:
            raise ModelFileError(f"{path}: a virtual HDF5 dataset; its data must be its own")
        if form == 2:
            return self._chunks(layout, shape, kind, filters, path)
        if filters:
            raise ModelFileError(f"{path}: HDF5 filters without chunks")
        if form == 0:
            (stored,) = unpack("H", layout, 2, "layout")
            raw = layout[4 : 4 + stored]
        else:
            address, stored = unpack("QQ", layout, 2, "layout")
            there = stored and size and address != UNDEFINED
            raw = self.file.at(address, stored, path) if there else memoryview(b"")
        self._stored -= len(raw)
        if len(raw) != size or self._stored < 0:
            raise ModelFileError(
                f"{path}: HDF5 data of shape {list(shape)} takes {size} bytes; {len(raw)} are "
                "stored for it alone"
            )
        return raw

    def _chunks(
        self, layout: memoryview, shape: tuple[int, ...], kind: Type, filters: list[int], path: str
    ) -> bytes:
        rank = len(shape)
        count, tree = unpack("BQ", layout, 2, "layout")
        sizes = unpack(f"{count}I", layout, 11, "layout")
        chunk = sizes[:-1]
        if count != rank + 1 or rank == 0 or 0 in sizes or sizes[-1] != kind.size:
            raise ModelFileError(f"{path}: HDF5 chunks {list(sizes)} of data of {list(shape)}")
        needed = math.prod(-(-a // b) for a, b in zip(shape, chunk, strict=True))
        piece = math.prod(sizes)
        total = math.prod(shape) * kind.size
        self._grown -= total + piece
        if self._grown < 0 or needed > self.file.size // 16:
            raise ModelFileError(
                f"{path}: {total} bytes of HDF5 chunks in a file of {self.file.size}; compressed "
                f"data may be {MAX_GROWTH} times as large as the file"
            )
        result = np.empty(shape, kind.dtype)
        seen: set[tuple[int, ...]] = set()
        leaves = tree_v1(self.file, tree, 1, 8 + 8 * count) if needed else iter(())
        for key, address in leaves:
            stored, skip, *place = struct.unpack(f"<II{count}Q", key)
            begin = tuple(place[:-1])
            if begin in seen or any(
                a >= b or a % c for a, b, c in zip(begin, shape, chunk, strict=True)
            ):
                raise ModelFileError(f"{path}: an HDF5 chunk at {list(begin)} that cannot be")
            seen.add(begin)
            raw = self.file.at(address, stored, path)
            values = undo_filters(raw, filters, skip, piece, kind.size)
            block = np.frombuffer(values, kind.dtype).reshape(chunk)
            ends = [min(a + c, b) for a, b, c in zip(begin, shape, chunk, strict=True)]
            target = tuple(slice(a, b) for a, b in zip(begin, ends, strict=True))
            result[target] = block[tuple(slice(0, b - a) for a, b in zip(begin, ends, strict=True))]
        if len(seen) != needed:
            raise ModelFileError(f"{path}: {len(seen)} of {needed} HDF5 chunks are stored")
        return result.tobytes()


_NEEDED = {"element type": TYPE, "shape": SPACE, "layout": LAYOUT}


def _refuse_link(path: str, name: str, what: str) -> None:
    raise ModelFileError(
        f"{path or '/'}: {name!r} is {what}; allowed are members of the file itself"
    )
