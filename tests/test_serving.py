# SPDX-License-Identifier: MIT
"""Overload, clients that vanish, streams that come and go; see ``tests/soak/serving.py``."""

from __future__ import annotations

from soak.serving import opens_and_closes, overload


def test_ten_times_the_load() -> None:
    overload(1.0)


def test_opens_and_closes_leave_no_memory() -> None:
    opens_and_closes(30_000)
