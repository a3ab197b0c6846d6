# SPDX-License-Identifier: MIT
"""Runs the source of a converted model by its own framework, for ``verify``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from gruengine.converters import load_source, read, sniff
from gruengine.converters.base import Options
from gruengine.errors import InvalidInputError, UnsupportedError
from gruengine.parts import PartedSpec
from gruengine.spec import ModelSpec

Array = np.ndarray[Any, Any]


def run(
    source: Any, spec: ModelSpec | PartedSpec, inputs: Mapping[str, Array], options: Options
) -> tuple[str, dict[str, Array]]:
    """Run ``source`` on ``inputs`` and return who ran it and its outputs by name.

    Raises
    ------
    UnsupportedError
        The framework that runs this source is not installed.
    InvalidInputError
        The source has other inputs or outputs than the model.
    """
    if not isinstance(source, (str, bytes, os.PathLike)):
        return "PyTorch", _run_module(source, spec, inputs)
    data, path, name = load_source(source)
    if sniff(data, name) == "onnx":
        bound = {**spec.provenance.get("bind", {}), **options.bind}
        return "ONNX Runtime", _run_onnx(path if path is not None else data, spec, inputs, bound)
    return "float64 reference on the source", _run_again(source, spec, inputs, options)


def onnx_session(source: str | bytes, threads: int = 1) -> Any:
    """Return an ONNX Runtime session on the CPU.

    Raises
    ------
    UnsupportedError
        ONNX Runtime is not installed.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        raise UnsupportedError(
            "ONNX Runtime is not installed; pip install 'gruengine[onnx]'"
        ) from None
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = threads
    settings.log_severity_level = 3
    return ort.InferenceSession(source, settings, providers=["CPUExecutionProvider"])


_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


def onnx_feed(
    session: Any, inputs: Mapping[str, Array], bound: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what ``session`` is fed: the model's inputs and the values bound at conversion."""
    feed: dict[str, Any] = {}
    for port in session.get_inputs():
        value = inputs.get(port.name, bound.get(port.name))
        if value is None:
            names = ", ".join([*inputs, *bound])
            raise InvalidInputError(f"the source needs input {port.name!r}; known are {names}")
        feed[port.name] = np.asarray(value, _TYPES.get(port.type, np.float32))
        if not port.shape and feed[port.name].size == 1:
            feed[port.name] = feed[port.name].reshape(())
    return feed


def _run_onnx(
    source: str | bytes,
    spec: ModelSpec | PartedSpec,
    inputs: Mapping[str, Array],
    bound: Mapping[str, Any],
) -> dict[str, Array]:
    session = onnx_session(source)
    there = [port.name for port in session.get_outputs()]
    names = [port.name for port in spec.graph.outputs]
    missing = [name for name in names if name not in there]
    if missing:
        raise InvalidInputError(
            f"the source has no output {', '.join(missing)}; it has {', '.join(there)}"
        )
    values = session.run(names, onnx_feed(session, inputs, bound))
    return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def _run_module(
    module: Any, spec: ModelSpec | PartedSpec, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    import torch

    tensors = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}
    args: list[Any] = [tensors[port.name] for port in spec.graph.inputs]
    kwargs: dict[str, Any] = {}
    if "arguments" in spec.provenance:
        try:
            args, kwargs = (_arguments(part, tensors) for part in spec.provenance["arguments"])
        except (KeyError, TypeError, ValueError):
            raise InvalidInputError(
                "the arguments in the model's provenance do not fit its inputs"
            ) from None
    elif isinstance(module, torch.nn.LSTMCell):
        args = [args[0], tuple(args[1:])]
    training = [(one, one.training) for one in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            values = _flatten(module(*args, **kwargs))
    finally:
        for one, flag in training:
            one.training = flag
    names = [port.name for port in spec.graph.outputs]
    if len(values) < len(names):
        raise InvalidInputError(f"the module gives {len(values)} outputs; the model {len(names)}")
    return {name: value.numpy() for name, value in zip(names, values, strict=False)}


def _arguments(tree: Any, tensors: Mapping[str, Any]) -> Any:
    """Put tensors where the conversion has written names of inputs."""
    if isinstance(tree, list):
        return tuple(_arguments(one, tensors) for one in tree)
    if isinstance(tree, dict):
        if set(tree) == {"input"}:
            return tensors[tree["input"]]
        return {name: _arguments(one, tensors) for name, one in tree.items()}
    return tree


def _flatten(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in _flatten(item)]
    return [] if value is None else [value]


def _run_again(
    source: Any, spec: ModelSpec | PartedSpec, inputs: Mapping[str, Array], options: Options
) -> dict[str, Array]:
    from gruengine.reference_graph import run_graph

    again, _ = read(source, options)
    if {p.name for p in again.graph.inputs} != set(inputs):
        raise InvalidInputError(
            f"the source has inputs {[p.name for p in again.graph.inputs]}; "
            f"the model {sorted(inputs)}"
        )
    return run_graph(again.graph, again.tensors, inputs)
