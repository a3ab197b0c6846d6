# SPDX-License-Identifier: MIT
# The Cython face of a stream: ``from gruengine._stream cimport Stream``.

cdef class Stream:
    cdef void* handle  # gruengine::Stream, owned
    cdef readonly object model
    cdef bint ready  # sizes are fixed and there is one input and one output
    cdef bint release_gil
    cdef bint squeeze_in, squeeze_out  # a batch of one may be left out
    cdef int in_type, out_type  # NumPy type numbers
    cdef int in_rank, out_rank  # of a step: without the time axis
    cdef Py_ssize_t in_dims[8]
    cdef Py_ssize_t out_dims[8]
    cdef Py_ssize_t in_bytes, out_bytes
    cdef object names  # (inputs, outputs)

    # One step on raw memory, for streams with one input and one output; shapes are not checked.
    # x: the elements of one step; out: likewise, not aliasing x. Allocates nothing.
    cdef int step_into(self, const void* x, void* out) except -1 nogil
