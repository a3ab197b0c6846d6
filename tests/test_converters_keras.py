# SPDX-License-Identifier: MIT
"""Keras files convert to what Keras computes: every layer, both containers, masks and states."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import keras_models as km
import numpy as np
import pytest
from tolerances import KERAS_MODEL, relative_error

import gruengine as gr
from gruengine.converters import Options, read
from gruengine.model import Model

KINDS = ("keras", "h5")

# Keras and PyTorch warn of each other.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def saved(model: Any, folder: Path, kind: str) -> Path:
    path = folder / f"model.{kind}"
    logging.getLogger("absl").setLevel(logging.ERROR)
    model.save(path)
    return path


def compared(model: Any, inputs: list[Any], path: Path, **hints: Any) -> Model:
    """Convert, run both, compare every output; the reference agrees with the engine too."""
    spec, _ = read(path, Options(hints=hints))
    engine = Model.from_spec(spec)
    ports = spec.graph.inputs
    feed = {
        port.name: np.asarray(value, port.dtype) for port, value in zip(ports, inputs, strict=True)
    }
    expected = km.run(model, inputs)
    found = list(engine.run_graph(feed).values())[: len(expected)]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert np.abs(other).max() > 1e-3
        assert relative_error(one, other) < KERAS_MODEL
    gr.convert(path, path.with_suffix(".safetensors"), **hints)
    return engine


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", km.RECURRENT)
def test_recurrent_layers(name, kind, tmp_path, rng):
    model = km.randomise(km.RECURRENT[name](), rng)
    compared(model, [km.sequences(rng)], saved(model, tmp_path, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", km.LAYERS)
def test_other_layers(name, kind, tmp_path, rng):
    model = km.randomise(km.LAYERS[name](), rng)
    x = km.sequences(rng)
    if name == "distributed_flatten":
        x = rng.normal(0, 1, (3, 7, 3, 2)).astype(np.float32)
    compared(model, [x], saved(model, tmp_path, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", km.MASKED)
def test_masks_skip_steps_wherever_they_are(name, kind, tmp_path, rng):
    model = km.randomise(km.MASKED[name](), rng)
    x = km.tokens(rng)[: 4 if name == "average" else 5]  # the mean of no steps is not a number
    if name.startswith("masking"):
        x = km.sequences(rng, n=5) * (x > 0)[..., None]
    compared(
        model, [x.astype(np.float32) if x.dtype.kind == "f" else x], saved(model, tmp_path, kind)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", km.GRAPHS, ids=lambda make: make.__name__)
def test_functional_models(make, kind, tmp_path, rng):
    model, inputs = make()
    compared(km.randomise(model, rng), inputs, saved(model, tmp_path, kind))
