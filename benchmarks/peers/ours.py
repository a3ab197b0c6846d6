# SPDX-License-Identifier: MIT
"""Streams and models of gruengine: a stream for steps, a call of the model for sequences."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from benchmarks.cases import Case, File, Stack
from benchmarks.peers import Array, Runner, inputs, names, source


def missing() -> str:
    return ""


def version() -> str:
    import gruengine

    return gruengine.__version__


def prepare(case: Case) -> Runner:
    """Return streams with ``out=``, or the call of the model that allocates its result."""
    made = [_part(case, part, x) for part, x in zip(case.parts, inputs(case), strict=True)]
    outputs = lambda: [output() for _, output in made]  # noqa: E731
    if len(made) == 1:
        return Runner(made[0][0], outputs)
    first, second = (call for call, _ in made)

    def both() -> None:
        first()
        second()

    return Runner(both, outputs)


def _part(case: Case, part: Stack | File, x: Array) -> tuple[Any, Any]:
    import gruengine

    options: dict[str, Any] = {"num_threads": case.threads}
    if case.compute_type != "float32":
        options["compute_type"] = case.compute_type
    if isinstance(part, File) and part.bind:
        options["bind"] = dict(part.bind)
    model = gruengine.load(source(part), **options)
    output = names(part)[1]
    if not case.carried:
        holder: list[Any] = [None]

        def call() -> None:
            holder[0] = model(x)

        return call, lambda: holder[0][output] if isinstance(holder[0], dict) else holder[0]
    stream = model.stream(case.N if isinstance(part, Stack) else 1)
    frame = x[0] if isinstance(part, Stack) or part.path.endswith("sequence.onnx") else x
    y = np.empty_like(stream.step(frame))
    stream.reset()
    return partial(stream.step, frame, y), lambda: y
