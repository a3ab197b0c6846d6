# SPDX-License-Identifier: MIT
"""What a compute type below float32 costs a model: errors of outputs and states over time."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gruengine.errors import InvalidInputError
from gruengine.model import Model, load
from gruengine.parity import make_inputs
from gruengine.spec import ModelSpec

Array = np.ndarray[Any, Any]

#: Below this signal-to-error ratio (dB) a model should not be run so.
LEAST_RATIO = 20.0
#: Errors that grow by more than this (dB) from the first to the last quarter of the time add up.
MOST_GROWTH = 12.0
PARTS = 16
_FRAMES = 400


@dataclass(frozen=True)
class Drift:
    """How one output or state differs from that of float32.

    name : of the output or state
    ratio : signal-to-error ratio over all of it, in dB: 10 log10(sum want^2 / sum error^2)
    max_abs_error, scale : largest difference, largest value
    over_time : largest difference in each part of the time, in order
    """

    name: str
    ratio: float
    max_abs_error: float
    scale: float
    over_time: list[float]

    @property
    def growth(self) -> float:
        """How much errors grow from the first to the last quarter of the time, in dB."""
        quarter = max(1, len(self.over_time) // 4)
        first, last = max(self.over_time[:quarter]), max(self.over_time[-quarter:])
        if len(self.over_time) < 4 or last == 0:
            return 0.0
        return float(20 * np.log10(last / max(first, 1e-3 * last)))


@dataclass
class AccuracyReport:
    """The errors of a compute type, and whether the model should be run in it.

    path, compute_type : what was run
    frames : steps, frames or calls it ran over
    outputs, states : by the order of the model
    reasons : why it should not be run so; empty if it may
    """

    path: str
    compute_type: str
    frames: int
    outputs: list[Drift]
    states: list[Drift]
    reasons: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the compute type."""
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**asdict(self), "passed": self.passed}


def accuracy(
    source: str | os.PathLike[str] | bytes,
    compute_type: str,
    data: Any = None,
    **options: Any,
) -> AccuracyReport:
    """Run a model in float32 and in ``compute_type`` and compare outputs and states over time.

    Parameters
    ----------
    source : path or bytes
        A model file or any source that :func:`gruengine.convert` reads.
    compute_type : {"bfloat16", "int8", "int4", "bf16x3"}
    data : array, or dict of arrays by name, optional
        What the model is given: a whole sequence in the layout of its input; for a model that is
        one step, ``[T, ...]`` with one input a call. None: the parity sample if the model does not
        stream, else 400 random frames, which say less than data of its own.
    **options
        As for :func:`gruengine.load`.

    Returns
    -------
    AccuracyReport

    Raises
    ------
    InvalidInputError
        ``data`` does not fit the model.
    """
    exact = load(source, compute_type="float32", **options)
    low = load(source, compute_type=compute_type, **options)
    arrays = _data(exact, data)
    pairs = [_parts(model, arrays) for model in (exact, low)]
    wanted, found = ([list(part) for part in zip(*parts, strict=True)] for parts in pairs)
    path = "" if isinstance(source, bytes) else os.fspath(source)
    outputs = _drifts(wanted[0], found[0])
    states = _drifts(wanted[1], found[1])
    report = AccuracyReport(path, low.compute_type, _count(exact, arrays), outputs, states)
    report.reasons = [reason for drift in outputs for reason in _reasons(drift)]
    return report


def _reasons(drift: Drift) -> Iterator[str]:
    if not drift.ratio >= LEAST_RATIO:
        yield (
            f"output {drift.name!r} has a signal-to-error ratio of {drift.ratio:.1f} dB; "
            f"{LEAST_RATIO:.0f} dB is the least"
        )
    elif drift.growth > MOST_GROWTH and drift.max_abs_error > 1e-2 * drift.scale:
        yield f"the errors of output {drift.name!r} grow by {drift.growth:.0f} dB over the time"


# -- runs -----------------------------------------------------------------------------------------


def _data(model: Model, data: Any) -> dict[str, Array]:
    names = [port.name for port in model.signature.inputs]
    carried = {before for before, _ in model.signature.state}
    free = [name for name in names if name not in carried]
    if data is not None:
        given = data if isinstance(data, Mapping) else {free[0]: data}
        if set(given) != set(free):
            raise InvalidInputError(f"data has {sorted(given)}; the model takes {sorted(free)}")
        return {name: np.asarray(value) for name, value in given.items()}
    spec = model.spec
    form = model.streamable.form
    if form is None:
        if spec.parity is not None:
            return dict(spec.parity.inputs)
        return make_inputs(spec, dict.fromkeys(_symbols(spec), 8))
    time = model.streamable.time
    sizes = {name: _FRAMES if name == time else 1 for name in _symbols(spec)}
    inputs = make_inputs(spec, sizes)
    if form == "frames":
        return {name: inputs[name] for name in free}
    rng = np.random.default_rng(1)
    return {
        name: np.stack([inputs[name]] * _FRAMES)
        if inputs[name].dtype.kind != "f"
        else rng.normal(0.0, 0.5, (_FRAMES, *inputs[name].shape)).astype(np.float32)
        for name in free
    }


def _symbols(spec: ModelSpec) -> list[str]:
    return [d for port in spec.graph.inputs for d in port.shape if isinstance(d, str)]


def _time_axis(model: Model, name: str) -> int | None:
    port = next(p for p in model.signature.inputs if p.name == name)
    time = model.streamable.time
    return port.shape.index(time) if time in port.shape else None


def _count(model: Model, arrays: Mapping[str, Array]) -> int:
    if model.streamable.form is None:
        return 1
    first = next(iter(arrays))
    axis = _time_axis(model, first) if model.streamable.form == "frames" else 0
    return int(arrays[first].shape[axis or 0])


def _parts(
    model: Model, arrays: Mapping[str, Array]
) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
    """Yield outputs and states, one part of the time after the other."""
    form = model.streamable.form
    if form is None:
        yield model.run_graph(arrays), {}
    elif form == "frames":
        yield from _frame_parts(model, arrays)
    else:
        yield from _call_parts(model, arrays)


def _frame_parts(
    model: Model, arrays: Mapping[str, Array]
) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
    total = _count(model, arrays)
    edges = np.unique(np.linspace(0, total, PARTS + 1).astype(int))
    state = None
    for first, last in itertools.pairwise(edges):
        part = {}
        for name, array in arrays.items():
            axis = _time_axis(model, name)
            part[name] = array if axis is None else np.take(array, range(first, last), axis)
        y, state = model.run(part if len(part) > 1 else next(iter(part.values())), state)
        yield (dict(y) if isinstance(y, Mapping) else {"y": y}), dict(state)


def _call_parts(
    model: Model, arrays: Mapping[str, Array]
) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
    total = _count(model, arrays)
    shapes = {port.name: port for port in model.signature.inputs}
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        for dim, size in zip(shapes[name].shape, array.shape[1:], strict=True):
            if isinstance(dim, str):
                sizes[dim] = size
    state = {
        before: np.zeros(
            [sizes.get(d, 1) if isinstance(d, str) else d for d in shapes[before].shape],
            shapes[before].dtype,
        )
        for before, _ in model.signature.state
    }
    after = {output for _, output in model.signature.state}
    edges = np.unique(np.linspace(0, total, PARTS + 1).astype(int))
    for first, last in itertools.pairwise(edges):
        outputs: dict[str, list[Array]] = {}
        for t in range(first, last):
            results = model.run_graph({**{k: v[t] for k, v in arrays.items()}, **state})
            state = {before: results[output] for before, output in model.signature.state}
            for name, value in results.items():
                if name not in after:
                    outputs.setdefault(name, []).append(value)
        yield {name: np.stack(values) for name, values in outputs.items()}, state


# -- comparison -----------------------------------------------------------------------------------


def _drifts(wanted: list[dict[str, Array]], found: list[dict[str, Array]]) -> list[Drift]:
    drifts = []
    for name in wanted[0]:
        pairs = [
            (np.asarray(want[name], np.float64), np.asarray(got[name], np.float64))
            for want, got in zip(wanted, found, strict=True)
        ]
        worst = [float(np.max(np.abs(got - want), initial=0.0)) for want, got in pairs]
        power = sum(float(np.sum(want**2)) for want, _ in pairs)
        noise = sum(float(np.sum((got - want) ** 2)) for want, got in pairs)
        scale = max(float(np.max(np.abs(want), initial=0.0)) for want, _ in pairs)
        drifts.append(Drift(name, _decibels(power, noise), max(worst), scale, worst))
    return drifts


def _decibels(power: float, noise: float) -> float:
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(power / noise)) if power > 0 else -float("inf")


def in_words(report: AccuracyReport) -> str:
    """Return the report for a person."""
    from gruengine.cli_text import spark, table

    rows = [("", "name", "ratio", "max error", "scale", "over time")]
    for kind, drifts in (("output", report.outputs), ("state", report.states)):
        for drift in drifts:
            rows.append(
                (kind, drift.name, f"{drift.ratio:.1f} dB", f"{drift.max_abs_error:.2e}",
                 f"{drift.scale:.2e}", spark(drift.over_time, 0.0, drift.max_abs_error))
            )  # fmt: skip
    head = f"{report.path}: {report.compute_type} against float32 over {report.frames} steps"
    lines = [head, table(rows, right=(2, 3, 4))]
    lines += [f"  should not be run in {report.compute_type}: {text}" for text in report.reasons]
    return "\n".join(lines)
