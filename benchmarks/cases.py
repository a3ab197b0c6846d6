# SPDX-License-Identifier: MIT
"""What is timed. A case is data; a peer knows how to run one.

Letters: N batch, T time, I input, H hidden, G gates.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import ROOT

GATES = {"LSTM": 4, "GRU": 3}
MODELS = Path(os.environ.get("GRUENGINE_MODELS", ROOT.parent / "shared" / "models"))


@dataclass(frozen=True)
class Cell:
    """One recurrent layer with I = H, fed ``[T, N, I]``. GRU resets after the product."""

    kind: str
    H: int

    @property
    def weights(self) -> int:
        """G * H * (I + H)."""
        return GATES[self.kind] * self.H * 2 * self.H


@dataclass(frozen=True)
class File:
    """One ONNX file below the models' folder, fed one array; states start at zero.

    macs, act_units : multiply-adds and (G + 1) * H activations / G of a call: for the bound
    """

    path: str
    input: str
    shape: tuple[int, ...]
    output: str
    state: tuple[tuple[str, str, tuple[int, ...]], ...]
    weights: int
    macs: int
    bind: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One row.

    carried : the state goes on from call to call (a step); else every call starts from zeros
    targets : how many times faster than a peer this should be
    """

    name: str
    group: str
    parts: tuple[Cell | File, ...]
    carried: bool
    N: int = 1
    T: int = 1
    targets: Mapping[str, float] = field(default_factory=dict)

    def missing(self) -> str:
        """Return why the case cannot run here, "" if it can."""
        for part in self.parts:
            if isinstance(part, File) and not (MODELS / part.path).is_file():
                return f"{part.path} is not in {MODELS} (set GRUENGINE_MODELS)"
        return ""


def _targets(run: float, binding: float = 0) -> dict[str, float]:
    found = {"onnxruntime": run}
    if binding:
        found["onnxruntime-binding"] = binding
    return found


_STEP = {32: (20, 10), 64: (9, 5), 128: (3.5, 2), 256: (1.7, 1.3), 512: (0, 0)}
_SEQUENCE = {64: 1.3, 128: 1.6, 256: 1.2}


def _cells() -> list[Case]:
    cases = []
    for kind in GATES:
        for H, (run, binding) in _STEP.items():
            targets = _targets(run, binding) if run else {}
            name = f"{kind} step H={H}"
            cases.append(Case(name, "step", (Cell(kind, H),), True, targets=targets))
    for kind in GATES:
        for H, run in _SEQUENCE.items():
            name = f"{kind} sequence H={H} T=100"
            cases.append(
                Case(name, "sequence", (Cell(kind, H),), False, T=100, targets=_targets(run))
            )
    for kind in GATES:
        for H in (256, 512):
            for N in (16, 32):
                cell, targets = (Cell(kind, H),), _targets(1.2)
                name = f"{kind} batched {{}} H={H} N={N}"
                cases.append(Case(name.format("step"), "batched", cell, True, N, 1, targets))
                cases.append(
                    Case(name.format("sequence") + " T=50", "batched", cell, False, N, 50, targets)
                )
    return cases


def _dtln(
    stage: int, size: int, inputs: tuple[str, str], outputs: tuple[str, str], weights: int
) -> File:
    state = ((inputs[1], outputs[1], (1, 2, 128, 2)),)
    path = f"dtln/model_{stage}.onnx"
    return File(path, inputs[0], (1, 1, size), outputs[0], state, weights, weights)


_DTLN1 = _dtln(1, 257, ("input_2", "input_3"), ("activation_2", "tf_op_layer_stack_2"), 361_984)
_DTLN2 = _dtln(2, 512, ("input_4", "input_5"), ("conv1d_3", "tf_op_layer_stack_5"), 622_592)


def _silero(frames: int) -> File:
    state = (("h", "hn", (1, 1, 128)), ("c", "cn", (1, 1, 128)))
    path = "silero/silero_vad_v6_sequence.onnx"
    return File(path, "input", (frames, 576), "speech_probs", state, 309_500, 680_000 * frames)


_SILERO_CALL = File(
    "silero/silero_vad_v6.2.onnx",
    "input",
    (1, 576),
    "output",
    (("state", "stateN", (2, 1, 128)),),
    309_500,
    680_000,
    {"sr": 16000},
)


def _models() -> list[Case]:
    return [
        Case("DTLN block, both stages", "model", (_DTLN1, _DTLN2), True, targets=_targets(3)),
        Case("DTLN stage 1", "model", (_DTLN1,), True),
        Case("DTLN stage 2", "model", (_DTLN2,), True),
        Case("Silero v6 frame by frame", "model", (_silero(1),), True, targets=_targets(1.5)),
        Case("Silero v6 T=100", "model", (_silero(100),), False, T=100, targets=_targets(1.5)),
        Case("Silero v6.2 call", "model", (_SILERO_CALL,), True),
    ]


def catalogue() -> list[Case]:
    """Return every case, in the order of the report."""
    return [*_cells(), *_models()]
