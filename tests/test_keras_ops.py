# SPDX-License-Identifier: MIT
"""Keras: indexing and operators outside of layers, images, attention; run by Keras itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras_models as km
import numpy as np
import pytest
from keras import ops
from tolerances import KERAS_MODEL, relative_error

import gruengine as gr

# Keras and PyTorch warn of each other.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

L, keras = km.L, km.keras
MODELS: dict[str, Callable[[], Any]] = {}


def model(function):
    MODELS[function.__name__] = function
    return function


def net(make, *shapes):
    inputs = [keras.Input(shape) for shape in shapes or ((6, 4),)]
    return keras.Model(inputs, make(*inputs))


@model
def last_step():
    return net(lambda x: L.Dense(2)(L.LSTM(5, return_sequences=True)(x)[:, -1]), (None, 4))


@model
def slices_and_new_axes():
    def make(x):
        y = L.GRU(5, return_sequences=True)(x)
        return [y[:, 1:5, ::2], y[..., :2], y[:, 2, None], y[:, -3:-1], y[..., None, 1], y[:, 0:1]]

    return net(make)


@model
def reductions():
    def make(x):
        y = L.LSTM(5, return_sequences=True)(x)
        kept = ops.max(y, axis=-1, keepdims=True)
        return [ops.mean(y, axis=1), ops.sum(y, axis=[1, 2]), kept, ops.min(y, axis=1)]

    return net(make)


@model
def shapes():
    def make(x):
        y = L.SimpleRNN(6, return_sequences=True)(x)
        wide = ops.expand_dims(y, axis=-1)
        flat = ops.reshape(y[:, -1], (-1, 2, 3))
        halves = ops.split(y, 2, axis=-1)
        return [ops.squeeze(wide, -1), ops.transpose(flat, (0, 2, 1)), ops.flip(y, 1),
                ops.stack([y, -y], axis=1), halves[1], halves[0],
                ops.concatenate([y, y[:, ::2]], axis=1)]  # fmt: skip

    return net(make)


@model
def functions():
    def make(x):
        y = L.GRU(4, return_sequences=True)(x)
        made = [f(y) for f in (ops.relu, ops.sigmoid, ops.tanh, ops.softmax, ops.exp, ops.abs,
                               ops.silu, ops.softplus, ops.relu6)]  # fmt: skip
        return [*made, 1.0 - y, y**2, ops.clip(y, -0.1, 0.2), ops.sqrt(ops.abs(y)), y / 3.0]

    return net(make)


@model
def products():
    def make(x, z):
        y = L.LSTM(4, return_sequences=True)(x)
        score = ops.matmul(y, ops.transpose(z, (0, 2, 1)))
        last = [L.Dot((1, 2))([y[:, -1], z]), L.Dot(1, normalize=True)([y[:, 0], y[:, 1]])]
        return [ops.matmul(ops.softmax(score, axis=-1), z), L.Dot(axes=(2, 2))([y, z]), *last]

    return net(make, (6, 4), (5, 4))


@model
def text_in_images():
    def make(x):
        y = L.Conv2D(6, (3, 2), padding="same", activation="relu")(x)
        y = L.DepthwiseConv2D(3, depth_multiplier=2)(L.ZeroPadding2D(((1, 0), (2, 1)))(y))
        y = L.AveragePooling2D((2, 1), padding="same")(L.MaxPooling2D(2)(y))
        y = L.Conv2D(4, 3, strides=2, dilation_rate=1, use_bias=False)(y)
        return [L.LSTM(3)(L.Reshape((-1, 8))(y)), L.GlobalAveragePooling2D()(y)]

    return net(make, (24, 13, 2))


@model
def frames_of_a_film():
    def make(x):
        y = L.TimeDistributed(L.Conv2D(3, 3, activation="relu"))(x)
        y = L.TimeDistributed(L.MaxPooling2D(2))(y)
        return L.GRU(4)(L.TimeDistributed(L.Flatten())(y))

    return net(make, (None, 8, 6, 1))


@model
def models_at_every_step():
    def make(x, z):
        words = keras.Input((5, 4))
        y = L.Bidirectional(L.GRU(3, return_sequences=True))(words)
        sentence = keras.Model(words, L.GlobalMaxPooling1D()(L.Dense(4, activation="tanh")(y)))
        image = keras.Sequential([keras.Input((6, 6, 1)), L.Conv2D(2, 3), L.BatchNormalization(),
                                  L.Flatten(), L.Dense(3)])  # fmt: skip
        y = L.TimeDistributed(L.LSTM(3, return_sequences=True))(x)
        y = L.TimeDistributed(L.GlobalAveragePooling1D())(L.TimeDistributed(L.Conv1D(2, 2))(y))
        return [L.LSTM(3)(L.TimeDistributed(sentence)(x)), L.GRU(2)(y),
                L.GRU(3)(L.TimeDistributed(image)(z))]  # fmt: skip

    return net(make, (None, 5, 4), (None, 6, 6, 1))


@model
def cells_of_convolutions():
    def make(x):
        y = L.ConvLSTM2D(3, 3, padding="same", return_sequences=True)(x)
        z = L.ConvLSTM2D(2, (2, 3), strides=(2, 1), recurrent_activation="hard_sigmoid",
                         go_backwards=True)(L.BatchNormalization()(y))  # fmt: skip
        return [z, L.LSTM(3)(L.TimeDistributed(L.Flatten())(y)),
                L.ConvLSTM2D(2, 3, dilation_rate=2, use_bias=False)(x)]  # fmt: skip

    return net(make, (4, 6, 7, 2))


@model
def rarer_convolutions():
    def make(x, z):
        y = L.SeparableConv1D(6, 3, padding="same", depth_multiplier=2, activation="tanh")(x)
        y = L.GroupNormalization(3)(L.DepthwiseConv1D(3, strides=2)(y))
        up = L.Conv1DTranspose(5, 4, strides=2, padding="same")(L.UpSampling1D(2)(y))
        return [L.GRU(4)(up), L.UpSampling2D((2, 3))(z), L.GroupNormalization(-1)(z)]

    return net(make, (None, 4), (4, 5, 4))


@model
def attention():
    def make(x, z):
        y = L.LSTM(4, return_sequences=True)(x)
        made = [L.Attention()([y, z]), L.Attention(use_scale=True)([y, z, z])]
        made += [L.AdditiveAttention(use_scale=scale)([y, z]) for scale in (True, False)]
        return [*made, L.MultiHeadAttention(3, 5)(y, z),
                L.MultiHeadAttention(2, 3, value_dim=4, use_bias=False)(y, z, z)]  # fmt: skip

    return net(make, (6, 4), (5, 4))


@model
def norms():
    def make(x):
        y = L.Normalization(mean=[1.0, 2, 3, 4], variance=[1.0, 2, 4, 0.5])(x)
        y = L.Normalization()(L.LSTM(4, return_sequences=True)(y))
        return [L.UnitNormalization()(y), L.UnitNormalization(axis=1)(y)]

    return net(make)


@pytest.mark.parametrize("kind", ["keras", "h5"])
@pytest.mark.parametrize("name", MODELS)
def test_models(name, kind, tmp_path, rng, caplog):
    made = km.randomise(MODELS[name](), rng)
    sizes = [[3, *(7 if n is None else n for n in port.shape[1:])] for port in made.inputs]
    inputs = [rng.normal(0, 1, size).astype(np.float32) for size in sizes]
    path = tmp_path / f"model.{kind}"
    made.save(path)
    loaded = gr.load(path)
    feed = {p.name: v for p, v in zip(loaded.signature.inputs, inputs, strict=True)}
    found = loaded.run_graph(feed)
    wanted = km.run(made, inputs)
    assert len(found) == len(wanted)
    for got, want in zip(found.values(), wanted, strict=True):
        assert got.shape == want.shape
        assert relative_error(got, want) < KERAS_MODEL


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda x: x[1:, :], "the batch"),
        (lambda x: ops.mean(x, axis=0), "axis 0"),
        (lambda x: ops.reshape(x, (-1, 2, 3)), "the batch kept"),
        (lambda x: ops.einsum("bij->bji", x), "Einsum of keras"),
        (lambda x: ops.gelu(x), "approximate=True"),
    ],
)
def test_operators_that_are_refused(make, reason, tmp_path, caplog):
    made = net(lambda x: make(L.GRU(4, return_sequences=True)(x)), (3, 4))
    made.save(tmp_path / "model.keras")
    with pytest.raises(gr.ConversionError, match=reason):
        gr.load(tmp_path / "model.keras")
