# SPDX-License-Identifier: MIT
"""The wheel, and a fresh environment that it is installed in."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What the build needs, by the names they are imported under.
BUILD = ("scikit_build_core", "pybind11", "Cython", "cython_cmake", "numpy")
# Lent to the fresh environment, which is made without a network.
LENT = ("numpy", "numpy.libs", "Cython", "cython.py", "setuptools", "_distutils_hack")


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a program that must succeed; return what it printed."""
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**clean, **(env or {})}, text=True,
        capture_output=True, timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this tree, or take the one that GRUENGINE_WHEEL names."""
    given = os.environ.get("GRUENGINE_WHEEL")
    if given:
        return Path(given).resolve()
    here = all(importlib.util.find_spec(name) for name in BUILD)
    isolation = ["--no-build-isolation"] if here else []
    # The scripts of this environment come first: cmake and ninja may be there alone.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    run(
        sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *isolation, "-w", folder, ROOT,
        env={"PATH": path},
    )  # fmt: skip
    (wheel,) = folder.glob("gruengine-*.whl")
    return wheel


class Fresh:
    """An environment with the wheel in it, and no other gruengine."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        self.folder = folder
        self.python = folder / "bin/python"
        site = Path(
            run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))").strip()
        )
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        self.package = site / "gruengine"
        lent = folder / "lent"
        lent.mkdir()
        for name in LENT:
            for place in map(Path, sys.path):
                if (place / name).exists() and not (lent / name).exists():
                    (lent / name).symlink_to(place / name)
        (site / "lent.pth").write_text(f"{lent}\n")

    def ask(self, flag: str) -> str:
        """What ``python -m gruengine FLAG`` prints."""
        return run(self.python, "-m", "gruengine", flag, cwd=self.folder).strip()
