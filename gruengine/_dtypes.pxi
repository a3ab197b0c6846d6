# SPDX-License-Identifier: MIT
# NumPy's name for an element type.

cdef object dtype_of(DType dtype):
    return np.dtype((<bytes>name_of(dtype)).decode())
