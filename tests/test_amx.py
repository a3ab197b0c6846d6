# SPDX-License-Identifier: MIT
"""AMX: found where it is, and done without where the operating system refuses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import gruengine as gr

CPU_FLAGS = {"amx_tile", "amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni"}

# Linux refuses tiles to a process with an alternate signal stack that cannot hold them.
REFUSED = """
import ctypes
import numpy as np

class Stack(ctypes.Structure):
    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

memory = ctypes.create_string_buffer(8192)
stack = Stack(ctypes.addressof(memory), 0, 8192)
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None) == 0

import gruengine as gr
print(gr.info()["isas"]["amx"]["reason"])
print(gr.info()["isa"])
net = gr.Sequential([gr.LSTM(20), gr.Dense(3)], 5)
print(np.isfinite(net(np.ones((2, 4, 5), np.float32))).all())
try:
    with gr.isa("amx"):
        pass
except gr.InvalidInputError as error:
    print(error)
"""


def cpu_flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("flags"):
            return set(line.split(":", 1)[1].split())
    return set()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/cpuinfo")
def test_amx_is_used_where_the_cpu_has_it():
    isas = gr.info()["isas"]
    if "amx" not in isas:
        assert not cpu_flags() >= CPU_FLAGS
    elif cpu_flags() >= CPU_FLAGS:
        assert isas["amx"]["supported"], isas["amx"]["reason"]
        with gr.isa("amx"):
            assert gr.info()["isa"] == "amx"
    else:
        assert not isas["amx"]["supported"]
        assert isas["amx"]["reason"]


@pytest.mark.skipif(not cpu_flags() >= CPU_FLAGS, reason="this CPU has no AMX")
def test_a_refused_permission_falls_back_to_vectors():
    done = subprocess.run(
        [sys.executable, "-c", REFUSED], capture_output=True, text=True, check=True, cwd="/"
    )
    reason, isa, finite, error = done.stdout.strip().split("\n")
    assert reason == "the operating system refuses AMX tiles to this process"
    assert isa == "avx512vnni"
    assert finite == "True"
    for part in ("'amx'", reason, "avx512vnni"):
        assert part in error
