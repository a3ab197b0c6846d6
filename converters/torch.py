# SPDX-License-Identifier: MIT
"""PyTorch models without a line of their code: checkpoints, safetensors weights, live modules."""

from __future__ import annotations

import hashlib
import typing
from dataclasses import replace
from typing import Any

import numpy as np

from gruengine.converters import torch_file
from gruengine.converters.base import ConversionError, ConversionReport, Options, Reason
from gruengine.converters.pickle_values import Mapping, kind_of
from gruengine.converters.safetensors_file import read_weights
from gruengine.converters.torch_export import read_exported
from gruengine.converters.torch_find import find_state, is_packed
from gruengine.converters.torch_graph import build
from gruengine.converters.torch_layers import Activation, Cell, Layer, Rnn, words
from gruengine.converters.torch_module import (
    is_known,
    is_module,
    read_layers,
    read_own_class,
    read_pickled,
)
from gruengine.converters.torch_names import clean, is_ignored
from gruengine.converters.torch_script import read_script
from gruengine.converters.torch_state import read_state
from gruengine.errors import GruEngineError, ModelFileError
from gruengine.spec import ModelSpec

__all__ = ["looks_like_checkpoint", "read_checkpoint", "read_module"]

Array = np.ndarray[Any, Any]

HINTS = (
    "activations",
    "allow_rounding",
    "batch_first",
    "eps",
    "ignore",
    "kinds",
    "nonlinearity",
    "order",
    "output",
    "state_dict",
)


def looks_like_checkpoint(head: bytes) -> bool:
    """Tell from its first bytes whether a file may be one of torch.save or safetensors."""
    if head.startswith((torch_file.ZIP_MAGIC, *torch_file.LEGACY_MAGICS)):
        return True
    return len(head) > 8 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 1 << 32


def read_checkpoint(
    source: bytes, *, path: str | None, name: str, options: Options
) -> tuple[ModelSpec, ConversionReport]:
    """Read a file of ``torch.save`` (zip or legacy) or a safetensors file of weights.

    Parameters
    ----------
    source : bytes
        The whole file.
    path : str or None
        Where it came from; not opened again.
    name : str
        The model's name in messages.
    options : Options
        Hints for what a state dict does not hold; a missing one is named in the error.

    Raises
    ------
    ModelFileError
        The file breaks its format.
    ConversionError
        The model cannot be converted exactly; every reason is listed.
    """
    reasons = _check_options(options)
    warnings: list[str] = []
    try:
        if source[8:9] == b"{":
            kind = "pytorch safetensors"
            layers = _state_layers(read_weights(source), False, options, reasons, warnings)
        else:
            checkpoint = torch_file.Checkpoint(source)
            kind = f"pytorch {checkpoint.kind}"
            layers = _layers(checkpoint, options, reasons, warnings)
    except ModelFileError as error:
        raise ModelFileError(f"{name}: {error}") from None
    spec, report = finish(layers, reasons, name, options)
    spec.provenance["sha256"] = hashlib.sha256(source).hexdigest()
    report.source_format = kind
    report.warnings += warnings
    report.source_bytes = len(source)
    return spec, report


def read_module(
    module: Any,
    *,
    name: str,
    options: Options,
    example_inputs: Any = None,
    dynamic_shapes: Any = None,
) -> tuple[ModelSpec, ConversionReport]:
    """Read a live ``torch.nn.Module``.

    Without example inputs: recurrent modules, cells, and Sequential of them and others, which are
    looked at and never run. With them: any module that ``torch.export`` can trace
    (``torch_export.read_exported`` says how).

    Raises
    ------
    ConversionError
        A module that cannot be converted exactly; every reason is listed.
    """
    if example_inputs is not None:
        return read_exported(
            module, example_inputs, name=name, options=options, dynamic_shapes=dynamic_shapes
        )
    reasons = _check_options(options)
    layers, warnings = read_layers(module, options, reasons)
    spec, report = finish(layers, reasons, name, options)
    report.source_format = "pytorch module"
    report.warnings += warnings
    report.source_bytes = sum(array.nbytes for array in spec.tensors.values())
    return spec, report


def finish(
    layers: list[Layer], reasons: list[Reason], name: str, options: Options
) -> tuple[ModelSpec, ConversionReport]:
    """Build the spec and its report, or raise with all reasons."""
    if reasons:
        raise ConversionError(name, reasons)
    spec = build(layers)
    if options.state is not None:
        spec.state = tuple(options.state.items())
    digest = hashlib.sha256()
    for key in sorted(spec.tensors):
        digest.update(key.encode())
        digest.update(spec.tensors[key].tobytes())
    spec.provenance = {"format": "pytorch", "sha256": digest.hexdigest(), "name": name}
    try:
        spec.validate()
    except GruEngineError as error:
        raise ConversionError(name, [Reason("", "the graph", str(error))]) from None
    recurrent = [layer for layer in layers if isinstance(layer, (Rnn, Cell))]
    report = ConversionReport(
        source=name,
        source_format="pytorch",
        recognised=[words(layer) for layer in recurrent],
        nodes_before=len(layers),
        nodes_after=len(spec.graph.nodes),
        parameters=spec.parameters(),
        state=spec.state,
    )
    return spec, report


def _check_options(options: Options) -> list[Reason]:
    reasons = [
        Reason("", f"hint {hint!r}", f"the hints are {', '.join(HINTS)}")
        for hint in options.hints
        if hint not in HINTS
    ]
    if options.bind:
        reasons.append(Reason("", f"bind of {list(options.bind)}", "PyTorch models have none"))
    return reasons


def _layers(
    checkpoint: torch_file.Checkpoint,
    options: Options,
    reasons: list[Reason],
    warnings: list[str],
) -> list[Layer]:
    """Return the layers of a whole module or of a state dict."""
    before = len(reasons)
    facts: dict[str, Any] = {}
    if checkpoint.kind == "torchscript":
        arrays, facts = read_script(checkpoint, reasons)
        warnings.append("of a TorchScript archive the weights are read, not the code")
    else:
        state = find_state(checkpoint.root, options, reasons)
        if is_known(state):
            return read_pickled(state, checkpoint, options, reasons, warnings)
        if is_module(state):
            arrays, facts = read_own_class(state, checkpoint, reasons)
            warnings.append(f"{state.cls} is no class of torch: read as its state dict")
        else:
            arrays = _arrays(state, checkpoint, options, reasons)
    options = replace(options, hints=_merged(facts, options.hints))
    if len(reasons) > before:
        return []
    return _state_layers(arrays, True, options, reasons, warnings)


def _merged(facts: dict[str, Any], hints: typing.Mapping[str, Any]) -> dict[str, Any]:
    """Put the hints of the user over the facts of the file."""
    result = {**facts, **hints}
    for key, known in facts.items():
        value = hints.get(key)
        if isinstance(known, dict) and isinstance(value, typing.Mapping):
            result[key] = {**known, **value}
    return result


def _state_layers(
    arrays: dict[str, Array],
    ordered: bool,
    options: Options,
    reasons: list[Reason],
    warnings: list[str],
) -> list[Layer]:
    named = clean(arrays, options.hints, reasons)
    layers = read_state(named, ordered, options, reasons)
    modules = [layer.where for layer in layers if not isinstance(layer, Activation)]
    if len(modules) > 1 and "order" not in options.hints:
        warnings.append(
            f"the modules run in the order in which they were made: {', '.join(modules)}; "
            "else pass the hint order=[...]"
        )
    return layers


def _arrays(
    state: Mapping, checkpoint: torch_file.Checkpoint, options: Options, reasons: list[Reason]
) -> dict[str, Array]:
    """Return the arrays of a state dict."""
    arrays = {}
    for key, value in state.items():
        if isinstance(value, torch_file.TensorRef):
            arrays[str(key)] = checkpoint.array(value)
        elif is_ignored(str(key), options.hints):
            arrays[str(key)] = np.zeros(0)  # its name is enough
        elif is_packed(value) or "qint" in str(value):
            reasons.append(
                Reason(str(key), "quantised weights", "save the float model before quantising it")
            )
        else:
            reasons.append(
                Reason(
                    str(key),
                    kind_of(value),
                    "a state dict holds tensors alone; the hint ignore=[...] leaves others out",
                )
            )
    return arrays
