# SPDX-License-Identifier: MIT
"""A live module as a graph of ATen operators, by ``torch.export``.

Recurrent layers and cells stay whole: while the forward is traced, calls of torch's recurrent
functions become one operator of our own, so that their time axis stays free. Nothing of the
module is exchanged for that; only its training flags change, and are put back.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gruengine.converters import torch_packed
from gruengine.converters.base import Reason
from gruengine.converters.torch_packed import unchecked

#: How often an operator that is not known may be taken apart into others.
ROUNDS = 4

LAYERS = {"lstm": "lstm", "gru": "gru", "rnn_tanh": "rnn_tanh", "rnn_relu": "rnn_relu"}
CELLS = {f"{name}_cell": name for name in LAYERS}
_SCHEMA = (
    "(str cell, Tensor x, Tensor[] states, Tensor[] weights, bool biases, int layers, "
    "bool bidirectional, bool batch_first) -> (Tensor, Tensor, Tensor)"
)
_CELL_SCHEMA = (
    "(str cell, Tensor x, Tensor[] states, Tensor[] weights, bool biases) -> (Tensor, Tensor)"
)
_ASSIGNED = re.compile(r"attributes? (.*?) (?:was|were) assigned during export")


#: How many sizes are left free, tried in turn: all, those of leading axes, none.
LEVELS = ("all", "leading", "none")


class TraceError(Exception):
    """No trace; ``final`` where other sizes would not help."""

    def __init__(self, reasons: list[Reason], final: bool) -> None:
        super().__init__(reasons)
        self.reasons, self.final = reasons, final


@dataclass
class Traced:
    """What ``torch.export`` gave: the program, and what it was traced with.

    problems : what the forward does that a graph cannot hold
    packs : it packs sequences
    """

    program: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    problems: list[Reason] = field(default_factory=list)
    packs: bool = False


def trace(
    module: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    shapes: Any,
    known: Callable[[str], bool],
) -> Traced:
    """Trace ``module`` in eval mode.

    Parameters
    ----------
    shapes : ``dynamic_shapes`` of ``torch.export.export``.
    known : whether an operator, ``"aten.add.Tensor"``, needs no taking apart.

    Raises
    ------
    TraceError
    """
    import torch

    if not hasattr(torch.export, "default_decompositions"):
        raise TraceError([Reason("", f"torch {torch.__version__}", "torch 2.6 or newer")], True)
    failure: Exception | None = None
    for oblivious in (True, False) if shapes is not None else (False,):
        mode = _mode()
        try:
            with _quiet() as caught, _sizes_of_one(oblivious), unchecked(module), mode:
                program = _export(module, args, dict(kwargs), shapes)
            with _quiet():
                program = _decomposed(program, known)
        except Exception as error:  # whatever the user's forward or the tracer raises
            if mode.reasons:
                raise TraceError(list(mode.reasons), True) from None
            failure = error
            continue
        problems = mode.reasons + _assigned(caught)
        return Traced(program, args, dict(kwargs), problems, mode.packs.used)
    assert failure is not None
    raise TraceError([_as_reason(failure)], False) from failure


def free_sizes(
    module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], level: str
) -> dict[str, Any] | None:
    """Return ``dynamic_shapes`` that leave sizes free where the module allows it."""
    import torch
    from torch.utils import _pytree

    if level == "none":
        return None
    signature = inspect.signature(module.forward)
    named: dict[str, Any] = {}
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        else:
            named[name] = value

    def free(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return None
        axes = leaf.dim()
        if level == "leading":
            axes = min(axes, 2 if axes != 2 or not leaf.is_floating_point() else 1)
        return dict.fromkeys(range(axes), torch.export.Dim.AUTO)

    result: dict[str, Any] = _pytree.tree_map(free, named)
    return result


def _export(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any) -> Any:
    import torch

    flags = [(one, one.training) for one in module.modules()]
    module.eval()
    try:
        return torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    finally:
        for one, training in flags:
            one.training = training


def _decomposed(program: Any, known: Callable[[str], bool]) -> Any:
    """Take apart what is not known, and that alone."""
    import torch

    program = program.run_decompositions({})
    standard: Any = torch.export.default_decompositions()
    for _ in range(ROUNDS):
        targets = {node.target for node in program.graph.nodes if node.op == "call_function"}
        foreign = [one for one in targets if hasattr(one, "_schema") and not known(str(one))]
        table = {one: standard[one] for one in foreign if one in standard}
        rest = [one for one in foreign if one not in table]
        table.update(torch._decomp.get_decompositions(rest))
        if not table:
            return program
        program = program.run_decompositions(table)
    return program


@contextlib.contextmanager
def _quiet() -> Iterator[list[Any]]:
    """Keep torch's warnings from the user; yield them."""
    logger = logging.getLogger("torch")
    names = [name for name in logging.root.manager.loggerDict if name.startswith("torch")]
    loggers = [logger, *(logging.getLogger(name) for name in names)]
    before = [one.disabled for one in loggers]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for one in loggers:
            one.disabled = True
        try:
            yield caught
        finally:
            for one, disabled in zip(loggers, before, strict=True):
                one.disabled = disabled


@contextlib.contextmanager
def _sizes_of_one(oblivious: bool) -> Iterator[None]:
    """Let torch leave free also what is 0 or 1 in the example."""
    import torch.fx.experimental._config as config

    if not oblivious or not hasattr(config, "backed_size_oblivious"):
        yield
        return
    with config.patch(backed_size_oblivious=True):
        yield


def _assigned(caught: list[Any]) -> list[Reason]:
    """Return reasons for attributes that the forward changes, which a graph would forget."""
    reasons = []
    for warning in caught:
        match = _ASSIGNED.search(str(warning.message))
        names = [] if match is None else [one.strip() for one in match[1].split(",")]
        # torch's own recurrent modules keep their weights in a list that export exchanges.
        own = [one for one in names if "._flat_weights[" not in f".{one}"]
        if own:
            reasons.append(
                Reason(
                    ", ".join(own).replace("self.", ""),
                    "an attribute that the forward assigns",
                    "states are arguments and results of the forward, or buffers",
                )
            )
    return reasons


def _as_reason(error: BaseException) -> Reason:
    text = " ".join(str(error).split())
    place = re.search(r"\(([\w/.\-]+\.py:\d+ in \w+)\)", text)
    where = place[1].rpartition("/")[2] if place else ""
    text = text.split("For more information")[0].split("The error above occurred")[0]
    return Reason(
        where,
        f"torch.export fails: {type(error).__name__}: {text[:300].strip()}",
        "a forward without decisions on the values of tensors",
    )


# -- recurrent functions stay whole ---------------------------------------------------------------


@functools.cache
def _library() -> Any:
    """Define our two operators; they have shapes and no values."""
    import torch

    library = torch.library.Library("gruengine", "FRAGMENT")
    library.define("recurrent" + _SCHEMA)
    library.define("cell" + _CELL_SCHEMA)
    library.define("packed" + torch_packed.SCHEMA)

    def recurrent(
        cell: str,
        x: Any,
        states: list[Any],
        weights: list[Any],
        biases: bool,
        layers: int,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Any, Any, Any]:
        ways = 2 if bidirectional else 1
        for state, width in zip(states, _widths(cell, weights), strict=False):
            torch._check(x.shape[0 if batch_first else 1] == state.shape[1])
            torch._check(state.shape[0] == layers * ways)
            torch._check(state.shape[2] == width)
        y = x.new_empty((*x.shape[:2], ways * weights[1].shape[1]))
        return y, torch.empty_like(states[0]), torch.empty_like(states[-1])

    def one_step(
        cell: str, x: Any, states: list[Any], weights: list[Any], biases: bool
    ) -> tuple[Any, Any]:
        for state, width in zip(states, _widths(cell, weights), strict=False):
            torch._check(x.shape[0] == state.shape[0])
            torch._check(state.shape[1] == width)
        return torch.empty_like(states[0]), torch.empty_like(states[-1])

    torch.library.register_fake("gruengine::recurrent", recurrent, lib=library)
    torch.library.register_fake("gruengine::cell", one_step, lib=library)
    torch.library.register_fake("gruengine::packed", torch_packed.fake, lib=library)
    return library


def _widths(cell: str, weights: list[Any]) -> tuple[int, int]:
    """Return the sizes of h and c, as the first two arrays of weights have them."""
    gates = {"lstm": 4, "gru": 3}.get(cell, 1)
    return weights[1].shape[1], weights[0].shape[0] // gates


def _mode() -> Any:
    """Return a mode, for this thread alone, in which recurrent functions stay whole."""
    import torch
    from torch.overrides import TorchFunctionMode

    _library()
    layers = {getattr(torch._VF, name): cell for name, cell in LAYERS.items()}
    cells = {getattr(torch._VF, name): cell for name, cell in CELLS.items()}
    pack, pad = torch._VF._pack_padded_sequence, torch._VF._pad_packed_sequence

    class Whole(TorchFunctionMode):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.reasons: list[Reason] = []
            self.packs = torch_packed.Packs()

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            packed = func in layers and isinstance(args[3], (list, tuple))
            if func is pack or packed or self.packs.holds(args):
                try:
                    return self._packed(func, args, kwargs or {})
                except NotImplementedError as error:
                    self.reasons.append(torch_packed.reason(error))
                    raise
            if func in layers:
                return _layer(layers[func], *args, **(kwargs or {}))
            if func in cells:
                return _cell(cells[func], *args, **(kwargs or {}))
            if func is torch.max_pool1d:
                return _max_pool1d(*args, **(kwargs or {}))
            return func(*args, **(kwargs or {}))

        def _packed(self, func: Any, args: Any, kwargs: Any) -> Any:
            if func is pack:
                return self.packs.pack(*args, **kwargs)
            if func in layers:
                return self.packs.layer(layers[func], args)
            found = self.packs.of(args[1]) if func is pad else None
            if found is not None:
                return self.packs.pad(args[0], found, *args[2:], **kwargs)
            return self.packs.call(func, args, kwargs)

    return Whole()


def _layer(
    cell: str,
    x: Any,
    hx: Any,
    params: Any,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    import torch

    if train and dropout > 0:
        raise NotImplementedError("dropout that is active in eval mode")
    states = list(hx) if cell == "lstm" else [hx]
    y, h, c = torch.ops.gruengine.recurrent(
        cell, x, states, list(params), has_biases, num_layers, bidirectional, batch_first
    )
    return (y, h, c) if cell == "lstm" else (y, h)


def _cell(
    cell: str, x: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None
) -> Any:
    import torch

    states = list(hx) if cell == "lstm" else [hx]
    weights = [w_ih, w_hh] if b_ih is None else [w_ih, w_hh, b_ih, b_hh]
    h, c = torch.ops.gruengine.cell(cell, x, states, weights, b_ih is not None)
    return (h, c) if cell == "lstm" else h


def _max_pool1d(
    x: Any, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil: bool = False
) -> Any:
    """Pool along two axes: torch's own form for one axis fixes its size while it is traced."""
    import torch

    def two(value: Any, one: int) -> list[int]:
        return [one, *(value if isinstance(value, (list, tuple)) else [value])]

    step = two(stride, 1) if stride not in (None, [], ()) else None
    wide = x.unsqueeze(-2)
    if x.dim() == 2:
        wide = wide.unsqueeze(0)
    pooled = torch.max_pool2d(
        wide, two(kernel, 1), step, two(padding, 0), two(dilation, 1), ceil
    ).squeeze(-2)
    return pooled.squeeze(0) if x.dim() == 2 else pooled
