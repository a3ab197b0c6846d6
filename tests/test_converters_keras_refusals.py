# SPDX-License-Identifier: MIT
"""What Keras models cannot be converted, and that every reason is told at once."""

from __future__ import annotations

import copy
import json
from typing import Any

import keras_hostile as kh
import pytest

import gruengine as gr
from gruengine.converters import Options, read

TENSOR = "__keras_tensor__"


def archive(model: Any) -> bytes:
    return kh.archive(kh.members(model=json.dumps(model).encode()))


def refused(model: Any, **hints: Any) -> list[str]:
    with pytest.raises(gr.ConversionError) as caught:
        read(archive(model), Options(hints=hints))
    return [str(reason) for reason in caught.value.reasons]


def test_every_reason_is_told_at_once():
    """A layer's name, class, attribute and value; code is never looked at."""
    model = kh.chain(
        kh.layer("Lambda", name="code", function={"class_name": "__lambda__", "config": {}}),
        {**kh.layer("Mine", name="own"), "registered_name": "package>Mine"},
        kh.layer("LSTM", name="cell", units=2, activation="gelu", recurrent_activation="what"),
        kh.layer("Conv1D", name="conv", filters=2, kernel_size=[3], padding="valid",
                 data_format="channels_first"),
        kh.layer("Dense", name="dense", units=0, activation="tanh", lora_rank=4),
        kh.layer("GroupQueryAttention", name="attention", num_heads=2),
        kh.layer("Dense", name="int8", units=2, dtype={
            "class_name": "QuantizedDTypePolicy", "config": {"mode": "int8"}}),
    )  # fmt: skip
    found = "\n".join(refused(model))
    for part in (
        "code: class Lambda: a Lambda holds code",
        "own: class Mine",
        "cell: LSTM activation='gelu' in a recurrent cell",
        "cell: LSTM recurrent_activation='what'",
        "conv: Conv1D data_format='channels_first'",
        "dense: Dense units=0: a positive integer",
        "dense: Dense lora_rank=4: an attribute that is not converted",
        "attention: class GroupQueryAttention",
        "int8: Dense dtype='QuantizedDTypePolicy': quantised weights",
        "conv: no arrays of this Conv1D",
    ):
        assert part in found, part


def lstm(**changes: Any) -> dict[str, Any]:
    model = kh.config()
    model["config"]["layers"][1]["config"].update(changes)
    return model


def dense(**changes: Any) -> dict[str, Any]:
    model = kh.config()
    model["config"]["layers"][2]["config"].update(changes)
    return model


def with_layer(index: int, entry: dict[str, Any]) -> dict[str, Any]:
    model = kh.config()
    model["config"]["layers"].insert(index, entry)
    return model


def graph(edit: Any) -> dict[str, Any]:
    model = kh.graph()
    edit(model["config"])
    return model


def inbound(config: Any, index: int) -> Any:
    return config["layers"][index]["inbound_nodes"][0]


def loop(config: Any) -> None:
    inbound(config, 1)["args"][0][0]["config"]["keras_history"][0] = "add"


def from_nowhere(config: Any) -> None:
    inbound(config, 1)["args"][0][0]["config"]["keras_history"] = ["nobody", 0, 0]


def flattened(config: Any) -> None:
    config["layers"][1]["config"]["return_sequences"] = False
    inbound(config, 3)["args"][0][0]["config"]["keras_history"][0] = "x"


def masked(config: Any) -> None:
    inbound(config, 1)["kwargs"]["mask"] = inbound(config, 1)["args"][0]


def nested(depth: int) -> dict[str, Any]:
    model: dict[str, Any] = kh.chain(kh.layer("Dense", name="d", units=2))
    for _ in range(depth):
        model = kh.chain({**model, "config": {**model["config"], "name": "inner"}})
    return model


CASES: dict[str, tuple[Any, str]] = {
    "units of a boolean": (lstm(units=True), "units=True"),
    "units beyond all": (lstm(units=1 << 40), "units=1099511627776"),
    "units that the arrays don't have": (lstm(units=3), r"kernel of shape \[3, 8\]: \[3, 12\]"),
    "flag of a number": (lstm(return_sequences=1), "return_sequences=1"),
    "no arrays for a bias": (dense(use_bias=False), "arrays 0, 1"),
    "epsilon that is no number": (
        with_layer(2, kh.layer("LayerNormalization", name="n", epsilon=float("nan"))),
        "epsilon=nan",
    ),
    "attribute that is new": (lstm(magic=7), "magic=7: an attribute that is not converted"),
    "norm of other axes": (
        with_layer(2, kh.layer("LayerNormalization", name="n", axis=[1, 2])), r"axis=\[1, 2\]"
    ),
    "layer around another": (
        with_layer(
            2,
            kh.layer("TimeDistributed", name="t", layer=kh.layer("LSTM", units=2, stateful=True)),
        ),
        "TimeDistributed of a LSTM",
    ),
    "both ways of a Dense": (
        with_layer(2, kh.layer("Bidirectional", name="b", layer=kh.layer("Dense", units=2))),
        "Bidirectional of a Dense",
    ),
    "own cell": (
        with_layer(2, kh.layer("RNN", name="r", cell=kh.layer("MyCell", units=2))),
        "cell of class MyCell",
    ),
    "own cell of a module": (
        with_layer(2, kh.layer("RNN", name="r", cell={**kh.layer("GRUCell"), "module": "mine"})),
        "a custom class is code",
    ),
    "states in the old order": (
        with_layer(2, kh.layer("RNN", name="r", cell=kh.layer(
            "StackedRNNCells", cells=[kh.layer("GRUCell", units=2)], reverse_state_order=True))),
        "reverse_state_order=True",
    ),
    "cve_2025_1550_module": (
        with_layer(2, {"class_name": "system", "module": "os", "config": {"name": "x0"}}),
        "class system",
    ),
    "cve_2025_8747_function": (
        dense(activation={"class_name": "function", "module": "builtins", "config": "eval"}),
        "activation='eval'",
    ),
    "cve_2025_8747_get_file": (
        dense(activation={"class_name": "function", "module": "keras.utils", "config": "get_file"}),
        "activation='get_file'",
    ),
    "cve_2025_9906_unsafe": (
        with_layer(1, {"module": "keras.config", "class_name": "function",
                       "config": {"name": "enable_unsafe_deserialization"}}),
        "class function",
    ),
    "cve_2025_12058_vocabulary": (
        with_layer(1, kh.layer("StringLookup", name="s", vocabulary="/etc/passwd")),
        "class StringLookup",
    ),
    "model of its own": ({"class_name": "MyModel", "config": {}}, "class 'MyModel'"),
    "subclass": ({"class_name": "Functional", "config": {}}, "code is not in the file"),
    "no layers": ({"class_name": "Sequential", "config": {"layers": []}}, r"layers \[\]"),
    "a list": ([1, 2], "class_name None"),
    "two of one name": (dense(name="lstm"), "two layers of the name"),
    "arrays of another": (dense(name="other"), "arrays of a layer 'dense'"),
    "input inside": (
        with_layer(2, kh.layer("InputLayer", name="y", batch_shape=[None, 2])),
        "InputLayer inside",
    ),
    "shape of text": (kh.chain(kh.layer("Dense", name="d", units="two")), "units='two'"),
    "loop": (graph(loop), "needs its own output"),
    "input from nowhere": (graph(from_nowhere), "from 'nobody'"),
    "mask as an argument": (graph(masked), "called with mask="),
    "no output": (graph(lambda config: config.update(output_layers=[])), "output_layers"),
    "output from nowhere": (
        graph(lambda config: config.update(output_layers=[["zzz", 0, 0]])), "from 'zzz'"
    ),
    "input that is none": (
        graph(lambda config: config.update(input_layers=[["lstm", 0, 0]])), "no InputLayer"
    ),
    "layer without input": (
        graph(lambda config: inbound(config, 3).update(args=[])), "Add without input"
    ),
    "sum of one": (
        graph(lambda config: inbound(config, 3)["args"][0].pop()), "Add of 1 inputs"
    ),
    "unequal ranks": (
        graph(flattened), "equal ranks"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_refusals(name):
    model, message = CASES[name]
    with pytest.raises(gr.ConversionError, match=message):
        read(archive(model))


def test_models_in_models_without_end():
    with pytest.raises(gr.GruEngineError):
        read(archive(nested(150)))
    start, end = json.dumps(kh.chain({"class_name": "@"})).split('{"class_name": "@"}')
    text = start * 600 + end * 600
    with pytest.raises(gr.GruEngineError, match=r"too deep|in a model|layers"):
        read(kh.archive(kh.members(model=text.encode())))


def test_the_plain_model_converts():
    for model in (kh.config(), kh.graph()):
        read(archive(model))


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        ({"batch_first": True}, "hint 'batch_first'"),
        ({"config": "{}"}, "the file holds the model itself"),
        ({"unpadded": 1}, "unpadded=1"),
        ({"input_shape": "all"}, "input_shape='all'"),
    ],
)
def test_hints_that_do_not_fit(hints, message):
    with pytest.raises(gr.ConversionError, match=message):
        read(kh.archive(), Options(hints=hints))


def test_bind_is_refused():
    with pytest.raises(gr.ConversionError, match="Keras models have none"):
        read(kh.archive(), Options(bind={"x": 1}))


def test_a_model_without_input_shape_asks_for_it():
    model = kh.config()
    del model["config"]["layers"][0]
    assert "input_shape=[None, 40]" in refused(model)[0]
    spec, _ = read(archive(model), Options(hints={"input_shape": [None, 3]}))
    assert spec.graph.inputs[0].name == "lstm_input"
    assert spec.graph.inputs[0].shape == ("N", "T", 3)
    model["config"]["build_input_shape"] = [None, None, 3]
    read(archive(model))


def test_keras_1_is_refused():
    files = {**kh.members(), "metadata.json": b'{"keras_version": "1.2.2"}'}
    with pytest.raises(gr.ConversionError, match=r"Keras 1\.2\.2"):
        read(kh.archive(files))


def test_masks_that_versions_of_keras_treat_differently():
    model = copy.deepcopy(kh.graph())
    model["config"]["layers"].insert(
        1, {**kh.layer("Masking", name="mask", mask_value=0.0), "name": "mask"}
    )
    tensor = {"class_name": TENSOR, "config": {"keras_history": ["x", 0, 0]}}
    layers = model["config"]["layers"]
    layers[1]["inbound_nodes"] = [{"args": [tensor], "kwargs": {}}]
    other = {"class_name": TENSOR, "config": {"keras_history": ["mask", 0, 0]}}
    both = {**kh.layer("Add", name="both"), "name": "both"}
    both["inbound_nodes"] = [{"args": [[tensor, other]], "kwargs": {}}]
    layers.insert(2, both)
    layers[3]["inbound_nodes"][0]["args"][0][0]["config"]["keras_history"][0] = "both"
    assert "masks of several inputs" in refused(model)[0]
    read(archive(model), Options(hints={"unpadded": True}))
