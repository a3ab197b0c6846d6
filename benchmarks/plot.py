# SPDX-License-Identifier: MIT
"""Latency of a step over the hidden size, beside peers and above the bound."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import Any

Row = dict[str, Any]
Line = dict[int, float]

KINDS = ("LSTM", "GRU")
LABELS = {
    "onnxruntime": "ONNX Runtime, run()",
    "onnxruntime-binding": "ONNX Runtime, IO binding",
    "torch": "PyTorch",
}
COLOURS = ("#4c72b0", "#8da9d4", "#c44e52", "#937860")
OURS = "#1b7f4d"


def lines_of(rows: list[Row], kind: str) -> tuple[Line, Line, dict[str, Line]]:
    """Return microseconds by hidden size: this engine's, the bound's, and each peer's."""
    ours: dict[int, list[float]] = defaultdict(list)
    bound: Line = {}
    peers: dict[str, Line] = defaultdict(dict)
    for row in rows:
        if row["group"] != "step" or not row["case"].startswith(kind):
            continue
        ours[row["H"]].append(row["ours_us"])
        bound[row["H"]] = row["bound_us"]
        peers[row["peer"]][row["H"]] = row["peer_us"]
    return {H: median(times) for H, times in ours.items()}, bound, peers


def save(found: dict[str, Any], path: str) -> None:
    """Draw the single-row steps of a run into a file of matplotlib's choice of format.

    Raises
    ------
    ValueError
        The run holds no steps.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    if not any(row["group"] == "step" for row in found["rows"]):
        raise ValueError("the run holds no steps to draw")
    with plt.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(1, 2, figsize=(12, 5.4), sharey=True, layout="constrained")
        for axis, kind in zip(axes, KINDS, strict=True):
            _draw(axis, kind, *lines_of(found["rows"], kind))
        axes[0].set_ylabel("one step, microseconds")
        figure.suptitle("A step from Python to Python, one row, float32, one thread", fontsize=14)
        note = f"x: times faster than the fastest peer. {found['cpu']}"
        figure.supxlabel(note, fontsize=9, color="#777777")
        figure.savefig(path, dpi=90)
        plt.close(figure)


def _draw(axis: Any, kind: str, ours: Line, bound: Line, peers: dict[str, Line]) -> None:
    axis.set_title(f"{kind}, I = H", loc="left")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.grid(True, which="major", color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)
    if not ours:
        return
    sizes = sorted(ours)
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.minorticks_off()
    axis.set_xlabel("hidden size")
    for (name, line), colour in zip(peers.items(), COLOURS):  # noqa: B905 - colours to spare
        _line(axis, line, LABELS.get(name, name), color=colour, marker="o", markersize=4)
    floor = [bound[size] for size in sizes]
    axis.fill_between(sizes, floor, min(floor) / 3, color="#f0f0f0", zorder=0)
    axis.set_ylim(bottom=min(floor) / 1.6)
    _line(axis, bound, "bound of the machine", color="#999999", linestyle="--")
    _line(axis, ours, "gruengine", color=OURS, marker="o", linewidth=2.6)
    for size in sizes:
        times = [line[size] for line in peers.values() if size in line]
        if times:
            text = f"{min(times) / ours[size]:.1f}x"
            at = (size, ours[size])
            axis.annotate(text, at, (7, -13), textcoords="offset points", color=OURS, fontsize=10)
    axis.legend(loc="upper left", frameon=False, fontsize=9.5)


def _line(axis: Any, line: Line, label: str, **style: Any) -> None:
    sizes = sorted(line)
    axis.plot(sizes, [line[size] for size in sizes], label=label, **style)
