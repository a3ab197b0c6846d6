# SPDX-License-Identifier: MIT
"""One line on a terminal that says how far a training is."""

from __future__ import annotations

import sys
import time
from typing import TextIO

WIDTH = 24


class Progress:
    """A progress bar on standard error.

    Parameters
    ----------
    total : int
        Updates of an epoch.
    shown : bool, optional
        None: if standard error is a terminal.
    """

    def __init__(self, total: int, shown: bool | None = None, out: TextIO | None = None) -> None:
        self.total, self.out = max(total, 1), out or sys.stderr
        self.shown = self.out.isatty() if shown is None else shown
        self.started = self.last = time.monotonic()

    def show(self, label: str, done: int, values: dict[str, float]) -> None:
        """Draw the bar, at most ten times a second."""
        now = time.monotonic()
        if not self.shown or (now - self.last < 0.1 and done < self.total):
            return
        self.last = now
        full = WIDTH * done // self.total
        bar = "#" * full + "." * (WIDTH - full)
        self.out.write(f"\r{label} [{bar}] {done}/{self.total}  {_text(values)} ")
        self.out.flush()

    def end(self, label: str, values: dict[str, float]) -> None:
        """Replace the bar by a line that stays."""
        if self.shown:
            seconds = time.monotonic() - self.started
            self.out.write(f"\r\x1b[K{label}  {_text(values)}  {seconds:.1f} s\n")
            self.out.flush()
        self.started = time.monotonic()


def _text(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.5g}" for name, value in values.items())
