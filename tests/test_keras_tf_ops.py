# SPDX-License-Identifier: MIT
"""Operators of TensorFlow in files of Keras 2, written by hand in its form, beside NumPy."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import pytest
from tolerances import KERAS_MODEL, relative_error

import gruengine as gr

N, T, F = 2, 6, 4
X, Z = ["x", 0, 0], ["z", 0, 0]


def ref(name: str, **arguments: Any) -> list[Any]:
    return [name, 0, 0, {"name": None, **arguments}]


def dtypes(name: str) -> dict[str, Any]:
    return {"name": name, "trainable": True, "dtype": "float32"}


def operator(name: str, node: list[Any], function: str = "") -> dict[str, Any]:
    kind = "TFOpLambda" if function else "SlicingOpLambda"
    config = {**dtypes(name), "function": function or "__operators__.getitem"}
    return {"class_name": kind, "name": name, "config": config, "inbound_nodes": [node]}


def given(name: str) -> dict[str, Any]:
    config = {**dtypes(name), "batch_input_shape": [None, T, F], "sparse": False}
    return {"class_name": "InputLayer", "name": name, "config": config, "inbound_nodes": []}


def net(layers: list[dict[str, Any]], inputs: list[str], outputs: list[str]) -> dict[str, Any]:
    ends = {"input_layers": [[name, 0, 0] for name in inputs],
            "output_layers": [[name, 0, 0] for name in outputs]}  # fmt: skip
    return {"class_name": "Functional", "config": {"name": "m", "layers": layers, **ends}}


def file(config: dict[str, Any], weights: dict[str, dict[str, Any]] | None = None) -> bytes:
    data = io.BytesIO()
    with h5py.File(data, "w") as out:
        out.attrs["keras_version"] = "2.13.1"
        out.attrs["backend"] = "tensorflow"
        out.attrs["model_config"] = json.dumps(config)
        root = out.create_group("model_weights")
        names = [layer["name"] for layer in config["config"]["layers"]]
        root.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            group, arrays = root.create_group(name), (weights or {}).get(name, {})
            group.attrs["weight_names"] = [f"{name}/{key}:0".encode() for key in arrays]
            for key, array in arrays.items():
                group[f"{name}/{key}:0"] = array
    return data.getvalue()


def index(*keys: Any) -> list[Any]:
    def one(key: Any) -> Any:
        if isinstance(key, slice):
            return {"start": key.start, "stop": key.stop, "step": key.step}
        return {"class_name": "__ellipsis__"} if key is ... else key

    return [ref("x", slice_spec=[one(key) for key in keys])]


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


ALL = slice(None)
#: Name -> inbound node, function, what it computes.
CASES: dict[str, tuple[list[Any], str, Callable[[Any, Any], Any]]] = {
    "last": (index(ALL, -1), "", lambda x, z: x[:, -1]),
    "slices": (index(ALL, slice(1, 5), slice(None, None, 2)), "", lambda x, z: x[:, 1:5, ::2]),
    "ellipsis": (index(..., None, ALL), "", lambda x, z: x[..., None, :]),
    "add": ([ref("x", y=Z)], "__operators__.add", lambda x, z: x + z),
    "add_one": ([ref("x", y=1.0)], "__operators__.add", lambda x, z: x + 1),
    "from_one": ([["_CONSTANT_VALUE", -1, 1.0, {"y": X, "name": None}]], "math.subtract",
                 lambda x, z: 1 - x),
    "divide": ([ref("x", y=3)], "math.truediv", lambda x, z: x / 3),
    "maximum": ([ref("x", y=Z)], "math.maximum", lambda x, z: np.maximum(x, z)),
    "mean": ([["x", 0, 0, {"axis": 1}]], "math.reduce_mean", lambda x, z: x.mean(1)),
    "sums": ([["x", 0, 0, {"axis": [1, 2], "keepdims": True}]], "math.reduce_sum",
             lambda x, z: x.sum((1, 2), keepdims=True)),
    "concat": ([[*X, {"axis": -1}], [*Z, {"axis": -1}]], "concat",
               lambda x, z: np.concatenate([x, z], -1)),
    "stack": ([[*X, {"axis": 1}], [*Z, {"axis": 1}]], "stack", lambda x, z: np.stack([x, z], 1)),
    "wide": ([["x", 0, 0, {"axis": -1}]], "expand_dims", lambda x, z: x[..., None]),
    "turned": ([["x", 0, 0, {"perm": [0, 2, 1], "name": "transpose", "conjugate": False}]],
               "compat.v1.transpose", lambda x, z: x.transpose(0, 2, 1)),
    "reverse": ([ref("x", axis=[1])], "reverse", lambda x, z: x[:, ::-1]),
    "scores": ([["x", 0, 0, {"b": Z, "transpose_b": True}]], "linalg.matmul",
               lambda x, z: x @ z.transpose(0, 2, 1)),
    "softmax": ([["x", 0, 0, {"axis": -1}]], "nn.softmax", lambda x, z: softmax(x)),
    "leaky": ([ref("x", alpha=0.2)], "nn.leaky_relu", lambda x, z: np.where(x > 0, x, 0.2 * x)),
    "square": ([ref("x")], "math.square", lambda x, z: x * x),
    "clip": ([["x", 0, 0, {"clip_value_min": -0.5, "clip_value_max": 0.4}]], "clip_by_value",
             lambda x, z: x.clip(-0.5, 0.4)),
    "unit": ([["x", 0, 0, {"axis": -1}]], "math.l2_normalize",
             lambda x, z: x / np.sqrt((x * x).sum(-1, keepdims=True))),
    "cast": ([["x", 0, 0, {"dtype": "float32"}]], "cast", lambda x, z: x),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operators(name, rng):
    node, function, formula = CASES[name]
    x, z = (rng.standard_normal((N, T, F)).astype(np.float32) for _ in range(2))
    kept = operator("kept", [ref("z", y=0.0)], "__operators__.add")
    layers = [given("x"), given("z"), operator("made", node, function), kept]
    model = gr.load(file(net(layers, ["x", "z"], ["made", "kept"])))
    found = model.run_graph({"x": x, "z": z})
    wanted = formula(x.astype(np.float64), z.astype(np.float64))
    assert found["made"].shape == wanted.shape
    assert relative_error(found["made"], wanted) < KERAS_MODEL


def test_unknown_functions_are_named():
    layers = [given("x"), operator("made", [["x", 0, 0, {}]], "signal.fft")]
    with pytest.raises(gr.ConversionError, match="made: class TFOpLambda: a function of Tensor"):
        gr.load(file(net(layers, ["x"], ["made"])))


def test_calls_of_an_inner_model_count_from_one(rng):
    """What Keras 2 and 3 write of a Functional model in another: its own call comes first."""
    kernel = rng.standard_normal((F, F)).astype(np.float32)
    config = {**dtypes("dense"), "units": F, "use_bias": False, "activation": "linear"}
    dense = {"class_name": "Dense", "name": "dense", "config": config,
             "inbound_nodes": [[["y", 0, 0, {}]]]}  # fmt: skip
    inner = net([given("y"), dense], ["y"], ["dense"])
    inner |= {"name": "inner", "inbound_nodes": [[[*X, {}]], [[*Z, {}]]]}
    joined = operator("joined", [["inner", 2, 0, {"y": ["inner", 1, 0]}]], "math.subtract")
    whole = net([given("x"), given("z"), inner, joined], ["x", "z"], ["joined"])
    model = gr.load(file(whole, {"inner": {"kernel": kernel}}))
    x, z = (rng.standard_normal((N, T, F)).astype(np.float32) for _ in range(2))
    assert relative_error(model.run_graph({"x": x, "z": z})["joined"], (z - x) @ kernel) < 1e-5
