# SPDX-License-Identifier: MIT
"""What the training examples share: their options, tables and figures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Colours of the figures, told apart by most kinds of colour vision.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")


def options(doc: str | None, **extra: str) -> argparse.Namespace:
    """Read the command line: ``--out``, ``--quick``, ``--seed`` and what else is named."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--seed", type=int, default=0)
    for name, text in extra.items():
        parser.add_argument(f"--{name}", default=None, help=text)
    found = parser.parse_args()
    found.out.mkdir(parents=True, exist_ok=True)
    return found


def table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table, and write it to ``path`` in Markdown."""
    cells = [list(header), *([_text(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["| " + " | ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) + " |"
             for row in cells]  # fmt: skip
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    text = "\n".join(lines)
    print(text)
    path.write_text(text + "\n")


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def figure(rows: int = 1, columns: int = 1, width: float = 7.0, height: float = 4.0) -> Any:
    """Return a figure and its axes; nothing is shown on a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(rows, columns, figsize=(width, height), layout="constrained")


def save(made: Any, path: Path) -> None:
    """Write a figure and say where."""
    made.savefig(path, dpi=120)
    from matplotlib import pyplot

    pyplot.close(made)
    print(f"wrote {path}")
