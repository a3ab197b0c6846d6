# SPDX-License-Identifier: MIT
# What pools and schedulers share: their ports, addresses of arrays, states as bytes.

include "_dtypes.pxi"


cdef tuple infos(const vector[PoolPort]& ports):
    cdef size_t i
    result = []
    for i in range(ports.size()):
        result.append(
            PortInfo(
                (<bytes>ports[i].name).decode(), dtype_of(ports[i].dtype), tuple(ports[i].dims),
                ports[i].row_axis, ports[i].time_axis,
            )
        )
    return tuple(result)


cdef void pointers(
    list x, vector[const void*]& x_at, list out, vector[void*]& out_at
):
    for array in x:
        x_at.push_back(cnp.PyArray_DATA(array))
    for array in out:
        out_at.push_back(cnp.PyArray_DATA(array))


cdef bytes check_bytes(state):
    if not isinstance(state, (bytes, bytearray, memoryview)):
        raise InvalidTypeError(f"state is {type(state).__name__}; it must be bytes of get_state()")
    return bytes(state)
