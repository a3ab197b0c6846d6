# SPDX-License-Identifier: MIT
"""Weights in ``.npz``: names of PyTorch and of Keras, and archives that are refused."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest
import torch
from keras_models import L, keras, randomise
from tolerances import KERAS_MODEL, TORCH_MODULE, relative_error
from torch import nn

import gruengine as gr
from gruengine.converters import sniff
from gruengine.converters.base import ConversionError
from gruengine.converters.npz import load_arrays

I, H = 3, 5


def npz(arrays, compressed=False):
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def archive(members, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as out:
        for name, data in members.items():
            out.writestr(name, data)
    return file.getvalue()


def npy(header, body=b"", version=1):
    text = header if isinstance(header, bytes) else header.encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + body


def plain(descr="'<f4'", shape="(2,)", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


# -- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
def test_names_of_pytorch(compressed):
    torch.manual_seed(1)
    model = nn.ModuleDict({"rnn": nn.LSTM(I, H, 2, batch_first=True, bidirectional=True),
                           "fc": nn.Linear(2 * H, 2)})  # fmt: skip
    data = npz({k: v.numpy() for k, v in model.state_dict().items()}, compressed)
    assert sniff(data) == "npz"
    ours = gr.load(data, order=["rnn", "fc"], output="sequence", activations={"fc": "tanh"})
    x = np.random.default_rng(0).normal(size=(2, 6, I)).astype(np.float32)
    with torch.no_grad():
        y = torch.tanh(model["fc"](model["rnn"](torch.tensor(x))[0])).numpy()
    assert relative_error(ours(x), y) <= TORCH_MODULE


KERAS = {
    "lstm": [L.LSTM(H, return_sequences=True)],
    "gru": [L.GRU(H, return_sequences=True)],
    "gru that resets before": [L.GRU(H, return_sequences=True, reset_after=False)],
    "both ways": [L.Bidirectional(L.LSTM(H, return_sequences=True))],
    "no bias": [L.LSTM(H, use_bias=False, return_sequences=True)],
}


@pytest.mark.parametrize("name", KERAS)
@pytest.mark.parametrize("whole_paths", [False, True])
def test_names_of_keras(name, whole_paths):
    rng = np.random.default_rng(2)
    model = randomise(keras.Sequential([keras.Input((None, I)), *KERAS[name]]), rng)
    arrays = {}
    for weight in model.weights:
        parts = weight.path.split("/")
        way = [p for p in parts if p.startswith(("forward", "backward"))]
        short = "/".join(["rnn", *way, parts[-1]])
        arrays[weight.path if whole_paths else short] = weight.value.detach().cpu().numpy()
    x = rng.normal(size=(2, 6, I)).astype(np.float32)
    y = model(x, training=False).detach().cpu().numpy()
    assert relative_error(gr.load(npz(arrays))(x), y) <= KERAS_MODEL


def test_there_and_back(tmp_path):
    net = gr.Sequential(
        [gr.Embedding(9, I), gr.GRU(H, reset="before", return_sequences=True), gr.Dense(2)]
    )
    gr.export(net, tmp_path / "m.npz")
    names = [layer.name for layer in net.layers]
    again = gr.load(tmp_path / "m.npz", order=names, output="sequence",
                    activations={names[2]: "none"})  # fmt: skip
    x = np.random.default_rng(0).integers(0, 9, (2, 6))
    assert np.array_equal(again(x), net(x))
    spec = gr.converters.read((tmp_path / "m.npz").read_bytes(), gr.converters.Options(hints={
        "order": names, "output": "sequence", "activations": {names[2]: "none"}}))[0]  # fmt: skip
    gr.export(spec, tmp_path / "n.npz")
    a, b = (load_arrays((tmp_path / f"{n}.npz").read_bytes()) for n in "mn")
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("array", [
    np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(6.0).reshape(2, 3).T,
    np.float32(3.5), np.zeros((0, 4), np.float16), np.arange(3, dtype=">i4"), np.ones((1, 1, 2)),
], ids=str)  # fmt: skip
def test_every_plain_array_is_read_as_numpy_reads_it(array):
    found = load_arrays(npz({"a": array}))["a"]
    assert found.shape == np.shape(array)
    assert found.dtype == np.asarray(array).dtype.newbyteorder("=")
    assert np.array_equal(found, array)


def test_missing_facts_are_asked_for():
    arrays = {"a/kernel": np.ones((I, 4 * H)), "a/recurrent_kernel": np.ones((H, 4 * H)),
              "b/kernel": np.ones((H, 2)), "b/bias": np.ones(2)}  # fmt: skip
    with pytest.raises(ConversionError) as caught:
        gr.load(npz({k: v.astype(np.float32) for k, v in arrays.items()}))
    text = str(caught.value)
    assert "order=" in text
    assert "activations=" in text
    assert "output=" in text


# -- archives that are refused --------------------------------------------------------------------


def objects():
    file = io.BytesIO()
    np.savez(file, a=np.array([{"x": 1}], dtype=object))
    return file.getvalue()


def shape_of(shape, body=b"\0" * 8, **options):
    return archive({"a.npy": npy(plain(shape=shape, **options), body)})


BAD = {
    "objects": (objects(), "dtype '|O'"),
    "objects by a class": (shape_of("(2,)", descr="'O8'"), "header"),
    "fields": (archive({"a.npy": npy(plain("[('x', '<f4')]"), b"\0" * 8)}), "header"),
    "strings": (npz({"a": np.array(["x"])}), "dtype '<U1'"),
    "complex": (npz({"a": np.ones(2, np.complex64)}), "dtype '<c8'"),
    "flags": (npz({"a": np.ones(2, bool)}), "dtype '|b1'"),
    "dates": (npz({"a": np.zeros(1, "M8[s]")}), "header"),
    "too few bytes": (shape_of("(3,)"), "8 bytes"),
    "too many bytes": (shape_of("(1,)"), "8 bytes"),
    "a shape beyond memory": (shape_of("(100000000000, 100000000000)"), "8 bytes"),
    "a shape of zero and much": (shape_of("(0, 999999999999)"), "8 bytes"),
    "nothing, but much of it": (shape_of("(0, 999999999999, 999999999999)", b""), "0 bytes"),
    "a negative shape": (shape_of("(-2,)"), "header"),
    "digits without end": (shape_of(f"({'9' * 150},)"), "shape"),
    "many axes": (shape_of(f"({'1, ' * 40})"), "shape"),
    "a call in the header": (shape_of("(__import__('os').getpid(),)"), "header"),
    "a header that nests": (archive({"a.npy": npy(b"(" * 3000)}), "header"),
    "a header too long": (archive({"a.npy": npy(plain() + " " * 60000, version=2)}), "header"),
    "a header that ends late": (archive({"a.npy": npy(plain())[:60]}), "header"),
    "version 9": (archive({"a.npy": npy(plain(), b"\0" * 8, version=9)}), "no NumPy array"),
    "no magic": (archive({"a.npy": b"x" * 100}), "no NumPy array"),
    "an empty member": (archive({"a.npy": b""}), "no NumPy array"),
    "another member": (archive({"a.npy": npy(plain(), b"\0" * 8), "run.sh": b"ls"}), "run.sh"),
    "a path outside": (archive({"../a.npy": npy(plain(), b"\0" * 8)}), "zip"),
    "a bomb": (archive({"a.npy": npy(plain(shape="(1 << 28,)"), b"\0" * (1 << 27))},
                       zipfile.ZIP_DEFLATED), "times the file"),
    "cut": (npz({"a": np.ones(50)})[:-30], "zip|no known format|end"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_archives_that_are_refused(name):
    data, message = BAD[name]
    with pytest.raises(gr.ModelFileError, match=message):
        load_arrays(data)
    with pytest.raises((gr.ModelFileError, ConversionError)):
        gr.load(data)


@pytest.mark.parametrize(("arrays", "message"), [
    ({"a/kernel": (I, 4 * H)}, "activation|output|no recurrent|order|the activation"),
    ({"a/recurrent_kernel": (H, 4 * H)}, "kernel \\[I"),
    ({"a/recurrent_kernel": (H, 4 * H), "a/kernel": (I, 4 * H + 1)}, "kernel \\[I"),
    ({"a/recurrent_kernel": (H, 2 * H), "a/kernel": (I, 2 * H)}, "kernel \\[I"),
    ({"a/recurrent_kernel": (H, 4 * H), "a/kernel": (I, 4 * H), "a/bias": (2, 4 * H)}, "bias"),
    ({"a/recurrent_kernel": (H, 3 * H), "a/kernel": (I, 3 * H)}, "a GRU without bias"),
    ({"a/recurrent_kernel": (0, 0), "a/kernel": (I, 0)}, "kernel \\[I"),
    ({"a/beta": (H,)}, "LayerNormalization"),
    ({"a/lstm_cell/kernel": (I, 4 * H), "a/kernel": (I, 4 * H)}, "a second array"),
    ({"x": (3,)}, "an unknown name"),
])  # fmt: skip
def test_names_and_shapes_that_make_no_layer(arrays, message):
    data = npz({name: np.ones(shape, np.float32) for name, shape in arrays.items()})
    with pytest.raises(ConversionError, match=message):
        gr.load(data)
