# SPDX-License-Identifier: MIT
"""Which calls of a checkpoint are kept as stubs: data around the weights, which nobody looks into.

Nothing is ever called. A call that is neither known nor kept is refused all the same: a file that
calls the standard library or a framework is damaged, hostile, or holds weights in a way that is
not read.
"""

from __future__ import annotations

import sys

from gruengine.converters.pickle_values import Global, Items, Stub
from gruengine.converters.unpickler import Rebuild

#: Module -> what is data of it, however it is made.
_DATA = {
    "__builtin__": ("set", "frozenset", "bytearray", "complex", "slice", "xrange", "object"),
    "builtins": ("set", "frozenset", "bytearray", "complex", "slice", "range", "object"),
    "_codecs": ("encode",),
    "collections": ("defaultdict", "Counter", "deque"),
    "copy_reg": ("_reconstructor",),
    "copyreg": ("_reconstructor",),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "functools": ("partial",),
    "argparse": ("Namespace",),
    "types": ("SimpleNamespace",),
    "uuid": ("UUID",),
    **{
        f"pathlib{part}": ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
        for part in ("", "._local")
    },
    **{f"numpy.{core}.multiarray": ("scalar", "_reconstruct") for core in ("core", "_core")},
    **{f"numpy.{core}.numeric": ("_frombuffer",) for core in ("core", "_core")},
    "numpy": ("dtype",),
    "numpy.random": ("__RandomState_ctor",),
    "numpy.random.bit_generator": ("__pyx_unpickle_SeedSequence",),
    "numpy.random._pickle": (
        "__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor",
    ),
    "torch": ("device", "Size", "dtype"),
    "torch._utils": ("_rebuild_sparse_tensor",),
    "torch.serialization": ("_get_layout",),
    "torch.nn.backends.thnn": ("_get_thnn_function_backend",),
}  # fmt: skip


def _kept(cls: Global) -> Rebuild:
    def stub(args: Items) -> Stub:
        return Stub(cls, args)

    return stub


DATA_CALLS: dict[Global, Rebuild] = {
    cls: _kept(cls) for module, names in _DATA.items() for cls in (Global(module, n) for n in names)
}

#: Frameworks of which the calls are known one by one, this package, and Python 2's own modules.
_OWN = frozenset(
    ["torch", "numpy", "gruengine", "__builtin__", "commands", "copy_reg", "cPickle", "dill",
     "cloudpickle", "joblib", "pip", "setuptools"]
)  # fmt: skip


def is_foreign(module: str) -> bool:
    """Tell whether a module belongs to a project: its classes stay names, as all others do."""
    package = module.partition(".")[0]
    return package not in _OWN and package not in sys.stdlib_module_names
