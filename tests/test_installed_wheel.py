# SPDX-License-Identifier: MIT
"""The examples, built and run against an installed wheel, give the bits of the Python API."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import frames_of, samples
from wheel import ROOT, Fresh, build_wheel, run

import gruengine as gr

Array = np.ndarray[Any, Any]
EXAMPLES = ROOT / "examples"
I = 6


def tool(name: str) -> str:
    """Find a program beside this Python, or on the path."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is not installed: pip install '.[test]'"
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Fresh:
    return Fresh(tmp_path_factory.mktemp("fresh") / "venv", wheel)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.safetensors"
    gr.Sequential([gr.LSTM(20, return_sequences=True), gr.Dense(3)], I).save(path)
    return path


def frames(T: int) -> Array:
    return np.random.default_rng(3).normal(size=(T, I)).astype(np.float32)


def build(fresh: Fresh, source: str, folder: Path, *options: str) -> Path:
    """Build an example with CMake, which finds the package where the command line says."""
    where = f"-Dgruengine_DIR={fresh.ask('--cmake-dir')}"
    run(tool("cmake"), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", "-S",
        EXAMPLES / source, "-B", folder, where, *options)  # fmt: skip
    run(tool("cmake"), "--build", folder)
    return folder


def test_the_wheel_is_small(wheel: Path, fresh: Fresh) -> None:
    assert wheel.stat().st_size < 5_000_000
    library = next(fresh.package.glob("lib/libgruengine.so.*"))
    stripped = fresh.folder / "stripped.so"
    run("strip", "-o", stripped, library)
    assert stripped.stat().st_size < 3_000_000
    names = zipfile.ZipFile(wheel).namelist()
    assert sum(name.endswith(".h") for name in names) >= 10
    assert {"gruengine/lib/libgruengine.a", "gruengine/__init__.pxd"} <= set(names)


def test_the_library_shows_its_api_alone(fresh: Fresh) -> None:
    library = next(fresh.package.glob("lib/libgruengine.so.*"))
    listed = run("nm", "-DC", "--defined-only", library).splitlines()
    symbols = {line.split(maxsplit=2)[2] for line in listed}
    foreign = {s for s in symbols if not re.match(r"gru_|(\w+ (name )?for )?gruengine::", s)}
    assert foreign == set()
    headers = (fresh.package / "include/gruengine").glob("gruengine*.h")
    header = "".join(path.read_text() for path in headers)
    declared = set(re.findall(r"GRUENGINE_API [\w* ]*?(gru_\w+)\(", header))
    assert len(declared) > 40
    assert declared == {s for s in symbols if s.startswith("gru_")}
    internal = {s for s in symbols if re.search(r"::(Planner|Plan|Engine|Workspace|Arena)\b", s)}
    assert {s for s in internal if not re.search(r"::Model::", s)} == set()
    assert f"[{library.name}]" in run("readelf", "-d", library)


def test_every_header_compiles_alone(fresh: Fresh, tmp_path: Path) -> None:
    include = fresh.package / "include"
    headers = sorted(path.name for path in include.glob("gruengine/*.h"))
    lines = [f'#include "gruengine/{name}"\n#include "gruengine/{name}"\n' for name in headers]
    for at, text in enumerate(lines):
        (tmp_path / f"h{at}.cpp").write_text(text)
    run("g++", "-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{include}",
        *tmp_path.glob("h*.cpp"))  # fmt: skip
    (tmp_path / "c.c").write_text('#include "gruengine/gruengine.h"\n')
    run("gcc", "-std=c99", "-pedantic-errors", "-Wall", "-Wextra", "-Werror", "-fsyntax-only",
        f"-I{include}", tmp_path / "c.c")  # fmt: skip


def stream_in_c(program: Path, model_file: Path, folder: Path) -> None:
    x = frames(70)
    x.tofile(folder / "x.f32")
    run(program, model_file, folder / "x.f32", folder / "y.f32")
    found = np.fromfile(folder / "y.f32", np.float32).reshape(-1, 3)
    stream = gr.load(model_file).stream()
    np.testing.assert_array_equal(found, np.stack([stream.step(row[None])[0] for row in x]))


def test_the_c_example_by_cmake(fresh: Fresh, model_file: Path, tmp_path: Path) -> None:
    folder = build(fresh, "c", tmp_path / "build")
    stream_in_c(folder / "stream_file", model_file, tmp_path)
    # Every mistake is a line and a code.
    for arguments in ([], ["/nowhere", "-", "-"], [str(model_file), "-", "-", "K=3"]):
        done = subprocess.run([folder / "stream_file", *arguments], capture_output=True,
                              stdin=subprocess.DEVNULL, check=False)  # fmt: skip
        assert done.returncode in (1, 2)
        assert done.stderr
    assert "libpython" not in run("ldd", folder / "stream_file")


@pytest.mark.parametrize("kind", ["shared", "static"])
def test_the_c_example_by_pkg_config(
    fresh: Fresh, model_file: Path, tmp_path: Path, kind: str
) -> None:
    env = {"PKG_CONFIG_PATH": fresh.ask("--pkgconfig-dir")}
    static = ["--static"] if kind == "static" else []
    flags = run(tool("pkg-config"), "--cflags", "--libs", *static, "gruengine", env=env).split()
    library = run(tool("pkg-config"), "--variable=libdir", "gruengine", env=env).strip()
    if kind == "static":
        flags = [f if f != "-lgruengine" else "-l:libgruengine.a" for f in flags]
    program = tmp_path / "stream_file"
    run("cc", EXAMPLES / "c/stream_file.c", *flags, f"-Wl,-rpath,{library}", "-o", program)
    assert ("libgruengine.so" in run("ldd", program)) == (kind == "shared")
    stream_in_c(program, model_file, tmp_path)


@pytest.mark.parametrize("static", ["OFF", "ON"])
def test_the_audio_callback(fresh: Fresh, models: Path, tmp_path: Path, static: str) -> None:
    gr.convert(models / "silero/silero_vad_v6.2.onnx", tmp_path / "vad", bind={"sr": 16000})
    folder = build(fresh, "cpp", tmp_path / "build", f"-DWITH_STATIC={static}")
    recording = models / "audio/speech_16k.wav"
    said = run(folder / "vad_callback", tmp_path / "vad", recording, tmp_path / "p.f32")
    assert "60.0 s of audio" in said
    assert ("libgruengine" in run("ldd", folder / "vad_callback")) == (static == "OFF")
    found = np.fromfile(tmp_path / "p.f32", np.float32)
    stream = gr.load(tmp_path / "vad").stream()
    wanted = np.concatenate([stream.step(x[None])[0] for x in frames_of(samples(recording))])
    assert wanted.max() > 0.9
    np.testing.assert_array_equal(found, wanted)


CYTHON = """
import sys, numpy as np, gruengine as gr, loudness
assert gr.__file__.startswith(sys.prefix), gr.__file__
model, x = gr.load(sys.argv[1]), np.fromfile(sys.argv[2], np.float32).reshape(-1, 6)
out = np.zeros((len(x), 3), np.float32)
assert loudness.step_while_quiet(model.stream(), x, out, np.inf) == len(x)
out.tofile(sys.argv[3])
middle = float(np.sort(out[:, 0])[-2])
first = int(np.argmax(out[:, 0] > middle)) + 1
assert loudness.step_while_quiet(model.stream(), x, out, middle) == first
"""


def test_the_cython_example(fresh: Fresh, model_file: Path, tmp_path: Path) -> None:
    for path in (EXAMPLES / "cython").iterdir():
        shutil.copy(path, tmp_path)
    run(fresh.python, "setup.py", "-q", "build_ext", "--inplace", cwd=tmp_path)
    x = frames(70)
    x.tofile(tmp_path / "x.f32")
    run(fresh.python, "-c", CYTHON, model_file, "x.f32", "y.f32", cwd=tmp_path)
    found = np.fromfile(tmp_path / "y.f32", np.float32).reshape(-1, 3)
    np.testing.assert_array_equal(found, gr.load(model_file)(x[None])[0])


def test_the_package_may_be_moved(fresh: Fresh, model_file: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    for part in ("include", "lib"):
        shutil.copytree(fresh.package / part, moved / part)
    env = {"PKG_CONFIG_PATH": str(moved / "lib/pkgconfig"), **os.environ}
    flags = run(tool("pkg-config"), "--cflags", "--libs", "gruengine", env=env).split()
    assert all(str(moved) in flag for flag in flags if flag[:2] in ("-I", "-L"))
    program = tmp_path / "stream_file"
    run("cc", EXAMPLES / "c/stream_file.c", *flags, f"-Wl,-rpath,{moved / 'lib'}", "-o", program)
    assert str(moved) in run("ldd", program)
    stream_in_c(program, model_file, tmp_path)
