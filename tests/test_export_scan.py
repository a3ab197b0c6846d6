# SPDX-License-Identifier: MIT
"""Cells that ONNX's own operators cannot say, as a Scan, in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from export_specs import H, feed, recurrent_spec, refusals

from gruengine.converters.to_keras import to_keras
from gruengine.converters.to_onnx import to_onnx
from gruengine.converters.to_torch import to_state_dict
from gruengine.model import Model
from gruengine.reference_checks import state_size
from gruengine.reference_graph import run_graph
from gruengine.spec import Port

# name -> cell, attributes, which weights surround it.
CASES = {
    "projection": ("lstm", {"clip": 0.8}, ("P", "projection")),
    "coupled zoneout": ("lstm", {"coupled": 1, "zoneout": [0.1, 0.4]}, ("P",)),
    "other activations": (
        "lstm",
        {"activations": ["HardSigmoid", "Elu", "Affine"], "activation_alpha": [0.3, 0.7, 1.0],
         "activation_beta": [0.4, 0.0, 0.0]},
        ("projection",),
    ),
    "full gates": ("lstm", {}, ("P", "gate_recurrence")),
    "norm": ("lstm", {"norm_epsilon": 1e-3}, ("norm", "projection")),
    "norm, full gates, skip": ("lstm", {}, ("norm", "gate_recurrence", "skip")),
    "skip lstm": ("lstm", {}, ("skip",)),
    "skip gru": ("gru", {"update": "take"}, ("skip",)),
    "skip gru before": ("gru", {"reset": "before"}, ("skip",)),
    "zoneout gru": ("gru", {"zoneout": [0.3, 0.0], "clip": 0.5}, ()),
    "zoneout rnn": ("rnn", {"zoneout": [0.3, 0.0], "activations": ["Relu"]}, ()),
}  # fmt: skip


def spec_of(name, rng, directions, lengths):
    """A node with initial states and every output."""
    cell, attrs, weights = CASES[name]
    attrs = {k: v * directions if k.startswith("activation") else v for k, v in attrs.items()}
    spec = recurrent_spec(cell, rng, directions=directions, lengths=lengths, **attrs)
    node, D = spec.graph.nodes[0], directions
    K = 4 if "projection" in weights else H
    C = state_size(cell, H, "gate_recurrence" in weights, "skip" in weights)
    shapes = {"P": (D, 3 * H), "projection": (D, K, H), "gate_recurrence": (D, 3 * H, 3 * H),
              "norm": (D, 10 * H), "skip": (D, K + 1)}  # fmt: skip
    spec.tensors["R"] = spec.tensors["R"][:, :, :K].copy()
    inputs = ["x", "W", "R", "B", "lengths" if lengths else "", "h", "c" if C else "", *[""] * 5]
    for place, key in enumerate(shapes, 7):
        if key in weights:
            spec.tensors[key] = rng.normal(0, 0.5, shapes[key]).astype(np.float32)
            inputs[place] = key
    if "skip" in weights:
        spec.tensors["skip"][:, :-1] *= 6
    sizes = {"h": K, "h_out": K, "c": C, "c_out": C, "y": K}
    outputs = ["y", "h_out", *(["c_out"] if C else [])]
    node = type(node)("Recurrent", tuple(inputs), tuple(outputs), node.attrs, "cell")
    spec.graph.nodes[0] = node
    for ports in (spec.graph.inputs, spec.graph.outputs):
        for at, port in enumerate(ports):
            if port.name in sizes:
                shape = (*port.shape[:-1], sizes[port.name])
                ports[at] = Port(port.name, port.dtype, shape)
    if C and cell != "lstm":
        spec.graph.inputs.append(Port("c", "float32", (D, "N", C)))
        spec.graph.outputs.append(Port("c_out", "float32", (D, "N", C)))
    spec.validate()
    return spec


@pytest.mark.parametrize("lengths", [None, "int64"], ids=["whole", "lengths"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_onnx_runtime_computes_the_same(name, directions, lengths, rng):
    spec = spec_of(name, rng, directions, lengths)
    data = to_onnx(spec)
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    given = feed(spec, rng)
    if "skip" in CASES[name][2]:
        given["c"][..., -1] = rng.random(given["c"].shape[:-1])
    if lengths:
        given["lengths"] = np.array([6, 0, 4], np.int64)
    found = ort.InferenceSession(data).run(None, given)
    exact = run_graph(spec.graph, spec.tensors, given)
    model = Model.from_spec(spec)
    ours = model(given)
    for got, port in zip(found, spec.graph.outputs, strict=True):
        own = ours[port.name]
        np.testing.assert_allclose(got, exact[port.name], atol=2e-5, err_msg=port.name)
        np.testing.assert_allclose(own, exact[port.name], atol=2e-5, err_msg=port.name)


def test_reverse_alone_and_states_of_zeros(rng):
    spec = spec_of("norm, full gates, skip", rng, 1, "int32")
    node = spec.graph.nodes[0]
    node.attrs["direction"] = "reverse"
    inputs = [name if name not in ("h", "c") else "" for name in node.inputs]
    spec.graph.nodes[0] = type(node)("Recurrent", tuple(inputs), ("y",), node.attrs, "cell")
    spec.graph.inputs[:] = [p for p in spec.graph.inputs if p.name not in ("h", "c")]
    spec.graph.outputs[:] = spec.graph.outputs[:1]
    given = feed(spec, rng)
    y = ort.InferenceSession(to_onnx(spec)).run(None, given)[0]
    np.testing.assert_allclose(y, run_graph(spec.graph, spec.tensors, given)["y"], atol=2e-5)
    np.testing.assert_allclose(y, Model.from_spec(spec)(given), atol=2e-5)


@pytest.mark.parametrize("run", [to_state_dict, to_keras])
def test_formats_of_weights_refuse_variants(run, rng):
    spec = spec_of("norm, full gates, skip", rng, 1, None)
    spec.graph.nodes[0].attrs["zoneout"] = [0.0, 0.0]
    found = refusals(run, spec)
    for what in ("full gate recurrence", "layer normalisation", "skipped steps"):
        assert f"{what}: no cell of PyTorch or Keras has it" in found
