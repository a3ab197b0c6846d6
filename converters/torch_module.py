# SPDX-License-Identifier: MIT
"""Live ``torch.nn.Module`` objects, and pickled ones, as views of modules.

A live module is only looked at: its parameters, buffers, constructor attributes and hooks. Its
``forward`` never runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gruengine.converters.base import Options, Reason
from gruengine.converters.pickle_values import Mapping, Stub, kind_of
from gruengine.converters.torch_file import Checkpoint, Quantised, TensorRef
from gruengine.converters.torch_layers import Layer
from gruengine.converters.torch_tree import ModuleView, read_tree
from gruengine.errors import InvalidTypeError

Array = np.ndarray[Any, Any]

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_WEIGHT_NORM = "torch.nn.utils.weight_norm.WeightNorm"
_PARAMETRIZED = "torch.nn.utils.parametrize"
_NEW_WEIGHT_NORM = "torch.nn.utils.parametrizations._WeightNorm"
#: Class of a wrapper -> its name of the module inside.
_WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
}
_QUANTISED = "quantised weights; save the float model before quantising it"


def read_layers(
    module: Any, options: Options, reasons: list[Reason]
) -> tuple[list[Layer], list[str]]:
    """Return the layers of a live module and warnings; reasons are added.

    Raises
    ------
    InvalidTypeError
        ``module`` is no ``torch.nn.Module``, or one of TorchScript.
    """
    warnings: list[str] = []
    layers = read_tree(_view(check_module(module), ""), options, reasons, warnings)
    return layers, warnings


def check_module(module: Any) -> Any:
    """Return a module without the wrappers of torch around it.

    Raises
    ------
    InvalidTypeError
        It is no module, or one of TorchScript.
    """
    import torch

    if not isinstance(module, torch.nn.Module):
        raise InvalidTypeError(
            f"a {type(module).__name__}; allowed are modules of torch.nn (of a state_dict, pass "
            "the file that torch.save made)"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise InvalidTypeError(
            "a TorchScript module; allowed are modules in Python (of a TorchScript archive, "
            "gruengine.load reads the weights; torch.onnx.export with dynamo=False exports all)"
        )
    return unwrapped(module)


def _class_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def unwrapped(module: Any) -> Any:
    """Return the module, live or pickled, inside what torch puts around one."""
    for _ in range(8):
        if isinstance(module, Stub):
            modules = module.state["_modules"] if is_module(module) else Mapping()
            inner = _WRAPPERS.get(str(module.cls))
        else:
            modules, inner = module._modules, _WRAPPERS.get(_class_name(module))
        if inner is None or inner not in modules:
            return module
        module = modules[inner]
    return module


def _view(module: Any, path: str, depth: int = 0) -> ModuleView:
    kind = _class_name(module)
    problems: list[str] = []
    children = {name: one for name, one in module._modules.items() if one is not None}
    tensors = {**module._parameters, **module._buffers}
    if type(module).__module__ == _PARAMETRIZED and "parametrizations" in children:
        base = type(module).__bases__[0]
        kind = f"{base.__module__}.{base.__qualname__}"
        tensors.update(_parametrized(children.pop("parametrizations"), problems))
    if "forward" in vars(module):
        problems.append("a forward of its own")
    for name in _HOOKS:
        known = {_class_name(hook) for hook in getattr(module, name, {}).values()}
        if known - {_WEIGHT_NORM}:
            problems.append(f"a hook {', '.join(sorted(known - {_WEIGHT_NORM}))}")
    arrays = {}
    for name, tensor in tensors.items():
        if tensor is not None:
            array = to_numpy(tensor)
            if array is None:
                problems.append(f"{name} of {tensor.dtype} on {tensor.device}")
            else:
                arrays[name] = array
    if depth > 64:
        problems.append("modules nested deeper than 64")
        children = {}
    views = [
        _view(unwrapped(child), f"{path}.{name}" if path else name, depth + 1)
        for name, child in children.items()
    ]
    return ModuleView(kind, path, vars(module), arrays, views, problems)


def _parametrized(container: Any, problems: list[str]) -> dict[str, Any]:
    """Return the tensors of weight norms by their state_dict names; others are problems."""
    for name, one in container._modules.items():
        kinds = [_class_name(part) for part in one._modules.values()]
        if kinds != [_NEW_WEIGHT_NORM]:
            problems.append(f"{name} parametrized by {', '.join(kinds)}")
    return {f"parametrizations.{name}": value for name, value in container.state_dict().items()}


def to_numpy(tensor: Any, small: bool = False) -> Array | None:
    """Return a tensor as an array, the half types in float32; None if it has no plain values.

    ``small`` allows integers of 8 and 16 bits.
    """
    import torch

    plain: tuple[Any, ...] = (
        torch.float32,
        torch.float64,
        torch.int64,
        torch.int32,
        torch.int8,
        torch.bool,
    )
    half = (torch.float16, torch.bfloat16)
    if small:
        plain += (torch.uint8, torch.int16)
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.dtype not in plain + half:
        return None
    detached = tensor.detach().cpu()
    return np.array((detached.float() if tensor.dtype in half else detached).numpy())


# -- pickled modules ------------------------------------------------------------------------------


def read_pickled(
    root: Any,
    checkpoint: Checkpoint,
    options: Options,
    reasons: list[Reason],
    warnings: list[str],
) -> list[Layer]:
    """Return the layers of a whole pickled module: ``torch.save(module, path)``."""
    view = _pickled_view(root, "", checkpoint)
    return read_tree(view, options, reasons, warnings)


def is_known(root: Any) -> bool:
    """Tell whether something is a pickled module of a class of torch."""
    return is_module(root) and root.cls.module.partition(".")[0] == "torch"


def is_module(root: Any) -> bool:
    """Tell whether the root of a file is a pickled ``torch.nn.Module``."""
    return isinstance(root, Stub) and isinstance(root.state, Mapping) and "_modules" in root.state


def read_own_class(
    root: Any, checkpoint: Checkpoint, reasons: list[Reason]
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return what a pickled module of an unknown class holds: its arrays, and hints about them.

    Its forward is not in the file, so it is read as a state dict is; the modules inside it say
    what a state dict does not: layouts, kinds, nonlinearities.
    """
    arrays: dict[str, Array] = {}
    hints: dict[str, Any] = {"kinds": {}, "eps": {}, "nonlinearity": {}}
    layouts = set()
    todo = [_pickled_view(root, "", checkpoint)]
    while todo:
        view = todo.pop()
        todo += view.children[::-1]
        reasons += [Reason(view.path, what, "a module as it was made") for what in view.problems]
        prefix = f"{view.path}." if view.path else ""
        arrays.update((prefix + name, array) for name, array in view.arrays.items())
        package, _, name = view.kind.rpartition(".")
        if not package.startswith("torch.nn.modules"):
            continue
        if name in ("RNN", "LSTM", "GRU"):
            layouts.add(view.attrs.get("batch_first", False))
        if name in ("RNN", "RNNCell"):
            relu = "RELU" in str(view.attrs.get("mode", view.attrs.get("nonlinearity"))).upper()
            hints["nonlinearity"][view.path] = "relu" if relu else "tanh"
        if name in ("Embedding", "Linear", "LayerNorm"):
            hints["kinds"][view.path] = name.lower()
        if name in ("LayerNorm", "BatchNorm1d"):
            hints["eps"][view.path] = view.attrs.get("eps")
        if view.attrs.get("max_norm") is not None:
            reasons.append(Reason(view.path, "max_norm", "None: it changes the weights"))
    if len(layouts) == 1:
        hints["batch_first"] = layouts.pop()
    return arrays, hints


def _pickled_view(stub: Any, path: str, checkpoint: Checkpoint) -> ModuleView:
    """Return the view of a stub; the reader of pickles has bounded how deep they are."""
    if isinstance(stub, Stub) and ".quantized." in stub.cls.module:
        return ModuleView(str(stub.cls), path, {}, {}, [], [_QUANTISED])
    if not is_module(stub):
        return ModuleView(f"pickle.{type(stub).__name__}", path, {}, {}, [], ["no module"])
    state = stub.state
    problems: list[str] = []
    parts: dict[str, Mapping] = {}
    for name in ("_parameters", "_buffers", "_modules", *_HOOKS):
        value = state.get(name, Mapping())
        if not isinstance(value, Mapping):
            problems.append(f"{name} of another form than a dict")
            value = Mapping()
        parts[name] = value
    for name in _HOOKS:
        kinds = {str(h.cls) if isinstance(h, Stub) else str(h) for h in parts[name].values()}
        if kinds - {_WEIGHT_NORM}:
            problems.append(f"a hook {', '.join(sorted(kinds - {_WEIGHT_NORM}))}")
    arrays = {}
    for name, value in {**parts["_parameters"], **parts["_buffers"]}.items():
        if isinstance(value, TensorRef):
            arrays[str(name)] = checkpoint.array(value)
        elif value is not None:
            what = _QUANTISED if isinstance(value, Quantised) else kind_of(value)
            problems.append(f"{name}: {what}")
    children = [
        _pickled_view(unwrapped(child), f"{path}.{name}" if path else str(name), checkpoint)
        for name, child in parts["_modules"].items()
        if child is not None
    ]
    return ModuleView(str(stub.cls), path, state, arrays, children, problems)
