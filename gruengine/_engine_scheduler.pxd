# SPDX-License-Identifier: MIT
# cython: language_level=3
# What _scheduler.pyx uses of the C++ API.

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.map cimport map as cmap
from libcpp.string cimport string
from libcpp.vector cimport vector

from gruengine._engine cimport ModelPtr, PoolPort, raise_python_error

cdef extern from "gruengine/scheduler.h" namespace "gruengine":
    cdef cppclass SchedulerOptions:
        int64_t max_streams
        int64_t max_batch
        int64_t max_wait_us
        int num_threads
        int64_t max_queue
        int64_t idle_timeout_us
        cmap[string, int64_t] sizes

    cdef cppclass SchedulerMetrics:
        int64_t streams, queued, running, max_queued
        int64_t opened, closed, evicted
        int64_t steps, failed, overloaded, expired, batches, rows
        int64_t batch_sizes[32]
        int64_t latency[32]
        double latency_seconds

    cdef cppclass CppScheduler "gruengine::Scheduler":
        CppScheduler(ModelPtr, const SchedulerOptions&) except +raise_python_error
        const SchedulerOptions& options()
        const vector[PoolPort]& inputs()
        const vector[PoolPort]& outputs()
        cbool is_open() nogil
        int64_t open() except +raise_python_error nogil
        int64_t open(const uint8_t*, size_t) except +raise_python_error nogil
        void close(int64_t) except +raise_python_error nogil
        vector[int64_t] ids() except +raise_python_error nogil
        vector[uint8_t] get_state(int64_t) except +raise_python_error nogil
        void set_state(int64_t, const uint8_t*, size_t) except +raise_python_error nogil
        void step(int64_t, const void* const*, void* const*, int64_t) except +raise_python_error nogil
        void shutdown(cbool) except +raise_python_error nogil
        SchedulerMetrics metrics() except +raise_python_error nogil

    string to_prometheus(const SchedulerMetrics&, const string&)

cdef extern from "scheduler_mailbox.h" namespace "gruengine":
    ctypedef void (*EvictCall)(void*, int64_t, const uint8_t*, size_t) noexcept
    ctypedef int (*BatchCall)(void*, int64_t, string*) noexcept
    void call_on_evict(SchedulerOptions&, EvictCall, void*)
    void call_on_batch(SchedulerOptions&, BatchCall, void*)

    cdef cppclass MailboxAnswer "gruengine::Mailbox::Answer":
        uint64_t key
        cbool failed

    cdef cppclass CppMailbox "gruengine::Mailbox":
        CppMailbox(int)
        void submit(CppScheduler&, uint64_t, int64_t, const void* const*, void* const*, int64_t) except +raise_python_error nogil
        vector[MailboxAnswer] collect()
        void raise_error "raise_error" (const MailboxAnswer&) except +raise_python_error
