# SPDX-License-Identifier: MIT
"""Engines that run a case. Each module has ``missing()``, ``version()`` and ``prepare(case)``.

``missing()`` returns why the peer is not here, "" if it is. ``prepare(case)`` returns a
:class:`Runner`, or None for a case that the peer cannot run. ``COMPUTE_TYPE``, where a module has
it, is what it computes in; else float32. ``NATIVE`` marks engines without Python.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.cases import Case, File, Stack

Array = np.ndarray[Any, Any]

NAMES = (
    "onnxruntime", "onnxruntime-binding", "onnxruntime-int8", "torch", "torch-int8", "openvino",
    "openvino-bf16", "rtneural", "gruengine-float32",
)  # fmt: skip

# Steps of one call into C: frames that stay in L1, again and again, so that the call is no cost.
_FRAMES, _REPEATS = 32, 32


@dataclass
class Runner:
    """A case made ready.

    call : one timed call, as a user of that engine would write it
    outputs : the outputs of the last call, one for each part of the case, in any shape
    steps : calls of the case that one ``call`` makes
    detail : what of a peer this is, where it has more than one
    """

    call: Callable[[], object]
    outputs: Callable[[], list[Array]]
    steps: int = 1
    detail: str = ""


def peer(name: str) -> Any:
    """Return the module of a peer, or of this engine as ``"ours"``."""
    return import_module(f"benchmarks.peers.{name.replace('-', '_')}")


def compute_type(name: str) -> str:
    """Return what a peer computes in."""
    return str(getattr(peer(name), "COMPUTE_TYPE", "float32"))


def rivals(case: Case, names: Sequence[str]) -> list[str]:
    """Return the peers that belong beside a case: of its compute type, and those it names."""
    return [
        name
        for name in names
        if getattr(peer(name), "NATIVE", False) == case.native
        and (name in case.targets or compute_type(name) == case.compute_type)
    ]


def looped(stack: Stack, run: Any, model: int, close: Any, detail: str = "") -> Runner:
    """Return a runner of a function of C: ``run(model, x, y, frames, repeats)``.

    x : ``[frames, I]``; y : ``[frames, H]``. ``close(model)`` is called when the runner goes.
    """
    random = np.random.default_rng(11)
    x = random.uniform(-1, 1, (_FRAMES, stack.I)).astype(np.float32)
    y = np.empty((_FRAMES, stack.H), np.float32)
    run.argtypes = [*3 * [ctypes.c_void_p], *2 * [ctypes.c_int64]]
    close.argtypes = [ctypes.c_void_p]
    given = (model, pointer(x), pointer(y), _FRAMES, _REPEATS)

    def call(keep: tuple[Array, Array] = (x, y)) -> None:
        if run(*given):
            raise RuntimeError("a step failed")

    weakref.finalize(call, close, model)
    return Runner(call, lambda: [y], _FRAMES * _REPEATS, detail)


def pointer(array: Array) -> int:
    """Return the address of a contiguous array."""
    assert array.flags.c_contiguous
    return int(array.ctypes.data)


def inputs(case: Case) -> list[Array]:
    """Return the input of each part, the same for every engine."""
    random = np.random.default_rng(11)
    shapes = [
        (case.T, case.N, part.I) if isinstance(part, Stack) else part.shape for part in case.parts
    ]
    return [random.uniform(-1, 1, shape).astype(np.float32) for shape in shapes]


def zero_states(case: Case, part: Stack | File) -> list[tuple[str, str, Array]]:
    """Return (input, output, zeros) of every state of a part."""
    from benchmarks.onnx_cell import states

    if isinstance(part, Stack):
        shape = (1, case.N, part.H)
        return [(a, b, np.zeros(shape, np.float32)) for a, b in states(part)]
    return [(a, b, np.zeros(shape, np.float32)) for a, b, shape in part.state]


def source(part: Stack | File) -> bytes:
    """Return the ONNX model of a part."""
    from benchmarks.cases import MODELS
    from benchmarks.onnx_cell import onnx_model

    return onnx_model(part) if isinstance(part, Stack) else (MODELS / part.path).read_bytes()


def names(part: Stack | File) -> tuple[str, str]:
    """Return the names of a part's input and output."""
    return ("X", "Y") if isinstance(part, Stack) else (part.input, part.output)
