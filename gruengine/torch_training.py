# SPDX-License-Identifier: MIT
"""Recurrent layers of a live PyTorch model forward and backward, for ``gruengine.torch``."""

# Imported by gruengine.torch alone: `import gruengine` needs no torch.
from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import torch  # noqa: TID253

from gruengine import torch_spec
from gruengine._core import RecurrentTraining
from gruengine.converters import gates
from gruengine.errors import UnsupportedError

Array = np.ndarray[Any, Any]


def run(module: Any, kind: str, threads: int, x: Any, h: Any, c: Any, lengths: Any) -> Any:
    """Run a module so that gradients flow through it.

    Parameters
    ----------
    module : nn.RNN, nn.LSTM or nn.GRU, float32 on the CPU
    kind : {"rnn", "lstm", "gru"}
    x : tensor [T, N, I]
    h, c : tensor [L*D, N, K], [L*D, N, H], or None for zeros
    lengths : tensor of int64 [N], or None

    Returns
    -------
    (y [T, N, D*K], h, c), c being None but for an LSTM
    """
    after_h, after_c = [], []
    places = torch_spec.places_of(module)
    directions = len(places[0])
    for layer, ways in enumerate(places):
        if layer > 0 and module.training and module.dropout > 0:
            x = torch.nn.functional.dropout(x, module.dropout, True)
        rows = slice(layer * directions, (layer + 1) * directions)
        states = [None if one is None else one[rows].contiguous() for one in (h, c)]
        part = _Part(module, kind, threads, ways, x.shape[-1], lengths)
        x, *after = _Layer.apply(part, x, *states, *part.parameters)
        after_h.append(after[0])
        after_c += after[1:]
    return x, torch.cat(after_h), torch.cat(after_c) if after_c else None


@functools.lru_cache(maxsize=64)
def _engine(attributes: str, inputs: int, hidden: int, threads: int) -> RecurrentTraining:
    """Return an engine; it keeps nothing of a pass, so that all modules of its sizes share it."""
    return RecurrentTraining(json.loads(attributes), inputs, hidden, threads)


class _Part:
    """One layer of a module: its parameters, and the engine that trains it."""

    def __init__(
        self, module: Any, kind: str, threads: int, ways: tuple[str, ...], inputs: int, lengths: Any
    ) -> None:
        self.kind, self.hidden = kind, module.hidden_size
        self.names = torch_spec.kinds_of(module)
        self.parameters = [module._parameters[name + way] for way in ways for name in self.names]
        attrs = torch_spec.attributes_of(module, kind, len(ways))
        self.engine = _engine(json.dumps(attrs), inputs, self.hidden, threads)
        self.lengths = None if lengths is None else lengths.numpy()

    def operands(self, arrays: list[Array]) -> dict[str, Array]:
        """Return the engine's W, R, B and projection of the parameters."""
        count = len(self.names)
        ways = [arrays[at : at + count] for at in range(0, len(arrays), count)]
        found = [dict(zip(self.names, way, strict=True)) for way in ways]
        return torch_spec.operands_of(found, self.kind, self.hidden)

    def gradients(self, dw: Array, dr: Array, db: Array | None, dp: Array | None) -> list[Any]:
        """Return the gradients of the parameters, in their order and in PyTorch's order of gates.

        Parameters
        ----------
        dw [D, G*H, I], dr [D, G*H, K], db [D, 2*G*H] or None, dp [D, K, H] or None
        """
        found: list[Any] = []
        for way in range(len(dw)):
            parts: dict[str, Array] = {"weight_ih": dw[way], "weight_hh": dr[way]}
            if db is not None:
                parts["bias_ih"], parts["bias_hh"] = np.split(db[way], 2)
            parts = {name: gates.rows_to(one, self.kind, "torch") for name, one in parts.items()}
            if dp is not None:
                parts["weight_hr"] = dp[way]
            found += [torch.from_numpy(parts[name]) for name in self.names]
        return found


class _Layer(torch.autograd.Function):  # type: ignore[misc]
    """One layer, both directions: (y, h) or (y, h, c) of x, the states and the parameters."""

    @staticmethod
    def forward(ctx: Any, part: _Part, x: Any, h: Any, c: Any, *parameters: Any) -> Any:
        arrays = part.operands([one.detach().numpy() for one in parameters])
        states = [None if one is None else one.detach().numpy() for one in (h, c)]
        given = [arrays["W"], arrays["R"], arrays.get("B"), None, arrays.get("projection")]
        rest: Any = (*given, *states, part.lengths)
        y, *after, tape = part.engine.forward(x.detach().contiguous().numpy(), *rest)
        # Saved so that PyTorch finds changes in place before the backward pass.
        ctx.save_for_backward(x, *parameters)
        ctx.part, ctx.tape, ctx.given = part, tape, (h is not None, c is not None)
        ctx.set_materialize_grads(False)
        return tuple(torch.from_numpy(one) for one in (y, *after) if one is not None)

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        if torch.is_grad_enabled():
            raise UnsupportedError(
                "create_graph=True asks for gradients of gradients, which the engine does not "
                "compute; gruengine.torch.revert(module) lets PyTorch do it"
            )
        _ = ctx.saved_tensors
        outer = [None if one is None else one.contiguous().numpy() for one in upstream]
        wants = ctx.needs_input_grad[1]
        found = ctx.part.engine.backward(ctx.tape, *outer, input_gradient=wants)
        dx, dw, dr, db, _, dprojection, *_, dh0, dc0 = found
        states = [
            torch.from_numpy(one) if given and one is not None else None
            for one, given in zip((dh0, dc0), ctx.given, strict=True)
        ]
        parameters = ctx.part.gradients(dw, dr, db, dprojection)
        return None, torch.from_numpy(dx) if wants else None, *states, *parameters
