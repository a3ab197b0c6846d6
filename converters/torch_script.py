# SPDX-License-Identifier: MIT
"""The weights of a TorchScript archive as a state dict. Its code is not read."""

from __future__ import annotations

from typing import Any

import numpy as np

from gruengine.converters.base import Reason
from gruengine.converters.pickle_values import Mapping, Stub
from gruengine.converters.torch_file import Checkpoint, TensorRef
from gruengine.converters.torch_find import is_packed

Array = np.ndarray[Any, Any]

#: Class -> what the hint ``kinds`` calls it.
_KINDS = {"Embedding": "embedding", "Linear": "linear", "LayerNorm": "layernorm"}


def read_script(
    checkpoint: Checkpoint, reasons: list[Reason]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays of a scripted or traced module, and hints that its classes give.

    What the code knows is not in the tree: layouts, activations, the order in which modules run.
    """
    arrays: dict[str, Array] = {}
    kinds: dict[str, str] = {}
    todo = [("", checkpoint.root)]
    while todo:
        path, stub = todo.pop()
        if is_packed(stub):
            reasons.append(Reason(path, "quantised weights", "save the float model"))
        elif isinstance(stub, Stub) and isinstance(stub.state, Mapping):
            name = stub.cls.name
            if "torch.nn.modules" in stub.cls.module and name in _KINDS:
                kinds[path] = _KINDS[name]
            children = []
            for key, value in stub.state.items():
                where = f"{path}.{key}" if path else str(key)
                if isinstance(value, TensorRef):
                    arrays[where] = checkpoint.array(value)
                elif is_packed(value) or _is_object(value):
                    children.append((where, value))
            todo += children[::-1]
    if not arrays and not reasons:
        why = (
            "the weights as attributes: save the module before torch.jit.freeze, or export what "
            "torch.jit.load gives with torch.onnx.export(..., dynamo=False)"
        )
        reasons.append(Reason("", "a TorchScript archive without weights", why))
    return arrays, {"kinds": kinds}


def _is_object(value: Any) -> bool:
    return isinstance(value, Stub) and value.cls.module.partition(".")[0] == "__torch__"
