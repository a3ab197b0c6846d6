# SPDX-License-Identifier: MIT
"""The gradients of every layer beside finite differences of the float64 graph."""

from __future__ import annotations

import numpy as np
import pytest

import gruengine as gr
from gruengine.layer_base import Pass, State
from gruengine.reference_graph import apply_node
from gruengine.spec import Node

N, T, F = 3, 5, 4
RELATIVE = 1e-4  # float32 against float64

LAYERS = {
    "rnn": lambda: [gr.RNN(5)],
    "rnn relu": lambda: [gr.RNN(5, "relu", return_sequences=True)],
    "irnn": lambda: [gr.RNN(5, "relu", recurrent_init="identity", input_init="orthogonal_gates")],
    "rnn clip": lambda: [gr.RNN(5, clip=0.7, return_sequences=True)],
    "lstm": lambda: [gr.LSTM(5)],
    "lstm sequences": lambda: [gr.LSTM(5, return_sequences=True)],
    "lstm peepholes": lambda: [gr.LSTM(5, peepholes=True, return_sequences=True)],
    "lstm coupled": lambda: [gr.LSTM(5, coupled=True, peepholes=True)],
    "lstm projection": lambda: [gr.LSTM(5, projection=2, num_layers=2)],
    "lstm 1997": lambda: [gr.LSTM(5, without=["forget"], return_sequences=True)],
    "lstm no input gate": lambda: [gr.LSTM(5, without=["input"], peepholes=True)],
    "lstm no output gate": lambda: [gr.LSTM(5, without=["output"], peepholes=True)],
    "lstm linear": lambda: [gr.LSTM(5, input_activation="linear", output_activation="linear")],
    "lstm stack": lambda: [gr.LSTM(4, num_layers=3, bidirectional=True, return_sequences=True)],
    "lstm clip": lambda: [gr.LSTM(5, clip=0.8, bidirectional=True)],
    "lstm residual": lambda: [gr.LSTM(4, num_layers=2, residual=True, return_sequences=True)],
    "lstm full gates": lambda: [gr.LSTM(4, full_gates=True, projection=3, num_layers=2)],
    "lstm norm": lambda: [gr.LSTM(4, layer_norm=True, peepholes=True, bidirectional=True)],
    "lstm zoneout": lambda: [gr.LSTM(5, zoneout=(0.2, 0.4), return_sequences=True)],
    "gru": lambda: [gr.GRU(5)],
    "gru before": lambda: [gr.GRU(5, reset="before", return_sequences=True)],
    "gru take": lambda: [gr.GRU(5, update="take", bidirectional=True)],
    "gru before take": lambda: [gr.GRU(5, reset="before", update="take", num_layers=2)],
    "gru residual": lambda: [gr.GRU(2, bidirectional=True, residual=True, return_sequences=True)],
    "dense": lambda: [gr.Dense(3, "tanh"), gr.Dense(2, use_bias=False)],
    "layer norm": lambda: [gr.LayerNorm(1e-3)],
    "softmax": lambda: [gr.Softmax()],
    "embedding": lambda: [gr.Embedding(7, 4), gr.LSTM(3)],
    "mix": lambda: [gr.Dense(6, "relu"), gr.GRU(5, return_sequences=True), gr.LayerNorm(),
                    gr.RNN(4, bidirectional=True), gr.Dense(3, "softmax")],
}  # fmt: skip
ACTIVATIONS = ["linear", "relu", "sigmoid", "tanh", "softmax", "elu", "leaky_relu", "softplus",
               "softsign", "exponential", "hard_sigmoid"]  # fmt: skip


def make(layers, rng, batch_first=True):
    embeds = isinstance(layers[0], gr.Embedding)
    net = gr.Sequential(layers, None if embeds else F, batch_first=batch_first)
    shapes = {name: value.shape for name, value in net.parameters().items()}
    net.set_parameters({name: rng.normal(0, 0.6, shape) for name, shape in shapes.items()})
    shape = (N, T) if batch_first else (T, N)
    x = rng.integers(0, 7, shape) if embeds else rng.normal(size=(*shape, F)).astype(np.float32)
    return net, x


def states_of(net, rng):
    """Non-zero initial states, one for each layer of each stack."""
    found = []
    for layer in net.layers:
        for _ in range(getattr(layer, "num_layers", 0)):
            D, K, C = layer.directions, layer.output_size, layer.state_size
            c = rng.normal(0, 0.7, (D, N, C)).astype(np.float32) if C else None
            found.append(State(rng.normal(0, 0.7, (D, N, K)).astype(np.float32), c))
    return tuple(found)


class Oracle:
    """The graph of a model in float64, its initial and final states exposed."""

    def __init__(self, net, lengths):
        spec = net.spec()
        self.graph, self.tensors = spec.graph, {}
        self.recurrent = []
        nodes = []
        for node in spec.graph.nodes:
            if node.op == "Recurrent":
                at = len(self.recurrent)
                inputs = [*node.inputs, *[""] * (9 - len(node.inputs))]
                inputs[4] = "lengths" if lengths is not None else ""
                inputs[5] = f"h{at}"
                inputs[6] = f"c{at}" if node.attrs["cell"] == "lstm" else ""
                outputs = [*node.outputs, *[""] * (3 - len(node.outputs))]
                outputs[1] = outputs[1] or f"h{at}.after"
                outputs[2] = f"c{at}.after"
                self.recurrent.append((node.attrs["cell"] == "lstm", outputs[1], outputs[2]))
                node = Node(node.op, tuple(inputs), tuple(outputs), node.attrs, node.name)
            nodes.append(node)
        self.lengths, self.nodes = lengths, nodes

    def __call__(self, net, x, states):
        # The constants are those of the present parameters, which may be float64.
        values = {k: np.asarray(v, np.float64) if v.dtype.kind == "f" else v
                  for k, v in net.spec().tensors.items()}  # fmt: skip
        values["x"] = x
        if self.lengths is not None:
            values["lengths"] = self.lengths
        for at, state in enumerate(states):
            values[f"h{at}"], values[f"c{at}"] = state.h, state.c
        for node in self.nodes:
            found = apply_node(node, [values[name] if name else None for name in node.inputs])
            values.update({n: v for n, v in zip(node.outputs, found, strict=False) if n})
        after = [State(values[h], values[c] if lstm else None) for lstm, h, c in self.recurrent]
        return values["y"], after


def dot(weights, values):
    return sum(float(np.sum(w * v)) for w, v in zip(weights, values, strict=True) if w is not None)


def flat(states):
    return [a for s in states for a in s]


def check_gradients(net, x, rng, lengths=None, run=None):
    """Every parameter, the input and every initial state along three random directions."""
    states = states_of(net, rng)
    oracle = Oracle(net, lengths)
    x64 = x.astype(np.float64) if x.dtype.kind == "f" else x
    y, after, backprop = net.begin_update(x, states, run or Pass(lengths, training=False))
    wanted_y, wanted_after = oracle(net, x64, [State(*(None if a is None else a.astype(float)
                                                       for a in s)) for s in states])  # fmt: skip
    np.testing.assert_allclose(y, wanted_y, rtol=2e-5, atol=2e-6)
    for found, wanted in zip(flat(after), flat(wanted_after), strict=True):
        if found is not None:
            np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)
    dy = rng.normal(size=y.shape).astype(np.float32)
    dstate = tuple(State(*(None if a is None else rng.normal(size=a.shape).astype(np.float32)
                           for a in s)) for s in after)  # fmt: skip
    dx, dstate0 = backprop(dy, dstate)

    start = {name: np.asarray(v, np.float64) for name, v in net.parameters().items()}
    places = {f"{layer.name}.{key}": (layer, key) for layer in net.layers for key in layer.params}
    gradients = {name: layer.gradients[key] for name, (layer, key) in places.items()}

    def loss(params, at_x, at_states):
        for name, (layer, key) in places.items():
            layer.params[key] = params[name]
        found, ends = oracle(net, at_x, at_states)
        return dot([dy, *flat(dstate)], [found, *flat(ends)])

    state64 = [State(*(None if a is None else a.astype(float) for a in s)) for s in states]

    def slope(which, direction, eps=1e-5):
        values = []
        for sign in (eps, -eps):
            params, at_x = dict(start), x64
            ends = [list(s) for s in state64]
            if which == "x":
                at_x = x64 + sign * direction
            elif isinstance(which, tuple):
                ends[which[0]][which[1]] = ends[which[0]][which[1]] + sign * direction
            else:
                params[which] = start[which] + sign * direction
            values.append(loss(params, at_x, [State(*s) for s in ends]))
        return (values[0] - values[1]) / (2 * eps)

    targets = dict(gradients)
    if x.dtype.kind == "f":
        targets["x"] = dx
    for at, state in enumerate(dstate0):
        targets[at, 0] = state.h
        if state.c is not None:
            targets[at, 1] = state.c
    for which, gradient in targets.items():
        norm = float(np.linalg.norm(gradient))
        assert norm > 0, which
        for _ in range(3):
            direction = rng.normal(size=gradient.shape)
            direction /= np.linalg.norm(direction)
            # A direction near the gradient, so that a wrong scale cannot hide.
            direction = direction + gradient / norm
            found, wanted = float(np.sum(gradient * direction)), slope(which, direction)
            assert abs(found - wanted) <= RELATIVE * norm, (which, found, wanted)
    for name, (layer, key) in places.items():
        layer.params[key] = start[name].astype(np.float32)


@pytest.mark.parametrize("lengths", [None, [5, 2, 4]], ids=["whole", "lengths"])
@pytest.mark.parametrize("kind", LAYERS)
def test_gradients(kind, lengths, rng):
    net, x = make(LAYERS[kind](), rng)
    check_gradients(net, x, rng, None if lengths is None else np.array(lengths))


@pytest.mark.parametrize("kind", ["rnn", "lstm stack", "lstm coupled", "gru before", "gru take"])
def test_gradients_on_every_isa(kind, isa, rng):
    net, x = make(LAYERS[kind](), rng)
    check_gradients(net, x, rng, np.array([5, 3, 1]))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, rng):
    # exp(exp(x)) leaves the range of float32.
    after = "tanh" if activation == "exponential" else activation
    net, x = make([gr.Dense(6, activation), gr.Activation(after)], rng)
    check_gradients(net, x, rng)


def test_time_first(rng):
    net, x = make([gr.GRU(5, return_sequences=True), gr.Dense(2)], rng, batch_first=False)
    check_gradients(net, x, rng, np.array([2, 5, 3]))


def test_a_row_of_length_zero(rng):
    net, x = make([gr.LSTM(4, bidirectional=True), gr.Dense(2)], rng)
    check_gradients(net, x, rng, np.array([0, 5, 2]))


def test_gradients_add_up(rng):
    net, x = make([gr.GRU(5), gr.Dense(2)], rng)
    y, _, backprop = net.begin_update(x)
    backprop(np.ones_like(y))
    first = {key: value.copy() for key, value in net.layers[0].gradients.items()}
    y, _, backprop = net.begin_update(x)
    backprop(np.ones_like(y))
    for key, value in net.layers[0].gradients.items():
        np.testing.assert_allclose(value, 2 * first[key], rtol=1e-6)


# -- dropout --------------------------------------------------------------------------------------


def test_dropout_drops_and_scales(rng):
    net, x = make([gr.Dropout(0.25)], rng)
    x = np.ones((50, 40, F), np.float32)
    y, _, backprop = net.begin_update(x, run=Pass(seed=(1,)))
    assert set(np.unique(y)) == {0, np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.02
    np.testing.assert_array_equal(backprop(np.ones_like(x))[0], y)
    again, _, _ = net.begin_update(x, run=Pass(seed=(1,)))
    other, _, _ = net.begin_update(x, run=Pass(seed=(2,)))
    np.testing.assert_array_equal(again, y)
    assert not np.array_equal(other, y)
    np.testing.assert_array_equal(net.begin_update(x, run=Pass(training=False))[0], x)
    np.testing.assert_array_equal(net(x), x)


def test_variational_dropout_is_the_same_at_every_step(rng):
    net, _ = make([gr.Dropout(0.5, variational=True)], rng)
    y, _, _ = net.begin_update(np.ones((6, 9, F), np.float32))
    assert (y == y[:, :1]).all()
    assert 0 < (y == 0).mean() < 1


@pytest.mark.parametrize("make_layer", [gr.RNN, gr.LSTM, gr.GRU])
def test_recurrent_dropout_has_one_mask_for_each_row(make_layer, rng):
    net, x = make([make_layer(12, recurrent_dropout=0.4, return_sequences=True)], rng)
    params = dict(net.layers[0].params)
    masks = []
    for row in range(len(x)):
        y, _, backprop = net.begin_update(x, run=Pass(seed=(3,)))
        dy = np.zeros_like(y)
        dy[row] = rng.normal(size=y[row].shape)
        net.layers[0].gradients.clear()
        backprop(dy)
        found = {key: value.copy() for key, value in net.layers[0].gradients.items()}
        dead = ~found["R"][0].any(axis=0)  # the columns that this row's mask hides
        assert 0 < dead.sum() < 12
        masks.append(tuple(dead))
        masked = params["R"] * np.where(dead, 0, np.float32(1 / (1 - 0.4)))
        plain, _ = make([make_layer(12, return_sequences=True)], rng)
        plain.set_parameters(dict(zip(plain.parameters(), (params["W"], masked, params["b"]),
                                      strict=True)))  # fmt: skip
        wanted, _, undo = plain.begin_update(x[row : row + 1])
        np.testing.assert_allclose(y[row], wanted[0], rtol=1e-5, atol=1e-6)
        undo(dy[row : row + 1])
        np.testing.assert_allclose(found["W"], plain.layers[0].gradients["W"], rtol=1e-4, atol=1e-5)
    assert len(set(masks)) > 1
    np.testing.assert_allclose(net(x), net.begin_update(x, run=Pass(training=False))[0], rtol=1e-5,
                               atol=1e-6)  # fmt: skip


def test_dropout_between_the_layers_of_a_stack(rng):
    net, x = make([gr.LSTM(5, num_layers=2, dropout=0.5)], rng)
    y, _, backprop = net.begin_update(x, run=Pass(seed=(1,)))
    assert not np.allclose(y, net(x), atol=1e-3)
    dx, _ = backprop(np.ones_like(y))
    assert np.isfinite(dx).all()
    np.testing.assert_allclose(net.begin_update(x, run=Pass(training=False))[0], net(x), rtol=1e-5,
                               atol=1e-6)  # fmt: skip


# -- composition ----------------------------------------------------------------------------------


def test_gradients_flow_from_a_decoder_to_its_encoder(rng):
    """An encoder and a decoder joined by their states are one longer recurrence."""
    options = {"return_sequences": True}
    whole, x = make([gr.LSTM(4, **options)], rng)
    encoder, _ = make([gr.LSTM(4, **options)], rng)
    decoder, _ = make([gr.LSTM(4, **options)], rng)
    for net in (encoder, decoder):
        net.set_parameters(whole.parameters())
    y, _, undo = whole.begin_update(x)
    dy = rng.normal(size=y.shape).astype(np.float32)
    dx, _ = undo(dy)
    first, state, undo_encoder = encoder.begin_update(x[:, :2])
    second, _, undo_decoder = decoder.begin_update(x[:, 2:], state)
    np.testing.assert_allclose(np.concatenate([first, second], 1), y, rtol=1e-6)
    dx_second, dstate = undo_decoder(dy[:, 2:])
    dx_first, _ = undo_encoder(dy[:, :2], dstate)
    np.testing.assert_allclose(np.concatenate([dx_first, dx_second], 1), dx, rtol=1e-5, atol=1e-7)
    for key, value in whole.layers[0].gradients.items():
        total = encoder.layers[0].gradients[key] + decoder.layers[0].gradients[key]
        np.testing.assert_allclose(total, value, rtol=1e-4, atol=1e-6)
    # No gradient for the outputs at all: that through the state is what remains.
    encoder.layers[0].gradients.clear()
    _, _, undo_encoder = encoder.begin_update(x[:, :2])
    undo_encoder(None, dstate)
    assert encoder.layers[0].gradients["W"].any()


@pytest.mark.parametrize("reset", ["after", "before"])
def test_both_conventions_of_a_gru_are_one(reset, rng):
    keep, x = make([gr.GRU(5, reset=reset, bidirectional=True, num_layers=2)], rng)
    take, _ = make([gr.GRU(5, reset=reset, update="take", bidirectional=True, num_layers=2)], rng)
    turned = keep.layers[0].turned()
    take.set_parameters({f"gru.{key}": value for key, value in turned.items()})
    np.testing.assert_allclose(take(x), keep(x), rtol=2e-5, atol=1e-6)


def test_an_omitted_gate_is_one(rng):
    """Without input and forget gates and with linear activations the cell is a running sum."""
    layer = gr.LSTM(3, without=["input", "forget", "output"], input_activation="linear",
                    output_activation="linear", return_sequences=True)  # fmt: skip
    net, x = make([layer], rng)
    assert {key: value.shape for key, value in layer.params.items()} == {
        "W": (1, 3, F), "R": (1, 3, 3), "b": (1, 3)}  # fmt: skip
    net.set_parameters({"lstm.R": np.zeros((1, 3, 3))})
    candidate = x @ layer.params["W"][0].T + layer.params["b"][0]
    np.testing.assert_allclose(net(x), np.cumsum(candidate, 1), rtol=1e-5, atol=1e-6)


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gr.LSTM(3, clip=1.0, without=["forget"]), "clip and without"),
        (lambda: gr.LSTM(3, coupled=True, without=["input"]), "coupled needs the input gate"),
        (lambda: gr.LSTM(3, without="forget"), "must be a sequence of gates"),
        (lambda: gr.LSTM(3, without=["reset"]), "without is 'reset'"),
        (lambda: gr.GRU(3, residual=True), "residual=True needs return_sequences"),
        (lambda: gr.Sequential([gr.GRU(3, residual=True, return_sequences=True)], 4), "4 features"),
        (lambda: gr.GRU(3, recurrent_dropout=1.0), "recurrent_dropout is 1.0"),
        (lambda: gr.Sequential([gr.GRU(3, recurrent_init="glorat")], 4), "'glorat'"),
        (lambda: gr.initializers.Chrono(2), "steps is 2"),
        (lambda: gr.Sequential([gr.GRU(3)], 4).begin_update(np.zeros((2, 3))), "3 axes"),
        (lambda: gr.Sequential([gr.Embedding(4, 3)]).begin_update(np.full((1, 1), 4)), "0 to 3"),
        (
            lambda: gr.Sequential([gr.GRU(3)], 4).begin_update(
                np.zeros((1, 2, 4)), (State(np.zeros((1, 1, 3))),) * 2
            ),
            "2 states; the model has 1",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(gr.InvalidInputError, match=message):
        call()


# -- initialisers ---------------------------------------------------------------------------------


def test_initialisers():
    irnn = gr.RNN(6, "relu", recurrent_init="identity")
    gr.Sequential([irnn], input_size=3)
    np.testing.assert_array_equal(irnn.params["R"][0], np.eye(6))
    np.testing.assert_array_equal(irnn.params["b"], 0)
    chrono = gr.LSTM(500, forget_bias=gr.initializers.Chrono(100))
    gr.Sequential([chrono], input_size=1)
    i, _, f, _ = chrono.params["b"][0].reshape(4, 500)
    np.testing.assert_array_equal(i, -f)
    assert 0 <= f.min() < f.max() <= np.log(99)
    assert abs(np.exp(f).mean() - 50) < 5
    each = gr.GRU(6, recurrent_init="orthogonal_gates", memory=gr.initializers.Chrono(50))
    gr.Sequential([each], input_size=3)
    for block in each.params["R"][0].reshape(3, 6, 6):
        np.testing.assert_allclose(block @ block.T, np.eye(6), atol=1e-6)
    z = each.params["b"][0][:6]
    assert 0 < z.max() <= np.log(49)
    small = gr.RNN(6, input_init=gr.initializers.uniform(0.1))
    gr.Sequential([small], input_size=200)
    assert 0.09 < np.abs(small.params["W"]).max() <= 0.1
