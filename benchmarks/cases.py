# SPDX-License-Identifier: MIT
"""What a case is. ``catalogue.py`` lists them; a peer knows how to run one.

Letters: N batch, T time, I input, H hidden, G gates.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import ROOT

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
MODELS = Path(os.environ.get("GRUENGINE_MODELS", ROOT.parent / "shared" / "models"))


@dataclass(frozen=True)
class Stack:
    """Recurrent layers of one size, fed ``[T, N, I]``; a GRU resets after the product.

    inputs : I of the first layer; 0: as many as H
    dense : outputs of a linear layer on top of the last; 0: none
    """

    kind: str
    H: int
    layers: int = 1
    inputs: int = 0
    dense: int = 0

    @property
    def I(self) -> int:  # noqa: E743, N802 - the letter of the field
        return self.inputs or self.H

    def sizes(self) -> list[tuple[int, int]]:
        """Return (I, H) of each layer."""
        return [(self.I if layer == 0 else self.H, self.H) for layer in range(self.layers)]

    @property
    def weights(self) -> int:
        """G * H * (I + H) over the layers, and those of the linear layer."""
        cells = sum(GATES[self.kind] * H * (I + H) for I, H in self.sizes())
        return cells + self.dense * self.H


@dataclass(frozen=True)
class File:
    """One ONNX file below the models' folder, fed one array; states start at zero.

    macs : multiply-adds of a call, for the bound
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
    compute_type, threads : of this engine; peers have names of their own for theirs
    quick : part of the set of five minutes
    native : steps in a loop of C or C++, beside peers that have no Python
    """

    name: str
    group: str
    parts: tuple[Stack | File, ...]
    carried: bool
    N: int = 1
    T: int = 1
    targets: Mapping[str, float] = field(default_factory=dict)
    compute_type: str = "float32"
    threads: int = 1
    quick: bool = True
    native: bool = False

    @property
    def size(self) -> int:
        """H of a stack, 0 for files."""
        return self.parts[0].H if isinstance(self.parts[0], Stack) else 0

    def missing(self) -> str:
        """Return why the case cannot run here, "" if it can."""
        for part in self.parts:
            if isinstance(part, File) and not (MODELS / part.path).is_file():
                return f"{part.path} is not in {MODELS} (set GRUENGINE_MODELS)"
        return ""
