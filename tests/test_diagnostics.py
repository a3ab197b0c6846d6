# SPDX-License-Identifier: MIT
"""Gradients through time beside PyTorch's, gates beside the layer's own outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gruengine as gr
from gruengine.diagnostics import (
    gradient_flow,
    plot_gates,
    plot_gradient_flow,
    record_gates,
)
from gruengine.layer_base import State

N, T, I, H = 3, 7, 4, 5


def net_of(*layers, seed=1):
    net = gr.Sequential(layers, input_size=I)
    rng = np.random.default_rng(seed)
    shapes = {name: value.shape for name, value in net.parameters().items()}
    net.set_parameters({name: rng.normal(0, 0.5, shape) for name, shape in shapes.items()})
    return net, rng.normal(size=(N, T, I)).astype(np.float32)


def test_the_flow_is_torchs_gradient_of_each_output():
    net, x = net_of(gr.GRU(H), gr.Dense(2))
    layer, head = net.layers
    cell = torch.nn.GRUCell(I, H)
    order = [1, 0, 2]

    def rows(value):
        return torch.from_numpy(np.concatenate([np.split(value, 3)[i] for i in order]))

    b, b_r = np.split(layer.params["b"][0], 2)
    weights = {key: rows(layer.params[key][0]) for key in ("W", "R")}
    cell.load_state_dict({"weight_ih": weights["W"], "bias_ih": rows(b),
                          "weight_hh": weights["R"], "bias_hh": rows(b_r)})  # fmt: skip
    h, kept = torch.zeros(N, H), []
    for t in range(T):
        h = cell(torch.from_numpy(x[:, t]), h)
        h.retain_grad()
        kept.append(h)
    W, shift = torch.from_numpy(head.params["W"].copy()), torch.from_numpy(head.params["b"].copy())
    target = np.ones((N, 2), np.float32)
    torch.nn.functional.mse_loss(h @ W + shift, torch.from_numpy(target)).backward()
    wanted = [float(h.grad.norm()) for h in kept]
    found = gradient_flow(net, x, target)
    assert set(found) == {"gru"}
    np.testing.assert_allclose(found["gru"], wanted, rtol=1e-4)


@pytest.mark.parametrize("make", [gr.RNN, gr.LSTM, gr.GRU])
def test_stacks_in_both_directions(make):
    """The norm at the first step is that of the gradient by a state before the sequence."""
    net, x = net_of(make(H, num_layers=2, bidirectional=True, return_sequences=True), gr.Dense(2))
    rng = np.random.default_rng(3)
    state = tuple(
        State(rng.normal(size=(2, N, H)).astype(np.float32),
              rng.normal(size=(2, N, H)).astype(np.float32) if make is gr.LSTM else None)
        for _ in range(2)
    )  # fmt: skip
    dy = rng.normal(size=(N, T, 2)).astype(np.float32)
    flow = gradient_flow(net, x, dy=dy, state=state)
    name = net.layers[0].name
    assert set(flow) == {f"{name}{level}{tail}" for level in ("", "_l1")
                         for tail in ("", "_reverse")}  # fmt: skip
    assert all(norms.shape == (T,) and (norms > 0).all() for norms in flow.values())
    # Cut after the first step, the gradient by the state there is dL/dh_1 without its own output.
    last = make(H, return_sequences=True)
    single, x = net_of(last)
    only_last = np.zeros((N, T, H), np.float32)
    only_last[:, -1] = 1
    flow = gradient_flow(single, x, dy=only_last)[last.name]
    _, before, _ = single.begin_update(x[:, :1])
    _, _, backprop = single.begin_update(x[:, 1:], before)
    _, (start,) = backprop(only_last[:, 1:])
    assert flow[0] == pytest.approx(np.linalg.norm(start.h), rel=1e-4)


@pytest.mark.parametrize("make", [gr.RNN, gr.LSTM, gr.GRU])
def test_gates_give_the_outputs(make):
    net, x = net_of(make(H, num_layers=2, bidirectional=True, return_sequences=True), gr.Dense(2))
    layer = net.layers[0]
    inner = gr.Sequential([make(H, num_layers=2, bidirectional=True, return_sequences=True)], I)
    inner.set_parameters({k: v for k, v in net.parameters().items() if not k.startswith("dense")})
    found = record_gates(net, x)
    top = np.concatenate([found[f"{layer.name}_l1"]["h"], found[f"{layer.name}_l1_reverse"]["h"]],
                         -1)  # fmt: skip
    np.testing.assert_allclose(top.swapaxes(0, 1), inner(x), rtol=1e-4, atol=1e-5)
    letters = {gr.RNN: "h", gr.LSTM: "iofgch", gr.GRU: "zrnh"}[make]
    assert set(found[layer.name]) == set(letters)
    for gates in found.values():
        assert all(value.shape == (T, N, H) for value in gates.values())
    if make is gr.LSTM:
        g = found["lstm"]
        np.testing.assert_allclose(g["c"][1:], g["f"][1:] * g["c"][:-1] + g["i"][1:] * g["g"][1:])
        np.testing.assert_allclose(g["h"], g["o"] * np.tanh(g["c"]))


def test_plots(tmp_path):
    import matplotlib

    matplotlib.use("Agg")
    net, x = net_of(gr.LSTM(H), gr.Dense(2))
    ax = plot_gradient_flow(gradient_flow(net, x, dy=np.ones((N, 2))))
    assert ax.get_yscale() == "log"
    ax.figure.savefig(tmp_path / "flow.png")
    gates = plot_gates(record_gates(net, x)["lstm"], row=1)
    assert [line.get_label() for line in gates.lines] == ["i", "o", "f", "g", "c", "h"]
    matplotlib.pyplot.close("all")


def test_refusals():
    net, x = net_of(gr.GRU(H))
    with pytest.raises(gr.InvalidInputError, match="either a target or dy"):
        gradient_flow(net, x)
    with pytest.raises(gr.InvalidInputError, match=r"dy has shape \(3, 2\)"):
        gradient_flow(net, x, dy=np.ones((3, 2)))
