# SPDX-License-Identifier: MIT
"""Results as Markdown, and what is known of the machine they belong to."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

Row = dict[str, Any]

HEAD = (
    "| case | peer | ours us | peer us | peer / ours | quartiles | target | bound us | of bound "
    "| why below 80 % |"
)


def machine(peers: list[str]) -> dict[str, Any]:
    """Return CPU, instruction set, threads and versions."""
    import numpy as np

    import gruengine
    from benchmarks.peers import peer

    return {
        "cpu": _cpu(),
        "system": f"{platform.system()} {platform.machine()}",
        "isa": gruengine.info()["isa"],
        "threads": 1,
        "compute_type": "float32",
        "versions": {
            "gruengine": gruengine.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            **{name: peer(name).version() for name in peers},
        },
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    known = {name.strip(): value.strip() for name, value in facts.items()}
    wanted = ("cpu family", "model", "stepping")
    details = ", ".join(f"{name} {known[name]}" for name in wanted if name in known)
    return f"{known.get('model name', platform.machine())} ({details})"


def markdown(found: dict[str, Any]) -> str:
    """Return the report of one run."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    settings = found["settings"]
    lines = [
        f"{found['cpu']}; {found['isa']}, {found['compute_type']}, {found['threads']} thread.",
        f"{versions}.",
        "",
        f"Medians of {settings['rounds']} rounds in turns; peer / ours is the median of the rounds'"
        f" ratios. Bound (benchmarks/bound.py): {found['bounds']}.",
        "",
        HEAD,
        "|---|---|--:|--:|--:|---|--:|--:|--:|---|",
        *(_line(row) for row in found["rows"]),
    ]
    if found["notes"]:
        lines += ["", *(f"- {note}" for note in found["notes"])]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    low, high = row["ratio_quartiles"]
    cells = [
        row["case"],
        f"{row['peer']} ({row['detail']})" if row.get("detail") else row["peer"],
        number(row["ours_us"]),
        number(row["peer_us"]),
        f"{row['ratio']:.2f}x",
        f"{low:.2f}-{high:.2f}",
        _target(row),
        f"{number(row['bound_us'])} {row['level']}",
        f"{100 * row['of_bound']:.0f}%",
        row.get("reason", ""),
    ]
    return "| " + " | ".join(cells) + " |"


def _target(row: Row) -> str:
    if row["target"] is None:
        return ""
    return f"{row['target']:g}x {'met' if row['ratio'] >= row['target'] else 'MISSED'}"


def number(value: float) -> str:
    """Return three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def progress(row: Row) -> str:
    """Return one line for a person who waits."""
    low, high = row["ratio_quartiles"]
    return (
        f"{row['case']:38} {row['peer']:20} {number(row['ours_us']):>7} us"
        f" {number(row['peer_us']):>7} us {row['ratio']:7.2f}x ({low:.2f}-{high:.2f})"
        f" {100 * row['of_bound']:4.0f}% of bound {_target(row)}"
    )
