# SPDX-License-Identifier: MIT
"""The stubs of the compiled modules name what the modules have, no more and no less."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from gruengine import _core, _stream

FOLDER = Path(__file__).resolve().parent.parent / "gruengine"
# Of the class itself, or of Cython; no part of what users see.
IGNORED = {"_describe", "_prepare", "_call", "_step_slowly"}


def names(body: list[ast.stmt]) -> set[str]:
    return {node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def public(namespace: dict[str, object]) -> set[str]:
    return {n for n in namespace if not n.startswith("__") and n not in IGNORED}


@pytest.mark.parametrize(
    ("module", "cls"),
    [
        (_core, _core.Model),
        (_core, _core.RecurrentTape),
        (_core, _core.RecurrentTraining),
        (_stream, _stream.Stream),
    ],
)
def test_stub(module, cls):
    tree = ast.parse((FOLDER / f"{module.__name__.split('.')[-1]}.pyi").read_text())
    stub = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == cls.__name__)
    assert names(stub.body) - {"__init__"} == {
        n for n in public(vars(cls)) if n not in ("_pybind11_conduit_v1_",)
    }


def test_functions_of_the_core():
    tree = ast.parse((FOLDER / "_core.pyi").read_text())
    functions = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    assert functions == {n for n, v in vars(_core).items() if callable(v) and n[0] != "_"} - {
        "Model",
        "RecurrentTape",
        "RecurrentTraining",
    }
