# SPDX-License-Identifier: MIT
"""What runs here: instruction sets, threads, versions."""

from __future__ import annotations

import glob
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gruengine import _core
from gruengine.errors import InvalidInputError

if TYPE_CHECKING:
    from gruengine.model import Model


def info(model: Model | None = None) -> dict[str, Any]:
    """Return what was chosen on this machine, and why.

    Parameters
    ----------
    model : Model, optional
        What of a model is worth knowing is added as ``model``.

    Returns
    -------
    dict
        ``version``; ``isa`` and ``isa_choice`` (how it came to be); ``isas``: every instruction set
        of this build with ``supported``, the ``reason`` when not, and ``floats``, the set whose
        float32 kernels it runs; ``max_threads``: the least
        of the CPU affinity, the limits of cgroups, ``OMP_NUM_THREADS`` and ``OMP_THREAD_LIMIT``
        (1 in a forked child whose parent had run in parallel); ``caches``: bytes of each level;
        ``machine``, ``python``. ``model``: its ``isa``, ``compute_type`` and ``num_threads``, the
        ``packed_bytes`` of its weights, and the cache that they fit (see :func:`level_of`).
    """
    import numpy as np

    import gruengine

    found = {
        "version": gruengine.__version__,
        "isa": _core.current_isa(),
        "isa_choice": _core.isa_choice(),
        "isas": {
            name: {"supported": supported, "reason": reason, "floats": floats}
            for name, floats, supported, reason in _core.available_isas()
        },
        "max_threads": _core.max_threads(),
        "caches": caches(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    if model is not None:
        names = ("isa", "compute_type", "num_threads", "packed_bytes")
        found["model"] = {name: getattr(model, name) for name in names}
        found["model"]["fits"] = level_of(model.packed_bytes)
    return found


def caches() -> dict[str, int]:
    """Return the bytes of the data caches of the first core: L1, L2, L3; empty if not known."""
    found: dict[str, int] = {}
    for folder in sorted(glob.glob("/sys/devices/system/cpu/cpu0/cache/index*")):
        try:
            facts = {
                name: Path(folder, name).read_text().strip() for name in ("level", "type", "size")
            }
        except OSError:
            continue
        units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
        number, unit = facts["size"][:-1], facts["size"][-1:]
        if facts["type"] != "Instruction" and number.isdigit() and unit in units:
            found[f"L{facts['level']}"] = int(number) * units[unit]
    return found


def level_of(weight_bytes: int) -> str:
    """Return the first cache that holds so many bytes beside other data, else ``"memory"``.

    Four fifths of a cache are taken to be free for weights.
    """
    for name, size in sorted(caches().items()):
        if weight_bytes <= 0.8 * size:
            return name
    return "memory"


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
