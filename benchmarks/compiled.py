# SPDX-License-Identifier: MIT
"""Programs of ``micro/`` compiled when they are needed, against the installed package."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gruengine import paths

MICRO = Path(__file__).resolve().parent / "micro"


def flags() -> list[str]:
    """Return what a program that uses libgruengine gives to the compiler."""
    library = paths.library_dir()
    return [f"-I{paths.include_dir()}", f"-L{library}", "-lgruengine", f"-Wl,-rpath,{library}"]


def missing() -> str:
    """Return "" if there are compilers for C and C++."""
    return "" if shutil.which(_compiler("x.c")) and shutil.which(_compiler("x.cpp")) else (
        "no C or C++ compiler (set CC and CXX)"
    )  # fmt: skip


def build(output: Path, source: str, options: Sequence[str]) -> Path:
    """Compile a file of ``micro/``.

    Raises
    ------
    RuntimeError
        The compiler refuses; the message has what it said first.
    """
    _run(source, [*options, "-o", str(output)])
    return output


def library(source: str, options: Sequence[str]) -> ctypes.CDLL:
    """Return a shared library of a file of ``micro/``, compiled once for what it includes."""
    text = _run(source, [*options, "-E"])
    key = hashlib.sha256("\0".join([_compiler(source), *options, text]).encode()).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gruengine-benchmarks"
    file = folder / f"{Path(source).stem}-{key[:16]}.so"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as own:
            build(Path(own, file.name), source, ["-O3", "-shared", "-fPIC", *options]).rename(file)
    return ctypes.CDLL(str(file))


def _run(source: str, options: Sequence[str]) -> str:
    command = [_compiler(source), str(MICRO / source), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{source} does not compile: {done.stderr.strip()[:600]}")
    return done.stdout


def _compiler(source: str) -> str:
    return os.environ.get("CXX", "c++") if source.endswith("cpp") else os.environ.get("CC", "cc")
