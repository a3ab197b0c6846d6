# SPDX-License-Identifier: MIT
# How the arrays of Stream.step and Stream.run fit the ports of the model.

cdef list inputs_of(Stream self, x):
    names = self.names[0]
    if not isinstance(x, dict):
        if len(names) != 1:
            raise InvalidInputError(f"the model has inputs {list(names)}; give a dict by name")
        return [x]
    if set(x) != set(names):
        raise InvalidInputError(f"got inputs {sorted(x)}; the model has {sorted(names)}")
    return [x[name] for name in names]


cdef tuple match(Stream self, shape, StepPort& port, bint by_step, str what):
    """The number of frames of an array, and whether its batch of one was left out."""
    step = step_shape(port)
    if by_step:
        full = tuple(port.dims)
        if shape == step or (port.time_axis >= 0 and shape == full):
            return 1, False
        if len(step) > 1 and step[0] == 1 and shape == step[1:]:
            return 1, True
        raise InvalidInputError(f"{what} has shape {shape}; a step takes {step}")
    if port.time_axis < 0 and not by_calls(self):
        if shape == step:
            return -1, False
        raise InvalidInputError(f"{what} has shape {shape}; it must be {step}")
    cdef int axis = max(port.time_axis, 0)
    wanted = step[:axis] + ("T",) + step[axis:]
    if len(shape) == len(wanted) and all(
        w == "T" or w == s for w, s in zip(wanted, shape)
    ):
        return shape[axis], False
    if len(step) > 1 and step[0] == 1 and shape[1:] == step[1:]:
        return shape[0], True
    raise InvalidInputError(f"{what} has shape {shape}; a chunk takes {wanted}")


cdef bint by_calls(Stream self):
    return self.model.streamable.form == "calls"


cdef object output_for(Stream self, StepPort& port, out, Py_ssize_t frames, bint by_step,
                    bint squeezed):
    shape = step_shape(port)
    cdef int axis = port.time_axis
    if not by_step and (axis >= 0 or by_calls(self)):
        axis = max(axis, 0)
        if squeezed and len(shape) > 1 and shape[0] == 1:
            shape = (frames,) + shape[1:]
        else:
            shape = shape[:axis] + (frames,) + shape[axis:]
    elif squeezed and len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    dtype = dtype_of(port.dtype)
    if out is None:
        return np.empty(shape, dtype)
    name = port.name.decode()
    if isinstance(out, dict):
        out = out.get(name)
    elif len(self.names[1]) != 1:
        raise InvalidInputError(f"the model has outputs {list(self.names[1])}; give out as a dict")
    check_array(out, f"out for '{name}'", dtype)
    if out.shape != shape:
        raise InvalidInputError(f"out for '{name}' has shape {out.shape}; it must be {shape}")
    if not out.flags.writeable:
        raise InvalidInputError(f"out for '{name}' is read-only")
    return out
