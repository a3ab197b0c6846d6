# SPDX-License-Identifier: MIT
"""A writer of the protocol buffer wire format: fields of one message, in the order given."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from gruengine.converters.protobuf import BYTES, FIXED32, VARINT

#: Protocol buffers end here, and so does every reader of them.
MAX_BYTES = (1 << 31) - 1


def varint(value: int) -> bytes:
    """Return an int64 as a base 128 number."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Writer:
    """Collects the fields of one message; absent and default values are left out."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def integer(self, number: int, value: int) -> Writer:
        """Add an int64 or an enum."""
        self._parts.append(varint(number << 3 | VARINT) + varint(value))
        return self

    def real(self, number: int, value: float) -> Writer:
        """Add a float32."""
        self._parts.append(varint(number << 3 | FIXED32) + struct.pack("<f", value))
        return self

    def data(self, number: int, value: bytes) -> Writer:
        """Add bytes or a nested message."""
        self._parts.append(varint(number << 3 | BYTES) + varint(len(value)))
        self._parts.append(value)
        return self

    def text(self, number: int, value: str) -> Writer:
        """Add a string."""
        return self.data(number, value.encode())

    def texts(self, number: int, values: Iterable[str]) -> Writer:
        """Add a repeated string."""
        for value in values:
            self.text(number, value)
        return self

    def message(self, number: int, value: Writer) -> Writer:
        """Add a nested message."""
        return self.data(number, value.bytes())

    def integers(self, number: int, values: Iterable[int]) -> Writer:
        """Add a packed repeated int64."""
        return self.data(number, b"".join(varint(value) for value in values))

    def reals(self, number: int, values: Iterable[float]) -> Writer:
        """Add a packed repeated float32."""
        listed = list(values)
        return self.data(number, struct.pack(f"<{len(listed)}f", *listed))

    def bytes(self) -> bytes:
        """Return the message."""
        return b"".join(self._parts)
