# SPDX-License-Identifier: MIT
"""Where training meets the compiled engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from gruengine.spec import Attr


def recurrent_training(
    attrs: dict[str, Attr], input_size: int, hidden_size: int, num_threads: int
) -> Any:
    """Return the training form of a ``Recurrent`` node."""
    from gruengine import _core

    if not hasattr(_core, "RecurrentTraining"):
        from gruengine.reference_training import RecurrentTraining

        class Float32(RecurrentTraining):
            def forward(self, *args: Any) -> Any:
                y, h, c, tape = super().forward(*args)
                return (*(None if a is None else a.astype(np.float32) for a in (y, h, c)), tape)

            def backward(self, *args: Any) -> Any:
                found = super().backward(*args)
                return tuple(None if a is None else a.astype(np.float32) for a in found)

        return Float32(attrs, input_size, hidden_size, num_threads)
    return _core.RecurrentTraining(attrs, input_size, hidden_size, num_threads)
