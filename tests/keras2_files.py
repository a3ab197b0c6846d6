# SPDX-License-Identifier: MIT
"""Files in the form of Keras 2, written from models of Keras 3: HDF5 and early archives."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

Array = np.ndarray[Any, Any]
Change = Callable[[dict[str, Any]], None]


def _node(entry: dict[str, Any]) -> list[Any]:
    """Return one inbound node in the form of Keras 2: [layer, call, tensor, arguments] each."""
    found: list[Any] = []

    def collect(value: Any) -> None:
        if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
            found.append([*value["config"]["keras_history"], {}])
        elif isinstance(value, (list, tuple)):
            for one in value:
                collect(one)
        elif isinstance(value, dict):
            for one in value.values():
                collect(one)

    collect(entry["args"])
    collect(entry["kwargs"].get("initial_state"))
    return found


def old_config(entry: dict[str, Any], change: Change | None = None) -> dict[str, Any]:
    """Return ``{"class_name", "config"}`` as Keras 2 writes it; ``change`` edits each layer."""
    config = {k: v for k, v in entry["config"].items() if k != "zero_output_for_mask"}
    kind = entry["class_name"]
    result: dict[str, Any] = {"class_name": kind, "config": config}
    if isinstance(config.get("dtype"), dict):
        config["dtype"] = config["dtype"]["config"]["name"]
    if kind == "InputLayer":
        config["batch_input_shape"] = config.pop("batch_shape")
    for key in ("layers", "cells"):
        if isinstance(config.get(key), list):
            config[key] = [old_config(one, change) for one in config[key]]
    for key in ("layer", "cell"):
        if isinstance(config.get(key), dict):
            config[key] = old_config(config[key], change)
    config.pop("backward_layer", None)
    if "name" in entry:
        result["name"] = entry["name"]
    if "inbound_nodes" in entry:
        result["inbound_nodes"] = [_node(one) for one in entry["inbound_nodes"]]
    if change is not None:
        change(result)
    return result


def config_of(model: Any, change: Change | None = None) -> dict[str, Any]:
    """Return the configuration of a whole model in the form of Keras 2."""
    entry = json.loads(model.to_json())
    return old_config(entry, change)


def write_h5(
    model: Any,
    version: str = "2.3.1",
    backend: str = "tensorflow",
    change: Change | None = None,
    arrays: Callable[[str, list[Array]], list[Array]] | None = None,
    cell_group: str = "",
    weights_only: bool = False,
) -> bytes:
    """Return an ``.h5`` file of Keras 2.

    Parameters
    ----------
    arrays : what becomes of the arrays of a layer, by its name.
    cell_group : a group between the layer and its arrays, as some versions have it.
    """
    stream = io.BytesIO()
    with h5py.File(stream, "w", libver="earliest") as file:
        root: Any = file
        if not weights_only:
            file.attrs["keras_version"] = version.encode()
            file.attrs["model_config"] = json.dumps(config_of(model, change)).encode()
            root = file.create_group("model_weights")
        root.attrs["keras_version"] = version.encode()
        root.attrs["backend"] = backend.encode()
        root.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = root.create_group(layer.name)
            weights = [*layer.trainable_weights, *layer.non_trainable_weights]
            values = [np.asarray(one.value.detach()) for one in weights]
            if arrays is not None:
                values = arrays(layer.name, values)
            middle = f"{cell_group}/" if cell_group else ""
            names = [f"{layer.name}_{i // 3}/{middle}{one.name}:0" for i, one in enumerate(weights)]
            names = [f"p{i}/{name}" for i, name in enumerate(names)]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, value in zip(names, values, strict=True):
                group[name] = value
    return stream.getvalue()


def write_archive(model: Any, folder: Any, rename: bool = False, level: int = 0) -> bytes:
    """Return a ``.keras`` archive with the groups of Keras 2.12, or with deflated members."""
    path = folder / "plain.keras"
    model.save(path)
    stream = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if level else zipfile.ZIP_STORED
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(stream, "w", method) as target:
        for name in source.namelist():
            data = source.read(name)
            if rename and name == "model.weights.h5":
                inner = io.BytesIO(data)
                with h5py.File(inner, "a") as file:
                    file.move("layers", "_layer_checkpoint_dependencies")
                data = inner.getvalue()
            target.writestr(name, data)
    return stream.getvalue()


def to_cudnn(values: list[Array]) -> list[Array]:
    """Bring the arrays of an LSTM or GRU into the layout of its CuDNN form."""
    kernel, recurrent, bias = values
    gates = recurrent.shape[1] // recurrent.shape[0]
    # cuDNN has W [H, I] of each gate in row order; Keras gave that memory the shape [I, H].
    kernels = [np.ravel(one.T).reshape(one.shape) for one in np.split(kernel, gates, axis=1)]
    recurrents = [one.T for one in np.split(recurrent, gates, axis=1)]
    both = bias.ravel() if bias.ndim == 2 else np.concatenate([bias * 0.25, bias * 0.75])
    return [np.concatenate(kernels, 1), np.concatenate(recurrents, 1), both]
