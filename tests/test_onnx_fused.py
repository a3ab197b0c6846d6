# SPDX-License-Identifier: MIT
"""What ONNX Runtime's optimiser and its quantisation write into files, beside ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from onnx.helper import make_node as make
from onnx_models import graph_model
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from tolerances import relative_error

import gruengine as gr

Array = np.ndarray[Any, Any]


def random(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def run(model: onnx.ModelProto, inputs: dict[str, Array], exactly: bool = True) -> list[Array]:
    """Run a model; ``exactly``: without optimisations."""
    options = ort.SessionOptions()
    if exactly:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = model.SerializeToString()
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def contrib(model: onnx.ModelProto) -> onnx.ModelProto:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def fused(op: str, names: str, outs: str = "y", **attrs: Any) -> onnx.NodeProto:
    return make(op, names.split(), outs.split(), domain="com.microsoft", **attrs)


X, Z = random(2, 4, 9), random(2, 5, 9)
CONV = {"w": random(5, 4, 3), "b": random(5)}
#: Node, inputs, constants.
FUSED: dict[str, tuple[onnx.NodeProto, dict[str, Array], dict[str, Array]]] = {
    "conv_relu": (fused("FusedConv", "x w b", activation="Relu", pads=[1, 1]), {"x": X}, CONV),
    "conv_leaky": (fused("FusedConv", "x w", activation="LeakyRelu", activation_params=[0.3]),
                   {"x": X}, CONV),
    "conv_clip": (fused("FusedConv", "x w b", activation="Clip", activation_params=[-0.5, 0.7]),
                  {"x": X}, CONV),
    "conv_sum": (fused("FusedConv", "x w b z", activation="Relu", pads=[1, 1]),
                 {"x": X, "z": Z}, CONV),
    "gemm": (fused("FusedGemm", "x w b", activation="Sigmoid", transB=1, alpha=0.7),
             {"x": random(3, 6)}, {"w": random(5, 6), "b": random(5)}),
    "gemm_leaky": (fused("FusedGemm", "x w b", activation="LeakyRelu", activation_alpha=0.2),
                   {"x": random(3, 6)}, {"w": random(6, 5), "b": random(5)}),
    "matmul": (fused("FusedMatMul", "x z", transB=1, alpha=0.3),
               {"x": random(2, 3, 6), "z": random(2, 4, 6)}, {}),
    "matmul_batch": (fused("FusedMatMul", "x z", transA=1, transBatchA=1),
                     {"x": random(3, 2, 6), "z": random(2, 3, 4)}, {}),
    "matmul_batches": (fused("FusedMatMul", "x z", transBatchA=1, transBatchB=1, transB=1),
                       {"x": random(3, 2, 6), "z": random(4, 2, 6)}, {}),
    "gelu": (fused("Gelu", "x"), {"x": X}, {}),
    "fast_gelu": (fused("FastGelu", "x b"), {"x": X}, {"b": random(9)}),
    "bias_gelu": (fused("BiasGelu", "x b"), {"x": X}, {"b": random(9)}),
    "quick_gelu": (fused("QuickGelu", "x", alpha=1.0), {"x": X}, {}),
    "skip_norm": (fused("SkipLayerNormalization", "x z g b c", epsilon=1e-5),
                  {"x": X, "z": X[::-1] * 0.5}, {"g": random(9), "b": random(9), "c": random(9)}),
}  # fmt: skip


@pytest.mark.parametrize("name", FUSED)
def test_fused_operators(name: str) -> None:
    node, inputs, constants = FUSED[name]
    used = {key: array for key, array in constants.items() if key in node.input}
    model = contrib(graph_model([node], {k: v.shape for k, v in inputs.items()}, ["y"], used, 17))
    (wanted,) = run(model, inputs)
    found = gr.load(model.SerializeToString()).run_graph(inputs)["y"]
    assert found.shape == wanted.shape
    assert relative_error(found, wanted) < 1e-5


def test_layer_norms_that_are_older_than_the_operator() -> None:
    nodes = [make("LayerNormalization", ["x", "g", "b"], ["n"], axis=-1),
             make("SimplifiedLayerNormalization", ["n", "g"], ["y"], axis=-1)]  # fmt: skip
    model = graph_model(nodes, {"x": X.shape}, ["y"], {"g": random(9), "b": random(9)}, 13)
    (wanted,) = run(model, {"x": X})
    found = gr.load(model.SerializeToString()).run_graph({"x": X})["y"]
    assert relative_error(found, wanted) < 1e-5


# -- quantised ------------------------------------------------------------------------------------


class Feeds(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: list[dict[str, Array]]) -> None:
        self.left = iter(feeds)

    def get_next(self) -> dict[str, Array] | None:
        return next(self.left, None)


def float_model() -> onnx.ModelProto:
    nodes = [
        make("Conv", ["x", "w", "b"], ["c"], pads=[1, 1]), make("LeakyRelu", ["c"], ["l"]),
        make("Add", ["l", "z"], ["a"]), make("Sigmoid", ["a"], ["s"]),
        make("Concat", ["s", "l"], ["j"], axis=1), make("Transpose", ["j"], ["t"], perm=[0, 2, 1]),
        make("MatMul", ["t", "m"], ["p"]), make("Reshape", ["p", "rows"], ["r"]),
        make("Gemm", ["r", "g", "h"], ["f"], transB=1), make("Softmax", ["f"], ["y"], axis=-1),
    ]  # fmt: skip
    constants = {**CONV, "m": random(10, 6), "g": random(4, 6), "h": random(4),
                 "rows": np.array([-1, 6])}  # fmt: skip
    return graph_model(nodes, {"x": X.shape, "z": Z.shape}, ["y"], constants, 17)


@pytest.mark.parametrize("kind", [QuantFormat.QOperator, QuantFormat.QDQ])
def test_static_quantisation(kind: Any, tmp_path: Path) -> None:
    onnx.save(float_model(), tmp_path / "float.onnx")
    inputs = {"x": X, "z": Z}
    quantize_static(tmp_path / "float.onnx", tmp_path / "q.onnx", Feeds([inputs]),
                    quant_format=kind)  # fmt: skip
    model = onnx.load(tmp_path / "q.onnx")
    found = gr.load(model.SerializeToString()).run_graph(inputs)["y"]
    (wanted,) = run(model, inputs)
    # A sum that lies between two steps may be rounded to either.
    off = np.abs(found - wanted) > 1e-5 * np.abs(wanted).max()
    assert off.mean() < 0.05
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()


def quantised_net(channels: int) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Return rows of a table of bytes, and a convolution of whole numbers over them."""
    nodes = [
        make("Gather", ["table", "ids"], ["rows"]), make("Transpose", ["rows"], ["turned"],
                                                        perm=[0, 2, 1]),
        make("DequantizeLinear", ["turned", "scale", "zero"], ["x"]),
        make("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        make("ConvInteger", ["q", "w", "z"], ["i"], pads=[1, 1]),
        make("Cast", ["i"], ["f"], to=1), make("Mul", ["f", "s"], ["y"]),
    ]  # fmt: skip
    rng = np.random.default_rng(4)
    constants: dict[str, Array] = {
        "table": rng.integers(0, 256, (11, channels)).astype(np.uint8),
        "scale": np.float32(0.03), "zero": np.uint8(120),
        "w": rng.integers(-128, 128, (5, channels, 3)).astype(np.int8),
    }  # fmt: skip
    ids = rng.integers(0, 11, (2, 7))
    model = graph_model(nodes, {"ids": ids.shape}, ["y"], constants, 17)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    return model, {"ids": ids}


@pytest.mark.parametrize("channels", [4, 90])  # exact at once, and in parts
def test_bytes_are_moved_and_convolved_exactly(channels: int) -> None:
    model, inputs = quantised_net(channels)
    (wanted,) = run(model, inputs)
    found = gr.load(model.SerializeToString()).run_graph(inputs)["y"]
    assert relative_error(found, wanted) < 1e-6
    spec, report = gr.converters.read(
        model.SerializeToString(), gr.converters.Options(hints={"dequantize": True})
    )
    assert any("convolved in float32" in text for text in report.warnings)
    (near,) = gr.Model.from_spec(spec).run_graph(inputs).values()
    assert relative_error(near, wanted) < 0.02


@pytest.mark.parametrize("op", ["DynamicQuantizeMatMul", "MatMulIntegerToFloat"])
def test_dynamic_products_in_one_operator(op: str) -> None:
    w = np.random.default_rng(1).integers(-128, 128, (6, 5)).astype(np.int8)
    constants: dict[str, Array] = {"w": w, "ws": np.float32(0.02), "wz": np.int8(3),
                                   "b": random(5)}  # fmt: skip
    if op == "DynamicQuantizeMatMul":
        nodes = [fused(op, "x w ws wz b")]
    else:
        nodes = [
            make("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            fused(op, "q w s ws z wz b"),
        ]
    model = contrib(graph_model(nodes, {"x": (3, 6)}, ["y"], constants, 17))
    inputs = {"x": random(3, 6)}
    (wanted,) = run(model, inputs)
    found = gr.load(model.SerializeToString()).run_graph(inputs)["y"]
    assert relative_error(found, wanted) < 1e-5


BYTES = np.zeros((5, 4, 3), np.int8)
#: Nodes after a value quantised in the model, constants, and a part of the reason.
REFUSED: dict[str, tuple[onnx.NodeProto, dict[str, Array], str]] = {
    "no weights": (make("ConvInteger", ["q", "w"], ["i"]), {"w": BYTES[:, :0]}, "constant weights"),
    "zero points": (make("ConvInteger", ["q", "w", "", "p"], ["i"]),
                    {"w": BYTES, "p": np.zeros(3, np.int8)}, "3 zero points"),
    "scales of a bias": (
        make("QLinearConv", ["q", "s", "z", "w", "s3", "z8", "s", "z", "b"], ["i"]),
        {"w": BYTES, "s3": np.ones(3, "f4"), "z8": np.zeros(3, np.int8),
         "b": np.zeros(5, np.int32)}, "a bias of 5 with 1 and 3 scales"),
    "scales of weights": (
        make("QLinearConv", ["q", "s", "z", "w", "s3", "z8", "s", "z"], ["i"]),
        {"w": BYTES, "s3": np.ones(3, "f4"), "z8": np.zeros(3, np.int8)}, "a scale of shape"),
    "an activation": (fused("FusedConv", "x v", "i", activation="Swish"),
                      {"v": random(5, 4, 3)}, "activation = 'Swish'"),
    "parts": (fused("QLinearConcat", "s z q s", "i", axis=1), {}, "QLinearConcat of 4 inputs"),
    "a layout": (make("Conv", ["x"], ["i"], domain="com.microsoft.nchwc"), {}, "one machine"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_broken_or_not_run(name: str) -> None:
    node, constants, words = REFUSED[name]
    nodes = [make("QuantizeLinear", ["x", "s", "z"], ["q"]), node, make("Cast", ["i"], ["y"], to=1)]
    base: dict[str, Array] = {"s": np.float32(0.1), "z": np.uint8(7), **constants}
    model = contrib(graph_model(nodes, {"x": X.shape}, ["y"], base, 17))
    with pytest.raises(gr.ConversionError, match=words):
        gr.load(model.SerializeToString())
