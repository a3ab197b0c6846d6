# SPDX-License-Identifier: MIT
"""RNN, LSTM and GRU nodes: ONNX's own cases, and random ones beside ONNX Runtime."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_nodes import TAKES, NodeCase, draw_node, turned
from ort_oracle import run_model
from tolerances import ONNX_NODE, relative_error

import gruengine as gr

Array = np.ndarray[Any, Any]
RANDOM_NODES = 1000
# Values beyond this are the doing of unbounded activations: rounding grows with them.
TAME = 6.0
OWN_CASES = [
    f"test_{name}"
    for name in (
        "gru_batchwise", "gru_bidirectional", "gru_defaults", "gru_reverse", "gru_seq_length",
        "gru_with_initial_bias", "lstm_batchwise", "lstm_bidirectional", "lstm_defaults",
        "lstm_reverse", "lstm_with_initial_bias", "lstm_with_peepholes", "rnn_seq_length",
        "simple_rnn_batchwise", "simple_rnn_bidirectional", "simple_rnn_defaults",
        "simple_rnn_reverse", "simple_rnn_with_initial_bias",
    )
]  # fmt: skip


@cache
def own_cases() -> dict[str, Any]:
    """Return ONNX's node tests with a recurrent node, by name."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    return {
        case.name: case
        for case in cases
        if any(node.op_type in ("RNN", "LSTM", "GRU") for node in case.model.graph.node)
    }


def test_every_case_of_onnx_is_here() -> None:
    assert set(own_cases()) <= set(OWN_CASES), "ONNX has new cases: add them"


@pytest.mark.parametrize("name", OWN_CASES)
def test_cases_of_onnx(name: str) -> None:
    if name not in own_cases():
        assert tuple(map(int, onnx.__version__.split(".")[:2])) < (1, 23)
        pytest.skip(f"onnx {onnx.__version__} has no {name}")
    case = own_cases()[name]
    for arrays, expected in case.data_sets:
        inputs = dict(zip((port.name for port in case.model.graph.input), arrays, strict=True))
        weights = {key: value for key, value in inputs.items() if key in ("W", "R", "B", "P")}
        model = gr.load(case.model.SerializeToString(), bind=weights)
        found = model.run_graph({k: v for k, v in inputs.items() if k not in weights})
        assert list(found) == [port.name for port in case.model.graph.output]
        for value, want in zip(found.values(), expected, strict=True):
            assert value.shape == want.shape
            np.testing.assert_allclose(value, want, rtol=case.rtol, atol=case.atol)


def tame(seed: int) -> tuple[NodeCase, dict[str, Array]]:
    """Return a random node whose values stay small, and what ONNX Runtime makes of it."""
    rng = np.random.default_rng([47, seed])
    while True:
        case = draw_node(rng)
        results = run_model(onnx.load_from_string(case.model()), case.feed)
        if all(np.isfinite(a).all() and np.abs(a).max(initial=0) < TAME for a in results):
            names = [name for name in ("Y", "Y_h", "Y_c") if name in case.outputs]
            return case, dict(zip(names, results, strict=True))


def compare(model: gr.Model, feed: dict[str, Array], want: dict[str, Array]) -> None:
    found = model.run_graph(feed)
    assert set(found) == set(want)
    for name, expected in want.items():
        error = relative_error(found[name], expected)
        assert error <= ONNX_NODE, f"{name}: {error:.2g}"


@pytest.mark.parametrize("seed", range(RANDOM_NODES))
def test_random_nodes_equal_onnx_runtime(seed: int) -> None:
    case, want = tame(seed)
    names = list(gr.info()["isas"])
    supported = [name for name in names if gr.info()["isas"][name]["supported"]]
    with gr.isa(supported[seed % len(supported)]):
        compare(gr.load(case.model()), case.feed, want)
        if seed % 2 and case.opset >= 14:
            # ONNX Runtime refuses layout 1: the same node with the batch first.
            feed = {name: np.ascontiguousarray(turned(name, v)) for name, v in case.feed.items()}
            compare(gr.load(case.model(layout=1)), feed, {n: turned(n, v) for n, v in want.items()})


@pytest.mark.parametrize("name", ["tanh", "TANH", "hardSigmoid", "scaledtanh"])
def test_the_case_of_an_activation_of_rnn_does_not_matter(name: str) -> None:
    """ONNX Runtime takes them in any case for LSTM and GRU alone."""
    known = {each.lower(): each for each in TAKES}
    rng = np.random.default_rng(2)
    case = draw_node(rng)
    while case.op != "RNN" or case.attrs.get("direction", "forward") == "bidirectional":
        case = draw_node(rng)
    found = []
    for each in (name, known[name.lower()]):
        case.attrs["activations"] = [each]
        for key, least in (("activation_alpha", 1), ("activation_beta", 2)):
            case.attrs.pop(key, None)
            if TAKES[known[name.lower()]] >= least:
                case.attrs[key] = [0.4]
        found.append(gr.load(case.model()).run_graph(case.feed))
    for key, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][key])


def test_the_random_nodes_cover_every_attribute() -> None:
    """Guards the draw: what the sweep claims to cover does occur in it."""
    cases = [draw_node(np.random.default_rng([47, seed])) for seed in range(300)]
    keys = {(case.op, key) for case in cases for key in (*case.attrs, *case.values)}
    for op in ("RNN", "LSTM", "GRU"):
        for key in (
            "direction", "activations", "activation_alpha", "activation_beta", "clip", "B",
            "sequence_lens", "initial_h",
        ):  # fmt: skip
            assert (op, key) in keys
    assert {("LSTM", key) for key in ("input_forget", "initial_c", "P")} <= keys
    assert ("GRU", "linear_before_reset") in keys
    lengths = [case.values["sequence_lens"] for case in cases if "sequence_lens" in case.values]
    assert any((row == 0).any() for row in lengths)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["RNN", "LSTM", "GRU"])
def test_no_frames_give_the_initial_state(op: str, direction: str, isa: str) -> None:
    rng = np.random.default_rng(3)
    case = draw_node(rng)
    while case.op != op or len(case.feed) < (4 if op == "LSTM" else 3) or len(case.outputs) < 2:
        case = draw_node(rng)
    D, H = 2 if direction == "bidirectional" else 1, case.attrs["hidden_size"]
    values = {k: np.concatenate([v[:1]] * D) for k, v in case.values.items() if k in "WRBP"}
    N, I = 3, case.values["W"].shape[2]
    values["X"] = np.zeros((0, N, I), np.float32)
    values["initial_h"] = rng.normal(size=(D, N, H)).astype(np.float32)
    outputs: tuple[str, ...] = ("Y", "Y_h")
    if op == "LSTM":
        values["initial_c"] = rng.normal(size=(D, N, H)).astype(np.float32)
        outputs += ("Y_c",)
    empty = NodeCase(
        op, {"hidden_size": H, "direction": direction}, values, outputs=outputs, opset=17
    )
    found = gr.load(empty.model()).run_graph(empty.feed)
    assert found["Y"].shape == (0, D, N, H)
    np.testing.assert_array_equal(found["Y_h"], values["initial_h"])
    if op == "LSTM":
        np.testing.assert_array_equal(found["Y_c"], values["initial_c"])


@pytest.mark.parametrize("lengths", [[-1, 2, 2], [2, 2, 5]])
def test_lengths_outside_the_sequence_are_refused(lengths: list[int]) -> None:
    rng = np.random.default_rng(1)
    values = {
        "X": rng.normal(size=(4, 3, 2)).astype(np.float32),
        "W": rng.normal(size=(1, 20, 2)).astype(np.float32),
        "R": rng.normal(size=(1, 20, 5)).astype(np.float32),
        "sequence_lens": np.array(lengths, np.int32),
    }
    case = NodeCase("LSTM", {"hidden_size": 5}, values)
    with pytest.raises(gr.InvalidInputError, match="from 0 to 4"):
        gr.load(case.model()).run_graph(case.feed)
