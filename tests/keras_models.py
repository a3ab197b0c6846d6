# SPDX-License-Identifier: MIT
"""Models made and run by Keras 3 on PyTorch: each kind of layer, with random weights."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

os.environ["KERAS_BACKEND"] = "torch"
os.environ.setdefault("KERAS_HOME", tempfile.mkdtemp(prefix="keras"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras

L = keras.layers
Array = np.ndarray[Any, Any]
Made = tuple[Any, list[Array]]


def randomise(model: Any, rng: np.random.Generator) -> Any:
    """Give every weight random values, so that no bias or statistic is at its start."""
    for weight in model.weights:
        value = rng.normal(0, 0.5, tuple(weight.shape))
        weight.assign(np.abs(value) + 0.3 if "variance" in weight.path else value)
    return model


def run(model: Any, inputs: list[Array]) -> list[Array]:
    """Return the outputs of Keras, flat."""
    found = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return [np.asarray(one.detach().cpu()) for one in keras.tree.flatten(found)]


def chain(*layers: Any, shape: tuple[int | None, ...] = (None, 3)) -> Any:
    """Return a Sequential of layers."""
    return keras.Sequential([keras.Input(shape), *layers])


def sequences(rng: np.random.Generator, n: int = 3, t: int = 7, f: int = 3) -> Array:
    return rng.normal(0, 1, (n, t, f)).astype(np.float32)


def tokens(rng: np.random.Generator) -> Array:
    """Return padded rows: zeros behind, before, between, none, and only zeros."""
    ids = rng.integers(1, 11, (5, 7))
    ids[0, 4:] = ids[1, :3] = ids[2, [0, 3, 6]] = ids[4] = 0
    return ids


RECURRENT: dict[str, Callable[[], Any]] = {
    "lstm": lambda: chain(L.LSTM(5)),
    "lstm_stack": lambda: chain(L.LSTM(5, return_sequences=True), L.LSTM(4)),
    "lstm_no_bias": lambda: chain(L.LSTM(5, use_bias=False, return_sequences=True)),
    "lstm_relu": lambda: chain(
        L.LSTM(5, activation="relu", recurrent_activation="hard_sigmoid", return_sequences=True)
    ),
    "lstm_linear": lambda: chain(
        L.LSTM(3, activation="linear", recurrent_activation="softsign", return_sequences=True)
    ),
    "lstm_backwards": lambda: chain(L.LSTM(5, go_backwards=True, return_sequences=True)),
    "lstm_backwards_last": lambda: chain(L.LSTM(5, go_backwards=True)),
    "lstm_unrolled": lambda: chain(L.LSTM(5, unroll=True), shape=(7, 3)),
    "gru_after": lambda: chain(L.GRU(5, return_sequences=True)),
    "gru_before": lambda: chain(L.GRU(5, reset_after=False, return_sequences=True)),
    "gru_before_no_bias": lambda: chain(L.GRU(5, reset_after=False, use_bias=False)),
    "gru_no_bias": lambda: chain(L.GRU(4, use_bias=False), L.Dense(2)),
    "gru_backwards": lambda: chain(L.GRU(5, go_backwards=True), L.Dense(2, activation="elu")),
    "gru_elu": lambda: chain(
        L.GRU(5, activation="elu", recurrent_activation="hard_sigmoid", return_sequences=True)
    ),
    "rnn": lambda: chain(L.SimpleRNN(5, return_sequences=True)),
    "rnn_relu": lambda: chain(L.SimpleRNN(5, activation="relu")),
    "rnn_leaky": lambda: chain(L.SimpleRNN(5, activation="leaky_relu", use_bias=False)),
    "rnn_layer_activation": lambda: chain(L.SimpleRNN(4, activation=L.LeakyReLU(0.3))),
    "cell": lambda: chain(L.RNN(L.LSTMCell(4), return_sequences=True)),
    "cells": lambda: chain(
        L.RNN([L.LSTMCell(4), L.GRUCell(3), L.SimpleRNNCell(5)], return_sequences=True)
    ),
    "cells_alike": lambda: chain(L.RNN([L.GRUCell(4), L.GRUCell(3), L.GRUCell(2)])),
    "stacked_backwards": lambda: chain(
        L.RNN(
            L.StackedRNNCells([L.GRUCell(4, reset_after=False), L.LSTMCell(3)]), go_backwards=True
        )
    ),
}

for _mode in ("concat", "sum", "ave", "mul", None):
    for _seq in (True, False):
        RECURRENT[f"bidirectional_{_mode}_{_seq}"] = lambda m=_mode, s=_seq: chain(
            L.Bidirectional(L.LSTM(4, return_sequences=s), merge_mode=m)
        )
RECURRENT |= {
    "bidirectional_gru": lambda: chain(L.Bidirectional(L.GRU(4)), L.Dense(2)),
    "bidirectional_first_backwards": lambda: chain(
        L.Bidirectional(L.GRU(4, go_backwards=True, return_sequences=True), merge_mode="concat",
                        backward_layer=L.GRU(4, return_sequences=True))
    ),
    "bidirectional_unequal": lambda: chain(
        L.Bidirectional(
            L.LSTM(4, return_sequences=True),
            backward_layer=L.LSTM(
                4, activation="relu", return_sequences=True, go_backwards=True, use_bias=False
            ),
        )
    ),
    "bidirectional_other_cells": lambda: chain(
        L.Bidirectional(
            L.GRU(4, return_sequences=True),
            backward_layer=L.LSTM(4, return_sequences=True, go_backwards=True),
        )
    ),
    "bidirectional_cells": lambda: chain(
        L.Bidirectional(L.RNN([L.LSTMCell(3), L.GRUCell(4)], return_sequences=True))
    ),
    "bidirectional_stack": lambda: chain(
        L.Bidirectional(L.LSTM(4, return_sequences=True)),
        L.Dropout(0.5),
        L.Bidirectional(L.SimpleRNN(3, return_sequences=True)),
        L.TimeDistributed(L.Dense(2, activation="softmax")),
    ),
}  # fmt: skip

ACTIVATIONS = (
    "linear relu relu6 sigmoid tanh softmax log_softmax elu selu softplus softsign exponential "
    "leaky_relu swish silu gelu mish hard_sigmoid hard_silu hard_tanh"
).split()

LAYERS: dict[str, Callable[[], Any]] = {
    **{
        f"dense_{name}": (lambda n=name: chain(L.GRU(4, return_sequences=True), L.Dense(5, n)))
        for name in ACTIVATIONS
    },
    "relu": lambda: chain(L.ReLU(negative_slope=0.2)),
    "relu_max": lambda: chain(L.ReLU(max_value=0.7)),
    "relu_threshold": lambda: chain(L.ReLU(threshold=0.25)),
    "leaky": lambda: chain(L.LeakyReLU(0.15)),
    "elu": lambda: chain(L.ELU(0.7)),
    "prelu_shared": lambda: chain(L.PReLU(shared_axes=[1])),
    "prelu": lambda: chain(L.PReLU(), shape=(7, 3)),
    "softmax_axis": lambda: chain(L.Softmax(axis=1)),
    "activation": lambda: chain(L.Activation("softsign"), L.Activation("tanh")),
    "identities": lambda: chain(
        L.Dropout(0.3), L.SpatialDropout1D(0.2), L.GaussianNoise(0.1), L.GaussianDropout(0.1),
        L.AlphaDropout(0.1), L.ActivityRegularization(0.1), L.Identity(), L.Dense(2),
    ),
    "batch_norm": lambda: chain(L.BatchNormalization(), L.LSTM(3)),
    "batch_norm_plain": lambda: chain(L.BatchNormalization(scale=False, center=False)),
    "batch_norm_axis": lambda: chain(L.BatchNormalization(axis=1), shape=(7, 3)),
    "layer_norm": lambda: chain(L.LayerNormalization(epsilon=1e-4), L.GRU(2)),
    "layer_norm_plain": lambda: chain(L.LayerNormalization(scale=False, center=False)),
    "layer_norm_axis": lambda: chain(L.LayerNormalization(axis=2)),
    "rescaling": lambda: chain(L.Rescaling(0.5, offset=2.0)),
    "masking_alone": lambda: chain(L.Masking(0.0)),
    "conv_valid": lambda: chain(L.Conv1D(4, 3), L.GRU(2)),
    "conv_same": lambda: chain(L.Conv1D(4, 4, padding="same", strides=2, activation="relu")),
    "conv_causal": lambda: chain(L.Conv1D(4, 3, padding="causal", dilation_rate=2), L.LSTM(2)),
    "conv_point": lambda: chain(L.Conv1D(4, 1, use_bias=False), L.LSTM(2)),
    "conv_groups": lambda: chain(L.Conv1D(6, 2, groups=3), shape=(7, 3)),
    "max_pool": lambda: chain(L.MaxPooling1D(2)),
    "max_pool_same": lambda: chain(L.MaxPooling1D(3, strides=2, padding="same")),
    "average_pool": lambda: chain(L.AveragePooling1D(3, strides=1, padding="same")),
    "global_average": lambda: chain(L.LSTM(3, return_sequences=True), L.GlobalAveragePooling1D()),
    "global_max": lambda: chain(L.GlobalMaxPooling1D(keepdims=True)),
    "zero_padding": lambda: chain(L.ZeroPadding1D((2, 1)), L.LSTM(2)),
    "cropping": lambda: chain(L.Cropping1D((1, 2)), L.LSTM(2)),
    "repeat": lambda: chain(L.LSTM(3), L.RepeatVector(4), L.LSTM(2, return_sequences=True)),
    "permute": lambda: chain(L.Permute((2, 1)), L.Dense(4), shape=(7, 3)),
    "flatten": lambda: chain(L.Flatten(), L.Dense(4), shape=(7, 3)),
    "reshape": lambda: chain(L.Reshape((3, -1)), L.GRU(2), shape=(7, 3)),
    "reshape_free": lambda: chain(L.Reshape((-1, 3)), L.Reshape((-1, 3, 1)), L.Reshape((-1, 3))),
    "distributed": lambda: chain(
        L.TimeDistributed(L.Dense(4)), L.TimeDistributed(L.BatchNormalization()),
        L.TimeDistributed(L.LayerNormalization()), L.TimeDistributed(L.Activation("relu")),
    ),
    "distributed_flatten": lambda: chain(
        L.TimeDistributed(L.Flatten()), L.LSTM(2), shape=(7, 3, 2)
    ),
    "names_counted": lambda: chain(
        L.Dense(3, name="z"), L.LSTM(3, return_sequences=True, name="y"), L.Dense(3, name="x"),
        L.LSTM(3, return_sequences=True, name="b"), L.Dense(3, name="a"),
    ),
    "frozen": lambda: chain(
        L.Dense(3, trainable=False), L.LSTM(3, trainable=False), L.BatchNormalization()
    ),
}  # fmt: skip


def _embedded(*layers: Any, mask: bool = True) -> Any:
    return keras.Sequential(
        [keras.Input((None,), dtype="int32"), L.Embedding(11, 4, mask_zero=mask), *layers]
    )


def _masked(*layers: Any) -> Any:
    return chain(L.Masking(0.0), *layers)


MASKED: dict[str, Callable[[], Any]] = {
    "plain_embedding": lambda: _embedded(L.LSTM(3), mask=False),
    "lstm": lambda: _embedded(L.LSTM(3)),
    "gru_sequences": lambda: _embedded(L.GRU(3, return_sequences=True)),
    "rnn_stack": lambda: _embedded(
        L.SimpleRNN(3, return_sequences=True), L.Dense(4, "tanh"), L.LSTM(3), L.Dense(1, "sigmoid")
    ),
    "backwards": lambda: _embedded(L.GRU(3, go_backwards=True, return_sequences=True)),
    "backwards_last": lambda: _embedded(L.LSTM(3, go_backwards=True)),
    "bidirectional": lambda: _embedded(L.Bidirectional(L.LSTM(3))),
    "bidirectional_sequences": lambda: _embedded(
        L.Bidirectional(L.GRU(3, return_sequences=True)), L.Bidirectional(L.LSTM(2))
    ),
    "cells": lambda: _embedded(L.RNN([L.LSTMCell(3), L.GRUCell(2)], return_sequences=True)),
    "zeroes": lambda: _embedded(L.LSTM(3, return_sequences=True, zero_output_for_mask=True)),
    "average": lambda: _embedded(L.LSTM(3, return_sequences=True), L.GlobalAveragePooling1D()),
    "distributed": lambda: _embedded(
        L.GRU(3, return_sequences=True), L.TimeDistributed(L.Dense(2)), L.Dropout(0.1), L.GRU(2)
    ),
    "dropped_by_conv": lambda: _embedded(L.Conv1D(3, 2), L.LSTM(2)),
    "masking_lstm": lambda: _masked(L.LSTM(3, return_sequences=True), L.GRU(2)),
    "masking_norm": lambda: _masked(L.BatchNormalization(), L.LayerNormalization(), L.LSTM(3)),
}


def states() -> Made:
    """Return an encoder whose states start a decoder, each with its own length."""
    rng = np.random.default_rng(1)
    one, two = keras.Input((None, 3), name="first"), keras.Input((None, 2), name="second")
    _, h, c = L.LSTM(4, return_state=True)(one)
    y = L.LSTM(4, return_sequences=True)(two, initial_state=[h, c])
    model = keras.Model([one, two], L.Dense(3, activation="softmax")(y))
    return model, [sequences(rng), sequences(rng, t=5, f=2)]


def carried() -> Made:
    """Return one step with its states as inputs and outputs."""
    rng = np.random.default_rng(2)
    x, h, c = keras.Input((None, 3)), keras.Input((4,), name="h"), keras.Input((4,), name="c")
    y, h2, c2 = L.LSTM(4, return_sequences=True, return_state=True)(x, initial_state=[h, c])
    given = [sequences(rng), *(rng.normal(0, 1, (2, 3, 4)).astype(np.float32))]
    return keras.Model([x, h, c], [L.Dense(2)(y), h2, c2]), given


def branches() -> Made:
    """Return a graph with every merge, a shared layer and two outputs."""
    rng = np.random.default_rng(3)
    x, z = keras.Input((None, 3), name="left"), keras.Input((None, 3), name="right")
    shared = L.GRU(4, return_sequences=True, name="shared")
    a, b = shared(x), shared(z)
    merged = [
        L.Add()([a, b]), L.Subtract()([a, b]), L.Multiply()([a, b]), L.Average()([a, b, a]),
        L.Maximum()([a, b]), L.Minimum()([a, b]),
    ]  # fmt: skip
    y = L.Concatenate()(merged)
    last = L.Bidirectional(L.LSTM(2), name="last")(y)
    return keras.Model([x, z], [last, L.Concatenate(axis=1, name="long")([a, b])]), [
        sequences(rng),
        sequences(rng),
    ]


def nested() -> Made:
    """Return models inside of a model, one used twice, and numbers added to tensors."""
    rng = np.random.default_rng(4)
    inner = keras.Sequential(
        [
            keras.Input((None, 3)),
            L.Dense(3),
            L.BatchNormalization(),
            L.GRU(3, return_sequences=True),
        ]
    )
    p = keras.Input((None, 3))
    deep = keras.Model(p, L.Add()([inner(p), L.LSTM(3, return_sequences=True)(p)]))
    x = keras.Input((None, 3), name="x")
    y = deep(deep(x) * 0.5) + 1.0
    return keras.Model(x, L.LSTM(2)(2.0 - y)), [sequences(rng)]


def many_states() -> Made:
    """Return the states of stacked cells and of both directions, given and returned."""
    rng = np.random.default_rng(5)
    x = keras.Input((None, 3))
    given = [keras.Input((4,), name=f"s{i}") for i in range(4)]
    y = L.Bidirectional(L.LSTM(4, return_state=True))(x, initial_state=given)
    z = L.RNN([L.GRUCell(2), L.GRUCell(3)], return_state=True)(x)
    values = [rng.normal(0, 1, (3, 4)).astype(np.float32) for _ in given]
    return keras.Model([x, *given], [*y, *z]), [sequences(rng), *values]


def masked_states() -> Made:
    """Return masked steps with initial states, which an empty row keeps."""
    rng = np.random.default_rng(6)
    ids, h = keras.Input((None,), dtype="int32", name="ids"), keras.Input((3,), name="h")
    e = L.Embedding(11, 4, mask_zero=True)(ids)
    y, last = L.GRU(3, return_sequences=True, return_state=True)(e, initial_state=h)
    return keras.Model([ids, h], [y, last]), [tokens(rng), rng.normal(0, 1, (5, 3)).astype("f4")]


GRAPHS = [states, carried, branches, nested, many_states]
