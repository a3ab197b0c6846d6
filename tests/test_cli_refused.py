# SPDX-License-Identifier: MIT
"""What ``inspect`` shows of files of every format that do not convert."""

from __future__ import annotations

import io
import json

import h5py
import numpy as np
import pytest

from gruengine.cli import main


def refused_json():
    layers = [{"type": "conv2d", "weights": [[[1.0, 2.0]], [3.0]]}, {"type": "what", "shape": []}]
    return json.dumps({"in_shape": [None, None, 1], "layers": layers}).encode()


def refused_npz():
    buffer = io.BytesIO()
    np.savez(buffer, first=np.zeros((2, 3), np.float32))
    return buffer.getvalue()


def weights_alone():
    file = io.BytesIO()
    with h5py.File(file, "w") as group:
        group.attrs["layer_names"] = [b"gru"]
        layer = group.create_group("gru")
        layer.attrs["weight_names"] = [b"gru/kernel:0"]
        layer["gru/kernel:0"] = np.zeros((4, 12), np.float32)
    return file.getvalue()


REFUSED = {
    "weights.h5": (weights_alone, "give the model as the hint config=", "[4, 12]"),
    "m.npz": (refused_npz, "first: an unknown name", "[2, 3]"),
    "m.json": (refused_json, "type 'conv2d'", "layers.0.weights.0  number  [1, 2]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_inspect_shows_what_any_refused_file_holds(capsys, tmp_path, name):
    make, reason, content = REFUSED[name]
    (tmp_path / name).write_bytes(make())
    assert main(["inspect", str(tmp_path / name)]) == 0
    out = capsys.readouterr().out
    assert "refused" in out
    assert reason in out
    assert content in out
