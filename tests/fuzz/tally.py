# SPDX-License-Identifier: MIT
"""What became of many random models: counts by group, and the reasons of what was refused."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

KINDS = ("converted", "refused", "unexported", "wrong")


@dataclass
class Outcome:
    """What became of a model: one of ``KINDS``, and why."""

    kind: str
    notes: list[str] = field(default_factory=list)


def general(reason: str) -> str:
    """Return a reason without the names of nodes and without numbers."""
    return re.sub(r"\d+", "#", reason.split(": ", 1)[-1])[:110]


class Tally:
    """Counts outcomes; ``groups`` says in what form a model came."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.reasons: Counter[str] = Counter()
        self.parts: Counter[str] = Counter()

    def add(self, group: str, outcome: Outcome, parts: set[str]) -> None:
        """Count a model of a group, made of ``parts``."""
        self.counts[group][outcome.kind] += 1
        self.reasons.update({f"{outcome.kind}: {general(note)}" for note in outcome.notes})
        if outcome.kind == "converted":
            self.parts.update(parts)

    @staticmethod
    def tell(seed: int, outcome: Outcome) -> None:
        """Print at once what was not converted."""
        if outcome.kind in ("wrong", "refused"):
            print(f"seed {seed}: {outcome.kind}", *outcome.notes[:3], sep="\n    ", flush=True)

    def total(self, kind: str) -> int:
        return sum(counts[kind] for counts in self.counts.values())

    def table(self) -> str:
        """Return the counts as a table, then the reasons, then what was in converted models."""
        width = max([5, *map(len, self.counts)])
        lines = [" " * width + "".join(f"{kind:>12}" for kind in KINDS)]
        rows = sorted(self.counts.items())
        rows.append(("total", Counter({kind: self.total(kind) for kind in KINDS})))
        for group, counts in rows:
            lines.append(f"{group:<{width}}" + "".join(f"{counts[kind]:12}" for kind in KINDS))
        if self.reasons:
            lines += ["", "reasons:"]
            lines += [f"{count:6}  {reason}" for reason, count in self.reasons.most_common(40)]
        if self.parts:
            listed = ", ".join(f"{name} {count}" for name, count in self.parts.most_common())
            lines += ["", f"in converted models: {listed}"]
        return "\n".join(lines)
