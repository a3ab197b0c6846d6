# SPDX-License-Identifier: MIT
"""The pickle reader: trees of plain values, nothing imported, nothing called, bounded work."""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
import subprocess
import sys
import textwrap
import tracemalloc
from collections import OrderedDict
from typing import Any

import pytest
from torch_hostile import name, number, pickle_of, text

from gruengine.converters.pickle_known import is_foreign
from gruengine.converters.pickle_values import Global, Items, Mapping, Stub
from gruengine.converters.torch_file import REBUILD
from gruengine.converters.unpickler import MAX_OPCODES, Unpickler
from gruengine.errors import ModelFileError


def load(data: bytes) -> Any:
    return Unpickler(memoryview(data), REBUILD).load()


VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    255,
    65535,
    -1,
    2**31 - 1,
    -(2**31),
    2**63,
    -(2**200),
    1.5,
    float("inf"),
    "",
    "text é 🙂",
    "x" * 300,
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    tuple(range(20)),
    [],
    [1, [2, [3]]],
    list(range(3000)),
    {},
    {"a": 1, 2: "b", None: [True], 0.5: {}},
    {str(i): i for i in range(2500)},
    OrderedDict([("b", 1), ("a", [2])]),
    [("x", {"y": (1, [2])})] * 3,
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_plain_values(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol=protocol)
    assert plain(load(data)) == value
    assert type(plain(load(data))) is type(value) or isinstance(value, OrderedDict)


def plain(value: Any) -> Any:
    if isinstance(value, Items):
        inner = [plain(one) for one in value]
        return tuple(inner) if value.fixed else inner
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return value


def test_texts_of_python_2() -> None:
    assert load(pickle_of(b"U\x03abc")) == "abc"
    assert load(pickle_of(b"T\x03\0\0\0abc")) == "abc"


def test_the_end_of_a_pickle_is_known() -> None:
    data = pickle_of(b"K\1")
    reader = Unpickler(memoryview(data + b"more"), REBUILD)
    assert reader.load() == 1
    assert reader.position == len(data)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_keys_and_sets_that_nobody_looks_into(protocol: int) -> None:
    value = {b"a": 1, ("b", 2): [3], "set": {4, "five"}, "frozen": frozenset([6]), "bytes": b"7"}
    tree = load(pickle.dumps(value, protocol=protocol))
    assert [plain(one) for one in tree.values()][:2] == [1, [3]]
    tuples = [key for key in tree if isinstance(key, Stub) and key.cls.name == "tuple"]
    assert [list(key.args) for key in tuples] == [["b", 2]]
    assert [tree[key].cls.name for key in ("set", "frozen")] == ["set", "frozenset"]


@pytest.mark.parametrize("module", ["own", "__main__", "fairseq.data", "sklearn.preprocessing"])
def test_what_belongs_to_a_project(module: str) -> None:
    assert is_foreign(module)


@pytest.mark.parametrize(
    "module", ["os", "posix", "nt", "builtins", "__builtin__", "torch.jit", "numpy", "subprocess"]
)
def test_what_belongs_to_no_project(module: str) -> None:
    assert not is_foreign(module)


class Thing:
    def __init__(self) -> None:
        self.weights = {"a": [1.0]}
        self.parent = None


def test_objects_become_stubs() -> None:
    stub = load(pickle.dumps(Thing(), protocol=2))
    assert isinstance(stub, Stub)
    assert stub.cls == Global(Thing.__module__, "Thing")
    assert str(stub.cls).endswith(".Thing")
    assert plain(stub.state) == {"weights": {"a": [1.0]}, "parent": None}


def test_dicts_and_lists_of_own_classes_become_stubs() -> None:
    data = pickle_of(name("a", "B") + b")\x81" + text("key") + b"K\1sK\2a(K\3K\4e")
    stub = load(data)
    assert isinstance(stub, Stub)
    assert stub.state is None


def test_a_class_may_be_a_key() -> None:
    assert load(pickle_of(b"}" + name("a", "B") + b"K\1s")) == {Global("a", "B"): 1}


def test_calls_of_opaque_packages_become_stubs() -> None:
    data = memoryview(pickle_of(name("own.sub", "Kind") + text("x") + b"\x85R"))
    stub = Unpickler(data, {}, None, lambda module: module == "own.sub").load()
    assert isinstance(stub, Stub)
    assert (str(stub.cls), list(stub.args)) == ("own.sub.Kind", ["x"])
    with pytest.raises(ModelFileError, match="nothing of a file is ever called"):
        Unpickler(data, {}, None, lambda module: module == "own").load()


def test_shared_objects_stay_shared() -> None:
    inner = [1]
    first, second = load(pickle.dumps([inner, inner], protocol=2))
    assert first is second


# -- nothing runs ---------------------------------------------------------------------------------

CALLS = [
    name("os", "system") + text("touch PROOF") + b"\x85R",
    name("posix", "system") + text("touch PROOF") + b"\x85R",
    name("builtins", "eval") + text("open('PROOF', 'w')") + b"\x85R",
    name("builtins", "exec") + text("open('PROOF', 'w')") + b"\x85R",
    name("builtins", "open") + text("PROOF") + text("w") + b"\x86R",
    name("subprocess", "call") + b"]" + text("touch") + b"a" + text("PROOF") + b"a\x85R",
    name("runpy", "run_module") + text("antigravity") + b"\x85R",
    name("torch", "load") + text("PROOF") + b"\x85R",
    name("torch.jit", "load") + text("PROOF") + b"\x85R",
    name("numpy", "fromfile") + text("PROOF") + b"\x85R",
    name("pickle", "loads") + text("x") + b"\x85R",
    name("builtins", "getattr") + text("a") + text("upper") + b"\x86R",
    name("collections", "OrderedDict.__class__") + b")R",
    name("torch._utils", "_rebuild_tensor_v2.__globals__") + b")R",
    name("gruengine.converters.torch_file", "_tensor") + b")R",
]


@pytest.mark.parametrize("body", CALLS)
def test_calls_are_refused(body: bytes) -> None:
    with pytest.raises(ModelFileError, match="nothing of a file is ever called"):
        load(pickle_of(body))


def test_calls_and_imports_never_happen(tmp_path: Any) -> None:
    """In a fresh process: no proof file, no import, no open, whatever the pickle says."""
    bodies = [
        *CALLS,
        name("antigravity", "x"),
        name("antigravity", "x") + b")\x81",
        name("os", "system") + text("touch PROOF") + b"\x85\x81",
        name("os", "system") + text("touch PROOF") + b"\x85\x81}" + text("a") + b"K\1sb",
        name("builtins", "set") + b"](K\1K\2e\x85R",
    ]
    script = textwrap.dedent(f"""
        import sys
        from gruengine.converters.torch_file import REBUILD
        from gruengine.converters.unpickler import Unpickler
        from gruengine.errors import ModelFileError
        events = []
        sys.addaudithook(lambda event, _: events.append(event))
        for data in {[pickle_of(body) for body in bodies]!r}:
            try:
                Unpickler(memoryview(data), REBUILD).load()
            except ModelFileError:
                pass
        seen = sorted(set(events))
        print(seen, "antigravity" in sys.modules, "pickle" in sys.modules)
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert result.stdout.split()[:2] == ["[]", "False"]
    assert list(tmp_path.iterdir()) == []


def test_objects_of_dangerous_classes_are_names_alone() -> None:
    stub = load(pickle_of(name("os", "system") + text("touch PROOF") + b"\x85\x81"))
    assert isinstance(stub, Stub)
    assert stub.cls == Global("os", "system")


# -- opcodes --------------------------------------------------------------------------------------

ALLOWED = {
    "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2",
    "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "GLOBAL",
    "REDUCE", "NEWOBJ", "BUILD", "BINPERSID", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
    "STOP", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "SHORT_BINUNICODE",
    "BINUNICODE8", "EMPTY_SET", "ADDITEMS", "FROZENSET", "NEWOBJ_EX", "STACK_GLOBAL", "MEMOIZE",
    "FRAME",
}  # fmt: skip


def message_of(data: bytes) -> str:
    try:
        load(data)
    except ModelFileError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("opcode", pickletools.opcodes, ids=lambda opcode: opcode.name)
def test_the_list_of_opcodes(opcode: Any) -> None:
    data = b"\x80\x02(K\1K\2" + opcode.code.encode("latin-1") + b"1\n" * 9
    if opcode.name in ALLOWED:
        assert "opcode " + repr(opcode.code.encode("latin-1")) not in message_of(data)
    else:
        with pytest.raises(ModelFileError, match="is not allowed; allowed are"):
            load(data)


def test_bytes_that_are_no_opcode() -> None:
    known = {opcode.code.encode("latin-1") for opcode in pickletools.opcodes}
    for value in range(256):
        if bytes([value]) not in known:
            with pytest.raises(ModelFileError, match="is not allowed"):
                load(b"\x80\x02" + bytes([value]) + b".")


LONG_NAME = b"c" + b"a" * 300 + b"\nb\n"
BROKEN: list[tuple[str, bytes, str]] = [
    ("nothing", b"", "protocol 2"),
    ("protocol 0", b"I1\n.", "protocol 2"),
    ("protocol 1", b"\x80\x01N.", "protocol 2"),
    ("protocol 6", b"\x80\x06N.", "protocol 2"),
    ("protocol twice", b"\x80\x02\x80\x02N.", "is not allowed"),
    ("no stop", b"\x80\x02N", "cut off"),
    ("empty stack", pickle_of(b""), "ends with 0 values"),
    ("two values", pickle_of(b"NN"), "ends with 2 values"),
    ("a mark left", pickle_of(b"N("), "ends with 1 values"),
    ("mark as value", pickle_of(b"(\x85"), "not there"),
    ("tuple without a mark", pickle_of(b"Nt"), "a mark that is not there"),
    ("tuple over a mark", pickle_of(b"N(\x85"), "not there"),
    ("append over a mark", pickle_of(b"](Na"), "not there"),
    ("append to nothing", pickle_of(b"Na"), "not there"),
    ("append to a tuple", pickle_of(b")Na"), "appends to a tuple"),
    ("append to a text", pickle_of(text("a") + b"Na"), "no open Items"),
    ("append to a dict", pickle_of(b"}Na"), "no open Items"),
    ("set on a list", pickle_of(b"]NNs"), "no open Mapping"),
    ("set on a number", pickle_of(b"K\1NNs"), "no open Mapping"),
    ("set items on a list", pickle_of(b"](NNu"), "no open Mapping"),
    ("odd items", pickle_of(b"}(NNNu"), "a key without a value"),
    ("key twice", pickle_of(b"}NNsNNs"), "occurs twice"),
    ("key twice at once", pickle_of(b"}(K\1NK\1Nu"), "occurs twice"),
    ("a list as key", pickle_of(b"}]Ns"), "a key that is a Items"),
    ("a dict as key", pickle_of(b"}}Ns"), "a key that is a Mapping"),
    ("frame too long", pickle_of(b"\x95" + b"\xff" * 8 + b"N"), "a frame of"),
    ("bytes too long", pickle_of(b"B\xff\xff\xff\xffabc"), "cut off"),
    ("name of numbers", pickle_of(b"K\1K\2\x93"), "dotted identifiers"),
    ("long name of texts", pickle_of(text("a") + text("b" * 200 + ".c" * 40) + b"\x93"), "dotted"),
    ("name with a call", pickle_of(text("os") + text("system('x')") + b"\x93"), "dotted"),
    ("set of nothing", pickle_of(b"(N\x90"), "not there"),
    ("build on a list", pickle_of(b"]}b"), "no open Stub"),
    ("build on a class", pickle_of(name("a", "B") + b"}b"), "no open Stub"),
    ("build twice", pickle_of(name("a", "B") + b")\x81}b}b"), "twice"),
    ("new object of a text", pickle_of(text("a") + b")\x81"), "calls a str"),
    ("new object of a list", pickle_of(name("a", "B") + b"]\x81"), "with a Items"),
    ("reduce of an object", pickle_of(name("a", "B") + b")\x81)R"), "calls a Stub"),
    ("reduce with a number", pickle_of(name("a", "B") + b"K\1R"), "with a int"),
    ("persistent id", pickle_of(b")Q"), "persistent id"),
    ("memo is empty", pickle_of(b"h\0"), "memo place 0 is empty"),
    ("memo is far", pickle_of(b"Nr\xff\xff\xff\xff"), "memo place 4294967295"),
    ("memo twice", pickle_of(b"Nq\0q\0"), "written twice"),
    ("memo of nothing", pickle_of(b"q\0N"), "not there"),
    ("text too long", pickle_of(b"X\xff\xff\xff\xffabc"), "cut off"),
    ("text 2^31", pickle_of(b"T\0\0\0\x80abc"), "cut off"),
    ("text not UTF-8", pickle_of(b"X\1\0\0\0\xff"), "not UTF-8"),
    ("surrogate", pickle_of(b"X\3\0\0\0\xed\xa0\x80"), "not UTF-8"),
    ("long too long", pickle_of(b"\x8a\xffabc"), "cut off"),
    ("name too long", pickle_of(LONG_NAME), "dotted identifiers"),
    ("name without an end", pickle_of(b"cabc"), "dotted identifiers"),
    ("name with a space", pickle_of(b"ca b\nc\n"), "dotted identifiers"),
    ("name of a call", pickle_of(b"cos\nsystem('x')\n"), "dotted identifiers"),
    ("empty name", pickle_of(b"c\n\n"), "dotted identifiers"),
    ("name in other letters", pickle_of("c\u043es\nsystem\n".encode()), "dotted identifiers"),
    ("list in itself", pickle_of(b"]q\0h\0a"), "inside itself"),
    ("dict in itself", pickle_of(b"}q\0K\1h\0s"), "inside itself"),
    ("list in its child", pickle_of(b"]q\0]q\1h\0ah\0h\1a"), "no open Items|inside"),
    ("object in its state", pickle_of(name("a", "B") + b")\x81q\0}K\1h\0sb"), "no open Stub"),
    ("changed after use", pickle_of(b"]q\0\x85q\1h\0Na"), "no open Items"),
]


@pytest.mark.parametrize(("data", "message"), [c[1:] for c in BROKEN], ids=[c[0] for c in BROKEN])
def test_broken_pickles(data: bytes, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        load(data)


# -- bombs ----------------------------------------------------------------------------------------


def doubling(levels: int) -> bytes:
    """Return lists of lists, each twice the one before: 2^levels leaves in a few bytes."""
    steps = [b"]q\0"]
    for level in range(levels):
        last, new = bytes([level]), bytes([level + 1])
        steps.append(b"](h" + last + b"h" + last + b"eq" + new)
    return b"(" + b"".join(steps) + b"t"


DEEP = 200_000
BOMBS: list[tuple[str, bytes, str]] = [
    ("deep tuples", pickle_of(b")" + b"\x85" * DEEP), "inside each other"),
    ("deep lists", pickle_of(b"](" * DEEP), "inside each other"),
    ("deep marks", pickle_of(b"(" * DEEP), "inside each other"),
    ("deep lists closed late", pickle_of(b"]" * 5000 + b"a" * 4999), "inside each other"),
    ("deep dicts", pickle_of(b"}K\1" * 4000 + b"N" + b"s" * 4000), "inside each other"),
    (
        "deep objects",
        pickle_of((name("a", "B") + b")\x81") * 200 + b"N" + b"b" * 200),
        "inside each other",
    ),
    ("wide stack", pickle_of(b"N" * 20_000), "on the stack"),
    ("memo on the stack", pickle_of(b"Nq\0" + b"h\0" * 20_000), "on the stack"),
    ("many opcodes", pickle_of(b"]" + b"Na" * MAX_OPCODES), "opcodes"),
    ("many lists", pickle_of(b"](" + (b"]" * 900 + b"e(") * 600 + b"e"), "lists, dicts"),
    ("doubling past the depth", pickle_of(doubling(150)), "inside each other"),
]


@pytest.mark.parametrize(("data", "message"), [c[1:] for c in BOMBS], ids=[c[0] for c in BOMBS])
def test_bombs(data: bytes, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        load(data)


def test_many_small_objects_take_bounded_memory() -> None:
    data = pickle_of(b"](" + (b"]" * 900 + b"e(") * 100 + b"e")
    tracemalloc.start()
    value = load(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(value) == 90_000
    assert peak < 200 * len(data)


def test_doubling_costs_what_its_bytes_cost() -> None:
    tracemalloc.start()
    value = load(pickle_of(doubling(80)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(value) == 81
    assert peak < 200_000


def test_large_numbers_are_bounded() -> None:
    assert load(pickle_of(number(2**2000))) == 2**2000
    with pytest.raises(ModelFileError, match="is not allowed"):
        load(pickle_of(b"\x8b" + struct.pack("<I", 1 << 20) + b"\1" * (1 << 20)))
