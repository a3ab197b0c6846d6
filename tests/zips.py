# SPDX-License-Identifier: MIT
"""Zip archives that depend on nothing but what is put in: no clock, no file system."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable


def zipped(members: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive of (name, content) pairs, dated 1980 like all that have no date."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return stream.getvalue()
