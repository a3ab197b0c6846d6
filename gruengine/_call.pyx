# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=True
"""Recurrent layers of a live PyTorch model on the engine: tensors in, tensors out, nothing copied.

Whatever a fast path does not expect it answers with None, and its caller looks closer.
"""

from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.memory cimport shared_ptr
from libcpp.vector cimport vector

import torch
from torch.nn.modules import module as torch_module

cdef extern from "errors.h" namespace "gruengine":
    void raise_python_error()

cdef extern from "gruengine/model.h" namespace "gruengine":
    cdef cppclass CppModel "gruengine::Model":
        pass

cdef extern from "gruengine/call.h" namespace "gruengine":
    cdef cppclass CppCall "gruengine::Call":
        CppCall(shared_ptr[const CppModel], const vector[vector[int64_t]]&, cbool) except +raise_python_error
        int64_t bytes()
        void run(const void* const*, void* const*, const int64_t*) except +raise_python_error nogil

ctypedef shared_ptr[const CppModel] ModelPtr

# Weights beyond this make a call long enough for other Python threads to be let run.
cdef int64_t RELEASE_FROM = 256 * 1024
# Memory of the calls for other shapes that are kept.
cdef int64_t KEPT_BYTES = 32 << 20
cdef Py_ssize_t KEPT_CALLS = 64

cdef object TENSOR = torch.Tensor, PARAMETER = torch.nn.Parameter
cdef object FLOAT32 = torch.float32, STRIDED = torch.strided, HERE = torch.device("cpu")
cdef object grad_enabled = torch.is_grad_enabled
cdef object autocasting = getattr(
    torch._C, "_is_any_autocast_enabled", lambda: torch.is_autocast_enabled("cpu")
)
cdef object tracing = torch._C._get_tracing_state
cdef object empty_like = torch.empty_like
# What Module.__call__ does beside calling forward: none of these, as a rule.
cdef tuple HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    "_compiled_call_impl", "forward",
)
cdef tuple GLOBAL_HOOKS = tuple([getattr(torch_module, "_global" + name) for name in HOOKS[:4]])

include "_call_tensors.pxi"


cdef class Shape:
    """One set of sizes: the engine's call for it, and zeros in the shape of its states."""

    cdef CppCall* call
    cdef int64_t T, N
    cdef bint lengths
    cdef bint busy
    cdef object h, c  # templates of new states, zero, and initial states where none are given
    cdef const void* h_data
    cdef const void* c_data

    def __dealloc__(self):
        del self.call


cdef class Runner:
    """The engine's model of one recurrent module, called with tensors.

    Parameters
    ----------
    core : gruengine._core.Model
        Inputs x [T,N,I], then h (and c) [D,N,K] of every layer; outputs y [T,N,D*K], then the same
        of every layer. Of a cell: x, h (and c); outputs y, which is the next h, and c.
    parameters : dict of str to tensor
        What it was converted from.
    sizes : (layers, directions, I, H, K)
    is_cell, is_lstm : bool
    """

    cdef ModelPtr* model
    cdef object capsule
    cdef Watch watch
    cdef bint is_cell, is_lstm, release_gil
    cdef int64_t layers, directions, I, H, K
    cdef dict shapes
    cdef Shape last
    cdef int64_t last_n

    def __cinit__(self, core, dict parameters, tuple sizes, bint is_cell, bint is_lstm):
        self.capsule = core._capsule()
        self.model = <ModelPtr*>PyCapsule_GetPointer(self.capsule, "gruengine.Model")
        self.release_gil = core.packed_bytes >= RELEASE_FROM
        self.layers, self.directions, self.I, self.H, self.K = sizes
        self.is_cell, self.is_lstm = is_cell, is_lstm
        self.shapes = {}
        self.last = None
        self.last_n = -1
        self.watch = Watch(parameters)

    cdef bint may_run(self, x, h, c, dict parameters) except -1:
        """Whether nothing about these tensors asks for the module's own computation."""
        if autocasting() or not self.watch.is_current(parameters):
            return False
        if grad_enabled():
            if self.watch.wants_gradients() or x.requires_grad:
                return False
            if h is not None and h.requires_grad or c is not None and c.requires_grad:
                return False
        return True

    def is_current(self, dict parameters):
        """Whether the weights are those of the parameters."""
        return self.watch.is_current(parameters)

    # -- calls ------------------------------------------------------------------------------------

    cdef Shape shape_for(self, int64_t T, int64_t N, bint lengths):
        cdef Shape shape
        key = (T, N, lengths)
        shape = self.shapes.pop(key, None)
        if shape is None or shape.busy:
            shape = self.new_shape(T, N, lengths)
            self.make_room()
        self.shapes[key] = shape  # the newest last
        return shape

    cdef make_room(self):
        cdef Shape shape
        cdef int64_t used = 0
        cdef Py_ssize_t count = 0
        for key in reversed(list(self.shapes)):
            shape = self.shapes[key]
            used += shape.call.bytes()
            count += 1
            if used > KEPT_BYTES or count >= KEPT_CALLS:
                del self.shapes[key]

    cdef Shape new_shape(self, int64_t T, int64_t N, bint lengths):
        cdef Shape shape = Shape.__new__(Shape)
        cdef vector[vector[int64_t]] inputs
        cdef vector[int64_t] x = [T, N, self.I]
        cdef vector[int64_t] h = [self.directions, N, self.K]
        cdef vector[int64_t] c = [self.directions, N, self.H]
        cdef int64_t states[MAX_RANK]
        inputs.push_back(x)
        for _ in range(self.layers):
            inputs.push_back(h)
            if self.is_lstm:
                inputs.push_back(c)
        shape.call = new CppCall(self.model[0], inputs, lengths)
        shape.T, shape.N, shape.lengths = T, N, lengths
        lead = [N] if self.is_cell else [self.layers * self.directions, N]
        shape.h = torch.zeros((*lead, self.K), dtype=FLOAT32, device=HERE)
        shape.h_data = look(shape.h, len(lead) + 1, states)
        if self.is_lstm:
            shape.c = torch.zeros((*lead, self.H), dtype=FLOAT32, device=HERE)
            shape.c_data = look(shape.c, len(lead) + 1, states)
        return shape

    cdef int run(
        self, Shape shape, const void* const* inputs, void* const* outputs, const int64_t* lengths
    ) except -1:
        # Another thread may have come between the choice of the shape and this call. From here to
        # the mark nothing lets go of the GIL, but for a shape that no other thread knows.
        if shape.busy:
            shape = self.new_shape(shape.T, shape.N, shape.lengths)
        shape.busy = True
        try:
            if self.release_gil:
                with nogil:
                    shape.call.run(inputs, outputs, lengths)
            else:
                shape.call.run(inputs, outputs, lengths)
        finally:
            shape.busy = False
        return 0

    cpdef cell(self, dict parameters, x, h, c):
        """One step of a cell: x [N,I], h [N,H] and c [N,H] or None; the next h, or (h, c)."""
        cdef int64_t sizes[MAX_RANK]
        cdef const void* inputs[3]
        cdef void* outputs[2]
        cdef Shape shape
        cdef int64_t N
        if not self.may_run(x, h, c, parameters):
            return None
        inputs[0] = look(x, 2, sizes)
        N = sizes[0]
        if inputs[0] == NULL or sizes[1] != self.I or N < 1:
            return None
        shape = self.last
        if N != self.last_n or shape.busy:
            shape = self.shape_for(1, N, False)
            self.last, self.last_n = shape, N
        inputs[1], inputs[2] = shape.h_data, shape.c_data
        if h is not None:
            inputs[1] = look(h, 2, sizes)
            if inputs[1] == NULL or sizes[0] != N or sizes[1] != self.H:
                return None
        if self.is_lstm and c is not None:
            inputs[2] = look(c, 2, sizes)
            if inputs[2] == NULL or sizes[0] != N or sizes[1] != self.H:
                return None
        h_out = empty_like(shape.h)
        outputs[0] = look(h_out, 2, sizes)
        if not self.is_lstm:
            self.run(shape, inputs, outputs, NULL)
            return h_out
        c_out = empty_like(shape.c)
        outputs[1] = look(c_out, 2, sizes)
        self.run(shape, inputs, outputs, NULL)
        return h_out, c_out

    def sequence(self, dict parameters, x, h, c, lengths=None):
        """Run whole sequences.

        Parameters
        ----------
        x : tensor [T, N, I]
        h, c : tensor [L*D, N, K], [L*D, N, H], or None for zeros
        lengths : tensor of int64 [N], optional

        Returns
        -------
        (y [T, N, D*K], h, c) with the states after the sequences, c being None but for an LSTM;
        or None.
        """
        cdef int64_t sizes[MAX_RANK]
        cdef int64_t T, N, i, h_bytes, c_bytes
        cdef const int64_t* rows = NULL
        cdef vector[const void*] inputs
        cdef vector[void*] outputs
        cdef Shape shape
        cdef char *h_in
        cdef char *c_in
        cdef char *h_to
        cdef char *c_to = NULL
        if not self.may_run(x, h, c, parameters):
            return None
        inputs.push_back(look(x, 3, sizes))
        T, N = sizes[0], sizes[1]
        if inputs[0] == NULL or sizes[2] != self.I or T < 1 or N < 1:
            return None
        if lengths is not None:
            rows = <const int64_t*><size_t>lengths.data_ptr()
        shape = self.shape_for(T, N, rows != NULL)
        h_in, c_in = <char*>shape.h_data, <char*>shape.c_data
        if h is not None:
            h_in = <char*>look(h, 3, sizes)
            if h_in == NULL or not self.is_state(sizes, N, self.K):
                return None
        if self.is_lstm and c is not None:
            c_in = <char*>look(c, 3, sizes)
            if c_in == NULL or not self.is_state(sizes, N, self.H):
                return None
        y = x.new_empty((T, N, self.directions * self.K))
        outputs.push_back(look(y, 3, sizes))
        h_out = empty_like(shape.h)
        h_to = <char*>look(h_out, 3, sizes)
        c_out = None
        if self.is_lstm:
            c_out = empty_like(shape.c)
            c_to = <char*>look(c_out, 3, sizes)
        h_bytes = self.directions * N * self.K * sizeof(float)
        c_bytes = self.directions * N * self.H * sizeof(float)
        for i in range(self.layers):
            inputs.push_back(h_in + i * h_bytes)
            outputs.push_back(h_to + i * h_bytes)
            if self.is_lstm:
                inputs.push_back(c_in + i * c_bytes)
                outputs.push_back(c_to + i * c_bytes)
        self.run(shape, inputs.data(), outputs.data(), rows)
        return y, h_out, c_out

    cdef bint is_state(self, const int64_t* sizes, int64_t N, int64_t width) noexcept:
        return sizes[0] == self.layers * self.directions and sizes[1] == N and sizes[2] == width


# -- modules --------------------------------------------------------------------------------------


cdef class Link:
    """What ties a module to the engine; copies and pickles keep the options alone."""

    cdef public Runner runner
    cdef readonly int num_threads
    cdef readonly set warned
    cdef readonly str compute_type

    def __init__(self, int num_threads, set warned=None, str compute_type="float32"):
        self.num_threads = num_threads
        self.compute_type = compute_type
        self.warned = set() if warned is None else warned

    def __reduce__(self):
        return Link, (self.num_threads, None, self.compute_type)


cdef Runner plain_runner(dict fields):
    """The engine of a module, where a call of it is a call of its forward and no more."""
    for name in HOOKS:
        if name in fields and fields[name]:
            return None
    for hooks in GLOBAL_HOOKS:
        if hooks:
            return None
    return None if tracing() is not None else (<Link>fields["_gruengine"]).runner


def call_cell(self, input, hx=None):
    """``Module.__call__`` of a cell with one state."""
    cdef dict fields = self.__dict__
    cdef Runner runner = plain_runner(fields)
    if runner is not None:
        result = runner.cell(fields["_parameters"], input, hx, None)
        if result is not None:
            return result
    return torch.nn.Module.__call__(self, input, hx)


def call_lstm_cell(self, input, hx=None):
    """``Module.__call__`` of an ``LSTMCell``."""
    cdef dict fields = self.__dict__
    cdef Runner runner
    if type(hx) is tuple and len(<tuple>hx) == 2:
        runner = plain_runner(fields)
        if runner is not None:
            result = runner.cell(fields["_parameters"], input, (<tuple>hx)[0], (<tuple>hx)[1])
            if result is not None:
                return result
    return torch.nn.Module.__call__(self, input, hx)
