# SPDX-License-Identifier: MIT
"""The command line: what it prints, what it refuses, its exit codes, its pipes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch

import gruengine as gr
from gruengine.cli import main
from gruengine.cli_demo import demo_file
from gruengine.cli_text import seconds, size, spark, table
from gruengine.spec import Port

HINTS = ["--hint", "batch_first=true", "--hint", "output=sequence",
         "--hint", 'activations={"head": "none"}']  # fmt: skip


def call(capsys, *args):
    """Run a command and return its exit code, stdout and stderr."""
    code = main([str(arg) for arg in args])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.fixture(scope="module")
def net():
    return gr.Sequential([gr.LSTM(8, return_sequences=True), gr.Dense(2)], input_size=3)


@pytest.fixture(scope="module")
def model_file(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "net.safetensors"
    net.save(path)
    return path


# -- convert and verify ---------------------------------------------------------------------------


def test_convert_writes_a_model_that_runs(capsys, tmp_path):
    target = tmp_path / "out.safetensors"
    code, out, _ = call(capsys, "convert", demo_file("demo.onnx"), target)
    assert code == 0
    assert "4,513" in out
    assert "streaming" in out
    x = np.load(demo_file("demo_signal.npy"))[None, :, :1].copy()
    np.testing.assert_array_equal(gr.load(target)(x), gr.load(demo_file("demo.onnx"))(x))


def test_convert_as_json(capsys, tmp_path):
    target = tmp_path / "out.safetensors"
    code, out, _ = call(capsys, "convert", demo_file("demo.pt"), target, *HINTS, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["parameters"] == 4513
    assert report["output_bytes"] == target.stat().st_size
    assert 0 <= report["parity_error"] < 1e-5


def test_convert_lists_every_reason_and_writes_nothing(capsys, tmp_path):
    target = tmp_path / "out.safetensors"
    code, out, err = call(capsys, "convert", demo_file("demo.pt"), target)
    assert (code, out) == (2, "")
    assert "3 reasons" in err
    assert "batch_first" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--compute-type", "int7"], "'int7'; this version has float32"),
        (["--hint", "oops"], "--hint 'oops'; it must be NAME=VALUE"),
        (["--bind", "a=1", "--bind", "a=2"], "--bind gives 'a' twice"),
        (["--hint", "state=1"], "an option of its own"),
        (["--size", "Q=3"], "sizes names 'Q'; the free sizes are N, T"),
    ],
)
def test_convert_refuses_what_it_does_not_know(capsys, tmp_path, args, message):
    code, out, err = call(capsys, "convert", demo_file("demo.onnx"), tmp_path / "o", *args)
    assert (code, out) == (2, "")
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["convert", "inspect", "verify", "stream", "bench"])
def test_files_that_are_no_models_are_refused_in_one_line(capsys, tmp_path, command):
    (tmp_path / "text").write_text("nothing of that kind")
    rest = [tmp_path / "out"] if command == "convert" else []
    for name, message in (("text", "no known format"), ("missing", "No such file")):
        code, out, err = call(capsys, command, tmp_path / name, *rest)
        assert (code, out) == (2, "")
        assert message in err
        assert len(err.splitlines()) == 1


def test_verify_against_the_sample_and_the_source(capsys, tmp_path):
    target = tmp_path / "out.safetensors"
    call(capsys, "convert", demo_file("demo.onnx"), target)
    code, out, _ = call(capsys, "verify", target, "--source", demo_file("demo.onnx"))
    assert code == 0
    assert "reference float64" in out
    assert "ONNX Runtime" in out
    code, out, _ = call(capsys, "verify", target, "--source", demo_file("demo.pt"), *HINTS)
    assert code == 0
    assert "float64 reference on the source" in out


def test_verify_fails_against_another_model(capsys, net, tmp_path):
    other = gr.Sequential([gr.LSTM(8, return_sequences=True), gr.Dense(2)], input_size=3, seed=5)
    for name, one in (("a", net), ("b", other)):
        one.save(tmp_path / name)
    code, out, _ = call(capsys, "verify", tmp_path / "a", "--source", tmp_path / "b", "--json")
    report = json.loads(out)
    assert code == 1
    assert not report["passed"]
    assert [check["passed"] for check in report["checks"]] == [True, False]
    code, out, _ = call(capsys, "verify", tmp_path / "a", "--source", tmp_path / "b")
    assert code == 1
    assert "FAILED" in out


def test_verify_notices_a_sample_that_is_not_the_models(capsys, net, tmp_path):
    spec = gr.ModelSpec.from_bytes(_saved(net, tmp_path))
    outputs = {name: value + 0.01 for name, value in spec.parity.outputs.items()}
    spec.parity.outputs = outputs
    spec.save(tmp_path / "wrong")
    code, out, _ = call(capsys, "verify", tmp_path / "wrong")
    assert code == 1
    assert "FAILED" in out


def _saved(net, folder):
    net.save(folder / "saved")
    return (folder / "saved").read_bytes()


def test_verify_runs_a_module(net, tmp_path):
    module = torch.nn.GRU(3, 5, batch_first=True)
    model = gr.from_torch(module)
    x = np.random.default_rng(0).normal(0, 1, (2, 6, 3)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x))[0].numpy()
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)


# -- inspect --------------------------------------------------------------------------------------


def test_inspect_shows_the_graph(capsys, model_file):
    code, out, _ = call(capsys, "inspect", model_file)
    assert code == 0
    for text in ("gruengine model file", "[N, T, 3]", "[N, T, 2]", "LSTM 3 -> 8", "frame by frame",
                 "sample by reference float64"):  # fmt: skip
        assert text in out


def test_inspect_as_json(capsys):
    code, out, _ = call(capsys, "inspect", demo_file("demo.onnx"), "--json")
    found = json.loads(out)
    assert code == 0
    assert found["parameters"] == 4513
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["N", "T", 1]}]
    assert [n["sizes"] for n in found["nodes"] if n["operator"] == "Recurrent"] == ["LSTM 1 -> 32"]
    assert found["runs"]


def test_inspect_shows_what_a_refused_checkpoint_holds(capsys):
    code, out, _ = call(capsys, "inspect", demo_file("demo.pt"))
    assert code == 0
    assert "lstm.weight_hh_l0  float  [128, 32]" in out
    assert "batch_first" in out


def test_inspect_shows_what_a_refused_onnx_model_holds(capsys, tmp_path):
    helper = onnx.helper
    x, y = (helper.make_tensor_value_info(name, 1, ["N", 3]) for name in "xy")
    weights = onnx.numpy_helper.from_array(np.zeros((3, 3), np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]),
             helper.make_node("Mystery", ["h"], ["y"], domain="acme")]  # fmt: skip
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], [weights]), producer_name="acme tools",
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)],
    )  # fmt: skip
    onnx.save(model, tmp_path / "m.onnx")
    code, out, _ = call(capsys, "inspect", tmp_path / "m.onnx")
    assert code == 0
    for text in ("acme tools", "1 MatMul, 1 acme::Mystery", "w       float32  [3, 3]", "[N, 3]"):
        assert text in out
    assert "refused" in out


def test_inspect_shows_weights_of_any_kind(capsys, tmp_path):
    values = {"a.weight": np.zeros((2, 3), np.float32), "count": np.zeros((), np.int64)}
    safetensors.numpy.save_file(values, tmp_path / "w.safetensors")
    torch.save({"model": {k: torch.from_numpy(v) for k, v in values.items()}, "epoch": 3},
               tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)  # fmt: skip
    for name in ("w.safetensors", "legacy.pt"):
        code, out, _ = call(capsys, "inspect", tmp_path / name)
        assert code == 0
        assert "a.weight" in out
        assert "[2, 3]" in out
        assert "refused" in out


def test_inspect_needs_no_framework(tmp_path):
    program = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'onnxscript'): sys.modules[name] = None\n"
        "from gruengine.cli import main\n"
        "sys.exit(max(main(['inspect', path]) for path in sys.argv[1:]))"
    )
    files = [str(demo_file("demo.onnx")), str(demo_file("demo.pt"))]
    done = subprocess.run(
        [sys.executable, "-c", program, *files], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "LSTM 1 -> 32" in done.stdout


# -- stream ---------------------------------------------------------------------------------------


def frames(count=11):
    return np.random.default_rng(2).normal(0, 1, (count, 3)).astype(np.float32)


def test_stream_from_file_to_file(capsys, net, model_file, tmp_path):
    np.save(tmp_path / "x.npy", frames())
    code, out, _ = call(capsys, "stream", model_file, "--input", tmp_path / "x.npy",
                        "--output", tmp_path / "y.npy")  # fmt: skip
    assert (code, out) == (0, "")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), net(frames()[None])[0])


def test_stream_through_pipes_answers_each_frame(net, model_file, tmp_path):
    command = [sys.executable, "-m", "gruengine", "stream", str(model_file)]
    with subprocess.Popen(
        command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        outputs = []
        for frame in frames(5):
            # Half a frame alone gives no answer; the second half completes it.
            data = frame.tobytes()
            process.stdin.write(data[:5])
            process.stdin.flush()
            process.stdin.write(data[5:])
            process.stdin.flush()
            outputs.append(np.frombuffer(process.stdout.read(8), "<f4"))
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0
    np.testing.assert_array_equal(np.stack(outputs), net(frames(5)[None])[0])


def test_stream_refuses_part_of_a_frame(capsys, model_file, monkeypatch):
    pipe = SimpleNamespace(buffer=io.BytesIO(frames().tobytes()[:-3]))
    monkeypatch.setattr(sys, "stdin", pipe)
    code, _, err = call(capsys, "stream", model_file, "--output", "/dev/null")
    assert code == 2
    assert "9 bytes of a frame of 12" in err


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((4, 5), np.float32), "has shape (4, 5); a frame of 'x' has 3 values"),
        (np.float32(1), "holds no sequence"),
        (np.array([{}], object), "is no .npy array"),
    ],
)
def test_stream_refuses_other_arrays(capsys, model_file, tmp_path, value, message):
    np.save(tmp_path / "x.npy", value, allow_pickle=True)
    code, _, err = call(capsys, "stream", model_file, "--input", tmp_path / "x.npy")
    assert code == 2
    assert message in err


def test_stream_refuses_a_model_that_looks_ahead(capsys, tmp_path):
    net = gr.Sequential([gr.GRU(4, bidirectional=True, return_sequences=True)], input_size=3)
    net.save(tmp_path / "net")
    code, _, err = call(capsys, "stream", tmp_path / "net", "--input", tmp_path / "x.npy")
    assert code == 2
    assert "does not stream" in err
    assert "gru" in err


def test_stream_takes_one_of_several_outputs(capsys, net, tmp_path):
    spec = net.spec()
    hidden = next(node.outputs[0] for node in spec.graph.nodes if node.op == "Squeeze")
    spec.graph.outputs.append(Port(hidden, "float32", ("T", "N", 8)))
    spec.save(tmp_path / "two")
    np.save(tmp_path / "x.npy", frames())
    args = ["stream", tmp_path / "two", "--input", tmp_path / "x.npy", "--output", tmp_path / "y"]
    code, _, err = call(capsys, *args)
    assert code == 2
    assert f"outputs y, {hidden}; choose one by --take" in err
    code, _, err = call(capsys, *args, "--take", "z")
    assert code == 2
    assert "no output 'z'" in err
    args[-1] = tmp_path / "y.npy"
    assert call(capsys, *args, "--take", hidden)[0] == 0
    expected = gr.load(tmp_path / "two").run_graph({"x": frames()[None]})[hidden]
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected[:, 0])


# -- bench, info ----------------------------------------------------------------------------------


def test_bench_times_both_engines(capsys):
    code, out, _ = call(capsys, "bench", demo_file("demo.onnx"), "--frames", 20, "--repeats", 2,
                        "--batch", 3, "--json")  # fmt: skip
    found = json.loads(out)
    assert code == 0
    assert [case["case"] for case in found["cases"]] == ["step", "sequence"]
    for case in found["cases"]:
        assert case["seconds"] > 0
        assert case["onnxruntime_seconds"] > 0


def test_bench_says_why_it_is_alone(capsys, model_file):
    code, out, _ = call(capsys, "bench", model_file, "--frames", 5, "--repeats", 1)
    assert code == 0
    assert "ONNX Runtime runs .onnx files only" in out
    code, _, err = call(capsys, "bench", model_file, "--frames", 0)
    assert code == 2
    assert "--frames is 0" in err


def test_info(capsys):
    code, out, _ = call(capsys, "info")
    assert code == 0
    assert gr.info()["isa"] in out
    code, out, _ = call(capsys, "info", "--json")
    assert json.loads(out)["version"] == gr.__version__


def test_usage_errors_exit_with_2():
    for args in ([], ["nonsense"], ["convert", "only-one"], ["bench", "x", "--frames", "many"]):
        with pytest.raises(SystemExit) as stop:
            main(args)
        assert stop.value.code == 2


def test_the_installed_command_answers(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "gruengine", "--version"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == f"gruengine {gr.__version__}"


# -- text -----------------------------------------------------------------------------------------


def test_text():
    assert seconds(1.234e-6) == "1.23 us"
    assert seconds(0.9999e-3) == "1 ms"
    assert seconds(0.0456) == "45.6 ms"
    assert size(9_999) == "9,999 bytes"
    assert size(20_480) == "20 KiB"
    assert table([("a", "1"), ("bcd", "22")], right=(1,)) == "  a     1\n  bcd  22"
    ascii_only = SimpleNamespace(encoding="ascii")
    assert spark([0.0, 0.5, 1.0, 2.0], 0.0, 1.0, ascii_only) == "_+@@"
    assert spark([0.0, 1.0], 0.0, 1.0, SimpleNamespace(encoding="utf-8")) == "▁█"
