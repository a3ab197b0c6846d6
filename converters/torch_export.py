# SPDX-License-Identifier: MIT
"""Any ``torch.nn.Module`` whose forward ``torch.export`` can trace, with example inputs.

A forward may decide by sizes, and a trace holds one side of each decision. So the traced graph is
compared with the module itself: on the example, and on other sizes. Where they differ, it is
traced again with the sizes of the example alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gruengine.converters.base import ConversionError, ConversionReport, Options, Reason
from gruengine.converters.torch_compare import Comparison
from gruengine.converters.torch_module import check_module
from gruengine.converters.torch_packed import NOTE
from gruengine.converters.torch_program import Program, is_known
from gruengine.converters.torch_trace import LEVELS, TraceError, free_sizes, trace
from gruengine.errors import GruEngineError
from gruengine.spec import ModelSpec

Array = np.ndarray[Any, Any]

HINTS = ("allow_rounding",)


def read_exported(
    module: Any, example_inputs: Any, *, name: str, options: Options, dynamic_shapes: Any = None
) -> tuple[ModelSpec, ConversionReport]:
    """Trace a module and convert it, exactly or not at all.

    Parameters
    ----------
    module : torch.nn.Module
        Traced in eval mode; left as it was.
    example_inputs : tensor, tuple or dict
        What ``forward`` is called with: one input, its positional arguments, or arguments by name;
        tensors may be NumPy arrays.
    name : str
        What messages call the model.
    options : Options
        ``state`` names pairs; the hint ``allow_rounding`` lets float64 weights be rounded.
    dynamic_shapes : as ``torch.export.export`` takes it, or None
        None: every size stays free that the module leaves free.

    Raises
    ------
    ConversionError
        The forward cannot be traced, or has operators that are not run; every reason is listed.
    InvalidTypeError
        ``module`` is no module.
    """
    module = check_module(module)
    reasons = [
        Reason("", f"hint {hint!r}", f"with example_inputs the hints are {', '.join(HINTS)}")
        for hint in options.hints
        if hint not in HINTS
    ]
    if options.bind:
        why = "give the value among the example inputs as a number"
        reasons.append(Reason("", f"bind of {list(options.bind)}", why))
    if reasons:
        raise ConversionError(name, reasons)
    args, kwargs = _examples(example_inputs)
    levels = LEVELS if dynamic_shapes is None else ("given",)
    note, widened, queue = "", False, list(levels)
    while queue:
        level = queue.pop(0)
        last = not queue
        shapes = dynamic_shapes
        if dynamic_shapes is None:
            shapes = free_sizes(module, args, kwargs, level)
        try:
            traced = trace(module, args, kwargs, shapes, is_known)
        except TraceError as error:
            if last or error.final:
                raise ConversionError(name, error.reasons) from None
            continue
        program = Program(traced, name, options)
        try:
            spec = program.spec()
        except ConversionError:
            if last or not program.needs_sizes:
                raise
            continue
        _finish(spec, program.report, name)
        comparison = Comparison(module, traced, spec)
        problem = comparison.problem()
        if not problem:
            break
        wider = None if widened or dynamic_shapes is not None else comparison.wider()
        if wider is not None:
            (args, kwargs), widened = wider, True
            queue.insert(0, level)
            continue
        if last:
            why = "the graph must compute what the module computes"
            if traced.packs:
                problem = f"a packed sequence: {problem}"
                why = "rows of packed data are used one by one, and unpacked"
            raise ConversionError(name, [Reason("", problem, why)])
        note = f"fewer sizes are free: {problem}"
    if note:
        program.report.warnings.append(note)
    if traced.packs:
        program.report.warnings.append(NOTE)
    spec.parity = comparison.sample()
    arguments = comparison.arguments()
    if arguments is not None:
        spec.provenance["arguments"] = arguments
    return spec, program.report


def _examples(given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and named arguments, arrays as tensors."""
    import torch
    from torch.utils import _pytree

    def tensor(leaf: Any) -> Any:
        if isinstance(leaf, (np.ndarray, np.generic)):
            return torch.from_numpy(np.array(leaf))
        return leaf

    if isinstance(given, Mapping):
        named: dict[str, Any] = _pytree.tree_map(tensor, dict(given))
        return (), named
    values = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    args: tuple[Any, ...] = _pytree.tree_map(tensor, values)
    return args, {}


def _finish(spec: ModelSpec, report: ConversionReport, name: str) -> None:
    """Check the spec, say where it comes from, and complete the report."""
    digest = hashlib.sha256()
    for key in sorted(spec.tensors):
        digest.update(key.encode())
        digest.update(np.ascontiguousarray(spec.tensors[key]).tobytes())
    spec.provenance = {"format": "pytorch", "sha256": digest.hexdigest(), "name": name}
    try:
        spec.validate()
    except GruEngineError as error:
        raise ConversionError(name, [Reason("", "the graph", str(error))]) from None
    for node in spec.graph.nodes:
        if node.op == "Recurrent":
            cell, hidden = str(node.attrs["cell"]).upper(), node.attrs["hidden_size"]
            report.recognised.append(f"{node.name}: {cell} {hidden} {node.attrs['direction']}")
    report.nodes_after = len(spec.graph.nodes)
    report.parameters = spec.parameters()
    report.state = spec.state
