# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=True
"""The core of a pool: ids and arrays checked, the step with the least overhead."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t, uint8_t
from libcpp cimport bool as cbool
from libcpp.map cimport map as cmap
from libcpp.string cimport string
from libcpp.vector cimport vector

import numpy as np

cimport numpy as cnp

from gruengine._engine cimport (
    DType,
    ModelPtr,
    PoolPort,
    StateEntry,
    name_of,
    raise_python_error,
)

from gruengine.errors import InvalidInputError, InvalidTypeError
from gruengine.pool_ports import PortInfo

cnp.import_array()

cdef extern from "gruengine/pool.h" namespace "gruengine":
    cdef cppclass CppPool "gruengine::Pool":
        CppPool(ModelPtr, int64_t, const cmap[string, int64_t]&) except +raise_python_error
        int64_t capacity()
        int64_t size()
        int64_t state_bytes()
        int64_t bytes_per_stream()
        const vector[PoolPort]& inputs()
        const vector[PoolPort]& outputs()
        void grow(int64_t) except +raise_python_error
        int64_t open() except +raise_python_error
        int64_t open(const uint8_t*, size_t) except +raise_python_error
        void close(const int64_t*, int64_t) except +raise_python_error
        cbool is_open(int64_t) except +raise_python_error
        vector[int64_t] ids() except +raise_python_error
        void reset(const int64_t*, int64_t) except +raise_python_error
        void fork(const int64_t*, int64_t, int64_t*) except +raise_python_error
        void step(const int64_t*, int64_t, const void* const*, void* const*) except +raise_python_error nogil
        void run(const int64_t*, int64_t, const int64_t*, const void* const*, void* const*) except +raise_python_error nogil
        vector[uint8_t] get_state(int64_t) except +raise_python_error
        void set_state(int64_t, const uint8_t*, size_t) except +raise_python_error
        vector[StateEntry] state_layout()
        int state_row_axis(size_t)
        void read_entry(size_t, const int64_t*, int64_t, void*) except +raise_python_error
        void write_entry(size_t, const int64_t*, int64_t, const void*) except +raise_python_error

# Weights beyond this make a step long enough for other Python threads to be let run.
cdef Py_ssize_t RELEASE_FROM = 256 * 1024
cdef Py_ssize_t RELEASE_ROWS = 8


cdef inline CppPool* cpp(PoolCore pool) noexcept nogil:
    return <CppPool*>pool.handle


include "_pool_arrays.pxi"


cdef inline cnp.ndarray id_array(ids):
    """ids as int64 [n]; anything else is refused."""
    if (
        cnp.PyArray_Check(ids) and cnp.PyArray_TYPE(ids) == cnp.NPY_INT64
        and cnp.PyArray_NDIM(ids) == 1 and cnp.PyArray_ISCARRAY_RO(ids)
    ):
        return ids
    return slow_ids(ids)


cdef cnp.ndarray slow_ids(ids):
    array = np.asarray(ids if cnp.PyArray_Check(ids) else list(ids))
    if array.size == 0:
        array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidTypeError(
            f"ids has shape {array.shape} and dtype {array.dtype}; it must be [n] integers"
        )
    return np.ascontiguousarray(array, np.int64)


cdef inline const int64_t* ids_at(cnp.ndarray ids) noexcept:
    return <const int64_t*>cnp.PyArray_DATA(ids)


cdef inline bint fits(object x, int rank, const Py_ssize_t* dims, Py_ssize_t rows, int dtype) noexcept:
    cdef int i
    if not cnp.PyArray_Check(x):
        return False
    if cnp.PyArray_TYPE(x) != dtype or cnp.PyArray_NDIM(x) != rank:
        return False
    if cnp.PyArray_DIM(x, 0) != rows:
        return False
    for i in range(1, rank):
        if cnp.PyArray_DIM(x, i) != dims[i]:
            return False
    return cnp.PyArray_ISCARRAY_RO(x)


cdef class PoolCore:
    """What :class:`gruengine.Pool` is built on."""

    def __cinit__(self, model=None, capacity=1, sizes=None):
        self.handle = NULL
        core = getattr(model, "_core", None)
        if core is None:
            raise InvalidTypeError(f"a pool of {type(model).__name__}; it needs a gruengine.Model")
        cdef object capsule = core._capsule()
        cdef ModelPtr* shared = <ModelPtr*>PyCapsule_GetPointer(capsule, "gruengine.Model")
        cdef cmap[string, int64_t] symbols
        for name, size in (sizes or {}).items():
            symbols[name.encode()] = size
        self.handle = new CppPool(shared[0], capacity, symbols)
        self.model = model
        self.release_gil = core.packed_bytes >= RELEASE_FROM
        self.inputs = infos(cpp(self).inputs())
        self.outputs = infos(cpp(self).outputs())
        self._describe()

    def __dealloc__(self):
        if self.handle != NULL:
            del_pool(<CppPool*>self.handle)

    def _describe(self):
        """Keeps what the fast path of step() compares with."""
        if len(self.inputs) != 1 or len(self.outputs) != 1:
            return
        x, y = self.inputs[0], self.outputs[0]
        if x.rows != 0 or y.rows != 0 or len(x.step) > 8 or len(y.step) > 8:
            return
        self.in_rank, self.out_rank = len(x.step), len(y.step)
        for i, size in enumerate(x.step):
            self.in_dims[i] = size
        for i, size in enumerate(y.step):
            self.out_dims[i] = size
        self.in_type, self.out_type = x.dtype.num, y.dtype.num
        self.in_row, self.out_row = x.row_bytes, y.row_bytes
        self.simple = True

    cdef int step_into(self, const int64_t* ids, int64_t n, const void* x, void* out) except -1 nogil:
        cpp(self).step(ids, n, &x, &out)
        return 0

    @property
    def capacity(self):
        """Streams that can be open at once."""
        return cpp(self).capacity()

    def __len__(self):
        return cpp(self).size()

    @property
    def state_bytes(self):
        """Bytes of the state of one stream."""
        return cpp(self).state_bytes()

    @property
    def bytes_per_stream(self):
        """All bytes that the pool takes for one stream."""
        return cpp(self).bytes_per_stream()

    def grow(self, capacity):
        """Make room for more streams: the only call that allocates memory of the pool.

        Raises
        ------
        InvalidInputError
            ``capacity`` is not larger than it is, or beyond 2**24.
        """
        cpp(self).grow(capacity)

    def open(self, state=None):
        """Open a stream.

        Parameters
        ----------
        state : bytes, optional
            A state of :meth:`get_state` of a pool, or of a stream with one row; None starts from
            the initial state.

        Returns
        -------
        int
            The id of the stream: an id of a closed stream never comes to mean another.

        Raises
        ------
        Overloaded
            Every place is taken.
        InvalidInputError
            The bytes are not a state of this model.
        """
        if state is None:
            return cpp(self).open()
        cdef bytes blob = check_bytes(state)
        return cpp(self).open(<const uint8_t*>PyBytes_AS_STRING(blob), len(blob))

    def close(self, ids):
        """Close a stream, or several: all of them or, when one id is wrong, none."""
        cdef cnp.ndarray which = id_array([ids] if isinstance(ids, int) else ids)
        cpp(self).close(ids_at(which), cnp.PyArray_DIM(which, 0))

    def __contains__(self, id):  # noqa: A002
        return isinstance(id, int) and 0 < id < 1 << 63 and cpp(self).is_open(id)

    def ids(self):
        """The ids of the open streams, int64 [n]."""
        cdef vector[int64_t] found = cpp(self).ids()
        return np.array(found, np.int64)

    def reset(self, ids):
        """Put a stream, or several, back into the initial state."""
        cdef cnp.ndarray which = id_array([ids] if isinstance(ids, int) else ids)
        cpp(self).reset(ids_at(which), cnp.PyArray_DIM(which, 0))

    def fork(self, ids):
        """Open streams in the states of others; they go on independently.

        Returns
        -------
        int, or ndarray int64 [n] where several ids are given (one may be given several times)
        """
        single = isinstance(ids, int)
        cdef cnp.ndarray which = id_array([ids] if single else ids)
        cdef cnp.ndarray copies = np.empty(cnp.PyArray_DIM(which, 0), np.int64)
        cpp(self).fork(
            ids_at(which), cnp.PyArray_DIM(which, 0), <int64_t*>cnp.PyArray_DATA(copies)
        )
        return int(copies[0]) if single else copies

    def step(self, ids, x, out=None):
        """Advance some streams by one step each, as one batch.

        Parameters
        ----------
        ids : int64 ndarray or list [n]
            Different open streams, in any order.
        x : ndarray
            The input of one step, row ``i`` being that of ``ids[i]``: ``[n, I]`` as a rule, in the
            dtype of the model's input, C-contiguous. A dict of such arrays by name when the model
            has several inputs.
        out : ndarray, optional
            Where to write the output, not overlapping ``x``; nothing is allocated then.

        Returns
        -------
        ndarray
            ``out``, or a new array; a dict by name when the model has several outputs.

        Raises
        ------
        InvalidInputError, InvalidTypeError
            An id that is closed, of another pool or given twice; a wrong shape, dtype or layout.
            Every stream is as it was.
        StreamBusyError
            Another caller is using the pool.
        """
        cdef cnp.ndarray which = id_array(ids)
        cdef Py_ssize_t n = cnp.PyArray_DIM(which, 0)
        cdef const int64_t* at = ids_at(which)
        cdef const void* x_data
        cdef void* out_data
        cdef Py_ssize_t out_dims[8]
        cdef int i
        if not self.simple or not fits(x, self.in_rank, self.in_dims, n, self.in_type):
            return self._step_slowly(which, x, out)
        if out is None:
            out_dims[0] = n
            for i in range(1, self.out_rank):
                out_dims[i] = self.out_dims[i]
            out = cnp.PyArray_SimpleNew(self.out_rank, <cnp.npy_intp*>out_dims, self.out_type)
        elif not fits(out, self.out_rank, self.out_dims, n, self.out_type) or not (
            cnp.PyArray_ISWRITEABLE(out)
        ):
            return self._step_slowly(which, x, out)
        x_data = cnp.PyArray_DATA(x)
        out_data = cnp.PyArray_DATA(out)
        if (
            <const char*>x_data < <char*>out_data + n * self.out_row
            and <char*>out_data < <const char*>x_data + n * self.in_row
        ):
            return self._step_slowly(which, x, out)
        if self.release_gil or n >= RELEASE_ROWS:
            with nogil:
                cpp(self).step(at, n, &x_data, &out_data)
        else:
            cpp(self).step(at, n, &x_data, &out_data)
        return out

    def _step_slowly(self, ids, x, out):
        raise NotImplementedError

    def _step_arrays(self, cnp.ndarray ids, list x, list out):
        """A step on arrays that have been checked, one for each port."""
        cdef vector[const void*] x_at
        cdef vector[void*] out_at
        pointers(x, x_at, out, out_at)
        cdef const int64_t* at = ids_at(ids)
        cdef Py_ssize_t n = cnp.PyArray_DIM(ids, 0)
        with nogil:
            cpp(self).step(at, n, x_at.data(), out_at.data())

    def _run_arrays(self, cnp.ndarray ids, cnp.ndarray frames, list x, list out):
        """frames[i] steps of each stream; x and out hold the ports of a stream after another's."""
        cdef vector[const void*] x_at
        cdef vector[void*] out_at
        pointers(x, x_at, out, out_at)
        cdef const int64_t* at = ids_at(ids)
        cdef const int64_t* counts = ids_at(frames)
        cdef Py_ssize_t n = cnp.PyArray_DIM(ids, 0)
        with nogil:
            cpp(self).run(at, n, counts, x_at.data(), out_at.data())

    def get_state(self, ids):
        """The state of a stream as bytes, those of a stream with one row; a list for several ids."""
        if not isinstance(ids, int):
            return [self.get_state(int(id)) for id in id_array(ids)]
        cdef vector[uint8_t] state = cpp(self).get_state(ids)
        return PyBytes_FromStringAndSize(<char*>state.data(), state.size())

    def _set_state(self, int64_t which, bytes blob):
        cpp(self).set_state(which, <const uint8_t*>PyBytes_AS_STRING(blob), len(blob))

    def _layout(self):
        """Name, dtype, dims of one row and row axis of each array of a state."""
        cdef vector[StateEntry] layout = cpp(self).state_layout()
        cdef size_t i
        return [
            (
                (<bytes>layout[i].name).decode(), dtype_of(layout[i].dtype),
                tuple(layout[i].dims), cpp(self).state_row_axis(i),
            )
            for i in range(layout.size())
        ]

    def _read(self, size_t entry, ids, cnp.ndarray to):
        cdef cnp.ndarray which = id_array(ids)
        cpp(self).read_entry(
            entry, ids_at(which), cnp.PyArray_DIM(which, 0), cnp.PyArray_DATA(to)
        )

    def _write(self, size_t entry, ids, cnp.ndarray values):
        cdef cnp.ndarray which = id_array(ids)
        cpp(self).write_entry(
            entry, ids_at(which), cnp.PyArray_DIM(which, 0), cnp.PyArray_DATA(values)
        )

    @staticmethod
    def _ids(ids):
        return id_array(ids)

    def __reduce__(self):
        raise TypeError("a pool cannot be pickled; save get_state(pool.ids()) and the model's path")


cdef inline void del_pool(CppPool* pool) noexcept:
    del pool
