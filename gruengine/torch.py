# SPDX-License-Identifier: MIT
"""Recurrent layers of a live PyTorch model on the engine: ``gruengine.torch.accelerate``.

>>> import gruengine as gr
>>> gr.torch.accelerate(model.eval())
>>> with torch.inference_mode():
...     y = model(x)

A module keeps its identity: parameters, names, hooks and attributes stay where they are, and only
its class becomes one of this file, whose ``forward`` runs on the engine, backward pass included.
Where the engine cannot take a call - gradients of a cell, another dtype or device - the module's
own forward runs.
"""

# This module is imported when it is first asked for: `import gruengine` needs no torch.
from __future__ import annotations

import warnings
from typing import Any

import torch  # noqa: TID253
from torch import nn  # noqa: TID253
from torch.nn.utils.rnn import PackedSequence  # noqa: TID253

from gruengine import torch_spec, torch_training
from gruengine._call import Link, Runner, call_cell, call_lstm_cell
from gruengine.errors import InvalidInputError, InvalidTypeError
from gruengine.model import Model, check_compute_type

__all__ = ["accelerate", "revert"]


def accelerate(module: Any, compute_type: str = "float32", num_threads: int = 1) -> Any:
    """Run every recurrent layer and cell inside a PyTorch model on the engine.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place: each ``nn.RNN``, ``nn.LSTM``, ``nn.GRU``, ``nn.RNNCell``, ``nn.LSTMCell``
        and ``nn.GRUCell``, and ``module`` itself if it is one. Subclasses of them may compute
        something else and are left alone.
    compute_type : {"float32", "bfloat16", "int8", "int4", "bf16x3", "auto"}
        As for :func:`gruengine.load`.
    num_threads : int
        Threads that one call may use.

    Returns
    -------
    torch.nn.Module
        ``module``: state_dict, parameters, hooks, copies and pickles are what they were.

    Raises
    ------
    InvalidTypeError
        ``module`` is no ``torch.nn.Module``.
    InvalidInputError
        There is no recurrent layer in it.

    Notes
    -----
    Weights are converted at once, and again when torch says that a parameter has changed. Changes
    through ``parameter.data`` are found by comparing a few elements; if one could be missed, call
    ``accelerate`` again. Calls that the engine cannot take run the module's own forward, with one
    warning for each reason: gradients of a cell are wanted (packing its weights anew for each step
    costs more than the step), dropout is active without gradients, another dtype or device.
    Gradients of layers are computed by the engine, once for each forward pass; those of gradients
    are not.
    ``revert`` before scripting or symbolic tracing.
    """
    _check_module(module)
    compute_type = check_compute_type(compute_type) or "float32"
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or num_threads < 1:
        raise InvalidInputError(f"num_threads is {num_threads!r}; it must be 1 or more")
    found = [one for one in module.modules() if type(one) in _CLASSES or type(one) in _ORIGINALS]
    if not found:
        raise InvalidInputError(
            f"no recurrent layer in this {type(module).__name__}; allowed are modules with "
            f"{', '.join('nn.' + original.__name__ for original in _CLASSES)}"
        )
    warned: set[str] = set()
    for one in found:
        one.__class__ = _CLASSES.get(type(one), type(one))
        one._gruengine = Link(num_threads, warned, compute_type)
        if not _why_not(one, ()):
            _convert(one)
    return module


def revert(module: Any) -> Any:
    """Undo ``accelerate``: every layer computes by itself again. Returns ``module``."""
    _check_module(module)
    for one in module.modules():
        if type(one) in _ORIGINALS:
            one.__class__ = _ORIGINALS[type(one)]
            del one._gruengine
    return module


def _check_module(module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise InvalidTypeError(f"a {type(module).__name__}; it must be a torch.nn.Module")


# -- the classes of accelerated modules -----------------------------------------------------------


class _Traced:
    """Mixin: what torch.jit traces is the module's own forward."""

    _gruengine: Link

    def _slow_forward(self, *args: Any, **kwargs: Any) -> Any:
        original = _ORIGINALS[type(self)]
        accelerated, self.__class__ = type(self), original
        try:
            return original._slow_forward(self, *args, **kwargs)
        finally:
            self.__class__ = accelerated


class RNN(_Traced, nn.RNN):  # type: ignore[misc]
    """``nn.RNN`` on the engine."""

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002
        return _sequence(self, input, hx, None)


class GRU(_Traced, nn.GRU):  # type: ignore[misc]
    """``nn.GRU`` on the engine."""

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002
        return _sequence(self, input, hx, None)


class LSTM(_Traced, nn.LSTM):  # type: ignore[misc]
    """``nn.LSTM`` on the engine."""

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002
        if hx is None:
            return _sequence(self, input, None, None)
        if isinstance(hx, (tuple, list)) and len(hx) == 2:
            return _sequence(self, input, *hx)
        return nn.LSTM.forward(self, input, hx)


class RNNCell(_Traced, nn.RNNCell):  # type: ignore[misc]
    """``nn.RNNCell`` on the engine."""

    __call__ = call_cell

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002
        return _cell(self, input, hx)


class GRUCell(_Traced, nn.GRUCell):  # type: ignore[misc]
    """``nn.GRUCell`` on the engine."""

    __call__ = call_cell

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002
        return _cell(self, input, hx)


class LSTMCell(_Traced, nn.LSTMCell):  # type: ignore[misc]
    """``nn.LSTMCell`` on the engine."""

    __call__ = call_lstm_cell

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002
        return _lstm_cell(self, input, hx)


_CLASSES: dict[Any, Any] = {
    nn.RNN: RNN,
    nn.LSTM: LSTM,
    nn.GRU: GRU,
    nn.RNNCell: RNNCell,
    nn.LSTMCell: LSTMCell,
    nn.GRUCell: GRUCell,
}
_ORIGINALS: dict[Any, Any] = {ours: original for original, ours in _CLASSES.items()}


# -- calls ----------------------------------------------------------------------------------------


def _cell(module: Any, x: Any, h: Any) -> Any:
    single = isinstance(x, torch.Tensor) and x.dim() == 1
    result = _retried(module, _cell_call, tuple(_batched(one, single, 0) for one in (x, h)))
    if result is None:
        return _ORIGINALS[type(module)].forward(module, x, h)
    return result[0] if single else result


def _lstm_cell(module: Any, x: Any, hx: Any) -> Any:
    if hx is not None and not (isinstance(hx, (tuple, list)) and len(hx) == 2):
        return nn.LSTMCell.forward(module, x, hx)
    h, c = hx or (None, None)
    single = isinstance(x, torch.Tensor) and x.dim() == 1
    arguments = tuple(_batched(one, single, 0) for one in (x, h, c))
    result = _retried(module, _cell_call, arguments)
    if result is None:
        return nn.LSTMCell.forward(module, x, hx)
    return (result[0][0], result[1][0]) if single else result


def _cell_call(runner: Runner, parameters: dict[str, Any], arguments: tuple[Any, ...]) -> Any:
    x, h, c = (*arguments, None)[:3]
    return runner.cell(parameters, x, h, c)


def _sequence(module: Any, x: Any, h: Any, c: Any) -> Any:
    original = _ORIGINALS[type(module)]
    hx = h if not isinstance(module, nn.LSTM) or h is None else (h, c)
    if isinstance(x, PackedSequence):
        result = _packed(module, x, hx)
        return original.forward(module, x, hx) if result is None else result
    if not isinstance(x, torch.Tensor) or x.dim() not in (2, 3):
        return original.forward(module, x, hx)
    single = x.dim() == 2
    turned = module.batch_first and not single
    moved = x.unsqueeze(1) if single else x.transpose(0, 1) if turned else x
    states = (_batched(h, single, 1), _batched(c, single, 1))
    result = _computed(module, (moved.contiguous(), *states))
    if result is None:
        return original.forward(module, x, hx)
    y, h, c = result
    if single:
        y, h = y.squeeze(1), h.squeeze(1)
        c = None if c is None else c.squeeze(1)
    return (y.transpose(0, 1) if turned else y), (h if c is None else (h, c))


def _computed(module: Any, arguments: tuple[Any, ...]) -> Any:
    """Run sequences on the engine, backward too where gradients are wanted; None if it cannot."""
    if not _wants_gradients(module, arguments):
        return _retried(module, _sequence_call, arguments)
    if _refused(module, arguments[:3]) or not _fits(module, *arguments[:3]):
        return None
    x, h, c, lengths = (*arguments, None)[:4]
    threads = module._gruengine.num_threads
    return torch_training.run(module, _kind(module), threads, x, h, c, lengths)


def _wants_gradients(module: Any, tensors: tuple[Any, ...]) -> bool:
    if not torch.is_grad_enabled():
        return False
    given = (*tensors, *module._parameters.values())
    return any(isinstance(one, torch.Tensor) and one.requires_grad for one in given)


def _fits(module: Any, x: Any, h: Any, c: Any) -> bool:
    """Tell whether shapes are what the module takes; its own forward has the words if not."""
    layers, directions, features, hidden, width = torch_spec.sizes_of(module)
    rows = (layers * directions, x.shape[1])
    states = [(h, width), (c, hidden)]
    return (
        x.shape[2] == features
        and 0 not in x.shape
        and all(one is None or one.shape == (*rows, size) for one, size in states)
    )


def _sequence_call(runner: Runner, parameters: dict[str, Any], arguments: tuple[Any, ...]) -> Any:
    return runner.sequence(parameters, *arguments)


def _packed(module: Any, x: PackedSequence, hx: Any) -> Any:
    """Pad, run with lengths, pack; None where the module's own forward is to run."""
    states = () if hx is None else hx if isinstance(hx, tuple) else (hx,)
    if _refused(module, (x.data, *states)) or x.data.dim() != 2:
        return None
    if hx is not None:
        states = tuple(_batched(one, False, 1) for one in _as_tuple(
            module.permute_hidden(hx, x.sorted_indices)))  # fmt: skip
    h, c = (*states, None, None)[:2]
    steps = x.batch_sizes.numel()
    padded, lengths = torch._VF._pad_packed_sequence(x.data, x.batch_sizes, False, 0.0, steps)
    result = _computed(module, (padded.contiguous(), h, c, lengths.contiguous()))
    if result is None:
        return None
    y, h, c = result
    data, _ = torch._VF._pack_padded_sequence(y, lengths, False)
    packed = PackedSequence(data, x.batch_sizes, x.sorted_indices, x.unsorted_indices)
    return packed, module.permute_hidden(h if c is None else (h, c), x.unsorted_indices)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _batched(value: Any, single: bool, axis: int) -> Any:
    """Add the batch axis to an argument without one, and bring it into one piece of memory."""
    if not isinstance(value, torch.Tensor):
        return value
    return (value.unsqueeze(axis) if single else value).contiguous()


def _retried(module: Any, call: Any, arguments: tuple[Any, ...]) -> Any:
    """Call the engine, with new weights if need be; None where the module's own forward is to run.

    Arguments that do not fit get no word from here: the module's own forward has the right one.
    """
    link = module._gruengine
    dropping = module.training and getattr(module, "dropout", 0) > 0 and module.num_layers > 1
    if link.runner is not None and not dropping:
        result = call(link.runner, module._parameters, arguments)
        if result is not None:
            return result
    if _refused(module, arguments[:3]):
        return None
    if link.runner is not None and link.runner.is_current(module._parameters):
        return None
    _convert(module)
    return call(link.runner, module._parameters, arguments)


def _refused(module: Any, tensors: tuple[Any, ...]) -> bool:
    """Tell whether the engine cannot take a call, and warn once of each reason."""
    reason = _why_not(module, tensors)
    warned = module._gruengine.warned
    if reason and reason not in warned:
        warned.add(reason)
        warnings.warn(
            f"{_ORIGINALS[type(module)].__name__} runs on PyTorch, not on gruengine: {reason}",
            stacklevel=6,
        )
    return bool(reason)


def _why_not(module: Any, tensors: tuple[Any, ...]) -> str:
    """Why the engine cannot take a call, in words; "" if it can."""
    parameters = module._parameters
    given = [one for one in (*tensors, *parameters.values()) if isinstance(one, torch.Tensor)]
    trained = bool(tensors) and _wants_gradients(module, tensors)
    if trained and isinstance(module, nn.RNNCellBase):
        return "gradients of a cell are wanted; use torch.inference_mode() or torch.no_grad()"
    if trained and torch._C._are_functorch_transforms_active():
        return "a transform of torch.func is active"
    dropping = module.training and getattr(module, "dropout", 0) and module.num_layers > 1
    if tensors and dropping and not trained:
        return "dropout is active without gradients; put the model in eval mode"
    if tensors and torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    if {name for name, one in parameters.items() if one is not None} != set(
        torch_spec.names_of(module)
    ):
        return f"its parameters are {', '.join(parameters)}"
    for one in given:
        if type(one) not in (torch.Tensor, nn.Parameter):
            return f"a tensor of class {type(one).__name__}"
        if one.dtype is not torch.float32 or not one.is_cpu or one.layout is not torch.strided:
            return f"a tensor of {one.dtype} on {one.device}; the engine takes float32 on the CPU"
    if not all(one is None or one.is_contiguous() for one in parameters.values()):
        return "a parameter that is not contiguous"
    return ""


# -- conversion -----------------------------------------------------------------------------------


def _convert(module: Any) -> None:
    """Give the module an engine with its present weights."""
    link = module._gruengine
    kind, is_cell = _kind(module), isinstance(module, nn.RNNCellBase)
    spec = torch_spec.spec_of(module, kind, is_cell)
    model = Model.from_spec(spec, compute_type=link.compute_type, num_threads=link.num_threads)
    parameters = {key: one for key, one in module._parameters.items() if one is not None}
    sizes = torch_spec.sizes_of(module)
    link.runner = Runner(model._core, parameters, sizes, is_cell, kind == "lstm")


def _kind(module: Any) -> str:
    for kind, classes in (("lstm", (nn.LSTM, nn.LSTMCell)), ("gru", (nn.GRU, nn.GRUCell))):
        if isinstance(module, classes):
            return kind
    return "rnn"
