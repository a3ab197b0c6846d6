# SPDX-License-Identifier: MIT
"""Long lives of pools and schedulers: ``python tests/soak/serving.py [SECONDS] [MILLIONS]``.

Overload for that many seconds (60), clients that vanish meanwhile, and that many million (1) opens
and closes; the tests run it for a moment. Each prints what it found, and fails on a lost answer, a
wrong number or memory that grows.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import gruengine as gr

Array = np.ndarray[Any, Any]
I = 16
STREAMS = 64


def resident() -> int:
    """Return the bytes of memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def net(H: int) -> gr.Model:
    return gr.Sequential([gr.LSTM(H, return_sequences=True), gr.Dense(4)], I).compile()


def capacity(scheduler: gr.Scheduler, x: Array) -> float:
    """Return about how many steps a second one thread is answered."""
    stream, count, start = scheduler.open(), 0, time.perf_counter()
    while time.perf_counter() - start < 0.2:
        scheduler.step(stream, x)
        count += 1
    scheduler.close(stream)
    return count / 0.2


async def overloaded(scheduler: gr.Scheduler, rate: float, seconds: float) -> dict[str, int]:
    """Give ``rate`` steps a second to all streams in turn; some clients vanish on the way."""
    loop, random = asyncio.get_running_loop(), np.random.default_rng(0)
    x = random.normal(size=(STREAMS, 1, I)).astype(np.float32)
    ids = [scheduler.open() for _ in range(STREAMS)]
    solo = [scheduler.model.stream() for _ in ids]
    accepted = [0] * STREAMS
    count = {"given": 0, "refused": 0, "answered": 0, "vanished": 0}
    waiting: set[asyncio.Future[Any]] = set()

    def answered(future: asyncio.Future[Any]) -> None:
        waiting.discard(future)
        count["answered"] += not future.cancelled() and future.exception() is None

    start = loop.time()
    while (now := loop.time() - start) < seconds:
        for _ in range(min(10_000, int(now * rate) - count["given"])):
            row = count["given"] % STREAMS
            count["given"] += 1
            try:
                future = scheduler.step_async(ids[row], x[row])
            except gr.Overloaded:
                count["refused"] += 1
                continue
            accepted[row] += 1
            waiting.add(future)
            future.add_done_callback(answered)
            if random.random() < 0.01:  # its client vanishes: the step is done all the same
                count["vanished"] += 1
                future.cancel()
        await asyncio.sleep(0)
    while waiting:
        await asyncio.sleep(0.01)
    taken = count["given"] - count["refused"]
    assert count["answered"] + count["vanished"] == taken, count
    # Every step that was taken was done, once and in its stream's order.
    for row in range(0, STREAMS, 9):
        for _ in range(accepted[row]):
            solo[row].step(x[row])
        wanted = solo[row].get_state()
        assert scheduler.get_state(ids[row]) == wanted, row
    for own in ids:
        scheduler.close(own)
    return count


def overload(seconds: float) -> None:
    """Ten times the load that a scheduler takes."""
    x = np.zeros((1, I), np.float32)
    # Steps that take longer than it takes Python to give them.
    options = {"max_streams": STREAMS + 1, "max_queue": 256, "max_batch": 1}
    with gr.Scheduler(net(512), **options) as scheduler:
        rate = 10 * capacity(scheduler, x)
        asyncio.run(overloaded(scheduler, rate, min(seconds, 0.5)))
        before = resident()
        count = asyncio.run(overloaded(scheduler, rate, seconds))
        grown = resident() - before
        y = scheduler.step(scheduler.open(), x)
        assert np.array_equal(y, scheduler.model.stream().step(x))
        metrics = scheduler.metrics()
    assert metrics["overloaded"] >= count["refused"] > 0
    assert metrics["failed"] == metrics["queued"] == 0
    load = count["given"] / (count["answered"] + count["vanished"])
    print(f"overload: {seconds:g} s of {load:.1f} times what was answered, {count}, "
          f"memory grew by {grown / 1e6:.2f} MB")  # fmt: skip
    assert grown < 8e6


def opens_and_closes(count: int) -> None:
    """Streams come and go in a pool and in a scheduler; memory stays as it is."""
    model = net(96)
    pool = model.pool(STREAMS)
    x = np.zeros((2, I), np.float32)
    with gr.Scheduler(model, max_streams=STREAMS) as scheduler:

        def some(number: int) -> None:
            for turn in range(number):
                ids = [pool.open(), pool.open()]
                stream = scheduler.open()
                if turn % 16 == 0:
                    ids.append(pool.fork(ids[0]))
                    pool.step(ids[:2], x)
                    scheduler.set_state(stream, pool.get_state(ids[1]))
                    scheduler.step(stream, x[:1])
                pool.close(ids)
                scheduler.close(stream)

        some(2000)
        before = resident()
        some(count)
        grown = resident() - before
    print(f"opens and closes: {count:,} of a scheduler, twice as many of a pool, "
          f"memory grew by {grown / 1e6:.2f} MB")  # fmt: skip
    assert grown < 2e6
    assert len(pool) == 0


if __name__ == "__main__":
    overload(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)
    opens_and_closes(int(1e6 * float(sys.argv[2] if len(sys.argv) > 2 else 1)))
