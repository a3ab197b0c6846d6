# SPDX-License-Identifier: MIT
# What _call.pyx sees of tensors. DLPack's table of C functions is used where torch has it.

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
    SAMPLES = 4


cdef Viewer viewer() except? NULL:
    """The C function that looks at a tensor, or NULL."""
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None or not PyCapsule_IsValid(capsule, "dlpack_exchange_api"):
        return NULL
    cdef ExchangeAPI* api = <ExchangeAPI*>PyCapsule_GetPointer(capsule, "dlpack_exchange_api")
    return api.view if api.major == 1 else NULL


cdef Viewer VIEW = viewer()


def use_attributes(bint yes):
    """Look at tensors through their attributes, as with a torch without the table (for tests)."""
    global VIEW
    VIEW = viewer()
    if yes:
        VIEW = NULL


cdef void* look(object tensor, int rank, int64_t* sizes) except? NULL:
    """The memory of a contiguous float32 tensor on the CPU and its sizes, or NULL."""
    cdef DLTensor view
    cdef int64_t stride = 1
    cdef int i
    if type(tensor) is not TENSOR and type(tensor) is not PARAMETER:
        return NULL
    if VIEW == NULL:
        return look_at_attributes(tensor, rank, sizes)
    try:
        VIEW(<void*>tensor, &view)
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


cdef void* look_at_attributes(object tensor, int rank, int64_t* sizes) except? NULL:
    cdef int i
    if tensor.dim() != rank or tensor.dtype is not FLOAT32 or not tensor.is_cpu:
        return NULL
    if tensor.layout is not STRIDED or not tensor.is_contiguous():
        return NULL
    shape = tensor.shape
    for i in range(rank):
        sizes[i] = shape[i]
    try:
        return <void*><size_t>tensor.data_ptr()
    except RuntimeError:  # a tensor without memory of its own
        return NULL


cdef object version_of(tensor):
    """torch's count of the changes of a tensor; inference tensors have none."""
    return None if tensor.is_inference() else tensor._version


cdef class Watch:
    """The parameters that weights were converted from, and whether they are still the same."""

    cdef tuple tensors
    cdef list versions
    cdef vector[void*] data
    cdef vector[const float*] places
    cdef vector[float] samples

    def __init__(self, dict parameters):
        cdef int64_t sizes[MAX_RANK]
        cdef int64_t count, at, i
        cdef const float* data
        self.tensors = tuple(parameters.values())
        self.versions = []
        for tensor in self.tensors:
            data = <const float*>look(tensor, tensor.dim(), sizes)
            if data == NULL:
                raise ValueError("a parameter that is not contiguous float32 on the CPU")
            self.data.push_back(<void*>data)
            self.versions.append(version_of(tensor))
            count = tensor.numel()
            for i in range(SAMPLES):
                at = i * (count - 1) // (SAMPLES - 1)
                self.places.push_back(data + at)
                self.samples.push_back(data[at])

    cdef bint is_current(self, dict parameters) except -1:
        """Whether the parameters are those that were converted, unchanged.

        torch counts the changes of a tensor; what is done to its ``data`` it does not count, so a
        few elements of each are compared.
        """
        cdef Py_ssize_t at = 0
        cdef size_t i = 0, k
        cdef PyObject* key
        cdef PyObject* value
        while PyDict_Next(parameters, &at, &key, &value):
            if value == <PyObject*>None:
                continue
            if i == <size_t>len(self.tensors) or value != <PyObject*>self.tensors[i]:
                return False
            tensor = <object>value
            if not self.is_at(tensor, self.data[i]):
                return False
            version = self.versions[i]
            if version is not None and tensor._version != version:
                return False
            for k in range(SAMPLES * i, SAMPLES * (i + 1)):
                # Bits are compared: a NaN is equal to itself.
                if (<const uint32_t*>self.places[k])[0] != (<uint32_t*>&self.samples[k])[0]:
                    return False
            i += 1
        return i == <size_t>len(self.tensors)

    cdef bint wants_gradients(self) except -1:
        for tensor in self.tensors:
            if tensor.requires_grad:
                return True
        return False

    cdef bint is_at(self, object tensor, void* data) except -1:
        cdef DLTensor view
        if VIEW == NULL:
            return <void*><size_t>tensor.data_ptr() == data
        VIEW(<void*>tensor, &view)
        return <char*>view.data + view.byte_offset == <char*>data and view.device_type == CPU
