# SPDX-License-Identifier: MIT
"""What a compute type costs the real models: ``python -m benchmarks.accuracy``.

DTLN cleans a noisy recording: the signal-to-error ratio of the clean signal beside float32, in dB.
Silero finds speech: the share of frames on which the decision at 0.5 is that of float32.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import gruengine as gr
from benchmarks.cases import MODELS
from benchmarks.recordings import denoise, frames_of, samples

#: Least ratio of DTLN (dB) and least share of Silero's decisions that we ask of ourselves.
TARGETS = {"bfloat16": (40.0, 0.995), "int8": (30.0, 0.995)}


def clean_signal(models: Path, compute_type: str) -> Any:
    """Return the recording as DTLN cleans it."""
    paths = [models / f"dtln/model_{i}.onnx" for i in (1, 2)]
    streams = [gr.load(path, compute_type=compute_type).stream() for path in paths]
    return denoise(*streams, samples(models / "audio/noisy_speech_16k.wav"))[2].astype(np.float64)


def signal_to_error(found: Any, wanted: Any) -> float:
    """Return the ratio of the powers of ``wanted`` and of the error, in dB."""
    return float(10 * np.log10(np.sum(wanted**2) / np.sum((found - wanted) ** 2)))


def speech(models: Path, compute_type: str) -> Any:
    """Return for each frame how probable Silero thinks speech is."""
    path = models / "silero/silero_vad_v6_sequence.onnx"
    return gr.load(path, compute_type=compute_type)(
        frames_of(samples(models / "audio/speech_16k.wav"))
    )


def agreement(found: Any, wanted: Any) -> float:
    """Return the share of frames with the same decision at 0.5."""
    return float(np.mean((found > 0.5) == (wanted > 0.5)))


def main(argv: list[str] | None = None) -> int:
    """Print the table; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", type=Path, default=MODELS, help="folder (default: %(default)s)")
    models = parser.parse_args(argv).models
    clean, voice = clean_signal(models, "float32"), speech(models, "float32")
    print("| compute type | DTLN | at least | Silero | at least |\n" + "|---" * 5 + "|")
    good = True
    for compute_type, (least, share) in TARGETS.items():
        ratio = signal_to_error(clean_signal(models, compute_type), clean)
        equal = agreement(speech(models, compute_type), voice)
        good = good and ratio >= least and equal >= share
        print(f"| {compute_type} | {ratio:.1f} dB | {least:.0f} dB "
              f"| {100 * equal:.2f} % | {100 * share:.1f} % |")  # fmt: skip
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
