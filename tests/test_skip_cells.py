# SPDX-License-Identifier: MIT
"""Skip RNN, LSTM and GRU beside PyTorch written out: values, and gradients straight through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gruengine as gr
from gruengine import _core
from gruengine.reference_checks import GATES
from gruengine.reference_training import RecurrentTraining

CELLS: dict[str, dict[str, Any]] = {
    "rnn": {"cell": "rnn"},
    "lstm": {"cell": "lstm"},
    "gru": {"cell": "gru", "reset": "after", "update": "keep"},
    "gru before": {"cell": "gru", "reset": "before", "update": "take"},
}
T, N, I, H = 9, 6, 3, 17


class Straight(torch.autograd.Function):
    """The decision: 1 from one half on; its derivative is taken for 1."""

    @staticmethod
    def forward(ctx: Any, p: torch.Tensor) -> torch.Tensor:
        return (p >= 0.5).to(p.dtype)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> torch.Tensor:
        return dy


def cell_step(name, x, h, c, W, R, b):
    """One step of the plain cell in the operator's order of gates."""
    b_w, b_r = b.chunk(2)
    if name == "rnn":
        return torch.tanh(x @ W.T + b_w + h @ R.T + b_r), c
    if name == "lstm":
        i, o, f, g = (x @ W.T + b_w + h @ R.T + b_r).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
    wz, wr, wn = (x @ W.T + b_w).chunk(3, 1)
    Rz, Rr, Rn = R.chunk(3)
    bz, br, bn = b_r.chunk(3)
    z, r = (wz + h @ Rz.T + bz).sigmoid(), (wr + h @ Rr.T + br).sigmoid()
    if name == "gru":
        return (1 - z) * torch.tanh(wn + r * (h @ Rn.T + bn)) + z * h, c
    return (1 - z) * h + z * torch.tanh(wn + (r * h) @ Rn.T + bn), c


def torch_run(name, v, lengths, cost, gradients):
    """Return outputs, how many updates there were, and all gradients."""
    v = {k: torch.tensor(a, dtype=torch.float64, requires_grad=True) for k, a in v.items()}
    W, R, b, skip = v["W"][0], v["R"][0], v["B"][0], v["skip"][0]
    h, c, left = v["h0"][0], v["c0"][0][:, :-1], v["c0"][0][:, -1:]
    p_sum, ys, updates = 1 - left, [], 0.0
    for t in range(T):
        live = torch.tensor(t < lengths)[:, None]
        u = Straight.apply(p_sum)
        h_new, c_new = cell_step(name, v["x"][t], h, c, W, R, b)
        h_next = u * h_new + (1 - u) * h
        c_next = u * c_new + (1 - u) * c
        p = torch.sigmoid(h_next @ skip[:-1, None] + skip[-1])
        p_next = u * p + (1 - u) * (p_sum + torch.minimum(p, 1 - p_sum))
        h, c = torch.where(live, h_next, h), torch.where(live, c_next, c)
        p_sum = torch.where(live, p_next, p_sum)
        ys.append(torch.where(live, h, torch.zeros_like(h)))
        updates = updates + torch.where(live, u, torch.zeros_like(u)).sum()
    y, state = torch.stack(ys), torch.cat([c, 1 - p_sum], 1)
    dy, dh, dc = (torch.tensor(g, dtype=torch.float64) for g in gradients)
    loss = (y * dy).sum() + (h * dh[0]).sum() + (state * dc[0]).sum() + cost / N * updates
    loss.backward()
    done = {"y": y, "h": h[None], "c": state[None]}
    return ({k: a.detach().numpy() for k, a in done.items()}, float(updates.detach()),
            {k: a.grad.numpy() for k, a in v.items()})  # fmt: skip


@pytest.mark.parametrize("cost", [0.0, 0.7])
@pytest.mark.parametrize("name", CELLS)
def test_gradients_go_straight_through_the_decision(isa, name, cost, rng):
    cell = CELLS[name]["cell"]
    G, C = GATES[cell], (H if cell == "lstm" else 0) + 1
    shapes = {"x": (T, N, I), "W": (1, G * H, I), "R": (1, G * H, H), "B": (1, 2 * G * H),
              "h0": (1, N, H), "c0": (1, N, C), "skip": (1, H + 1)}  # fmt: skip
    v = {k: rng.normal(0, 0.5, s).astype(np.float32) for k, s in shapes.items()}
    v["c0"][..., -1] = rng.random((1, N))
    v["skip"][:, -1] = -0.5
    gradients = [rng.normal(size=s).astype(np.float32)
                 for s in ((T, N, H), shapes["h0"], shapes["c0"])]  # fmt: skip
    lengths = np.array([9, 4, 9, 1, 7, 8])
    wanted, updates, slopes = torch_run(name, v, lengths, cost, gradients)
    assert 0.1 < updates / lengths.sum() < 0.95
    for kind, near in ((_core.RecurrentTraining, 1e-5), (RecurrentTraining, 1e-12)):
        layer = kind({**CELLS[name], "hidden_size": H, "skip_cost": cost}, I, H)
        y, h, c, tape = layer.forward(**v, lengths=lengths)
        for got, key in ((y, "y"), (h, "h"), (c, "c")):
            np.testing.assert_allclose(got, wanted[key], rtol=0, atol=near)
        dx, dW, dR, dB, *_, dskip, dh0, dc0 = layer.backward(tape, *gradients)
        found = {"x": dx, "W": dW, "R": dR, "B": dB, "skip": dskip, "h0": dh0, "c0": dc0}
        for key, slope in slopes.items():
            error = np.linalg.norm(found[key] - slope) / np.linalg.norm(slope)
            assert error <= near, key


def test_a_cost_of_updates_makes_them_rarer():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 40, 2)).astype(np.float32)
    target = x[:, 0, :1]
    shares = []
    for cost in (0.0, 0.05):
        layer = gr.GRU(16, skip=True, skip_cost=cost)
        net = gr.Sequential([layer, gr.Dense(1)], input_size=2, seed=3)
        trainer = gr.Trainer(net, "mse", gr.optimizers.Adam(1e-2), seed=1, clip_norm=1.0)
        for _ in range(120):
            trainer.step(x, target)
        shares.append(gr.diagnostics.record_gates(net, x)["gru"]["u"].mean())
    assert shares[1] < 0.5 * shares[0]
