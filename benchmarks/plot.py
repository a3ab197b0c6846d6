# SPDX-License-Identifier: MIT
"""Three pictures of a run: latency over the hidden size, throughput over streams, the roofline.

``python -m benchmarks.plot FILE.json FOLDER`` draws a run that was written down.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import from_json

Row = dict[str, Any]
Line = dict[int, float]

KINDS = ("LSTM", "GRU")
LABELS = {
    "onnxruntime": "ONNX Runtime, run()",
    "onnxruntime-binding": "ONNX Runtime, IO binding",
    "torch": "PyTorch",
    "openvino": "OpenVINO",
}
COLOURS = ("#4c72b0", "#8da9d4", "#c44e52", "#937860")
OURS = {"float32": "#1b7f4d", "bfloat16": "#6a3d9a", "int8": "#e08214", "bf16x3": "#2b8cbe"}
GREY = "#777777"


def save(found: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what the rows of a run hold into a folder; return the files.

    Raises
    ------
    ValueError
        The run holds nothing to draw.
    """
    pictures = {"steps": _steps, "streams": _streams, "roofline": _roofline}
    groups = {"steps": {"step"}, "streams": {"streams"}, "roofline": set()}
    files = []
    for name, draw in pictures.items():
        rows = [row for row in found["rows"] if not groups[name] or row["group"] in groups[name]]
        if rows:
            folder.mkdir(parents=True, exist_ok=True)
            files.append(folder / f"{name}.png")
            draw(rows, found, files[-1])
    if not files:
        raise ValueError("the run holds nothing to draw")
    return files


@contextmanager
def _figure(file: Path, columns: int, title: str, note: str) -> Iterator[Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        size = (6.2 * columns if columns > 1 else 9, 5.4)
        figure, axes = plt.subplots(1, columns, figsize=size, sharey=True, layout="constrained")
        yield axes
        handles, labels = figure.axes[0].get_legend_handles_labels()
        place = {"loc": "outside lower center", "ncols": min(4, len(labels))}
        legend = figure.legend(handles, labels, frameon=False, fontsize=9.5, title=note, **place)
        legend.get_title().set(fontsize=9, color=GREY)
        figure.suptitle(title, fontsize=14)
        figure.savefig(file, dpi=90)
        plt.close(figure)


def _plain(axis: Any, ticks: list[int] | None = None) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.grid(True, which="major", color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)
    if ticks:
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()


def _line(axis: Any, line: Line, label: str, **style: Any) -> None:
    sizes = sorted(line)
    axis.plot(sizes, [line[size] for size in sizes], label=label, **style)


# -- latency --------------------------------------------------------------------------------------


def lines_of(rows: list[Row], kind: str) -> tuple[dict[str, Line], Line, dict[str, Line]]:
    """Return microseconds by hidden size: ours by compute type, the float32 bound, each peer's."""
    ours: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    bound: Line = {}
    peers: dict[str, Line] = defaultdict(dict)
    for row in rows:
        if row["group"] != "step" or not row["case"].startswith(kind):
            continue
        ours[row["compute_type"]][row["H"]].append(row["ours_us"])
        if row["compute_type"] == "float32":
            bound[row["H"]] = row["bound_us"]
            if row["peer"] in LABELS:
                peers[row["peer"]][row["H"]] = row["peer_us"]
    medians = {kind: {H: median(t) for H, t in line.items()} for kind, line in ours.items()}
    return medians, bound, peers


def _steps(rows: list[Row], found: dict[str, Any], file: Path) -> None:
    note = f"x: times faster than the fastest float32 peer. {found['cpu']}"
    title = "A step from Python to Python, one row, one thread"
    with _figure(file, 2, title, note) as axes:
        for axis, kind in zip(axes, KINDS, strict=True):
            _latency(axis, kind, *lines_of(rows, kind))
        axes[0].set_ylabel("one step, microseconds")


def _latency(
    axis: Any, kind: str, ours: dict[str, Line], bound: Line, peers: dict[str, Line]
) -> None:
    axis.set_title(f"{kind}, I = H", loc="left")
    sizes = sorted({size for line in ours.values() for size in line})
    _plain(axis, sizes)
    if not sizes:
        return
    axis.set_xlabel("hidden size")
    for (name, line), colour in zip(peers.items(), COLOURS):  # noqa: B905 - colours to spare
        _line(axis, line, LABELS[name], color=colour, marker="o", markersize=4)
    if bound:
        floor = [bound[size] for size in sorted(bound)]
        axis.fill_between(sorted(bound), floor, min(floor) / 3, color="#f0f0f0", zorder=0)
        axis.set_ylim(bottom=min(floor) / 1.6)
        _line(axis, bound, "bound, float32", color="#999999", linestyle="--")
    for name, line in ours.items():
        width = 2.6 if name == "float32" else 1.8
        _line(axis, line, f"gruengine, {name}", color=OURS.get(name), marker="o", linewidth=width)
    plain = ours.get("float32", {})
    for size, time in plain.items():
        times = [line[size] for line in peers.values() if size in line]
        if times:
            text, at = f"{min(times) / time:.1f}x", (size, time)
            style: dict[str, Any] = {"color": OURS["float32"], "fontsize": 10}
            axis.annotate(text, at, (7, -13), textcoords="offset points", **style)


# -- throughput -----------------------------------------------------------------------------------


def throughput(rows: list[Row]) -> tuple[dict[str, Line], dict[str, Line]]:
    """Return steps of streams a second by batch: ours by compute type, and each float32 peer's."""
    ours: dict[str, Line] = defaultdict(dict)
    peers: dict[str, Line] = defaultdict(dict)
    for row in rows:
        ours[row["compute_type"]][row["N"]] = row["N"] / row["ours_us"] * 1e6
        if row["compute_type"] == "float32" and row["peer"] in LABELS:
            peers[row["peer"]][row["N"]] = row["N"] / row["peer_us"] * 1e6
    return ours, peers


def _streams(rows: list[Row], found: dict[str, Any], file: Path) -> None:
    ours, peers = throughput(rows)
    title = "LSTM, I = H = 256: streams stepped together, one thread"
    with _figure(file, 1, title, found["cpu"]) as axis:
        _plain(axis, sorted({row["N"] for row in rows}))
        axis.set_xlabel("streams in a step")
        axis.set_ylabel("steps of a stream a second")
        for (name, line), colour in zip(peers.items(), COLOURS):  # noqa: B905
            _line(axis, line, LABELS[name], color=colour, marker="o", markersize=4)
        for name, line in ours.items():
            _line(axis, line, f"gruengine, {name}", color=OURS.get(name), marker="o", linewidth=2.4)


# -- roofline -------------------------------------------------------------------------------------


def _roofline(rows: list[Row], found: dict[str, Any], file: Path) -> None:
    machine = from_json(found["machine"])
    what = "A point is a case. Lines: what one core loads from a level, and its peaks."
    note = f"{what} {found['cpu']}"
    with _figure(file, 1, "Work done, over work per byte of weights", note) as axis:
        _plain(axis, [1, 4, 16, 64, 256, 1024])
        points: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
        for row in rows:
            if row["threads"] == 1:
                at = (row["operations"] / row["weight_bytes"], row["operations"] / row["ours_us"])
                points[row["compute_type"]][row["case"]] = (at[0], at[1] * 1e-3)
        ends = (0.2, 512)
        for level in machine.levels:
            line = [end * level.gb_per_s for end in ends]
            axis.plot(ends, line, color="#bbbbbb", linewidth=1)
            at = (ends[0], line[0])
            style: dict[str, Any] = {"color": GREY, "fontsize": 9}
            axis.annotate(level.name, at, (4, 7), textcoords="offset points", **style)
        for name, found in points.items():
            colour = OURS.get(name)
            axis.scatter(*zip(*found.values(), strict=True), s=22, color=colour, label=name)
            peak = machine.gflops[name]
            axis.axhline(peak, color=colour, linestyle=":", linewidth=1.2)
            text: dict[str, Any] = {"color": colour, "fontsize": 9, "ha": "right"}
            at = (ends[1], peak)
            axis.annotate(f"peak, {name}", at, (-4, 3), textcoords="offset points", **text)
        axis.set_ylim(2, 2 * max(machine.gflops[name] for name in points))
        axis.set_xlim(*ends)
        axis.set_xlabel("operations per byte of weights read")
        axis.set_ylabel("10^9 operations a second")


if __name__ == "__main__":
    for drawn in save(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])):
        print(drawn)
