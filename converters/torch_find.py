# SPDX-License-Identifier: MIT
"""Where a checkpoint keeps its weights: one state dict, or one whole module, among many things."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from gruengine.converters import torch_file
from gruengine.converters.base import Options, Reason
from gruengine.converters.pickle_values import Global, Items, Mapping, Stub, kind_of
from gruengine.converters.torch_module import is_module, unwrapped

#: What trainers call the weights, before anything else that is a state dict too.
STATE_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
#: Second sets of weights: averages of those that were trained.
_AVERAGE = re.compile(r"(^|[_.])(ema|swa|averaged|average|shadow|teacher)([_.]|$)", re.IGNORECASE)
#: What holds tensors and is no model.
_OTHER = re.compile(
    r"optim|sched|param_groups|callback|loops|scaler|rng|metric|hparam|hyper", re.IGNORECASE
)
MAX_DEPTH = 3


def find_state(root: Any, options: Options, reasons: list[Reason]) -> Any:
    """Return the state dict (``Mapping``) or module (``Stub``) of a file; reasons are added.

    With several, weights under a usual name are taken; beside an average of them, or with several
    usual names, the hint ``state_dict`` must choose.
    """
    if is_module(root):
        return unwrapped(root)
    if isinstance(root, Stub):
        reasons.append(Reason("", f"a pickled {root.cls}", "a state dict or a module of torch.nn"))
        return Mapping()
    found: dict[str, Any] = {}
    _collect(root, "", found)
    wanted = options.hints.get("state_dict")
    if wanted is not None:
        if isinstance(wanted, str) and wanted in found:
            return found[wanted]
        reasons.append(Reason("", f"state_dict {wanted!r}", f"the file has {list(found)}"))
        return Mapping()
    if isinstance(root, Mapping) and not found and is_state(root):
        return root
    averages = [path for path in found if _AVERAGE.search(path)]
    usual = [path for path in found if path.split(".")[0] in STATE_KEYS and path not in averages]
    likely = ((usual or list(found)) if not averages else list(found))[:20]
    if len(likely) == 1:
        return found[likely[0]]
    what = f"state dicts {likely}" if likely else f"{kind_of(root)} without a state dict"
    reasons.append(
        Reason("", what, "one state dict; the hint state_dict='name' chooses among several")
    )
    return Mapping()


def _collect(value: Any, path: str, found: dict[str, Any], depth: int = 1) -> None:
    for key, inner in _named(value):
        name = f"{path}.{key}" if path else str(key)
        if not isinstance(key, str) or _OTHER.search(key):
            continue
        if is_module(inner):
            found[name] = unwrapped(inner)
        elif isinstance(inner, (Mapping, Items)):
            before = len(found)
            if depth < MAX_DEPTH:
                _collect(inner, name, found, depth + 1)
            if len(found) == before and is_state(inner):
                found[name] = inner


def _named(value: Any) -> Iterable[tuple[Any, Any]]:
    """Return the pairs of a dict; what stands in a list is called by its number."""
    if isinstance(value, Mapping):
        return value.items()
    return [(str(i), one) for i, one in enumerate(value)] if isinstance(value, Items) else ()


def is_state(value: Any) -> bool:
    """Whether a dict holds tensors by names."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(key, str) for key in value)
        and any(isinstance(one, torch_file.TensorRef) or is_packed(one) for one in value.values())
    )


def is_packed(value: Any) -> bool:
    """Tell whether a value is, or holds, quantised weights."""
    if isinstance(value, torch_file.Quantised):
        return True
    if isinstance(value, Stub):
        module, name = value.cls.module, value.cls.name
        quantised = "quantized" in module or "CellParams" in name or "PackedParams" in name
        return value.cls == Global("torch", "ScriptObject") or quantised
    return isinstance(value, list) and any(is_packed(one) for one in value[:8])
