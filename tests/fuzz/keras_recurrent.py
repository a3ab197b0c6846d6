# SPDX-License-Identifier: MIT
"""Random recurrent layers of Keras: LSTM, GRU, SimpleRNN, RNN of cells, Bidirectional, CuDNN."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fuzz.keras_blocks import Array, Era, Form, Made, Memory, Rng, Value, Weight, one_of, weights
from fuzz.keras_cells import IN_CELLS, Cell, Loop, merge

NAMES = {"lstm": "LSTM", "gru": "GRU", "rnn": "SimpleRNN"}
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
SNAKE = {"lstm": "lstm_cell", "gru": "gru_cell", "rnn": "simple_rnn_cell"}


def cell(rng: Rng, size: int, era: Era, kind: str = "", units: int = 0) -> tuple[Cell, Any]:
    """Return a cell and its configuration."""
    kind = kind or str(rng.choice(["lstm", "gru", "rnn"], p=[0.45, 0.4, 0.15]))
    units, gates = units or int(rng.integers(1, 6)), GATES[kind]
    bias, usual = bool(rng.random() < 0.8), bool(rng.random() < 0.6)
    after = kind == "gru" and bool(rng.random() < 0.5)
    if usual:
        act, gate = "tanh", str(one_of(rng, "sigmoid", "hard_sigmoid"))
    else:
        act, gate = str(one_of(rng, *IN_CELLS)), str(one_of(rng, *IN_CELLS[2:]))
        gate = gate if gate in ("sigmoid", "hard_sigmoid", "softsign") else "sigmoid"
    shape = (2, gates * units) if after else (gates * units,)
    made = Cell(
        kind, units, weights(rng, size, gates * units), weights(rng, units, gates * units) * 0.6,
        weights(rng, *shape) if bias else None, act, gate, after, era.major,
    )  # fmt: skip
    if bias and after:
        made.bias = np.stack([weights(rng, gates * units), weights(rng, gates * units)])
    config: dict[str, Any] = {"units": units, "activation": act, "use_bias": bias}
    config |= {"dropout": 0.1, "recurrent_dropout": 0.0}
    config |= {} if kind == "rnn" else {"recurrent_activation": gate}
    if kind == "gru" and (after != (era.major >= 3) or rng.random() < 0.7):
        config["reset_after"] = after
    config |= {"unit_forget_bias": True} if kind == "lstm" else {}
    return made, config


def arrays(made: Cell, path: str) -> list[Weight]:
    found = [Weight(path, "kernel", made.kernel), Weight(path, "recurrent_kernel", made.recurrent)]
    return found if made.bias is None else [*found, Weight(path, "bias", made.bias)]


def layer(
    rng: Rng, form: Form, era: Era, sequences: bool, cudnn: bool = False
) -> tuple[Loop, dict[str, Any], list[Weight]]:
    """Return a recurrent layer: what it computes, its entry in a file, its arrays."""
    backwards = bool(rng.random() < 0.2)
    config: dict[str, Any] = {"return_sequences": sequences, "go_backwards": backwards}
    config |= {"return_state": False, "stateful": False, "unroll": False}
    config |= {"time_major": False} if era.major < 3 else {}
    loop = Loop([], sequences, backwards)
    if form.masked and rng.random() < 0.15:
        loop.zero_masked = config["zero_output_for_mask"] = True
    if not cudnn and rng.random() < 0.15:
        entry, found = _stacked(rng, form.size, era, loop)
        return loop, {"class_name": "RNN", "config": {**config, "cell": entry}}, found
    kind = str(one_of(rng, "lstm", "gru")) if cudnn else ""
    made, own = cell(rng, form.size, era, kind)
    loop.cells = [made]
    if not cudnn:
        return (
            loop,
            {"class_name": NAMES[made.kind], "config": {**config, **own}},
            arrays(made, "cell"),
        )
    return loop, *_cudnn(rng, made, config)


def _stacked(rng: Rng, size: int, era: Era, loop: Loop) -> tuple[Any, list[Weight]]:
    count = int(rng.integers(1, 4))
    entries: list[Any] = []
    found: list[Weight] = []
    counts: dict[str, int] = {}
    for index in range(count):
        made, own = cell(rng, size, era)
        name = SNAKE[made.kind]
        number = counts.get(name, 0)
        counts[name] = number + 1
        path = f"cell/cells/{name}" + (f"_{number}" if number else "")
        loop.cells.append(made)
        kind = f"{NAMES[made.kind]}Cell"
        entries.append({"class_name": kind, "config": {"name": f"c{index}", **own}})
        found += arrays(made, path if count > 1 else "cell")
        size = made.units
    if count == 1:
        return entries[0], found
    return {"class_name": "StackedRNNCells", "config": {"name": "s", "cells": entries}}, found


def _cudnn(rng: Rng, made: Cell, config: dict[str, Any]) -> tuple[dict[str, Any], list[Weight]]:
    """Return a layer in the form of cuDNN: turned gates, and two biases."""
    gates = GATES[made.kind]
    made.activation, made.gate, made.after = "tanh", "sigmoid", True
    shape = (2, gates * made.units)
    both = np.stack([weights(rng, shape[1]), weights(rng, shape[1])])
    made.bias = both if made.kind == "gru" else both[0] + both[1]
    inputs = np.split(made.kernel, gates, axis=1)
    turned = [one.T.reshape(one.shape) for one in inputs]
    found = [
        Weight("", "kernel", np.concatenate(turned, 1)),
        Weight("", "recurrent_kernel",
               np.concatenate([one.T for one in np.split(made.recurrent, gates, axis=1)], 1)),
        Weight("", "bias", both.ravel()),
    ]  # fmt: skip
    config = {k: v for k, v in config.items() if k not in ("unroll", "time_major")}
    name = f"CuDNN{NAMES[made.kind]}"
    return {"class_name": name, "config": {**config, "units": made.units}}, found


def recurrent(
    rng: Rng, form: Form, era: Era, sequences: bool, states: bool = False, stateful: bool = False
) -> Made:
    """Return a recurrent layer; with ``states`` they are outputs too."""
    old = era.major < 3 and not era.archive and not form.masked
    loop, entry, found = layer(rng, form, era, sequences, old and rng.random() < 0.1)
    config = entry["config"]
    config["return_state"], config["stateful"] = states, stateful
    out = Form(form.time if sequences else None, loop.cells[-1].units, form.masked and sequences)
    forms = [out]
    if states:
        forms += [Form(None, c.units) for c in loop.cells for _ in range(c.states)]
    made = Made(entry["class_name"], config, forms, _no_run, found, stateful)

    def run(values: list[Value], memory: Memory) -> list[Value]:
        x, given = values[0], [value.x for value in values[1:]] or None
        y, after = loop.run(x.x, x.mask, memory.get(made.name, given))
        if stateful:
            memory[made.name] = after
        ends = [Value(one) for one in after] if states else []
        return [Value(y, x.mask if sequences else None), *ends]

    made.run = run
    return made


def _no_run(values: list[Value], memory: Memory) -> list[Value]:
    raise AssertionError


def bidirectional(rng: Rng, form: Form, era: Era, sequences: bool, states: bool = False) -> Made:
    """Return a Bidirectional; its second layer mirrors the first or is one of its own."""
    mode = one_of(rng, "concat", "concat", "sum", "ave", "mul", None)
    one, entry, found = layer(rng, form, era, sequences)
    first = [replace(weight, path=f"forward_layer/{weight.path}") for weight in found]
    own = rng.random() < 0.3
    two, other, found = _mirror(rng, form, era, one, entry, own)
    second = [replace(weight, path=f"backward_layer/{weight.path}") for weight in found]
    for loop in (one, two):
        if era.zeroes:
            loop.zero_masked = sequences
    for side, name in ((entry, "forward_x"), (other, "backward_x")):
        side["config"] = {"name": name, **side["config"], "return_state": states}
    config: dict[str, Any] = {"layer": entry, "merge_mode": mode}
    if own or (one.backwards and era.major >= 3) or rng.random() < 0.5:
        config["backward_layer"] = other

    def run(values: list[Value], _: Memory) -> list[Value]:
        x, given = values[0], [value.x for value in values[1:]]
        count = len(given) // 2
        y1, s1 = one.run(x.x, x.mask, given[:count] or None)
        y2, s2 = two.run(x.x, x.mask, given[count:] or None)
        mask = x.mask if sequences else None
        outs = [Value(y, mask) for y in merge(y1, y2[:, ::-1] if sequences else y2, mode)]
        return outs + [Value(state) for state in [*s1, *s2] if states]

    units = one.cells[-1].units
    size = 2 * units if mode == "concat" else units
    out = Form(form.time if sequences else None, size, form.masked and sequences)
    forms = [out] * (1 if mode is not None else 2)
    if states:
        cells = [*one.cells, *two.cells]
        forms += [Form(None, c.units) for c in cells for _ in range(c.states)]
    made = Made("Bidirectional", config, forms, run, [*first, *second])
    made.even = len(one.start(1)) == len(two.start(1))
    return made


def _mirror(
    rng: Rng, form: Form, era: Era, one: Loop, entry: dict[str, Any], own: bool
) -> tuple[Loop, dict[str, Any], list[Weight]]:
    """Return the backward layer: a twin with its own arrays, or another one of that size."""
    config = {**entry["config"], "go_backwards": not one.backwards}
    if own and entry["class_name"] != "RNN":
        made, more = cell(rng, form.size, era, units=one.cells[-1].units)
        drop = ("reset_after", "recurrent_activation", "unit_forget_bias")
        config = {k: v for k, v in config.items() if k not in drop} | more
        loop = Loop([made], one.sequences, not one.backwards, one.zero_masked)
        return loop, {"class_name": NAMES[made.kind], "config": config}, arrays(made, "cell")
    cells, found = [], []
    counts: dict[str, int] = {}
    for old in one.cells:
        fresh = replace(
            old, kernel=_like(rng, old.kernel), recurrent=_like(rng, old.recurrent),
            bias=None if old.bias is None else _like(rng, old.bias),
        )  # fmt: skip
        name = SNAKE[old.kind]
        number = counts.get(name, 0)
        counts[name] = number + 1
        path = f"cell/cells/{name}" + (f"_{number}" if number else "")
        found += arrays(fresh, path if len(one.cells) > 1 else "cell")
        cells.append(fresh)
    loop = Loop(cells, one.sequences, not one.backwards, one.zero_masked)
    return loop, {"class_name": entry["class_name"], "config": config}, found


def _like(rng: Rng, array: Array) -> Array:
    return (rng.permutation(array.ravel()).reshape(array.shape) * np.float32(-0.9)).astype("f4")
