# SPDX-License-Identifier: MIT
"""Models that somebody trained, on recordings, beside ONNX Runtime with its states kept by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from recordings import denoise, frames_of, samples
from tolerances import REAL_MODEL, relative_error

import gruengine as gr
from gruengine.conversion import read_spec

Array = np.ndarray[Any, Any]


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class ByHand:
    """A stage of DTLN in ONNX Runtime; its state goes in and out with every call."""

    def __init__(self, path: Path) -> None:
        self.session = session(path)
        self.names = [port.name for port in self.session.get_inputs()]
        self.state = np.zeros((1, 2, 128, 2), np.float32)

    def step(self, x: Array) -> Array:
        y, self.state = self.session.run(None, {self.names[0]: x, self.names[1]: self.state})
        return np.asarray(y)


@pytest.fixture(scope="module")
def dtln(models: Path) -> tuple[Path, Array, tuple[Array, Array, Array]]:
    folder, audio = models / "dtln", samples(models / "audio/noisy_speech_16k.wav")
    stages = [ByHand(folder / f"model_{i}.onnx") for i in (1, 2)]
    return folder, audio, denoise(*stages, audio)


def test_dtln_block_by_block(
    isa: str, dtln: tuple[Path, Array, tuple[Array, Array, Array]]
) -> None:
    folder, audio, wanted = dtln
    stages = [gr.load(folder / f"model_{i}.onnx") for i in (1, 2)]
    assert [stage.streamable.form for stage in stages] == ["calls", "calls"]
    found = denoise(*(stage.stream() for stage in stages), audio)
    assert len(found[0]) > 1200
    for value, want in zip(found, wanted, strict=True):
        assert np.abs(want).max() > 0.1
        assert relative_error(value, want) <= REAL_MODEL
    # All calls at once give the bits of one after the other.
    for at, stage in enumerate(stages):
        width = stage.signature.inputs[0].shape[-1]
        x = np.random.default_rng(at).normal(size=(50, 1, 1, int(width))).astype(np.float32)
        one = stage.stream()
        steps = np.stack([one.step(call) for call in x])
        np.testing.assert_array_equal(stage.stream().run(x), steps)


def test_the_written_out_lstm_of_dtln_becomes_recurrent_nodes(models: Path) -> None:
    for name in ("model_1", "model_2"):
        nodes = read_spec(models / f"dtln/{name}.onnx").graph.nodes
        recurrent = [node for node in nodes if node.op == "Recurrent"]
        assert [node.attrs["hidden_size"] for node in recurrent] == [128, 128], name
        assert {node.attrs["cell"] for node in recurrent} == {"lstm"}
        assert "Tanh" not in {node.op for node in nodes}


def test_dtln_converts_and_verifies(models: Path, tmp_path: Path) -> None:
    for name in ("model_1", "model_2"):
        source, target = models / f"dtln/{name}.onnx", tmp_path / f"{name}.safetensors"
        report = gr.convert(source, target)
        assert report.parity_error is not None
        assert report.parity_error < REAL_MODEL
        assert gr.verify(target, source).passed


@pytest.fixture(scope="module")
def speech(models: Path) -> Array:
    return frames_of(samples(models / "audio/speech_16k.wav"))


@pytest.fixture(scope="module")
def silero_wanted(models: Path, speech: Array) -> Array:
    runtime = session(models / "silero/silero_vad_v6.2.onnx")
    state, rate = np.zeros((2, 1, 128), np.float32), np.array(16000, np.int64)
    wanted = []
    for frame in speech:
        y, state = runtime.run(None, {"input": frame[None], "state": state, "sr": rate})
        wanted.append(y)
    return np.stack(wanted)


def test_silero_frame_by_frame(isa: str, models: Path, speech: Array, silero_wanted: Array) -> None:
    model = gr.load(models / "silero/silero_vad_v6.2.onnx", bind={"sr": 16000})
    assert model.streamable.form == "calls"
    assert len(speech) > 1800
    stream = model.stream()
    found = np.stack([stream.step(frame[None]) for frame in speech])
    assert silero_wanted.max() > 0.9
    assert np.abs(found - silero_wanted).max() <= REAL_MODEL
    np.testing.assert_array_equal(model.stream().run(speech[:200, None]), found[:200])


def test_silero_in_a_batch_gives_the_bits_of_each_alone(models: Path, speech: Array) -> None:
    model = gr.load(models / "silero/silero_vad_v6.2.onnx", bind={"sr": 16000})
    starts = (0, 300, 900)
    batch = model.stream(3)
    together = np.stack(
        [batch.step(np.stack([speech[start + t] for start in starts])) for t in range(60)]
    )
    for row, start in enumerate(starts):
        alone = model.stream().run(speech[start : start + 60, None])
        np.testing.assert_array_equal(together[:, row : row + 1], alone)


def test_silero_sequence_by_frame_and_at_once(isa: str, models: Path, speech: Array) -> None:
    path = models / "silero/silero_vad_v6_sequence.onnx"
    zeros = np.zeros((1, 1, 128), np.float32)
    rng = np.random.default_rng(1)
    runtime, model = session(path), gr.load(path)
    h, c, wanted = zeros, zeros, []
    for frame in speech:
        y, h, c = runtime.run(None, {"input": frame[None], "h": h, "c": c})
        wanted.append(y)
    want = np.concatenate(wanted)
    stream = model.stream()
    found = np.concatenate([np.atleast_1d(stream.step(frame)) for frame in speech])
    assert want.max() > 0.9
    assert np.abs(found - want).max() <= REAL_MODEL
    # One run over all frames: the bits of the steps.
    np.testing.assert_array_equal(model(speech), found)
    np.testing.assert_array_equal(model.stream().run(speech), found)
    # And from states that are not zero, with every output of the graph.
    h, c = (rng.normal(size=(1, 1, 128)).astype(np.float32) for _ in range(2))
    inputs = {"input": speech[:500], "h": h, "c": c}
    results = model.run_graph(inputs)
    for value, expected in zip(results.values(), runtime.run(None, inputs), strict=True):
        assert relative_error(value, expected) <= REAL_MODEL


@pytest.mark.parametrize("name", ["silero_vad_v6.2", "silero_vad_v6_sequence"])
def test_silero_converts_and_verifies(models: Path, name: str, tmp_path: Path) -> None:
    source, target = models / f"silero/{name}.onnx", tmp_path / "model.safetensors"
    options: dict[str, Any] = {"bind": {"sr": 16000}} if name.endswith("2") else {}
    report = gr.convert(source, target, **options)
    assert report.parity_error is not None
    assert report.parity_error < REAL_MODEL
    assert gr.verify(target, source, **options).passed
    assert gr.load(target).streamable
