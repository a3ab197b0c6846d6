# SPDX-License-Identifier: MIT
"""Every hand-made hostile file of the tests: its error, how long that takes, and how much memory.

    cd tests && python -m fuzz.hostile

lists what takes longer than 100 ms or more than 64 MiB beyond the file itself. The messages of the
errors are checked beside the files, in the tests that hold them.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gruengine as gr

SECONDS, MEMORY = 0.1, 64 << 20


@dataclass(frozen=True)
class Case:
    """One file: its format, what is wrong with it, its bytes."""

    form: str
    name: str
    data: bytes


@dataclass(frozen=True)
class Cost:
    """What a file cost to refuse; ``error`` is "" where it was read."""

    error: str
    seconds: float
    memory: int


def cases() -> list[Case]:
    """Return the files of all tests."""
    found = [*_of_tuples(), *_of_tables()]
    assert len({(case.form, case.name) for case in found}) == len(found)
    return found


def _module(name: str) -> Any:
    return importlib.import_module(name)


def _of_tuples() -> Iterator[Case]:
    """Yield what is kept as (name, bytes, ...)."""
    import torch_hostile as th

    for name, data in _module("hostile_files").hostile_files():
        yield Case("model file", name, data)
    files, zips = _module("test_torch_files"), _module("test_zip_reader")
    pickles = _module("test_unpickler")
    for name, data, _ in zips.ZIP_CASES:
        yield Case("zip", name, data)
    for name, weight, _ in files.TENSOR_CASES:
        yield Case("tensor", name, th.checkpoint(th.state(weight)))
    for name, data, _ in files.LEGACY_CASES:
        yield Case("legacy", name, data)
    for name, data in files.SAFETENSORS_CASES:
        yield Case("safetensors", name, data)
    for name, data, _ in pickles.BROKEN:
        yield Case("pickle", name, th.checkpoint(data))
    for name, data, _ in pickles.BOMBS:
        yield Case("pickle", f"bomb: {name}", th.checkpoint(data))


def _of_tables() -> Iterator[Case]:
    """Yield what is kept by name."""
    for name, data in _module("test_onnx_hostile").BROKEN.items():
        yield Case("ONNX", name, data)
    for name, (data, _) in _module("test_npz").BAD.items():
        yield Case("npz", name, data)
    for name, (data, _) in _module("test_audio_formats").REFUSED.items():
        yield Case("JSON", name, data)
    for name, (make, _) in _module("test_keras_files").ARCHIVES.items():
        yield Case("Keras archive", name, make())
    for name, (make, _) in _module("test_hdf5").HDF5.items():
        yield Case("HDF5", name, make())


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    return 0


def cost(case: Case) -> Cost:
    """Read a file; memory is what the process grew by, in Python and in C++."""
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew
    before, error = _resident("VmRSS"), ""
    began = time.process_time()
    try:
        gr.load(case.data)
    except gr.GruEngineError as raised:
        error = type(raised).__name__
    seconds = time.process_time() - began
    return Cost(error, seconds, max(0, _resident("VmHWM") - before))


def main() -> int:
    """Print a table by format, and what is too slow or too large."""
    counts: Counter[tuple[str, str]] = Counter()
    worst: dict[str, tuple[float, int]] = {}
    found = cases()
    for case in found[:3]:
        cost(case)  # what is imported for the first is not its doing
    bad = 0
    for case in found:
        once = cost(case)
        if once.seconds > SECONDS:  # the machine may have been busy
            again = [cost(case) for _ in range(2)]
            once = min([once, *again], key=lambda one: one.seconds)
        counts[case.form, once.error or "READ"] += 1
        most = worst.get(case.form, (0.0, 0))
        worst[case.form] = max(most[0], once.seconds), max(most[1], once.memory)
        if not once.error or once.seconds > SECONDS or once.memory > MEMORY + 4 * len(case.data):
            bad += 1
            print(f"{case.form}: {case.name}: {once}, {len(case.data)} bytes")
    print(f"{'format':<16}{'slowest, ms':>12}{'most, MiB':>12}   errors")
    for form, (seconds, memory) in worst.items():
        errors = {error: count for (one, error), count in counts.items() if one == form}
        listed = ", ".join(f"{error} {count}" for error, count in sorted(errors.items()))
        print(f"{form:<16}{seconds * 1000:12.1f}{memory / (1 << 20):12.1f}   {listed}")
    print(f"{len(found)} files")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
