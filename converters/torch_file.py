# SPDX-License-Identifier: MIT
"""Files of ``torch.save`` (zip and legacy) as trees of stubs and tensors, without torch.

Nothing of the file is imported or called. A tensor stays a reference until ``Checkpoint.array``
gives it as a view of the file, with its storage, offset and strides checked before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gruengine.converters.pickle_known import DATA_CALLS, is_foreign
from gruengine.converters.pickle_values import Global, Items, Mapping, Stub
from gruengine.converters.unpickler import Rebuild, Unpickler
from gruengine.converters.zip_reader import ZipArchive
from gruengine.errors import ModelFileError

Array = np.ndarray[Any, Any]

ZIP_MAGIC = b"PK\x03\x04"
#: How a legacy file begins: the long 0x1950a86a20f9469cfc6c, framed from protocol 4 on.
_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
LEGACY_MAGICS = tuple(
    bytes([0x80, protocol]) + (b"\x95\r\0\0\0\0\0\0\0" if protocol > 3 else b"") + _MAGIC
    for protocol in range(2, 6)
)
LEGACY_PROTOCOL = 1001
MAX_PICKLE = 1 << 26
_PROGRAM = " (it is a program of torch.export: write it with torch.onnx.export)"
MAX_RANK = 16
#: Tensors may share storages, but all together are at most this often as large as the file.
MAX_SHARING = 8

#: torch storage class -> NumPy dtype; bfloat16 is read as its bits.
DTYPES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "u2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "u1",
}


@dataclass(frozen=True)
class StorageRef:
    """A storage of the file: its class name, key and number of elements as the pickle says."""

    kind: str
    key: str
    numel: int


@dataclass(frozen=True)
class TensorRef:
    """A strided view of a storage; offset and strides count elements and stay inside it."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Quantised:
    """A quantised tensor: known, not read."""


class Checkpoint:
    """One file of ``torch.save``.

    Attributes
    ----------
    root : Any
        The pickled object: numbers, texts, ``Items``, ``Mapping``, ``Stub``, ``TensorRef``.
    kind : str
        ``"zip"``, ``"legacy"`` or ``"torchscript"``.
    """

    def __init__(self, source: bytes) -> None:
        self._budget = MAX_SHARING * len(source) + (1 << 20)
        self._storages: dict[str, memoryview] = {}
        self._archive: ZipArchive | None = None
        self._prefix = ""
        self._order = "<"
        if source.startswith(ZIP_MAGIC):
            self.kind = "zip"
            self.root = self._open_zip(source)
        elif source.startswith(LEGACY_MAGICS):
            self.kind = "legacy"
            self.root = self._open_legacy(memoryview(source))
        else:
            pickled = source[:1] == b"\x80"
            what = "a pickle of another program" if pickled else f"it begins with {source[:8]!r}"
            raise ModelFileError(
                f"not a file of torch.save: {what}; allowed are zip archives and legacy files of "
                "torch 0.1 to 1.5"
            )

    def array(self, ref: TensorRef) -> Array:
        """Return a tensor as a read-only view of the file; bfloat16 as a copy in float32.

        Raises
        ------
        ModelFileError
            The storage is missing, or its size, CRC or element type is not what the pickle says.
        """
        storage = ref.storage
        if storage.kind not in DTYPES:
            raise ModelFileError(f"a storage torch.{storage.kind}; allowed are {', '.join(DTYPES)}")
        dtype = np.dtype(self._order + DTYPES[storage.kind])
        self._budget -= math.prod(ref.shape) * dtype.itemsize
        if self._budget < 0:
            raise ModelFileError(
                f"the tensors are more than {MAX_SHARING} times as large as the file: "
                "too many share one storage"
            )
        flat = np.frombuffer(self._bytes(storage, dtype.itemsize), dtype)
        strides = tuple(step * dtype.itemsize for step in ref.strides)
        start = flat[ref.offset :]
        array = np.lib.stride_tricks.as_strided(start, ref.shape, strides, writeable=False)
        if storage.kind == "BFloat16Storage":
            return np.asarray((array.astype(np.uint32) << np.uint32(16)).view(np.float32))
        if storage.kind == "BoolStorage":
            if array.size and int(array.max()) > 1:
                raise ModelFileError("a BoolStorage with bytes other than 0 and 1")
            return array.view(np.bool_)
        return array

    def _bytes(self, storage: StorageRef, itemsize: int) -> memoryview:
        view = self._storages.get(storage.key)
        if view is None and self._archive is not None:
            view = self._archive.read(f"{self._prefix}/data/{storage.key}")
            self._storages[storage.key] = view
        if view is None or len(view) != storage.numel * itemsize:
            has = "is not in the file" if view is None else f"has {len(view)} bytes"
            raise ModelFileError(
                f"storage {storage.key!r} {has}; the pickle says {storage.numel} elements of "
                f"{itemsize} bytes"
            )
        return view

    def _open_zip(self, source: bytes) -> Any:
        archive = self._archive = ZipArchive(source, deflated="code")
        roots = {name.partition("/")[0] for name in archive.names}
        pickles = [name for name in archive.names if name.endswith("data.pkl")]
        self._prefix = next(iter(roots))
        if len(roots) != 1 or pickles != [f"{self._prefix}/data.pkl"]:
            raise ModelFileError(
                f"a zip archive with the folders {sorted(roots)[:8]} and the pickles "
                f"{pickles[:8]}; torch.save writes one folder with one data.pkl"
                + (_PROGRAM if f"{self._prefix}/archive_format" in archive else "")
            )
        if f"{self._prefix}/constants.pkl" in archive:
            self.kind = "torchscript"
        if f"{self._prefix}/byteorder" in archive:
            order = bytes(archive.read(f"{self._prefix}/byteorder")[:16])
            if order not in (b"little", b"big"):
                raise ModelFileError(f"byteorder {order!r}; allowed are b'little' and b'big'")
            self._order = "<" if order == b"little" else ">"
        data = archive.read(pickles[0])
        reader = Unpickler(_bounded(data), REBUILD, _persistent, is_foreign)
        root = reader.load()
        if reader.position != len(data):
            raise ModelFileError(f"{len(data) - reader.position} bytes after the end of data.pkl")
        return root

    def _open_legacy(self, data: memoryview) -> Any:
        values = []
        position = 0
        found: dict[str, StorageRef] = {}

        def storage(args: Items) -> StorageRef | Global:
            """Note every storage that is named, also inside objects that are not looked into."""
            value = _persistent(args)
            if isinstance(value, StorageRef) and found.setdefault(value.key, value) != value:
                raise ModelFileError(f"storage {value.key!r} has two types or sizes")
            return value

        for persistent in (None, None, None, storage, None):
            reader = Unpickler(_bounded(data[position:]), REBUILD, persistent, is_foreign)
            values.append(reader.load())
            position += reader.position
        _, protocol, system, root, keys = values
        little = system.get("little_endian") if isinstance(system, Mapping) else None
        if protocol != LEGACY_PROTOCOL or not isinstance(little, bool):
            raise ModelFileError(
                f"a legacy file of protocol {protocol!r} whose third pickle holds little_endian = "
                f"{little!r}; allowed are protocol {LEGACY_PROTOCOL} and true or false"
            )
        self._order = "<" if little else ">"
        itemsizes = {key: DTYPES.get(ref.kind) for key, ref in found.items()}
        named = isinstance(keys, Items) and all(isinstance(key, str) for key in keys)
        if not named or set(keys) != set(itemsizes):
            raise ModelFileError(
                "the storages of a legacy file are not those that its pickle names"
            )
        for key in keys:
            code = itemsizes[key]
            if key in self._storages or code is None:
                raise ModelFileError(
                    f"storage {key!r} is there twice, or of a type that is not read; allowed are "
                    f"{', '.join(DTYPES)}"
                )
            begin = position + 8
            count = int.from_bytes(data[position:begin], "little" if little else "big", signed=True)
            position = begin + count * np.dtype(code).itemsize
            if count < 0 or begin > len(data) or position > len(data):
                raise ModelFileError(f"storage {key!r} runs past the end of the file")
            self._storages[key] = data[begin:position]
        if position != len(data):
            raise ModelFileError(f"{len(data) - position} bytes after the last storage")
        return root


def _bounded(data: memoryview) -> memoryview:
    return data[:MAX_PICKLE]


# -- what REDUCE and persistent ids give --------------------------------------------------------


def _size(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ModelFileError(f"{what} is {str(value)[:40]!r}; allowed are sizes from 0 up")
    return value


def _sizes(value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, Items) or len(value) > MAX_RANK:
        raise ModelFileError(f"the {what} of a tensor is no tuple of at most {MAX_RANK} sizes")
    return tuple(_size(item, f"one {what} of a tensor") for item in value)


def _persistent(args: Items) -> StorageRef | Global:
    if len(args) == 4 and args[0] == "module" and isinstance(args[1], Global):
        return args[1]  # a class with its source text, which is not read
    if len(args) not in (5, 6) or args[0] != "storage" or (len(args) == 6 and args[5] is not None):
        raise ModelFileError(
            "a persistent id of another form than ('storage', class, key, location, numel)"
        )
    cls, key = args[1], args[2]
    known = isinstance(cls, Global) and cls.module in ("torch", "torch.storage")
    if not known or not cls.name.endswith("Storage") or not isinstance(key, str):
        raise ModelFileError(f"a storage of class {cls!s:.80} and key {key!r:.80}")
    return StorageRef(cls.name, key, _size(args[4], "the number of elements of a storage"))


def _tensor(args: Items) -> TensorRef:
    if len(args) not in (6, 7) or not isinstance(args[0], StorageRef):
        raise ModelFileError(
            "a tensor needs its storage, offset, size, stride, requires_grad and hooks"
        )
    storage, hooks = args[0], args[5:]
    offset = _size(args[1], "the offset of a tensor")
    shape, strides = _sizes(args[2], "size"), _sizes(args[3], "stride")
    if any(hooks) or not all(extra is None or isinstance(extra, Mapping) for extra in hooks):
        raise ModelFileError("a tensor with hooks or a conjugate bit; neither is allowed")
    if len(shape) != len(strides):
        raise ModelFileError(f"a tensor of {len(shape)} sizes and {len(strides)} strides")
    count = math.prod(shape)
    used = 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if 0 in shape:
        used = 0
        if math.prod(size for size in shape if size) > 1 << 40:
            raise ModelFileError(f"a tensor of the sizes {str(shape)[:80]}")
    if count > storage.numel or offset + used > storage.numel:
        raise ModelFileError(
            f"a tensor of the sizes {str(shape)[:80]}, strides {str(strides)[:80]} and offset "
            f"{offset} is larger than its storage of {storage.numel} elements"
        )
    # NumPy multiplies strides even of an axis that is never walked.
    kept = tuple(
        step if size > 1 and used else 0 for size, step in zip(shape, strides, strict=True)
    )
    return TensorRef(storage, offset, shape, kept)


def _old_tensor(args: Items) -> TensorRef:
    """Return a tensor as torch 0.1 to 0.3 wrote it: without requires_grad and hooks."""
    return _tensor(Items([*args, False, None], fixed=True))


def _parameter(args: Items) -> TensorRef | Quantised:
    """Return the tensor of a parameter; what Python code has set on it besides is left out."""
    known = len(args) in (3, 4) and isinstance(args[0], (TensorRef, Quantised))
    if not known or args[2]:
        raise ModelFileError("a parameter needs its tensor, requires_grad and no hooks")
    tensor: TensorRef | Quantised = args[0]
    return tensor


def _subclass(args: Items) -> Any:
    """Return a tensor with attributes, or of a class that a project derives from ``Tensor``.

    What such a class computes otherwise is not in the file: only classes of torch are read.
    """
    if len(args) != 4 or not isinstance(args[1], Global) or not isinstance(args[2], Items):
        raise ModelFileError("a tensor with attributes needs its call, class, arguments and state")
    call = REBUILD.get(args[0]) if isinstance(args[0], Global) else None
    plain = args[1] in (Global("torch", "Tensor"), Global("torch.nn.parameter", "Parameter"))
    return call(args[2]) if call is not None and plain else Stub(args[1], args)


def _ordered_dict(args: Items) -> Mapping:
    """Empty, or from one list of pairs, as Python 2 wrote it."""
    result = Mapping()
    if len(args) > 1 or not all(isinstance(arg, Items) for arg in args):
        raise ModelFileError("an OrderedDict of something else than one list of pairs")
    for pair in args[0] if args else ():
        if not isinstance(pair, Items) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ModelFileError("an OrderedDict of something else than pairs of name and value")
        if pair[0] in result:
            raise ModelFileError(f"key {pair[0][:80]!r} occurs twice")
        result[pair[0]] = pair[1]
    return result


#: How TorchScript writes typed lists: the list is the first argument, perhaps a type the second.
_SCRIPT = (
    "build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag",
)  # fmt: skip


def _first(args: Items) -> Any:
    value = args[0] if args else None
    if isinstance(value, Mapping):
        copy = Mapping()
        copy.update(value)
        return copy
    return Items(list(value), fixed=True) if isinstance(value, Items) else value


REBUILD: dict[Global, Rebuild] = {
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("torch._utils", "_rebuild_tensor"): _old_tensor,
    Global("torch._utils", "_rebuild_parameter"): _parameter,
    Global("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    Global("torch._tensor", "_rebuild_from_type_v2"): _subclass,
    Global("torch._utils", "_rebuild_qtensor"): lambda _: Quantised(),
    Global("collections", "OrderedDict"): _ordered_dict,
    **DATA_CALLS,
    **{Global("torch.jit._pickle", name): _first for name in _SCRIPT},
}
