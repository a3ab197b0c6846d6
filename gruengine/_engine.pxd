# SPDX-License-Identifier: MIT
# cython: language_level=3
# What the Cython modules use of the C++ API. Needs gruengine's headers; _stream.pxd does not.

from libc.stdint cimport int64_t, uint8_t
from libcpp cimport bool as cbool
from libcpp.map cimport map as cmap
from libcpp.memory cimport shared_ptr, unique_ptr
from libcpp.string cimport string
from libcpp.vector cimport vector

cdef extern from "errors.h" namespace "gruengine":
    void raise_python_error()

cdef extern from "interrupt.h" namespace "gruengine":
    cdef cppclass SignalCheck:
        Stop stop() nogil

cdef extern from "gruengine/graph.h" namespace "gruengine":
    cdef enum class DType(unsigned char):
        pass
    const char* name_of(DType dtype)

cdef extern from "gruengine/model.h" namespace "gruengine":
    cdef cppclass CppModel "gruengine::Model":
        pass
    cdef cppclass StateEntry:
        string name
        DType dtype
        vector[int64_t] dims
        int64_t offset

cdef extern from "gruengine/stream.h" namespace "gruengine":
    cdef cppclass StepPort:
        string name
        DType dtype
        vector[int64_t] dims
        int time_axis
        int64_t count
    cdef cppclass Stop:
        pass

    cdef cppclass CppStream "gruengine::Stream":
        CppStream(shared_ptr[const CppModel], int64_t, const cmap[string, int64_t]&) except +raise_python_error
        int64_t batch_size()
        cbool ready()
        void prepare(const vector[vector[int64_t]]&) except +raise_python_error
        void step(const void* const*, void* const*) except +raise_python_error nogil
        void run(int64_t, const void* const*, void* const*, Stop) except +raise_python_error nogil
        void reset() except +raise_python_error
        unique_ptr[CppStream] clone() except +raise_python_error
        vector[uint8_t] get_state() except +raise_python_error
        void set_state(const uint8_t*, size_t) except +raise_python_error
        vector[StateEntry] state_layout() except +raise_python_error
        vector[uint8_t] copy_state() except +raise_python_error

cdef extern from "gruengine/pool.h" namespace "gruengine":
    cdef cppclass PoolPort:
        string name
        DType dtype
        vector[int64_t] dims
        int row_axis
        int time_axis
        int64_t count

cdef extern from *:
    """
    // References returned by reference: Cython would copy them.
    static inline std::vector<gruengine::StepPort>* ports_in(void* stream) {
      return const_cast<std::vector<gruengine::StepPort>*>(
          &static_cast<gruengine::Stream*>(stream)->inputs());
    }
    static inline std::vector<gruengine::StepPort>* ports_out(void* stream) {
      return const_cast<std::vector<gruengine::StepPort>*>(
          &static_cast<gruengine::Stream*>(stream)->outputs());
    }
    """
    vector[StepPort]* ports_in(void* stream)
    vector[StepPort]* ports_out(void* stream)

ctypedef shared_ptr[const CppModel] ModelPtr
