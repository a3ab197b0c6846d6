# SPDX-License-Identifier: MIT
"""What one core allows: measured where it runs, ``python -m benchmarks.machine``.

Compiles ``micro/machine.cpp`` for the instruction set in use. Without a compiler the constants are
those of the reference machine, and the report says so.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gruengine as gr
from benchmarks import compiled

AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]
FLAGS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx2vnni": ["-mavx2", "-mfma", "-mavxvnni"],
    "avx512": AVX512,
    "avx512vnni": [*AVX512, "-mavx512vnni"],
    "amx": [*AVX512, "-mavx512vnni", "-mamx-tile", "-mamx-bf16", "-mamx-int8"],
    "neondot": ["-march=armv8.2-a+dotprod"],
}
GIB = 1 << 30


@dataclass(frozen=True)
class Level:
    """A level of the memory: how much one core can keep there, and how fast it loads."""

    name: str
    bytes: float
    gb_per_s: float


@dataclass(frozen=True)
class Machine:
    """Constants of one core.

    gflops : peak of multiply-adds (two operations each), by compute type
    bytes_per_weight : by compute type
    width : floats in a vector
    cycles : activations and update of ``width`` units, per cell
    """

    name: str
    levels: tuple[Level, ...]
    gflops: dict[str, float]
    bytes_per_weight: dict[str, float]
    ghz: float
    width: int
    cycles: dict[str, float]

    def describe(self) -> str:
        """Return one line: the rates of the levels and the peaks."""
        loads = ", ".join(f"{level.name} {level.gb_per_s:.0f}" for level in self.levels)
        peaks = ", ".join(f"{kind} {rate:.0f}" for kind, rate in self.gflops.items())
        return f"{self.name}: loads in GB/s {loads}; peaks in 10^9 operations/s {peaks}"


REFERENCE = Machine(
    name="Emerald Rapids, AVX-512",
    levels=(
        Level("L1", 48 << 10, 223),
        Level("L2", 2 << 20, 150),
        Level("L3", 300 << 20, 31),
        Level("DRAM", float("inf"), 16),
    ),
    gflops={"float32": 225, "bfloat16": 2800, "int8": 5300, "bf16x3": 2800 / 3, "int4": 5300},
    bytes_per_weight={"float32": 4, "bfloat16": 2, "int8": 1, "bf16x3": 4, "int4": 0.5},
    ghz=3.0,
    width=16,
    cycles={"LSTM": 55, "GRU": 36, "RNN": 12},
)


def measure() -> Machine:
    """Return the constants of the core that this process may use; takes some seconds.

    Raises
    ------
    OSError, RuntimeError, subprocess.CalledProcessError
        No compiler, or what it made does not run.
    """
    info = gr.info()
    isa, caches = info["isa"], info["caches"]
    # A working set that lies in one level alone.
    sizes = {"L1": caches["L1"] * 3 // 4, "L2": caches["L2"] // 2}
    sizes["L3"] = min(4 * caches["L2"], max(caches["L3"] // 2, sizes["L2"]))
    sizes["DRAM"] = min(max(4 * caches["L3"], GIB // 4), GIB)
    found = _run(FLAGS.get(isa, []), [str(size) for size in sizes.values()])
    floats = found["float32"]
    return replace(
        REFERENCE,
        name=f"this machine, {isa}",
        levels=tuple(
            Level(name, caches.get(name, float("inf")), found[str(size)])
            for name, size in sizes.items()
        ),
        gflops=_peaks(floats, found.get("int8", floats), found.get("bfloat16")),
        ghz=found["ghz"],
        width=int(found["width"]),
    )


def _peaks(floats: float, int8: float, tiles: float | None) -> dict[str, float]:
    """Return the peaks by compute type; without tiles bfloat16 is widened and summed as floats."""
    return {
        "float32": floats,
        "bfloat16": tiles or floats,
        "int8": int8,
        "bf16x3": (tiles or floats) / 3,
        "int4": int8,
    }


def _run(flags: list[str], sizes: list[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        program = compiled.build(
            Path(folder, "machine"), "machine.cpp", ["-std=c++20", "-O3", *flags]
        )
        done = subprocess.run([program, *sizes], check=True, capture_output=True, text=True)
    pairs = (line.split() for line in done.stdout.splitlines())
    return {name: float(value) for name, value in pairs}


def here(notes: list[str]) -> Machine:
    """Return the measured constants, or those of the reference machine with a note that says so."""
    try:
        return measure()
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        notes.append(
            f"bounds are those of {REFERENCE.name}: this machine was not measured ({error})"
        )
        return REFERENCE


def from_json(found: dict[str, Any]) -> Machine:
    """Return what ``dataclasses.asdict`` made of a machine."""
    levels = tuple(Level(**level) for level in found["levels"])
    return Machine(**{**found, "levels": levels})


if __name__ == "__main__":
    print(measure().describe())
