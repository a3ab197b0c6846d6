# SPDX-License-Identifier: MIT
"""Recurrent nodes that ONNX's own operators cannot say, written out: one Scan a direction.

The body is one step in ordinary operators; the equations are those of ``gruengine/reference.py``
and ``gruengine/reference_variants.py``. Products with the inputs stand in front of the Scan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gruengine.spec import Attr, Graph, Node, Port

Array = np.ndarray[Any, Any]

#: Activations that are an operator of the same name; the others are refused.
PLAIN = ("Sigmoid", "Tanh", "Relu", "Softsign", "Softplus")
WITH_ALPHA = ("LeakyRelu", "Elu", "ThresholdedRelu")
GATES = {"rnn": 1, "lstm": 4, "gru": 3}


class Writer:
    """Nodes of one graph, with fresh names for what they give."""

    def __init__(self, fresh: Callable[[str], str], tensors: dict[str, Array], base: str) -> None:
        self.fresh, self.tensors, self.base = fresh, tensors, base
        self.nodes: list[Node] = []

    def inner(self) -> Writer:
        """Return a writer of a graph inside this one."""
        return Writer(self.fresh, self.tensors, self.base)

    def name(self, wish: str) -> str:
        """Return a name that nothing has."""
        return self.fresh(f"{self.base}/{wish}")

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Add a constant and return its name."""
        name = self.name("constant")
        self.tensors[name] = np.ascontiguousarray(value, dtype).reshape(np.shape(value))
        return name

    def add(self, op: str, *inputs: str, **attrs: Attr) -> str:
        """Add a node with one output and return it."""
        output = self.name(op)
        self.nodes.append(Node(op, inputs, (output,), attrs))
        return output

    def split(self, value: str, sizes: list[int]) -> list[str]:
        """Split the last axis."""
        outputs = [self.name("part") for _ in sizes]
        given = (value, self.constant(sizes, np.int64))
        self.nodes.append(Node("Split", given, tuple(outputs), {"axis": -1}))
        return outputs

    def product(self, value: str, matrix: Array) -> str:
        """Return ``value matrix^T``."""
        return self.add("MatMul", value, self.constant(matrix.T))

    def norm(self, value: str, gain: Array, epsilon: float) -> str:
        """Return ``gain (value - mean) / sqrt(variance + epsilon)`` over the last axis."""
        return self.add("LayerNormalization", value, self.constant(gain), axis=-1, epsilon=epsilon)

    def blend(self, z: str, a: str, b: str) -> str:
        """Return ``(1 - z) a + z b``."""
        rest = self.add("Sub", self.constant(1.0), z)
        return self.add("Add", self.add("Mul", rest, a), self.add("Mul", z, b))


class ScanWriter:
    """One ``Recurrent`` node.

    Parameters
    ----------
    node : the node.
    tensors : constants of the model; new ones are added.
    fresh : returns a name that is free, given a wish.
    """

    def __init__(self, node: Node, tensors: dict[str, Array], fresh: Callable[[str], str]) -> None:
        self.attrs: dict[str, Any] = dict(node.attrs)
        self.outputs = [*node.outputs, *[""] * (3 - len(node.outputs))]
        names = [*node.inputs, *[""] * (12 - len(node.inputs))]
        self.x, self.lengths, self.h0, self.c0 = (names[i] for i in (0, 4, 5, 6))
        keys = {"W": 1, "R": 2, "B": 3, "P": 7, "projection": 8, "fed": 9, "norm": 10, "skip": 11}
        self.weights = {k: tensors[names[i]] for k, i in keys.items() if names[i]}
        self.cell, self.H = str(self.attrs["cell"]), int(self.attrs["hidden_size"])
        self.K = int(self.weights["R"].shape[2])
        self.clip = float(self.attrs.get("clip", 0.0))
        self.zoneout: list[float] = self.attrs.get("zoneout", [0.0, 0.0])
        self.epsilon = float(self.attrs.get("norm_epsilon", 1e-5))
        # The parts of the state beside h, with their sizes.
        self.parts: dict[str, int] = {"c": self.H} if self.cell == "lstm" else {}
        if "fed" in self.weights:
            self.parts["gates"] = 3 * self.H
        if "skip" in self.weights:
            self.parts["left"] = 1
        self.out = Writer(fresh, tensors, node.name or node.op)

    def problems(self) -> list[str]:
        """Return the activations that no operator says."""
        return [
            f"activation {name} with alpha {alpha} and beta {beta}"
            for name, alpha, beta in zip(
                *(self.attrs[f"activation{end}"] for end in ("s", "_alpha", "_beta")), strict=True
            )
            if name not in (*PLAIN, *WITH_ALPHA, "HardSigmoid")
            and (name, alpha, beta) != ("Affine", 1.0, 0.0)
        ]

    def write(self) -> list[Node]:
        """Return the nodes; their outputs are those of the node."""
        out = self.out
        ways = {"forward": [0], "reverse": [1], "bidirectional": [0, 1]}[self.attrs["direction"]]
        active = self._active() if self.lengths else ""
        found = [self._direction(d, way, active) for d, way in enumerate(ways)]
        for place, axis in ((0, 1), (1, 0), (2, 0)):
            if not self.outputs[place]:
                continue
            at = out.constant([axis], np.int64)
            every = [out.add("Unsqueeze", values[place], at) for values in found]
            out.nodes.append(Node("Concat", tuple(every), (self.outputs[place],), {"axis": axis}))
        return out.nodes

    def _active(self) -> str:
        """Return ``[T, N, 1]`` bool: whether a row still runs at a step."""
        out = self.out
        steps = out.add("Gather", out.add("Shape", self.x), out.constant(0, np.int64))
        count = out.add("Range", out.constant(0, np.int64), steps, out.constant(1, np.int64))
        times = out.add("Unsqueeze", count, out.constant([1, 2], np.int64))
        ends = out.add("Cast", self.lengths, to=7)
        ends = out.add("Unsqueeze", ends, out.constant([0, 2], np.int64))
        return out.add("Less", times, ends)

    def _zeros(self, size: int) -> str:
        """Return ``[N, size]`` zeros."""
        out = self.out
        rows = out.add("Gather", out.add("Shape", self.x), out.constant([1], np.int64))
        shape = out.add("Concat", rows, out.constant([size], np.int64), axis=0)
        return out.add("Expand", out.constant(0.0), shape)

    def _starts(self, d: int) -> dict[str, str]:
        """Return the initial h and the parts of the initial c."""
        out, at = self.out, self.out.constant(d, np.int64)
        h = out.add("Gather", self.h0, at, axis=0) if self.h0 else self._zeros(self.K)
        if not self.parts:
            return {"h": h}
        c = out.add("Gather", self.c0, at, axis=0) if self.c0 else ""
        sizes = list(self.parts.values())
        parts = out.split(c, sizes) if c else [self._zeros(size) for size in sizes]
        return {"h": h, **dict(zip(self.parts, parts, strict=True))}

    def _direction(self, d: int, way: int, active: str) -> tuple[str, str, str]:
        """Return y ``[T, N, K]``, the last h ``[N, K]`` and the last c ``[N, C]`` ("": none)."""
        out, starts = self.out, self._starts(d)
        w = {key: value[d] for key, value in self.weights.items()}
        scanned = [out.product(self.x, w["W"]), *([active] if active else [])]
        body = _Body(self, w, d)
        graph = body.graph(list(starts), bool(active))
        last = {key: out.name(f"last_{key}") for key in starts}
        y = out.name("y")
        attrs: dict[str, Attr] = {
            "body": graph, "num_scan_inputs": len(scanned),
            "scan_input_directions": [way] * len(scanned), "scan_output_directions": [way],
        }  # fmt: skip
        given = (*starts.values(), *scanned)
        out.nodes.append(Node("Scan", given, (*last.values(), y), attrs))
        c = out.add("Concat", *(last[key] for key in self.parts), axis=-1) if self.parts else ""
        if not self.lengths:
            return y, last["h"], c
        # Rows without any step give zeros.
        ends = out.add("Unsqueeze", self.lengths, out.constant([1], np.int64))
        some = out.add("Greater", out.add("Cast", ends, to=7), out.constant(0, np.int64))
        zero = out.constant(0.0)
        return y, out.add("Where", some, last["h"], zero), c and out.add("Where", some, c, zero)


class _Body:
    """One step of one direction."""

    def __init__(self, owner: ScanWriter, w: dict[str, Array], d: int) -> None:
        self.o, self.w = owner, w
        self.b = owner.out.inner()
        attrs, count = owner.attrs, {"rnn": 1, "lstm": 3, "gru": 2}[owner.cell]
        own = slice(d * count, (d + 1) * count)
        self.acts = list(
            zip(attrs["activations"][own], attrs["activation_alpha"][own],
                attrs["activation_beta"][own], strict=True)
        )  # fmt: skip
        size = GATES[owner.cell] * owner.H
        bias = w.get("B", np.zeros(2 * size, np.float32))
        self.b_w, self.b_r = bias[:size], bias[size:]

    def graph(self, states: list[str], masked: bool) -> Graph:
        """Return the body: states, then x's products and the mask; states, then y."""
        b, o = self.b, self.o
        sizes = {"h": o.K, **o.parts}
        before = {key: b.name(key) for key in states}
        x = b.name("x")
        ports = [Port(before[key], "float32", ("N", sizes[key])) for key in states]
        ports.append(Port(x, "float32", ("N", GATES[o.cell] * o.H)))
        after = self._around(x, before)
        y = after["h"]
        if masked:
            live = b.name("live")
            ports.append(Port(live, "bool", ("N", 1)))
            y = b.add("Where", live, y, b.constant(0.0))
            after = {key: b.add("Where", live, after[key], before[key]) for key in states}
        # No value may be an output twice, nor an input at once.
        ends = [b.add("Identity", value) for value in (*(after[key] for key in states), y)]
        outputs = [Port(end, "float32", ("N", sizes[key]))
                   for end, key in zip(ends, [*states, "h"], strict=True)]  # fmt: skip
        return Graph(ports, outputs, b.nodes)

    def _around(self, x: str, before: dict[str, str]) -> dict[str, str]:
        """Return the states after the step: zoneout or skipping around the cell."""
        b, o = self.b, self.o
        after = {"rnn": self._rnn, "lstm": self._lstm, "gru": self._gru}[o.cell](x, before)
        for key, share in zip(("h", "c"), o.zoneout, strict=True):
            if share:
                after[key] = b.blend(b.constant(share), after[key], before[key])
        if "left" not in before:
            return after
        left = before["left"]
        update = b.add("LessOrEqual", left, b.constant(0.5))
        after = {key: b.add("Where", update, after[key], before[key]) for key in after}
        p = b.product(after["h"], self.w["skip"][None, :-1])
        p = b.add("Sigmoid", b.add("Add", p, b.constant(self.w["skip"][-1:])))
        rest = b.add("Sub", left, b.add("Min", p, left))
        after["left"] = b.add("Where", update, b.add("Sub", b.constant(1.0), p), rest)
        return after

    def _act(self, which: int, value: str) -> str:
        name, alpha, beta = self.acts[which]
        if name == "Affine":
            return value
        attrs: dict[str, Attr] = {"alpha": alpha} if name in WITH_ALPHA else {}
        if name == "HardSigmoid":
            attrs = {"alpha": alpha, "beta": beta}
        return self.b.add(name, value, **attrs)

    def _clipped(self, value: str) -> str:
        b, bound = self.b, self.o.clip
        return b.add("Clip", value, b.constant(-bound), b.constant(bound)) if bound else value

    def _rnn(self, x: str, before: dict[str, str]) -> dict[str, str]:
        b = self.b
        a = b.add("Add", x, b.constant(self.b_w + self.b_r))
        a = b.add("Add", a, b.product(before["h"], self.w["R"]))
        return {"h": self._act(0, self._clipped(a))}

    def _sums(self, x: str, before: dict[str, str]) -> list[str]:
        """Return the four sums of an LSTM, before its peepholes."""
        b, w, H = self.b, self.w, self.o.H
        states = b.product(before["h"], w["R"])
        if "norm" in w:
            x = b.norm(x, w["norm"][: 4 * H], self.o.epsilon)
            states = b.norm(states, w["norm"][4 * H : 8 * H], self.o.epsilon)
        a = b.add("Add", b.add("Add", x, states), b.constant(self.b_w + self.b_r))
        if "gates" in before:
            F = np.concatenate([w["fed"], np.zeros((H, 3 * H), np.float32)])
            a = b.add("Add", a, b.product(before["gates"], F))
        return b.split(a, [H] * 4)

    def _lstm(self, x: str, before: dict[str, str]) -> dict[str, str]:
        b, w, H, c = self.b, self.w, self.o.H, before["c"]
        i, o, f, g = self._sums(x, before)
        p_i, p_o, p_f = np.split(w["P"], 3) if "P" in w else (None, None, None)

        def gate(a: str, peephole: Array | None, cell: str) -> str:
            if peephole is not None:
                a = b.add("Add", a, b.add("Mul", cell, b.constant(peephole)))
            return self._act(0, self._clipped(a))

        i = gate(i, p_i, c)
        coupled = bool(self.o.attrs.get("coupled", 0))
        f = b.add("Sub", b.constant(1.0), i) if coupled else gate(f, p_f, c)
        g = self._act(1, self._clipped(g))
        c = b.add("Add", b.add("Mul", f, c), b.add("Mul", i, g))
        o = gate(o, p_o, c)
        out = c
        if "norm" in w:
            out = b.norm(c, w["norm"][8 * H : 9 * H], self.o.epsilon)
            out = b.add("Add", out, b.constant(w["norm"][9 * H :]))
        h = b.add("Mul", o, self._act(2, out))
        if "projection" in w:
            h = b.product(h, w["projection"])
        found = {"h": h, "c": c}
        if "gates" in before:
            found["gates"] = b.add("Concat", i, o, f, axis=-1)
        return found

    def _gru(self, x: str, before: dict[str, str]) -> dict[str, str]:
        b, H, h = self.b, self.o.H, before["h"]
        R, b_r = self.w["R"], self.b_r
        x_z, x_r, x_n = b.split(b.add("Add", x, b.constant(self.b_w)), [H] * 3)

        def sums(value: str, gate: int) -> str:
            rows = slice(gate * H, (gate + 1) * H)
            return b.add("Add", b.product(value, R[rows]), b.constant(b_r[rows]))

        z = self._act(0, self._clipped(b.add("Add", x_z, sums(h, 0))))
        r = self._act(0, self._clipped(b.add("Add", x_r, sums(h, 1))))
        after = self.o.attrs["reset"] == "after"
        part = b.add("Mul", r, sums(h, 2)) if after else sums(b.add("Mul", r, h), 2)
        n = self._act(1, self._clipped(b.add("Add", x_n, part)))
        keep = self.o.attrs["update"] == "keep"
        return {"h": b.blend(z, n, h) if keep else b.blend(z, h, n)}
