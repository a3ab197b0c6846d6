# SPDX-License-Identifier: MIT
"""Forks and exits around a scheduler that lives: programs of ``processes.py``."""

from __future__ import annotations

_HEAD = """
model = gr.Sequential([gr.LSTM(9, return_sequences=True), gr.Dense(3)], 4).compile()
scheduler = gr.Scheduler(model, num_threads=2)
stream = scheduler.open()
u = np.ones((1, 4), np.float32)
scheduler.step(stream, u)
"""

_FORKS = {
    "a child gets an error": """
    calls = [lambda: scheduler.step(stream, u), scheduler.open, scheduler.metrics,
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
        assert np.array_equal(own.step(own.open(), u), model.stream().step(u))
    del scheduler
""",
    "a child ends the interpreter": """
    pass
""",
}

_FORKING = """
busy = threading.Thread(target=lambda: [scheduler.step(stream, u) for _ in range(RUNS * 200)])
busy.start()
def body():
    global scheduler
BODY
    sys.exit(0)  # through the whole shutdown
for _ in range(RUNS):
    pid = os.fork()
    if pid == 0:
        body()
    wait(pid)
busy.join()
scheduler.step(stream, u)
"""

LOOPED = {
    f"a fork beside a scheduler: {name}": _HEAD + _FORKING.replace("BODY", body.strip("\n"))
    for name, body in _FORKS.items()
}

_ENDS = {
    "open": "",
    "busy threads": """
def work():
    try:
        own = scheduler.open()
        while True:
            scheduler.step(own, u)
    except gr.SchedulerClosedError:
        pass
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.02)
""",
    "in a cycle": "scheduler.me = scheduler; scheduler = None\n",
    "kept by a module": "sys.modules['keeper'] = scheduler\n",
    "with callbacks": """
seen = []
other = gr.Scheduler(model, idle_timeout=0.001, on_evict=lambda i, s: seen.append((i, s)))
other.open()
""",
    "an event loop left open": """
import asyncio
loop = asyncio.new_event_loop()
async def give():
    return scheduler.step_async(stream, u)
future = loop.run_until_complete(give())
""",
}

SHUTDOWN = {f"the end of a scheduler: {name}": _HEAD + body for name, body in _ENDS.items()}
