# SPDX-License-Identifier: MIT
"""The example service with many real clients; models behind workers of gunicorn and uvicorn."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import gruengine as gr

Array = np.ndarray[Any, Any]
EXAMPLES = Path(__file__).parents[1] / "examples"
FRAME, CONTEXT = 512, 64
CLIENTS, FRAMES = 200, 30
# Seconds of the clock for a second of audio: two cores take 200 clients and their server so.
PACE = float(os.environ.get("GRUENGINE_SERVICE_PACE", "5"))


@pytest.fixture(scope="module")
def audio(models: Path) -> Array:
    with wave.open(str(models / "audio/speech_16k.wav")) as file:
        data = file.readframes(FRAME * FRAMES)
    return np.frombuffer(data, "<i2").astype(np.float32) / 32768


@pytest.fixture(scope="module")
def vad(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vad") / "vad.safetensors"
    gr.convert(models / "silero/silero_vad_v6.2.onnx", path, bind={"sr": 16000})
    return path


def offline(vad: Path, audio: Array) -> Array:
    """Return the probabilities of one stream that has the recording to itself."""
    stream = gr.load(vad).stream()
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), audio])
    windows = [padded[FRAME * t : FRAME * (t + 1) + CONTEXT] for t in range(len(audio) // FRAME)]
    return np.concatenate([stream.step(window[None])[0] for window in windows])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(command: list[str], port: int, folder: Path, **variables: str) -> Iterator[int]:
    """Run a server to the end of the block, which is given its process; it then ends in time."""
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, stdout=out, stderr=subprocess.STDOUT,
            env={**os.environ, **variables},
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.05)
            yield process.pid
            assert process.poll() is None, log.read_text()
            process.terminate()
            code = process.wait(30)
        finally:
            process.kill()
            process.wait()
    assert code in (0, -15), log.read_text()
    assert "Traceback" not in log.read_text(), log.read_text()


async def client(port: int, number: int, audio: Array, pace: float) -> Array:
    """Stream the recording in messages of odd lengths, at an even pace."""
    random = np.random.default_rng(number)
    found: list[Array] = []
    async with connect(f"ws://127.0.0.1:{port}/voice", compression=None) as voice:
        start, at, answered = time.monotonic() + 0.1 * random.random(), 0, 0
        while at < len(audio):
            end = min(len(audio), at + int(random.integers(FRAME // 2, 3 * FRAME)))
            await asyncio.sleep(start + end / 16000 * pace - time.monotonic())
            await voice.send(audio[at:end].astype("<f4").tobytes())
            if end // FRAME > answered:
                found.append(np.frombuffer(await voice.recv(), "<f4"))
                assert len(found[-1]) == end // FRAME - answered
                answered = end // FRAME
            at = end
    return np.concatenate(found)


def uvicorn(port: int, *options: str) -> list[str]:
    return ["uvicorn", "vad_service:app", "--app-dir", str(EXAMPLES), "--port", str(port),
            "--log-level", "warning", *options]  # fmt: skip


def test_two_hundred_clients_get_the_bits_of_one(vad: Path, audio: Array, tmp_path: Path) -> None:
    wanted, port = offline(vad, audio), free_port()

    async def all_clients() -> list[Array]:
        return await asyncio.gather(*(client(port, i, audio, PACE) for i in range(CLIENTS)))

    with server(uvicorn(port), port, tmp_path, VAD_MODEL=str(vad)):
        found = asyncio.run(all_clients())
        assert len(found) == CLIENTS
        assert all(np.array_equal(each, wanted) for each in found)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            lines = page.read().decode().splitlines()
        assert f"gruengine_steps_total {CLIENTS * FRAMES}" in lines
        assert "gruengine_streams 0" in lines


def test_clients_that_vanish_or_send_nonsense(vad: Path, audio: Array, tmp_path: Path) -> None:
    port = free_port()

    async def talk() -> None:
        address = f"ws://127.0.0.1:{port}/voice"
        for nonsense in (b"abc", "text"):
            async with connect(address) as voice:
                await voice.send(nonsense)
                with pytest.raises(ConnectionClosed, match="1007"):
                    await voice.recv()
        taken = [await connect(address) for _ in range(3)]
        for voice in taken:  # until each has its place
            await voice.send(audio[:FRAME].tobytes())
            await voice.recv()
        async with connect(address) as fourth:
            with pytest.raises(ConnectionClosed, match="1013"):
                await fourth.recv()
        for voice in taken:  # a step is under way
            await voice.send(audio.tobytes())
            voice.transport.abort()
        for _ in range(100):
            try:
                found = await client(port, 1, audio, 0)
                break
            except ConnectionClosed:
                await asyncio.sleep(0.05)
        assert np.array_equal(found, offline(vad, audio))

    with server(uvicorn(port), port, tmp_path, VAD_MODEL=str(vad), VAD_CLIENTS="3"):
        asyncio.run(talk())


def workers(pid: int) -> list[int]:
    """Return the workers of a server; beside them Python has a process that tracks resources."""
    below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(n) for n in below if b"spawn_main" in Path(f"/proc/{n}/cmdline").read_bytes()]


def test_workers_of_uvicorn_one_of_them_killed(vad: Path, audio: Array, tmp_path: Path) -> None:
    wanted, port = offline(vad, audio), free_port()

    async def all_clients(pace: float, victim: int | None = None) -> list[Any]:
        async def kill() -> None:
            await asyncio.sleep(0.4)
            if victim is not None:
                os.kill(victim, signal.SIGKILL)

        clients = [client(port, i, audio, pace) for i in range(8)]
        return (await asyncio.gather(*clients, kill(), return_exceptions=True))[:8]

    def right(found: Any) -> bool:
        return isinstance(found, np.ndarray) and np.array_equal(found, wanted)

    with server(uvicorn(port, "--workers", "2"), port, tmp_path, VAD_MODEL=str(vad)) as pid:
        for found in asyncio.run(all_clients(1, workers(pid)[0])):
            assert right(found) or isinstance(found, (ConnectionClosed, OSError)), found
        assert all(right(found) for found in asyncio.run(all_clients(0)))


PRELOADED = """
import os
import numpy as np
import gruengine as gr

model = gr.load(os.environ["NET"], num_threads=2)
x = np.random.default_rng(0).normal(size=(40, 24)).astype("f4")
master, early = os.getpid(), gr.Scheduler(model, num_threads=2)
model(x[None])  # the parent has run on two threads, and has a scheduler
own = None

def application(environ, start):
    global own
    assert os.getpid() != master and not early.is_open
    if own is None:
        own = gr.Scheduler(model)
    stream = own.open()
    y = np.concatenate([own.step(stream, x[t : t + 1]) for t in range(len(x))])
    own.close(stream)
    assert np.array_equal(y, model(x[None])[0])
    start("200 OK", [("Content-Type", "application/octet-stream")])
    return [y.tobytes()]
"""


def test_workers_of_gunicorn_with_preload(tmp_path: Path) -> None:
    net, port = gr.Sequential([gr.LSTM(96, return_sequences=True)], 24), free_port()
    net.save(tmp_path / "net")
    (tmp_path / "preloaded.py").write_text(PRELOADED)
    x = np.random.default_rng(0).normal(size=(1, 40, 24)).astype("f4")
    wanted = gr.load(tmp_path / "net")(x)[0]
    command = ["gunicorn", "preloaded:application", "--preload", "-w", "2", "-b",
               f"127.0.0.1:{port}", "--log-level", "warning",
               # A worker that still boots misses the signal to end and is killed after so long.
               "--graceful-timeout", "5"]  # fmt: skip
    with server(command, port, tmp_path, NET=str(tmp_path / "net")):
        for _ in range(30):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as page:
                assert np.array_equal(np.frombuffer(page.read(), "<f4").reshape(40, 96), wanted)
