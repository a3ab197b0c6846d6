# SPDX-License-Identifier: MIT
"""The engine itself in float32 on one thread, beside what it does in another way."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.cases import Case
from benchmarks.peers import Runner, ours

version = ours.version
missing = ours.missing


def prepare(case: Case) -> Runner | None:
    """Return what the case would be in float32, or None where it is that already."""
    plain = replace(case, compute_type="float32", threads=1)
    return None if plain == case else ours.prepare(plain)
