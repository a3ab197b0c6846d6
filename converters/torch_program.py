# SPDX-License-Identifier: MIT
"""A traced program of ATen operators as a ``ModelSpec``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gruengine.converters import (  # they enter their operators
    aten_math,
    aten_new,
    aten_nn,
    aten_recurrent,
    aten_reduce,
    aten_shape,
)
from gruengine.converters.aten import LOWER, Call, Context, FreeSize, Refused, dtype_name
from gruengine.converters.base import ConversionError, ConversionReport, Options, Reason
from gruengine.converters.onnx_finish import finish_tensors, output_values
from gruengine.converters.onnx_fold import Builder, live_nodes, rename
from gruengine.converters.onnx_fuse import fuse
from gruengine.converters.shapes import Info
from gruengine.converters.state_pairs import find_pairs
from gruengine.converters.torch_fold import fold
from gruengine.converters.torch_module import to_numpy
from gruengine.converters.torch_nodes import bound, depends_on_values, hints, paths, place, title
from gruengine.converters.torch_sizes import SizeError, Sizes, sizes_of
from gruengine.converters.torch_trace import Traced
from gruengine.spec import Graph, ModelSpec, Port

_ = (aten_math, aten_new, aten_nn, aten_recurrent, aten_reduce, aten_shape)
Array = np.ndarray[Any, Any]

#: Calls that only check something.
CHECKS = (
    "aten._assert_scalar.default",
    "aten._assert_async.msg",
    "aten._assert_tensor_metadata.default",
    "aten.sym_constrain_range.default",
    "aten.sym_constrain_range_for_size.default",
)


def is_known(target: str) -> bool:
    """Tell whether an operator of a trace has a function, or needs none."""
    return target in LOWER or target in CHECKS or target.startswith("aten.sym_")


@dataclass
class Names:
    """Outputs of a program: the values, their names, and which names the user's code gives."""

    nodes: list[Any]
    names: list[str]
    given: list[bool]


class Program:
    """One translation of one trace.

    Parameters
    ----------
    traced : Traced
    name : str
        What messages call the model.
    options : Options
    """

    def __init__(self, traced: Traced, name: str, options: Options) -> None:
        self.program, self.name, self.options = traced.program, name, options
        self.reasons = list(traced.problems)
        self.report = ConversionReport(name, "pytorch module, traced")
        size = sum(t.numel() * t.element_size() for t in traced.program.state_dict.values())
        self.rounding = options.hints.get("allow_rounding") is True
        self.builder = Builder(size, self.rounding)
        self.report.source_bytes = size
        self.needs_sizes = False  # something was refused that fixed sizes might allow
        self.ports: list[Port] = []
        self.initial: dict[str, Any] = {}  # states that are buffers: name -> fx node

    def spec(self) -> ModelSpec:
        """Translate; raises ConversionError with all reasons."""
        nodes = list(self.program.graph.nodes)
        outputs = self._outputs(nodes)
        self.builder.reserve(outputs.names)
        context = self._context(nodes)
        for node in nodes:
            if node.op == "call_function":
                self.report.nodes_before += 1
                self._call(context, node)
            elif node.op == "get_attr":
                self._refuse(node, f"an attribute {node.target}", "tensors that the module owns")
        return self._finish(context, outputs)

    # -- inputs -----------------------------------------------------------------------------------

    def _context(self, nodes: Sequence[Any]) -> Context:
        """Declare inputs and constants."""
        inputs, values = [], dict[Any, "str | list[str]"]()
        kinds = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs}
        mutated = self._mutated_buffers()
        for node in nodes:
            if node.op != "placeholder":
                continue
            spec = kinds[node.name]
            if spec.kind.name == "TOKEN" or not hasattr(node.meta.get("val"), "dtype"):
                continue  # a number or None: torch has put it into the graph
            if spec.kind.name == "USER_INPUT" or spec.target in mutated:
                inputs.append((node, spec))
            else:
                values[node] = self._constant(spec)
        names = {node: self._input_name(node, spec) for node, spec in inputs}
        shapes = [(names[node], sizes_of(node.meta["val"])) for node, _ in inputs]
        sizes = Sizes(self.builder, shapes, hints(nodes))
        for (node, spec), (name, shape) in zip(inputs, shapes, strict=True):
            dtype = dtype_name(node.meta["val"].dtype)
            if not dtype:
                why = "inputs are float32, int64, int32 and bool"
                self.reasons.append(Reason(name, f"an input of {node.meta['val'].dtype}", why))
                dtype = "float32"
            port = Port(name, dtype, sizes.dims(shape))
            self.ports.append(port)
            self.builder.input(port)
            values[node] = name
            if spec.target in mutated:
                self.initial[name] = spec
        context = Context(self.builder, sizes, values, warnings=self.report.warnings)
        context.cache["refuse"] = self._refused_part
        return context

    def _input_name(self, node: Any, spec: Any) -> str:
        name = node.name if spec.kind.name == "USER_INPUT" else spec.target
        return self.builder.fresh(str(name))

    def _mutated_buffers(self) -> set[str]:
        """Return the buffers that the forward writes: the states of the module."""
        found = set()
        for spec in self.program.graph_signature.output_specs:
            if spec.kind.name == "BUFFER_MUTATION":
                found.add(spec.target)
                value = to_numpy(self._array(spec.target), True)
                if value is None or value.any():
                    why = "a state that begins with zeros, or one that is an argument and a result"
                    what = "a buffer that the forward writes, with a value that is not zero"
                    self.reasons.append(Reason(spec.target, what, why))
            elif spec.kind.name not in ("USER_OUTPUT", "TOKEN"):
                why = "the forward returns what it computes"
                self.reasons.append(Reason(str(spec.target), spec.kind.name.lower(), why))
        return found

    def _array(self, target: str) -> Any:
        program = self.program
        return (
            program.state_dict[target]
            if target in program.state_dict
            else (program.constants[target])
        )

    def _constant(self, spec: Any) -> str:
        name = str(spec.target)
        tensor = self._array(name)
        array = to_numpy(tensor, True)
        if array is None:
            self.reasons.append(Reason(name, f"a tensor of {tensor.dtype}", "plain dense tensors"))
            array = np.zeros(0, np.float32)
        if array.dtype == np.float64:
            array = self._narrow(name, array)
        if array.dtype.name in ("int8", "int16", "uint8"):
            array = array.astype(np.int64)
        return self.builder.constant(array, name)

    def _narrow(self, name: str, array: Array) -> Array:
        with np.errstate(over="ignore"):
            narrow = array.astype(np.float32)
        if not self.rounding and not np.array_equal(narrow, array, equal_nan=True):
            why = "pass the hint allow_rounding=True, or convert model.float()"
            what = "float64 values that float32 does not hold"
            self.reasons.append(Reason(name, what, why))
        return narrow

    # -- calls ------------------------------------------------------------------------------------

    def _call(self, context: Context, node: Any) -> None:
        target = str(node.target)
        value = node.meta.get("val")
        if target == "<built-in function getitem>":
            whole = context.values.get(node.args[0])
            if isinstance(whole, list):
                context.values[node] = whole[node.args[1]]
            return
        if target in CHECKS:
            if node.args and node.args[0] in context.values:
                context.values[node] = context.values[node.args[0]]
            return
        if not hasattr(value, "dtype") and not isinstance(value, (list, tuple)):
            if depends_on_values(node):
                self._refuse(node, f"{target}: a number made from values",
                             "sizes and decisions that don't depend on values")  # fmt: skip
            return  # arithmetic on sizes: torch knows the result as an expression
        context.values[node] = self._lowered(context, node, target)

    def _lowered(self, context: Context, node: Any, target: str) -> str | list[str]:
        constant = fold(context, node)
        if constant is not None:
            return constant
        call = Call(context, node, bound(node), title(node))
        function = LOWER.get(target)
        try:
            if function is None:
                raise Refused(target, "it is not run")
            result = function(call)
        except Refused as refused:
            self.needs_sizes |= isinstance(refused, FreeSize)
            what = refused.what if refused.what.startswith(target) else f"{target}: {refused.what}"
            return self._placeholder(context, node, [Reason(place(node), what, refused.why)])
        except SizeError as error:
            self.needs_sizes = True
            reason = Reason(place(node), f"{target}: {error}", "sums, products and quotients")
            return self._placeholder(context, node, [reason])
        self._note(context, node, result)
        return result

    def _note(self, context: Context, node: Any, result: str | list[str]) -> None:
        """Keep what the trace knows of sizes, and which values are still all zeros."""
        metas = node.meta["val"]
        pairs = zip(result, metas, strict=False) if isinstance(result, list) else [(result, metas)]
        for name, meta in pairs:
            info = self.builder.info(name)
            dims = context.sizes.dims(sizes_of(meta))
            self.builder.infos[name] = Info(info.dtype or dtype_name(meta.dtype), dims, info.value)
        moved = str(node.target) in _KEEPS_ZERO and isinstance(result, str)
        if moved and context.values.get(node.args[0]) in context.zeros:
            context.zeros.add(str(result))

    def _placeholder(self, context: Context, node: Any, reasons: list[Reason]) -> str | list[str]:
        value = node.meta["val"]
        count = len(value) if isinstance(value, (list, tuple)) else 1
        used = [context.values.get(one) for one in node.all_input_nodes]
        inputs = [name for one in used if one for name in ([one] if isinstance(one, str) else one)]
        names = self.builder.refuse(reasons, [f"{node.name}_{i}" for i in range(count)], inputs)
        return names if isinstance(value, (list, tuple)) else names[0]

    def _refused_part(self, call: Call, what: str, why: str) -> str:
        """Return a placeholder for one result of several, which is refused only if it is used."""
        reason = Reason(place(call.node), f"{call.node.target}: {what}", why)
        return self.builder.refuse([reason], (f"{call.node.name}_unused",))[0]

    def _refuse(self, node: Any, what: str, why: str) -> None:
        self.reasons.append(Reason(place(node), what, why))

    # -- the end ----------------------------------------------------------------------------------

    def _outputs(self, nodes: Sequence[Any]) -> Names:
        """Return what the program gives: names from dicts and named tuples, else by place."""
        results = next(node for node in nodes if node.op == "output").args[0]
        specs = self.program.graph_signature.output_specs
        found = Names([], [], [])
        user = iter(paths(self.program.call_spec.out_spec))
        for node, spec in zip(results, specs, strict=True):
            if spec.kind.name == "TOKEN":
                continue
            if spec.kind.name == "BUFFER_MUTATION":
                name, named = f"{spec.target}_out", True
            else:
                name, named = next(user, ("y", False))
            if hasattr(node, "meta") and hasattr(node.meta.get("val"), "dtype"):
                found.nodes.append(node)
                found.names.append(name)
                found.given.append(named)
            elif node is not None:
                self.report.warnings.append(f"the result {name} is the number {node}: left out")
        taken: set[str] = {str(node.name) for node in nodes if node.op == "placeholder"}
        for at, name in enumerate(found.names):
            while name in taken:
                name += "_out"
            taken.add(name)
            found.names[at] = name
        if not found.nodes:
            why = "a forward that returns tensors"
            self.reasons.append(Reason("", "no tensor is returned", why))
        return found

    def _finish(self, context: Context, outputs: Names) -> ModelSpec:
        builder = self.builder
        values = [str(context.values.get(node, "")) for node in outputs.nodes]
        inputs = {port.name for port in self.ports}
        nodes = output_values(builder, outputs.names, values, inputs)
        nodes = live_nodes(nodes, set(outputs.names))
        self.reasons += [reason for _, reason in builder.reasons(nodes)]
        self._fail()
        keep = set(outputs.names)
        nodes, self.report.fused = fuse(
            nodes, builder.tensors, builder.infos, builder.fresh, keep, self.report.warnings
        )
        ports = []
        for node, name in zip(outputs.nodes, outputs.names, strict=True):
            dims = context.sizes.dims(sizes_of(node.meta["val"]))
            ports.append(Port(name, dtype_name(node.meta["val"].dtype) or "float32", dims))
        graph = Graph(self.ports, ports, nodes)
        tensors = finish_tensors(graph, builder, self.reasons, self.report.warnings)
        self._fail()
        spec = ModelSpec(graph, tensors)
        self._pair(spec, outputs)
        self._fail()
        self.report.folded = builder.folded
        return spec

    def _fail(self) -> None:
        if self.reasons:
            unique = list(dict.fromkeys(self.reasons))
            raise ConversionError(self.name, unique)

    def _pair(self, spec: ModelSpec, outputs: Names) -> None:
        """Find the states; what has no name of its own is named after the state it is next to."""
        if self.options.state is not None:
            spec.state = tuple((str(a), str(b)) for a, b in self.options.state.items())
            return
        fixed = {name: f"{name}_out" for name in self.initial}
        found = dict(find_pairs(spec.graph, spec.tensors))
        found.update(fixed)
        taken = {port.name for port in (*spec.graph.inputs, *spec.graph.outputs)}
        free = {name for name, given in zip(outputs.names, outputs.given, strict=True) if not given}
        new: dict[str, str] = {}
        for source, target in found.items():
            wish = f"{source}_out"
            if target in free and wish not in taken:
                new[target] = wish
                taken.add(wish)
        spec.graph.nodes = rename(spec.graph.nodes, new)
        spec.graph.outputs = [
            Port(new.get(p.name, p.name), p.dtype, p.shape) for p in spec.graph.outputs
        ]
        spec.state = tuple((a, new.get(b, b)) for a, b in found.items())


#: Operators that only move elements: zeros stay zeros.
_KEEPS_ZERO = frozenset(
    f"aten.{name}"
    for name in (
        "slice.Tensor", "select.int", "expand.default", "unsqueeze.default", "view.default",
        "squeeze.dim", "squeeze.dims", "transpose.int", "permute.default", "clone.default",
        "_to_copy.default", "detach.default", "reshape.default",
    )
)  # fmt: skip
