# SPDX-License-Identifier: MIT
"""A pickle reader that only reads: it imports nothing and calls nothing that the file names.

The result is a tree of plain values, ``Items``, ``Mapping``, ``Global`` (a name) and ``Stub`` (an
object that was not made). Only the opcodes that Python writes for such trees are known, in the
protocols 2 to 5; ``REDUCE`` works from the caller's table alone. Depth, stack, memo and work are
bounded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from gruengine.converters.pickle_values import Global, Items, Mapping, Stub
from gruengine.errors import ModelFileError

MAX_OPCODES = 2_000_000
MAX_CONTAINERS = 500_000
MAX_MEMO = 1_000_000
MAX_STACK = 10_000
MAX_DEPTH = 100
MAX_GLOBAL = 256


#: What a REDUCE of a known global gives: called with the arguments, never with code of the file.
Rebuild = Callable[[Items], Any]
_CONTAINERS = (Items, Mapping, Stub)
_KEYS = (str, bytes, int, float, bool, type(None), Global, Stub)
_PROTOCOLS = range(2, 6)


class _Mark:
    """The one value that separates items on the stack."""


_MARK = _Mark()


class Unpickler:
    """Read one pickle from ``data``.

    Parameters
    ----------
    data : memoryview
        Bytes that hold the pickle, and perhaps more after it.
    rebuild : dict of Global to callable
        What REDUCE may do: pure functions of this package from the arguments to a value.
    persistent : callable or None
        What a persistent id stands for; None: the file may have none.
    opaque : callable
        Whether every call of something in a module, by its name, gives a ``Stub``.

    Attributes
    ----------
    position : int
        After ``load``: where the pickle ends.
    """

    def __init__(
        self,
        data: memoryview,
        rebuild: dict[Global, Rebuild],
        persistent: Rebuild | None = None,
        opaque: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.position = 0
        self._data = data
        self._rebuild = rebuild
        self._persistent = persistent
        self._opaque = opaque
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._containers = 0

    def load(self) -> Any:
        """Return the object of the pickle.

        Raises
        ------
        ModelFileError
            An opcode outside the list, a REDUCE outside the table, a broken or oversized pickle.
        """
        head = bytes(self._data[:2])
        if len(head) < 2 or head[0] != 0x80 or head[1] not in _PROTOCOLS:
            raise ModelFileError(
                f"a pickle must begin with protocol 2 to 5, as torch.save writes it; "
                f"this begins with {head!r}"
            )
        self.position = 2
        for _ in range(MAX_OPCODES):
            code = self._take(1)[0]
            if code == ord("."):
                if len(self._stack) != 1 or self._marks:
                    raise self._error(f"it ends with {len(self._stack)} values; one is needed")
                return self._pop()
            action = _ACTIONS.get(code)
            if action is None:
                raise self._error(
                    f"opcode {bytes([code])!r} is not allowed; allowed are those of tensors, "
                    "numbers, texts, lists and dicts in the protocols 2 to 5"
                )
            action(self)
        raise self._error(f"it has more than {MAX_OPCODES} opcodes")

    def _error(self, what: str) -> ModelFileError:
        return ModelFileError(f"pickle, before byte {self.position}: {what}")

    # -- bytes ------------------------------------------------------------------------------------

    def _take(self, size: int) -> memoryview:
        if size > len(self._data) - self.position:
            raise self._error(f"it is cut off: {size} more bytes are needed")
        self.position += size
        return self._data[self.position - size : self.position]

    def _number(self, form: str) -> Any:
        return struct.unpack("<" + form, self._take(struct.calcsize("<" + form)))[0]

    def _frame(self) -> None:
        """Check the size of a frame; frames change nothing else."""
        size = self._number("Q")
        if size > len(self._data) - self.position:
            raise self._error(f"a frame of {size} bytes, cut off")

    def _text(self, size: int) -> None:
        try:
            self._push(str(self._take(size), "utf-8"))
        except UnicodeDecodeError:
            raise self._error("a text that is not UTF-8") from None

    def _line(self) -> str:
        window = bytes(self._data[self.position : self.position + MAX_GLOBAL])
        size = window.find(b"\n")
        text = self._name(window[: max(size, 0)].decode("latin-1"))
        self.position += size + 1
        return text

    def _name(self, text: Any) -> str:
        parts = text.split(".") if isinstance(text, str) and len(text) <= MAX_GLOBAL else [""]
        if not all(part.isidentifier() and part.isascii() for part in parts):
            raise self._error(
                f"the name {str(text)[:40]!r}; a name has dotted identifiers and at most "
                f"{MAX_GLOBAL} characters, and ends where its line does"
            )
        return str(text)

    # -- stack ------------------------------------------------------------------------------------

    def _push(self, value: Any) -> None:
        if len(self._stack) >= MAX_STACK:
            raise self._error(f"more than {MAX_STACK} values on the stack")
        self._stack.append(value)

    def _floor(self) -> int:
        return self._marks[-1] if self._marks else 0

    def _pop(self) -> Any:
        if len(self._stack) <= self._floor():
            raise self._error("it takes a value that is not there")
        return self._stack.pop()

    def _top(self) -> Any:
        if len(self._stack) <= self._floor():
            raise self._error("it uses a value that is not there")
        return self._stack[-1]

    def _mark(self) -> None:
        if len(self._marks) >= MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} values inside each other")
        self._marks.append(len(self._stack))

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            raise self._error("it takes values back to a mark that is not there")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    # -- containers -------------------------------------------------------------------------------

    def _new(self, value: Any, children: list[Any]) -> Any:
        self._containers += 1
        if self._containers > MAX_CONTAINERS:
            raise self._error(f"more than {MAX_CONTAINERS} lists, dicts and objects")
        self._adopt(value, children)
        return value

    def _adopt(self, parent: Any, children: list[Any]) -> None:
        """Put ``children`` into ``parent``: from here on they don't change, so depth is exact."""
        for child in children:
            if isinstance(child, _CONTAINERS):
                if child is parent:
                    raise self._error("an object inside itself")
                child.sealed = True
                parent.depth = max(parent.depth, child.depth + 1)
        if parent.depth > MAX_DEPTH:
            raise self._error(f"more than {MAX_DEPTH} values inside each other")

    def _open(self, kind: type[Any]) -> Any:
        value = self._top()
        if not isinstance(value, kind) or value.sealed:
            raise self._error(
                f"it changes a {type(value).__name__} that is no open {kind.__name__}"
            )
        return value

    def _tuple(self, values: list[Any]) -> None:
        self._push(self._new(Items(values, fixed=True), values))

    def _tuple_of(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._tuple(values[::-1])

    def _append(self, values: list[Any]) -> None:
        if isinstance(self._top(), Stub):
            self._adopt(self._open(Stub), values)  # a list of an own class: nobody looks into it
            return
        target = self._open(Items)
        if target.fixed:
            raise self._error("it appends to a tuple")
        self._adopt(target, values)
        target.extend(values)

    def _set_items(self, values: list[Any]) -> None:
        if isinstance(self._top(), Stub):
            self._adopt(self._open(Stub), values)
            return
        target = self._open(Mapping)
        if len(values) % 2:
            raise self._error("it sets a key without a value")
        keys = [self._key(key) for key in values[::2]]
        for key in keys:
            if key in target:
                raise self._error(f"key {str(key)[:80]!r} occurs twice")
            target[key] = None
        self._adopt(target, [*keys, *values[1::2]])
        target.update(zip(keys, values[1::2], strict=True))

    def _key(self, key: Any) -> Any:
        if isinstance(key, Items) and key.fixed:
            return self._new(Stub(Global("builtins", "tuple"), key), [key])
        if not isinstance(key, _KEYS):
            raise self._error(
                f"a key that is a {type(key).__name__}; allowed are texts, numbers and tuples"
            )
        return key

    def _set(self, kind: str, values: list[Any]) -> None:
        """Push a set, into which nobody looks."""
        args = self._new(Items([], fixed=True), [])
        self._push(self._new(Stub(Global("builtins", kind), args), values))

    # -- names and objects ------------------------------------------------------------------------

    def _global(self) -> None:
        module = self._line()
        self._push(Global(module, self._line()))

    def _global_of_texts(self) -> None:
        name, module = self._pop(), self._pop()
        self._push(Global(self._name(module), self._name(name)))

    def _arguments(self) -> tuple[Global, Items]:
        args, cls = self._pop(), self._pop()
        if not isinstance(cls, Global) or not isinstance(args, Items) or not args.fixed:
            raise self._error(
                f"it calls a {type(cls).__name__} with a {type(args).__name__}; "
                "allowed is a name with a tuple"
            )
        return cls, args

    def _reduce(self) -> None:
        cls, args = self._arguments()
        rebuild = self._rebuild.get(cls)
        if rebuild is None and self._opaque(cls.module):
            self._push(self._new(Stub(cls, args), [args]))
            return
        if rebuild is None:
            raise self._error(
                f"it calls {cls}; nothing of a file is ever called, and of the standard library "
                "and of frameworks what makes tensors and plain data is known alone. Save the "
                "state_dict of plain tensors on the CPU"
            )
        value = rebuild(args)
        if isinstance(value, _CONTAINERS):
            self._new(value, list(value.values()) if isinstance(value, Mapping) else [args])
        self._push(value)

    def _new_object(self) -> None:
        cls, args = self._arguments()
        self._push(self._new(Stub(cls, args), [args]))

    def _new_object_with_names(self) -> None:
        names = self._pop()
        cls, args = self._arguments()
        self._push(self._new(Stub(cls, args), [args, names]))

    def _build(self) -> None:
        state = self._pop()
        target = self._top()
        if isinstance(target, Mapping):
            return  # attributes of an OrderedDict, such as the _metadata of a state_dict
        target = self._open(Stub)
        if target.state is not None:
            raise self._error("it sets the state of an object twice")
        self._adopt(target, [state])
        target.state = state

    def _persistent_id(self) -> None:
        args = self._pop()
        if self._persistent is None or not isinstance(args, Items) or not args.fixed:
            raise self._error("a persistent id that is no tuple, or in a pickle without storages")
        self._push(self._persistent(args))

    def _remember(self, index: int) -> None:
        if index >= MAX_MEMO:
            raise self._error(f"memo place {index}; allowed are those below {MAX_MEMO}")
        if index in self._memo:
            raise self._error(f"memo place {index} is written twice")
        self._memo[index] = self._top()

    def _recall(self, index: int) -> None:
        if index not in self._memo:
            raise self._error(f"memo place {index} is empty")
        self._push(self._memo[index])


_ACTIONS: dict[int, Callable[[Unpickler], None]] = {
    ord("("): lambda self: self._mark(),
    ord("N"): lambda self: self._push(None),
    0x88: lambda self: self._push(True),
    0x89: lambda self: self._push(False),
    ord("J"): lambda self: self._push(self._number("i")),
    ord("K"): lambda self: self._push(self._number("B")),
    ord("M"): lambda self: self._push(self._number("H")),
    0x8A: lambda self: self._push(
        int.from_bytes(self._take(self._number("B")), "little", signed=True)
    ),
    ord("G"): lambda self: self._push(struct.unpack(">d", self._take(8))[0]),
    ord("X"): lambda self: self._text(self._number("I")),
    ord("T"): lambda self: self._text(self._number("I")),
    ord("U"): lambda self: self._text(self._number("B")),
    0x8C: lambda self: self._text(self._number("B")),
    0x8D: lambda self: self._text(self._number("Q")),
    ord("B"): lambda self: self._push(bytes(self._take(self._number("I")))),
    ord("C"): lambda self: self._push(bytes(self._take(self._number("B")))),
    0x8E: lambda self: self._push(bytes(self._take(self._number("Q")))),
    0x96: lambda self: self._push(bytes(self._take(self._number("Q")))),
    ord(")"): lambda self: self._tuple([]),
    ord("t"): lambda self: self._tuple(self._pop_mark()),
    0x85: lambda self: self._tuple_of(1),
    0x86: lambda self: self._tuple_of(2),
    0x87: lambda self: self._tuple_of(3),
    ord("]"): lambda self: self._push(self._new(Items([], fixed=False), [])),
    ord("a"): lambda self: self._append([self._pop()]),
    ord("e"): lambda self: self._append(self._pop_mark()),
    ord("}"): lambda self: self._push(self._new(Mapping(), [])),
    ord("s"): lambda self: self._set_items([self._pop(), self._pop()][::-1]),
    ord("u"): lambda self: self._set_items(self._pop_mark()),
    0x8F: lambda self: self._set("set", []),
    0x90: lambda self: self._append(self._pop_mark()),
    0x91: lambda self: self._set("frozenset", self._pop_mark()),
    ord("c"): lambda self: self._global(),
    0x93: lambda self: self._global_of_texts(),
    ord("R"): lambda self: self._reduce(),
    0x81: lambda self: self._new_object(),
    0x92: lambda self: self._new_object_with_names(),
    ord("b"): lambda self: self._build(),
    ord("Q"): lambda self: self._persistent_id(),
    0x94: lambda self: self._remember(len(self._memo)),
    0x95: lambda self: self._frame(),
    ord("q"): lambda self: self._remember(self._number("B")),
    ord("r"): lambda self: self._remember(self._number("I")),
    ord("h"): lambda self: self._recall(self._number("B")),
    ord("j"): lambda self: self._recall(self._number("I")),
}
