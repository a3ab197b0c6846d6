# SPDX-License-Identifier: MIT
"""The graph of a Keras model: its layers are read one by one, then each call joins the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gruengine.converters import (
    keras_conv,
    keras_conv_lstm,
    keras_image,
    keras_layers,
    keras_more,
    keras_ops,
    keras_rnn,
    keras_shape,
)
from gruengine.converters.base import Reason
from gruengine.converters.graph_parts import GraphParts
from gruengine.converters.keras_base import (
    AMBIGUOUS,
    Arrays,
    Config,
    Era,
    Parsed,
    Refused,
    Value,
)
from gruengine.converters.keras_config import MODELS, LayerDef, Net, Ref
from gruengine.spec import Dim, Graph, ModelSpec, Node, Port

Array = np.ndarray[Any, Any]

READERS = {
    **keras_layers.READERS,
    **keras_shape.READERS,
    **keras_rnn.READERS,
    **keras_image.READERS,
    **keras_more.READERS,
    **keras_conv.READERS,
    **keras_conv_lstm.READERS,
}

_WHY = {
    "Lambda": "a Lambda holds code, and nothing of a file is run: export to ONNX",
    "TFOpLambda": "a function of TensorFlow that is not converted",
    "TensorFlowOpLayer": "an operator of TensorFlow outside of a layer",
    "TextVectorization": "text is no tensor: give the model its indices",
    "StringLookup": "text is no tensor: give the model its indices",
}


def parse(layer: LayerDef, era: Era, reasons: list[Reason], where: str) -> Parsed:
    """Read the configuration of one layer; what is not allowed becomes reasons."""
    if layer.module.startswith("keras.src.ops"):
        config = Config(layer, era, reasons, where)
        known = keras_more.OPERATORS.get(layer.kind) or keras_ops.reader_of(config)
        parsed = known(config)
        config.done()
        return parsed
    # A .h5 file does not tell operators from layers; few share a name.
    operator = not layer.module and (layer.kind not in READERS or "newshape" in layer.config)
    reader = keras_ops.known(layer.kind) if operator else READERS.get(layer.kind)
    if reader is None:
        why = _WHY.get(layer.kind, "no layer that is converted: export to ONNX")
        reasons.append(Reason(where, f"class {layer.kind:.100}", why))
        return Parsed(lambda b, inputs, arrays: list(inputs))
    config = Config(layer, era, reasons, where)
    parsed = reader(config)
    config.done()
    return parsed


def parse_net(net: Net, era: Era, reasons: list[Reason], prefix: str = "") -> dict[str, Parsed]:
    """Read all layers of a model and of the models in it, by their names with the prefix."""
    found: dict[str, Parsed] = {}
    for layer in net.layers.values():
        where = prefix + layer.name
        if layer.net is not None or layer.kind in MODELS:
            if layer.net is not None:
                found.update(parse_net(layer.net, era, reasons, f"{where}/"))
        elif layer.kind != "InputLayer":
            found[where] = parse(layer, era, reasons, where)
    return found


@dataclass(frozen=True)
class Model:
    """A model ready to be built.

    layers : by name, those of inner models as ``model/layer``
    arrays : of each layer by the same name
    time_major : sequences are [T, N, F]
    masks : masks act; else sequences are said to have no padding
    """

    net: Net
    layers: Mapping[str, Parsed]
    arrays: Mapping[str, dict[str, Array]]
    time_major: bool
    masks: bool


class Builder(GraphParts):
    """Emits the nodes of a model. See the functions of the layers."""

    def __init__(self, model: Model, reasons: list[Reason]) -> None:
        super().__init__()
        self.model, self.reasons = model, reasons
        self.time_major, self.masks = model.time_major, model.masks
        self.inputs: list[Port] = []
        self.outputs: list[tuple[str, Value]] = []
        self.state: list[tuple[str, str]] = []
        self._same: dict[str, Dim] = {}
        self._weights: dict[tuple[str, str], str] = {}
        self._swaps: dict[tuple[str, bool], str] = {}
        self._where = ""

    # -- whole models -----------------------------------------------------------------------------

    def spec(self) -> ModelSpec:
        """Build the model."""
        net = self.model.net
        taken = {ref.layer for ref in net.outputs}
        self.names |= {*net.inputs, *taken}
        inputs = [self._input(net.layers[name], index) for index, name in enumerate(net.inputs)]
        values = self.run(net, inputs, "")
        states = self.outputs
        self.outputs = []
        refs = [Ref(net.outputs[0].layer, 0, k) for k in range(len(values))]
        for ref, value in zip(refs if net.plain else net.outputs, values, strict=True):
            if value is not None:
                name = ref.layer if ref.tensor == 0 else f"{ref.layer}_{ref.tensor}"
                self._output(name, value)
        for name, value in states:
            self._output(name, value, named=True)
        return self._finish()

    def run(self, net: Net, inputs: Sequence[Value | None], prefix: str) -> list[Value | None]:
        """Emit all calls of a model; None stands for what a refused layer would give."""
        values: dict[tuple[str, int], list[Value | None]] = {
            (name, 0): [value] for name, value in zip(net.inputs, inputs, strict=True)
        }
        for call in net.calls:
            where = prefix + call.layer
            given = [
                self._number(where, one) if isinstance(one, float) else _pick(values, one)
                for one in call.inputs
            ]
            layer = net.layers[call.layer]
            known = [value for value in given if value is not None]
            found: list[Value | None] = []
            if not given:
                self.reasons.append(Reason(where, f"a {layer.kind:.80} without input", "one"))
            elif len(known) < len(given):
                pass  # what gives the others has been refused
            elif layer.net is not None or layer.kind in MODELS:
                found = self._inner(layer, known, where)
            else:
                found = self._emit(where, known)
            values[call.layer, call.node] = found
            if net.plain and len(found) > 1 and call is not net.calls[-1]:
                self.reasons.append(Reason(where, f"{len(found)} outputs", "one in a Sequential"))
        if net.plain:
            return values[net.outputs[0].layer, 0]
        return [_pick(values, ref) for ref in net.outputs]

    def _inner(self, layer: LayerDef, given: list[Value], where: str) -> list[Value | None]:
        if layer.net is None or len(layer.net.inputs) != len(given):
            self.reasons.append(Reason(where, f"a model of {len(given)} inputs", "as many as its"))
            return []
        if layer.kind in MODELS:
            return self.run(layer.net, given, f"{where}/")
        try:
            return list(self._every_step(layer.net, given[0], where))
        except Refused as refused:
            self.reasons.append(Reason(where, refused.what, refused.why))
            return []

    def _every_step(self, net: Net, x: Value, where: str) -> list[Value]:
        """Run a model on every step of a sequence."""
        self.need_no_mask(x)

        def emit(one: Value) -> list[Value]:
            found = self.run(net, [one], f"{where}/")
            return [value for value in found if value is not None]

        return keras_image.at_every_step(self, where, x, emit)

    def _emit(self, where: str, given: list[Value]) -> list[Value | None]:
        self._where = where
        try:
            arrays = Arrays(self.model.arrays.get(where, {}))
            return list(self.model.layers[where].emit(self, given, arrays))
        except Refused as refused:
            self.reasons.append(Reason(where, refused.what, refused.why))
            return []

    def _number(self, where: str, number: float) -> Value:
        return Value(self.scalar(where, "number", number), ())

    # -- inputs and outputs -----------------------------------------------------------------------

    def _input(self, layer: LayerDef, index: int) -> Value | None:
        shape = layer.config.get("batch_shape", layer.config.get("batch_input_shape"))
        if (
            not isinstance(shape, list)
            or not 0 < len(shape) <= 8
            or not all(size is None or (type(size) is int and 0 < size < 1 << 31) for size in shape)
        ):
            self.reasons.append(Reason(layer.name, f"shape {shape!r:.80}", "sizes or null"))
            return None
        kind = layer.config.get("dtype") or "float32"
        if isinstance(kind, dict):
            policy = kind.get("config")
            kind = policy.get("name") if isinstance(policy, dict) else kind
        dtype = {"int32": "int32", "int64": "int64", "uint8": "int32"}.get(str(kind), "float32")
        if dtype == "float32" and self._only_indices(layer.name):
            dtype = "int64"
        lead = ("T", "N") if self.time_major else ("N", "T")
        names: list[str] = [lead[0], lead[1] if index == 0 else f"{lead[1]}_{layer.name}"]
        if self.time_major and index:
            names = [f"T_{layer.name}", "N"]
        names += [f"{layer.name}_{axis}" for axis in range(2, len(shape))]
        # A batch that is fixed, as stateful layers need it in Keras, is free here.
        dims = tuple(
            name if size is None or name == "N" else size
            for name, size in zip(names, shape, strict=False)
        )
        self.inputs.append(Port(layer.name, dtype, dims))
        return Value(layer.name, dims, dtype=dtype)

    def _only_indices(self, name: str) -> bool:
        """Tell whether an input goes into Embeddings alone, which take integers."""
        net = self.model.net
        users = [call.layer for call in net.calls if Ref(name) in call.inputs]
        return bool(users) and all(net.layers[user].kind == "Embedding" for user in users)

    def state_input(self, name: str, dims: tuple[Dim, ...]) -> str:
        """Add an input that a stateful layer carries."""
        name = self.unique(name)
        self.inputs.append(Port(name, "float32", dims))
        return name

    def state_output(self, name: str, value: Value) -> None:
        """Add the next value of a carried state."""
        out = self.unique(f"{name}_out")
        self.outputs.append((out, value))
        self.state.append((name, out))

    def _output(self, name: str, value: Value, named: bool = False) -> None:
        inputs = {port.name for port in self.inputs}
        if name in inputs or any(name == other for other, _ in self.outputs):
            name = self.unique(f"{name}_out")
        elif not named:
            self.names.add(name)
        self.outputs.append((name, value))

    def _finish(self) -> ModelSpec:
        """Name the outputs, drop what nothing needs, and settle the names of sizes."""
        nodes = list(self.nodes)
        made = {out for node in nodes for out in node.outputs if out}
        renamed: dict[str, str] = {}
        for name, value in self.outputs:
            if value.name in made and value.name not in renamed:
                renamed[value.name] = name
            else:
                source = renamed.get(value.name, value.name)
                nodes.append(Node("Identity", (source,), (name,), {}, self.unique(f"{name}/out")))
        nodes = [
            replace(
                node,
                inputs=tuple(renamed.get(one, one) for one in node.inputs),
                outputs=tuple(renamed.get(one, one) for one in node.outputs),
            )
            for node in nodes
        ]
        nodes = list(_needed(nodes, {name for name, _ in self.outputs}))
        used = {name for node in nodes for name in node.inputs}
        tensors = {name: array for name, array in self.tensors.items() if name in used}
        ports = [Port(name, v.dtype, self._settled(v.dims)) for name, v in self.outputs]
        inputs = [replace(port, shape=self._settled(port.shape)) for port in self.inputs]
        return ModelSpec(Graph(inputs, ports, nodes), tensors, tuple(self.state))

    # -- what the layers use ----------------------------------------------------------------------

    def refuse(self, what: str, why: str) -> None:
        """Refuse the layer that is being built."""
        raise Refused(what, why)

    def one(self, inputs: Sequence[Value]) -> Value:
        """Return the only input of a layer."""
        if len(inputs) != 1:
            raise Refused(f"{len(inputs)} inputs", "one")
        return inputs[0]

    def weight(self, where: str, what: str, array: Array) -> str:
        """Add a constant of a layer, once for all its calls."""
        key = (where, what)
        known = self._weights.get(key)
        if known is None or not np.array_equal(self.tensors[known], array, equal_nan=True):
            known = self._weights[key] = self.tensor(where, what, array)
        return known

    def known_mask(self, value: Value) -> str:
        """Return the mask of a value that has one."""
        if value.mask is None or value.mask == AMBIGUOUS:
            why = "masks of several inputs, or of other axes than batch and time, are not followed"
            raise Refused("a mask", f"{why}; the hint unpadded=True leaves masks out")
        return value.mask

    def need_no_mask(self, value: Value) -> None:
        """Refuse a mask that this layer would use."""
        if value.mask is not None:
            raise Refused("a mask", "the hint unpadded=True leaves masks out")

    def integers(self, where: str, value: Value) -> Value:
        """Return a value as integers; Keras cuts off what is behind the point."""
        if value.dtype in ("int64", "int32"):
            return value
        return replace(value, name=self.node(where, "Cast", [value.name], {"to": 7}), dtype="int64")

    def swapped(self, where: str, name: str, time: bool = False) -> str:
        """Swap the last two axes of [N, T, F], or (``time``) the first two; and back for free."""
        known = self._swaps.get((name, time))
        if known is None:
            perm = [1, 0, 2] if time else [0, 2, 1]
            known = self._swaps[name, time] = self.node(where, "Transpose", [name], {"perm": perm})
            self._swaps[known, time] = name
        return known

    def halves(self, where: str, value: str, axis: int) -> tuple[str, str]:
        """Split an axis of size 2 into two of size 1."""
        name = self.unique(f"{where}/Split")
        outs = (f"{name}:0", f"{name}:1")
        sizes = self.ints(where, "halves", [1, 1])
        self.nodes.append(Node("Split", (value, sizes), outs, {"axis": axis}, name))
        return outs

    # -- sizes ------------------------------------------------------------------------------------

    def fresh(self, where: str, axis: int) -> str:
        """Return a name for a size that is not known."""
        return self.unique(f"{where}_{axis}".replace("/", "_"))

    def broadcast(self, values: Sequence[Value]) -> tuple[Dim, ...]:
        """Return the sizes of an elementwise result; names that meet are one size from then on."""
        full = [value.dims for value in values if value.dims]
        if len({len(dims) for dims in full}) != 1:
            raise Refused(f"shapes {[list(dims) for dims in full]}", "equal ranks")
        result: list[Dim] = []
        for sizes in zip(*full, strict=True):
            found = self._settled(sizes)
            names = [size for size in found if isinstance(size, str)]
            numbers = {size for size in found if isinstance(size, int) and size != 1}
            if len(numbers) > 1:
                raise Refused(f"shapes {[list(dims) for dims in full]}", "shapes that broadcast")
            chosen: Dim = numbers.pop() if numbers else names[0] if names else 1
            for name in names:
                if name != chosen:
                    self._same[name] = chosen
            result.append(chosen)
        return tuple(result)

    def _settled(self, dims: Sequence[Dim]) -> tuple[Dim, ...]:
        return tuple(self._root(size) for size in dims)

    def _root(self, size: Dim) -> Dim:
        while isinstance(size, str) and size in self._same:
            size = self._same[size]
        return size


def _pick(values: Mapping[tuple[str, int], Sequence[Value | None]], ref: Ref) -> Value | None:
    found = values.get((ref.layer, ref.node), ())
    return found[ref.tensor] if ref.tensor < len(found) else None


def _needed(nodes: Sequence[Node], wanted: set[str]) -> Iterator[Node]:
    """Yield the nodes that lead to ``wanted``, in their order."""
    kept = []
    needed = set(wanted)
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    yield from reversed(kept)
