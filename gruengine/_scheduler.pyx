# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=True
"""The core of a scheduler: steps handed to C++, answers handed back."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.string cimport string
from libcpp.vector cimport vector

import numpy as np

cimport numpy as cnp

from gruengine._engine cimport DType, ModelPtr, PoolPort, name_of
from gruengine._engine_scheduler cimport (
    CppMailbox,
    CppScheduler,
    MailboxAnswer,
    SchedulerMetrics,
    SchedulerOptions,
    call_on_batch,
    call_on_evict,
    to_prometheus,
)

from gruengine.errors import InvalidTypeError
from gruengine.pool_ports import PortInfo

cnp.import_array()

# An exception is shown as ignored: a worker has no caller to raise it to.
cdef void evict(void* function, int64_t id, const uint8_t* state, size_t size) noexcept with gil:  # noqa: A002
    (<object>function)(id, PyBytes_FromStringAndSize(<const char*>state, size))


cdef int before_batch(void* function, int64_t rows, string* why) noexcept with gil:
    try:
        (<object>function)(rows)
    except BaseException as error:
        why[0] = f"on_batch raised {type(error).__name__}: {error}".encode()
        return 1
    return 0


include "_pool_arrays.pxi"


cdef inline bint fits(object x, tuple shape, tuple short, int dtype) noexcept:
    """Whether x is an array of that shape, with or without its row axis, to be used as it is."""
    cdef int i, rank
    if not cnp.PyArray_Check(x) or cnp.PyArray_TYPE(x) != dtype or not cnp.PyArray_ISCARRAY_RO(x):
        return False
    rank = cnp.PyArray_NDIM(x)
    if rank != len(shape):
        shape = short
    if rank != len(shape):
        return False
    for i in range(rank):
        if cnp.PyArray_DIM(x, i) != <Py_ssize_t>shape[i]:
            return False
    return True


# The callables of the options must outlive the workers: no collector clears them earlier.
@cython.no_gc_clear
cdef class SchedulerCore:
    """What :class:`gruengine.Scheduler` is built on."""

    cdef CppScheduler* handle
    cdef readonly object model
    cdef readonly tuple inputs, outputs
    cdef object on_evict, on_batch
    cdef bint simple
    cdef int in_type, out_type
    cdef tuple in_shape, in_short, out_shape, out_short

    def __cinit__(
        self, model=None, int64_t max_streams=1024, int64_t max_batch=64, int64_t max_wait_us=0,
        int num_threads=1, int64_t max_queue=0, idle_timeout=None, on_evict=None, sizes=None,
        _on_batch=None,
    ):
        self.handle = NULL
        core = getattr(model, "_core", None)
        if core is None:
            raise InvalidTypeError(
                f"a scheduler of {type(model).__name__}; it needs a gruengine.Model"
            )
        cdef object capsule = core._capsule()
        cdef ModelPtr* shared = <ModelPtr*>PyCapsule_GetPointer(capsule, "gruengine.Model")
        cdef SchedulerOptions options
        options.max_streams, options.max_batch = max_streams, max_batch
        options.max_wait_us, options.num_threads = max_wait_us, num_threads
        options.max_queue = max_queue
        options.idle_timeout_us = microseconds(idle_timeout)
        for name, size in (sizes or {}).items():
            options.sizes[name.encode()] = size
        self.on_evict, self.on_batch = on_evict, _on_batch
        if on_evict is not None:
            call_on_evict(options, evict, <void*>on_evict)
        if _on_batch is not None:
            call_on_batch(options, before_batch, <void*>_on_batch)
        self.handle = new CppScheduler(shared[0], options)
        self.model = model
        self.inputs, self.outputs = infos(self.handle.inputs()), infos(self.handle.outputs())
        self.simple = len(self.inputs) == 1 and len(self.outputs) == 1
        if self.simple:
            x, y = self.inputs[0], self.outputs[0]
            self.in_type, self.out_type = x.dtype.num, y.dtype.num
            self.in_shape, self.in_short = x.step, x.short_step()
            self.out_shape, self.out_short = y.step, y.short_step()

    def __dealloc__(self):
        cdef CppScheduler* handle = self.handle
        if handle != NULL:
            with nogil:
                delete_scheduler(handle)

    def open(self, state=None):
        """Open a stream, in the initial state or in one of ``get_state``; returns its id.

        Raises
        ------
        Overloaded
            ``max_streams`` are open.
        InvalidInputError
            The bytes are not a state of this model.
        """
        cdef int64_t made
        cdef const uint8_t* at
        cdef size_t size
        if state is None:
            with nogil:
                made = self.handle.open()
            return made
        cdef bytes blob = check_bytes(state)
        at, size = <const uint8_t*>PyBytes_AS_STRING(blob), len(blob)
        with nogil:
            made = self.handle.open(at, size)
        return made

    def close(self, int64_t id):  # noqa: A002
        """Close a stream; its steps that wait are answered with InvalidInputError."""
        with nogil:
            self.handle.close(id)

    def ids(self):
        """The ids of the open streams, int64 [n]."""
        cdef vector[int64_t] found
        with nogil:
            found = self.handle.ids()
        return np.array(found, np.int64)

    def __len__(self):
        return len(self.ids())

    @property
    def is_open(self):
        """Whether steps are taken: false once shut down, failed, or in a forked child."""
        return self.handle.is_open()

    def get_state(self, int64_t id):  # noqa: A002
        """The state of a stream between two of its steps, as bytes for ``open`` and ``set_state``."""
        cdef vector[uint8_t] state
        with nogil:
            state = self.handle.get_state(id)
        return PyBytes_FromStringAndSize(<char*>state.data(), state.size())

    def set_state(self, int64_t id, state):  # noqa: A002
        """Continue a stream from a state of ``get_state``."""
        cdef bytes blob = check_bytes(state)
        cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(blob)
        cdef size_t size = len(blob)
        with nogil:
            self.handle.set_state(id, at, size)

    def step(self, int64_t id, x, out=None, timeout=None):  # noqa: A002
        """Advance a stream by one step, from any thread; waits for the answer without the GIL.

        Parameters
        ----------
        id : int
        x : ndarray
            The input of one step of one row, ``[1, I]`` or ``[I]`` as a rule; a dict by name when
            the model has several inputs. Not to be changed until the step is answered.
        out : ndarray, optional
            Where to write the output, not overlapping ``x``.
        timeout : float, optional
            Seconds after which the step is given up, unless a worker has begun it.

        Returns
        -------
        ndarray
            ``out``, or a new array; a dict by name when the model has several outputs.

        Raises
        ------
        InvalidInputError, InvalidTypeError
            The id is not of an open stream; a wrong shape, dtype or layout.
        Overloaded
            The queue is full.
        DeadlineError
            The time is up; the state is unchanged.
        SchedulerClosedError
            The scheduler was shut down.
        UnsupportedError
            This process is a fork of the one that made the scheduler.
        """
        cdef const void* x_data
        cdef void* out_data
        cdef int64_t us = 0 if timeout is None else microseconds(timeout)
        if out is None and self.simple and fits(x, self.in_shape, self.in_short, self.in_type):
            short = cnp.PyArray_NDIM(x) != len(self.in_shape)
            out = np.empty(self.out_short if short else self.out_shape, self.outputs[0].dtype)
            x_data, out_data = cnp.PyArray_DATA(x), cnp.PyArray_DATA(out)
            with nogil:
                self.handle.step(id, &x_data, &out_data, us)
            return out
        return self._step_slowly(id, x, out, us)

    def _step_slowly(self, id, x, out, timeout_us):  # noqa: A002
        raise NotImplementedError

    def _step_arrays(self, int64_t id, list x, list out, int64_t timeout_us):  # noqa: A002
        cdef vector[const void*] x_at
        cdef vector[void*] out_at
        pointers(x, x_at, out, out_at)
        with nogil:
            self.handle.step(id, x_at.data(), out_at.data(), timeout_us)

    def shutdown(self, drain=True):
        """Take no more steps and end the workers; nothing happens the second time.

        Parameters
        ----------
        drain : bool
            Whether steps that wait are done first; otherwise SchedulerClosedError answers them.
            States can be read afterwards.
        """
        cdef cbool first = drain
        with nogil:
            self.handle.shutdown(first)

    def metrics(self):
        """Counters since the start and gauges, as a dict.

        ``batch_sizes`` and ``latency_us`` are histograms: the number of batches of up to so many
        rows, and of steps answered within so many microseconds, each beyond the key before.
        """
        cdef SchedulerMetrics m
        with nogil:
            m = self.handle.metrics()
        return {
            "streams": m.streams, "queued": m.queued, "running": m.running,
            "max_queued": m.max_queued, "opened": m.opened, "closed": m.closed,
            "evicted": m.evicted, "steps": m.steps, "failed": m.failed,
            "overloaded": m.overloaded, "expired": m.expired, "batches": m.batches,
            "rows": m.rows, "latency_seconds": m.latency_seconds,
            "batch_sizes": {1 << k: m.batch_sizes[k] for k in range(32) if m.batch_sizes[k]},
            "latency_us": {1 << k: m.latency[k] for k in range(32) if m.latency[k]},
        }

    def prometheus(self, labels=None):
        """The metrics in the text format of Prometheus.

        Parameters
        ----------
        labels : dict of str to str, optional
            Put into every line.
        """
        text = ",".join(f'{name}="{escape(value)}"' for name, value in (labels or {}).items())
        cdef SchedulerMetrics m
        with nogil:
            m = self.handle.metrics()
        return to_prometheus(m, text.encode()).decode()

    def __reduce__(self):
        raise TypeError("a scheduler cannot be pickled; save states and the model's path")


@cython.no_gc_clear
cdef class Mailbox:
    """Where the answers of one event loop's steps arrive. ``fd`` becomes readable once for many."""

    cdef CppMailbox* handle
    cdef object scheduler  # its workers write here: it must end first
    cdef dict pending
    cdef uint64_t keys

    def __cinit__(self, SchedulerCore scheduler, int fd):
        self.handle = new CppMailbox(fd)
        self.scheduler = scheduler
        self.pending = {}

    def __len__(self):
        return len(self.pending)

    def submit(self, int64_t id, list x, list out, int64_t timeout_us, holder):  # noqa: A002
        """Hand a step over; ``holder`` comes back from collect() with its answer."""
        cdef vector[const void*] x_at
        cdef vector[void*] out_at
        cdef SchedulerCore scheduler = self.scheduler
        pointers(x, x_at, out, out_at)
        self.keys += 1
        cdef uint64_t key = self.keys
        # The arrays live here until the answer, whatever becomes of the caller.
        self.pending[key] = (holder, x, out)
        try:
            with nogil:
                self.handle.submit(
                    scheduler.handle[0], key, id, x_at.data(), out_at.data(), timeout_us
                )
        except BaseException:
            del self.pending[key]
            raise

    def collect(self):
        """The holders that were answered, with None or the exception."""
        cdef vector[MailboxAnswer] answers = self.handle.collect()
        cdef size_t i
        found = []
        for i in range(answers.size()):
            holder = self.pending.pop(answers[i].key)[0]
            error = None
            if answers[i].failed:
                try:
                    self.handle.raise_error(answers[i])
                except Exception as raised:
                    error = raised
            found.append((holder, error))
        return found

    def __dealloc__(self):
        # With steps under way workers may still write: the memory is left to them.
        if self.handle != NULL and not self.pending:
            delete_mailbox(self.handle)


def microseconds(seconds):
    """Whole microseconds, at least one; 0 for None."""
    if seconds is None:
        return 0
    if not 0 < seconds <= 1e9:
        raise InvalidTypeError(f"{seconds!r} seconds; it must be above 0, or None")
    return max(1, round(seconds * 1e6))


cdef str escape(value):
    return str(value).replace("\\", r"\\").replace('"', r'\"').replace("\n", r"\n")


cdef inline void delete_scheduler(CppScheduler* scheduler) noexcept nogil:
    del scheduler


cdef inline void delete_mailbox(CppMailbox* mailbox) noexcept nogil:
    del mailbox
