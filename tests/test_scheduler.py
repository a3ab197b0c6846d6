# SPDX-License-Identifier: MIT
"""The scheduler: the bits of streams alone from any thread and event loop; no answer is lost."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import gruengine as gr

Array = np.ndarray[Any, Any]
F = 4


def lstm(units: int = 9) -> gr.Model:
    net = gr.Sequential(
        [gr.LSTM(units, return_sequences=True), gr.GRU(5, return_sequences=True), gr.Dense(3)], F
    )
    return net.compile()


@pytest.fixture(scope="module")
def model() -> gr.Model:
    return lstm()


def frames(rng: np.random.Generator, count: int) -> Array:
    return rng.normal(size=(count, 1, F)).astype(np.float32)


def alone(model: gr.Model, x: Array) -> Array:
    stream = model.stream()
    return np.stack([stream.step(frame) for frame in x])


# -- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "wait"), [(1, 0), (3, 0), (2, 300)])
def test_threads_get_the_bits_of_streams_alone(isa: str, workers: int, wait: int) -> None:
    model = lstm()
    options: Any = {"max_batch": 8, "max_wait_us": wait, "num_threads": workers}
    with gr.Scheduler(model, max_streams=32, **options) as scheduler:

        def live(seed: int) -> bool:
            rng = np.random.default_rng(seed)
            equal = True
            for _ in range(3):
                stream, x = scheduler.open(), frames(rng, 15)
                y = np.stack([scheduler.step(stream, frame) for frame in x])
                equal = equal and np.array_equal(y, alone(model, x))
                scheduler.close(stream)
            return equal

        with ThreadPoolExecutor(16) as pool:
            assert all(pool.map(live, range(16)))
        metrics = scheduler.metrics()
    assert metrics["steps"] == metrics["rows"] == 16 * 45
    assert (metrics["streams"], metrics["failed"], metrics["queued"]) == (0, 0, 0)


def test_asyncio_gets_the_bits_of_streams_alone(isa: str) -> None:
    model = lstm()

    async def client(scheduler: gr.Scheduler, seed: int) -> bool:
        x = frames(np.random.default_rng(seed), 20)
        stream = scheduler.open()
        y = [await scheduler.step_async(stream, frame) for frame in x[:10]]
        # Given at once, they run in the order of the calls.
        y += await asyncio.gather(*(scheduler.step_async(stream, frame) for frame in x[10:]))
        scheduler.close(stream)
        return np.array_equal(np.stack(y), alone(model, x))

    async def main() -> list[bool]:
        with gr.Scheduler(model, max_queue=1000, num_threads=2) as scheduler:
            return await asyncio.gather(*(client(scheduler, seed) for seed in range(50)))

    assert all(asyncio.run(main()))


def test_steps_that_wait_become_one_batch(model: gr.Model) -> None:
    held, go = threading.Event(), threading.Event()

    def hold(_rows: int) -> None:
        held.set()
        go.wait(10)

    async def main() -> dict[str, Any]:
        with gr.Scheduler(model, max_streams=9, _on_batch=hold) as scheduler:
            streams = [scheduler.open() for _ in range(9)]
            x = np.ones((1, F), np.float32)
            first = scheduler.step_async(streams[0], x)
            await asyncio.to_thread(held.wait, 10)
            others = [scheduler.step_async(stream, x) for stream in streams[1:]]
            assert scheduler.metrics()["queued"] == 8
            go.set()
            await asyncio.gather(first, *others)
            return scheduler.metrics()

    metrics = asyncio.run(main())
    assert metrics["batch_sizes"] == {1: 1, 8: 1}
    assert metrics["max_queued"] == 8


def test_states(model: gr.Model) -> None:
    rng = np.random.default_rng(0)
    x = frames(rng, 6)
    with gr.Scheduler(model, max_streams=2) as scheduler:
        a = scheduler.open()
        first = [scheduler.step(a, frame) for frame in x]
        b = scheduler.open(scheduler.get_state(a))
        assert np.array_equal(scheduler.step(a, x[0]), scheduler.step(b, x[0]))
        scheduler.set_state(a, model.stream().get_state())
        assert np.array_equal([scheduler.step(a, frame) for frame in x], first)
        with pytest.raises(gr.Overloaded, match="all 2 places"):
            scheduler.open()
        with pytest.raises(gr.InvalidInputError, match="cannot set this state"):
            scheduler.set_state(a, b"none")
        assert sorted(scheduler.ids()) == sorted([a, b])
    assert len(scheduler.get_state(a)) == len(model.stream().get_state())


def test_rows_may_be_left_out_and_outputs_given(model: gr.Model) -> None:
    with gr.Scheduler(model) as scheduler:
        a, b = scheduler.open(), scheduler.open()
        x, out = np.ones((1, F), np.float32), np.empty(3, np.float32)
        y = scheduler.step(a, x)
        assert y.shape == (1, 3)
        assert scheduler.step(b, x[0], out=out) is out
        assert np.array_equal(out, y[0])


# -- mistakes -------------------------------------------------------------------------------------


def test_mistakes_harm_nothing(model: gr.Model) -> None:
    x = np.ones((1, F), np.float32)
    with gr.Scheduler(model, max_streams=4) as scheduler, gr.Scheduler(model) as another:
        stream, closed, foreign = scheduler.open(), scheduler.open(), another.open()
        scheduler.close(closed)
        scheduler.step(stream, x)
        state = scheduler.get_state(stream)
        for wrong, text in ((closed, "was closed"), (foreign, "another pool"), (7, "another pool")):
            for call in (scheduler.close, scheduler.get_state, lambda i: scheduler.step(i, x)):
                with pytest.raises(gr.InvalidInputError, match=text):
                    call(wrong)
        for bad in (np.ones((2, F), np.float32), np.ones(5, np.float32)):
            with pytest.raises(gr.InvalidInputError, match="has shape"):
                scheduler.step(stream, bad)
        with pytest.raises(gr.InvalidTypeError, match="float64"):
            scheduler.step(stream, np.ones((1, F)))
        with pytest.raises(gr.InvalidTypeError, match="seconds"):
            scheduler.step(stream, x, timeout=-1)
        assert scheduler.get_state(stream) == state
    for name in ("max_streams", "max_batch", "num_threads"):
        with pytest.raises(gr.InvalidInputError, match=f"{name} is 0"):
            gr.Scheduler(model, **{name: 0})
    with pytest.raises(gr.InvalidTypeError, match="a gruengine"):
        gr.Scheduler(3)  # type: ignore[arg-type]


def test_a_refused_value_fails_its_own_step_alone() -> None:
    words = gr.Sequential([gr.Embedding(5, 4), gr.LSTM(6, return_sequences=True)]).compile()

    async def main(scheduler: gr.Scheduler) -> list[Any]:
        streams = [scheduler.open() for _ in range(20)]
        steps = [
            scheduler.step_async(stream, np.array([99 if k == 7 else k % 5]))
            for k, stream in enumerate(streams)
        ]
        return await asyncio.gather(*steps, return_exceptions=True)

    with gr.Scheduler(words) as scheduler:
        found = asyncio.run(main(scheduler))
    for k, y in enumerate(found):
        if k == 7:
            assert isinstance(y, gr.InvalidInputError)
            assert "99" in str(y)
        else:
            assert np.array_equal(y, words.stream().step(np.array([k % 5])))


# -- pressure -------------------------------------------------------------------------------------


class Held:
    """A scheduler whose first batch is held until go()."""

    def __init__(self, model: gr.Model, **options: Any) -> None:
        self.entered, self.free = threading.Event(), threading.Event()
        self.scheduler = gr.Scheduler(model, _on_batch=self.hold, **options)
        self.x = np.ones((1, F), np.float32)
        self.first = self.scheduler.open()
        self.thread = threading.Thread(target=self.scheduler.step, args=(self.first, self.x))
        self.thread.start()
        self.entered.wait(10)

    def hold(self, _rows: int) -> None:
        self.entered.set()
        self.free.wait(10)

    def go(self) -> None:
        self.free.set()
        self.thread.join()
        self.scheduler.shutdown()


def test_a_full_queue_refuses(model: gr.Model) -> None:
    held = Held(model, max_queue=3)

    async def main() -> None:
        steps = [held.scheduler.step_async(held.first, held.x) for _ in range(3)]
        with pytest.raises(gr.Overloaded, match="3 steps wait"):
            held.scheduler.step_async(held.first, held.x)
        held.free.set()
        await asyncio.gather(*steps)

    asyncio.run(main())
    held.go()
    metrics = held.scheduler.metrics()
    assert (metrics["overloaded"], metrics["steps"]) == (1, 4)


def test_deadlines(model: gr.Model) -> None:
    held = Held(model)
    other = held.scheduler.open()
    before = held.scheduler.get_state(other)

    async def main() -> Any:
        late = held.scheduler.step_async(other, held.x, timeout=0.001)
        with pytest.raises(gr.DeadlineError, match="not begun"):
            held.scheduler.step(other, held.x, timeout=0.02)
        held.free.set()
        return await asyncio.gather(late, return_exceptions=True)

    assert isinstance(asyncio.run(main())[0], gr.DeadlineError)
    assert held.scheduler.get_state(other) == before
    held.go()
    assert held.scheduler.metrics()["expired"] == 2
    assert issubclass(gr.DeadlineError, TimeoutError)


def test_closing_answers_the_steps_that_wait(model: gr.Model) -> None:
    held = Held(model)
    other = held.scheduler.open()

    async def main() -> list[Any]:
        steps = [held.scheduler.step_async(other, held.x) for _ in range(3)]
        held.scheduler.close(other)
        return await asyncio.gather(*steps, return_exceptions=True)

    for error in asyncio.run(main()):
        assert isinstance(error, gr.InvalidInputError)
        assert "closed" in str(error)
    held.go()


def test_a_client_that_vanishes_leaves_nothing(model: gr.Model) -> None:
    async def client(scheduler: gr.Scheduler, seed: int) -> None:
        stream = scheduler.open()
        try:
            for frame in frames(np.random.default_rng(seed), 200):
                await scheduler.step_async(stream, frame)
        finally:
            scheduler.close(stream)

    async def main(scheduler: gr.Scheduler) -> None:
        tasks = [asyncio.create_task(client(scheduler, seed)) for seed in range(20)]
        await asyncio.sleep(0.01)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    with gr.Scheduler(model) as scheduler:
        asyncio.run(main(scheduler))
        metrics = scheduler.metrics()
    assert (metrics["streams"], metrics["queued"], metrics["running"]) == (0, 0, 0)


def test_a_failed_worker_answers_everybody(model: gr.Model) -> None:
    count, given = iter(range(100)), threading.Event()

    def die(_rows: int) -> None:
        given.wait(10)
        if next(count) == 3:
            raise MemoryError("no more")

    async def main(scheduler: gr.Scheduler) -> list[Any]:
        x = np.ones((1, F), np.float32)
        streams = [scheduler.open() for _ in range(30)]
        steps = [scheduler.step_async(stream, x) for stream in streams for _ in range(5)]
        given.set()
        return await asyncio.gather(*steps, return_exceptions=True)

    scheduler = gr.Scheduler(model, max_batch=8, _on_batch=die)
    found = asyncio.run(main(scheduler))
    failed = [y for y in found if isinstance(y, gr.InternalError)]
    assert 150 - 24 <= len(failed) <= 150 - 17  # the first batch may be short
    assert all("MemoryError: no more" in str(error) for error in failed)
    assert not scheduler.is_open
    with pytest.raises(gr.InternalError, match="MemoryError"):
        scheduler.open()
    scheduler.shutdown()


# -- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("drain", [True, False])
def test_shutdown_loses_nothing(model: gr.Model, drain: bool) -> None:
    held = Held(model, max_batch=4)

    async def main() -> list[Any]:
        streams = [held.scheduler.open() for _ in range(10)]
        steps = [held.scheduler.step_async(s, held.x) for s in streams for _ in range(3)]
        closer = threading.Thread(target=held.scheduler.shutdown, args=(drain,))
        closer.start()
        while held.scheduler.is_open:
            await asyncio.sleep(0.001)
        with pytest.raises(gr.SchedulerClosedError):
            held.scheduler.step_async(streams[0], held.x)
        held.free.set()
        found = await asyncio.gather(*steps, return_exceptions=True)
        closer.join()
        return found

    for y in asyncio.run(main()):
        assert isinstance(y, np.ndarray if drain else gr.SchedulerClosedError)
    held.go()
    with pytest.raises(gr.SchedulerClosedError):
        held.scheduler.open()


def test_idle_streams_are_evicted_with_their_state(model: gr.Model) -> None:
    evicted: dict[int, bytes] = {}
    x = np.ones((1, F), np.float32)
    with gr.Scheduler(model, idle_timeout=0.05, on_evict=evicted.__setitem__) as scheduler:
        stream = scheduler.open()
        y = [scheduler.step(stream, x) for _ in range(3)]
        while not evicted:
            time.sleep(0.005)
        with pytest.raises(gr.InvalidInputError, match="was closed"):
            scheduler.step(stream, x)
        again = scheduler.open(evicted[stream])
        y.append(scheduler.step(again, x))
        assert scheduler.metrics()["evicted"] == 1
    assert np.array_equal(np.stack(y), alone(model, np.stack([x] * 4)))


def test_metrics_as_text(model: gr.Model) -> None:
    with gr.Scheduler(model) as scheduler:
        stream = scheduler.open()
        for _ in range(5):
            scheduler.step(stream, np.ones((1, F), np.float32))
        text = scheduler.prometheus({"model": 'a"b'})
    lines = text.splitlines()
    assert 'gruengine_steps_total{model="a\\"b"} 5' in lines
    assert 'gruengine_batch_rows_bucket{model="a\\"b",le="1"} 5' in lines
    assert 'gruengine_latency_seconds_count{model="a\\"b"} 5' in lines
    assert sum(line.startswith("# TYPE") for line in lines) == 13
    assert "gruengine_streams 1" in gr.Scheduler.prometheus(scheduler).splitlines()


def test_a_scheduler_that_is_forgotten_goes(model: gr.Model) -> None:
    before = threading.active_count()
    for _ in range(20):
        scheduler = gr.Scheduler(model)
        scheduler.step(scheduler.open(), np.ones((1, F), np.float32))
        scheduler.cycle = scheduler  # type: ignore[attr-defined]
        del scheduler
    gc.collect()
    assert threading.active_count() == before
    with open("/proc/self/status") as status:
        native = next(int(line.split()[1]) for line in status if line.startswith("Threads:"))
    assert native < 20 + before
