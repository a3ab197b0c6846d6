# SPDX-License-Identifier: MIT
"""From a trained model to a model file, and the checks that it still computes the same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gruengine import parts
from gruengine.converters import is_model_file, is_parted_file, load_source
from gruengine.converters import read as read_source
from gruengine.converters.base import ConversionError, ConversionReport, Options, Progress, Reason
from gruengine.errors import InvalidInputError, UnsupportedError
from gruengine.fallback import check_fallback, convert_in_parts
from gruengine.parity import SMALLEST_SCALE, TOLERANCE, Check, compare, make_sample
from gruengine.parts import PartedSpec
from gruengine.spec import ModelSpec, Parity

if TYPE_CHECKING:
    from gruengine.model import Model

Array = np.ndarray[Any, Any]
Path = str | os.PathLike[str]


@dataclass
class VerifyReport:
    """What ``verify`` compared.

    path : the model file
    checks : one for each output and each oracle
    notes : what could not be compared, and why
    """

    path: str
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether there was a check and every one passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        checks = [check.to_dict() for check in self.checks]
        return {"path": self.path, "passed": self.passed, "checks": checks, "notes": self.notes}


def convert(
    source: Path | bytes,
    destination: Path,
    *,
    compute_type: str = "float32",
    bind: Mapping[str, Any] | None = None,
    state: Mapping[str, str] | None = None,
    fallback: str | None = None,
    progress: Progress | None = None,
    **hints: Any,
) -> ConversionReport:
    """Convert a trained model to a model file, exactly or not at all.

    The engine runs the converted model before anything is written: its outputs must agree with
    the float64 reference on a seeded sample, which is kept in the file.

    Parameters
    ----------
    source : path or bytes
        ONNX, PyTorch checkpoint (zip or legacy), Keras (``.keras``, ``.h5``), safetensors weights,
        or a model file.
    destination : path
        Replaced as a whole, or left alone if anything fails.
    compute_type : {"float32", "bfloat16", "int8", "int4", "bf16x3", "auto"}
        How weights are kept in the file, and products made by default once it is loaded.
    bind : dict of str to value, optional
        Graph inputs fixed at conversion, e.g. ``{"sr": 16000}``.
    state : dict of str to str, optional
        Graph input -> graph output pairs that a stream carries; None: found.
    fallback : {"onnxruntime"}, optional
        Allow that ONNX Runtime runs the nodes of an ONNX model that are not run here and do not
        recur; the report lists them. The file then needs Python and ONNX Runtime where it is run.
    progress : callable, optional
        Called with what is being done, in a word, and the part of it (0 to 1) that is done.
    **hints
        Facts that the source does not hold, e.g. ``batch_first=True``; ``sizes={"samples": 512}``
        gives free sizes for the sample.

    Returns
    -------
    ConversionReport

    Raises
    ------
    ConversionError
        The model cannot be converted exactly; every reason is listed.
    ModelFileError, FileAccessError
        The source breaks its format, or a file cannot be read or written.
    UnsupportedError
        A compute type that does not exist.
    """
    from gruengine.model import check_compute_type

    chosen = check_compute_type(compute_type) or "float32"
    spec, report, _ = prepare(
        source, bind=bind, state=state, fallback=fallback, progress=progress, **hints
    )
    if progress is not None:
        progress("writing", 0.0)
    if isinstance(spec, ModelSpec):
        spec = _rounded(spec, chosen, report)
    elif chosen != "float32":
        raise UnsupportedError(
            f"compute_type {chosen!r} with parts for ONNX Runtime: convert to float32, and give "
            "it to gruengine.load"
        )
    spec.save(destination)
    report.output_bytes = os.path.getsize(destination)
    return report


def _rounded(spec: ModelSpec, compute_type: str, report: ConversionReport) -> ModelSpec:
    """Return the spec with its weights as ``compute_type`` keeps them, and a sample of them."""
    from gruengine.reference_graph import run_graph
    from gruengine.spec_low import quantise

    rounded = quantise(spec, compute_type)
    if compute_type == "float32" or spec.parity is None:
        return rounded
    outputs = run_graph(rounded.graph, rounded.tensors, spec.parity.inputs)
    kept = {name: outputs[name].astype(value.dtype) for name, value in spec.parity.outputs.items()}
    errors = compare(kept, spec.parity.outputs, spec.parity.oracle)
    worst = max((e.max_abs_error / max(e.scale, SMALLEST_SCALE) for e in errors), default=0.0)
    report.warnings.append(
        f"weights in {compute_type} move the sample by {worst:.1%}; "
        f"gruengine verify --compute-type {compute_type} says more"
    )
    return replace(rounded, parity=Parity(spec.parity.inputs, kept, spec.parity.oracle))


def prepare(
    source: Path | bytes,
    *,
    bind: Mapping[str, Any] | None = None,
    state: Mapping[str, str] | None = None,
    fallback: str | None = None,
    progress: Progress | None = None,
    **hints: Any,
) -> tuple[ModelSpec | PartedSpec, ConversionReport, Model]:
    """Do all of ``convert`` but writing: return the spec with its sample, the report, the model."""
    sizes = hints.pop("sizes", None)
    check_fallback(fallback)
    options = Options(bind or {}, state, hints, progress)
    options.tell("reading", 0.0)
    spec: ModelSpec | PartedSpec
    try:
        spec, report = read_source(source, options)
    except ConversionError as refusal:
        if fallback is None:
            raise
        spec, report = convert_in_parts(source, options, sizes, refusal)
    if bind:
        spec.provenance["bind"] = {name: np.asarray(v).tolist() for name, v in bind.items()}
    return spec, report, _finish(spec, report, sizes, options)


def from_torch(
    module: Any,
    example_inputs: Any = None,
    *,
    dynamic_shapes: Any = None,
    bind: Mapping[str, Any] | None = None,
    state: Mapping[str, str] | None = None,
    **hints: Any,
) -> Model:
    """Convert a ``torch.nn.Module`` in memory.

    Parameters
    ----------
    module : torch.nn.Module
        Not changed. It is converted as in eval mode.
    example_inputs : tensor, tuple or dict, optional
        What ``forward`` is called with: one input, its positional arguments, or arguments by name
        (tensors or arrays). ``torch.export`` traces the forward with them. They can be left out
        for recurrent modules, cells, and ``nn.Sequential`` of them and other known modules, which
        are converted without running anything.
    dynamic_shapes : optional
        As ``torch.export.export`` takes it; None: each size that the module leaves free is free.
    bind, state, **hints
        As for ``convert``.

    Returns
    -------
    Model

    Raises
    ------
    ConversionError
        The module cannot be converted exactly; every reason is listed.

    Notes
    -----
    A traced model has its inputs named after the arguments of ``forward``. A single result is
    ``y``, entries of dicts and named tuples keep their names, the next value of a state input
    ``h`` is ``h_out``, and the others are ``y``, ``y_1``, ``y_2``. The graph is compared with the
    module on the example and on other sizes before it is accepted.
    """
    from gruengine.converters.torch import read_module

    sizes = hints.pop("sizes", None)
    spec, report = read_module(
        module,
        name=type(module).__name__,
        options=Options(bind or {}, state, hints),
        example_inputs=example_inputs,
        dynamic_shapes=dynamic_shapes,
    )
    return _finish(spec, report, sizes, Options())


def load_model(
    source: Path | bytes,
    *,
    compute_type: str | None = None,
    num_threads: int = 1,
    fallback: str | None = None,
    **options: Any,
) -> Model:
    """Return the model of any source that ``convert`` reads, without a parity check.

    ``options`` are ``bind``, ``state`` and the hints of ``convert``.
    """
    check_fallback(fallback)
    if is_parted_file(source):
        if any(options.values()):
            raise InvalidInputError(f"a model file takes no options; got {sorted(options)}")
        spec: ModelSpec | PartedSpec = parts.from_bytes(load_source(source)[0])
        return model_of(spec, num_threads, compute_type)
    try:
        spec = read_spec(source, **options)
    except ConversionError as refusal:
        if fallback is None:
            raise
        sizes, bind = options.pop("sizes", None), options.pop("bind", None)
        wanted = Options(bind or {}, options.pop("state", None), options)
        spec = convert_in_parts(source, wanted, sizes, refusal)[0]
    return model_of(spec, num_threads, compute_type)


def read_spec(
    source: Path | bytes,
    *,
    bind: Mapping[str, Any] | None = None,
    state: Mapping[str, str] | None = None,
    **hints: Any,
) -> ModelSpec:
    """Return the spec of any source that ``convert`` reads, with the options of ``convert``."""
    hints.pop("sizes", None)
    hints.pop("fallback", None)
    spec, _ = read_source(source, Options(bind or {}, state, hints))
    return spec


def save_spec(spec: ModelSpec, destination: Path) -> None:
    """Write a spec, with a parity sample that the engine has passed, to ``destination``."""
    spec.parity = spec.parity or make_sample(spec)
    _check_sample(model_of(spec), spec, "the model")
    spec.save(destination)


def streaming_in_words(model: Model) -> str:
    """Say in one line how ``model`` streams, or why it does not."""
    streamable = model.streamable
    if streamable.form == "frames":
        return f"frame by frame along {streamable.time!r}"
    if streamable.form == "calls":
        pairs = ", ".join(f"{before} -> {after}" for before, after in model.signature.state)
        return f"call by call, carrying {pairs}"
    where = f"{streamable.node}: " if streamable.node else ""
    return f"no: {where}{streamable.reason}"


def verify(
    path: Path,
    source: Any = None,
    tolerance: float = TOLERANCE,
    *,
    bind: Mapping[str, Any] | None = None,
    state: Mapping[str, str] | None = None,
    **hints: Any,
) -> VerifyReport:
    """Run a model file and compare it with its parity sample and with its source.

    Parameters
    ----------
    path : path
        A model file, or any source that ``convert`` reads.
    source : path or torch.nn.Module, optional
        Where the model came from: ONNX is run by ONNX Runtime, a module by PyTorch, and a
        checkpoint is read again and run by the float64 reference.
    tolerance : float
        Largest error relative to the largest value of each output.
    bind, state, **hints
        As given to ``convert``; needed again to read ``source`` the same way.

    Returns
    -------
    VerifyReport

    Raises
    ------
    UnsupportedError
        A source that cannot be run here, e.g. because ONNX Runtime is not installed.
    """
    from gruengine import verify_source

    if not 0 < tolerance < float("inf"):
        raise InvalidInputError(f"tolerance is {tolerance!r}; it must be a positive number")
    sizes = hints.pop("sizes", None)
    hints.pop("fallback", None)
    options = Options(bind or {}, state, hints)
    spec: ModelSpec | PartedSpec
    if is_parted_file(path):
        spec = parts.from_bytes(load_source(path)[0])
    else:
        # A model file knows its own facts; the options are for the source.
        spec, _ = read_source(path, None if is_model_file(path) else options)
    model = model_of(spec)
    report = VerifyReport(str(os.fspath(path)))
    sample = spec.parity
    if sample is None and isinstance(spec, ModelSpec):
        sample = make_sample(spec, sizes)
        report.notes.append("no parity sample in the file: a new one was made")
    assert sample is not None
    found = model.run_graph(sample.inputs)
    report.checks += compare(found, sample.outputs, sample.oracle, tolerance)
    if source is not None:
        against, expected = verify_source.run(source, spec, sample.inputs, options)
        report.checks += compare(found, expected, against, tolerance)
    return report


def model_of(
    spec: ModelSpec | PartedSpec, num_threads: int = 1, compute_type: str | None = "float32"
) -> Model:
    """Return the model of a spec, without a file."""
    from gruengine.model import Model
    from gruengine.parted_model import PartedModel

    if isinstance(spec, PartedSpec):
        return PartedModel(spec, num_threads, compute_type)
    return Model.from_spec(spec, compute_type=compute_type, num_threads=num_threads)


def _finish(
    spec: ModelSpec | PartedSpec,
    report: ConversionReport,
    sizes: Mapping[str, int] | None,
    options: Options,
) -> Model:
    """Add the sample, run it in the engine, and complete the report."""
    options.tell("computing the sample", 0.0)
    if isinstance(spec, ModelSpec) and (spec.parity is None or sizes):
        spec.parity = make_sample(spec, sizes)
    options.tell("checking", 0.0)
    model = model_of(spec)
    checks = _check_sample(model, spec, report.source)
    report.parity_error = max((check.max_abs_error for check in checks), default=0.0)
    report.warnings += _unchecked(spec)
    report.streaming = streaming_in_words(model)
    return model


def _unchecked(spec: ModelSpec | PartedSpec) -> list[str]:
    """Say of which outputs the sample proves nothing."""
    outputs = spec.parity.outputs if spec.parity is not None else {}
    return [
        f"output {name!r} of the parity sample has no finite number, so its values were not checked"
        for name, y in outputs.items()
        if y.dtype.kind == "f" and y.size and not np.isfinite(y).any()
    ]


def _check_sample(model: Model, spec: ModelSpec | PartedSpec, source: str) -> list[Check]:
    assert spec.parity is not None
    found = model.run_graph(spec.parity.inputs)
    checks = compare(found, spec.parity.outputs, spec.parity.oracle)
    wrong = [check for check in checks if not check.passed]
    if wrong:
        raise ConversionError(source, [_as_reason(check) for check in wrong])
    return checks


def _as_reason(check: Check) -> Reason:
    what = f"output differs from the {check.against} by {check.max_abs_error:.3g}"
    return Reason(check.output, what, f"at most {check.tolerance:.3g} is allowed")
