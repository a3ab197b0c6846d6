# SPDX-License-Identifier: MIT
"""The time that no implementation on one core of a machine can beat.

A step: ``max(bytes / B, 2 N W / F) + activations``, W = G*H*(I+H) weights. A sequence:
``2 T N G H I / F + T * step(I = 0)``. Bytes a weight and F are those of the compute type. All
weights are read again in every step; at best each level keeps as much of them as it holds. B is
measured (loads of one core, huge pages).
"""

from __future__ import annotations

from benchmarks.cases import GATES, Case, File, Stack
from benchmarks.machine import REFERENCE, Machine


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
    """Return the seconds of one call of a case on one core, and the level its weights live in."""
    width = machine.bytes_per_weight[case.compute_type]
    peak = machine.gflops[case.compute_type] * 1e9
    stacks = [part for part in case.parts if isinstance(part, Stack)]
    read = width * sum(part.weights for part in case.parts)
    if not stacks:
        macs = sum(part.macs for part in case.parts if isinstance(part, File))
        # A sequence reads the weights of the recurrent layer alone in every step; not counted.
        return max(load_seconds(read, machine), 2 * macs / peak), level(read, machine)
    if case.T == 1:
        products = 2 * case.N * sum(part.weights for part in stacks) / peak
        cells = sum(_activations(part, case.N, machine) for part in stacks)
        return max(load_seconds(read, machine), products) + cells, level(read, machine)
    seconds = sum(_sequence(part, case, width, peak, machine) for part in stacks)
    held = max(width * _recurrent(part) for part in stacks)
    return seconds / case.threads, level(held, machine)


def reason(case: Case, of_bound: float, machine: Machine = REFERENCE) -> str:
    """Return what is known to keep a case below 80 % of its bound; empty where it is not below.

    Measured on the reference machine with the products alone and with the cells alone.
    """
    if of_bound >= 0.8:
        return ""
    seconds, held = bound(case, machine)
    found = []
    tiled = case.N >= 4 and case.compute_type not in ("float32", "int4")
    if case.native and seconds < 1e-6:
        found.append("the engine takes 0.1 us around the products of a step")
    elif case.T == 1 and seconds < 5e-6:
        found.append("the call from Python takes 0.1 to 0.2 us")
    if tiled and held in ("L1", "L2"):
        found.append("products of tiles from L2 take 24 cycles, 16 at the peak")
    if case.N > 1 and held in ("L3", "DRAM"):
        found.append("weights and input products come from L3, at 8 to 10 bytes a cycle")
    elif held in ("L3", "DRAM"):
        found.append("other cores share L3 and memory: 27 to 31 GB/s of L3 are left to one")
    elif case.T > 1 and case.N == 1 and held == "L1":
        found.append("a step waits for the sums of the one before, too few to overlap")
    if tiled:
        found.append("cells wait for the port that products of tiles take")
    elif held == "L2":
        found.append("loads from L2 reach two thirds of their best beside the sums")
    if any(isinstance(part, File) for part in case.parts):
        found.append("operators without products are not in the bound")
    return "; ".join(found)


def _recurrent(stack: Stack) -> int:
    """Return the weights of one layer that every step reads again."""
    return GATES[stack.kind] * stack.H * stack.H


def _activations(stack: Stack, N: int, machine: Machine) -> float:
    panels = -(-stack.H // machine.width)
    return machine.cycles[stack.kind] * panels * N * stack.layers / machine.ghz * 1e-9


def _sequence(stack: Stack, case: Case, width: float, peak: float, machine: Machine) -> float:
    """Return the seconds of the layers one after another: input products, then steps."""
    recurrent = _recurrent(stack)
    step = max(load_seconds(width * recurrent, machine), 2 * case.N * recurrent / peak)
    others = stack.weights - stack.layers * recurrent
    hoisted = 2 * case.T * case.N * others / peak
    return hoisted + case.T * (stack.layers * step + _activations(stack, case.N, machine))


def work(case: Case, machine: Machine = REFERENCE) -> tuple[float, float]:
    """Return operations of a call (two for a multiply-add), and the bytes of weights it reads."""
    width = machine.bytes_per_weight[case.compute_type]
    operations, read = 0.0, 0.0
    for part in case.parts:
        if isinstance(part, File):
            operations += 2 * part.macs
            read += width * part.weights
            continue
        operations += 2 * case.T * case.N * part.weights
        recurrent = part.layers * _recurrent(part)
        read += width * (part.weights + (case.T - 1) * recurrent)
    return operations, read
