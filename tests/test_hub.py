# SPDX-License-Identifier: MIT
"""``gruengine.hub`` with a hub that lies in a folder."""

from __future__ import annotations

import pickle
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

import gruengine as gr


class Hub(types.ModuleType):
    """The two functions of huggingface_hub that are used."""

    def __init__(self, folder):
        super().__init__("huggingface_hub")
        self.folder, self.asked = folder, []

    def list_repo_files(self, repo_id, *, revision=None):
        self.asked.append((repo_id, None, revision))
        return sorted(str(p.relative_to(self.folder)) for p in self.folder.rglob("*"))

    def hf_hub_download(self, repo_id, filename, *, revision=None):
        self.asked.append((repo_id, filename, revision))
        path = self.folder / filename
        if not path.is_file():
            raise OSError(f"404: {filename}")
        return str(path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = Hub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


def net():
    return gr.Sequential([gr.GRU(4)], input_size=3)


X = np.ones((1, 5, 3), np.float32)


def test_a_named_file(hub):
    net().save(hub.folder / "m.safetensors")
    model = gr.hub.from_pretrained("org/name", "v1", "m.safetensors", num_threads=2)
    assert np.array_equal(model(X), net()(X))
    assert model.num_threads == 2
    assert hub.asked == [("org/name", "m.safetensors", "v1")]


@pytest.mark.parametrize(("files", "chosen"), [
    (["a.onnx", "gruengine.safetensors", "model.onnx"], "gruengine.safetensors"),
    (["a.onnx", "model.onnx"], "model.onnx"),
    (["README.md", "deep/only.onnx"], "deep/only.onnx"),
])  # fmt: skip
def test_the_file_is_found(hub, files, chosen):
    for name in files:
        (hub.folder / name).parent.mkdir(exist_ok=True)
        if name.endswith(".onnx"):
            gr.export(net(), hub.folder / name)
        elif name.endswith(".safetensors"):
            net().save(hub.folder / name)
        else:
            (hub.folder / name).write_text("no model")
    assert np.array_equal(gr.hub.from_pretrained("org/name")(X), net()(X))
    assert hub.asked[-1] == ("org/name", chosen, None)


def test_options_reach_the_reader(hub):
    module = nn.GRU(3, 4, batch_first=True)
    torch.save(module.state_dict(), hub.folder / "weights.pt")
    model = gr.hub.from_pretrained("org/name", batch_first=True)
    assert np.array_equal(model(X), gr.from_torch(module)(X))


def test_pickles_of_code_never_run(hub, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    (hub.folder / "pytorch_model.bin").write_bytes(pickle.dumps({"w": Evil()}, protocol=2))
    with pytest.raises(gr.GruEngineError):
        gr.hub.from_pretrained("org/name", filename="pytorch_model.bin")
    assert not (tmp_path / "owned").exists()


def test_what_is_refused(hub):
    with pytest.raises(gr.InvalidInputError, match="no file of"):
        gr.hub.from_pretrained("org/name")
    for name in ("a.onnx", "b.onnx"):
        (hub.folder / name).touch()
    with pytest.raises(gr.InvalidInputError, match=r"a\.onnx.*b\.onnx.*filename"):
        gr.hub.from_pretrained("org/name")
    with pytest.raises(gr.FileAccessError, match=r"org/name/c\.onnx.*404"):
        gr.hub.from_pretrained("org/name", filename="c.onnx")
    for arguments in ((3,), ("org/name", 3), ("org/name", None, b"x")):
        with pytest.raises(gr.InvalidInputError, match="must be a string"):
            gr.hub.from_pretrained(*arguments)


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(gr.UnsupportedError, match=r"pip install gruengine\[hub\]"):
        gr.hub.from_pretrained("org/name")


def test_it_is_imported_when_it_is_asked_for(tmp_path):
    program = (
        "import sys, gruengine as gr; assert 'gruengine.hub' not in sys.modules; "
        "assert gr.hub.from_pretrained; assert 'huggingface_hub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
