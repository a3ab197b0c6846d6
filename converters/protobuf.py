# SPDX-License-Identifier: MIT
"""A strict, bounded reader of the protocol buffer wire format. It knows no schema.

A message is split into its fields once; nested messages stay slices of the same memory until they
are asked for, so a hostile file costs no more than what is read of it. Stricter than protobuf:
a single field that is given twice is an error, because readers disagree on which one counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gruengine.errors import ModelFileError

Array = np.ndarray[Any, Any]

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

#: Fields of one message, and of a whole file: bounds on memory and time, far above real models.
MAX_FIELDS = 1 << 17
MAX_TOTAL = 1 << 20

_MASK = (1 << 64) - 1


class Budget:
    """How many fields of one file may still be read."""

    def __init__(self, fields: int = MAX_TOTAL) -> None:
        self.left = fields


def read_varint(data: memoryview, at: int, what: str) -> tuple[int, int]:
    """Return the unsigned number at ``at`` and the place after it."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > _MASK:
                break
            return value, at
        shift += 7
        if shift > 63:
            break
    short = at >= len(data) and shift <= 63
    raise ModelFileError(f"{what} {'ends inside a number' if short else 'has a number > 64 bits'}")


def signed(value: int) -> int:
    """Return a 64 bit number as int64."""
    return value - (1 << 64) if value >> 63 else value


class Message:
    """The fields of one message, by number.

    Parameters
    ----------
    data : memoryview of bytes
        The message; kept, not copied.
    what : str
        What it is, for error messages.
    budget : Budget
        Shared by all messages of a file.

    Raises
    ------
    ModelFileError
        Bytes that are no message, or too many fields.
    """

    __slots__ = ("budget", "data", "fields", "what")

    def __init__(self, data: memoryview, what: str, budget: Budget) -> None:
        self.data, self.what, self.budget = data, what, budget
        # number -> (wire type, value or place of the first byte, place after it)
        self.fields: dict[int, list[tuple[int, int, int]]] = {}
        at, count, end = 0, 0, len(data)
        fields, most = self.fields, min(MAX_FIELDS, budget.left)
        while at < end:
            key = data[at]
            if key < 0x80:
                at += 1
            else:
                key, at = read_varint(data, at, what)
            # What is short takes a short way: files may have a million fields.
            size = data[at] if at < end else 0x80
            if key & 7 == BYTES and size < min(0x80, end - at) and key > 7:
                entry = (BYTES, at + 1, at + 1 + size)
                at += 1 + size
            else:
                entry, at = self._entry(key >> 3, key & 7, at)
            known = fields.get(key >> 3)
            if known is None:
                fields[key >> 3] = [entry]
            else:
                known.append(entry)
            count += 1
            if count > most:
                raise self._too_many(most)
        budget.left -= count

    def _too_many(self, most: int) -> ModelFileError:
        if most == MAX_FIELDS:
            return ModelFileError(f"{self.what} has more than {MAX_FIELDS} fields")
        return ModelFileError(f"{self.what}: the file has more than {MAX_TOTAL} fields")

    def _entry(self, number: int, wire: int, at: int) -> tuple[tuple[int, int, int], int]:
        if number == 0 or number >= 1 << 29:
            raise ModelFileError(f"{self.what} has a field with the number {number}")
        if wire == VARINT:
            value, at = read_varint(self.data, at, self.what)
            return (wire, value, at), at
        if wire == BYTES:
            size, at = read_varint(self.data, at, self.what)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise ModelFileError(f"{self.what} has field {number} of the unknown wire type {wire}")
        if size > len(self.data) - at:
            raise ModelFileError(
                f"{self.what}: field {number} needs {size} bytes; {len(self.data) - at} are left"
            )
        return (wire, at, at + size), at + size

    def has(self, number: int) -> bool:
        """Return whether the field is given."""
        return number in self.fields

    def _one(self, number: int, wire: int) -> tuple[int, int] | None:
        entries = self.fields.get(number)
        if entries is None:
            return None
        if len(entries) > 1:
            raise ModelFileError(f"{self.what}: field {number} is given {len(entries)} times")
        return self._checked(number, entries[0], (wire,))[1:]

    def _checked(
        self, number: int, entry: tuple[int, int, int], wires: tuple[int, ...]
    ) -> tuple[int, int, int]:
        if entry[0] not in wires:
            raise ModelFileError(
                f"{self.what}: field {number} has wire type {entry[0]}, not {wires[0]}"
            )
        return entry

    def integer(self, number: int, default: int = 0) -> int:
        """Return a single int64 (also enums and booleans)."""
        entry = self._one(number, VARINT)
        return default if entry is None else signed(entry[0])

    def real(self, number: int, default: float = 0.0) -> float:
        """Return a single float."""
        entry = self._one(number, FIXED32)
        if entry is None:
            return default
        return float(np.frombuffer(self.data[entry[0] : entry[1]], "<f4")[0])

    def view(self, number: int) -> memoryview | None:
        """Return a single bytes field without copying, or None."""
        entry = self._one(number, BYTES)
        return None if entry is None else self.data[entry[0] : entry[1]]

    def text(self, number: int) -> str:
        """Return a single string, ``""`` by default."""
        data = self.view(number)
        return "" if data is None else self._decode(number, data)

    def _decode(self, number: int, data: memoryview) -> str:
        try:
            return str(data, "utf-8")
        except UnicodeDecodeError:
            raise ModelFileError(f"{self.what}: field {number} is no UTF-8 text") from None

    def views(self, number: int) -> list[memoryview]:
        """Return a repeated bytes field without copying."""
        entries = (self._checked(number, e, (BYTES,)) for e in self.fields.get(number, ()))
        return [self.data[at:end] for _, at, end in entries]

    def texts(self, number: int) -> list[str]:
        """Return a repeated string."""
        return [self._decode(number, data) for data in self.views(number)]

    def message(self, number: int, what: str) -> Message | None:
        """Return a single nested message, or None."""
        data = self.view(number)
        return None if data is None else Message(data, what, self.budget)

    def messages(self, number: int, what: str) -> Iterator[Message]:
        """Yield each message of a repeated field; none is kept."""
        for entry in self.fields.get(number, ()):
            _, at, end = self._checked(number, entry, (BYTES,))
            yield Message(self.data[at:end], what, self.budget)

    def integers(self, number: int) -> Array:
        """Return a repeated varint, packed or not, as int64."""
        parts: list[Array] = []
        loose: list[int] = []
        for entry in self.fields.get(number, ()):
            wire, value, end = self._checked(number, entry, (VARINT, BYTES))
            if wire == VARINT:
                loose.append(signed(value))
                continue
            if loose:
                parts.append(np.array(loose, np.int64))
                loose = []
            parts.append(self._packed(self.data[value:end]))
        if loose:
            parts.append(np.array(loose, np.int64))
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _packed(self, data: memoryview) -> Array:
        """Decode a run of varints at once: 7 bits of each, in up to ten rounds."""
        raw = np.frombuffer(data, np.uint8)
        if not raw.size:
            return np.zeros(0, np.int64)
        last = np.flatnonzero(raw < 0x80)
        if not last.size or last[-1] != raw.size - 1:
            raise ModelFileError(f"{self.what} ends inside a number")
        first = np.concatenate((np.zeros(1, last.dtype), last[:-1] + 1))
        lengths = last - first + 1
        longest = int(lengths.max())
        if longest > 10 or (longest == 10 and np.any(raw[last[lengths == 10]] > 1)):
            raise ModelFileError(f"{self.what} has a number > 64 bits")
        values = np.zeros(last.size, np.uint64)
        for byte in range(longest):
            longer = lengths > byte
            digit = (raw[first[longer] + byte] & 0x7F).astype(np.uint64)
            values[longer] |= digit << np.uint64(7 * byte)
        return values.view(np.int64)

    def reals(self, number: int, dtype: str = "<f4") -> Array:
        """Return a repeated fixed-size number, packed or not: dtype ``"<f4"`` or ``"<f8"``."""
        item = np.dtype(dtype)
        fixed = FIXED32 if item.itemsize == 4 else FIXED64
        parts = []
        for entry in self.fields.get(number, ()):
            _, at, end = self._checked(number, entry, (fixed, BYTES))
            if (end - at) % item.itemsize:
                raise ModelFileError(
                    f"{self.what}: field {number} has {end - at} bytes; "
                    f"a multiple of {item.itemsize} is needed"
                )
            parts.append(np.frombuffer(self.data[at:end], item))
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.zeros(0, item)
