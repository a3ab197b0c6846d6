# SPDX-License-Identifier: MIT
"""Keras files without Keras: the configurations and arrays of random models, Keras 2 and 3."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from fuzz.keras_blocks import Array, Era, Form, Made, Memory, Value, Weight

Ref = tuple[str, int, int]  # layer, which of its calls, which output


@dataclass
class Input:
    """An InputLayer; ``rows`` tokens, or features where it is 0."""

    name: str
    form: Form
    rows: int = 0
    batch: int | None = None

    def shape(self) -> list[int | None]:
        time = self.form.time if isinstance(self.form.time, int) else None
        middle = [] if self.form.time is None else [time]
        return [self.batch, *middle, *([] if self.rows else [self.form.size])]


@dataclass
class Use:
    """One call of a layer on outputs of others; the last ``initial`` of them are states."""

    layer: Made
    node: int
    inputs: list[Ref]
    initial: int = 0


@dataclass
class Net:
    """A model: a chain is written as Sequential, anything else as Functional."""

    inputs: list[Input]
    uses: list[Use] = field(default_factory=list)
    outputs: list[Ref] = field(default_factory=list)
    chain: bool = True
    inner: dict[str, list[Made]] = field(default_factory=dict)  # layers of nested models

    def run(self, feed: dict[str, Array], memory: Memory | None = None) -> list[Array]:
        """Return what Keras would."""
        values = self.values(feed, {} if memory is None else memory)
        return [values[ref].x for ref in self.outputs]

    def values(self, feed: dict[str, Array], memory: Memory) -> dict[Ref, Value]:
        """Return every value of the model."""
        values: dict[Ref, Value] = {(name, 0, 0): Value(x) for name, x in feed.items()}
        for use in self.uses:
            found = use.layer.run([values[ref] for ref in use.inputs], memory)
            for index, value in enumerate(found):
                values[use.layer.name, use.node, index] = value
        return values

    def prune(self) -> None:
        """Drop what no output needs: Keras never writes it."""
        needed, kept = set(self.outputs), []
        for use in reversed(self.uses):
            if any(ref[:2] == (use.layer.name, use.node) for ref in needed):
                needed.update(use.inputs)
                kept.append(use)
        self.uses = kept[::-1]

    def layers(self) -> list[Made]:
        """Return every layer once, in the order of first use."""
        return list({use.layer.name: use.layer for use in self.uses}.values())


# -- configurations -------------------------------------------------------------------------------


def _dtype(era: Era, name: str = "float32") -> Any:
    if era.major < 3:
        return name
    config = {"name": name}
    return {"module": "keras", "class_name": "DTypePolicy", "config": config,
            "registered_name": None}  # fmt: skip


def _modern(value: Any) -> Any:
    """Add what Keras 3 writes beside every class, at any depth."""
    if isinstance(value, list):
        return [_modern(one) for one in value]
    if not isinstance(value, dict):
        return value
    result = {key: _modern(one) for key, one in value.items()}
    if "class_name" in result and "module" not in result:
        whole = {"Sequential": "keras", "Functional": "keras.src.models.functional"}
        module = whole.get(result["class_name"], "keras.layers")
        result |= {"module": module, "registered_name": None}
    return result


def _input(one: Input, era: Era) -> dict[str, Any]:
    key = "batch_shape" if era.major >= 3 else "batch_input_shape"
    config = {key: one.shape(), "dtype": "int32" if one.rows else "float32", "sparse": False}
    config |= {"ragged": False} if era.major < 3 else {}
    return {"class_name": "InputLayer", "config": {**config, "name": one.name}}


def _entry(made: Made, net: Net, era: Era) -> dict[str, Any]:
    if made.name in net.inner:
        config: dict[str, Any] = dict(made.config)
        start = _input(config.pop("start"), era)
        inside = [_entry(one, net, era) for one in net.inner[made.name]]
        return {"class_name": "Sequential", "config": {"name": made.name,
                "layers": [start, *inside]}}  # fmt: skip
    config = {"name": made.name, "trainable": True, "dtype": _dtype(era), **made.config}
    if made.kind == "SpatialDropout1D" and era.major >= 3:
        del config["trainable"]
    return {"class_name": made.kind, "config": config}


def config(net: Net, era: Era) -> dict[str, Any]:
    """Return the configuration of the whole model."""
    starts = [_input(one, era) for one in net.inputs]
    layers = [_entry(made, net, era) for made in net.layers()]
    if net.chain:
        entry: dict[str, Any] = {
            "class_name": "Sequential", "config": {"name": "m", "layers": [*starts, *layers]},
        }  # fmt: skip
        if era.major < 3:
            _merge_input(entry["config"]["layers"], era)
    else:
        for one in starts:
            one |= {"name": one["config"]["name"], "inbound_nodes": []}
        for made, one in zip(net.layers(), layers, strict=True):
            uses = [use for use in net.uses if use.layer is made]
            node = _node if era.major >= 3 else _old_node
            one |= {"name": made.name, "inbound_nodes": [node(use, net) for use in uses]}
        ends = {"input_layers": [[one.name, 0, 0] for one in net.inputs],
                "output_layers": [list(ref) for ref in net.outputs]}  # fmt: skip
        kind = "Functional" if era.archive or era.major >= 3 else "Model"
        entry = {"class_name": kind, "config": {"name": "m", "layers": [*starts, *layers], **ends}}
    return _modern(entry) if era.archive or era.major >= 3 else entry  # type: ignore[no-any-return]


def _merge_input(layers: list[dict[str, Any]], era: Era) -> None:
    """Leave the InputLayer out, as Keras 2 did: the first layer has the shape."""
    if era.version.startswith("2.3") and layers[1]["class_name"] != "Sequential":
        start = layers.pop(0)
        layers[0]["config"]["batch_input_shape"] = start["config"]["batch_input_shape"]
        if start["config"]["dtype"] != "float32":
            layers[0]["config"]["dtype"] = start["config"]["dtype"]


def _tensor(ref: Ref, net: Net) -> dict[str, Any]:
    form = next((i.form for i in net.inputs if i.name == ref[0]), None)
    shape: list[Any] = next((i.shape() for i in net.inputs if i.name == ref[0]), [])
    if form is None:
        layer = next(use.layer for use in net.uses if use.layer.name == ref[0])
        form = layer.forms[ref[2]]
        time = form.time if isinstance(form.time, int) else None
        shape = [None, *([] if form.time is None else [time]), form.size]
    config = {"shape": shape, "dtype": "float32", "keras_history": list(ref)}
    return {"class_name": "__keras_tensor__", "module": "", "config": config}


def _node(use: Use, net: Net) -> dict[str, Any]:
    cut = len(use.inputs) - use.initial
    given: list[Any] = [_tensor(ref, net) for ref in use.inputs]
    first = given[:cut] if cut > 1 else given[0]
    kwargs = {"initial_state": given[cut:]} if use.initial else {}
    return {"args": [first], "kwargs": kwargs}


def _old_node(use: Use, net: Net) -> list[Any]:
    """Return a call of Keras 2; states are further inputs, or an argument of the first."""
    cut = len(use.inputs) - use.initial
    node: list[Any] = [[*ref, {}] for ref in use.inputs]
    if use.initial and use.layer.config.get("units", 0) % 2:
        node[0][3] = {"initial_state": [list(ref) for ref in use.inputs[cut:]]}
        node = node[:cut]
    return node


# -- files ----------------------------------------------------------------------------------------


def snake(kind: str) -> str:
    text = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", kind)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", text).lower()


def _by_place(group: Any, layers: list[Made], net: Net, holder: str) -> None:
    counts: dict[str, int] = {}
    for made in layers:
        kind = snake(made.kind)
        number = counts.get(kind, 0)
        counts[kind] = number + 1
        mine = group.create_group(f"{holder}/{kind}" + (f"_{number}" if number else ""))
        if made.name in net.inner:
            _by_place(mine, net.inner[made.name], net, holder)
            continue
        mine.require_group("vars")
        places: dict[str, int] = {}
        for weight in made.weights:
            index = places.get(weight.path, 0)
            places[weight.path] = index + 1
            path = f"{weight.path}/vars" if weight.path else "vars"
            mine.require_group(path).create_dataset(str(index), data=weight.array)


def _inside(made: Made, net: Net) -> Iterator[tuple[str, Weight]]:
    for one in net.inner.get(made.name, [made]):
        for weight in one.weights:
            yield one.name, weight


def _by_name(root: Any, net: Net, era: Era) -> None:
    names = [one.name for one in net.inputs] if not net.chain or era.major >= 3 else []
    root.attrs["layer_names"] = [n.encode() for n in [*names, *(m.name for m in net.layers())]]
    for name in names:
        root.create_group(name).attrs["weight_names"] = np.zeros(0)
    for made in net.layers():
        group = root.create_group(made.name)
        found = sorted(_inside(made, net), key=lambda pair: not pair[1].trainable)
        listed = []
        for index, (name, weight) in enumerate(found):
            end = "" if era.major >= 3 else ":0"
            listed.append(f"{name}/p{index}/{weight.name}{end}")
            group[listed[-1]] = weight.array
        group.attrs["weight_names"] = [one.encode() for one in listed]


def write(net: Net, era: Era, rng: np.random.Generator) -> bytes:
    """Return the model as a file of its era."""
    stream, text = io.BytesIO(), json.dumps(config(net, era))
    version = ["earliest", "v108", "latest"][int(rng.integers(3))]
    with h5py.File(stream, "w", libver=(version, "latest")) as file:
        if era.archive:
            old = era.major < 3 and rng.random() < 0.5
            _by_place(
                file, net.layers(), net, "_layer_checkpoint_dependencies" if old else "layers"
            )
        else:
            file.attrs["keras_version"] = era.version
            file.attrs["model_config"] = text if rng.random() < 0.5 else text.encode()
            root = file.create_group("model_weights")
            root.attrs["backend"] = b"tensorflow"
            root.attrs["keras_version"] = era.version.encode()
            _by_name(root, net, era)
    if not era.archive:
        return stream.getvalue()
    target = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if rng.random() < 0.3 else zipfile.ZIP_STORED
    with zipfile.ZipFile(target, "w", method) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": era.version}))
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", stream.getvalue())
    return target.getvalue()
