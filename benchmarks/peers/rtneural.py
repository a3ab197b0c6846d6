# SPDX-License-Identifier: MIT
"""RTNeural, whose headers ``GRUENGINE_RTNEURAL`` names: models with sizes known to the compiler.

``micro/rtneural.cpp`` is compiled with each backend whose headers are found and with each width of
vectors that this machine has; what is fastest for a case is its peer.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import compiled
from benchmarks.cases import GATES, Case, Stack
from benchmarks.onnx_cell import weights
from benchmarks.peers import Array, Runner, looped, pointer

NATIVE = True
# Of a vector, in bytes, and the flags that keep the compiler to it.
WIDTHS = {"AVX-512": (64, []), "AVX2": (32, ["-mno-avx512f"])}
# A backend, the header that tells that it is there, and where else it may lie in a checkout.
BACKENDS = (
    ("xsimd", "xsimd/xsimd.hpp", "modules/xsimd/include", "/usr/include"),
    ("eigen", "Eigen/Dense", "modules/Eigen", "/usr/include/eigen3"),
)
# ONNX i, o, f, c -> i, f, c, o; z, r, h stay.
ORDER = {"LSTM": (0, 2, 3, 1), "GRU": (0, 1, 2)}


def missing() -> str:
    """Return why there is no RTNeural."""
    folder = os.environ.get("GRUENGINE_RTNEURAL")
    if not folder:
        return "not given (set GRUENGINE_RTNEURAL to a checkout)"
    if not Path(folder, "RTNeural/RTNeural.h").is_file():
        return f"no RTNeural/RTNeural.h in {folder}"
    if reason := compiled.missing():
        return reason
    try:
        _libraries()  # here, on every core: cases are prepared on one
    except RuntimeError as error:
        return str(error)
    return ""


def version() -> str:
    """Return the version that the checkout says, and what it is compiled with."""
    file = Path(os.environ["GRUENGINE_RTNEURAL"], "CMakeLists.txt")
    found = re.search(r"VERSION\s+([\d.]+)", file.read_text()) if file.is_file() else None
    return f"{found[1] if found else 'of unknown version'} ({', '.join(_libraries())})"


def prepare(case: Case) -> Runner | None:
    """Return the fastest of the builds for a case, or None where none has its sizes."""
    (part,) = case.parts
    if not isinstance(part, Stack) or part.kind not in ORDER or part.layers > 1 or part.dense:
        return None
    seconds = {
        name: _seconds(runner)
        for name, library in _libraries().items()
        if (runner := _runner(library, name, part))
    }
    if not seconds:
        return None
    best = min(seconds, key=seconds.__getitem__)
    return _runner(_libraries()[best], best, part)  # anew: the state is back at zero


def _runner(library: ctypes.CDLL, name: str, stack: Stack) -> Runner | None:
    model = library.rtneural_open(stack.kind.encode(), stack.I, stack.H)
    if not model:
        return None
    (arrays,) = weights(stack)
    given = [_columns(stack, arrays["W"][0]), _columns(stack, arrays["R"][0])]
    given.append(np.stack([_columns(stack, half) for half in np.split(arrays["B"][0], 2)]))
    library.rtneural_set_weights(model, *(pointer(array) for array in given))
    return looped(stack, library.rtneural_steps, model, library.rtneural_close, name)


def _columns(stack: Stack, array: Array) -> Array:
    """Return ``[G*H, K]`` or ``[G*H]`` in the gate order of RTNeural, the rows as columns."""
    blocks = np.split(array, GATES[stack.kind])
    return np.ascontiguousarray(np.concatenate([blocks[gate] for gate in ORDER[stack.kind]]).T)


def _seconds(runner: Runner) -> float:
    """Return the least time of a few calls."""
    times = []
    for _ in range(20):
        start = perf_counter()
        runner.call()
        times.append(perf_counter() - start)
    return min(times)


@cache
def _libraries() -> dict[str, Any]:
    """Return every build by backend and width of vectors; all are compiled at once.

    Raises
    ------
    RuntimeError
        There are headers of no backend, or none compiles.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = {
            name: pool.submit(compiled.library, "rtneural.cpp", options)
            for name, options in _builds()
        }
    failed = [error for future in made.values() if (error := future.exception())]
    found = {name: future.result() for name, future in made.items() if not future.exception()}
    if not found:
        none = RuntimeError("neither the headers of xsimd nor those of Eigen are there")
        raise failed[0] if failed else none
    for library in found.values():
        library.rtneural_open.restype = ctypes.c_void_p
        library.rtneural_open.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int]
        library.rtneural_set_weights.argtypes = 4 * [ctypes.c_void_p]
    return found


def _builds() -> Iterator[tuple[str, list[str]]]:
    from benchmarks.catalogue import catalogue

    root = Path(os.environ["GRUENGINE_RTNEURAL"])
    stacks = [case.parts[0] for case in catalogue() if case.native]
    models = " ".join(
        f"MODEL({stack.kind}, {stack.I}, {stack.H})" for stack in stacks if isinstance(stack, Stack)
    )
    common = ["-std=c++20", "-march=native", "-w", "-DNDEBUG", f"-I{root}", f"-DMODELS={models}"]
    for backend, header, inside, outside in BACKENDS:
        folder = next(
            (at for at in (root / inside, Path(outside)) if (at / header).is_file()), None
        )
        for width, (size, narrow) in _widths().items():
            if folder:
                yield (
                    f"{backend} {width}".strip(),
                    [
                        *common,
                        *narrow,
                        f"-I{folder}",
                        f"-DRTNEURAL_USE_{backend.upper()}=1",
                        f"-DRTNEURAL_DEFAULT_ALIGNMENT={size}",
                    ],
                )


def _widths() -> dict[str, tuple[int, list[str]]]:
    """Return the widths of vectors of this machine; one without a name where it is not x86."""
    import gruengine

    usable = [isa for isa, facts in gruengine.info()["isas"].items() if facts["supported"]]
    if any(isa.startswith("avx512") for isa in usable):
        return WIDTHS
    return {"AVX2": (32, [])} if "avx2" in usable else {"": (16, [])}
