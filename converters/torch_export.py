# SPDX-License-Identifier: MIT
"""Any ``torch.nn.Module`` whose forward ``torch.export`` can trace, with example inputs.

A forward may decide by sizes, and a trace holds one side of each decision. So the traced graph is
compared with the module itself: on the example, and on other sizes. Where they differ, it is
traced again with the sizes of the example alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gruengine.converters.base import ConversionError, ConversionReport, Options, Reason
from gruengine.converters.torch_program import Program, is_known
from gruengine.converters.torch_trace import Traced, trace
from gruengine.errors import GruEngineError, InvalidTypeError
from gruengine.reference_graph import run_graph
from gruengine.spec import ModelSpec

Array = np.ndarray[Any, Any]

HINTS = ("allow_rounding",)
#: The reference computes in float64 and the module in its own type; this is of the largest value.
TOLERANCE = 1e-4
HALF_TOLERANCE = 3e-2
MAX_PROBES = 24
#: Inputs of other sizes have at most this many elements.
MAX_PROBE_ELEMENTS = 1 << 18


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
    for fixed in (False, True):
        traced = trace(module, args, kwargs, dynamic_shapes, is_known, fixed)
        if not isinstance(traced, Traced):
            raise ConversionError(name, traced)
        program = Program(traced, name, options)
        spec = program.spec()
        _finish(spec, program.report, name)
        problem = _Comparison(module, traced, spec).problem()
        if not problem:
            break
        if fixed or not traced.free or dynamic_shapes is not None:
            why = "the graph must compute what the module computes"
            raise ConversionError(name, [Reason("", problem, why)])
        fixed_note = f"sizes are fixed to those of the example: {problem}"
    if fixed:
        program.report.warnings.append(fixed_note)
    return spec, program.report


def check_module(module: Any) -> Any:
    """Return a module without the wrappers of torch around it.

    Raises
    ------
    InvalidTypeError
        It is no module, or one of TorchScript.
    """
    import torch

    from gruengine.converters.torch_module import unwrapped

    if not isinstance(module, torch.nn.Module):
        raise InvalidTypeError(
            f"a {type(module).__name__}; allowed are modules of torch.nn (of a state_dict, pass "
            "the file that torch.save made)"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise InvalidTypeError(
            "a TorchScript module; allowed are modules in Python (of a TorchScript archive, "
            "gruengine.load reads the weights)"
        )
    return unwrapped(module)


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


class _Comparison:
    """The module beside its graph, on the example and on inputs of other sizes."""

    def __init__(self, module: Any, traced: Traced, spec: ModelSpec) -> None:
        from torch.utils import _pytree

        self.module, self.traced, self.spec = module, traced, spec
        leaves, self.tree = _pytree.tree_flatten((traced.args, traced.kwargs))
        self.leaves = list(leaves)
        # Inputs of the graph that are no arguments are states in buffers.
        ports = {port.name: port for port in spec.graph.inputs}
        names = [str(name) for name in traced.program.graph_signature.user_inputs]
        self.places = {
            name: place
            for place, name in enumerate(names)
            if name in ports and hasattr(self.leaves[place], "shape")
        }

    def problem(self) -> str:
        """Return where the two differ, or ``""``."""
        first = self._differs({})
        if first:
            return first
        for sizes in self._probes():
            text = self._differs(sizes)
            if text:
                return text
        return ""

    def _probes(self) -> Iterator[dict[str, int]]:
        """Yield sizes by name: each free size alone takes values around what torch assumed."""
        example: dict[str, int] = {}
        for port in self.spec.graph.inputs:
            if port.name in self.places:
                shape = self.leaves[self.places[port.name]].shape
                pairs = zip(port.shape, shape, strict=True)
                example.update({a: int(b) for a, b in pairs if isinstance(a, str)})
        ranges = self._ranges()
        count = 0
        for name, size in example.items():
            low, high = ranges.get(name, (0, None))
            wanted = [1, 2, size + 1, 2 * size, low - 1, low, *([] if high is None else [high + 1])]
            for value in dict.fromkeys(wanted):
                if value > 0 and value != size and count < MAX_PROBES:
                    count += 1
                    yield {**example, name: value}

    def _ranges(self) -> dict[str, tuple[int, int | None]]:
        """Return the ranges that torch assumed for sizes, by the name of the size."""
        ranges: dict[str, tuple[int, int | None]] = {}
        nodes = self.traced.program.graph.nodes
        metas = {node.name: node.meta["val"] for node in nodes if node.op == "placeholder"}
        for port in self.spec.graph.inputs:
            shape = metas[port.name].shape if port.name in self.places else ()
            for dim, size in zip(port.shape, shape, strict=False):
                symbol = getattr(getattr(size, "node", None), "expr", None)
                found = self.traced.program.range_constraints.get(symbol)
                if isinstance(dim, str) and found is not None:
                    high = int(found.upper) if found.upper.is_Integer else None
                    ranges[dim] = (int(found.lower), high)
        return ranges

    # -- one run ----------------------------------------------------------------------------------

    def _differs(self, sizes: Mapping[str, int]) -> str:
        """Run both on inputs of these sizes; ``{}`` stands for the example itself."""
        leaves = self._resized(sizes)
        if leaves is None:
            return ""
        inputs = {name: _numpy(leaves[place]) for name, place in self.places.items()}
        for port in self.spec.graph.inputs:
            if port.name not in inputs:
                fixed = [sizes.get(d, 1) if isinstance(d, str) else d for d in port.shape]
                inputs[port.name] = np.zeros(fixed, port.dtype)
        try:
            with np.errstate(all="ignore"):
                found = run_graph(self.spec.graph, self.spec.tensors, inputs)
        except (GruEngineError, ValueError) as error:
            # Another size may be refused; the example may not.
            return "" if sizes else f"the graph cannot run the example: {error}"
        try:
            expected = self._run(leaves)
        except Exception as error:  # whatever the user's forward raises
            return "" if sizes else f"the module fails on the example: {error}"
        text = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        for port, want in zip(self.spec.graph.outputs, expected, strict=False):
            if want is not None and not _close(found[port.name], _numpy(want), _tolerance(want)):
                place = f"with {text}" if text else "on the example"
                return f"{port.name} differs from the module's {place}"
        return ""

    def _resized(self, sizes: Mapping[str, int]) -> list[Any] | None:
        """Return the leaves of the example repeated or cut to other sizes; None: too large."""
        import torch

        leaves = list(self.leaves)
        for name, place in self.places.items() if sizes else ():
            port = next(port for port in self.spec.graph.inputs if port.name == name)
            shape = [sizes[dim] if isinstance(dim, str) else dim for dim in port.shape]
            if int(np.prod(shape, dtype=object)) > MAX_PROBE_ELEMENTS:
                return None
            leaf = leaves[place]
            flat = leaf.detach().reshape(-1)
            if flat.numel() == 0:
                return None
            index = torch.arange(int(np.prod(shape)), device=leaf.device) % flat.numel()
            leaves[place] = flat[index].reshape(shape)
        return leaves

    def _run(self, leaves: list[Any]) -> list[Any]:
        """Run the module in eval mode; buffers that it writes are put back."""
        import torch
        from torch.utils import _pytree

        flags = [(one, one.training) for one in self.module.modules()]
        buffers = [(buffer, buffer.detach().clone()) for buffer in self.module.buffers()]
        # The forward may write into its inputs.
        copies = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        args, kwargs = _pytree.tree_unflatten(copies, self.tree)
        self.module.eval()
        try:
            with torch.no_grad():
                results = _pytree.tree_leaves(self.module(*args, **kwargs))
        finally:
            for one, training in flags:
                one.training = training
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
        written = sum(
            spec.kind.name == "BUFFER_MUTATION"
            for spec in self.traced.program.graph_signature.output_specs
        )
        tensors = [one for one in results if isinstance(one, torch.Tensor)]
        # States in buffers come first among the outputs; the module does not return them.
        return [None] * written + tensors


def _numpy(tensor: Any) -> Array:
    detached = tensor.detach().cpu()
    if str(detached.dtype) in ("torch.float16", "torch.bfloat16", "torch.float64"):
        detached = detached.float()
    return np.array(detached.numpy())


def _tolerance(tensor: Any) -> float:
    half = str(tensor.dtype) in ("torch.float16", "torch.bfloat16")
    return HALF_TOLERANCE if half else TOLERANCE


def _close(found: Array, want: Array, tolerance: float) -> bool:
    if found.shape != want.shape:
        return False
    if want.dtype.kind != "f":
        return bool(np.array_equal(found, want))
    scale = max(float(np.max(np.abs(want), initial=0.0, where=np.isfinite(want))), 1e-3)
    return bool(np.allclose(found, want, rtol=0, atol=tolerance * scale, equal_nan=True))
