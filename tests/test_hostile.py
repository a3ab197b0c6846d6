# SPDX-License-Identifier: MIT
"""Every hostile file of the tests is refused in bounded memory; times: python -m fuzz.hostile."""

from __future__ import annotations

from collections import Counter

from fuzz.hostile import MEMORY, cases, cost


def test_hostile_files_are_refused_in_bounded_memory() -> None:
    found = cases()
    for case in found[:3]:
        cost(case)  # what is imported for the first is not its doing
    costs = {(case.form, case.name): (cost(case), len(case.data)) for case in found}
    assert [key for key, (one, _) in costs.items() if not one.error] == []
    assert [key for key, (one, size) in costs.items() if one.memory > MEMORY + 4 * size] == []


def test_there_are_files_of_every_format() -> None:
    counts = Counter(case.form for case in cases())
    assert set(counts) == {
        "model file", "zip", "tensor", "legacy", "safetensors", "pickle", "ONNX",
        "npz", "JSON", "Keras archive", "HDF5",
    }  # fmt: skip
    assert min(counts.values()) >= 15
    assert counts.total() > 600
