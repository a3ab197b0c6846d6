# SPDX-License-Identifier: MIT
"""The parameters of a model while it is trained: one writable array each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gruengine.layer_base import Array


class Parameters:
    """Owns the arrays that an optimizer writes; the layers see them read-only.

    values : writable arrays by ``layer.key``
    """

    def __init__(self, net: Any) -> None:
        self.net = net
        net.parameters()  # says so if the model is not built
        self.values: dict[str, Array] = {}
        self._views: dict[str, Array] = {}
        self.adopt()

    def adopt(self) -> None:
        """Take over parameters that were replaced from outside."""
        for name, layer, key in self._places():
            if layer.params[key] is self._views.get(name):
                continue
            value = np.array(layer.params[key], np.float32, order="C")
            view = value.view()
            view.flags.writeable = False
            self.values[name], self._views[name] = value, view
            layer.params[key] = view

    def set(self, values: Mapping[str, Array]) -> None:
        """Write all parameters."""
        self.adopt()
        for name, value in self.values.items():
            value[...] = values[name]
        self.net.changed()

    def gradients(self) -> dict[str, Array]:
        """Return the gradients that backprop added up, by ``layer.key``; not copies."""
        return {
            name: layer.gradients[key]
            for name, layer, key in self._places()
            if key in layer.gradients
        }

    def clear_gradients(self) -> None:
        """Forget them."""
        for layer in self.net.layers:
            layer.gradients.clear()

    def _places(self) -> list[tuple[str, Any, str]]:
        return [
            (f"{layer.name}.{key}", layer, key) for layer in self.net.layers for key in layer.params
        ]
