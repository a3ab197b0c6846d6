# SPDX-License-Identifier: MIT
"""The blocks an HDF5 file is made of: bounds-checked bytes, B-trees, heaps.

Everything follows the HDF5 File Format Specification 3.0. No structure is read twice on one walk,
so the work is bounded by the size of the file, whatever the addresses in it say.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from gruengine.errors import ModelFileError

UNDEFINED = 0xFFFFFFFFFFFFFFFF
MAX_DEPTH = 32  # of trees


class Bytes:
    """The file in memory; every read outside of it is an error."""

    def __init__(self, data: bytes) -> None:
        self.view = memoryview(data)
        self.size = len(data)
        self._heaps: dict[int, dict[int, memoryview]] = {}

    def at(self, address: int, size: int, what: str) -> memoryview:
        """Return ``size`` bytes at ``address``."""
        if not 0 <= address <= self.size or size > self.size - address:
            raise ModelFileError(
                f"{what} of {size} bytes at byte {address} of an HDF5 file of {self.size} bytes; "
                "is the file cut off?"
            )
        return self.view[address : address + size]

    def signed(self, address: int, size: int, signature: bytes) -> memoryview:
        """Return ``size`` bytes at ``address``, which must begin with ``signature``."""
        block = self.at(address, size, f"the block {signature.decode()}")
        if bytes(block[:4]) != signature:
            raise ModelFileError(
                f"byte {address} of the HDF5 file has {bytes(block[:4])!r}; "
                f"{signature!r} must be there"
            )
        return block

    def number(self, address: int, size: int) -> int:
        """Return a little-endian number of ``size`` bytes."""
        return int.from_bytes(self.at(address, size, "a number"), "little")

    def global_object(self, address: int, index: int) -> memoryview:
        """Return object ``index`` of the global heap collection at ``address``."""
        if address not in self._heaps:
            self._heaps[address] = dict(self._collection(address))
        objects = self._heaps[address]
        if index not in objects:
            raise ModelFileError(f"the HDF5 heap at byte {address} has no object {index}")
        return objects[index]

    def _collection(self, address: int) -> Iterator[tuple[int, memoryview]]:
        head = self.signed(address, 16, b"GCOL")
        block = self.at(address, int.from_bytes(head[8:16], "little"), "a heap")
        position = 16
        while position + 16 <= len(block):
            index, _, size = struct.unpack_from("<2H4xQ", block, position)
            if index == 0:
                return
            if size > len(block) - position - 16:
                raise ModelFileError(f"object {index} of the HDF5 heap at byte {address} is broken")
            yield index, block[position + 16 : position + 16 + size]
            position += 16 + (size + 7) // 8 * 8


def tree_v1(
    file: Bytes, root: int, kind: int, key_size: int, level: int | None = None,
    seen: set[int] | None = None,
) -> Iterator[tuple[memoryview, int]]:  # fmt: skip
    """Yield (key, address) of the leaves of a B-tree of version 1.

    Parameters
    ----------
    kind : 0 for groups, 1 for chunks.
    """
    seen = set() if seen is None else seen
    if root in seen or len(seen) > file.size // 24:
        raise ModelFileError(f"a node of an HDF5 B-tree at byte {root} is its own descendant")
    seen.add(root)
    head = file.signed(root, 24, b"TREE")
    found, depth, count = head[4], head[5], int.from_bytes(head[6:8], "little")
    if found != kind or depth > MAX_DEPTH or (level is not None and depth != level):
        raise ModelFileError(
            f"the HDF5 B-tree node at byte {root} is of type {found}, level {depth}; "
            f"type {kind}, level {'0 to ' + str(MAX_DEPTH) if level is None else level} is needed"
        )
    step = key_size + 8
    block = file.at(root + 24, count * step + key_size, "a B-tree node")
    for index in range(count):
        key = block[index * step : index * step + key_size]
        (child,) = struct.unpack_from("<Q", block, index * step + key_size)
        if depth == 0:
            yield key, child
        else:
            yield from tree_v1(file, child, kind, key_size, depth - 1, seen)


def _bytes_of(limit: int) -> int:
    """Return how many bytes a number up to ``limit`` takes."""
    return max(limit.bit_length() - 1, 0) // 8 + 1


@dataclass(frozen=True)
class _Shape:
    """Sizes of a B-tree of version 2: of a record, and by level of counts and totals."""

    kind: int
    record: int
    counts: list[int]  # bytes of the number of records in a node of this level
    totals: list[int]  # bytes of the number of records below a node of this level


def tree_v2(file: Bytes, address: int) -> Iterator[memoryview]:
    """Yield the records of the B-tree of version 2 whose header is at ``address``."""
    head = file.signed(address, 34, b"BTHD")
    kind, node, record, depth = struct.unpack_from("<BIHH", head, 5)
    root, count = struct.unpack_from("<QH", head, 16)
    if head[4] != 0 or record == 0 or node < 10 + record or depth > MAX_DEPTH:
        raise ModelFileError(f"the HDF5 B-tree at byte {address} has sizes that cannot be")
    most = (node - 10) // record
    shape = _Shape(kind, record, [_bytes_of(most)], [0])
    below = most
    for level in range(1, depth + 1):
        pointer = 8 + shape.counts[level - 1] + shape.totals[level - 1]
        most = (node - 10 - pointer) // (record + pointer)
        below += (below + 1) * max(most, 0)
        shape.counts.append(_bytes_of(max(most, 0)))
        shape.totals.append(_bytes_of(below))
    if root != UNDEFINED:
        yield from _node_v2(file, root, count, depth, shape, set())


def _node_v2(
    file: Bytes, address: int, count: int, level: int, shape: _Shape, seen: set[int]
) -> Iterator[memoryview]:
    if address in seen:
        raise ModelFileError(f"a node of an HDF5 B-tree at byte {address} is its own descendant")
    seen.add(address)
    head = file.signed(address, 6, b"BTIN" if level else b"BTLF")
    if head[4] != 0 or head[5] != shape.kind:
        raise ModelFileError(f"the HDF5 B-tree node at byte {address} is of another tree")
    records = file.at(address + 6, count * shape.record, "a B-tree node")
    for index in range(count):
        yield records[index * shape.record : (index + 1) * shape.record]
    if level == 0:
        return
    position = address + 6 + count * shape.record
    counts, totals = shape.counts[level - 1], shape.totals[level - 1]
    for _ in range(count + 1):
        child = file.number(position, 8)
        inside = file.number(position + 8, counts)
        position += 8 + counts + totals
        yield from _node_v2(file, child, inside, level - 1, shape, seen)


class FractalHeap:
    """Objects of many links or attributes, by their identifiers."""

    def __init__(self, file: Bytes, address: int) -> None:
        self._file = file
        head = file.signed(address, 146, b"FRHP")
        (self._id, filters, self._flags, most) = struct.unpack_from("<2HBI", head, 5)
        self._width, self._start, self._direct = struct.unpack_from("<H2Q", head, 110)
        bits, _, self._root, self._rows = struct.unpack_from("<2HQH", head, 128)
        if head[4] != 0 or filters or not 0 < self._start <= self._direct < 1 << 32 or bits > 64:
            raise ModelFileError(f"the HDF5 heap at byte {address} is filtered or broken")
        if not 0 < self._width <= 1024 or self._rows > 64:
            raise ModelFileError(f"the HDF5 heap at byte {address} has sizes that cannot be")
        self._offset = (bits + 7) // 8
        self._length = _bytes_of(min(self._direct, most))

    def get(self, identifier: memoryview) -> memoryview:
        """Return one object."""
        kind = identifier[0] >> 4
        if kind == 2:  # tiny: the object is in the identifier
            return identifier[1 : 2 + (identifier[0] & 15)]
        if kind != 0 or len(identifier) < 1 + self._offset + self._length:
            raise ModelFileError("an HDF5 heap object that is not stored in the heap itself")
        split = 1 + self._offset
        offset = int.from_bytes(identifier[1:split], "little")
        size = int.from_bytes(identifier[split : split + self._length], "little")
        address, start, length = self._block(offset)
        if size > length - (offset - start):
            raise ModelFileError("an HDF5 heap object runs past its block")
        self._file.signed(address, 4, b"FHDB")
        return self._file.at(address + offset - start, size, "a heap object")

    def _block(self, offset: int) -> tuple[int, int, int]:
        """Return address, first offset and size of the direct block that holds ``offset``."""
        if self._rows == 0:
            return self._root, 0, self._start
        address, base, rows = self._root, 0, self._rows
        for _ in range(MAX_DEPTH):
            place = self._child(offset - base, rows)
            if place is None:
                break
            index, first, size = place
            self._file.signed(address, 4, b"FHIB")
            child = self._file.number(address + 13 + self._offset + 8 * index, 8)
            base += first
            if size <= self._direct:
                return child, base, size
            address, rows = child, (size // (self._start * self._width)).bit_length()
        raise ModelFileError("an HDF5 heap object is in no block of its heap")

    def _child(self, offset: int, rows: int) -> tuple[int, int, int] | None:
        """Return number, first offset and size of the child of an indirect block."""
        first, size = 0, self._start
        for row in range(rows):
            size = self._start << max(row - 1, 0)
            if offset < first + size * self._width:
                column = (offset - first) // size
                return row * self._width + column, first + column * size, size
            first += size * self._width
        return None
