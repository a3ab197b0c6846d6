# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=True
"""Streams: the state of one live sequence, and the step with the least overhead."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy
from libcpp.map cimport map as cmap
from libcpp.memory cimport unique_ptr
from libcpp.string cimport string
from libcpp.vector cimport vector

from threading import get_ident, main_thread

import numpy as np

cimport numpy as cnp

from gruengine._engine cimport (
    CppStream,
    DType,
    ModelPtr,
    StateEntry,
    SignalCheck,
    StepPort,
    Stop,
    name_of,
    ports_in,
    ports_out,
)

from gruengine.errors import InvalidInputError, InvalidTypeError

cnp.import_array()

# Says that __cinit__ is called by clone(), which sets the handle itself.
cdef object CLONED = object()

# Weights beyond this make a step long enough for other Python threads to be let run.
cdef Py_ssize_t RELEASE_FROM = 256 * 1024


# Runs of more steps look for signals in between.
cdef int64_t UNINTERRUPTED = 128


cdef inline CppStream* cpp(Stream stream) noexcept nogil:
    return <CppStream*>stream.handle


cdef tuple step_shape(StepPort& port):
    """The shape of one step: the time axis left out."""
    return tuple([port.dims[i] for i in range(port.dims.size()) if <int>i != port.time_axis])


include "_dtypes.pxi"


cdef int check_array(object x, str what, object dtype) except -1:
    if not cnp.PyArray_Check(x):
        raise InvalidTypeError(f"{what} is {type(x).__name__}; it must be a numpy array")
    if x.dtype != dtype:
        raise InvalidTypeError(f"{what} is {x.dtype}; it must be {dtype}")
    if not cnp.PyArray_ISCARRAY_RO(x):
        raise InvalidTypeError(f"{what} must be C-contiguous and aligned")
    return 0


cdef inline bint fits(object x, int rank, const Py_ssize_t* dims, int dtype) noexcept:
    cdef int i
    if not cnp.PyArray_Check(x):
        return False
    if cnp.PyArray_TYPE(x) != dtype or cnp.PyArray_NDIM(x) != rank:
        return False
    for i in range(rank):
        if cnp.PyArray_DIM(x, i) != dims[i]:
            return False
    return cnp.PyArray_ISCARRAY_RO(x)


cdef class Stream:
    """The state of one live sequence of a model. Made by :meth:`gruengine.Model.stream`.

    A stream belongs to one caller at a time: a second one that calls while a call is under way gets
    :class:`gruengine.StreamBusyError`. Any number of streams share one model.

    The shape of a step is the shape of the model's input without its time axis, ``[N, I]`` as a rule
    (``[I]`` will do when N is 1); a chunk has the time axis as the model has it.
    """

    def __cinit__(self, model=None, Py_ssize_t batch_size=1, sizes=None):
        self.handle = NULL
        self.model = model
        self.names = ((), ())
        if model is CLONED:
            return
        core = getattr(model, "_core", None)
        if core is None:
            raise InvalidTypeError(f"a stream of {type(model).__name__}; it needs a gruengine.Model")
        cdef object capsule = core._capsule()
        cdef ModelPtr* shared = <ModelPtr*>PyCapsule_GetPointer(capsule, "gruengine.Model")
        cdef cmap[string, int64_t] symbols
        for name, size in (sizes or {}).items():
            symbols[name.encode()] = size
        self.handle = new CppStream(shared[0], batch_size, symbols)
        self.release_gil = core.packed_bytes >= RELEASE_FROM
        if cpp(self).ready():
            self._describe()

    def __dealloc__(self):
        del_stream(self.handle)

    cdef int step_into(self, const void* x, void* out) except -1 nogil:
        cpp(self).step(&x, &out)
        return 0

    @property
    def batch_size(self):
        """Rows stepped at once."""
        return cpp(self).batch_size()

    def _describe(self):
        """Keeps what the fast path of step() compares with."""
        cdef vector[StepPort]* ins = ports_in(self.handle)
        cdef vector[StepPort]* outs = ports_out(self.handle)
        self.names = (
            tuple([ins[0][i].name.decode() for i in range(ins.size())]),
            tuple([outs[0][i].name.decode() for i in range(outs.size())]),
        )
        if ins.size() != 1 or outs.size() != 1:
            return
        shape_in, shape_out = step_shape(ins[0][0]), step_shape(outs[0][0])
        if len(shape_in) > 8 or len(shape_out) > 8:
            return
        self.in_rank, self.out_rank = len(shape_in), len(shape_out)
        for i, size in enumerate(shape_in):
            self.in_dims[i] = size
        for i, size in enumerate(shape_out):
            self.out_dims[i] = size
        self.in_type = dtype_of(ins[0][0].dtype).num
        self.out_type = dtype_of(outs[0][0].dtype).num
        self.in_bytes = ins[0][0].count * dtype_of(ins[0][0].dtype).itemsize
        self.out_bytes = outs[0][0].count * dtype_of(outs[0][0].dtype).itemsize
        self.squeeze_in = len(shape_in) > 1 and shape_in[0] == 1
        self.squeeze_out = len(shape_out) > 1 and shape_out[0] == 1
        self.ready = True

    def step(self, x, out=None):
        """Advance by one step.

        Parameters
        ----------
        x : ndarray
            The input of one step, in the dtype of the model's input, C-contiguous: ``[N, I]`` as a
            rule. A dict of such arrays by name when the model has several inputs.
        out : ndarray, optional
            Where to write the output, not overlapping ``x``; nothing is allocated then.

        Returns
        -------
        ndarray
            ``out``, or a new array; a dict by name when the model has several outputs.

        Raises
        ------
        InvalidInputError, InvalidTypeError
            Wrong shape; wrong dtype or layout. The state is unchanged.
        StreamBusyError
            Another caller is using the stream.
        """
        cdef const void* x_data
        cdef void* out_data
        if (
            not self.ready
            or not fits(x, self.in_rank, self.in_dims, self.in_type)
        ):
            return self._step_slowly(x, out)
        if out is None:
            out = cnp.PyArray_SimpleNew(self.out_rank, <cnp.npy_intp*>self.out_dims, self.out_type)
        elif not fits(out, self.out_rank, self.out_dims, self.out_type) or not (
            cnp.PyArray_ISWRITEABLE(out)
        ):
            return self._step_slowly(x, out)
        x_data = cnp.PyArray_DATA(x)
        out_data = cnp.PyArray_DATA(out)
        if (
            <const char*>x_data < <char*>out_data + self.out_bytes
            and <char*>out_data < <const char*>x_data + self.in_bytes
        ):
            return self._step_slowly(x, out)
        if self.release_gil:
            with nogil:
                cpp(self).step(&x_data, &out_data)
        else:
            cpp(self).step(&x_data, &out_data)
        return out

    def _step_slowly(self, x, out):
        """step() with every check, every accepted form and every number of inputs."""
        return self._call(x, out, -1)

    def run(self, chunk, out=None):
        """Advance by many steps at once, bit for bit as ``step`` by ``step`` would.

        Parameters
        ----------
        chunk : ndarray
            Models that stream by frames: the input with its time axis, any number of frames
            (``[T, I]`` will do when N is 1). Models that stream by calls: ``[T, ...]``, one input of
            a call after the other. A dict by name when the model has several inputs.
        out : ndarray, optional
            Where to write the output.

        Returns
        -------
        ndarray
            The output with its time axis. An output without one holds its last value.

        Raises
        ------
        KeyboardInterrupt
            Or whatever a signal handler raises, in the main thread: the stream is as it was before
            the call, and ``out`` partly written.
        """
        return self._call(chunk, out, 0)

    def _prepare(self, inputs, bint by_step):
        """Fixes sizes that are still open by the shapes of the first inputs."""
        cdef vector[vector[int64_t]] dims
        cdef vector[int64_t] one
        for x in inputs:
            shape = np.shape(x)
            one.clear()
            for size in shape if by_step else shape[1:]:
                one.push_back(size)
            dims.push_back(one)
        cpp(self).prepare(dims)
        self._describe()

    def _call(self, x, out, Py_ssize_t kind):
        cdef bint by_step = kind < 0
        if not cpp(self).ready():
            self._prepare(list(x.values()) if isinstance(x, dict) else [x], by_step)
        cdef vector[StepPort]* ins = ports_in(self.handle)
        cdef vector[StepPort]* outs = ports_out(self.handle)
        arrays = inputs_of(self, x)
        cdef vector[const void*] in_at
        cdef vector[void*] out_at
        cdef Py_ssize_t frames = 1 if by_step else -1
        cdef bint squeezed = False
        cdef size_t i
        for i in range(ins.size()):
            array = arrays[i]
            name = ins[0][i].name.decode()
            check_array(array, f"input '{name}'", dtype_of(ins[0][i].dtype))
            count, short = match(self, array.shape, ins[0][i], by_step, f"input '{name}'")
            squeezed = squeezed or short
            if frames < 0:
                frames = count
            elif count != frames and count >= 0:
                raise InvalidInputError(f"input '{name}' has {count} frames, another {frames}")
            in_at.push_back(cnp.PyArray_DATA(array))
        if frames < 0:
            raise InvalidInputError("no input has a time axis")
        results = []
        for i in range(outs.size()):
            results.append(output_for(self, outs[0][i], out, frames, by_step, squeezed))
            out_at.push_back(cnp.PyArray_DATA(results[i]))
        for i, result in enumerate(results):
            for other in arrays + results[:i]:
                if np.may_share_memory(other, result):
                    raise InvalidInputError(
                        "out overlaps the input or another output; give it memory of its own"
                    )
        cdef int64_t steps = frames
        cdef SignalCheck check
        cdef Stop stop
        if steps > UNINTERRUPTED and get_ident() == main_thread().ident:
            stop = check.stop()
        with nogil:
            if by_step:
                cpp(self).step(in_at.data(), out_at.data())
            else:
                cpp(self).run(steps, in_at.data(), out_at.data(), stop)
        if len(results) == 1:
            return results[0]
        return dict(zip(self.names[1], results))

    def reset(self):
        """Go back to the initial state."""
        cpp(self).reset()

    def clone(self):
        """A second stream in the same state; the two go on independently."""
        cdef Stream copy = Stream.__new__(Stream, CLONED)
        copy.model = self.model
        copy.release_gil = self.release_gil
        cdef unique_ptr[CppStream] made = cpp(self).clone()
        copy.handle = made.release()
        if cpp(copy).ready():
            copy._describe()
        return copy

    def get_state(self):
        """The state as versioned bytes that belong to this model and batch size."""
        cdef vector[uint8_t] state = cpp(self).get_state()
        return PyBytes_FromStringAndSize(<char*>state.data(), state.size())

    def set_state(self, bytes state not None):
        """Continue from a state of :meth:`get_state`.

        Raises
        ------
        InvalidInputError
            The bytes are damaged or belong to another model or batch size; nothing is changed.
        """
        cpp(self).set_state(<const uint8_t*>PyBytes_AS_STRING(state), len(state))

    @property
    def state(self):
        """The state as a dict of arrays by name (copies)."""
        cdef vector[StateEntry] layout = cpp(self).state_layout()
        cdef vector[uint8_t] block = cpp(self).copy_state()
        result = {}
        for i in range(layout.size()):
            shape = tuple(layout[i].dims)
            array = np.empty(shape, dtype_of(layout[i].dtype))
            memcpy(cnp.PyArray_DATA(array), block.data() + layout[i].offset, array.nbytes)
            result[layout[i].name.decode()] = array
        return result

    def __repr__(self):
        return f"Stream(batch_size={self.batch_size}, model={self.model!r})"

    def __reduce__(self):
        raise TypeError("a stream cannot be pickled; save get_state() and the model's path")


include "_stream_arrays.pxi"


cdef void del_stream(void* handle) noexcept:
    if handle != NULL:
        del_cpp(<CppStream*>handle)


cdef inline void del_cpp(CppStream* stream) noexcept:
    del stream
