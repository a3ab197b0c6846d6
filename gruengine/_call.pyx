# SPDX-License-Identifier: MIT
# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=True
"""Recurrent layers of a live PyTorch model on the engine: tensors in, tensors out, nothing copied.

Tensors are looked at through DLPack's table of C functions where torch has it, else through their
attributes. Whatever a fast path does not expect it answers with None, and its caller looks closer.
"""

from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libcpp cimport bool as cbool
from libcpp.memory cimport shared_ptr
from libcpp.vector cimport vector

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

# DLTensor and DLPackExchangeAPI of dlpack.h, version 1.
cdef struct DLTensor:
    void* data
    int32_t device_type
    int32_t device_id
    int32_t ndim
    uint8_t code
    uint8_t bits
    uint16_t lanes
    int64_t* shape
    int64_t* strides
    uint64_t byte_offset

ctypedef int (*Viewer)(void*, DLTensor*) except -1

cdef struct ExchangeAPI:
    uint32_t major
    uint32_t minor
    void* previous
    void* allocate
    void* from_object
    void* to_object
    Viewer view
    void* stream

cdef enum:
    CPU = 1
    FLOAT = 2
    MAX_RANK = 3
    SAMPLES = 8

# Weights beyond this make a call long enough for other Python threads to be let run.
cdef int64_t RELEASE_FROM = 256 * 1024
# Memory of the calls for other shapes that are kept.
cdef int64_t KEPT_BYTES = 32 << 20
cdef Py_ssize_t KEPT_CALLS = 64


cdef Viewer viewer_of(object tensor_class) except? NULL:
    """The C function that looks at a tensor, or NULL."""
    capsule = getattr(tensor_class, "__dlpack_c_exchange_api__", None)
    if capsule is None or not PyCapsule_IsValid(capsule, "dlpack_exchange_api"):
        return NULL
    cdef ExchangeAPI* api = <ExchangeAPI*>PyCapsule_GetPointer(capsule, "dlpack_exchange_api")
    return api.view if api.major == 1 else NULL


cdef class Shape:
    """One set of sizes: the engine's call for it, and zeros in the shape of its states."""

    cdef CppCall* call
    cdef bint busy
    cdef object h, c  # templates of new states, zero, and initial states where none are given
    cdef const void* h_data
    cdef const void* c_data

    def __dealloc__(self):
        del self.call


cdef class Watch:
    """The parameters that weights were converted from, and whether they are still the same."""

    cdef tuple tensors
    cdef list versions
    cdef vector[void*] data
    cdef vector[const float*] places
    cdef vector[float] samples
    cdef readonly bint requires_grad


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
    torch : the module
    """

    cdef ModelPtr* model
    cdef object capsule
    cdef Watch watch
    cdef Viewer viewer
    cdef bint is_cell, is_lstm, release_gil
    cdef int64_t layers, directions, I, H, K
    cdef dict shapes
    cdef Shape last
    cdef int64_t last_n
    cdef object tensor, parameter, float32, device
    cdef object grad_enabled, autocast, empty_like, zeros
    cdef public bint paused  # the module is traced: nothing is to be run here

    def __cinit__(self, core, dict parameters, tuple sizes, bint is_cell, bint is_lstm, torch):
        self.capsule = core._capsule()
        self.model = <ModelPtr*>PyCapsule_GetPointer(self.capsule, "gruengine.Model")
        self.release_gil = core.packed_bytes >= RELEASE_FROM
        self.layers, self.directions, self.I, self.H, self.K = sizes
        self.is_cell, self.is_lstm = is_cell, is_lstm
        self.tensor, self.parameter = torch.Tensor, torch.nn.Parameter
        self.float32, self.device = torch.float32, torch.device("cpu")
        self.grad_enabled, self.empty_like = torch.is_grad_enabled, torch.empty_like
        self.autocast = getattr(torch._C, "_is_any_autocast_enabled", None)
        if self.autocast is None:
            self.autocast = lambda: torch.is_autocast_enabled("cpu")
        self.zeros = torch.zeros
        self.viewer = viewer_of(torch.Tensor)
        self.shapes = {}
        self.last = None
        self.last_n = -1
        self.watch = self._watch(parameters)

    # -- tensors ----------------------------------------------------------------------------------

    cdef void* look(self, object tensor, int rank, int64_t* sizes) except? NULL:
        """The memory of a contiguous float32 tensor on the CPU and its sizes, or NULL."""
        cdef DLTensor view
        cdef int64_t stride = 1
        cdef int i
        if type(tensor) is not self.tensor and type(tensor) is not self.parameter:
            return NULL
        if self.viewer == NULL:
            return self.look_slowly(tensor, rank, sizes)
        try:
            self.viewer(<void*>tensor, &view)
        except Exception:  # a tensor without memory of its own
            return NULL
        if (
            view.ndim != rank or view.device_type != CPU or view.code != FLOAT or view.bits != 32
            or view.data == NULL
        ):
            return NULL
        for i in range(rank - 1, -1, -1):
            sizes[i] = view.shape[i]
            if view.strides != NULL and view.strides[i] != stride and view.shape[i] != 1:
                return NULL
            stride *= view.shape[i]
        return <char*>view.data + view.byte_offset

    cdef void* look_slowly(self, object tensor, int rank, int64_t* sizes) except? NULL:
        cdef int i
        if tensor.dim() != rank or tensor.dtype is not self.float32 or not tensor.is_cpu:
            return NULL
        if not tensor.is_contiguous():
            return NULL
        shape = tensor.shape
        for i in range(rank):
            sizes[i] = shape[i]
        return <void*><size_t>tensor.data_ptr()

    cdef Watch _watch(self, dict parameters):
        cdef Watch watch = Watch.__new__(Watch)
        cdef int64_t sizes[MAX_RANK]
        cdef int64_t count, at, i
        cdef const float* data
        watch.tensors = tuple(parameters.values())
        watch.versions = []
        watch.requires_grad = any(tensor.requires_grad for tensor in watch.tensors)
        for tensor in watch.tensors:
            data = <const float*>self.look(tensor, tensor.dim(), sizes)
            if data == NULL:
                raise ValueError("a parameter that is not contiguous float32 on the CPU")
            watch.data.push_back(<void*>data)
            watch.versions.append(version_of(tensor))
            count = tensor.numel()
            for i in range(SAMPLES):
                at = i * (count - 1) // (SAMPLES - 1)
                watch.places.push_back(data + at)
                watch.samples.push_back(watch.places.back()[0])
        return watch

    cdef bint is_current(self, dict parameters) except -1:
        """Whether the parameters are those that were converted, unchanged.

        torch counts the changes of a tensor; what is done to its ``data`` it does not count, so a
        few elements of each are compared.
        """
        cdef Watch watch = self.watch
        cdef Py_ssize_t at = 0
        cdef size_t i = 0, k
        cdef PyObject* key
        cdef PyObject* value
        cdef DLTensor view
        while PyDict_Next(parameters, &at, &key, &value):
            if value == <PyObject*>None:
                continue
            if i == <size_t>len(watch.tensors) or value != <PyObject*>watch.tensors[i]:
                return False
            tensor = <object>value
            if self.viewer != NULL:
                self.viewer(<void*>value, &view)
                if <char*>view.data + view.byte_offset != <char*>watch.data[i]:
                    return False
            elif <size_t>tensor.data_ptr() != <size_t>watch.data[i]:
                return False
            version = watch.versions[i]
            if version is not None and tensor._version != version:
                return False
            for k in range(SAMPLES * i, SAMPLES * (i + 1)):
                # Unequal bits alone count: a NaN is equal to itself.
                if (<const uint32_t*>watch.places[k])[0] != (<uint32_t*>&watch.samples[k])[0]:
                    return False
            i += 1
        return i == <size_t>len(watch.tensors)

    cdef bint may_run(self, x, h, c, dict parameters) except -1:
        """Whether nothing about these tensors asks for the module's own computation."""
        if self.paused or self.autocast() or not self.is_current(parameters):
            return False
        if self.grad_enabled():
            if self.watch.requires_grad or x.requires_grad:
                return False
            if h is not None and h.requires_grad or c is not None and c.requires_grad:
                return False
        return True

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
        lead = [N] if self.is_cell else [self.layers * self.directions, N]
        shape.h = self.zeros((*lead, self.K), dtype=self.float32, device=self.device)
        shape.h_data = self.look(shape.h, len(lead) + 1, states)
        if self.is_lstm:
            shape.c = self.zeros((*lead, self.H), dtype=self.float32, device=self.device)
            shape.c_data = self.look(shape.c, len(lead) + 1, states)
        return shape

    cdef int run(
        self, Shape shape, const void* const* inputs, void* const* outputs, const int64_t* lengths
    ) except -1:
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

    def cell(self, dict parameters, x, h, c):
        """One step of a cell: x [N,I], h [N,H] and c [N,H] or None; the next h, or (h, c)."""
        cdef int64_t sizes[MAX_RANK]
        cdef const void* inputs[3]
        cdef void* outputs[2]
        cdef Shape shape
        cdef int64_t N
        if not self.may_run(x, h, c, parameters):
            return None
        inputs[0] = self.look(x, 2, sizes)
        N = sizes[0]
        if inputs[0] == NULL or sizes[1] != self.I or N < 1:
            return None
        shape = self.last
        if N != self.last_n or shape.busy:
            shape = self.shape_for(1, N, False)
            self.last, self.last_n = shape, N
        inputs[1], inputs[2] = shape.h_data, shape.c_data
        if h is not None:
            inputs[1] = self.look(h, 2, sizes)
            if inputs[1] == NULL or sizes[0] != N or sizes[1] != self.H:
                return None
        if self.is_lstm and c is not None:
            inputs[2] = self.look(c, 2, sizes)
            if inputs[2] == NULL or sizes[0] != N or sizes[1] != self.H:
                return None
        h_out = self.empty_like(shape.h)
        outputs[0] = self.look(h_out, 2, sizes)
        if not self.is_lstm:
            self.run(shape, inputs, outputs, NULL)
            return h_out
        c_out = self.empty_like(shape.c)
        outputs[1] = self.look(c_out, 2, sizes)
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
        inputs.push_back(self.look(x, 3, sizes))
        T, N = sizes[0], sizes[1]
        if inputs[0] == NULL or sizes[2] != self.I or T < 1 or N < 1:
            return None
        if lengths is not None:
            rows = <const int64_t*><size_t>lengths.data_ptr()
        shape = self.shape_for(T, N, rows != NULL)
        h_in, c_in = <char*>shape.h_data, <char*>shape.c_data
        if h is not None:
            h_in = <char*>self.look(h, 3, sizes)
            if h_in == NULL or not self.is_state(sizes, N, self.K):
                return None
        if self.is_lstm and c is not None:
            c_in = <char*>self.look(c, 3, sizes)
            if c_in == NULL or not self.is_state(sizes, N, self.H):
                return None
        y = x.new_empty((T, N, self.directions * self.K))
        outputs.push_back(self.look(y, 3, sizes))
        h_out = self.empty_like(shape.h)
        h_to = <char*>self.look(h_out, 3, sizes)
        c_out = None
        if self.is_lstm:
            c_out = self.empty_like(shape.c)
            c_to = <char*>self.look(c_out, 3, sizes)
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


cdef object version_of(tensor):
    """torch's count of the changes of a tensor; inference tensors have none."""
    return None if tensor.is_inference() else tensor._version
