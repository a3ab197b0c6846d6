# SPDX-License-Identifier: MIT
"""Checkpoints: a model file that also holds all that training needs to go on, bit for bit.

The graph and its weights are those of a model file, so that ``gruengine.load`` runs a checkpoint.
Beside them stand tensors called ``training/...`` and, in the provenance, a JSON object
``training``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gruengine.errors import ModelFileError
from gruengine.spec import ModelSpec

Array = np.ndarray[Any, Any]

PREFIX = "training/"
FORMAT = 1


@dataclass
class Checkpoint:
    """The state of a training.

    tensors : arrays by name: ``param/...``, ``<memory>/...`` of the optimizer, and others
    facts : JSON values: steps, epoch, history and the like
    """

    tensors: dict[str, Array] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def save(path: str | os.PathLike[str], spec: ModelSpec, training: Checkpoint) -> None:
    """Write a checkpoint in one step: a temporary file, fsync, rename.

    Whatever happens, ``path`` holds the old checkpoint or the new one, whole.

    Raises
    ------
    FileAccessError
        If the operating system refuses; the old file, if any, is untouched.
    """
    tensors = dict(spec.tensors)
    for name, value in training.tensors.items():
        tensors[PREFIX + name] = np.ascontiguousarray(value)
    facts = {"format": FORMAT, **training.facts}
    provenance = {**spec.provenance, "training": facts}
    ModelSpec(spec.graph, tensors, spec.state, provenance).save(path)


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read what :func:`save` wrote beside the model.

    Raises
    ------
    FileAccessError
        If the operating system refuses.
    ModelFileError
        A file that breaks its format, or a model file that is no checkpoint.
    """
    spec = ModelSpec.load(path)
    facts = spec.provenance.get("training")
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ModelFileError(f"{os.fspath(path)!r} is a model without a training of format 1")
    tensors = {
        name[len(PREFIX) :]: value
        for name, value in spec.tensors.items()
        if name.startswith(PREFIX)
    }
    return Checkpoint(tensors, {key: value for key, value in facts.items() if key != "format"})
