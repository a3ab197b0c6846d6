# SPDX-License-Identifier: MIT
"""A traced module beside its graph: on the example, and on inputs of other sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gruengine.converters.torch_trace import Traced
from gruengine.errors import GruEngineError
from gruengine.reference_graph import run_graph
from gruengine.spec import ModelSpec, Parity

Array = np.ndarray[Any, Any]

#: The reference computes in float64 and the module in its own type; this is of the largest value.
TOLERANCE = 1e-4
HALF_TOLERANCE = 3e-2
_SEED = 20
MAX_PROBES = 24
#: Inputs of other sizes have at most this many elements.
MAX_PROBE_ELEMENTS = 1 << 18


class Comparison:
    """The module beside its graph, on the example and on inputs of other sizes."""

    def __init__(self, module: Any, traced: Traced, spec: ModelSpec) -> None:
        from torch.utils import _pytree

        self.module, self.traced, self.spec = module, traced, spec
        leaves, self.tree = _pytree.tree_flatten((traced.args, traced.kwargs))
        self.leaves = list(leaves)
        self.failed: Mapping[str, int] = {}  # other sizes than the example's
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
                self.failed = sizes
                return text
        return ""

    def sample(self) -> Parity:
        """Record a run of the reference with the sizes and the integers of the example."""
        rng = np.random.default_rng(_SEED)
        inputs = self._inputs(self.leaves, {})
        for name, array in inputs.items():
            if array.dtype.kind == "f":
                inputs[name] = np.asarray(rng.normal(0.0, 0.5, array.shape), np.float32)
        with np.errstate(all="ignore"):
            outputs = run_graph(self.spec.graph, self.spec.tensors, inputs)
            ports = self.spec.graph.outputs
            return Parity(inputs, {p.name: _in_type(outputs[p.name], p.dtype) for p in ports})

    def arguments(self) -> list[Any] | None:
        """Return how the forward is called, as JSON: names of inputs stand for tensors.

        None where an argument is no JSON, or where states in buffers are among the inputs.
        """
        names = {place: name for name, place in self.places.items()}
        if len(names) < len(self.spec.graph.inputs):
            return None
        leaves = [
            {"input": names[place]} if place in names else leaf
            for place, leaf in enumerate(self.leaves)
        ]
        tree = _as_json((self.traced.args, self.traced.kwargs), iter(leaves))
        return None if tree is _NO_JSON else list(tree)

    def _inputs(self, leaves: list[Any], sizes: Mapping[str, int]) -> dict[str, Array]:
        """Return the inputs of the graph; states in buffers begin with zeros."""
        inputs = {name: _numpy(leaves[place]) for name, place in self.places.items()}
        known = {**self._example(), **sizes}
        for port in self.spec.graph.inputs:
            if port.name not in inputs:
                shape = [known.get(d, 1) if isinstance(d, str) else d for d in port.shape]
                inputs[port.name] = np.zeros(shape, port.dtype)
        return inputs

    def _example(self) -> dict[str, int]:
        """Return the free sizes of the example by name."""
        example: dict[str, int] = {}
        for port in self.spec.graph.inputs:
            if port.name in self.places:
                shape = self.leaves[self.places[port.name]].shape
                pairs = zip(port.shape, shape, strict=True)
                example.update({a: int(b) for a, b in pairs if isinstance(a, str)})
        return example

    def _probes(self) -> Iterator[dict[str, int]]:
        """Yield sizes by name: each free size alone takes values around what torch assumed."""
        example = self._example()
        ranges = self._ranges()
        count = 0
        # torch may not tie the batch of lengths to that of what is packed.
        for size in sorted(set(example.values())) if self.traced.packs else ():
            for value in (size + 1, 2 * size):
                yield {name: value if one == size else one for name, one in example.items()}
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

    def _promised(self, sizes: Mapping[str, int]) -> bool:
        """Tell whether sizes are within the ranges that torch assumed."""
        ranges = self._ranges()
        return all(
            low <= size and (high is None or size <= high)
            for name, size in sizes.items()
            for low, high in [ranges.get(name, (0, None))]
        )

    def wider(self) -> tuple[Any, Any] | None:
        """Return the arguments with what failed and is 1 in the example twice, None if nothing is.

        torch takes a size of 1 for a constant in places; the module must run them.
        """
        from torch.utils import _pytree

        sizes = self._example()
        ones = {name: 2 for name, size in sizes.items() if size == 1 != self.failed.get(name, 1)}
        leaves = self._resized({**sizes, **ones}) if ones else None
        if leaves is None:
            return None
        try:
            self._run(leaves)
        except Exception:  # whatever the user's forward raises
            return None
        args, kwargs = _pytree.tree_unflatten(leaves, self.tree)
        return args, kwargs

    # -- one run ----------------------------------------------------------------------------------

    def _differs(self, sizes: Mapping[str, int]) -> str:
        """Run both on inputs of these sizes; ``{}`` stands for the example itself."""
        leaves = self._resized(sizes)
        if leaves is None:
            return ""
        inputs = self._inputs(leaves, sizes)
        try:
            with np.errstate(all="ignore"):
                found = run_graph(self.spec.graph, self.spec.tensors, inputs)
        except (GruEngineError, ValueError) as error:
            if not sizes:
                return f"the graph cannot run the example: {error}"
            found, failure = None, error
        try:
            expected = self._run(leaves)
        except Exception as error:  # whatever the user's forward raises
            return "" if sizes else f"the module fails on the example: {error}"
        text = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        if found is None:
            # What torch did not promise may be refused.
            return f"the graph cannot run {text}: {failure}" if self._promised(sizes) else ""
        for port, want in zip(self.spec.graph.outputs, expected, strict=False):
            if want is None:
                continue
            right, value = _numpy(want), found[port.name]
            if self.traced.packs and value.ndim == right.ndim:
                # An unpacked sequence ends for the module with its longest row.
                value = value[tuple(slice(size) for size in right.shape)]
            if not _close(value, right, _tolerance(want)):
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


_NO_JSON = object()


def _as_json(tree: Any, leaves: Iterator[Any]) -> Any:
    """Return a tree of tuples, lists and dicts with its leaves exchanged."""
    if type(tree) in (tuple, list):
        values = [_as_json(one, leaves) for one in tree]
        return _NO_JSON if any(one is _NO_JSON for one in values) else values
    if type(tree) is dict:
        pairs = {key: _as_json(one, leaves) for key, one in tree.items()}
        plain = all(isinstance(key, str) for key in pairs)
        return pairs if plain and all(one is not _NO_JSON for one in pairs.values()) else _NO_JSON
    leaf = next(leaves)
    return leaf if leaf is None or isinstance(leaf, (bool, int, float, str, dict)) else _NO_JSON


def _numpy(tensor: Any) -> Array:
    detached = tensor.detach().cpu()
    if str(detached.dtype) in ("torch.float16", "torch.bfloat16", "torch.float64"):
        detached = detached.float()
    return np.array(detached.numpy())


def _in_type(value: Array, dtype: str) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(value, dtype=dtype, order="C")


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
