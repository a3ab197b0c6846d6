# SPDX-License-Identifier: MIT
"""The time that no implementation on one core of the reference machine can beat.

A step: ``max(weights / B, 2 N W / F) + activations``, W = G*H*(I+H) weights. A sequence:
``2 T N G H I / F + T * step(I = 0)``. All weights are read again in every step; at best each level
keeps as much of them as it holds. B is measured (loads of one core, huge pages).
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.cases import GATES, Case, Cell, File


@dataclass(frozen=True)
class Level:
    """A level of the memory: how much one core can keep there, and how fast it loads."""

    name: str
    bytes: float
    gb_per_s: float


@dataclass(frozen=True)
class Machine:
    """Measured constants of one core.

    gflops : peak of float32 fused multiply-adds
    width : floats in a vector
    cycles : activations and update of ``width`` units, per cell
    """

    name: str
    levels: tuple[Level, ...]
    gflops: float
    ghz: float
    width: int
    cycles: dict[str, float]


REFERENCE = Machine(
    name="Emerald Rapids, AVX-512",
    levels=(
        Level("L1", 48 << 10, 223),
        Level("L2", 2 << 20, 150),
        Level("L3", 300 << 20, 31),
        Level("DRAM", float("inf"), 16),
    ),
    gflops=225,
    ghz=3.0,
    width=16,
    cycles={"LSTM": 55, "GRU": 36},
)


def level(size: float, machine: Machine = REFERENCE) -> str:
    """Return the level that holds weights of ``size`` bytes."""
    return next(level.name for level in machine.levels if size <= level.bytes)


def load_seconds(size: float, machine: Machine = REFERENCE) -> float:
    """Return the time to load ``size`` bytes once, when they are loaded again and again."""
    seconds, held = 0.0, 0.0
    for level in machine.levels:
        part = min(size, level.bytes) - held
        seconds += part / level.gb_per_s * 1e-9
        held += part
        if held >= size:
            break
    return seconds


def bound(case: Case, machine: Machine = REFERENCE) -> tuple[float, str]:
    """Return the seconds of one call of a case, and the level its weights live in."""
    bytes_read = 4 * sum(part.weights for part in case.parts)
    if all(isinstance(part, Cell) for part in case.parts):
        seconds = sum(_cell(part, case, machine) for part in case.parts if isinstance(part, Cell))
        return seconds, level(bytes_read / (1 if case.T == 1 else 2), machine)
    macs = sum(part.macs for part in case.parts if isinstance(part, File))
    # A sequence reads the weights of the recurrent layer alone in every step; not counted here.
    return max(load_seconds(bytes_read, machine), 2 * macs / machine.gflops * 1e-9), level(
        bytes_read, machine
    )


def _cell(cell: Cell, case: Case, machine: Machine) -> float:
    recurrent = GATES[cell.kind] * cell.H * cell.H
    per_step = recurrent if case.T > 1 else cell.weights
    panels = -(-cell.H // machine.width)
    activations = machine.cycles[cell.kind] * panels * case.N / machine.ghz * 1e-9
    products = 2 * case.N * per_step / machine.gflops * 1e-9
    step = max(load_seconds(4 * per_step, machine), products) + activations
    if case.T == 1:
        return step
    hoisted = 2 * case.T * case.N * (cell.weights - recurrent) / machine.gflops * 1e-9
    return hoisted + case.T * step
