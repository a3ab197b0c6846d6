# SPDX-License-Identifier: MIT
"""Zip archives with one meaning: what two readers could understand differently is an error.

Allowed is what ``torch.save`` and ``zipfile`` write without compression: stored members one after
the other from byte 0, then the central directory, then the end records, then nothing. Local and
central headers agree, data descriptors repeat them, names are unique even when case is ignored.
Where the caller says so members may be deflated; none grows past what its header says.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from gruengine.errors import ModelFileError

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")

_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_DESCRIPTOR, _UTF8 = 0x0008, 0x0800
_ALLOWED_FLAGS = _DESCRIPTOR | _UTF8 | 0x0006  # 1 and 2: levels of a deflate that is not used
MAX_MEMBERS = 100_000
MAX_NAME = 1024
MAX_GROWTH, GROWTH_FLOOR = 64, 64 << 20
_DEFLATE = 8


@dataclass(frozen=True)
class _Member:
    """One file of the archive as the central directory has it."""

    name: str
    raw_name: bytes
    flags: int
    crc: int
    size: int
    offset: int
    packed: int
    method: int


class ZipArchive:
    """The members of a zip archive in memory, as slices without a copy.

    Parameters
    ----------
    data : bytes
        The whole file.
    deflated : bool or str
        Members may be compressed by deflate, all together to 64 times the file or 64 MiB; a text
        is the second folder of the members that may be, ``"code"``: these cannot be read.

    Raises
    ------
    ModelFileError
        Anything but the form above; it says which member and what is allowed.
    """

    def __init__(self, data: bytes, deflated: bool | str = False) -> None:
        self._data = memoryview(data)
        self._inflates = deflated is True
        first, end, count = _find_directory(self._data)
        members = _read_directory(self._data, first, end, count, deflated)
        total = sum(member.size for member in members)
        if deflated is True and total > max(MAX_GROWTH * len(data), GROWTH_FLOOR):
            raise ModelFileError(
                f"zip members of {total} bytes in a file of {len(data)}; allowed is "
                f"{MAX_GROWTH} times the file"
            )
        self._members: dict[str, tuple[_Member, int]] = {}
        folded: dict[str, str] = {}
        position = 0
        for member in sorted(members, key=lambda one: one.offset):
            twin = folded.setdefault(member.name.casefold(), member.name)
            if member.name in self._members or twin != member.name:
                raise ModelFileError(
                    f"zip members {twin!r} and {member.name!r} share a name; each must be unique, "
                    "upper and lower case alike"
                )
            if member.offset != position:
                raise ModelFileError(
                    f"zip member {member.name!r} begins at byte {member.offset}; it must begin at "
                    f"{position}, where what stands before it ends"
                )
            begin, position = _check_member(self._data, member, first)
            self._members[member.name] = (member, begin)
        if position != first:
            raise ModelFileError(
                f"the zip directory begins at byte {first}; it must begin at {position}, "
                "after the last member"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all members, in the order of their bytes."""
        return tuple(self._members)

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def read(self, name: str) -> memoryview:
        """Return the bytes of one member after checking their CRC.

        Raises
        ------
        ModelFileError
            There is no such member, or its bytes do not have the CRC of its header.
        """
        if name not in self._members:
            raise ModelFileError(f"the zip archive has no member {name!r}")
        member, begin = self._members[name]
        if member.method and not self._inflates:
            raise ModelFileError(f"zip member {name!r} is compressed, and not to be read")
        view = self._data[begin : begin + member.packed]
        if member.method:
            try:
                view = memoryview(inflate(view, member.size))
            except ValueError as error:
                raise ModelFileError(f"zip member {name!r}: {error}") from None
        crc = zlib.crc32(view)
        if crc != member.crc:
            raise ModelFileError(
                f"zip member {name!r} has CRC {crc:08x}; its header says {member.crc:08x}"
            )
        return view


def _find_directory(data: memoryview) -> tuple[int, int, int]:
    """Read the end records: where the directory begins and ends, and how many members it has."""
    start = len(data) - _END.size
    if start < 0 or bytes(data[start : start + 4]) != b"PK\x05\x06":
        raise ModelFileError(
            f"a zip file of {len(data)} bytes must end with its end record, without a comment "
            "or other bytes after it; is the file cut off?"
        )
    _, disk, first_disk, here, count, size, offset, comment = _END.unpack_from(data, start)
    if comment or disk not in (0, _FULL16) or first_disk not in (0, _FULL16) or here != count:
        raise ModelFileError(
            "the zip end record has a comment or several disks; neither is allowed"
        )
    end = start
    located = start - _LOCATOR.size
    if located >= 0 and bytes(data[located : located + 4]) == b"PK\x06\x07":
        end, wide = _read_end64(data, located)
        narrow = (count, size, offset)
        limits = (_FULL16, _FULL32, _FULL32)
        if any(n not in (w, limit) for n, w, limit in zip(narrow, wide, limits, strict=True)):
            raise ModelFileError(f"zip end records disagree: {narrow} and, in 64 bits, {wide}")
        count, size, offset = wide
    elif _FULL16 in (disk, first_disk, count) or _FULL32 in (size, offset):
        raise ModelFileError("the zip end record refers to a 64-bit record that is not there")
    if offset + size != end:
        raise ModelFileError(
            f"the zip directory of {size} bytes at byte {offset} must end at byte {end}, "
            "where the end record begins"
        )
    if not 0 < count <= MAX_MEMBERS or count * _CENTRAL.size > size:
        raise ModelFileError(
            f"a zip directory of {count} members in {size} bytes; allowed are 1 to {MAX_MEMBERS} "
            f"of at least {_CENTRAL.size} bytes each"
        )
    return offset, end, count


def _read_end64(data: memoryview, located: int) -> tuple[int, tuple[int, int, int]]:
    """Read the 64-bit end record: where it begins, and (count, size, offset) of the directory."""
    _, disk, offset, disks = _LOCATOR.unpack_from(data, located)
    begin = located - _END64.size
    if disk != 0 or disks != 1 or begin < 0 or offset != begin:
        raise ModelFileError(
            f"the zip 64-bit end record is said to be at byte {offset} of disk {disk} of {disks}; "
            f"it must be at byte {begin} of one disk"
        )
    mark, length, _, _, disk, first_disk, here, count, size, directory = _END64.unpack_from(
        data, begin
    )
    if mark != b"PK\x06\x06" or length != _END64.size - 12 or disk or first_disk or here != count:
        raise ModelFileError(
            "the zip 64-bit end record is broken: it must have 56 bytes and speak of one disk"
        )
    return begin, (count, size, directory)


def _read_directory(
    data: memoryview, first: int, end: int, count: int, deflated: bool | str
) -> list[_Member]:
    members = []
    position = first
    for index in range(count):
        if end - position < _CENTRAL.size or bytes(data[position : position + 4]) != b"PK\x01\x02":
            raise ModelFileError(f"the zip directory has no entry {index} of {count}")
        fields = _CENTRAL.unpack_from(data, position)
        name_size, extra_size, comment_size = fields[10:13]
        length = _CENTRAL.size + name_size + extra_size + comment_size
        if length > end - position:
            raise ModelFileError(f"entry {index} of the zip directory runs past its end")
        position += _CENTRAL.size
        raw_name = bytes(data[position : position + name_size])
        extra = data[position + name_size : position + name_size + extra_size]
        members.append(_central_member(fields, raw_name, extra, deflated))
        position += name_size + extra_size + comment_size
    if position != end:
        raise ModelFileError(f"the zip directory has {end - position} bytes after its last entry")
    return members


def _central_member(
    fields: tuple[int, ...], raw_name: bytes, extra: memoryview, deflated: bool | str
) -> _Member:
    flags, method, crc, packed, size = fields[3], fields[4], fields[7], fields[8], fields[9]
    disk, offset = fields[13], fields[16]
    name = _decode_name(raw_name, flags)
    wide = _wide_values(extra, name, [size, packed, offset])
    size, packed, offset = wide
    _check_method(name, flags, method, deflated is True or name.split("/")[1:2] == [deflated])
    if (packed != size and not method) or disk != 0:
        raise ModelFileError(
            f"zip member {name!r} is stored as {packed} bytes for {size} on disk {disk}; "
            "a stored member has the same two sizes, on disk 0"
        )
    return _Member(name, raw_name, flags, crc, size, offset, packed, method)


def _check_method(name: str, flags: int, method: int, deflated: bool) -> None:
    if flags & _ENCRYPTED:
        raise ModelFileError(f"zip member {name!r} is encrypted; allowed are plain members")
    if flags & ~_ALLOWED_FLAGS:
        raise ModelFileError(
            f"zip member {name!r} has flags {flags:#06x}; allowed is {0x080E:#06x}"
        )
    if deflated and method not in (0, _DEFLATE):
        raise ModelFileError(
            f"zip member {name!r} has method {method}; allowed are stored and deflated members"
        )
    if method != 0 and not deflated:
        raise ModelFileError(
            f"zip member {name!r} is compressed (method {method}); allowed are stored members, as "
            "torch.save writes them (of TorchScript, its code alone may be compressed)"
        )


def _decode_name(raw: bytes, flags: int) -> str:
    try:
        name = raw.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError:
        raise ModelFileError(f"zip member name {raw[:80]!r} is no text") from None
    parts = name.rstrip("/").split("/")
    if (
        not name
        or len(raw) > MAX_NAME
        or not name.isprintable()
        or "\\" in name
        or any(part in ("", ".", "..") for part in parts)
    ):
        raise ModelFileError(
            f"zip member name {name[:80]!r} is not allowed: names are relative, printable, "
            f"without '..', of at most {MAX_NAME} bytes"
        )
    return name


def _wide_values(extra: memoryview, name: str, values: list[int]) -> list[int]:
    """Fill each of ``values`` that is all ones from the 64-bit extra field, in its order."""
    found: memoryview | None = None
    position = 0
    while position < len(extra):
        if len(extra) - position < 4:
            raise ModelFileError(f"zip member {name!r} has a broken extra field")
        kind, size = struct.unpack_from("<2H", extra, position)
        position += 4
        if size > len(extra) - position or (kind == 1 and found is not None):
            raise ModelFileError(f"zip member {name!r} has a broken extra field")
        if kind == 1:
            found = extra[position : position + size]
        position += size
    wanted = [index for index, value in enumerate(values) if value == _FULL32]
    if wanted and (found is None or len(found) < 8 * len(wanted)):
        raise ModelFileError(f"zip member {name!r} lacks the 64-bit sizes that it refers to")
    result = list(values)
    if found is not None:
        for place, index in enumerate(wanted):
            result[index] = struct.unpack_from("<Q", found, 8 * place)[0]
    return result


def _check_member(data: memoryview, member: _Member, limit: int) -> tuple[int, int]:
    """Compare the local header with the directory; return where the bytes begin and it all ends."""
    position = member.offset
    if limit - position < _LOCAL.size or bytes(data[position : position + 4]) != b"PK\x03\x04":
        raise ModelFileError(f"zip member {member.name!r} has no local header at byte {position}")
    fields = _LOCAL.unpack_from(data, position)
    flags, method, crc, packed, size, name_size, extra_size = fields[2], fields[3], *fields[6:11]
    begin = position + _LOCAL.size + name_size + extra_size
    if begin > limit or member.packed > limit - begin:
        raise ModelFileError(
            f"zip member {member.name!r} of {member.packed} bytes runs past the members' end"
        )
    position += _LOCAL.size
    raw_name = bytes(data[position : position + name_size])
    extra = data[position + name_size : begin]
    size, packed = _wide_values(extra, member.name, [size, packed])
    known = (member.crc, member.packed, member.size)
    expected = (member.raw_name, member.flags, member.method, *known)
    # A header written before its bytes were known has zeros here and a descriptor behind the bytes.
    late = bool(member.flags & _DESCRIPTOR) and (crc, packed, size) == (0, 0, 0)
    seen = known if late else (crc, packed, size)
    if (raw_name, flags, method, *seen) != expected:
        raise ModelFileError(
            f"zip member {member.name!r}: its local header and the directory disagree; "
            "they must have the same name, flags, method, CRC and sizes"
        )
    end = begin + member.packed
    if member.flags & _DESCRIPTOR:
        end += _check_descriptor(data[end:limit], member)
    return begin, end


def _check_descriptor(after: memoryview, member: _Member) -> int:
    """Return the size of the data descriptor, which must repeat the directory."""
    for form in ("<4sI2I", "<4sI2Q"):
        record = struct.Struct(form)
        if max(member.size, member.packed) <= _FULL32 or form.endswith("Q"):
            expected = record.pack(b"PK\x07\x08", member.crc, member.packed, member.size)
            if bytes(after[: record.size]) == expected:
                return record.size
    raise ModelFileError(
        f"zip member {member.name!r} must be followed by a data descriptor that repeats its CRC "
        "and sizes"
    )


def inflate(data: bytes | memoryview, limit: int, window: int = -zlib.MAX_WBITS) -> bytes:
    """Inflate a whole deflate stream of at most ``limit`` bytes (``window`` as for zlib).

    Raises
    ------
    ModelFileError
        The stream is broken, does not end, gives more, or has bytes after it.
    """
    stream = zlib.decompressobj(window)
    try:
        result = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise ModelFileError(f"compressed data is broken: {error}") from None
    if len(result) > limit:
        raise ModelFileError(f"compressed data gives more than the {limit} bytes it should")
    if not stream.eof or stream.unused_data or stream.unconsumed_tail:
        raise ModelFileError("compressed data does not end where it should")
    return result
