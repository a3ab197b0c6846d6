# SPDX-License-Identifier: MIT
"""From a converted model back to layers, so that it can be trained further.

A chain of operators becomes a chain of layers, or is refused with the node that no layer stands
for. The result is run beside the model that it came from before it is returned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gruengine.errors import UnsupportedError
from gruengine.layer_base import ACTIVATIONS, Array, Layer
from gruengine.layer_basic import Activation, Dense, Embedding, LayerNorm
from gruengine.layers import Sequential
from gruengine.recurrent_layers import last_of, recurrent_layer
from gruengine.spec import ModelSpec, Node

#: Operators that change neither values nor axes.
NOTHING = ("Identity", "Cast", "Dropout")
# How far float32 may be from itself when biases were added up before.
TOLERANCE = 2e-4


def sequential_of(spec: ModelSpec) -> Sequential:
    """Return the Sequential that computes what ``spec`` does.

    Raises
    ------
    UnsupportedError
        A graph that is no chain of layers; the message names the node and the reason.
    """
    if len(spec.graph.inputs) - len(spec.state) != 1:
        names = [port.name for port in spec.graph.inputs]
        raise UnsupportedError(f"inputs {names}; a Sequential has one, beside states")
    walk = _Walk(spec)
    for node in walk.chain():
        walk.take(node)
    port = spec.graph.inputs[0]
    embeds = bool(walk.layers) and isinstance(walk.layers[0], Embedding)
    if not walk.layers:
        raise UnsupportedError("no layers were found")
    size = None if embeds else port.shape[-1]
    if size is not None and not isinstance(size, int):
        size = walk.features
    net = Sequential(walk.layers, size, batch_first=walk.batch_first())
    for layer, values in zip(walk.layers, walk.values, strict=True):
        for key, value in values.items():
            wanted = layer.params[key].shape
            if value.shape != wanted:
                raise UnsupportedError(f"{layer.name}.{key} is {value.shape}, not {wanted}")
    net.set_parameters(
        {
            f"{layer.name}.{key}": value
            for layer, values in zip(walk.layers, walk.values, strict=True)
            for key, value in values.items()
        }
    )
    _compare(net, spec)
    return net


@dataclass
class _Walk:
    """Goes along the chain; knows which axes the value has.

    axes : letters of the present value: N, T, D, F; e.g. "TDNF" behind a Recurrent
    """

    spec: ModelSpec
    layers: list[Layer] = field(default_factory=list)
    values: list[dict[str, Array]] = field(default_factory=list)
    axes: str = ""
    features: int | None = None
    pending: tuple[Array, Array | None] | None = None
    first: str = ""

    def chain(self) -> list[Node]:
        """Return the nodes between input and output; each reads the one before it."""
        producers = {name: node for node in self.spec.graph.nodes for name in node.outputs if name}
        states = {after for _, after in self.spec.state}
        outputs = [port.name for port in self.spec.graph.outputs if port.name not in states]
        self.before = {before for before, _ in self.spec.state}
        self.producers = producers
        found: list[Node] = []
        name = self._main_output(outputs)
        source = next(p.name for p in self.spec.graph.inputs if p.name not in self.before)
        self.value_of: dict[int, str] = {}
        while name != source:
            node = producers.get(name)
            if node is None:
                raise UnsupportedError(f"{name!r} comes from no node; a Sequential is one chain")
            self.value_of[id(node)] = name
            found.append(node)
            inputs = [n for n in self._flowing(node) if n not in self.spec.tensors]
            if len(inputs) != 1:
                raise self.refuse(node, f"reads {len(inputs)} values; a layer reads one")
            name = inputs[0]
        return found[::-1]

    def _main_output(self, outputs: list[str]) -> str:
        """Return the output that the others are states of: of several the first."""
        if not outputs:
            raise UnsupportedError("the graph has no output beside its states")
        return outputs[0]

    def _flowing(self, node: Node) -> list[str]:
        """Return the inputs that carry the value: not initial states that are zero or carried."""
        if node.op != "Recurrent":
            return [name for name in node.inputs if name]
        if len(node.inputs) > 4 and node.inputs[4]:
            raise self.refuse(node, "takes lengths")
        for name in node.inputs[5:7]:
            if name and name not in self.before and not self._is_zero(name):
                raise self.refuse(node, f"starts from {name!r}, which is not zero")
        return [node.inputs[0]]

    def _is_zero(self, name: str) -> bool:
        if name in self.spec.tensors:
            return not self.spec.tensors[name].any()
        node = self.producers.get(name)
        if node is None:
            return False
        if node.op == "ConstantOfShape":
            return not np.any(np.asarray(node.attrs.get("value", 0.0), np.float64))
        if node.op in ("Slice", "Squeeze", "Unsqueeze", "Reshape", "Expand", "Identity", "Gather"):
            return self._is_zero(node.inputs[0])
        return False

    def refuse(self, node: Node, why: str) -> UnsupportedError:
        """Return the error that a node deserves."""
        return UnsupportedError(f"node {node.name or node.outputs[0]!r} ({node.op}) {why}")

    def batch_first(self) -> bool:
        """Whether the input is ``[N, T, ...]``."""
        return self.first != "TN"

    # -- nodes ------------------------------------------------------------------------------------

    def take(self, node: Node) -> None:
        """Make layers of one node."""
        simple = {entry[0]: name for name, entry in ACTIVATIONS.items() if entry is not None}
        if node.op in NOTHING:
            return
        if node.op == "Recurrent":
            self._recurrent(node)
        elif node.op in ("Transpose", "Squeeze", "Reshape"):
            self._move(node)
        elif node.op in ("Gather", "Slice"):
            self._pick(node)
        elif node.op in ("MatMul", "Gemm", "Add"):
            self._product(node)
        elif node.op == "LayerNormalization":
            self._norm(node)
        elif node.op in simple:
            self._activation(node, simple[node.op])
        else:
            raise self.refuse(node, "stands for no layer")

    def add(self, layer: Layer, values: dict[str, Array]) -> None:
        """Append a layer and its parameters."""
        self.layers.append(layer)
        self.values.append(values)

    def _start(self, axes: str) -> None:
        """Learn the order of the input's axes from the first node that needs one."""
        if not self.axes:
            self.axes = self.first = axes[:2]
            self.axes = axes

    def _recurrent(self, node: Node) -> None:
        self._start("TNF")
        if self.axes != "TNF":
            raise self.refuse(node, f"reads axes {self.axes}")
        name = self.value_of[id(node)]
        which = node.outputs.index(name)
        if which == 2:
            raise self.refuse(node, "gives its cell to the next layer")
        constants = [self.spec.tensors.get(n) if n else None for n in node.inputs]
        constants += [None] * (12 - len(constants))
        layer, values = recurrent_layer(node, constants, which == 0)
        if layer is None:
            raise self.refuse(node, str(values["why"]))
        if self.features is None:
            self.features = values["W"].shape[2]
        self.add(layer, values)
        self.axes = "TDNF" if which == 0 else "DNF"

    def _move(self, node: Node) -> None:
        self._start("NTF")
        constant = self.spec.tensors.get(node.inputs[1]) if len(node.inputs) > 1 else None
        if node.op == "Transpose":
            perm = node.attrs["perm"]
            assert isinstance(perm, list)
            if len(perm) == 2 and self.axes == "NTF" and len(self.layers) == 0:
                self.axes = "TNF"  # numbers for an Embedding, their features yet to come
                return
            self.axes = "".join(self.axes[int(i)] for i in perm)
        elif node.op == "Squeeze" and constant is not None:
            at = [int(i) % len(self.axes) for i in constant]
            if [self.axes[i] for i in at] != ["D"]:
                raise self.refuse(node, f"takes axis {constant.tolist()} from {self.axes}")
            self.axes = self.axes.replace("D", "")
        elif node.op == "Reshape" and self.axes.endswith("DF") and constant is not None:
            if len(constant) != len(self.axes) - 1:
                raise self.refuse(node, f"gives {len(constant)} axes to {self.axes}")
            self.axes = self.axes[:-2] + "F"
        else:
            raise self.refuse(node, f"changes axes {self.axes} in a way that no layer does")

    def _pick(self, node: Node) -> None:
        axis = int(node.attrs.get("axis", 0))  # type: ignore[arg-type]
        if node.op == "Gather" and node.inputs[0] in self.spec.tensors:
            table = self.spec.tensors[node.inputs[0]]
            if self.layers or axis != 0 or table.ndim != 2:
                raise self.refuse(node, "is no Embedding")
            self.add(Embedding(*table.shape), {"W": table})
            self.axes = self.axes or "NTF"
            self.first = self.first or "NT"
            return
        at = last_of(node, self.spec.tensors, len(self.axes))
        if at is None or self.axes[at] != "T" or not self.layers:
            raise self.refuse(node, "picks more or other than the last step")
        layer = self.layers[-1]
        if not getattr(layer, "return_sequences", False) or getattr(layer, "bidirectional", True):
            raise self.refuse(node, "picks a step of what is no recurrent layer of one direction")
        layer.return_sequences = False  # type: ignore[attr-defined]
        self.axes = self.axes.replace("T", "") if node.op == "Gather" else self.axes

    def _product(self, node: Node) -> None:
        self._start("NTF")
        tensors = self.spec.tensors
        constant = next((tensors[n] for n in node.inputs if n in tensors), None)
        if constant is None or self.axes[-1:] != "F":
            raise self.refuse(node, "is no Dense layer")
        if node.op == "Add":
            dense = self.layers[-1] if self.layers else None
            if not isinstance(dense, Dense) or dense.use_bias or constant.size != dense.units:
                raise self.refuse(node, "adds to what is no Dense layer")
            dense.use_bias = True
            self.values[-1]["b"] = constant.reshape(-1)
            return
        if node.inputs[0] in tensors or constant.ndim != 2:
            raise self.refuse(node, "multiplies from the left")
        W, b = constant, None
        if node.op == "Gemm":
            if node.attrs.get("transA") or any(
                node.attrs.get(key, 1.0) != 1.0 for key in ("alpha", "beta")
            ):
                raise self.refuse(node, "has factors")
            W = W.T if node.attrs.get("transB") else W
            b = tensors.get(node.inputs[2]) if len(node.inputs) > 2 else None
        if self.features is None:
            self.features = W.shape[0]
        values = {"W": np.ascontiguousarray(W)}
        if b is not None:
            values["b"] = np.broadcast_to(b.reshape(-1), (W.shape[1],))
        self.add(Dense(W.shape[1], use_bias=b is not None), values)

    def _norm(self, node: Node) -> None:
        if int(node.attrs.get("axis", -1)) not in (-1, len(self.axes) - 1):  # type: ignore[arg-type]
            raise self.refuse(node, "normalises other axes than the last")
        scale = self.spec.tensors.get(node.inputs[1])
        shift = self.spec.tensors.get(node.inputs[2]) if len(node.inputs) > 2 else None
        if scale is None:
            raise self.refuse(node, "has a computed scale")
        values = {"scale": scale, "shift": np.zeros_like(scale) if shift is None else shift}
        epsilon = float(node.attrs.get("epsilon", 1e-5))  # type: ignore[arg-type]
        self.add(LayerNorm(epsilon), values)

    def _activation(self, node: Node, name: str) -> None:
        entry = ACTIVATIONS[name]
        assert entry is not None
        for key, value in entry[1].items():
            given = node.attrs.get(key, value)
            last = key == "axis" and given == len(self.axes) - 1
            if given != value and not last:
                raise self.refuse(node, f"has {key} {given}; layers have {value}")
        if self.layers and isinstance(self.layers[-1], Dense):
            dense = self.layers[-1]
            if dense.activation == "linear":
                dense.activation = name
                return
        self.add(Activation(name), {})


def _compare(net: Sequential, spec: ModelSpec) -> None:
    """Run layers and model on noise; they must agree."""
    from gruengine.model import Model

    rng = np.random.default_rng(0)
    model = Model.from_spec(spec)
    first = net.layers[0]
    shape = (2, 5) if net.batch_first else (5, 2)
    if isinstance(first, Embedding):
        x: Any = rng.integers(0, first.rows, shape)
    else:
        x = rng.normal(size=(*shape, net.input_size or 1)).astype(np.float32)
    fixed = [d for d in spec.graph.inputs[0].shape[:2] if isinstance(d, int)]
    if fixed:
        sizes = [d if isinstance(d, int) else s for d, s in zip(spec.graph.inputs[0].shape, shape,
                                                                strict=False)]  # fmt: skip
        x = np.resize(x, (*sizes, *x.shape[2:]))
    wanted = model(x.astype(spec.graph.inputs[0].dtype))
    found = net(x)
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    if found.shape != wanted.shape or not np.allclose(found, wanted, TOLERANCE, TOLERANCE):
        raise UnsupportedError(
            f"the layers found ({', '.join(layer.name for layer in net.layers)}) compute something "
            "else than the model"
        )
