# SPDX-License-Identifier: MIT
"""Voice activity for many clients at once: a WebSocket service around one scheduler.

    pip install gruengine fastapi 'uvicorn[standard]'
    gruengine convert silero_vad.onnx vad.safetensors --bind sr=16000
    VAD_MODEL=vad.safetensors uvicorn vad_service:app        # --workers 4: each has its scheduler

A client sends samples (mono, 16 kHz, float32, little endian) in messages of any length to
``/voice`` and gets back, for each message that completes frames of 512 samples, their probabilities
of speech as float32. All clients share one model; their steps run as batches, with the bits each
would get alone. ``/metrics`` is for Prometheus.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import numpy as np
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import PlainTextResponse

import gruengine as gr

FRAME, CONTEXT = 512, 64  # samples of a step, and those before them that the model sees again
CLIENTS = int(os.environ.get("VAD_CLIENTS", "1000"))
# What WebSocket calls these ways to end.
INVALID, TRY_AGAIN_LATER = 1007, 1013

# Loaded once where a server forks its workers; a scheduler has threads: each worker makes its own.
model = gr.load(os.environ.get("VAD_MODEL", "vad.safetensors"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep a scheduler while the service runs."""
    sizes = {"input_1": CONTEXT + FRAME}  # a size the model leaves open
    with gr.Scheduler(model, max_streams=CLIENTS, sizes=sizes) as scheduler:
        app.state.scheduler = scheduler
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/metrics", response_class=PlainTextResponse)
def metrics() -> str:
    """Queue, batches and latency in the text format of Prometheus."""
    return str(app.state.scheduler.prometheus())


@app.websocket("/voice")
async def voice(socket: WebSocket) -> None:
    """Answer one client until it goes."""
    scheduler: gr.Scheduler = app.state.scheduler
    await socket.accept()
    try:
        stream = scheduler.open()
    except gr.Overloaded:
        await socket.close(TRY_AGAIN_LATER, f"all {CLIENTS} places are taken")
        return
    waiting = np.zeros(CONTEXT, np.float32)  # the context, and samples of the next frame
    try:
        while (message := await socket.receive())["type"] == "websocket.receive":
            data = message.get("bytes") or b""
            if len(data) % 4 != 0 or message.get("text") is not None:
                await socket.close(INVALID, "messages are float32 samples")
                return
            waiting = np.concatenate([waiting, np.frombuffer(data, "<f4")])
            found = []
            while len(waiting) >= CONTEXT + FRAME:
                window = np.ascontiguousarray(waiting[None, : CONTEXT + FRAME])
                found.append(await scheduler.step_async(stream, window))
                waiting = waiting[FRAME:]
            if found:
                with suppress(WebSocketDisconnect):  # receive() says so, too
                    await socket.send_bytes(np.concatenate(found).tobytes())
    finally:
        scheduler.close(stream)
