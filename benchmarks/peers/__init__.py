# SPDX-License-Identifier: MIT
"""Engines that run a case. Each module has ``missing()``, ``version()`` and ``prepare(case)``.

``missing()`` returns why the peer is not here, "" if it is. ``prepare(case)`` returns a
:class:`Runner`, or None for a case that the peer cannot run. ``COMPUTE_TYPE``, where a module has
it, is what it computes in; else float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.cases import Case, File, Stack

Array = np.ndarray[Any, Any]

NAMES = (
    "onnxruntime", "onnxruntime-binding", "onnxruntime-int8", "torch", "torch-int8", "openvino",
    "openvino-bf16", "gruengine-float32",
)  # fmt: skip


@dataclass
class Runner:
    """A case made ready.

    call : one timed call, as a user of that engine would write it
    outputs : the outputs of the last call, one for each part of the case, in any shape
    """

    call: Callable[[], object]
    outputs: Callable[[], list[Array]]


def peer(name: str) -> Any:
    """Return the module of a peer, or of this engine as ``"ours"``."""
    return import_module(f"benchmarks.peers.{name.replace('-', '_')}")


def compute_type(name: str) -> str:
    """Return what a peer computes in."""
    return str(getattr(peer(name), "COMPUTE_TYPE", "float32"))


def rivals(case: Case, names: Sequence[str]) -> list[str]:
    """Return the peers that belong beside a case: of its compute type, and those it names."""
    return [
        name for name in names if name in case.targets or compute_type(name) == case.compute_type
    ]


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
