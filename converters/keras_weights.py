# SPDX-License-Identifier: MIT
"""Which array of a Keras file belongs to which layer.

Keras 3 files hold arrays by position: ``layers/<class>_<n>/<part>/vars/<i>``. Older ones hold a
list for each layer by its name, and each name of an array ends in what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gruengine.converters.base import Reason
from gruengine.converters.hdf5 import Group
from gruengine.converters.keras_base import Parsed, Var
from gruengine.converters.keras_cells import numbered, snake_case
from gruengine.converters.keras_config import MODELS, LayerDef, Net
from gruengine.converters.torch_weights import Weights

Array = np.ndarray[Any, Any]
Found = dict[str, dict[str, Array]]

#: Where Keras 3 and Keras 2.12 keep the layers of a model.
CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
_UNUSED = ("seed_generator_state",)


def is_legacy(root: Group) -> bool:
    """Tell whether a group holds lists of arrays by the names of layers."""
    return bool(_names(root, "layer_names")) or "layer_names" in root.attributes


def _names(group: Group, key: str) -> list[str]:
    """Return a list of names; long lists are cut into ``key0``, ``key1``, ..."""
    value = group.attributes.get(key)
    parts = [value] if value is not None else []
    while value is None and f"{key}{len(parts)}" in group.attributes:
        parts.append(group.attributes[f"{key}{len(parts)}"])
    return [name for part in parts if isinstance(part, list) for name in part]


def assign(net: Net, layers: Mapping[str, Parsed], root: Group, weights: Weights) -> Found:
    """Return the arrays of each layer by ``path/name``; what does not fit becomes a reason."""
    found: Found = {}
    if is_legacy(root):
        _by_name(net, layers, root, found, weights)
    else:
        _by_place(net, layers, root, "", found, weights)
    return found


def _key(var: Var) -> str:
    return f"{var.path}/{var.name}" if var.path else var.name


# -- by position ----------------------------------------------------------------------------------


def _by_place(
    net: Net,
    layers: Mapping[str, Parsed],
    group: Group,
    prefix: str,
    found: Found,
    weights: Weights,
) -> None:
    holder = next((group.groups[name] for name in CONTAINERS if name in group.groups), None)
    counts: dict[str, int] = {}
    for layer in net.layers.values():
        if layer.module.startswith("keras.src.ops"):
            continue
        where = prefix + layer.name
        place = numbered(snake_case(layer.kind), counts)
        mine = holder.groups.get(place) if holder is not None else None
        if layer.net is not None:
            if mine is not None and layer.kind not in MODELS:
                mine = mine.groups.get("layer")
            if mine is None:
                mine = Group(place)
            _by_place(layer.net, layers, mine, f"{where}/", found, weights)
        elif where in layers and layers[where].variables:
            _place_one(where, layer, layers[where].variables, mine, found, weights)


def _place_one(
    where: str,
    layer: LayerDef,
    variables: Sequence[Var],
    group: Group | None,
    found: Found,
    weights: Weights,
) -> None:
    if group is None:
        weights.refuse(where, f"no arrays of this {layer.kind}", "the file holds those of a layer")
        return
    own = group.groups.get("vars")
    name = own.attributes.get("name") if own is not None else None
    if isinstance(name, str) and name != layer.name:
        weights.refuse(where, f"arrays of a layer {name!r:.80}", "the weights are of this model")
        return
    arrays: dict[str, Array] = {}
    for path in dict.fromkeys(var.path for var in variables):
        part = group.find(f"{path}/vars" if path else "vars")
        if part is None and path:  # a private attribute, as Keras 2 named some
            part = group.find(f"_{path}/vars")
        wanted = [var for var in variables if var.path == path]
        present = {} if part is None else part.datasets
        if sorted(present) != [str(index) for index in range(len(wanted))]:
            weights.refuse(
                where,
                f"arrays {', '.join(sorted(present)) or 'none'} of {path or layer.kind}",
                f"{len(wanted)}: {', '.join(var.name for var in wanted)}",
            )
            continue
        for index, var in enumerate(wanted):
            arrays[_key(var)] = _floats(weights, f"{where}/{_key(var)}", present[str(index)])
    found[where] = arrays


def _floats(weights: Weights, name: str, array: Array) -> Array:
    if name.endswith("/count") and array.dtype.kind in "iu":
        return array  # of the rows that a Normalization has seen: no weight
    weights.arrays[name] = array
    return weights.floats(name)


# -- by name --------------------------------------------------------------------------------------


def _by_name(
    net: Net, layers: Mapping[str, Parsed], root: Group, found: Found, weights: Weights
) -> None:
    for layer in net.layers.values():
        inside = list(_inside(layer, layers, layer.name))
        # Keras lists what it trains first, and so within a model in a model.
        order = sorted(inside, key=lambda one: not one[1].trainable)
        if not order:
            continue
        group = root.find(layer.name)
        names = [] if group is None else _names(group, "weight_names")
        names = [name for name in names if _last(name) not in _UNUSED]
        listed = [_last(name) for name in names]
        wanted = [var.name for _, var in order]
        if listed != wanted:
            weights.refuse(
                layer.name,
                f"arrays {', '.join(listed) or 'none'}"[:300],
                f"a {layer.kind} of this configuration has {', '.join(wanted)}"[:300],
            )
            continue
        for name, (where, var) in zip(names, order, strict=True):
            array = None if group is None else group.dataset(name)
            if array is None:
                weights.refuse(layer.name, f"no array {name!r:.100}", "the file lists it")
            else:
                full = f"{where}/{_key(var)}"
                found.setdefault(where, {})[_key(var)] = _floats(weights, full, array)


def _inside(
    layer: LayerDef, layers: Mapping[str, Parsed], where: str, frozen: bool = False
) -> Iterator[tuple[str, Var]]:
    """Yield the arrays of a layer, or of all layers of a model in a model."""
    frozen = frozen or layer.config.get("trainable") is False
    if layer.net is not None:
        for inner in layer.net.layers.values():
            yield from _inside(inner, layers, f"{where}/{inner.name}", frozen)
    elif where in layers:
        for var in layers[where].variables:
            yield where, Var(var.path, var.name, var.trainable and not frozen)


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1].split(":")[0]


def all_arrays(root: Group) -> dict[str, Array]:
    """Return every array of a file by its path, without the suffix ``:0``."""
    found: dict[str, Array] = {}
    for name, array in root.datasets.items():
        path = f"{root.path}/{name}" if root.path else name
        found[path.split(":")[0]] = array
    for group in root.groups.values():
        found.update(all_arrays(group))
    return found


def unused(net: Net, root: Group) -> list[str]:
    """Return the layers of a file of names that the model does not have."""
    if not is_legacy(root):
        return []
    return [
        name
        for name in _names(root, "layer_names")
        if name not in net.layers and _names(root.find(name) or Group(name), "weight_names")
    ]


def missing_config(root: Group) -> list[Reason]:
    """Say what a file of weights alone lacks, layer by layer."""
    why = "give the model as the hint config=model.to_json()"
    reasons = [Reason("", "weights without the model", why)]
    for name in _names(root, "layer_names"):
        arrays = _names(root.find(name) or Group(name), "weight_names")
        listed = ", ".join(_last(one) for one in arrays) or "no arrays"
        reasons.append(Reason(name, f"a layer of {listed}"[:300], "its class is not in the file"))
    return reasons
