# SPDX-License-Identifier: MIT
"""Operators that ONNX Runtime's optimiser writes into files: the parts that it fused.

Source: the operators of the domain com.microsoft in ONNX Runtime's ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from gruengine.converters import onnx_ops_more, onnx_ops_shape
from gruengine.converters.onnx_model import Attribute
from gruengine.converters.onnx_ops import Call, Refused, lower, lower_node
from gruengine.spec import Attr

_ = (onnx_ops_more, onnx_ops_shape)  # they enter what is called here
_WINDOW = "auto_pad dilations group kernel_shape pads strides"
#: Parameters of an activation, in the order of ``activation_params``.
_PARAMETERS = {
    "LeakyRelu": ("alpha",), "Elu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Relu": (),
    "Sigmoid": (), "Tanh": (), "Softplus": (), "Softsign": (), "ThresholdedRelu": ("alpha",),
    "Clip": ("min", "max"),
}  # fmt: skip


def part(
    call: Call, op: str, inputs: list[str], attrs: Mapping[str, Attribute], last: bool = False
) -> list[str]:
    """Add an ONNX operator that an operator stands for; ``last`` makes its outputs."""
    outputs = call.node.outputs if last else (f"{call.node.outputs[0]}_{op}",)
    node = replace(call.node, op=op, domain="", outputs=tuple(outputs), attrs={**attrs})
    return lower_node(Call(call.builder, node, inputs, max(call.opset, 23), call.loader))


def kept(call: Call, names: str) -> dict[str, Attribute]:
    """Return those of the named attributes that are set."""
    return {name: call.node.attrs[name] for name in names.split() if name in call.node.attrs}


def _activated(call: Call, y: str, given: list[float]) -> list[str]:
    """Add the activation that a fused operator ends with."""
    kind = call.text("activation", "")
    if not kind:
        return [y]
    names = _PARAMETERS.get(kind)
    if names is None or len(given) not in (0, len(names)):
        raise Refused((f"attribute activation = {kind!r} with {given}", "it is not known"))
    if kind == "Clip":
        bounds = [call.builder.constant(np.float32(v).reshape(()), "bound") for v in given]
        return part(call, "Clip", [y, *bounds], {}, last=True)
    return part(call, kind, [y], dict(zip(names, given, strict=False)), last=True)


def _numbers(call: Call, name: str) -> list[float]:
    value = call.node.attrs.get(name)
    values = value if isinstance(value, list) else []
    return [float(v) for v in values if isinstance(v, (int, float))]


@lower("com.microsoft.FusedConv", attrs=f"{_WINDOW} activation activation_params")
def _conv(call: Call) -> list[str]:
    """Add ``activation(conv(x, w) + b + z)``."""
    call.needs(2, 4)
    names = [name for name in call.inputs[:3] if name]
    y = part(call, "Conv", names, kept(call, _WINDOW))[0]
    if call.input(3):
        y = call.tmp("Add", [y, call.inputs[3]])
    return _activated(call, y, _numbers(call, "activation_params"))


_GEMM = "alpha beta transA transB"


@lower(
    "com.microsoft.FusedGemm",
    attrs=f"{_GEMM} activation activation_alpha activation_beta activation_gamma",
)
def _gemm(call: Call) -> list[str]:
    y = part(call, "Gemm", call.inputs, kept(call, _GEMM))[0]
    keys = ("activation_alpha", "activation_beta")
    given = [call.real(key, 0.0) for key in keys if key in call.node.attrs]
    return _activated(call, y, given)


@lower(
    "com.microsoft.FusedMatMul", "com.microsoft.TransposeMatMul",
    attrs="alpha transA transB transBatchA transBatchB",
)  # fmt: skip
def _matmul(call: Call) -> list[str]:
    """Multiply ``alpha * a b``, the last two axes of each turned first if told so."""
    call.needs(2, 2)
    names = list(call.inputs)
    for i, which in enumerate("AB"):
        turned, batch = call.integer(f"trans{which}", 0), call.integer(f"transBatch{which}", 0)
        if turned or batch:
            rank = call.builder.info(names[i]).rank
            if rank is None or rank < 2:
                raise Refused((f"attribute trans{which} = 1", "the number of axes must be known"))
            # With transBatch the first axis stands where the last but one belongs.
            perm: list[int] = [*range(1, rank - 1), 0, rank - 1] if batch else [*range(rank)]
            perm = [*perm[:-2], perm[-1], perm[-2]] if turned else perm
            names[i] = call.tmp("Transpose", [names[i]], {"perm": perm})
    alpha = call.real("alpha", 1.0)
    if alpha == 1.0:
        return call.out("MatMul", names)
    by = call.builder.constant(np.float32(alpha).reshape(()), "alpha")
    return call.out("Mul", [call.tmp("MatMul", names), by])


@lower("com.microsoft.Gelu", "com.microsoft.BiasGelu", "com.microsoft.FastGelu")
def _gelu(call: Call) -> list[str]:
    call.needs(1, 2)
    x = call.tmp("Add", list(call.inputs)) if call.input(1) else call.inputs[0]
    kind = "tanh" if call.node.op == "FastGelu" else "none"
    return call.out("Gelu", [x], {"approximate": kind})


@lower("com.microsoft.QuickGelu", attrs="alpha")
def _quick_gelu(call: Call) -> list[str]:
    """Add ``x * sigmoid(alpha * x)``; alpha = 1 is SiLU."""
    call.needs(1, 1)
    by = call.builder.constant(np.float32(call.real("alpha", 1.702)).reshape(()), "alpha")
    scaled = call.tmp("Mul", [call.inputs[0], by])
    return call.out("Mul", [call.inputs[0], call.tmp("Sigmoid", [scaled])])


@lower("com.microsoft.SkipLayerNormalization", attrs="epsilon")
def _skip_norm(call: Call) -> list[str]:
    """Add a layer norm of ``x + skip + bias``; the fourth output is that sum."""
    call.needs(3, 5)
    if any(call.node.outputs[1:3]):
        raise Refused(("SkipLayerNormalization with its mean", "only y and the sum are made"))
    total = call.tmp("Add", list(call.inputs[:2]))
    if call.input(4):
        total = call.tmp("Add", [total, call.inputs[4]])
    names = [total, *(name for name in call.inputs[2:4] if name)]
    attrs: dict[str, Attr] = {"axis": -1, "epsilon": call.real("epsilon", 1e-12)}
    node = replace(call.node, outputs=call.node.outputs[:1])
    y = replace(call, node=node).out("LayerNormalization", names, attrs)
    return [*y, "", "", total][: max(len(call.node.outputs), 1)]


@lower("SimplifiedLayerNormalization", attrs="axis epsilon stash_type")
def _simplified_norm(call: Call) -> list[str]:
    """Add ``x / sqrt(mean(x^2) + epsilon) * scale``."""
    call.only_first_output()
    return part(call, "RMSNormalization", call.inputs, kept(call, "axis epsilon"), last=True)
