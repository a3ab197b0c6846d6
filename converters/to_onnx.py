# SPDX-License-Identifier: MIT
"""The graph as an ONNX file of opset 17: one RNN, LSTM or GRU node for each recurrent node.

What these cannot say of a cell (projection, zoneout, skipped steps and the like) is a Scan.
Operators of later opsets are written in the form of opset 17 where it has one. What it cannot say
exactly is refused, with every reason. Weights keep their bits; the rows of an update gate that
means the opposite change their sign.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from gruengine.converters import gates
from gruengine.converters.base import ConversionError, Reason
from gruengine.converters.onnx_recurrent import PARAMETERS
from gruengine.converters.protobuf_write import MAX_BYTES, Writer
from gruengine.converters.to_onnx_scan import ScanWriter
from gruengine.converters.weight_layers import variants_of
from gruengine.reference_shape import ONNX_DTYPES
from gruengine.spec import Attr, Graph, ModelSpec, Node, Port

OPSET, IR_VERSION = 17, 8

Array = np.ndarray[Any, Any]

#: dtype -> number in onnx.TensorProto.DataType.
CODES = {name: code for code, name in ONNX_DTYPES.items()}

#: Operators that opset 17 has in the very form of the graph.
SAME = set(
    """Abs Add And AveragePool BatchNormalization Cast Ceil Clip Concat Conv ConvTranspose Cos
    CumSum Div Dropout Elu Equal Erf Exp Expand Flatten Floor Gather Gemm GlobalAveragePool Greater
    GreaterOrEqual HardSigmoid HardSwish Identity LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax MatMul Max MaxPool Mean Min Mod Mul Neg Not Or PRelu Pow Range Reciprocal ReduceSum
    Relu Reshape Round ScatterND Shape Sigmoid Sign Sin Size Slice Softmax Softplus Softsign Sqrt
    Squeeze Sub Sum Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze Where Xor ArgMax ArgMin
    Constant""".split()
)
REDUCTIONS = set(
    "ReduceMean ReduceMax ReduceMin ReduceProd ReduceSumSquare ReduceL1 ReduceL2".split()
)
#: Attributes that came after opset 17, with the value that says nothing new.
LATER: dict[tuple[str, str], tuple[Attr, ...]] = {
    ("AveragePool", "dilations"): ([1], [1, 1], [1, 1, 1]),
    ("ScatterND", "reduction"): ("none", "add", "mul"),
    ("Reshape", "allowzero"): (0, 1),
}


def to_onnx(spec: ModelSpec, name: str = "model") -> bytes:
    """Return the bytes of an ONNX model.

    Parameters
    ----------
    spec : ModelSpec
        State pairs are written as metadata; ONNX has no place for them in the graph.
    name : str
        Of the graph, and of the model in errors.

    Raises
    ------
    ConversionError
        What opset 17 cannot say exactly; every reason is listed.
    """
    return _Exporter(spec, name).model()


class _Exporter:
    def __init__(self, spec: ModelSpec, name: str) -> None:
        self.spec, self.name = spec, name
        self.tensors = dict(spec.tensors)
        self.reasons: list[Reason] = []
        self.names = {port.name for port in (*spec.graph.inputs, *spec.graph.outputs)}
        self.names.update(spec.tensors)
        self._collect_names(spec.graph)

    def _collect_names(self, graph: Graph) -> None:
        for node in graph.nodes:
            self.names.update(node.outputs)
            for value in node.attrs.values():
                if isinstance(value, Graph):
                    self._collect_names(value)

    def model(self) -> bytes:
        """Write everything, or raise with all reasons."""
        self.spec.validate()
        nodes = self._nodes(self.spec.graph)
        size = sum(array.nbytes for array in self.tensors.values())
        if size > MAX_BYTES - (1 << 20):
            self._refuse("", f"{size} bytes of weights", "an ONNX file holds less than 2 GiB")
        if self.reasons:
            raise ConversionError(self.name, self.reasons)
        used = {value for node in nodes for value in _reads(node)}
        used.update(port.name for port in self.spec.graph.outputs)
        graph = self._graph(self.spec.graph, nodes)
        for key, array in sorted(self.tensors.items()):
            if key in used:
                graph.message(5, _tensor(key, array))
        model = Writer().integer(1, IR_VERSION).text(2, "gruengine").message(7, graph)
        model.message(8, Writer().text(1, "").integer(2, OPSET))
        if self.spec.state:
            pairs = json.dumps(dict(self.spec.state))
            model.message(14, Writer().text(1, "gruengine.state").text(2, pairs))
        return model.bytes()

    def _refuse(self, where: str, what: str, why: str) -> None:
        self.reasons.append(Reason(where, what, why))

    # -- graphs -----------------------------------------------------------------------------------

    def _nodes(self, graph: Graph) -> list[Node]:
        found: list[Node] = []
        for node in graph.nodes:
            found += self._lowered(node)
        return found

    def _graph(self, graph: Graph, nodes: Iterable[Node]) -> Writer:
        writer = Writer()
        for node in nodes:
            writer.message(1, self._node(node))
        writer.text(2, self.name)
        for port in graph.inputs:
            writer.message(11, _port(port))
        for port in graph.outputs:
            writer.message(12, _port(port))
        return writer

    def _node(self, node: Node) -> Writer:
        writer = Writer().texts(1, node.inputs).texts(2, node.outputs)
        if node.name:
            writer.text(3, node.name)
        writer.text(4, node.op)
        for key, value in node.attrs.items():
            writer.message(5, self._attribute(key, value))
        return writer

    def _attribute(self, key: str, value: Any) -> Writer:
        writer = Writer().text(1, key)
        if isinstance(value, Graph):
            inner = self._graph(value, value.nodes)
            return writer.message(6, inner).integer(20, 5)
        if isinstance(value, np.ndarray):
            return writer.message(5, _tensor("", value)).integer(20, 4)
        if isinstance(value, str):
            return writer.text(4, value).integer(20, 3)
        if isinstance(value, float):
            return writer.real(2, value).integer(20, 1)
        if isinstance(value, int):
            return writer.integer(3, value).integer(20, 2)
        if value and isinstance(value[0], str):
            return writer.texts(9, value).integer(20, 8)
        if value and isinstance(value[0], float):
            return writer.reals(7, value).integer(20, 6)
        return writer.integers(8, value).integer(20, 7)

    # -- nodes ------------------------------------------------------------------------------------

    def _fresh(self, wish: str) -> str:
        name, count = wish, 1
        while name in self.names:
            count += 1
            name = f"{wish}_{count}"
        self.names.add(name)
        return name

    def _lowered(self, node: Node) -> list[Node]:
        if node.op == "Recurrent":
            return self._recurrent(node)
        special: dict[str, Callable[[Node], list[Node]]] = {
            "If": self._if, "Split": self._split, "Pad": self._pad, "Gelu": self._gelu,
            "ConstantOfShape": self._filled, "Square": self._square,
        }  # fmt: skip
        if node.op in special:
            return special[node.op](node)
        if node.op in REDUCTIONS:
            return self._reduction(node)
        if node.op not in SAME:
            self._refuse(node.name or node.op, f"operator {node.op}", f"opset {OPSET} has no such")
        for key, value in node.attrs.items():
            if value not in LATER.get((node.op, key), (value,)):
                self._refuse(
                    node.name or node.op, f"{key} = {value!r}", f"newer than opset {OPSET}"
                )
        return [node]

    def _if(self, node: Node) -> list[Node]:
        attrs: dict[str, Attr] = {}
        for key, value in node.attrs.items():
            if isinstance(value, Graph):
                attrs[key] = Graph([], value.outputs, self._nodes(value))
            else:
                attrs[key] = value
        return [Node(node.op, node.inputs, node.outputs, attrs, node.name)]

    def _split(self, node: Node) -> list[Node]:
        attrs = {key: value for key, value in node.attrs.items() if key != "num_outputs"}
        return [Node(node.op, node.inputs, node.outputs, attrs, node.name)]

    def _pad(self, node: Node) -> list[Node]:
        if len(node.inputs) > 3 and node.inputs[3]:
            self._refuse(node.name or "Pad", "input axes", f"opset {OPSET} pads every axis")
        return [Node(node.op, node.inputs[:3], node.outputs, node.attrs, node.name)]

    def _filled(self, node: Node) -> list[Node]:
        value = node.attrs.get("value", 0.0)
        number = value[0] if isinstance(value, list) else value
        array = np.array([number], np.float32 if isinstance(number, float) else np.int64)
        attrs: dict[str, Any] = {"value": array}
        return [Node(node.op, node.inputs, node.outputs, attrs, node.name)]

    def _square(self, node: Node) -> list[Node]:
        return [Node("Mul", (node.inputs[0], node.inputs[0]), node.outputs, {}, node.name)]

    def _reduction(self, node: Node) -> list[Node]:
        attrs = dict(node.attrs)
        noop = attrs.pop("noop_with_empty_axes", 0)
        if len(node.inputs) > 1 and node.inputs[1]:
            axes = self.tensors.get(node.inputs[1])
            if axes is None or (axes.size == 0 and noop):
                what = "no axes" if axes is not None else "axes computed by the graph"
                self._refuse(node.name or node.op, what, f"opset {OPSET} takes constants")
                return []
            if axes.size:
                attrs["axes"] = [int(axis) for axis in axes]
        return [Node(node.op, node.inputs[:1], node.outputs, attrs, node.name)]

    def _gelu(self, node: Node) -> list[Node]:
        """Write x/2 (1 + erf(x / sqrt 2)), or its approximation by tanh, in operators."""
        made: list[Node] = []
        base = node.name or node.outputs[0]

        def add(op: str, *inputs: str) -> str:
            output = self._fresh(f"{base}/{op}")
            made.append(Node(op, inputs, (output,)))
            return output

        def scalar(value: float) -> str:
            name = self._fresh(f"{base}/constant")
            self.tensors[name] = np.array(value, np.float32)
            return name

        x = node.inputs[0]
        if node.attrs.get("approximate", "none") == "tanh":
            cube = add("Mul", add("Mul", add("Mul", x, x), x), scalar(0.044715))
            inner = add("Tanh", add("Mul", add("Add", x, cube), scalar(float(np.sqrt(2 / np.pi)))))
        else:
            inner = add("Erf", add("Mul", x, scalar(float(np.sqrt(0.5)))))
        half = add("Mul", x, scalar(0.5))
        made.append(Node("Mul", (half, add("Add", inner, scalar(1.0))), node.outputs))
        return made

    # -- recurrent nodes --------------------------------------------------------------------------

    def _recurrent(self, node: Node) -> list[Node]:
        before = len(self.reasons)
        attrs = node.attrs
        cell = str(attrs["cell"])
        inputs = [*node.inputs, *[""] * (9 - len(node.inputs))]
        if inputs[8] or variants_of(node):
            return self._scan(node)
        written: dict[str, Attr] = {
            "direction": str(attrs["direction"]),
            "hidden_size": attrs["hidden_size"],
            "layout": 0,
        }
        written.update(_activations(attrs, cell))
        if attrs.get("clip"):
            written["clip"] = attrs["clip"]
        if attrs.get("coupled"):
            written["input_forget"] = 1
        if cell == "gru":
            written["linear_before_reset"] = int(attrs["reset"] == "after")
            if attrs["update"] == "take":
                self._flip(node, inputs)
        nodes = [] if len(self.reasons) > before else self._as_int32(inputs)
        kept = inputs[:8]
        while not kept[-1]:
            kept.pop()
        # ONNX's RNN and GRU have two outputs; a third is allowed here, without a name.
        outputs = node.outputs if cell == "lstm" else node.outputs[:2]
        return [*nodes, Node(cell.upper(), tuple(kept), outputs, written, node.name)]

    def _scan(self, node: Node) -> list[Node]:
        """Write out what ONNX's operators for cells have not."""
        writer = ScanWriter(node, self.tensors, self._fresh)
        problems = writer.problems()
        for what in problems:
            self._refuse(node.name, what, "no operator that can stand in a Scan")
        return [] if problems else writer.write()

    def _as_int32(self, inputs: list[str]) -> list[Node]:
        """Bring lengths to the type that ONNX gives them."""
        lengths = inputs[4]
        if not lengths:
            return []
        inputs[4] = self._fresh(f"{lengths}/int32")
        return [Node("Cast", (lengths,), (inputs[4],), {"to": CODES["int32"]})]

    def _flip(self, node: Node, inputs: list[str]) -> None:
        """Turn h' = (1-z) h + z n into ONNX's (1-z) n + z h: 1 - sigmoid(x) = sigmoid(-x)."""
        names: Any = node.attrs["activations"]
        betas: Any = node.attrs["activation_beta"]
        if not gates.update_turns(names, betas):
            what = f"update 'take' with the activations {', '.join(names)}"
            allowed = "Sigmoid, or HardSigmoid with beta 0.5, can be written the other way"
            return self._refuse(node.name, what, allowed)
        for place, halves in ((1, 1), (2, 1), (3, 2)):
            if not inputs[place]:
                continue
            array = self.tensors[inputs[place]]
            parts = np.split(array, halves, axis=1)
            flipped = np.concatenate([gates.flip_update(part, axis=1) for part in parts], axis=1)
            inputs[place] = self._fresh(f"{inputs[place]}/negated")
            self.tensors[inputs[place]] = flipped


def _activations(attrs: dict[str, Attr], cell: str) -> dict[str, Attr]:
    """Return ONNX's attributes: alphas and betas go to the activations that have them, in order."""
    names: list[str] = attrs["activations"]  # type: ignore[assignment]
    defaults = list(gates.DEFAULT_ACTIVATIONS[cell])
    if names == defaults * (len(names) // len(defaults)):
        return {}
    found: dict[str, Attr] = {"activations": names}
    for which, key in enumerate(("activation_alpha", "activation_beta")):
        given: list[float] = attrs[key]  # type: ignore[assignment]
        taken = [value for name, value in zip(names, given, strict=True)
                 if PARAMETERS.get(name, (None, None))[which] is not None]  # fmt: skip
        if taken:
            found[key] = taken
    return found


def _reads(node: Node) -> Iterable[str]:
    yield from node.inputs
    for value in node.attrs.values():
        if isinstance(value, Graph):
            yield from (port.name for port in value.outputs)
            for inner in value.nodes:
                yield from _reads(inner)


def _tensor(name: str, array: Array) -> Writer:
    writer = Writer().integers(1, array.shape).integer(2, CODES[array.dtype.name])
    if name:
        writer.text(8, name)
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return writer.data(9, little.tobytes())


def _port(port: Port) -> Writer:
    shape = Writer()
    for size in port.shape:
        dim = Writer()
        shape.message(1, dim.text(2, size) if isinstance(size, str) else dim.integer(1, size))
    kind = Writer().integer(1, CODES[port.dtype]).message(2, shape)
    return Writer().text(1, port.name).message(2, Writer().message(1, kind))
