# SPDX-License-Identifier: MIT
"""Recordings as the real models take them: DTLN's loop of two stages, the frames of Silero."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BLOCK, HOP = 512, 128  # samples of DTLN
FRAME, CONTEXT = 512, 64  # samples of Silero


def samples(path: Path) -> Array:
    """Read a 16-bit mono file as floats in [-1, 1)."""
    with wave.open(str(path)) as file:
        found = (file.getnchannels(), file.getsampwidth(), file.getframerate())
        if found != (1, 2, 16000):
            raise ValueError(f"{path}: channels, bytes, rate are {found}; they must be 1, 2, 16000")
        data = file.readframes(file.getnframes())
    return np.frombuffer(data, "<i2").astype(np.float32) / 32768


def denoise(first: Any, second: Any, audio: Array) -> tuple[Array, Array, Array]:
    """Run the loop of DTLN: return all masks, all blocks of stage 2, and the clean signal."""
    masks, blocks, clean = [], [], np.zeros(len(audio) + BLOCK, np.float32)
    for at in range(0, len(audio) - BLOCK + 1, HOP):
        spectrum = np.fft.rfft(audio[at : at + BLOCK])
        magnitude = np.abs(spectrum).astype(np.float32).reshape(1, 1, -1)
        mask = first.step(magnitude)
        estimate = magnitude * mask * np.exp(1j * np.angle(spectrum))
        block = np.fft.irfft(estimate).astype(np.float32).reshape(1, 1, BLOCK)
        out = second.step(block)
        clean[at : at + BLOCK] += out.reshape(-1)
        masks.append(mask)
        blocks.append(out)
    return np.stack(masks), np.stack(blocks), clean


def frames_of(audio: Array) -> Array:
    """Return [T, 576]: every 512 samples with the 64 before them."""
    count = len(audio) // FRAME
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), audio])
    return np.stack([padded[t * FRAME : t * FRAME + FRAME + CONTEXT] for t in range(count)])
