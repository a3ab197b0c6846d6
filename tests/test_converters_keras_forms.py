# SPDX-License-Identifier: MIT
"""Forms of Keras files: Keras 2, CuDNN layers, states that are carried, weights alone, streams."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import keras2_files as k2
import keras_models as km
import numpy as np
import onnxruntime as ort
import pytest
from keras_models import L, chain, keras
from test_converters_keras import compared, saved
from tolerances import KERAS_MODEL, REAL_MODEL, relative_error

import gruengine as gr
from gruengine.converters import Options, read
from gruengine.converters.keras import read_weights
from gruengine.model import Model
from gruengine.reference import recurrent

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def as_file(data: bytes, folder: Any) -> Any:
    path = folder / "model.h5"
    path.write_bytes(data)
    return path


def outputs(data: bytes, *values: Any) -> list[Any]:
    spec, _ = read(data)
    ports = spec.graph.inputs
    feed = {p.name: np.asarray(v, p.dtype) for p, v in zip(ports, values, strict=True)}
    return list(Model.from_spec(spec).run_graph(feed).values())


# -- Keras 2 --------------------------------------------------------------------------------------

OLD = ["lstm_stack", "gru_after", "gru_before", "rnn", "cells", "bidirectional_sum_True",
       "bidirectional_cells", "lstm_backwards"]  # fmt: skip


@pytest.mark.parametrize("cell_group", ["", "lstm_cell"])
@pytest.mark.parametrize("name", OLD)
def test_keras_2_files(name, cell_group, tmp_path, rng):
    model = km.randomise(km.RECURRENT[name](), rng)
    data = k2.write_h5(model, cell_group=cell_group)
    compared(model, [km.sequences(rng)], as_file(data, tmp_path))


@pytest.mark.parametrize("make", [km.states, km.branches, km.many_states], ids=lambda m: m.__name__)
def test_keras_2_graphs(make, tmp_path, rng):
    model, inputs = make()
    data = k2.write_h5(km.randomise(model, rng), version="2.13.1")
    compared(model, inputs, as_file(data, tmp_path))


@pytest.mark.parametrize(("version", "slope"), [("2.2.4-tf", 0.2), ("2.15.0", 0.2), ("3.1", 1 / 6)])
def test_hard_sigmoid_is_that_of_the_version(version, slope, rng):
    model = km.randomise(chain(L.Activation("hard_sigmoid")), rng)
    x = km.sequences(rng) * 2
    (y,) = outputs(k2.write_h5(model, version=version), x)
    np.testing.assert_allclose(y, np.clip(x * slope + 0.5, 0, 1), atol=1e-6)


def test_a_gru_whose_file_does_not_say_resets_before_in_keras_2(tmp_path, rng):
    model = km.randomise(km.RECURRENT["gru_before"](), rng)
    data = k2.write_h5(model, change=lambda entry: entry["config"].pop("reset_after", None))
    compared(model, [km.sequences(rng)], as_file(data, tmp_path))


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("renamed", [True, False])
def test_cudnn_layers(kind, renamed, tmp_path, rng):
    """Units and inputs differ, so that a kernel that is not turned round would show."""
    model = km.randomise(chain(getattr(L, kind)(5, return_sequences=True, name="gpu")), rng)

    def rename(entry: dict[str, Any]) -> None:
        if entry["class_name"] == kind and renamed:
            kept = ("name", "units", "return_sequences", "go_backwards", "stateful")
            entry.update(class_name=f"CuDNN{kind}", config={k: entry["config"][k] for k in kept})

    data = k2.write_h5(model, change=rename, arrays=lambda name, values: k2.to_cudnn(values))
    compared(model, [km.sequences(rng)], as_file(data, tmp_path))


def test_time_major(rng):
    model = km.randomise(km.RECURRENT["bidirectional_stack"](), rng)
    x = km.sequences(rng)

    def change(entry: dict[str, Any]) -> None:
        if "return_sequences" in entry["config"]:
            entry["config"]["time_major"] = True

    spec, _ = read(k2.write_h5(model, version="2.9.0", change=change))
    assert spec.graph.inputs[0].shape == ("T", "N", 3)
    (y,) = Model.from_spec(spec).run_graph({spec.graph.inputs[0].name: x.swapaxes(0, 1)}).values()
    assert relative_error(y.swapaxes(0, 1), km.run(model, [x])[0]) < KERAS_MODEL


def test_kernels_of_theano_are_turned_round(tmp_path, rng):
    model = km.randomise(chain(L.Conv1D(4, 3)), rng)
    data = k2.write_h5(
        model, backend="theano", arrays=lambda n, v: [v[0][::-1], *v[1:]] if v else v
    )
    compared(model, [km.sequences(rng)], as_file(data, tmp_path))


def test_masks_with_states_in_keras_2(rng):
    """Against the reference step by step: a masked step keeps state and output."""
    model, (ids, start) = km.masked_states()
    km.randomise(model, rng)
    found = outputs(k2.write_h5(model, version="2.15.0"), ids, start)
    table, kernel, inner, bias = (np.asarray(w.value.detach(), float) for w in model.weights)
    h, expected = start.astype(float), np.zeros((5, 7, 3))
    last = np.zeros((5, 3))
    for t in range(7):
        _, after, _ = recurrent(
            table[ids[:, t]][None], kernel.T[None], inner.T[None], bias.reshape(1, -1), None,
            h[None], cell="gru", hidden_size=3, direction="forward",
            activations=["Sigmoid", "Tanh"], activation_alpha=[0.0, 0.0],
            activation_beta=[0.0, 0.0], reset="after", update="keep",
        )  # fmt: skip
        kept = (ids[:, t] > 0)[:, None]
        h = np.where(kept, after[0], h)
        last = np.where(kept, after[0], last)
        expected[:, t] = last
    assert relative_error(found[0], expected) < KERAS_MODEL
    assert relative_error(found[1], h) < KERAS_MODEL


@pytest.mark.parametrize("zeroes", [True, False])
def test_bidirectional_masks_of_keras_before_tensorflow_repeat(zeroes, rng):
    model = km.randomise(km.MASKED["bidirectional_sequences"](), rng)
    ids = km.tokens(rng)
    data = k2.write_h5(model, version="2.3.0-tf" if zeroes else "2.3.1")
    (y,) = outputs(data, ids)
    # The second layer skips masked steps too, so what they hold does not matter to the result.
    assert relative_error(y, km.run(model, [ids])[0]) < KERAS_MODEL


# -- archives -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rename", "level"), [(True, 0), (False, 6)])
def test_archives_of_other_writers(rename, level, tmp_path, rng):
    model = km.randomise(km.RECURRENT["cells"](), rng)
    data = k2.write_archive(model, tmp_path, rename, level)
    compared(model, [km.sequences(rng)], as_file(data, tmp_path))


def test_the_version_of_an_archive_counts(tmp_path, rng):
    model = km.randomise(chain(L.Activation("hard_sigmoid")), rng)
    path = saved(model, tmp_path, "keras")
    stream = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(stream, "w") as target:
        for name in source.namelist():
            old = json.dumps({"keras_version": "2.13.1"}).encode()
            target.writestr(name, old if name == "metadata.json" else source.read(name))
    (y,) = outputs(stream.getvalue(), np.ones((1, 2, 3)))
    np.testing.assert_allclose(y, 0.7, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_is_said(policy, tmp_path, rng):
    model = km.randomise(chain(L.LSTM(4, dtype=policy)), rng)
    _, report = read(saved(model, tmp_path, "keras"))
    assert any(policy in warning for warning in report.warnings)


def test_bfloat16_weights(tmp_path, rng):
    model = km.randomise(chain(L.Dense(4, dtype="bfloat16")), rng)
    (y,) = outputs(
        saved(model, tmp_path, "keras").read_bytes(),
        np.eye(3)[None],
    )
    kernel, bias = (one.value.detach().float().numpy() for one in model.weights)
    np.testing.assert_allclose(y[0], kernel + bias, rtol=1e-6)


# -- states and streams ---------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 4, None])
def test_stateful_layers_are_carried_by_streams(steps, tmp_path, rng):
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(2, steps, 3)),
            L.LSTM(4, stateful=True, return_sequences=True),
            L.RNN([L.GRUCell(3), L.LSTMCell(2)], stateful=True, return_sequences=True),
            L.Dense(2),
        ]
    )
    km.randomise(model, rng)
    engine = gr.load(saved(model, tmp_path, "keras"))
    assert len(engine.signature.state) == 5
    for layer in model.layers[:2]:
        for state in keras.tree.flatten(layer.states):
            state.assign(np.zeros(state.shape, np.float32))
    x = np.ascontiguousarray(km.sequences(rng, n=2, t=12).reshape(2, 3, 4, 3).swapaxes(0, 1))
    stream = engine.stream(batch_size=2)
    for part in x:
        pieces = [part] if steps != 1 else np.split(part, 4, axis=1)
        for piece in pieces:
            expected = km.run(model, [piece])[0]
            if engine.streamable.form == "frames":
                frames = [np.ascontiguousarray(piece[:, t]) for t in range(piece.shape[1])]
                found = np.stack([stream.step(one) for one in frames], axis=1)
            else:
                found = stream.step(np.ascontiguousarray(piece))
            assert relative_error(found, expected) < KERAS_MODEL


def test_states_of_a_graph_are_found(tmp_path, rng):
    model, _ = km.carried()
    spec, report = read(saved(km.randomise(model, rng), tmp_path, "keras"))
    assert [before for before, _ in report.state] == ["h", "c"]
    assert len({after for _, after in spec.state}) == 2


def test_stacks_stream_frame_by_frame(tmp_path, rng):
    model = chain(
        L.Conv1D(4, 1, activation="relu"),
        L.LSTM(5, return_sequences=True),
        L.LayerNormalization(),
        L.GRU(4, return_sequences=True),
        L.TimeDistributed(L.Dense(2, activation="softmax")),
    )
    km.randomise(model, rng)
    engine = gr.load(saved(model, tmp_path, "keras"))
    assert engine.streamable.form == "frames", engine.streamable.reason
    x = km.sequences(rng, n=1, t=20)
    stream = engine.stream()
    frames = [np.ascontiguousarray(x[:, t]) for t in range(20)]
    found = np.stack([np.array(stream.step(frame)) for frame in frames], axis=1)
    assert relative_error(found.reshape(1, 20, 2), km.run(model, [x])[0]) < KERAS_MODEL


def test_unpadded_leaves_masks_out(tmp_path, rng):
    model = km.randomise(km.MASKED["gru_sequences"](), rng)
    path = saved(model, tmp_path, "keras")
    ids = rng.integers(1, 11, (3, 7))
    engine = compared(model, [ids], path, unpadded=True)
    assert engine.streamable.form == "frames"
    assert not gr.load(path).streamable
    _, report = read(path, Options(hints={"unpadded": True}))
    assert any("no padding" in warning for warning in report.warnings)


# -- weights alone --------------------------------------------------------------------------------

DTLN_FIRST = {
    "class_name": "Sequential",
    "config": {
        "name": "first",
        "layers": [
            {"class_name": "InputLayer",
             "config": {"name": "magnitude", "batch_input_shape": [None, None, 257]}},
            *({"class_name": "LSTM", "config": {
                "name": name, "units": 128, "return_sequences": True, "activation": "tanh",
                "recurrent_activation": "sigmoid"}} for name in ("lstm", "lstm_1")),
            {"class_name": "Dense", "config": {"name": "dense", "units": 257}},
            {"class_name": "Activation",
             "config": {"name": "mask", "activation": "sigmoid"}},
        ],
    },
}  # fmt: skip


def test_dtln_equals_its_onnx_form(models, rng):
    """The weights are those of the whole network; its first half is told by the configuration."""
    path = models / "dtln/model.h5"
    engine = gr.load(path, config=json.dumps(DTLN_FIRST))
    session = ort.InferenceSession(models / "dtln/model_1.onnx", providers=["CPUExecutionProvider"])
    x_name, state_name = (port.name for port in session.get_inputs())
    frames = np.abs(rng.normal(0, 1, (50, 1, 1, 257))).astype(np.float32)
    state = np.zeros((1, 2, 128, 2), np.float32)
    stream = engine.stream()
    for frame in frames:
        expected, state = session.run(None, {x_name: frame, state_name: state})
        assert relative_error(stream.step(frame[0]), expected.reshape(1, 257)) < REAL_MODEL


def test_weights_alone_say_what_they_lack(models):
    with pytest.raises(gr.ConversionError, match=r"config=model\.to_json\(\)") as caught:
        read(models / "dtln/model.h5")
    assert {"lstm_3", "layer_normalization"} <= {reason.where for reason in caught.value.reasons}
    arrays = read_weights((models / "dtln/model.h5").read_bytes())
    assert arrays["lstm_3/lstm_3/kernel"].shape == (128, 512)


@pytest.mark.parametrize("kind", ["weights.h5", "h5"])
def test_weights_and_configuration_apart(kind, tmp_path, rng):
    model = km.randomise(km.RECURRENT["bidirectional_stack"](), rng)
    if kind == "h5":
        path = as_file(k2.write_h5(model, weights_only=True, version="3.1"), tmp_path)
    else:
        path = tmp_path / "model.weights.h5"
        model.save_weights(path)
    compared(model, [km.sequences(rng)], path, config=model.to_json())
