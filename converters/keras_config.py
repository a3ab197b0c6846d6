# SPDX-License-Identifier: MIT
"""The configuration of a Keras model as layers and calls, for Keras 2 and 3.

A configuration is data: nothing of it is imported or run. What is not understood is a reason.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gruengine.converters.base import Reason

MODELS = ("Sequential", "Functional", "Model")
MAX_LAYERS = 10_000
MAX_SIZE = (1 << 31) - 1

#: Arguments of a call that do not change what it computes.
_PLAIN_ARGUMENTS = ("training", "mask", "input_shape", "input_spec")
#: Arguments that are tensors, in the order of a call that does not name them.
_TENSORS = ("inputs", "sequences", "sequence", "initial_state", "query", "value", "key")


@dataclass(frozen=True)
class Ref:
    """Output ``tensor`` of call ``node`` of a layer."""

    layer: str
    node: int = 0
    tensor: int = 0


@dataclass
class LayerDef:
    """One layer: its class, configuration, and, of a nested model, its network."""

    name: str
    kind: str
    module: str
    config: dict[str, Any]
    net: Net | None = None


@dataclass(frozen=True)
class Call:
    """One use of a layer; ``inputs`` are other outputs, or numbers."""

    layer: str
    node: int
    inputs: tuple[Ref | float, ...]


@dataclass
class Net:
    """A model: layers by name in the order of the file, calls so that each comes after its inputs.

    ``inputs`` are InputLayers by name. A ``plain`` model is a chain: its outputs are all those of
    its last call, and no other call has more than one.
    """

    name: str
    layers: dict[str, LayerDef] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[Ref] = field(default_factory=list)
    plain: bool = False


class Broken(Exception):  # noqa: N818 - the configuration is
    """A configuration that is not one: what is wrong with it."""


def read_net(entry: Any, reasons: list[Reason], shape: Any = None) -> Net | None:
    """Read ``{"class_name": ..., "config": ...}`` of a model; None with a reason if that fails.

    ``shape`` is the input shape of a Sequential whose configuration has none.
    """
    try:
        kind = _text(entry, "class_name")
        config = entry.get("config")
        if kind.split(">")[-1] not in MODELS:
            raise Broken(f"a model of class {kind!r}; allowed are Sequential and Functional")
        if kind == "Sequential":
            return _sequential(config, reasons, shape)
        if not isinstance(config, dict) or "layers" not in config:
            raise Broken("a model of its own class, whose code is not in the file")
        return _functional(config, reasons)
    except Broken as broken:
        name = str(_config_of(entry).get("name", ""))[:200]
        reasons.append(Reason(name, str(broken), "a Sequential or Functional model of Keras"))
        return None


def _config_of(entry: Any) -> dict[str, Any]:
    config = entry.get("config") if isinstance(entry, dict) else None
    return config if isinstance(config, dict) else {}


def _text(entry: Any, key: str) -> str:
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not 0 < len(value) <= 1000 or not value.isprintable():
        raise Broken(f"{key} {value!r:.200}")
    return value


def _layer(entry: Any, reasons: list[Reason]) -> LayerDef:
    kind = _text(entry, "class_name")
    config = entry.get("config")
    if not isinstance(config, dict):
        raise Broken(f"a layer of class {kind} with config {config!r:.200}")
    name = entry.get("name") if isinstance(entry.get("name"), str) else None
    name = _text({"name": name or config.get("name")}, "name")
    module = entry.get("module") if isinstance(entry.get("module"), str) else ""
    layer = LayerDef(name, kind.split(">")[-1], module or "", config)
    registered = entry.get("registered_name")
    own = module and not module.startswith(("keras", "tensorflow", "tf_keras"))
    if ">" in kind or own or (isinstance(registered, str) and ">" in registered):
        why = "a custom class is code, and nothing of a file is run: export to ONNX"
        reasons.append(Reason(name, f"class {kind}", why))
    return layer


def _layers(entries: Any, reasons: list[Reason]) -> list[LayerDef]:
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_LAYERS:
        raise Broken(f"layers {entries!r:.100}")
    layers = [_layer(entry, reasons) for entry in entries]
    names = [layer.name for layer in layers]
    if len(set(names)) < len(names):
        twin = next(name for name in names if names.count(name) > 1)
        raise Broken(f"two layers of the name {twin!r}")
    return layers


# -- Sequential -----------------------------------------------------------------------------------


def _sequential(config: Any, reasons: list[Reason], shape: Any) -> Net:
    entries: Any = config.get("layers") if isinstance(config, dict) else config
    name = str(config.get("name", ""))[:200] if isinstance(config, dict) else ""
    layers = _layers(entries, reasons)
    net = Net(name, {layer.name: layer for layer in layers})
    if layers[0].kind != "InputLayer":
        known = shape or _input_shape(layers[0], entries[0], config)
        if known is None:
            why = "give the shape without the batch, e.g. the hint input_shape=[None, 40]"
            reasons.append(Reason(layers[0].name, "no input shape in the file", why))
            known = [None]
        inner = layers[0].config.get("dtype")
        dtype = inner if isinstance(inner, str) else "float32"
        source = LayerDef(
            f"{layers[0].name}_input", "InputLayer", "", {"batch_shape": known, "dtype": dtype}
        )
        if source.name in net.layers:
            raise Broken(f"two layers of the name {source.name!r}")
        net.layers = {source.name: source, **net.layers}
        layers.insert(0, source)
    net.inputs = [layers[0].name]
    for before, layer in itertools.pairwise(layers):
        if layer.kind == "InputLayer":
            raise Broken("an InputLayer inside of a Sequential")
        _look_inside(layer, reasons)
        net.calls.append(Call(layer.name, 0, (Ref(before.name),)))
    net.outputs, net.plain = [Ref(layers[-1].name)], True
    return net


def _look_inside(layer: LayerDef, reasons: list[Reason]) -> None:
    """Read the network of a layer that is a model, or that is one at every step."""
    inner = layer.config.get("layer") if layer.kind == "TimeDistributed" else None
    if layer.kind in MODELS:
        layer.net = read_net({"class_name": layer.kind, "config": layer.config}, reasons)
    elif isinstance(inner, dict) and inner.get("class_name") in MODELS:
        layer.net = read_net(inner, reasons)


def _input_shape(layer: LayerDef, entry: Any, config: Any) -> Any:
    for key in ("batch_shape", "batch_input_shape"):
        if isinstance(layer.config.get(key), list):
            return layer.config[key]
    if isinstance(config, dict) and isinstance(config.get("build_input_shape"), list):
        return config["build_input_shape"]
    build = entry.get("build_config")
    shape = build.get("input_shape") if isinstance(build, dict) else None
    if isinstance(shape, list):
        return shape
    if isinstance(layer.config.get("input_dim"), int) and layer.kind == "Embedding":
        return [None, layer.config.get("input_length")]
    return None


# -- Functional -----------------------------------------------------------------------------------


def _functional(config: dict[str, Any], reasons: list[Reason]) -> Net:
    from gruengine.converters import keras_tf_ops

    layers = _layers(config["layers"], reasons)
    net = Net(str(config.get("name", ""))[:200], {layer.name: layer for layer in layers})
    calls = []
    for layer, entry in zip(layers, config["layers"], strict=True):
        _look_inside(layer, reasons)
        if layer.kind == "GetItem":
            entry = _indexed(layer, entry)
        if layer.kind in keras_tf_ops.CLASSES:
            layer, entry = keras_tf_ops.as_operator(layer, entry)
            net.layers[layer.name] = layer
        nodes = entry.get("inbound_nodes", [])
        if not isinstance(nodes, list) or len(nodes) > MAX_LAYERS:
            raise Broken(f"{layer.name}: inbound_nodes {nodes!r:.100}")
        if layer.kind != "InputLayer":
            calls += [
                Call(layer.name, index, tuple(_inputs(layer, node, reasons)))
                for index, node in enumerate(nodes)
            ]
    inputs, outputs = config.get("input_layers"), config.get("output_layers")
    net.inputs = [ref.layer for ref in _refs(inputs)]
    net.outputs = list(_refs(outputs))
    for name in net.inputs:
        if name not in net.layers or net.layers[name].kind != "InputLayer":
            raise Broken(f"input {name!r}, which is no InputLayer")
    if not net.inputs or not net.outputs or len(set(net.inputs)) < len(net.inputs):
        raise Broken(f"input_layers {inputs!r:.100}, output_layers {outputs!r:.100}")
    moved = _built_alone([*net.outputs, *(ref for call in calls for ref in call.inputs)], net)
    net.outputs = [moved.get(ref, ref) for ref in net.outputs]
    calls = [
        replace(call, inputs=tuple(one if isinstance(one, float) else moved.get(one, one)
                                   for one in call.inputs))
        for call in calls
    ]  # fmt: skip
    net.calls = _sorted(calls, net)
    return net


def _built_alone(refs: list[Ref | float], net: Net) -> dict[Ref, Ref]:
    """Return references that count from 1, and as they count from 0.

    A model inside of another has a call of its own, which connections count and no file lists.
    """
    found: dict[str, set[Ref]] = {}
    for ref in refs:
        if isinstance(ref, Ref) and ref.layer in net.layers and net.layers[ref.layer].net:
            found.setdefault(ref.layer, set()).add(ref)
    return {
        ref: replace(ref, node=ref.node - 1)
        for same in found.values()
        if min(ref.node for ref in same) == 1
        for ref in same
    }


def _indexed(layer: LayerDef, entry: Any) -> Any:
    """Move what ``x[...]`` is indexed with from the call to the configuration."""
    nodes = entry.get("inbound_nodes")
    call = nodes[0] if isinstance(nodes, list) and len(nodes) == 1 else None
    given = call.get("args") if isinstance(call, dict) else None
    if call is None or not isinstance(given, list) or len(given) != 2 or "key" in layer.config:
        raise Broken(f"{layer.name}: a call {nodes!r:.100}")
    layer.config["key"] = given[1]
    return {"inbound_nodes": [{**call, "args": given[:1]}]}


def _is_ref(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and all(type(one) is int and 0 <= one <= MAX_LAYERS for one in value[1:3])
    )


def _ref(value: Any) -> Ref:
    return Ref(value[0], value[1], value[2])


def _refs(value: Any) -> Iterator[Ref]:
    """Yield the references in a nest of lists; a mapping of names is taken in its order."""
    if _is_ref(value):
        yield _ref(value)
    elif isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        history = _config_of(value).get("keras_history")
        if not _is_ref(history):
            raise Broken(f"a tensor from {history!r:.100}")
        yield _ref(history)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _refs(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from _refs(one)
    elif value is not None:
        raise Broken(f"a connection {value!r:.100}")


def _inputs(layer: LayerDef, node: Any, reasons: list[Reason]) -> Iterator[Ref | float]:
    if isinstance(node, dict):  # Keras 3
        arguments, named = node.get("args"), node.get("kwargs") or {}
        if not isinstance(arguments, list) or not isinstance(named, dict):
            raise Broken(f"{layer.name}: a call {node!r:.100}")
        for value in arguments:
            yield from [float(value)] if _is_number(value) else _refs(value)
        yield from _named(layer, named, reasons)
        return
    entries = [node] if _is_ref(node) else node
    if not isinstance(entries, list):
        raise Broken(f"{layer.name}: a call {node!r:.100}")
    for entry in entries:
        if not _is_ref(entry):
            raise Broken(f"{layer.name}: a connection {entry!r:.100}")
        yield _ref(entry)
    last = entries[-1][3] if entries and len(entries[-1]) > 3 else None
    if isinstance(last, dict):
        yield from _named(layer, last, reasons)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 3e38


def _named(layer: LayerDef, named: dict[str, Any], reasons: list[Reason]) -> Iterator[Ref]:
    """Yield the arguments that are passed by name, in the order of a call without names."""
    order = [*_TENSORS, *(key for key in named if key not in _TENSORS)]
    for key, value in ((key, named[key]) for key in order if key in named):
        if key in _TENSORS:
            yield from _refs(value)
        elif value is not None and not (key in _PLAIN_ARGUMENTS and value is False):
            reasons.append(
                Reason(layer.name, f"{layer.kind} called with {key}={value!r:.80}", "not converted")
            )


def _sorted(calls: Sequence[Call], net: Net) -> list[Call]:
    """Order calls so that each comes after those it needs."""
    by_place = {(call.layer, call.node): call for call in calls}
    done: set[tuple[str, int]] = set()
    result: list[Call] = []
    for start in calls:
        stack = [(start, False)]
        open_now: set[tuple[str, int]] = set()
        while stack:
            call, ready = stack.pop()
            place = (call.layer, call.node)
            if place in done:
                continue
            if ready:
                done.add(place)
                result.append(call)
                continue
            if place in open_now:
                raise Broken(f"{call.layer}: a layer that needs its own output")
            open_now.add(place)
            stack.append((call, True))
            stack += [(by_place[at], False) for at in _needs(call, by_place, net)]
    list(_needs(Call("the model", 0, tuple(net.outputs)), by_place, net))
    return result


def _needs(
    call: Call, by_place: dict[tuple[str, int], Call], net: Net
) -> Iterator[tuple[str, int]]:
    for ref in call.inputs:
        if isinstance(ref, float) or ref.layer in net.inputs:
            continue
        if (ref.layer, ref.node) not in by_place:
            raise Broken(f"{call.layer}: an input from {ref.layer!r}, call {ref.node}, unknown")
        yield ref.layer, ref.node
