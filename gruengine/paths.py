# SPDX-License-Identifier: MIT
"""Where the installed library lies, for programs in C, C++ and Cython."""

from __future__ import annotations

from pathlib import Path


def root() -> Path:
    """Return the folder that holds ``include`` and ``lib``."""
    from gruengine import _core

    # The compiled files: in an editable installation they lie apart from the sources.
    return Path(_core.__file__).resolve().parent


def include_dir() -> str:
    """Return the folder to give to the compiler: it holds ``gruengine/gruengine.h``."""
    return str(root() / "include")


def library_dir() -> str:
    """Return the folder of ``libgruengine``."""
    return str(root() / "lib")


def cmake_dir() -> str:
    """Return the folder of the CMake package, for ``gruengine_DIR`` or ``CMAKE_PREFIX_PATH``."""
    return str(root() / "lib" / "cmake" / "gruengine")


def pkgconfig_dir() -> str:
    """Return the folder of ``gruengine.pc``, for ``PKG_CONFIG_PATH``."""
    return str(root() / "lib" / "pkgconfig")
