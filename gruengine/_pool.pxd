# SPDX-License-Identifier: MIT
# The Cython face of a pool: ``from gruengine._pool cimport PoolCore``.

from libc.stdint cimport int64_t

cdef class PoolCore:
    cdef void* handle  # gruengine::Pool, owned
    cdef readonly object model
    cdef readonly tuple inputs, outputs  # PortInfo of each
    cdef bint simple  # one input and one output, rows first in both
    cdef bint release_gil
    cdef int in_type, out_type  # NumPy type numbers
    cdef int in_rank, out_rank
    cdef Py_ssize_t in_dims[8]  # the first is filled with the number of rows
    cdef Py_ssize_t out_dims[8]
    cdef Py_ssize_t in_row, out_row  # bytes

    # One step of n different streams on raw memory, for pools with one input and one output; shapes
    # are not checked. x: n rows; out: likewise, not aliasing x. Allocates nothing.
    cdef int step_into(self, const int64_t* ids, int64_t n, const void* x, void* out) except -1 nogil
