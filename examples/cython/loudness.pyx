# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False
"""A loop of your own around a stream, without Python between the steps."""

cimport gruengine


def step_while_quiet(gruengine.Stream stream, const float[:, ::1] frames, float[:, ::1] out,
                     float limit):
    """Step over ``frames`` until the first value of an output passes ``limit``.

    Returns the number of frames that were stepped; ``out`` holds as many outputs.
    """
    cdef Py_ssize_t t = 0
    with nogil:
        while t < frames.shape[0]:
            stream.step_into(&frames[t, 0], &out[t, 0])
            t += 1
            if out[t - 1, 0] > limit:
                break
    return t
