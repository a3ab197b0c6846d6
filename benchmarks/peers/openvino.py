# SPDX-License-Identifier: MIT
"""OpenVINO on one thread: an inference request whose states are fed and fetched."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from benchmarks.cases import Case, Stack
from benchmarks.peers import Array, Runner, inputs, names, source, zero_states


def missing() -> str:
    return "" if find_spec("openvino") and find_spec("onnx") else "not installed"


def version() -> str:
    import openvino

    return str(openvino.__version__)


def prepare(case: Case, precision: str = "f32") -> Runner | None:
    """Return a request for one stack; real models and several parts are left to others."""
    import numpy as np
    import openvino

    stack = case.parts[0]
    if not isinstance(stack, Stack):
        return None
    core = openvino.Core()
    model = core.read_model(source(stack))
    states = zero_states(case, stack)
    x_name, y_name = names(stack)
    x = inputs(case)[0]
    shapes = {x_name: x.shape, **{before: zeros.shape for before, _, zeros in states}}
    model.reshape({name: list(shape) for name, shape in shapes.items()})
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    request = core.compile_model(model, "CPU", options).create_infer_request()
    feed: dict[str, Any] = {x_name: x, **{before: zeros for before, _, zeros in states}}
    pairs = [(before, after) for before, after, _ in states] if case.carried else []
    last: list[Array] = [np.zeros(0, np.float32)]

    def call() -> None:
        request.infer(feed, share_inputs=True)
        last[0] = request.get_tensor(y_name).data.copy()
        for before, after in pairs:
            feed[before] = request.get_tensor(after).data.copy()

    return Runner(call, lambda: last)
