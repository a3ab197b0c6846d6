# SPDX-License-Identifier: MIT
"""Model files that break the format, one rule each: every reader must refuse all of them.

``hostile_files()`` returns (name, bytes); ``unusual_files()`` those that look odd but are valid.
"""

from __future__ import annotations

import json
from typing import Any

from hostile_graphs import graph_cases, recurrent_cases
from hostile_seed import (
    Case,
    changed,
    container,
    described,
    nibble_file,
    parts,
    recurrent_spec,
)

BIG = (1 << 63) - 1


def hostile_files() -> list[Case]:
    """Return every file that a reader must refuse."""
    seed = recurrent_spec().to_bytes()
    cases = [
        *_lengths(seed),
        *_json(),
        *_tensors(seed),
        *_descriptions(seed),
        *_nibbles(nibble_file()),
        *graph_cases(seed),
        *recurrent_cases(seed),
    ]
    assert len({name for name, _ in cases}) == len(cases)
    return cases


def unusual_files() -> list[Case]:
    """Return files that break no rule."""
    seed = recurrent_spec().to_bytes()
    header, description, body = parts(seed)
    text = json.dumps(description)

    def number_for_float(_: dict[str, Any], d: dict[str, Any]) -> None:
        d["graph"]["nodes"][0]["attrs"]["clip"] = {"f": 5}

    def no_parity(h: dict[str, Any], d: dict[str, Any]) -> None:
        sample = d.pop("parity")
        d["tensors"] += [*sample["inputs"].values(), *sample["outputs"].values()]

    def node_name(_: dict[str, Any], d: dict[str, Any]) -> None:
        d["graph"]["nodes"][0]["name"] = "é 🙂 \u2028"

    unaligned = json.dumps({**header, "__metadata__": {"gruengine": text, "x": ""}})
    return [
        ("seed", seed),
        ("two weights in a byte", nibble_file()),
        ("no padding", container(json.dumps(header), body)),
        *[(f"data at {i} of 8", container(unaligned + " " * i, body)) for i in range(8)],
        ("escaped text", container(json.dumps(header, ensure_ascii=True), body)),
        ("integer for a float", changed(seed, number_for_float)),
        ("no parity sample", changed(seed, no_parity)),
        ("name beyond ASCII", changed(seed, node_name)),
        ("description indented", described(seed, json.dumps(description, indent=2))),
    ]


def _nibbles(seed: bytes) -> list[Case]:
    """Return files whose weights of half a byte are not what they say."""

    def shaped(*shape: object) -> bytes:
        return changed(seed, lambda h, d: d["nibbles"].update(W=list(shape)))

    def without(key: str) -> bytes:
        return changed(seed, lambda h, d: d[key].pop("W"))

    header, _, body = parts(seed)
    last = header["W"]["data_offsets"][1] - 1
    spare = body[:last] + bytes([body[last] | 0x10]) + body[last + 1 :]
    return [
        ("nibbles of one axis less", shaped(3, 1)),
        ("nibbles of another size", shaped(1, 3, 2)),
        ("nibbles for more bytes", shaped(1, 5, 1)),
        ("nibbles for no byte", shaped(1, 0, 1)),
        ("nibbles of a size below zero", shaped(-1, -3, 1)),
        ("nibbles of a size that is no integer", shaped(1, 3.0, 1)),
        ("nibbles of a size that is true", shaped(True, 3, 1)),
        ("nibbles beyond 64 bits", shaped(0, BIG, BIG)),
        ("nibbles of too many axes", shaped(*30 * [1], 1, 3, 1)),
        ("nibbles without a shape", without("nibbles")),
        ("nibbles without scales", without("scales")),
        ("nibbles with a half too many", container(seed[8 : len(seed) - len(body)], spare)),
        ("nibbles that are I8", changed(seed, lambda h, d: h["W"].update(dtype="I8"))),
        ("nibbles that are no tensor", changed(seed, lambda h, d: d["nibbles"].update(Q=[1, 3]))),
        ("nibbles that are floats", changed(seed, lambda h, d: d["nibbles"].update(B=[1, 6]))),
        ("nibbles that are a list", changed(seed, lambda h, d: d.update(nibbles=[]))),
        ("nibbles that are no constant", changed(seed, lambda h, d: d["tensors"].remove("W"))),
    ]


def _lengths(seed: bytes) -> list[Case]:
    header = b'{"__metadata__":{}}'
    return [
        ("empty file", b""),
        ("seven bytes", b"\0" * 7),
        ("header of no bytes", b"\0" * 8),
        ("header length one too many", container(header, length=len(header) + 1)),
        ("header length one too few", container(header, length=len(header) - 1)),
        ("header length over the limit", container(header, length=100_000_001)),
        ("header length 2^63", container(header, length=1 << 63)),
        ("header length 2^64 - 1", container(header, length=(1 << 64) - 1)),
        ("header length 2^64 - 8", container(header, length=(1 << 64) - 8)),
        ("header length past the file", container(header, length=99_999_999)),
        ("one byte after the end", seed + b"\0"),
        ("the file twice", seed + seed),
        ("last byte missing", seed[:-1]),
        ("a byte before the file", b"\0" + seed),
    ]


def _json() -> list[Case]:
    texts: dict[str, bytes | str] = {
        "not JSON": "{]",
        "an array": "[]",
        "a space first": ' {"__metadata__":{}}',
        "a byte order mark first": "\ufeff{}",
        "text after the header": "{}x",
        "two values": "{}{}",
        "a zero byte after the header": "{}\0",
        "comma at the end": '{"__metadata__":{},}',
        "no colon": '{"a" 1}',
        "single quotes": "{'a':1}",
        "comment": '{"__metadata__":{}/**/}',
        "string without end": '{"a',
        "escape at the end": '{"a\\',
        "unknown escape": '{"__metadata__":{"\\x":""}}',
        "short escape": '{"__metadata__":{"\\u12":""}}',
        "signed escape": '{"__metadata__":{"\\u+123":""}}',
        "high surrogate alone": '{"__metadata__":{"\\ud800":""}}',
        "low surrogate alone": '{"__metadata__":{"\\udc00":""}}',
        "surrogates swapped": '{"__metadata__":{"\\udc00\\ud800":""}}',
        "control character": b'{"__metadata__":{"\x01":""}}',
        "Latin-1": b'{"__metadata__":{"\xe9":""}}',
        "overlong UTF-8": b'{"__metadata__":{"\xc0\xaf":""}}',
        "surrogate as UTF-8": b'{"__metadata__":{"\xed\xa0\x80":""}}',
        "UTF-8 beyond Unicode": b'{"__metadata__":{"\xf4\x90\x80\x80":""}}',
        "UTF-8 cut": b'{"__metadata__":{"\xf0\x9f\x99":""}}',
        "UTF-16": "{}".encode("utf-16-le"),
        "metadata a list": '{"__metadata__":[]}',
        "metadata a number": '{"__metadata__":{"a":1}}',
        "metadata null": '{"__metadata__":null}',
        "metadata twice": '{"__metadata__":{},"__metadata__":{}}',
        "metadata key twice": '{"__metadata__":{"a":"","a":""}}',
        "deep arrays": '{"a":' + "[" * 100_000,
        "deep objects": '{"a":' * 100_000,
        "deep and closed": '{"a":' + "[" * 500 + "]" * 500 + "}",
    }
    return [(f"JSON: {name}", container(text)) for name, text in texts.items()]


def _one(dtype: Any, shape: Any, offsets: Any, data: bytes = b"", **more: Any) -> bytes:
    """Return a file with one tensor."""
    entry = {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}
    return container(json.dumps({"a": entry}), data)


def _two(first: list[int], second: list[int], size: int) -> bytes:
    """Return a file with two float tensors at these offsets."""
    entries = {
        name: {"dtype": "F32", "shape": [(at[1] - at[0]) // 4], "data_offsets": at}
        for name, at in (("a", first), ("b", second))
    }
    return container(json.dumps(entries), b"\0" * size)


def _tensors(seed: bytes) -> list[Case]:
    four = b"\0" * 4
    number = '{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}'
    cases = {
        "no dtype": container('{"a":{"shape":[],"data_offsets":[0,0]}}'),
        "an array": container('{"a":[]}'),
        "one key too many": _one("F32", [1], [0, 4], four, strides=[4]),
        "dtype unknown": _one("F31", [1], [0, 4], four),
        "dtype a number": _one(32, [1], [0, 4], four),
        "dtype in small letters": _one("f32", [1], [0, 4], four),
        "shape a number": _one("F32", 1, [0, 4], four),
        "shape negative": _one("F32", [-1], [0, 4], four),
        "shape negative twice": _one("F32", [-1, -1], [0, 4], four),
        "shape a float": container(number % "1.0", four),
        "shape an exponent": container(number % "1e0", four),
        "shape with leading zero": container(number % "01", four),
        "shape with plus": container(number % "+1", four),
        "shape hexadecimal": container(number % "0x1", four),
        "shape NaN": container(number % "NaN", four),
        "shape Infinity": container(number % "Infinity", four),
        "shape true": container(number % "true", four),
        "shape null": container(number % "null", four),
        "shape a string": container(number % '"1"', four),
        "shape beyond 64 bits": container(number % str(1 << 64), four),
        "shape of 2000 digits": container(number % ("1" * 2000), four),
        "shape wraps to 4 bytes": _one("F32", [1 << 62, 4, 1], [0, 4], four),
        "shape wraps to 0 bytes": _one("F32", [1 << 32, 1 << 32], [0, 0]),
        "shape of 8 PiB": _one("F32", [1 << 51], [0, 4], four),
        "shape overflows beside a zero": _one("F32", [0, BIG, BIG], [0, 0]),
        "64-bit elements overflow": _one("I64", [1 << 60], [0, 0]),
        "offset wraps": _one("F32", [1], [BIG, BIG], four),
        "rank 33": _one("F32", [1] * 33, [0, 4], four),
        "rank 100000": _one("F32", [1] * 100_000, [0, 4], four),
        "offsets swapped": _one("F32", [1], [4, 0], four),
        "offsets negative": _one("F32", [1], [-4, 0], four),
        "offsets past the end": _one("F32", [2], [0, 8], four),
        "one offset": _one("F32", [1], [0], four),
        "three offsets": _one("F32", [1], [0, 4, 4], four),
        "too few bytes": _one("F32", [2], [0, 4], four),
        "too many bytes": _one("F32", [1], [0, 8], four * 2),
        "hole first": _one("F32", [1], [4, 8], four * 2),
        "hole last": _one("F32", [1], [0, 4], four * 2),
        "hole between": _two([0, 4], [8, 12], 12),
        "same bytes": _two([0, 4], [0, 4], 4),
        "overlap": _two([0, 8], [4, 12], 12),
        "inside another": _two([0, 12], [4, 8], 12),
        "empty one inside another": _two([0, 12], [4, 4], 12),
        "empty one past the end": _two([0, 12], [16, 16], 12),
        "name twice": container(
            '{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},'
            '"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
        ),
        "key twice": container(
            '{"a":{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
        ),
        "BOOL of 2": _one("BOOL", [1], [0, 1], b"\2"),
        "without a graph": _one("F32", [1], [0, 4], four),
    }

    def flag(value: int) -> bytes:
        header, _, body = parts(seed)
        at = header["flag"]["data_offsets"][0]
        return seed[: len(seed) - len(body) + at] + bytes([value]) + body[at + 1 :]

    cases["BOOL of 255 in a model"] = flag(255)
    for dtype in ("F64", "F16", "BF16", "I16", "U8", "F8_E4M3"):
        width = {"F64": 8, "U8": 1, "F8_E4M3": 1}.get(dtype, 2)

        def retype(
            h: dict[str, Any], d: dict[str, Any], dtype: str = dtype, w: int = width
        ) -> None:
            end = max(e["data_offsets"][1] for n, e in h.items() if n != "__metadata__")
            h["q"] = {"dtype": dtype, "shape": [8 // w], "data_offsets": [end, end + 8]}
            d["tensors"].append("q")

        body = parts(seed)[2] + b"\0" * 8
        if dtype != "BF16":  # BF16 is read as float32 in Python, which has no name for it
            cases[f"dtype {dtype} in a model"] = changed(seed, retype, body)
    return [(f"tensor: {name}", data) for name, data in cases.items()]


def _descriptions(seed: bytes) -> list[Case]:
    _, description, _ = parts(seed)
    text = json.dumps(description)
    deep = '{"format":1,"provenance":' + "[" * 200 + "]" * 200 + "}"
    texts = {
        "empty": "",
        "an array": "[]",
        "a number": "1",
        "cut": text[:-1],
        "text after it": text + " 1",
        "deep provenance": deep,
        "deep and open": "[" * 1_000_000,
        "NaN": text.replace('"opset": 17', '"opset": NaN'),
        "number beyond float": text.replace('"opset": 17', '"opset": 1e999'),
        "number below float": text.replace('"opset": 17', '"opset": 1e-999'),
        "integer beyond 64 bits": text.replace('"opset": 17', '"opset": 18446744073709551616'),
        "key twice": text.replace('"format": 1', '"format": 1, "format": 1'),
        "key twice in provenance": text.replace('"opset": 17', '"opset": 17, "opset": 17'),
        "lone surrogate": text.replace('"seed"', '"\\ud800"'),
    }
    cases = [(name, described(seed, value)) for name, value in texts.items()]

    def setting(key: str, value: Any) -> bytes:
        return changed(seed, lambda h, d: d.__setitem__(key, value))

    def removed(key: str) -> bytes:
        return changed(seed, lambda h, d: d.pop(key))

    def of_output(key: str, value: Any) -> bytes:
        return changed(seed, lambda h, d: d["graph"]["outputs"][1].update({key: value}))

    cases += [
        *[(f"no {key}", removed(key)) for key in description],
        ("no gruengine key", changed(seed, lambda h, d: h["__metadata__"].pop("gruengine"))),
        ("unknown key", setting("extra", 1)),
        *[(f"format {v!r}", setting("format", v)) for v in (0, 2, -1, "1", 1.0, True, None)],
        ("graph null", setting("graph", None)),
        ("graph a string", setting("graph", "x")),
        ("provenance null", setting("provenance", None)),
        ("provenance a list", setting("provenance", [])),
        ("state an object", setting("state", {})),
        ("state of one name", setting("state", [["h"]])),
        ("state of three names", setting("state", [["h", "hn", "y"]])),
        ("state of numbers", setting("state", [[1, 2]])),
        ("state of an unknown input", setting("state", [["q", "hn"]])),
        ("state of an unknown output", setting("state", [["h", "q"]])),
        ("state of a constant", setting("state", [["W", "hn"]])),
        ("state with other sizes", of_output("shape", [1, "N", 4])),
        ("state with another rank", of_output("shape", [1])),
        ("state with another dtype", of_output("dtype", "int32")),
        ("state twice", setting("state", [["h", "hn"], ["h", "hn"]])),
        ("tensors of a number", setting("tensors", [1])),
        ("tensors without one", setting("tensors", description["tensors"][1:])),
        ("tensors with one twice", setting("tensors", [*description["tensors"], "W"])),
        ("tensors with an unknown one", setting("tensors", [*description["tensors"], "q"])),
        (
            "tensors with one of parity",
            setting("tensors", [*description["tensors"], "parity/in/x"]),
        ),
    ]
    sample = description["parity"]
    parities: dict[str, Any] = {
        "null": None,
        "without outputs": {**sample, "outputs": {}},
        "oracle a number": {**sample, "oracle": 1},
        "inputs a list": {**sample, "inputs": []},
        "input a number": {**sample, "inputs": {"x": 1}},
        "unknown tensor": {**sample, "inputs": {"x": "q"}},
        "unknown input": {**sample, "inputs": {"q": "parity/in/x"}},
        "tensor of the graph": {**sample, "inputs": {"x": "W"}},
        "sides swapped": {
            **sample,
            "inputs": {"x": "parity/out/y"},
            "outputs": {"y": "parity/in/x"},
        },
        "one key too many": {**sample, "more": {}},
    }
    cases += [(f"parity {name}", setting("parity", value)) for name, value in parities.items()]
    return [(f"description: {name}", data) for name, data in cases]


def truncations(seed: bytes) -> list[Case]:
    """Return ``seed`` cut before each byte."""
    return [(f"cut at {size}", seed[:size]) for size in range(len(seed))]


def small_seed() -> bytes:
    """Return the smallest model of the tests that has a graph, a constant and a parity sample."""
    return recurrent_spec("rnn", 1, 1).to_bytes()
