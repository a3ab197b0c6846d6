# SPDX-License-Identifier: MIT
"""Parity samples: one recorded run of a model, made by the float64 reference, and comparisons."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gruengine.errors import GruEngineError, InvalidInputError
from gruengine.spec import Graph, ModelSpec, Node, Parity, Port

Array = np.ndarray[Any, Any]

#: Largest error of a float32 output, relative to the largest value of that output.
TOLERANCE = 1e-4
#: Outputs smaller than this are measured as if they were this large.
SMALLEST_SCALE = 1e-2

_SEED = 20
_MOST_TRIES = 96
_BATCH = re.compile(r"^(n|b|bs|.*batch.*)$", re.IGNORECASE)
# Tried in turn for a size without a hint, for batch and for everything else.
_BATCH_SIZES = (2, 1)
_OTHER_SIZES = (7, 2, 5, 1, 8, 16, 64, 512)


@dataclass(frozen=True)
class Check:
    """One output compared with what it should be.

    against : who computed the expected values
    output : name
    max_abs_error : largest absolute difference (the number of differences if not float)
    scale : largest absolute expected value
    tolerance : largest allowed ``max_abs_error``
    """

    against: str
    output: str
    max_abs_error: float
    scale: float
    tolerance: float
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def compare(
    found: Mapping[str, Array],
    expected: Mapping[str, Array],
    against: str,
    tolerance: float = TOLERANCE,
) -> list[Check]:
    """Compare every expected output; NaN agrees with NaN, integers and booleans must be equal.

    Parameters
    ----------
    found, expected : dict of str to ndarray
    against : str
        Who computed ``expected``.
    tolerance : float
        Relative to the scale of each output.
    """
    return [
        _compare(found.get(name), want, name, against, tolerance) for name, want in expected.items()
    ]


def _compare(got: Array | None, want: Array, name: str, against: str, tolerance: float) -> Check:
    if got is None or got.shape != want.shape:
        return Check(against, name, float("inf"), 0.0, 0.0, False)
    if want.dtype.kind != "f":
        differences = int(np.count_nonzero(got != want))
        return Check(against, name, float(differences), 0.0, 0.0, differences == 0)
    wide, other = np.asarray(want, np.float64), np.asarray(got, np.float64)
    finite = np.isfinite(wide)
    same = np.array_equal(wide[~finite], other[~finite], equal_nan=True)
    error = np.abs(other[finite] - wide[finite])
    scale = float(np.max(np.abs(wide[finite]), initial=0.0))
    allowed = tolerance * max(scale, SMALLEST_SCALE)
    worst = float(np.max(error, initial=0.0)) if same else float("inf")
    # A NaN compares as false: it never passes.
    return Check(against, name, worst, scale, allowed, bool(worst <= allowed))


def make_sample(spec: ModelSpec, sizes: Mapping[str, int] | None = None) -> Parity:
    """Record one run of ``spec`` by the float64 reference on seeded random inputs.

    Floats are drawn from N(0, 0.5), also for states; integers that index a table from its rows.

    Parameters
    ----------
    spec : ModelSpec
    sizes : dict of str to int, optional
        Values of named sizes; the others are tried: 2 for a batch, 7 (and more) for the rest.

    Raises
    ------
    InvalidInputError
        A name in ``sizes`` that the model does not have, or no sizes that fit were found.
    """
    from gruengine.reference_graph import run_graph

    error: Exception | None = None
    for choice in itertools.islice(size_choices(spec, sizes or {}), _MOST_TRIES):
        inputs = make_inputs(spec, choice)
        try:
            # Out-of-range values of an untrained corner are compared, not warned about.
            with np.errstate(all="ignore"):
                outputs = run_graph(spec.graph, spec.tensors, inputs)
        except (GruEngineError, ValueError) as failure:
            error = error or failure
            continue
        return Parity(inputs, {p.name: _as_port(outputs[p.name], p) for p in spec.graph.outputs})
    raise InvalidInputError(f"no sample could be run: {error}{_advice(spec)}")


def _advice(spec: ModelSpec) -> str:
    """Say what the user can give so that a sample runs."""
    free = ", ".join(_symbols(spec.graph))
    ints = [p.name for p in spec.graph.inputs if p.dtype in ("int32", "int64")]
    unknown = ", ".join(name for name in ints if _integer_range(spec, name, 2) == _UNKNOWN)
    sizes = f"; the free sizes {free} can be given as sizes={{...}}, --size NAME=8" if free else ""
    bind = f"; {unknown} can be fixed by bind={{...}}, --bind NAME=1" if unknown else ""
    return sizes + bind


def _as_port(value: Array, port: Port) -> Array:
    # Wider than float32 is what the oracle knows; the file keeps the nearest float32.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(value, dtype=port.dtype)


def _symbols(graph: Graph) -> list[str]:
    return list(dict.fromkeys(d for p in graph.inputs for d in p.shape if isinstance(d, str)))


def size_choices(spec: ModelSpec, given: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Yield values for the free sizes of ``spec``, the likeliest first; ``given`` ones are kept."""
    symbols = _symbols(spec.graph)
    states = {before for before, _ in spec.state}
    # What is free in a state is its batch.
    rows = {d for p in spec.graph.inputs if p.name in states for d in p.shape}
    for name, value in given.items():
        if name not in symbols:
            raise InvalidInputError(
                f"sizes names {name!r}; the free sizes are {', '.join(symbols) or 'none'}"
            )
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidInputError(f"sizes[{name!r}] is {value!r}; it must be a positive integer")
    options = []
    for name in symbols:
        tried = _BATCH_SIZES if name in rows or _BATCH.match(name) else _OTHER_SIZES
        options.append((given[name],) if name in given else tried)
    for values in itertools.product(*options):
        yield dict(zip(symbols, values, strict=True))


def make_inputs(spec: ModelSpec, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Return seeded random inputs of ``spec``; ``sizes`` gives every free size.

    Raises
    ------
    InvalidInputError
        A free size is missing.
    """
    missing = [name for name in _symbols(spec.graph) if name not in sizes]
    if missing:
        raise InvalidInputError(f"size {', '.join(missing)} is free; give it, e.g. --size NAME=8")
    rng = np.random.default_rng(_SEED)
    time = min((v for k, v in sizes.items() if not _BATCH.match(k)), default=1)
    found: dict[str, Array] = {}
    for port in spec.graph.inputs:
        shape = [sizes[d] if isinstance(d, str) else d for d in port.shape]
        if port.dtype == "float32":
            found[port.name] = rng.normal(0.0, 0.5, shape).astype(np.float32)
        elif port.dtype == "bool":
            found[port.name] = rng.integers(0, 2, shape).astype(np.bool_)
        else:
            low, high = _integer_range(spec, port.name, time)
            found[port.name] = rng.integers(low, high, shape).astype(port.dtype)
    return found


# Operators that hand integers on without computing with them.
_PASSES_ON = {"Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze",
              "Transpose", "Unsqueeze"}  # fmt: skip


# The range of an integer that indexes nothing and counts no frames.
_UNKNOWN = (1, 2)


def _integer_range(spec: ModelSpec, name: str, time: int) -> tuple[int, int]:
    """Return the first and one past the last value that input ``name`` may take."""
    derived, high = {name}, 0
    for node in _all_nodes(spec.graph):
        if node.op == "Gather" and node.inputs[1] in derived:
            table = spec.tensors.get(node.inputs[0])
            axis = node.attrs.get("axis", 0)
            if table is not None and isinstance(axis, int):
                high = min(high, table.shape[axis]) if high else table.shape[axis]
        elif node.op == "Recurrent" and len(node.inputs) > 4 and node.inputs[4] in derived:
            return 1, time + 1
        elif node.op in _PASSES_ON and derived & set(node.inputs):
            derived |= set(node.outputs)
    return (0, high) if high else _UNKNOWN


def _all_nodes(graph: Graph) -> Iterator[Node]:
    for node in graph.nodes:
        for value in node.attrs.values():
            if isinstance(value, Graph):
                yield from _all_nodes(value)
        yield node
