# SPDX-License-Identifier: MIT
"""What a pickle holds once it has been read, and nothing of it made: lists, dicts, names, stubs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Global:
    """The name of a class or function: nothing was imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Items(list[Any]):
    """A pickled list, or a tuple if ``fixed``."""

    __slots__ = ("depth", "fixed", "sealed")

    def __init__(self, values: list[Any], *, fixed: bool) -> None:
        super().__init__(values)
        self.fixed = fixed
        self.depth = 0
        self.sealed = False


class Mapping(dict[Any, Any]):
    """A pickled dict or OrderedDict; keys other than plain values and ``Global`` are stubs."""

    __slots__ = ("depth", "sealed")

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0
        self.sealed = False


class Stub:
    """An object that was not made: its class by name, its arguments, its state."""

    __slots__ = ("args", "cls", "depth", "sealed", "state")

    def __init__(self, cls: Global, args: Items) -> None:
        self.cls = cls
        self.args = args
        self.state: Any = None
        self.depth = 0
        self.sealed = False


def kind_of(value: Any) -> str:
    """Say what a value is, for messages."""
    if isinstance(value, Stub):
        return f"an object of class {value.cls}"
    if isinstance(value, Items):
        return "a tuple" if value.fixed else "a list"
    names = {"Mapping": "a dict", "TensorRef": "a tensor", "NoneType": "None"}
    name = type(value).__name__
    return names.get(name, f"a {name}")
