# SPDX-License-Identifier: MIT
"""A recurrent cell with its weights and all that surrounds it: a step, and the step's derivative.

Float64 NumPy; letters as in ``reference.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gruengine.reference import (
    GruStep,
    LstmStep,
    RnnStep,
    activations_of,
    gru_step,
    lstm_step,
    rnn_step,
    stepper,
)
from gruengine.reference_activations import Activation, Array
from gruengine.reference_backward import (
    StepGradient,
    gru_step_backward,
    lstm_step_backward,
    rnn_step_backward,
)
from gruengine.reference_checks import GATES, state_size
from gruengine.reference_variants import LstmRowStep, lstm_row_step, surrounded, variant_of
from gruengine.reference_variants_backward import (
    lstm_row_step_backward,
    skip_backward,
    zoneout_backward,
)


class Cell:
    """One direction of a ``Recurrent`` node.

    Parameters
    ----------
    attrs : of the node.
    operands : W, R, B and what else the cell has, float64, without the axis of directions.
    acts : the activations of the cell.
    """

    def __init__(
        self, attrs: Mapping[str, Any], operands: Mapping[str, Array], acts: Sequence[Activation]
    ) -> None:
        self.kind = str(attrs["cell"])
        self.clip = float(attrs.get("clip", 0.0))
        self.coupled = bool(attrs.get("coupled", 0))
        self.reset = str(attrs.get("reset", "after"))
        self.update = str(attrs.get("update", "keep"))
        self.acts, self.operands = acts, dict(operands)
        self.weights = (operands["W"], operands["R"], operands["B"])
        self.P, self.projection = operands.get("P"), operands.get("projection")
        self.variant = variant_of(
            operands, attrs.get("zoneout", (0.0, 0.0)), float(attrs.get("norm_epsilon", 1e-5))
        )
        self.H = len(operands["W"]) // GATES[self.kind]
        fed, skips = (getattr(self.variant, k) is not None for k in ("gate_recurrence", "skip"))
        self.state_size = state_size(self.kind, self.H, fed, skips)
        self.inner = stepper(
            self.kind, *self.weights, self.P, self.projection, acts, self.clip, self.coupled,
            self.reset, self.update, self.variant,
        )  # fmt: skip

    def step(
        self, x: Array, h: Array, c: Array, keep_h: Array | None = None, keep_c: Array | None = None
    ) -> tuple[Array, Array]:
        """Return h [N, K] and c [N, C] after a step; ``keep_h``, ``keep_c`` are zoneout's masks."""
        return surrounded(self.inner, self.variant, self.H, keep_h, keep_c)(x, h, c)

    def whole_step(
        self, x: Array, h: Array, c: Array
    ) -> RnnStep | LstmStep | LstmRowStep | GruStep:
        """Return a step with all its gates, and nothing around it."""
        if self.kind == "rnn":
            return rnn_step(x, h, *self.weights, f=self.acts[0], clip=self.clip)
        f, g = self.acts[:2]
        if self.kind == "gru":
            return gru_step(
                x, h, *self.weights, f=f, g=g, clip=self.clip, reset=self.reset, update=self.update
            )
        if self.variant.by_rows:
            return lstm_row_step(x, h, c, *self.weights, self.variant, self.P, self.projection)
        return lstm_step(
            x, h, c, *self.weights, peepholes=self.P, projection=self.projection, f=f, g=g,
            h_act=self.acts[2], clip=self.clip, coupled=self.coupled,
        )  # fmt: skip

    def backward(
        self,
        x: Array,
        h: Array,
        c: Array,
        dh: Array,
        dc: Array,
        keep_h: Array | None = None,
        keep_c: Array | None = None,
        *,
        update_cost: float = 0.0,
    ) -> StepGradient:
        """Return the gradients of a step from ``(x, h, c)``, given those of what it returned.

        Parameters
        ----------
        update_cost : what an update that is not skipped adds to the loss.
        """

        def derivative(h: Array, c: Array, dh: Array, dc: Array) -> StepGradient:
            return self._inner_backward(x, h, c, dh, dc)

        if self.variant.skip is not None:
            return skip_backward(
                self.inner, derivative, self.variant.skip, update_cost, x, h, c, dh, dc
            )
        share_h, share_c = self.variant.zoneout
        return zoneout_backward(
            derivative, h, c, dh, dc, share_h if keep_h is None else keep_h,
            share_c if keep_c is None else keep_c, self.H,
        )  # fmt: skip

    def _inner_backward(self, x: Array, h: Array, c: Array, dh: Array, dc: Array) -> StepGradient:
        if self.variant.by_rows:
            return lstm_row_step_backward(
                x, h, c, *self.weights, dh, dc, variant=self.variant, peepholes=self.P,
                projection=self.projection,
            )  # fmt: skip
        if self.kind == "lstm":
            return lstm_step_backward(
                x, h, c, *self.weights, dh, dc, peepholes=self.P, projection=self.projection,
                acts=self.acts, clip=self.clip, coupled=self.coupled,
            )  # fmt: skip
        if self.kind == "rnn":
            found = rnn_step_backward(x, h, *self.weights, dh, f=self.acts[0], clip=self.clip)
        else:
            found = gru_step_backward(
                x, h, *self.weights, dh, acts=self.acts, clip=self.clip, reset=self.reset,
                update=self.update,
            )  # fmt: skip
        return found._replace(dc=dc)  # the step hands c on as it is


class MaskedCell(Cell):
    """A cell whose recurrent product sees ``mask * h``: as if each row had an R of its own.

    Parameters
    ----------
    mask : [N, K], the same for all steps.
    """

    def __init__(
        self,
        attrs: Mapping[str, Any],
        operands: Mapping[str, Array],
        acts: Sequence[Activation],
        mask: Array,
    ) -> None:
        super().__init__(attrs, operands, acts)
        self.mask = mask
        self.rows = [Cell(attrs, {**operands, "R": operands["R"] * row}, acts) for row in mask]

    def step(
        self, x: Array, h: Array, c: Array, keep_h: Array | None = None, keep_c: Array | None = None
    ) -> tuple[Array, Array]:
        """See Cell."""
        given = _by_rows(len(self.rows), x, h, c, keep_h, keep_c)
        parts = [cell.step(*own) for cell, own in zip(self.rows, given, strict=True)]
        h_new, c_new = (np.concatenate(part) for part in zip(*parts, strict=True))
        return h_new, c_new

    def backward(
        self,
        x: Array,
        h: Array,
        c: Array,
        dh: Array,
        dc: Array,
        keep_h: Array | None = None,
        keep_c: Array | None = None,
        *,
        update_cost: float = 0.0,
    ) -> StepGradient:
        """See Cell."""
        given = _by_rows(len(self.rows), x, h, c, dh, dc, keep_h, keep_c)
        parts = [
            cell.backward(*own, update_cost=update_cost)
            for cell, own in zip(self.rows, given, strict=True)
        ]
        dx, dh, dc = (np.concatenate([part[i] for part in parts]) for i in range(3))
        by = {key: np.concatenate([part.by[key] for part in parts]) for key in parts[0].by}
        by["R"] = by["R"] * self.mask[:, None, :]
        return StepGradient(dx, dh, dc, by)


def _by_rows(count: int, *arrays: Array | None) -> list[list[Any]]:
    return [[None if a is None else a[n : n + 1] for a in arrays] for n in range(count)]


def cells_of(
    attrs: Mapping[str, Any], operands: Mapping[str, Array], masks: Array | None = None
) -> list[Cell]:
    """Return the cell of each direction of a ``Recurrent`` node.

    Parameters
    ----------
    operands : the constant inputs of the node by name, float64, ``[D, ...]``.
    masks : [D, N, K], what the recurrent product sees of h.
    """
    D = len(operands["W"])
    acts = activations_of(
        str(attrs["cell"]), D, attrs.get("activations"), attrs.get("activation_alpha"),
        attrs.get("activation_beta"),
    )  # fmt: skip
    own = [{name: value[d] for name, value in operands.items()} for d in range(D)]
    if masks is None:
        return [Cell(attrs, own[d], acts[d]) for d in range(D)]
    return [MaskedCell(attrs, own[d], acts[d], masks[d]) for d in range(D)]
