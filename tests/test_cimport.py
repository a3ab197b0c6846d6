# SPDX-License-Identifier: MIT
"""Cython code can step a stream without Python: ``from gruengine._stream cimport Stream``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = """
# cython: language_level=3
from gruengine._stream cimport Stream


def walk(Stream stream, float[:, ::1] frames, float[:, ::1] out):
    cdef Py_ssize_t t
    with nogil:
        for t in range(frames.shape[0]):
            stream.step_into(&frames[t, 0], &out[t, 0])
"""

SETUP = """
from Cython.Build import cythonize
from setuptools import Extension, setup

setup(name="walker", ext_modules=cythonize([Extension("walker", ["walker.pyx"])]))
"""

PROGRAM = """
import numpy as np, gruengine as gr, walker

net = gr.Sequential([gr.GRU(9, return_sequences=True)], 4)
x = np.random.default_rng(0).normal(size=(30, 4)).astype("f4")
out = np.zeros((30, 9), "f4")
stream = net.stream()
walker.walk(stream, x, out)
assert np.array_equal(out, net(x[None])[0])
assert np.array_equal(stream.state["gru.h"][0, 0], out[-1])
try:
    walker.walk(object(), x, out)
except TypeError:
    print("walked")
"""


def python(*arguments: str, cwd: Path) -> str:
    result = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_a_compiled_module_steps_a_stream(tmp_path: Path) -> None:
    pytest.importorskip("Cython", reason="Cython is needed to compile the module")
    pytest.importorskip("setuptools", reason="setuptools is needed to compile the module")
    (tmp_path / "walker.pyx").write_text(SOURCE)
    (tmp_path / "setup.py").write_text(SETUP)
    python("setup.py", "-q", "build_ext", "--inplace", cwd=tmp_path)
    assert python("-c", PROGRAM, cwd=tmp_path).strip() == "walked"
