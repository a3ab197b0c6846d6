# SPDX-License-Identifier: MIT
"""ONNX Runtime through IO binding: two bindings whose states point at each other's."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np

from benchmarks.cases import Case, File, Stack
from benchmarks.peers import Array, Runner, inputs, names, source, zero_states
from benchmarks.peers.onnxruntime import fixed, missing, session, version

__all__ = ["missing", "prepare", "version"]


def prepare(case: Case) -> Runner | None:
    """Return bound sessions; sequences gain nothing from binding and are left to ``run``."""
    if not case.carried:
        return None
    made = [_part(case, part, x) for part, x in zip(case.parts, inputs(case), strict=True)]

    def call() -> None:
        for one, _ in made:
            one()

    return Runner(made[0][0] if len(made) == 1 else call, lambda: [y for _, y in made])


def _part(case: Case, part: Stack | File, x: Array) -> tuple[Any, Array]:
    at = session(source(part))
    x_name, y_name = names(part)
    states = zero_states(case, part)
    given = {x_name: x, **fixed(part)}
    feed = {**given, **{before: zeros for before, _, zeros in states}}
    y = at.run([y_name], feed)[0]
    others = [np.zeros_like(zeros) for *_, zeros in states]
    bindings = []
    for turn in range(2):
        binding = at.io_binding()
        for name, array in given.items():
            _bind(binding.bind_input, name, array)
        _bind(binding.bind_output, y_name, y)
        for (before, after, zeros), other in zip(states, others, strict=True):
            _bind(binding.bind_input, before, other if turn else zeros)
            _bind(binding.bind_output, after, zeros if turn else other)
        bindings.append(binding)
    run, turns = at.run_with_iobinding, cycle(bindings)

    def step(keep: Any = (feed, others)) -> None:  # the bindings hold addresses alone
        run(next(turns))

    return step, y


def _bind(bind: Any, name: str, array: Array) -> None:
    bind(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
