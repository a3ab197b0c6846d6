# SPDX-License-Identifier: MIT
"""bfloat16 and int8 in files, reports and the command line, and on models that somebody trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import TARGETS, agreement, clean_signal, signal_to_error, speech
from test_one_number import same

import gruengine as gr
from gruengine import safetensors
from gruengine.cli import main
from gruengine.spec import ModelSpec
from gruengine.spec_low import low_axes

Array = np.ndarray[Any, Any]
LOW = ("bfloat16", "int8")


def net_with_everything(rng: np.random.Generator) -> gr.Sequential:
    net = gr.Sequential(
        [
            gr.Embedding(50, 32),
            gr.LSTM(40, projection=24, return_sequences=True),
            gr.GRU(33, return_sequences=True),
            gr.Dense(48, "tanh"),
        ]
    )
    net.set_parameters(
        {
            name: rng.normal(scale=1 / np.sqrt(value.shape[-1]), size=value.shape)
            for name, value in net.parameters().items()
        }
    )
    return net


@pytest.mark.parametrize("low", [*LOW, "int4"])
def test_a_stored_model_is_the_model_quantised_at_load(
    low: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    net = net_with_everything(rng)
    plain, stored = tmp_path / "plain.safetensors", tmp_path / "low.safetensors"
    net.save(plain)
    report = gr.convert(plain, stored, compute_type=low)
    assert low in report.warnings[0]
    x = rng.integers(0, 50, (3, 9))
    model = gr.load(stored)
    assert model.compute_type == low
    assert same(model(x), gr.load(plain, compute_type=low)(x))
    # The file is small, reads as float32 too, and knows its own numbers.
    assert stored.stat().st_size < (0.6 if low == "bfloat16" else 0.4) * plain.stat().st_size
    assert gr.load(stored, compute_type="float32").compute_type == "float32"
    assert gr.verify(stored).passed
    spec = ModelSpec.load(stored)
    assert spec.compute_type == low
    assert spec.hash() == model.hash
    again = ModelSpec.from_bytes(spec.to_bytes())
    for name, tensor in spec.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], tensor)


def test_int4_takes_half_a_byte_and_older_files_a_whole_one(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    plain, stored = tmp_path / "plain.safetensors", tmp_path / "low.safetensors"
    gr.Sequential([gr.LSTM(81, return_sequences=True), gr.Dense(13)], 255, seed=3).save(plain)
    gr.convert(plain, stored, compute_type="int4")
    assert stored.stat().st_size < 0.2 * plain.stat().st_size
    tensors, metadata = safetensors.read(stored.read_bytes())
    document = json.loads(metadata["gruengine"])
    assert len(document["nibbles"]) == 3
    odd = 0
    for name, shape in document.pop("nibbles").items():
        size, packed = int(np.prod(shape)), tensors[name]
        odd += size % 2
        assert (packed.dtype, packed.size) == (np.uint8, (size + 1) // 2)
        halves = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)[:size]
        assert set(halves) <= {*range(8), *range(9, 16)}
        whole = np.where(halves > 7, halves.astype(np.int8) - 16, halves).astype(np.int8)
        tensors[name] = whole.reshape(shape)
    assert odd
    older = b"".join(safetensors.pieces(tensors, {"gruengine": json.dumps(document)}))
    x = rng.normal(size=(2, 5, 255)).astype(np.float32)
    for compute_type in (None, "float32"):
        models = [gr.load(file, compute_type=compute_type) for file in (stored, older)]
        assert models[0].hash == models[1].hash == ModelSpec.from_bytes(older).hash()
        assert same(models[0](x), models[1](x))


def damaged(data: bytes, old: str, new: str) -> bytes:
    """Replace a text in the header, of the same length."""
    assert len(old) == len(new)
    assert old.encode() in data
    return data.replace(old.encode(), new.encode(), 1)


def test_damaged_scales_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "low.safetensors"
    net = net_with_everything(rng)
    net.save(path)
    gr.convert(path, path, compute_type="int8")
    data = path.read_bytes()
    name = next(iter(low_axes(ModelSpec.from_bytes(data))))
    for old, new in (
        ('\\"compute_type\\":\\"int8\\"', '\\"compute_type\\":\\"int9\\"'),
        (f'\\"{name}\\":\\"scale', f'\\"{name[:-1]}~\\":\\"scale'),
        ('\\":\\"scale/', '\\":\\"scalf/'),
    ):
        bad = damaged(data, old, new)
        for read in (ModelSpec.from_bytes, gr.load):
            with pytest.raises(gr.ModelFileError):
                read(bad)


def test_the_accuracy_report_tells_good_from_bad(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "plain.safetensors"
    net_with_everything(rng).save(path)
    x = rng.integers(0, 50, (1, 60))
    good = gr.accuracy(path, "bfloat16", x)
    assert good.passed
    assert good.frames == 60
    assert good.outputs[0].ratio > gr.accuracy(path, "int8", x).outputs[0].ratio > 20
    assert {state.name.rpartition(".")[2] for state in good.states} == {"h", "c"}
    assert len(good.outputs[0].over_time) == 16
    # Each output has one weight so large that the others, which alone matter, are nothing.
    bad = gr.Sequential([gr.Dense(48)], 64)
    values = {name: np.ones_like(value) for name, value in bad.parameters().items()}
    for value in values.values():
        if value.ndim == 2:
            np.moveaxis(value, value.shape.index(64), 0)[0] = 300.0
    bad.set_parameters(values)
    bad.save(path)
    frames = rng.normal(size=(1, 20, 64)).astype(np.float32)
    frames[..., 0] = 0
    report = gr.accuracy(path, "int8", frames)
    assert not report.passed
    assert "dB" in report.reasons[0]


@pytest.mark.parametrize("low", [*LOW, "int4"])
def test_the_command_line_reports_errors_over_time(
    low: str, tmp_path: Path, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    path, data = tmp_path / "model.safetensors", tmp_path / "x.npy"
    net_with_everything(rng).save(path)
    np.save(data, rng.integers(0, 50, (2, 30)))
    # Random weights of four bits are too coarse, and the report says so.
    failed = int(low == "int4")
    assert main(["verify", str(path), "--compute-type", low, "--data", str(data)]) == failed
    text = capsys.readouterr().out
    assert ("should not be run in int4" in text) == bool(failed)
    assert low in text
    assert "dB" in text
    assert main(["verify", str(path), "--compute-type", low, "--json"]) in (0, failed)
    assert json.loads(capsys.readouterr().out)["compute_type"] == low
    assert main(["verify", str(path), "--data", str(data)]) == 2
    assert main(["inspect", str(path)]) == 0
    assert "fits L" in capsys.readouterr().out


# -- real models ----------------------------------------------------------------------------------


def test_dtln_in_fewer_bits(models: Path) -> None:
    want = clean_signal(models, "float32")
    for low in LOW:
        assert TARGETS[low][0] <= signal_to_error(clean_signal(models, low), want) < 90, low


def test_silero_in_fewer_bits(models: Path) -> None:
    want = speech(models, "float32")
    for low in LOW:
        found = speech(models, low)
        assert not np.array_equal(found, want)
        assert agreement(found, want) >= TARGETS[low][1], low
