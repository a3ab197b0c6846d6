# SPDX-License-Identifier: MIT
"""What runs here: instruction sets, threads, versions."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gruengine import _core
from gruengine.errors import InvalidInputError


def info() -> dict[str, Any]:
    """Return what was chosen on this machine, and why.

    Returns
    -------
    dict
        ``version``; ``isa`` and ``isa_choice`` (how it came to be); ``isas``: every instruction set
        of this build with ``supported``, the ``reason`` when not, and ``floats``, the set whose
        float32 kernels it runs; ``openmp``; ``max_threads``
        (1 in a forked child whose parent had run in parallel); ``machine``, ``python``.
    """
    import numpy as np

    import gruengine

    return {
        "version": gruengine.__version__,
        "isa": _core.current_isa(),
        "isa_choice": _core.isa_choice(),
        "isas": {
            name: {"supported": supported, "reason": reason, "floats": floats}
            for name, floats, supported, reason in _core.available_isas()
        },
        "openmp": _core.built_with_openmp(),
        "max_threads": _core.max_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


@contextmanager
def isa(name: str) -> Iterator[None]:
    """Force an instruction set for the models loaded inside the block.

    A model keeps the instruction set that it was loaded with. The choice holds for the whole
    process, not for one thread.

    Parameters
    ----------
    name : str
        One of ``info()["isas"]`` that is supported here.

    Raises
    ------
    InvalidInputError
        The name is unknown or this CPU lacks it.
    """
    if not name:
        names = [known for known, _, supported, _ in _core.available_isas() if supported]
        raise InvalidInputError(f"gr.isa got an empty name; this machine supports: {names}")
    forced = _core.current_isa() if _core.isa_choice().startswith("forced by gr.isa") else ""
    _core.force_isa(name)
    try:
        yield
    finally:
        _core.force_isa(forced)
