# SPDX-License-Identifier: MIT
"""From a ``Recurrent`` node to the layer that has its weights as parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from gruengine.layer_base import Array
from gruengine.layer_cells import GRU, LSTM, RNN
from gruengine.layer_recurrent import EXTRAS, Recurrent
from gruengine.spec import Node


def recurrent_layer(
    node: Node, constants: Sequence[Array | None], sequences: bool
) -> tuple[Recurrent | None, dict[str, Any]]:
    """Return a layer and its parameters; or None and ``{"why": ...}``.

    Parameters
    ----------
    node : a ``Recurrent`` node.
    constants : its twelve inputs, None where absent or computed.
    sequences : the layer gives every output.
    """
    attrs = node.attrs
    cell, H = str(attrs["cell"]), int(attrs["hidden_size"])  # type: ignore[arg-type]
    if attrs["direction"] == "reverse":
        return None, {"why": "reads backwards alone"}
    W, R, B = constants[1:4]
    assert W is not None
    assert R is not None
    D = W.shape[0]
    B = np.zeros((D, 2 * W.shape[1]), np.float32) if B is None else B
    options: dict[str, Any] = {
        "return_sequences": sequences, "bidirectional": D == 2,
        "clip": float(attrs.get("clip", 0.0)),  # type: ignore[arg-type]
    }  # fmt: skip
    zoneout: Any = attrs.get("zoneout", [0.0, 0.0])
    options["zoneout"] = tuple(zoneout)
    options["skip"] = constants[11] is not None
    extras = {key: value for key, value in zip(EXTRAS, constants[7:], strict=True)
              if value is not None}  # fmt: skip
    names = attrs["activations"]
    assert isinstance(names, list)
    half = len(names) // D
    if names[:half] * D != names:
        return None, {"why": "has other activations in each direction"}
    own = [str(name) for name in names[:half]]
    summed: Array = np.add(*np.split(B, 2, axis=1))
    if cell == "rnn":
        if own[0] not in ("Tanh", "Relu"):
            return None, {"why": f"has the activation {own[0]}"}
        return RNN(H, own[0].lower(), **options), {"W": W, "R": R, "b": summed, **extras}
    if cell == "gru":
        if own != ["Sigmoid", "Tanh"]:
            return None, {"why": f"has the activations {own}"}
        reset = str(attrs["reset"])
        layer = GRU(H, reset=reset, update=str(attrs["update"]), **options)
        return layer, {"W": W, "R": R, "b": B if reset == "after" else summed, **extras}
    return _lstm(node, own, H, options, {"W": W, "R": R, "b": summed, **extras})


def _lstm(
    node: Node,
    names: list[str],
    H: int,
    options: dict[str, Any],
    values: dict[str, Array],
) -> tuple[Recurrent | None, dict[str, Any]]:
    if names != ["Sigmoid", "Tanh", "Tanh"]:
        return None, {"why": f"has the activations {names}"}
    coupled = bool(node.attrs.get("coupled", 0))
    if coupled:  # rows i, o, f, c without f
        keep = np.r_[0 : 2 * H, 3 * H : 4 * H]
        values |= {key: values[key][:, keep] for key in ("W", "R", "b")}
        if "P" in values:
            values["P"] = values["P"][:, : 2 * H]
    projection = values.get("projection")
    layer = LSTM(
        H, peepholes="P" in values, coupled=coupled, full_gates="gate_recurrence" in values,
        layer_norm="norm" in values, norm_epsilon=cast(float, node.attrs.get("norm_epsilon", 1e-5)),
        projection=None if projection is None else projection.shape[1], **options,
    )  # fmt: skip
    return layer, values


def last_of(node: Node, tensors: dict[str, Array], rank: int) -> int | None:
    """Return the axis of which a Gather or Slice takes the last element, None for others."""
    if node.op == "Gather":
        at = tensors.get(node.inputs[1])
        axis = int(node.attrs.get("axis", 0))  # type: ignore[arg-type]
        return axis % rank if at is not None and at.size == 1 and int(at.flat[0]) == -1 else None
    return None
