# SPDX-License-Identifier: MIT
"""bfloat16, int8, int4 and bf16x3: against their definitions, one number, every instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import ISAS
from random_models import draw
from test_one_number import big, by_chunks, by_steps, same, scatter

import gruengine as gr
from gruengine import reference_low
from gruengine.quantise import quantise_weights, round_bfloat16
from gruengine.reference import recurrent
from gruengine.reference_low import products
from gruengine.spec import Graph, ModelSpec, Node, Port

Array = np.ndarray[Any, Any]
LOW = ("bfloat16", "int8", "int4", "bf16x3")
# A value near the middle of two integers may fall to either side: 1/127 of a weight.
FEW_STEPS = {"bfloat16": 2e-2, "int8": 4e-2, "int4": 4e-2, "bf16x3": 1e-4}
EXACT_STEPS = 3e-5


@pytest.fixture(params=[(isa, low) for isa in ISAS for low in LOW], ids="-".join)
def low(request: pytest.FixtureRequest) -> Any:
    """Force each instruction set in turn, with each compute type below float32."""
    with gr.isa(request.param[0]):
        yield request.param[1]


# -- against the definition ------------------------------------------------------------------------

CELLS: dict[str, dict[str, Any]] = {
    "rnn": {"cell": "rnn", "activations": ["Tanh"]},
    "rnn relu": {"cell": "rnn", "activations": ["Relu"]},
    "lstm": {"cell": "lstm", "activations": ["Sigmoid", "Tanh", "Tanh"]},
    "lstm peepholes": {"cell": "lstm", "activations": ["Sigmoid", "Tanh", "Tanh"], "P": True},
    "lstm projection": {"cell": "lstm", "activations": ["Sigmoid", "Tanh", "Tanh"], "K": 11},
    "lstm fed": {"cell": "lstm", "activations": ["Sigmoid", "Tanh", "Tanh"], "fed": True},
    "lstm normed": {"cell": "lstm", "activations": ["Sigmoid", "Tanh", "Tanh"], "normed": True},
    "lstm other": {
        "cell": "lstm", "activations": ["HardSigmoid", "Softsign", "Relu"], "clip": 0.8,
        "coupled": 1,
    },
    "gru after": {
        "cell": "gru", "activations": ["Sigmoid", "Tanh"], "reset": "after", "update": "keep",
    },
    "gru before": {
        "cell": "gru", "activations": ["Sigmoid", "Tanh"], "reset": "before", "update": "keep",
    },
    "gru take": {
        "cell": "gru", "activations": ["Sigmoid", "Softplus"], "reset": "after", "update": "take",
    },
}  # fmt: skip
SIZES = {"rnn": 1, "lstm": 4, "gru": 3}


def node_case(name: str, rng: np.random.Generator, D: int) -> tuple[ModelSpec, dict[str, Any]]:
    """Return a spec of one Recurrent node over [T, N, I] and the arguments of its reference."""
    attrs = dict(CELLS[name])
    peepholes, K, H, I = attrs.pop("P", False), attrs.pop("K", None), 19, 13
    fed, normed = attrs.pop("fed", False), attrs.pop("normed", False)
    G, C = SIZES[attrs["cell"]], H + 3 * H * fed
    count = len(attrs["activations"])
    alphas = [0.3 if a in ("HardSigmoid",) else 0.0 for a in attrs["activations"]]
    betas = [0.5 if a in ("HardSigmoid",) else 0.0 for a in attrs["activations"]]
    assert count == len(alphas)
    attrs.update(
        hidden_size=H,
        direction="bidirectional" if D == 2 else "forward",
        activations=D * attrs["activations"],
        activation_alpha=D * alphas,
        activation_beta=D * betas,
    )
    size = K or H

    def weights(*shape: int) -> Array:
        return rng.normal(scale=0.4, size=shape).astype(np.float32)

    tensors = {
        "W": weights(D, G * H, I), "R": weights(D, G * H, size), "B": weights(D, 2 * G * H),
        "h": weights(D, 3, size) * 2,
    }  # fmt: skip
    inputs = ["x", "W", "R", "B", "", "h", "", "", "", "", ""]
    if attrs["cell"] == "lstm":
        tensors["c"] = weights(D, 3, C) * 2
        inputs[6] = "c"
    if peepholes:
        tensors["P"] = weights(D, 3 * H)
        inputs[7] = "P"
    if K:
        tensors["projection"] = weights(D, K, H)
        inputs[8] = "projection"
    if fed:
        tensors["gate_recurrence"] = weights(D, 3 * H, 3 * H)
        inputs[9] = "gate_recurrence"
    if normed:
        tensors["norm"] = weights(D, 10 * H)
        inputs[10] = "norm"
    while not inputs[-1]:
        inputs.pop()
    outputs = ("y", "hn", "cn") if attrs["cell"] == "lstm" else ("y", "hn")
    ports = [Port("y", "float32", ("T", D, 3, size)), Port("hn", "float32", (D, 3, size))]
    if attrs["cell"] == "lstm":
        ports.append(Port("cn", "float32", (D, 3, C)))
    graph = Graph(
        [Port("x", "float32", ("T", 3, I))], ports,
        [Node("Recurrent", tuple(inputs), outputs, attrs, "layer")],
    )  # fmt: skip
    named = {"initial_h": tensors["h"], "initial_c": tensors.get("c"), "P": tensors.get("P"),
             "projection": tensors.get("projection"), "B": tensors["B"]}  # fmt: skip
    named |= {key: tensors.get(key) for key in ("gate_recurrence", "norm")}
    keep = {k: v for k, v in named.items() if v is not None}
    return ModelSpec(graph, tensors), {**keep, **attrs}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("D", [1, 2])
def test_cells_compute_their_definition(low: str, name: str, D: int) -> None:
    rng = np.random.default_rng(len(name) + 17 * D)
    spec, arguments = node_case(name, rng, D)
    model = gr.Model.from_spec(spec, compute_type=low)
    assert model.compute_type == low
    for T in (1, 4):
        x = rng.normal(size=(T, 3, 13)).astype(np.float32)
        found = model.run_graph({"x": x})
        with products(low):
            want = recurrent(x, spec.tensors["W"], spec.tensors["R"], **arguments)
        plain = recurrent(x, spec.tensors["W"], spec.tensors["R"], **arguments)
        for key, value, exact in zip(("y", "hn", "cn"), want, plain, strict=False):
            if key not in found:
                continue
            errors = np.abs(found[key] - value)
            # Nearly every element is what the definition says; none is far from it.
            assert np.quantile(errors, 0.8) <= EXACT_STEPS * (1 + np.abs(value).max()), key
            assert errors.max() <= FEW_STEPS[low], key
            rounded = np.abs(value - exact).max()
            seen = rounded > 1e-4 * (1 + np.abs(value).max())
            assert seen == (low != "bf16x3"), "the products were not rounded, or were"


@pytest.mark.parametrize("shape", [(1, 40, 30), (5, 33, 70), (70, 64, 20)], ids=str)
@pytest.mark.parametrize("form", ["MatMul", "Gemm", "Gemm B", "Gemm alpha"])
def test_products_compute_their_definition(
    low: str, form: str, shape: tuple[int, int, int], rng: np.random.Generator
) -> None:
    m, k, n = shape
    turned, alpha = form == "Gemm B", 0.5 if form == "Gemm alpha" else 1.0
    W = rng.normal(size=(n, k) if turned else (k, n)).astype(np.float32)
    bias = rng.normal(size=n).astype(np.float32)
    inputs: tuple[str, ...] = ("x", "W") if form == "MatMul" else ("x", "W", "b")
    attrs: dict[str, Any] = {} if form == "MatMul" else {"transB": int(turned), "alpha": alpha}
    tensors = {"W": W} if form == "MatMul" else {"W": W, "b": bias}
    graph = Graph(
        [Port("x", "float32", ("N", k))], [Port("y", "float32", ("N", n))],
        [Node(form.split()[0], inputs, ("y",), attrs)],
    )  # fmt: skip
    model = gr.Model.from_spec(ModelSpec(graph, tensors), compute_type=low)
    x = rng.normal(size=(m, k)).astype(np.float32)
    want = alpha * reference_low.product(x, W if turned else W.T, low)
    if form != "MatMul":
        want += bias
    np.testing.assert_allclose(model(x), want, rtol=1e-5, atol=1e-4)
    assert same(model(x[-1:]), model(x)[-1:])


@pytest.mark.parametrize("kernel", [(1, 1), (1, 5), (3, 3)], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_compute_their_definition(
    low: str, kernel: tuple[int, int], groups: int, rng: np.random.Generator
) -> None:
    C, M, size = 32, 160, (6, 11)
    W = rng.normal(size=(M, C // groups, *kernel)).astype(np.float32)
    bias = rng.normal(size=M).astype(np.float32)
    pads = [kernel[0] // 2, kernel[1] // 2] * 2
    graph = Graph(
        [Port("x", "float32", ("N", C, *size))], [Port("y", "float32", ("N", M, *size))],
        [Node("Conv", ("x", "W", "b"), ("y",), {"group": groups, "pads": pads})],
    )  # fmt: skip
    model = gr.Model.from_spec(ModelSpec(graph, {"W": W, "b": bias}), compute_type=low)
    x = rng.normal(size=(2, C, *size)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0],) * 2, (pads[1],) * 2))
    views = np.lib.stride_tricks.sliding_window_view(padded, kernel, (2, 3))
    want = np.empty((2, M, *size))
    for g in range(groups):
        ours = slice(g * C // groups, (g + 1) * C // groups)
        outs = slice(g * M // groups, (g + 1) * M // groups)
        rows = views[:, ours].transpose(0, 2, 3, 1, 4, 5).reshape(2 * size[0] * size[1], -1)
        kind = "bfloat16" if low in ("int8", "int4") else low
        found = reference_low.product(rows, W[outs].reshape(M // groups, -1), kind)
        want[:, outs] = found.reshape(2, *size, -1).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(model(x), want + bias[:, None, None], rtol=1e-5, atol=1e-4)


def test_tables_are_stored_in_the_compute_type(low: str, rng: np.random.Generator) -> None:
    net = gr.Sequential([gr.Embedding(64, 24)])
    table = rng.normal(size=(64, 24)).astype(np.float32)
    net.set_parameters(dict.fromkeys(net.parameters(), table))
    x = rng.integers(0, 64, (3, 7))
    if low in ("int8", "int4"):
        q, scales = quantise_weights(table)
        want = q.astype(np.float32) * scales[:, None]
    else:
        want = round_bfloat16(table).astype(np.float32) if low == "bfloat16" else table
    assert same(net.compile(compute_type=low)(x), want[x])


def test_values_that_are_not_finite_do_not_hide(low: str, rng: np.random.Generator) -> None:
    net = gr.Sequential([gr.GRU(20, return_sequences=True)], 9)
    model = net.compile(compute_type=low)
    for bad in (np.nan, np.inf):
        x = rng.normal(size=(2, 5, 9)).astype(np.float32)
        x[0, 2, 4] = bad
        y = model(x)
        plain = net.compile()(x)
        assert np.isfinite(y[:, :2]).all()
        assert np.isfinite(y[1]).all()
        assert np.isnan(y[0, 2:]).any() or np.isfinite(plain[0, 2:]).all()


def test_states_larger_than_the_outputs_of_cells(low: str, rng: np.random.Generator) -> None:
    """A caller may start from any state: it is not cut off at what a cell would give."""
    net = gr.Sequential([gr.GRU(20, return_sequences=True)], 9)
    exact, model = net.compile(), net.compile(compute_type=low)
    x = rng.normal(size=(1, 1, 9)).astype(np.float32)
    _, state = exact.run(x)
    state = {name: np.full_like(value, 3.0) for name, value in state.items()}
    most = 0.4 if low == "int4" else 0.05
    assert np.abs(model.run(x, state)[0] - exact.run(x, state)[0]).max() < most


# -- one number -----------------------------------------------------------------------


def load(case: Any, low: str, num_threads: int = 1) -> gr.Model:
    return gr.Model.from_spec(case.spec, compute_type=low, num_threads=num_threads)


@pytest.mark.parametrize("seed", range(6))
def test_steps_chunks_halves_and_rows_give_the_same_bits(low: str, seed: int) -> None:
    rng = np.random.default_rng(500 + seed)
    case = draw(rng, most=60)
    model = load(case, low)
    N, T = int(rng.integers(1, 20)), int(rng.integers(1, 24))
    x = case.input(rng, N, T)
    whole = model(x)
    assert same(by_steps(model.stream(N), x), whole)
    assert same(by_chunks(model.stream(N), x, rng, T), whole)
    half = int(rng.integers(0, T + 1))
    first, state = model.run(x[:, :half])
    second, _ = model.run(x[:, half:], state)
    assert same(np.concatenate([first, second], 1), whole)
    for row in range(N):
        assert same(model(x[row : row + 1]), whole[row : row + 1]), row
    lengths = rng.integers(0, T + 1, N)
    y, _ = model.run(x, lengths=lengths)
    for row, length in enumerate(lengths):
        assert same(y[row, :length], whole[row, :length])


@pytest.mark.parametrize("kind", ["lstm", "gru before", "projection"])
def test_two_threads_give_the_bits_of_one(low: str, kind: str, rng: np.random.Generator) -> None:
    net, features = big(kind, rng)
    one = net.compile(compute_type=low)
    two = net.compile(compute_type=low, num_threads=2)
    for N, T in ((1, 9), (5, 6)):
        x = rng.normal(size=(N, T, features)).astype(np.float32)
        assert same(two(x), one(x))
        assert same(by_steps(two.stream(N), x), one(x))


def by_rows(bidirectional: bool, rng: np.random.Generator) -> gr.Sequential:
    """Return LSTMs whose products are made row by row, of both kinds, with odd sizes."""
    kinds: tuple[dict[str, Any], ...] = (
        {"full_gates": True}, {"layer_norm": True, "projection": 27},
    )  # fmt: skip
    layers = [
        gr.LSTM(41, return_sequences=True, bidirectional=bidirectional, **kind) for kind in kinds
    ]
    net = gr.Sequential(layers, 35)
    scatter(net, rng)
    return net


@pytest.mark.parametrize("bidirectional", [False, True])
def test_cells_by_rows_are_one_number(
    low: str, bidirectional: bool, rng: np.random.Generator
) -> None:
    net = by_rows(bidirectional, rng)
    one, two = (net.compile(compute_type=low, num_threads=n) for n in (1, 2))
    x = rng.normal(size=(7, 21, 35)).astype(np.float32)
    whole = one(x)
    assert not same(whole, net.compile()(x)), "the products were float32"
    assert same(two(x), whole)
    lengths = rng.integers(0, 22, 7)
    for model in (one, two):
        for row, length in enumerate(lengths):
            assert same(model(x[row : row + 1]), whole[row : row + 1]), row
            alone = one(x[row : row + 1, :length])
            assert same(model.run(x, lengths=lengths)[0][row : row + 1, :length], alone), row
        assert bool(model.streamable) != bidirectional
        if model.streamable:
            assert same(by_steps(model.stream(7), x), whole)
            assert same(by_chunks(model.stream(7), x, rng, 9), whole)


def test_int8_is_one_number_on_every_instruction_set(rng: np.random.Generator) -> None:
    """Integer sums are exact, so a product of int8 differs by one rounding at most."""
    W = rng.normal(size=(130, 70)).astype(np.float32)
    graph = Graph(
        [Port("x", "float32", ("N", 130))], [Port("y", "float32", ("N", 70))],
        [Node("MatMul", ("x", "W"), ("y",), {})],
    )  # fmt: skip
    x = rng.normal(size=(19, 130)).astype(np.float32)
    found = []
    for name in ISAS:
        with gr.isa(name):
            found.append(gr.Model.from_spec(ModelSpec(graph, {"W": W}), compute_type="int8")(x))
    for other in found[1:]:
        assert same(other, found[0])


# -- the interface -----------------------------------------------------------------------


def test_unknown_compute_types_are_refused() -> None:
    net = gr.Sequential([gr.LSTM(4)], 3)
    for name in ("int7", "", "FLOAT32", "fp16"):
        with pytest.raises(gr.UnsupportedError, match="bfloat16"):
            net.compile(compute_type=name)


@pytest.mark.parametrize("kind", ["", "full_gates", "layer_norm"])
def test_packed_weights_are_smaller(kind: str) -> None:
    net = gr.Sequential([gr.LSTM(128, **({kind: True} if kind else {}))], 128)
    sizes = {t: net.compile(compute_type=t) for t in ("float32", *LOW)}
    x = np.zeros((1, 2, 128), np.float32)
    for model in sizes.values():
        model(x)
    full = sizes["float32"].packed_bytes
    assert sizes["bfloat16"].packed_bytes < 0.56 * full
    assert sizes["int8"].packed_bytes < 0.31 * full
    assert sizes["int4"].packed_bytes < 0.17 * full
