# SPDX-License-Identifier: MIT
"""The model between its source and the engine: a graph, its constants, and where they came from.

A converter fills a :class:`ModelSpec`; ``to_bytes`` writes the model file (safetensors with one
JSON document in ``__metadata__["gruengine"]``), which the C++ core opens by itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Union

import numpy as np

from gruengine.errors import InvalidInputError

DTYPES = ("float32", "int64", "int32", "bool")

Dim = int | str
Attr = Union[int, float, str, list[int], list[float], list[str], "Graph"]


@dataclass(frozen=True)
class Port:
    """A graph input or output: name, dtype (one of ``DTYPES``) and sizes, fixed or named."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class Node:
    """One operator. ``""`` stands for an absent optional input and for an unused output."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: dict[str, Attr] = field(default_factory=dict)
    name: str = ""


@dataclass
class Graph:
    """Nodes in topological order; what flows in and out."""

    inputs: list[Port]
    outputs: list[Port]
    nodes: list[Node]


@dataclass
class Parity:
    """One recorded run: inputs by name, outputs by name, and who computed them."""

    inputs: dict[str, np.ndarray[Any, Any]]
    outputs: dict[str, np.ndarray[Any, Any]]
    oracle: str = "reference float64"


@dataclass
class ModelSpec:
    """Everything a model file holds."""

    graph: Graph
    tensors: dict[str, np.ndarray[Any, Any]]
    state: tuple[tuple[str, str], ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    parity: Parity | None = None
    compute_type: str = "float32"  # that the file is kept in; weights are floats here all the same

    def validate(self) -> None:
        """Check names, order, types, state pairs, the parity sample and every ``Recurrent``.

        Raises
        ------
        InvalidInputError
            One error that lists every problem.
        """
        from gruengine import spec_checks, spec_file

        problems = spec_checks.problems_of(self)
        if problems:
            raise InvalidInputError(spec_file.summary(problems))

    def parameters(self) -> int:
        """Return the number of floats in the constants of the graph."""
        return sum(array.size for array in self.tensors.values() if array.dtype == np.float32)

    def hash(self) -> str:
        """Return the SHA-256 over graph, state pairs and tensors, in hexadecimal.

        It does not depend on the order of tensors, on provenance or on the parity sample.
        """
        from gruengine.model_hash import model_hash

        return model_hash(self)

    def to_bytes(self) -> bytes:
        """Return the model file.

        Raises
        ------
        InvalidInputError
            If the spec is not valid.
        """
        from gruengine import spec_file

        return b"".join(spec_file.pieces(self))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file in one step: readers see the old file or the new, never a part.

        Raises
        ------
        InvalidInputError
            If the spec is not valid.
        FileAccessError
            If the operating system refuses; the old file, if any, is untouched.
        """
        from gruengine import spec_file

        spec_file.save(path, spec_file.pieces(self))

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> ModelSpec:
        """Read a model file from memory; arrays are read-only and share it.

        Raises
        ------
        ModelFileError
            If the file breaks its format.
        """
        from gruengine import spec_file

        return spec_file.from_bytes(data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ModelSpec:
        """Read a model file from disk.

        Raises
        ------
        FileAccessError
            If the operating system refuses, or the path is no regular file.
        ModelFileError
            If the file breaks its format.
        """
        from gruengine import spec_file

        return spec_file.load(path)
