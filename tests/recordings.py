# SPDX-License-Identifier: MIT
"""What the tests of real models share with the benchmarks, which stand beside them."""

from __future__ import annotations

import sys
from pathlib import Path

# The package takes this path away again, by itself.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.accuracy import TARGETS, agreement, clean_signal, signal_to_error, speech
from benchmarks.recordings import denoise, frames_of, samples

__all__ = ["TARGETS", "agreement", "clean_signal", "denoise", "frames_of", "samples",
           "signal_to_error", "speech"]  # fmt: skip
