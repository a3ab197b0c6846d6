# SPDX-License-Identifier: MIT
"""Engines that run a case. Each module has ``missing()`` and ``prepare(case)``.

``missing()`` returns why the peer is not here, "" if it is. ``prepare(case)`` returns a
:class:`Runner`, or None for a case that the peer cannot run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.cases import Case, Cell, File

Array = np.ndarray[Any, Any]

NAMES = ("onnxruntime", "onnxruntime-binding", "torch")


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


def inputs(case: Case) -> list[Array]:
    """Return the input of each part, the same for every engine."""
    random = np.random.default_rng(11)
    shapes = [
        (case.T, case.N, part.H) if isinstance(part, Cell) else part.shape for part in case.parts
    ]
    return [random.uniform(-1, 1, shape).astype(np.float32) for shape in shapes]


def zero_states(case: Case, part: Cell | File) -> list[tuple[str, str, Array]]:
    """Return (input, output, zeros) of every state of a part."""
    from benchmarks.onnx_cell import states

    if isinstance(part, Cell):
        shape = (1, case.N, part.H)
        return [(a, b, np.zeros(shape, np.float32)) for a, b in states(part)]
    return [(a, b, np.zeros(shape, np.float32)) for a, b, shape in part.state]


def source(part: Cell | File) -> bytes:
    """Return the ONNX model of a part."""
    from benchmarks.cases import MODELS
    from benchmarks.onnx_cell import onnx_model

    return onnx_model(part) if isinstance(part, Cell) else (MODELS / part.path).read_bytes()


def names(part: Cell | File) -> tuple[str, str]:
    """Return the names of a part's input and output."""
    return ("X", "Y") if isinstance(part, Cell) else (part.input, part.output)
