# SPDX-License-Identifier: MIT
"""ONNX Runtime through ``run``: the states are fed and fetched by the caller."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from benchmarks.cases import Case, File, Stack
from benchmarks.peers import Array, Runner, inputs, names, source, zero_states


def missing() -> str:
    return "" if find_spec("onnxruntime") and find_spec("onnx") else "not installed"


def version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def session(model: bytes) -> Any:
    """Return a session on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])


def fixed(part: Stack | File) -> dict[str, Array]:
    """Return the inputs that never change."""
    import numpy as np

    bind = part.bind if isinstance(part, File) else {}
    return {name: np.array(value, np.int64) for name, value in bind.items()}


def prepare(case: Case, model_of: Callable[[Stack | File], bytes] = source) -> Runner:
    """Return sessions that carry the state, or start every call from zeros."""
    last: list[Array] = [None] * len(case.parts)  # type: ignore[list-item]
    calls = [
        _part(case, part, session(model_of(part)).run, x, last, i)
        for i, (part, x) in enumerate(zip(case.parts, inputs(case), strict=True))
    ]

    def call() -> None:
        for one in calls:
            one()

    return Runner(calls[0] if len(calls) == 1 else call, lambda: last)


def _part(case: Case, part: Stack | File, run: Any, x: Array, last: list[Array], at: int) -> Any:
    x_name, y_name = names(part)
    states = zero_states(case, part)
    feed = {x_name: x, **fixed(part), **{before: zeros for before, _, zeros in states}}
    wanted = [y_name, *(after for _, after, _ in states)]
    befores = [before for before, _, _ in states]
    if not case.carried:

        def sequence() -> None:
            last[at] = run([y_name], feed)[0]

        return sequence

    def step() -> None:
        last[at], *after = run(wanted, feed)
        for name, state in zip(befores, after):  # noqa: B905 - as short as a user's own code
            feed[name] = state

    return step
