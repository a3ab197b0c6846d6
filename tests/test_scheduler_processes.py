# SPDX-License-Identifier: MIT
"""The scheduler in processes that fork and end: never a hang, never a crash."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAD = """
import os, sys, threading
import numpy as np
import gruengine as gr
model = gr.Sequential([gr.LSTM(9, return_sequences=True), gr.Dense(3)], 4).compile()
scheduler = gr.Scheduler(model, num_threads=2)
stream = scheduler.open()
x = np.ones((1, 4), np.float32)
scheduler.step(stream, x)
"""

FORKS = {
    "a child gets an error": """
    calls = [lambda: scheduler.step(stream, x), scheduler.open, scheduler.metrics,
             lambda: scheduler.close(stream), lambda: scheduler.get_state(stream)]
    for call in calls:
        try:
            call()
        except gr.UnsupportedError as error:
            assert "fork" in str(error)
        else:
            raise SystemExit("no error")
    assert not scheduler.is_open
    scheduler.shutdown()
    """,
    "a child makes its own": """
    with gr.Scheduler(model) as own:
        assert np.array_equal(own.step(own.open(), x), model.stream().step(x))
    del scheduler
    """,
    "a child ends the interpreter": "pass",
}

ENDS = {
    "open": "",
    "busy threads": """
def work():
    own = scheduler.open()
    try:
        while True:
            scheduler.step(own, x)
    except gr.SchedulerClosedError:
        pass
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
import time; time.sleep(0.02)
""",
    "in a cycle": "scheduler.me = scheduler; scheduler = None",
    "kept by a module": "sys.modules['keeper'] = scheduler",
    "with callbacks": """
seen = []
other = gr.Scheduler(model, idle_timeout=0.001, on_evict=lambda i, s: seen.append((i, s)))
other.open()
""",
    "an event loop left open": """
import asyncio
loop = asyncio.new_event_loop()
async def give():
    return scheduler.step_async(stream, x)
future = loop.run_until_complete(give())
""",
    "an exception": "raise SystemExit(0)",
}


def run(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HEAD + program],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("case", FORKS)
def test_fork(case: str) -> None:
    body = FORKS[case].strip().replace("\n    ", "\n        ")
    run(f"""
busy = threading.Thread(target=lambda: [scheduler.step(stream, x) for _ in range(2000)])
busy.start()
for _ in range(10):
    child = os.fork()
    if child == 0:
        {body}
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
busy.join()
y = scheduler.step(stream, x)
""")


@pytest.mark.parametrize("case", ENDS)
def test_the_interpreter_ends(case: str) -> None:
    run(ENDS[case])
