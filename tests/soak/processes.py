# SPDX-License-Identifier: MIT
"""Forks, exits and signals around models: ``python tests/soak/processes.py [RUNS] [CASE...]``.

Each case is a program of its own. It repeats what it is about ``runs`` times where that needs no
new process, must end with code 0 within its time and print nothing but ``ok``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from soak import scheduler_cases

HEAD = """
import gc, os, signal, sys, threading, time
import numpy as np
import gruengine as gr

RUNS = int(sys.argv[1])
x = np.random.default_rng(0).normal(size=(2, 40, 24)).astype("f4")

def net():
    layers = [gr.LSTM(96, return_sequences=True), gr.GRU(32, return_sequences=True)]
    return gr.Sequential(layers, 24)

def steps(model):
    stream = model.stream(2)
    return np.stack([stream.step(np.ascontiguousarray(x[:, t])) for t in range(x.shape[1])], 1)

def child(body):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if body() else 3
        finally:
            os._exit(code)
    return pid

def wait(*pids):
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert not any(codes), codes
"""

# Repeats inside one process.
LOOPED = {
    "fork before load": """
net().save(sys.argv[2] + "/net")
def body():
    model = gr.load(sys.argv[2] + "/net", num_threads=2)
    return np.array_equal(model(x), steps(model))
for _ in range(RUNS):
    wait(child(body), child(body))
""",
    "fork after load": """
model = net().compile(num_threads=2)
def body():
    return np.array_equal(model(x), steps(model))
for _ in range(RUNS):
    wait(child(body), child(body))
want = model(x)
assert np.array_equal(want, steps(model))
""",
    "fork after a parallel run": """
model = net().compile(num_threads=2)
stream = model.stream(2)
stream.step(x[:, 0].copy())
for _ in range(RUNS):
    want = model(x)
    def body():
        again = stream.step(x[:, 1].copy())
        wait(child(lambda: np.array_equal(model(x), want)))
        return np.array_equal(model(x), want) and np.array_equal(again, want[:, 1])
    wait(child(body), child(body))
    assert np.array_equal(model(x), want)
""",
    "fork while threads run": """
net().save(sys.argv[2] + "/net")
model, stop = gr.load(sys.argv[2] + "/net"), threading.Event()
want = model(x)
wrong = []
def work(at):
    T = 1
    while not stop.is_set():
        T = T % 39 + 1  # ever new shapes: plans are made under a lock
        other = gr.load(sys.argv[2] + "/net") if T == 7 else model
        found = other(x[:, :T])
        if not np.array_equal(found, want[:, :T]):
            wrong.append(at)
        model.stream(2).get_state()
threads = [threading.Thread(target=work, args=(at,)) for at in range(3)]
for thread in threads:
    thread.start()
def body():
    return np.array_equal(model(x[:, :11]), want[:, :11]) and np.array_equal(steps(model), want)
for _ in range(RUNS):
    wait(child(body))
stop.set()
for thread in threads:
    thread.join()
assert not wrong
""",
    "interrupted run": """
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored below a shell's background job
model = gr.Sequential([gr.LSTM(128, return_sequences=True)], 24).compile()
chunk = np.random.default_rng(1).normal(size=(1, 60_000, 24)).astype("f4")
stream = model.stream()
stream.step(chunk[:, 0].copy())
before, ended = stream.get_state(), 0
for run in range(RUNS):
    timer = threading.Timer(0.03 + 0.02 * (run % 5), os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        stream.run(chunk)
        time.sleep(5)
    except KeyboardInterrupt:
        ended += 1
    timer.join()
    if stream.get_state() == before:
        continue
    stream.set_state(before)  # the run was through before the signal
assert ended == RUNS
want = model(np.concatenate([chunk[:, :1], chunk[:, :300]], 1))
assert np.array_equal(stream.run(chunk[:, :300]), want[:, 1:])
""",
    "signals during steps": """
model, hits = net().compile(num_threads=2), []
want = model(x)
def handler(*_):
    hits.append(1)
    if len(hits) % 50 == 0 and not np.array_equal(model(x[:, :3]), want[:, :3]):
        os._exit(9)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
stream = model.stream(2)
long = np.ascontiguousarray(np.tile(x, (1, 20, 1)))
whole = model(long)
for _ in range(RUNS):
    assert np.array_equal(steps(model), want)
    assert np.array_equal(stream.run(long), whole)
    stream.reset()
signal.setitimer(signal.ITIMER_REAL, 0)
assert hits
""",
    "a handler that uses the stream": """
model = gr.Sequential([gr.LSTM(128, return_sequences=True)], 24).compile()
chunk = np.zeros((1, 20_000, 24), "f4")
stream, refused = model.stream(), []
def handler(*_):
    try:
        stream.step(chunk[:, 0].copy())
    except gr.StreamBusyError:
        refused.append(1)
signal.signal(signal.SIGALRM, handler)
for _ in range(RUNS):
    signal.setitimer(signal.ITIMER_REAL, 0.03)
    stream.reset()
    found = stream.run(chunk)
    signal.setitimer(signal.ITIMER_REAL, 0)
    stream.reset()
    assert np.array_equal(found, model(chunk))
assert refused
""",
    "cycles": """
model = net().compile()
class Holder:
    pass
for _ in range(RUNS * 20):
    a, b = Holder(), Holder()
    a.other, b.other = b, a
    a.stream, b.model = model.stream(2), net().compile() if _ % 20 == 0 else model
    a.bound, b.view = a.stream.step, a.stream.state
    a.stream.step(x[:, 0].copy())
    del a, b
gc.collect()
assert np.array_equal(model(x), steps(model))
""",
}

METHODS = """
import multiprocessing as mp

def init(model):
    global shared
    shared = model

def job(at):
    own = gr.load(sys.argv[2] + "/net", num_threads=2)
    whole = own(x)
    with gr.Scheduler(own) as scheduler:
        for row in range(2):
            stream = scheduler.open()
            for t in range(x.shape[1]):
                y = scheduler.step(stream, np.ascontiguousarray(x[row, t]))
                assert np.array_equal(y, whole[row, t])
    if shared is not None and not np.array_equal(shared(x), whole):
        return None
    return whole[at % 2], np.array_equal(steps(own), whole)

if __name__ == "__main__":
    net().save(sys.argv[2] + "/net")
    model = gr.load(sys.argv[2] + "/net", num_threads=2)
    want = model(x)
    live = gr.Scheduler(model, num_threads=2)
    live.step(live.open(), np.ascontiguousarray(x[0, 0]))
    for _ in range(RUNS):
        with mp.get_context(METHOD).Pool(2, init, (model if METHOD == "fork" else None,)) as pool:
            for at, (found, same) in enumerate(pool.map(job, range(4))):
                assert same and np.array_equal(found, want[at % 2])
"""

SHUTDOWN = {
    "exit with live objects": """
model = net().compile(num_threads=2)
streams = [model.stream(2) for _ in range(5)]
for stream in streams:
    stream.step(x[:, 0].copy())
model(x)
sys.keep = streams, model
""",
    "exit with objects that step at the end": """
class Last:
    def __init__(self, stream):
        self.stream, self.x, self.me = stream, x[:, 0].copy(), self
    def __del__(self):
        self.stream.step(self.x)
        self.stream.clone().get_state()
keep = Last(net().compile().stream(2))
import atexit
atexit.register(keep.stream.step, x[:, 1].copy())
""",
    "exit with a thread that runs": """
model = gr.Sequential([gr.LSTM(256, return_sequences=True)], 24).compile(num_threads=THREADS)
chunk = np.zeros((1, 700, 24), "f4")
def work():
    stream = model.stream()
    while True:
        stream.run(chunk)
        stream.step(chunk[:, 0].copy())
        model(chunk)
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.05)
""",
    "exit in a child of fork": """
model = net().compile(num_threads=2)
want = model(x)
stream = model.stream(2)
pids = []
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        assert np.array_equal(model(x), want)
        stream.step(x[:, 0].copy())
        sys.exit(0)  # through the whole shutdown
    pids.append(pid)
wait(*pids)
""",
}


def _programs() -> dict[str, tuple[str, bool]]:
    """Programs by name, and whether one repeats by itself."""
    looped = LOOPED | scheduler_cases.LOOPED
    all_cases = {name: (HEAD + body, True) for name, body in looped.items()}
    for method in ("fork", "spawn", "forkserver"):
        text = HEAD + f"METHOD = {method!r}\n" + METHODS
        all_cases[f"multiprocessing {method}"] = (text, True)
    for name, body in (SHUTDOWN | scheduler_cases.SHUTDOWN).items():
        if "THREADS" not in body:
            all_cases[name] = (HEAD + body, False)
            continue
        for threads in (1, 2):
            text = HEAD + body.replace("THREADS", str(threads))
            all_cases[f"{name}, {threads} threads a run"] = (text, False)
    return all_cases


CASES = _programs()


def run_case(name: str, runs: int, timeout: float = 120.0) -> None:
    """Run one case; AssertionError when it fails, prints something or does not end in time."""
    program, looped = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.py"
        end = 'if __name__ == "__main__":\n    print("ok", flush=True)\n'
        path.write_text(program + end)
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        for _ in range(1 if looped else runs):
            command = [sys.executable, str(path), str(runs), folder]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout * max(1, runs / 5),
                check=False, cwd=folder, env=clean,
            )  # fmt: skip
            assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", ""), (name, done)


def main() -> int:
    """Run what the command line asks for; return 1 if anything failed."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    failed = 0
    for name in sys.argv[2:] or CASES:
        begin = time.monotonic()
        try:
            run_case(name, runs)
            verdict = "ok"
        except (AssertionError, subprocess.TimeoutExpired) as error:
            verdict = f"FAILED: {error}"
            failed += 1
        print(f"{name}: {runs} runs in {time.monotonic() - begin:.0f} s: {verdict}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
