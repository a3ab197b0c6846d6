# SPDX-License-Identifier: MIT
"""Packed sequences while a forward is traced: padded sequences with their lengths.

``pack_padded_sequence`` gives as many rows as the lengths add up to, which no graph can say.
While a forward is traced, a packed sequence holds every step of the padded one, [T*N, F], and in
place of its batch sizes a copy of the lengths, known by its identity. The layers take the lengths,
and what is unpacked has as many steps as what was packed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gruengine.converters.base import Reason

SCHEMA = (
    "(str cell, Tensor x, Tensor lengths, Tensor[] states, Tensor[] weights, bool biases, "
    "int layers, bool bidirectional) -> (Tensor, Tensor, Tensor)"
)
#: What a report says of a module that unpacks.
NOTE = "unpacked sequences have as many steps as what was packed, not as its longest row"


#: Properties that lengths have like batch sizes.
_KEPT = ("device", "dtype", "is_cpu", "is_cuda", "layout", "ndim", "requires_grad")


@dataclass
class _Pack:
    """A packed sequence by what stands for its batch sizes; ``sizes`` are T and N."""

    stand_in: Any
    lengths: Any
    sizes: tuple[Any, Any]


class Packs:
    """The packed sequences of one trace."""

    def __init__(self) -> None:
        self._packs: dict[int, _Pack] = {}
        self._clean: dict[int, Any] = {}  # made by a layer: zero where a row has ended
        self.used = False

    def of(self, value: Any) -> _Pack | None:
        """Return what a stand-in for batch sizes is of."""
        pack = self._packs.get(id(value))
        return pack if pack is not None and pack.stand_in is value else None

    def holds(self, values: Any) -> bool:
        """Tell whether a stand-in is among values."""
        return bool(self._packs) and any(self.of(value) is not None for value in values)

    def pack(self, x: Any, lengths: Any, batch_first: bool) -> tuple[Any, Any]:
        """Stand for ``_pack_padded_sequence``."""
        import torch

        x = x.transpose(0, 1) if batch_first else x
        torch._check(lengths.shape[0] == x.shape[1])
        stand_in = lengths.clone()
        self._packs[id(stand_in)] = _Pack(stand_in, lengths, (x.shape[0], x.shape[1]))
        self.used = True
        return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:]), stand_in

    def pad(
        self, data: Any, pack: _Pack, batch_first: bool, value: float, total: Any
    ) -> tuple[Any, Any]:
        """Stand for ``_pad_packed_sequence``."""
        import torch

        steps, rows = pack.sizes
        y = data.reshape(steps, rows, *data.shape[1:])
        clean = self._clean.get(id(data)) is data
        if not clean or value != 0:
            kept = torch.arange(steps)[:, None] < pack.lengths[None, :]
            kept = kept.reshape(steps, rows, *[1] * (y.dim() - 2))
            y = torch.where(kept, y, torch.full((), value, dtype=y.dtype))
        if total != steps:
            more = y.new_full((total - steps, rows, *y.shape[2:]), value)
            y = torch.cat([y, more])
        return y.transpose(0, 1) if batch_first else y, pack.lengths

    def layer(self, cell: str, args: tuple[Any, ...]) -> Any:
        """Stand for a recurrent function of packed data."""
        import torch

        data, sizes, hx, params, biases, layers, dropout, train, bidirectional = args
        pack = self.of(sizes)
        if pack is None or (train and dropout > 0):
            raise NotImplementedError("a packed sequence made in another way")
        states = list(hx) if cell == "lstm" else [hx]
        x = data.reshape(*pack.sizes, data.shape[-1])
        y, h, c = torch.ops.gruengine.packed(
            cell, x, pack.lengths, states, list(params), biases, layers, bidirectional
        )
        y = y.reshape(y.shape[0] * y.shape[1], y.shape[-1])
        self._clean[id(y)] = y
        return (y, h, c) if cell == "lstm" else (y, h)

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a function of torch that gets a stand-in, or refuse it."""
        import torch

        pack = self.of(args[0]) if args else None
        if pack is not None and func is torch.Tensor.__getitem__ and args[1] == 0:
            return pack.sizes[1]
        if pack is not None and func is torch.Tensor.size and args[1:] == (0,):
            return pack.sizes[0]
        # Of a property, func is the __get__ of its descriptor.
        name = getattr(getattr(func, "__self__", None), "__name__", "")
        if name in _KEPT:
            return func(*args, **kwargs)
        name = name or getattr(func, "__name__", str(func))
        raise NotImplementedError(f"{name} of the batch sizes of a packed sequence")


def reason(error: Exception) -> Reason:
    """Return why a packed sequence cannot be traced."""
    return Reason("", f"a packed sequence: {error}", "nn.RNN, nn.LSTM, nn.GRU and unpacking of it")


@contextlib.contextmanager
def unchecked(module: Any) -> Iterator[None]:
    """Leave out what recurrent modules check of packed sequences: it would fix the batch."""
    import torch

    found = [one for one in module.modules() if isinstance(one, torch.nn.RNNBase)]
    found = [one for one in found if "check_forward_args" not in one.__dict__]

    def checking(own: Any) -> Any:
        def check(x: Any, hx: Any, batch_sizes: Any) -> None:
            if batch_sizes is None:
                own(x, hx, None)

        return check

    for one in found:
        one.__dict__["check_forward_args"] = checking(one.check_forward_args)
    try:
        yield
    finally:
        for one in found:
            del one.__dict__["check_forward_args"]


def fake(
    cell: str,
    x: Any,
    lengths: Any,
    states: list[Any],
    weights: list[Any],
    biases: bool,
    layers: int,
    bidirectional: bool,
) -> tuple[Any, Any, Any]:
    """Return the shapes of what a layer of packed data gives."""
    import torch

    width = weights[1].shape[1]
    for state in states:
        torch._check(x.shape[1] == state.shape[1])
    y = x.new_empty((*x.shape[:2], (2 if bidirectional else 1) * width))
    return y, torch.empty_like(states[0]), torch.empty_like(states[-1])
