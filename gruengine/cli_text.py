# SPDX-License-Identifier: MIT
"""Plain text for the command line: tables, sizes, sparklines, progress."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.-=+*#@"


def table(rows: Iterable[Sequence[str]], right: Sequence[int] = (), indent: str = "  ") -> str:
    """Return rows in aligned columns; columns in ``right`` are aligned to the right."""
    lines = [list(row) for row in rows]
    if not lines:
        return ""
    widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))]
    out = []
    for row in lines:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        out.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(out)


def fields(pairs: Iterable[tuple[str, str]], indent: str = "  ") -> str:
    """Return ``label  value`` lines; pairs with an empty value are left out."""
    return table([pair for pair in pairs if pair[1]], indent=indent)


def seconds(value: float) -> str:
    """Return a duration with three digits: ``1.23 us``, ``45.6 ms``."""
    for unit, scale in (("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3)):
        if value < 999.5 * scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.3g} s"


def size(count: int) -> str:
    """Return a number of bytes as a person reads it."""
    if count < 10_000:
        return f"{count:,} bytes"
    return f"{count / 1024:,.0f} KiB" if count < 10 * 1024**2 else f"{count / 1024**2:,.1f} MiB"


def shape(sizes: Sequence[int | str]) -> str:
    """Return ``[N, T, 3]``."""
    return "[" + ", ".join(str(value) for value in sizes) + "]"


def spark(values: Sequence[float], low: float, high: float, stream: TextIO | None = None) -> str:
    """Return one character a value from ``low`` to ``high``: blocks, or ASCII if they must be."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    try:
        _BLOCKS.encode(encoding)
        levels = _BLOCKS
    except (UnicodeEncodeError, LookupError):
        levels = _ASCII
    span = high - low or 1.0
    found = []
    for value in values:
        part = 0.0 if math.isnan(value) else (value - low) / span
        found.append(levels[min(len(levels) - 1, max(0, int(part * len(levels))))])
    return "".join(found)


def progress(text: str) -> None:
    """Write a line to stderr if a person is watching."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


class Bar:
    """A line on stderr that says how far a conversion is, where a person is watching.

    It is drawn over itself and is gone at the end of the ``with`` block.
    """

    STAGES = ("reading", "converting", "computing the sample", "checking", "writing")
    WIDTH = 24

    def __init__(self, title: str) -> None:
        self._title, self._shown, self._last = title, sys.stderr.isatty(), ""

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._draw("")

    def __call__(self, what: str, part: float) -> None:
        """Show that ``part`` (0 to 1) of the stage ``what`` is done."""
        place = self.STAGES.index(what) if what in self.STAGES else 0
        done = (place + min(max(part, 0.0), 1.0)) / len(self.STAGES)
        full = int(done * self.WIDTH)
        bar = "#" * full + "." * (self.WIDTH - full)
        self._draw(f"[{bar}] {100 * done:3.0f} %  {what} {self._title}")

    def _draw(self, line: str) -> None:
        line = line[: shutil.get_terminal_size().columns - 1]
        if self._shown and line != self._last:
            # Back to the first column, the new line, and nothing of the old one after it.
            sys.stderr.write(f"\r{line}\x1b[K")
            sys.stderr.flush()
            self._last = line


def print_json(value: Any) -> None:
    """Write a JSON document to stdout."""
    print(json.dumps(value, indent=2, default=str))
