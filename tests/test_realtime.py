# SPDX-License-Identifier: MIT
"""Steps from Cython: no allocation and no system call (from C: ``cpp/tests/test_realtime.c``)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

STEPS = int(os.environ.get("GRUENGINE_REALTIME_STEPS", "100000"))

# Takes the place of the allocator of the C library, and counts.
COUNTER = """
#include <stddef.h>
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
static volatile long calls;
long allocations_so_far(void) { return calls; }
void* malloc(size_t n) { ++calls; return __libc_malloc(n); }
void* calloc(size_t k, size_t n) { ++calls; return __libc_calloc(k, n); }
void* realloc(void* p, size_t n) { ++calls; return __libc_realloc(p, n); }
void* memalign(size_t a, size_t n) { ++calls; return __libc_memalign(a, n); }
void* aligned_alloc(size_t a, size_t n) { ++calls; return __libc_memalign(a, n); }
int posix_memalign(void** p, size_t a, size_t n) {
  ++calls;
  *p = __libc_memalign(a, n);
  return *p == NULL ? 12 : 0;
}
"""

STEPPER = """
# cython: language_level=3
cimport gruengine

cdef extern from *:
    '''
    #include <linux/seccomp.h>
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    extern long allocations_so_far(void);
    // After it the kernel ends the process at any call but read, write and exit.
    static void watch(void) {
      if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) _exit(77);
    }
    static void leave(void) { syscall(SYS_exit, 0); }
    static void cheat(void) { syscall(SYS_getppid); }
    '''
    long allocations_so_far() nogil
    void watch() nogil
    void leave() nogil
    void cheat() nogil

def walk(gruengine.Stream stream, float[::1] x, float[::1] out, long steps):
    "The allocations of so many steps."
    cdef long before, t
    with nogil:
        before = allocations_so_far()
        for t in range(steps):
            stream.step_into(&x[0], &out[0])
        before = allocations_so_far() - before
    return before

def walk_watched(gruengine.Stream stream, float[::1] x, float[::1] out, long steps, bint bad):
    "Steps without a system call, and ends the process."
    cdef long t
    with nogil:
        watch()
        for t in range(steps):
            stream.step_into(&x[0], &out[0])
        if bad:
            cheat()
        leave()
"""

SETUP = """
from Cython.Build import cythonize
from setuptools import Extension, setup

setup(name="stepper", ext_modules=cythonize([Extension("stepper", ["stepper.pyx"])]))
"""

PROGRAM = """
import os, signal, sys
import numpy as np
import gruengine as gr, stepper

steps = int(sys.argv[1])
stream = gr.Sequential([gr.GRU(48), gr.Dense(3, "softmax")], 9).stream()
x, out = np.ones(9, "f4"), np.zeros(3, "f4")
stepper.walk(stream, x, out, 10)
print(stepper.walk(stream, x, out, steps), out.sum() > 0.99)

def ends(steps, bad):
    pid = os.fork()
    if pid == 0:
        stepper.walk_watched(stream, x, out, steps, bad)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

print(ends(1, True) == -signal.SIGKILL, ends(steps, False))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library and the kernel of Linux")
def test_steps_from_cython_ask_nothing_of_the_system(tmp_path: Path) -> None:
    for name, text in (
        ("counter.c", COUNTER), ("stepper.pyx", STEPPER), ("setup.py", SETUP), ("p.py", PROGRAM),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)

    def run(*command: str, **env: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, **env}, capture_output=True, text=True,
            check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("cc", "-O1", "-fno-builtin", "-shared", "-fPIC", "counter.c", "-o", "counter.so")
    run(sys.executable, "setup.py", "-q", "build_ext", "--inplace")
    said = run(sys.executable, "p.py", str(STEPS), LD_PRELOAD=str(tmp_path / "counter.so"))
    assert said.splitlines() == ["0 True", "True 0"]
