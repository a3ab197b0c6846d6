# SPDX-License-Identifier: MIT
"""Two calls timed in turns, so that both see the same machine."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from statistics import median, quantiles
from time import perf_counter, process_time

Call = Callable[[], object]

# A round is void if the process was off the CPU for more than this part of it.
_AWAY = 0.03
# A race ends early after so many times what it should take, but not before so many pairs.
_LONGEST = 40
_FEWEST = 9


@dataclass(frozen=True)
class Race:
    """Medians over rounds, in seconds a call; the ratio is peer / ours, round by round.

    low, high : quartiles of the ratio
    void : rounds thrown away because another process had the core meanwhile
    """

    ours: float
    peer: float
    ratio: float
    low: float
    high: float
    rounds: int
    void: int


@contextmanager
def quiet(core: int | None) -> Iterator[None]:
    """Pin this thread to one core, where the system can, and keep the collector away."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if before is not None and core is not None:
        os.sched_setaffinity(0, {core})
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
        if before is not None:
            os.sched_setaffinity(0, before)


@contextmanager
def cores(count: int) -> Iterator[None]:
    """Let this thread run on any core while more than one is wanted."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if before is None or count == 1:
        yield
        return
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def race(ours: Call, peer: Call, *, rounds: int, seconds: float, cores: int = 1) -> Race:
    """Time ``ours, peer, ours, peer, ...``; each turn lasts about ``seconds``.

    On one core the time is that of the process, whichever of its threads an engine runs on, and a
    pair in which another process took the core is repeated, but three times as many turns as asked
    are the most. On several cores it is that of the clock.
    """
    counts = [_count(call, seconds) for call in (ours, peer)]
    pairs: list[tuple[float, float]] = []
    spare: list[tuple[float, float]] = []
    # Calls of a second and more say what they say in few turns.
    fewest = _FEWEST if max(counts) > 1 else 3
    start = perf_counter()
    for _ in range(4 * rounds):
        first, clean_first = _turn(ours, counts[0], cores)
        second, clean_second = _turn(peer, counts[1], cores)
        (pairs if clean_first and clean_second else spare).append((first, second))
        long = perf_counter() - start > _LONGEST * rounds * seconds
        if len(pairs) == rounds or (long and len(pairs) + len(spare) >= fewest):
            break
    enough = max(2, min(rounds, fewest) // 4)
    kept = pairs if len(pairs) >= enough else pairs + spare
    ratios = [second / first for first, second in kept]
    low, _, high = quantiles(ratios, n=4)
    return Race(
        median(first for first, _ in kept),
        median(second for _, second in kept),
        median(ratios),
        low,
        high,
        len(kept),
        len(pairs) + len(spare) - len(kept),
    )


def _turn(call: Call, count: int, cores: int) -> tuple[float, bool]:
    """Return the seconds of a call, and whether the process kept its core meanwhile.

    Time that another process had the core does not count; what it did to the caches does.
    """
    call()  # the other's turn has left the caches in its own state
    start, on_cpu = perf_counter(), process_time()
    for _ in repeat(None, count):
        call()
    spent = process_time() - on_cpu
    wall = perf_counter() - start
    if cores > 1:
        return wall / count, True
    return spent / count, wall - spent < _AWAY * wall


def _count(call: Call, seconds: float) -> int:
    """Warm up for a turn and return how many calls one takes."""
    count, spent = 1, 0.0
    while spent < seconds:
        start = perf_counter()
        for _ in repeat(None, count):
            call()
        spent = perf_counter() - start
        if spent < seconds:
            count = max(count + 1, min(10 * count, int(count * seconds / max(spent, 1e-9))))
    return count
