# SPDX-License-Identifier: MIT
"""``gruengine bench``: medians of a step and of a sequence, with ONNX Runtime beside them."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from gruengine.cli_text import fields, seconds, table
from gruengine.errors import UnsupportedError
from gruengine.parity import make_inputs
from gruengine.spec import Graph, ModelSpec

if TYPE_CHECKING:
    from gruengine.model import Model

Array = np.ndarray[Any, Any]
Call = Callable[[], object]

_SAMPLE_SECONDS = 0.01  # one measurement repeats its call until it lasts this long


def bench(
    path: str, *, frames: int, batch: int, threads: int, repeats: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Time the model of ``path``; both engines take turns, so that they see the same machine.

    Returns
    -------
    dict
        ``cases``: name, frames, seconds (median), ``onnxruntime_seconds`` or None.
    """
    from gruengine.conversion import load_model
    from gruengine.parted_model import PartedModel

    model = load_model(path, num_threads=threads, **options)
    if isinstance(model, PartedModel):
        inputs, outputs = map(list, (model.signature.inputs, model.signature.outputs))
        spec = ModelSpec(Graph(inputs, outputs, []), {}, model.signature.state)
    else:
        spec = model.spec
    session, note = _session(path, threads)
    sizes = dict(options.get("sizes") or {})
    cases = []
    for name, count, call, feed in _cases(model, spec, frames, batch, sizes):
        calls = [call]
        if session is not None:
            calls.append(_onnx_call(session, feed, options.get("bind", {})))
        times = measure(calls, repeats)
        cases.append(
            {
                "case": name,
                "frames": count,
                "batch": batch,
                "seconds": times[0],
                "onnxruntime_seconds": times[1] if len(times) > 1 else None,
            }
        )
    return {"path": path, "threads": threads, "isa": model.isa, "cases": cases, "note": note}


def measure(calls: list[Call], repeats: int) -> list[float]:
    """Return the median seconds of each call; the calls take turns."""
    rounds = [_rounds(call) for call in calls]
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, count, times in zip(calls, rounds, found, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                call()
            times.append((time.perf_counter() - start) / count)
    return [median(times) for times in found]


def _rounds(call: Call) -> int:
    """Warm up, and return how often to repeat a call for one measurement."""
    call()
    start = time.perf_counter()
    call()
    return max(1, int(_SAMPLE_SECONDS / max(time.perf_counter() - start, 1e-7)))


def _cases(
    model: Model, spec: ModelSpec, frames: int, batch: int, sizes: dict[str, int]
) -> list[tuple[str, int, Call, dict[str, Array]]]:
    """Return name, frames, call and the same inputs for another engine."""
    streamable = model.streamable
    found: list[tuple[str, int, Call, dict[str, Array]]] = []
    known = {"N": batch, "T": frames, **sizes}
    if streamable.batch:
        known[streamable.batch] = batch
    if streamable.form:
        one_frame = {**known, streamable.time: 1} if streamable.time else known
        feed = make_inputs(spec, one_frame)
        found.append(("step", 1, _step_call(model, feed, known), feed))
    if streamable.form != "calls":
        if streamable.time:
            known[streamable.time] = frames
        feed = make_inputs(spec, known)
        found.append(("sequence", frames, lambda: model.run_graph(feed), feed))
    return found


def _step_call(model: Model, feed: dict[str, Array], sizes: dict[str, int]) -> Call:
    from gruengine.cli_stream import frames_of, open_stream

    frames = frames_of(model, sizes)
    stream = open_stream(model, sizes)
    value = feed[frames.port.name]
    frame = value if frames.time is None else np.ascontiguousarray(value.take(0, frames.time))
    return lambda: stream.step(frame)


def _session(path: str, threads: int) -> tuple[Any, str]:
    from gruengine.verify_source import onnx_session

    if not path.endswith(".onnx"):
        return None, "ONNX Runtime runs .onnx files only"
    try:
        return onnx_session(path, threads), ""
    except UnsupportedError as error:
        return None, str(error)


def _onnx_call(session: Any, feed: dict[str, Array], bound: dict[str, Any]) -> Call:
    from gruengine.verify_source import onnx_feed

    given = onnx_feed(session, feed, bound)
    return lambda: session.run(None, given)


def in_words(found: dict[str, Any]) -> str:
    """Return the times for a person."""
    rows = [("case", "frames", "gruengine", "a frame", "ONNX Runtime", "ratio")]
    for case in found["cases"]:
        ours, theirs = case["seconds"], case["onnxruntime_seconds"]
        rows.append(
            (
                case["case"],
                str(case["frames"]),
                seconds(ours),
                seconds(ours / case["frames"]),
                seconds(theirs) if theirs else "-",
                f"{theirs / ours:.1f}x" if theirs else "-",
            )
        )
    batch = found["cases"][0]["batch"] if found["cases"] else 1
    head = fields(
        [
            ("isa", str(found["isa"] or "")),
            ("threads", str(found["threads"])),
            ("batch", str(batch)),
            ("note", found["note"]),
        ]
    )
    return "\n".join([found["path"], head, "", table(rows, right=(1, 2, 3, 4, 5))])
