# SPDX-License-Identifier: MIT
"""Small valid Keras files without Keras, and what attackers make of them."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
from zips import zipped

Array = np.ndarray[Any, Any]
Edit = Callable[[Any], None]


def layer(kind: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "module": "keras.layers", "config": config}


def chain(*layers: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a Sequential on sequences of 3 features."""
    first = layer("InputLayer", name="x", batch_shape=[None, None, 3], dtype="float32")
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "chain", "layers": [first, *layers]},
    }


def config() -> dict[str, Any]:
    return chain(
        layer(
            "LSTM", name="lstm", units=2, activation="tanh", recurrent_activation="sigmoid",
            use_bias=True, return_sequences=True, return_state=False, go_backwards=False,
            stateful=False, unit_forget_bias=True,
        ),
        layer("Dense", name="dense", units=2, activation="linear", use_bias=True),
    )  # fmt: skip


def graph() -> dict[str, Any]:
    """Return the configuration of a Functional of the same layers and an Add."""
    chained = config()["config"]["layers"]
    sources = {"lstm": ["x"], "dense": ["lstm"], "add": ["lstm", "dense"]}
    layers = [*chained, layer("Add", name="add")]
    for entry in layers:
        name = entry["name"] = entry["config"]["name"]
        inputs = [
            {"class_name": "__keras_tensor__", "config": {"keras_history": [source, 0, 0]}}
            for source in sources.get(name, [])
        ]
        entry["inbound_nodes"] = [{"args": [inputs], "kwargs": {}}] if inputs else []
    return {
        "class_name": "Functional",
        "config": {
            "name": "graph",
            "layers": layers,
            "input_layers": [["x", 0, 0]],
            "output_layers": [["add", 0, 0]],
        },
    }


def arrays() -> dict[str, list[tuple[str, Array]]]:
    def filled(*shape: int) -> Array:
        return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 16

    return {
        "lstm": [
            ("kernel", filled(3, 8)), ("recurrent_kernel", filled(2, 8)), ("bias", filled(8)),
        ],
        "dense": [("kernel", filled(2, 2)), ("bias", filled(2))],
    }  # fmt: skip


def h5(edit: Edit | None = None, model: Any = None, libver: str = "earliest") -> bytes:
    """Return a legacy file; ``edit`` gets the open file before it is closed."""
    stream = io.BytesIO()
    with h5py.File(stream, "w", libver=(libver, "latest")) as file:
        file.attrs["keras_version"] = "3.10.0"
        text = model if isinstance(model, (str, bytes)) else json.dumps(model or config())
        file.attrs["model_config"] = text
        root = file.create_group("model_weights")
        root.attrs["layer_names"] = [b"x", b"lstm", b"dense"]
        for name in ("x", "lstm", "dense"):
            group = root.create_group(name)
            known = arrays().get(name, [])
            group.attrs["weight_names"] = [f"{name}/{what}:0".encode() for what, _ in known]
            for what, array in known:
                group[f"{name}/{what}:0"] = array
        if edit is not None:
            edit(file)
    return stream.getvalue()


def modern(edit: Edit | None = None, libver: str = "v108") -> bytes:
    """Return the weights of an archive: arrays by position."""
    stream = io.BytesIO()
    with h5py.File(stream, "w", libver=(libver, "latest")) as file:
        for name, known in arrays().items():
            place = f"layers/{name}/cell/vars" if name == "lstm" else f"layers/{name}/vars"
            group = file.create_group(place)
            for index, (_, array) in enumerate(known):
                group[str(index)] = array
        file["layers/dense/vars"].attrs["name"] = "dense"
        if edit is not None:
            edit(file)
    return stream.getvalue()


def members(weights: bytes | None = None, model: Any = None) -> dict[str, bytes]:
    text = model if isinstance(model, bytes) else json.dumps(model or config()).encode()
    return {
        "metadata.json": b'{"keras_version": "3.10.0"}',
        "config.json": text,
        "model.weights.h5": modern() if weights is None else weights,
    }


def archive(files: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    return zipped((members() if files is None else files).items(), method)


# -- mutants --------------------------------------------------------------------------------------

_NUMBERS = (0, 1, 2, 255, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1)


def mutated(source: bytes, rng: random.Random) -> bytes:
    """Change, cut, repeat or overwrite a few bytes with what lies in wait."""
    data = bytearray(source)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at, kind = rng.randrange(len(data)), rng.randrange(7)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[at : at + rng.randrange(1, 20)]
        elif kind == 3:
            begin = rng.randrange(len(data))
            data[at:at] = data[begin : begin + rng.randrange(1, 200)]
        elif kind == 4:
            width = rng.choice([1, 2, 4, 8])
            at -= at % width
            number = rng.choice(_NUMBERS) % (1 << 8 * width)
            data[at : at + width] = number.to_bytes(width, "little")
        elif kind == 5:  # an address of the file
            at -= at % 8
            data[at : at + 8] = (rng.randrange(len(data)) & ~7).to_bytes(8, "little")
        else:
            begin = rng.randrange(len(data))
            data[at : at + 16] = data[begin : begin + 16]
        data = data or bytearray(b"x")
    return bytes(data)


_VALUES = (None, True, -1, 0, 1, 3, 1 << 40, 1e300, float("nan"), "", "tanh", "lstm", "x", [], [1],
           {}, {"class_name": "LSTM", "config": {}}, [["x", 0, 0]])  # fmt: skip


def mutated_json(value: Any, rng: random.Random) -> Any:
    """Replace, drop or double one place of a JSON value."""
    value = json.loads(json.dumps(value))
    places: list[tuple[Any, Any]] = []

    def collect(one: Any) -> None:
        keys = one if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        for key in keys:
            places.append((one, key))
            collect(one[key])

    collect(value)
    for _ in range(rng.choice([1, 1, 2])):
        holder, key = rng.choice(places)
        kind = rng.randrange(4)
        if isinstance(holder, list) and key >= len(holder):
            continue
        if kind == 0 and isinstance(holder, dict):
            holder.pop(key, None)
        elif kind == 1 and isinstance(holder, list):
            holder.append(holder[key])
        elif kind == 2:
            other, name = rng.choice(places)
            fits = name in other if isinstance(other, dict) else name < len(other)
            holder[key] = json.loads(json.dumps(other[name])) if fits else None
        else:
            holder[key] = rng.choice(_VALUES)
    return value
