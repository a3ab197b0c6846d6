# SPDX-License-Identifier: MIT
"""Threads: models shared, streams not; the GIL; forks; and that two threads do run."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gruengine as gr

Array = np.ndarray[Any, Any]
I = 24


@cache
def large(threads: int = 1) -> gr.Model:
    """A model whose steps let the GIL go and are worth two threads."""
    return gr.Sequential([gr.LSTM(256, return_sequences=True)], I).compile(num_threads=threads)


def frames(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(*shape, I)).astype(np.float32)


def together(jobs: list[Callable[[], Any]]) -> list[Any]:
    """Run all jobs at once; return their results or the exceptions they raised."""
    results: list[Any] = [None] * len(jobs)
    start = threading.Barrier(len(jobs))

    def work(at: int) -> None:
        start.wait()
        try:
            results[at] = jobs[at]()
        except BaseException as error:
            results[at] = error

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("threads", [1, 2])
def test_one_model_serves_many_threads(threads: int) -> None:
    model = large(threads)
    xs = [frames(1 + i % 3, 5 + i, seed=i) for i in range(8)]
    wanted = [model(x) for x in xs]

    def calls(at: int) -> list[Array]:
        return [model(xs[(at + k) % 8]) for k in range(8)]

    for at, results in enumerate(together([lambda at=at: calls(at) for at in range(6)])):
        for k, found in enumerate(results):
            np.testing.assert_array_equal(found, wanted[(at + k) % 8])


def test_each_thread_with_a_stream_of_its_own() -> None:
    model = large()
    x = frames(40, 1)
    want = np.stack([(s := model.stream()).step(x[0])] + [s.step(frame) for frame in x[1:]])

    def walk() -> Array:
        stream = model.stream()
        return np.stack([stream.step(frame) for frame in x])

    for found in together([walk] * 6):
        np.testing.assert_array_equal(found, want)


def test_a_stream_used_by_two_gets_an_error_and_stays_whole() -> None:
    model = large()
    chunk = frames(1, 400)
    want = model(chunk)
    busy = 0
    for _ in range(20):
        stream = model.stream()
        results = together([partial(stream.run, chunk)] * 2)
        errors = [result for result in results if isinstance(result, Exception)]
        assert all(isinstance(error, gr.StreamBusyError) for error in errors), errors
        busy += len(errors)
        assert len(errors) < 2
        done = [result for result in results if not isinstance(result, Exception)]
        np.testing.assert_array_equal(done[0] if len(done) == 1 else want, want)
        # Whoever was refused changed nothing: the state is that of the runs that went through.
        other = model.stream()
        for _ in done:
            other.run(chunk)
        assert stream.get_state() == other.get_state()
    assert busy > 0, "the two never met"


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.step(frames(1)),
        lambda s: s.reset(),
        lambda s: s.get_state(),
        lambda s: s.set_state(b""),
        lambda s: s.clone(),
        lambda s: s.state,
    ],
    ids=["step", "reset", "get_state", "set_state", "clone", "state"],
)
def test_every_method_refuses_a_stream_in_use(call: Callable[[gr.Stream], Any]) -> None:
    stream, chunk, stop = large().stream(), frames(1, 2000), threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            with suppress(gr.StreamBusyError):  # the call may have come first
                stream.run(chunk)

    worker = threading.Thread(target=keep_busy)
    worker.start()
    refused = ""
    deadline = time.monotonic() + 30
    while not refused and time.monotonic() < deadline:
        time.sleep(1e-5)  # lets the worker in
        try:
            call(stream)
        except gr.StreamBusyError as error:
            refused = str(error)
        except gr.InvalidInputError:
            pass  # set_state, between two runs
    stop.set()
    worker.join()
    assert "another caller" in refused


def python(program: str, cwd: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


HEAD = """
import os, numpy as np, gruengine as gr
net = gr.Sequential([gr.LSTM(256, return_sequences=True)], 24)
x = np.random.default_rng(0).normal(size=(2, 12, 24)).astype("f4")
def tasks():
    return len(os.listdir("/proc/self/task"))
"""

needs_two = pytest.mark.skipif(
    gr.info()["max_threads"] < 2, reason="this machine has one processor"
)


@needs_two
def test_two_threads_do_run(tmp_path: Path) -> None:
    program = HEAD + (
        "before = tasks(); net.compile()(x); one = tasks()\n"
        "net.compile(num_threads=2)(x); print(one - before, tasks() - one)"
    )
    assert python(program, tmp_path).split() == ["0", "1"]


def same_states(found: dict[str, Array], want: dict[str, Array]) -> None:
    assert found.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(found[name], value, name)


def same_with_threads(layers: list[Any], inputs: int, N: int, T: int, compute_type: str) -> None:
    net = gr.Sequential(layers, inputs, seed=1)
    x = np.random.default_rng(2).normal(size=(N, T, inputs)).astype(np.float32)
    one, many = (net.compile(num_threads=n, compute_type=compute_type) for n in (1, 4))
    _, state = one.run(x)
    want, last = one.run(x, state=state)
    for _ in range(3):  # threads come when they come
        found, found_last = many.run(x, state=state)
        np.testing.assert_array_equal(found, want)
        same_states(found_last, last)
    frames = [many.stream(batch_size=N), one.stream(batch_size=N)]
    for t in range(min(T, 12)):
        got, wanted = (stream.step(np.ascontiguousarray(x[:, t])) for stream in frames)
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("compute_type", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(
    "layers",
    [
        lambda: [gr.LSTM(200, return_sequences=True)],
        lambda: [gr.GRU(170, return_sequences=True, reset="before")],
        lambda: [gr.LSTM(190, return_sequences=True, projection=72)],
        lambda: [gr.LSTM(64, return_sequences=True) for _ in range(2)],
        lambda: [gr.GRU(72, return_sequences=True) for _ in range(3)],
        lambda: [gr.LSTM(80), gr.Dense(7)],
    ],
    ids=["split", "two phases", "projected", "wave", "wave of three", "last"],
)
def test_bits_do_not_depend_on_threads(layers: Callable[[], list[Any]], compute_type: str) -> None:
    same_with_threads(layers(), 40, 1, 90, compute_type)
    same_with_threads(layers(), 40, 5, 21, compute_type)


@pytest.mark.parametrize("compute_type", ["float32", "int8"])
def test_bits_of_two_directions_do_not_depend_on_threads(compute_type: str) -> None:
    layers = [gr.LSTM(72, return_sequences=True, bidirectional=True) for _ in range(2)]
    net = gr.Sequential(layers, 40, seed=1)
    x = np.random.default_rng(2).normal(size=(3, 60, 40)).astype(np.float32)
    one, many = (net.compile(num_threads=n, compute_type=compute_type) for n in (1, 4))
    for lengths in (None, [60, 1, 33]):
        want, last = one.run(x, lengths=lengths)
        for _ in range(3):
            found, found_last = many.run(x, lengths=lengths)
            np.testing.assert_array_equal(found, want)
            same_states(found_last, last)


@needs_two
def test_limits_of_processors_are_respected(tmp_path: Path) -> None:
    asked = "net.compile(num_threads=4)(x); print(gr.info()['max_threads'], tasks() - before)"
    limit = {
        "os.environ['OMP_NUM_THREADS'] = '1,4'": ["1", "0"],
        "os.environ['OMP_THREAD_LIMIT'] = '2'": ["2", "1"],
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})": ["1", "0"],
    }
    for command, wanted in limit.items():
        program = f"import os; {command}\n{HEAD}before = tasks()\n{asked}"
        assert python(program, tmp_path).split() == wanted


@needs_two
def test_threads_that_share_one_processor_get_on(tmp_path: Path) -> None:
    """The helper is kept on one processor that another process fills."""
    program = HEAD + (
        "import subprocess, sys\n"
        "x = np.random.default_rng(0).normal(size=(1, 60, 24)).astype('f4')\n"
        "want = net.compile()(x); model = net.compile(num_threads=2); model(x)\n"
        "cpu = max(os.sched_getaffinity(0))\n"
        "for task in os.listdir('/proc/self/task'):\n"
        "    if open(f'/proc/self/task/{task}/comm').read() == 'gruengine\\n':\n"
        "        os.sched_setaffinity(int(task), {cpu})\n"
        "spin = f'import os; os.sched_setaffinity(0, {{{{{cpu}}}}})\\nwhile True: pass'\n"
        "other = subprocess.Popen([sys.executable, '-c', spin])\n"
        "try:\n"
        "    print(all(np.array_equal(model(x), want) for _ in range(200)))\n"
        "finally:\n"
        "    other.kill()"
    )
    assert python(program, tmp_path).split() == ["True"]


@needs_two
def test_a_forked_child_goes_on_with_one_thread(tmp_path: Path) -> None:
    program = HEAD + (
        "model = net.compile(num_threads=2)\n"
        "want = model(x)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    same = np.array_equal(model(x), want)\n"
        "    os._exit(0 if same and gr.info()['max_threads'] == 1 and tasks() == 1 else 1)\n"
        "_, status = os.waitpid(child, 0)\n"
        "print(os.waitstatus_to_exitcode(status), gr.info()['max_threads'] > 1)"
    )
    assert python(program, tmp_path).split() == ["0", "True"]


def test_denormals_are_flushed_inside_alone() -> None:
    model = large(2)
    tiny = np.full((1, 3, I), 1e-42, np.float32)
    model(tiny)
    model.stream().run(tiny)
    assert np.float32(1e-42) * np.float32(0.5) > 0
    assert tiny[0, 0, 0] > 0
