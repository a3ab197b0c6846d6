# SPDX-License-Identifier: MIT
"""What every converter shares: reasons for refusing, the report, the options of a conversion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gruengine.errors import GruEngineError

#: What is being done, and the part of it (0 to 1) that is done.
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Reason:
    """Why one place of a model cannot be converted exactly."""

    where: str  # node or tensor name as the source calls it, "" for the whole model
    what: str  # operator, attribute or key, with the value found
    why: str  # what is allowed instead

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what}: {self.why}"


class ConversionError(GruEngineError, ValueError):
    """A model that cannot be converted exactly, with every reason at once.

    Attributes
    ----------
    reasons : tuple of Reason
    """

    def __init__(self, source: str, reasons: list[Reason]) -> None:
        self.reasons = tuple(reasons)
        lines = "\n".join(f"  - {reason}" for reason in reasons)
        plural = "reason" if len(reasons) == 1 else "reasons"
        super().__init__(f"cannot convert {source} exactly, {len(reasons)} {plural}:\n{lines}")


@dataclass(frozen=True)
class Options:
    """What the user may add to a conversion.

    bind : values of graph inputs fixed at conversion, e.g. ``{"sr": 16000}``
    state : graph input -> graph output pairs carried by a stream; None: found by the converter
    hints : facts that the source does not hold, e.g. ``batch_first`` of a state_dict
    progress : told what is being done, and how much of it is
    """

    bind: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, str] | None = None
    hints: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress | None = None

    def tell(self, what: str, part: float) -> None:
        """Tell whoever watches that ``part`` (0 to 1) of ``what`` is done."""
        if self.progress is not None:
            self.progress(what, part)


@dataclass
class ConversionReport:
    """What happened: shown by the command line, returned by ``gruengine.convert``."""

    source: str
    source_format: str
    recognised: list[str] = field(default_factory=list)  # recurrent nodes, in words
    folded: int = 0  # nodes evaluated at conversion
    fused: list[str] = field(default_factory=list)  # patterns that became one node, in words
    warnings: list[str] = field(default_factory=list)
    nodes_before: int = 0
    nodes_after: int = 0
    parameters: int = 0
    source_bytes: int = 0
    output_bytes: int = 0
    state: tuple[tuple[str, str], ...] = ()
    # Nodes that ONNX Runtime runs, with the reason, where the user allows it.
    fallback: list[str] = field(default_factory=list)
    # Filled by gruengine.convert: in words, and the engine against the parity sample.
    streaming: str = ""
    parity_error: float | None = None
