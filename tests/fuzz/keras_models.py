# SPDX-License-Identifier: MIT
"""Random Keras files, written without Keras, beside what Keras computes, in float64 NumPy.

    python -m fuzz.keras_models --count 1000 --seed 0      (from the folder tests)

counts what was converted, what was refused (by reason) and what was wrong.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

import gruengine as gr
from fuzz import keras_blocks as kb
from fuzz import keras_convs
from fuzz import keras_recurrent as kr
from fuzz.keras_blocks import Array, Era, Form, Made, Memory, Value, one_of
from fuzz.keras_write import Input, Net, Ref, Use, snake, write
from fuzz.tally import Outcome, Tally
from gruengine.converters.base import ConversionError

#: Largest error as a part of the largest value; the engine computes in float32.
BUDGET = 1e-4
ROWS = 11
ERAS = (
    Era("2.1.6", False, False), Era("2.3.1", False, False), Era("2.3.0-tf", True, False),
    Era("2.13.1", True, False), Era("2.13.1", True, True), Era("3.10.0", True, False),
    Era("3.0.5", True, True), Era("3.10.0", True, True), Era("3.12.0", True, True),
)  # fmt: skip
MERGES: dict[str, Any] = {
    "Add": lambda a, b: a + b, "Subtract": lambda a, b: a - b, "Multiply": lambda a, b: a * b,
    "Average": lambda a, b: (a + b) / 2, "Maximum": np.maximum, "Minimum": np.minimum,
}  # fmt: skip


class Draft:
    """A random model while it grows; each layer is run at once, so that sizes are known."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.era: Era = ERAS[int(rng.integers(len(ERAS)))]
        self.net = Net([], chain=bool(rng.random() < 0.5))
        self.feeds: list[dict[str, Array]] = []
        self.mask_value = float(one_of(rng, 0.0, -1.0))
        self.stateful = self.net.chain and bool(rng.random() < 0.12)
        self.count = 0
        self.times = {"T": (int(rng.integers(9, 14)), 16), "S": (5, 3)}

    def build(self) -> Net:
        here = self.start("x", "T")
        if self.net.chain:
            for _ in range(int(self.rng.integers(1, 6))):
                here = self.add(self.layer(here), [here])[0]
                if self.forms(here) is None:
                    break
            self.net.outputs = self.ends(self.net.uses[-1])
        else:
            self.graph(here)
            self.net.prune()
        return self.net

    # -- values and names -------------------------------------------------------------------------

    def form(self, ref: Ref) -> Form:
        for one in self.net.inputs:
            if one.name == ref[0]:
                return one.form
        use = next(u for u in self.net.uses if (u.layer.name, u.node) == ref[:2])
        return use.layer.forms[ref[2]]

    def forms(self, ref: Ref) -> Form | None:
        """Return the form of the only output of a layer."""
        made = next((u.layer for u in self.net.uses if u.layer.name == ref[0]), None)
        return None if made is not None and len(made.forms) > 1 else self.form(ref)

    def ends(self, use: Use) -> list[Ref]:
        return [(use.layer.name, use.node, k) for k in range(len(use.layer.forms))]

    def named(self, made: Made) -> Made:
        self.count += 1
        made.name = f"{snake(made.kind)}_of_{self.count}"
        return made

    def add(self, made: Made, inputs: list[Ref], initial: int = 0) -> list[Ref]:
        """Call a layer; a new one gets its name."""
        node = sum(use.layer is made for use in self.net.uses)
        if not made.name:
            self.named(made)
        use = Use(made, node, inputs, initial)
        self.net.uses.append(use)
        return self.ends(use)

    def steps(self, ref: Ref) -> int:
        """Return how many steps a value has at the least."""
        values = [self.net.values(dict(feed), {}) for feed in self.feeds]
        return min(one[ref].x.shape[1] for one in values)

    # -- inputs -----------------------------------------------------------------------------------

    def start(self, name: str, time: str) -> Ref:
        """Add an input: features, masked features or tokens."""
        rng = self.rng
        fixed = bool(rng.random() < 0.4)
        steps = self.times[time]
        when: int | str = steps[0] if fixed else time
        kind = str(rng.choice(["features", "masked", "tokens"], p=[0.55, 0.2, 0.25]))
        size = int(rng.integers(1, 6))
        rows = ROWS if kind == "tokens" else 0
        batch = 3 if self.stateful else None
        self.net.inputs.append(Input(name, Form(when, size), rows, batch))
        for index in range(2):
            n = 3 if self.stateful or index == 0 else 4
            shape = (n, steps[0] if fixed or index == 0 else steps[1])
            if index >= len(self.feeds):
                self.feeds.append({})
            self.feeds[index][name] = self.values(shape, size, kind)
        here: Ref = (name, 0, 0)
        if kind == "masked":
            return self.add(kb.masking(Form(when, size), self.mask_value), [here])[0]
        if kind == "tokens":
            masks = bool(rng.random() < 0.7)
            return self.add(kb.embedding(rng, ROWS, when, masks), [here])[0]
        return here

    def values(self, shape: tuple[int, int], size: int, kind: str) -> Array:
        """Return an input; where it may be masked, steps are: some, the first, the last, all."""
        rng, (n, t) = self.rng, shape
        out = rng.random((n, t)) < 0.3
        out[0, t // 2 :], out[1, : t // 2] = True, True
        out[2] = rng.random() < 0.3
        if kind == "tokens":
            return np.where(out, 0, rng.integers(1, ROWS, shape)).astype(np.int32)
        x = rng.standard_normal((*shape, size)).astype(np.float32)
        if kind == "masked":
            x[out] = self.mask_value
        return x

    # -- layers -----------------------------------------------------------------------------------

    def layer(self, here: Ref) -> Made:
        """Return a layer to put on a value."""
        rng, form, era = self.rng, self.form(here), self.era
        if form.time is None:
            make = one_of(rng, *kb.KEEPING, kb.dense)
            return kb.repeat(rng, form, era) if rng.random() < 0.25 else make(rng, form, era)
        kind = rng.random()
        whole = bool(rng.random() < 0.65)
        if kind < 0.4:
            return kr.recurrent(rng, form, era, whole, stateful=self.stateful)
        if kind < 0.58 and not self.stateful:
            return kr.bidirectional(rng, form, era, whole)
        if kind < 0.66:
            return kb.distributed(rng, form, era)
        if kind < 0.72:
            return kb.global_pool(rng, form, era)
        if kind < 0.86 and self.steps(here) > 6 and (not form.masked or era.major >= 3):
            if rng.random() < 0.45 and not form.masked:
                return one_of(rng, *keras_convs.ALL)(rng, form, era)  # type: ignore[no-any-return]
            return one_of(rng, kb.conv, kb.conv, kb.pool, kb.moved)(rng, form, era)  # type: ignore[no-any-return]
        return one_of(rng, *kb.KEEPING)(rng, form, era)  # type: ignore[no-any-return]

    def nested(self, here: Ref) -> Made:
        """Return a Sequential of a few layers as a layer."""
        inside: list[Made] = []
        form = self.form(here)
        start = form
        for _ in range(int(self.rng.integers(1, 4))):
            make = one_of(self.rng, kb.dense, kb.batch_norm, kb.layer_norm, "rnn")
            if make == "rnn" and form.time is not None:
                one = kr.recurrent(self.rng, form, self.era, True)
            else:
                one = (kb.dense if make == "rnn" else make)(self.rng, form, self.era)
            one.name = f"inner_{len(self.net.inner)}_{len(inside)}"
            inside.append(one)
            form = one.forms[0]

        def run(values: list[Value], memory: Memory) -> list[Value]:
            for one in inside:
                values = one.run(values, memory)
            return values

        config = {"start": Input(f"start_{len(self.net.inner)}", start)}
        made = self.named(Made("Sequential", config, [form], run))
        self.net.inner[made.name] = inside
        return made

    # -- graphs -----------------------------------------------------------------------------------

    def graph(self, here: Ref) -> None:
        """Grow a graph: chains, branches that meet, shared layers, states, several outputs."""
        rng, outputs = self.rng, []
        for _ in range(int(rng.integers(1, 5))):
            kind = rng.random()
            if kind < 0.3:
                here = self.branch(here)
            elif kind < 0.4:
                here = self.twice(here)
            elif kind < 0.55 and self.form(here).time is not None and len(self.net.inputs) == 1:
                here = self.decoder(here)
            elif kind < 0.65 and not self.form(here).masked:
                here = self.add(self.nested(here), [here])[0]
            else:
                found = self.add(self.layer(here), [here])
                outputs += found[1:]
                here = found[0]
            if rng.random() < 0.15:
                outputs.append(here)
        if not self.net.uses:
            here = self.add(kb.dense(rng, self.form(here), self.era), [here])[0]
        self.net.outputs = [*dict.fromkeys([*outputs, here])]

    def branch(self, here: Ref) -> Ref:
        """Merge a value with what a layer makes of it."""
        rng, form = self.rng, self.form(here)
        if form.time is None or rng.random() < 0.3:
            made = kb.dense(rng, form, self.era)
        else:
            made = kr.recurrent(rng, form, self.era, True)
        there = self.add(made, [here])[0]
        other = self.form(there)
        kinds = [*MERGES] if other.size == form.size else ["Concatenate"]
        kind = str(one_of(rng, *kinds))
        size = form.size + other.size if kind == "Concatenate" else form.size

        def run(values: list[Value], _: Memory) -> list[Value]:
            one, two = values[0].x, values[1].x
            joined = (
                np.concatenate([one, two], -1)
                if kind == "Concatenate"
                else (MERGES[kind](one, two))
            )
            return [Value(joined, values[0].mask)]

        config = {"axis": -1} if kind == "Concatenate" else {}
        merged = Made(kind, config, [Form(form.time, size, form.masked)], run)
        return self.add(merged, [here, there] if rng.random() < 0.5 else [there, here])[0]

    def twice(self, here: Ref) -> Ref:
        """Use one layer of the size of its input two times."""
        form = self.form(here)
        made = kb.dense(self.rng, form, self.era)
        first = self.add(made, [here])[0]
        if made.forms[0].size != form.size:
            return first
        return self.add(made, [first])[0]

    def decoder(self, here: Ref) -> Ref:
        """Start a decoder on a second input with the states of an encoder."""
        rng, form = self.rng, self.form(here)
        both = bool(rng.random() < 0.3)
        make = kr.bidirectional if both else kr.recurrent
        encoder = make(rng, form, self.era, bool(rng.random() < 0.3), states=True)
        outs = self.add(encoder, [here])
        states = outs[-sum(one.time is None for one in encoder.forms) :]
        if len(states) == len(outs):
            states = states[(2 if encoder.config.get("merge_mode", "") is None else 1) :]
        fed = self.start("z", "S")
        if self.form(fed).masked and self.era.major >= 3:
            fed = ("z", 0, 0)  # Keras 3 does not use a mask beside states
            if self.net.inputs[-1].rows:
                table = kb.embedding(rng, ROWS, self.net.inputs[-1].form.time or 0, False)
                fed = self.add(table, [fed])[0]
        decoder = self.matching(fed, encoder, both)
        if decoder is None:
            return outs[0]
        return self.add(decoder, [fed, *states], len(states))[0]

    def matching(self, fed: Ref, encoder: Made, both: bool) -> Made | None:
        """Return a layer that takes the states of an encoder, if one is drawn."""
        make = kr.bidirectional if both else kr.recurrent
        sizes = [form.size for form in encoder.forms]
        for _ in range(200):
            made = make(self.rng, self.form(fed), self.era, True, states=True)
            mine = [form.size for form in made.forms]
            fits = made.even and encoder.even and made.config.get("merge_mode", "") is not None
            if fits and mine[1:] == sizes[1:]:
                return made
        return None


def parts(net: Net) -> set[str]:
    """Return what a model is made of, for the count."""
    found = {made.kind for made in net.layers()}
    found |= {"stateful"} if any(made.stateful for made in net.layers()) else set()
    found |= {"masked"} if any(f.masked for made in net.layers() for f in made.forms) else set()
    return found | ({"nested"} if net.inner else set())


def compare(model: gr.Model, net: Net, feeds: list[dict[str, Array]]) -> Outcome:
    """Run a model on all inputs; a stateful one goes on from where it was."""
    memory: Memory = {}
    state: Any = None
    stateful = any(made.stateful for made in net.layers())
    ports = model.signature.inputs  # in the order of the file; states of layers come behind
    names = [port.name for port in model.signature.outputs]
    for feed in feeds:
        wanted = net.run(feed, memory if stateful else None)
        given = zip(ports, feed.values(), strict=False)
        inputs = {port.name: value.astype(port.dtype) for port, value in given}
        if stateful:
            found, state = model.run(inputs, state)
            found = found if isinstance(found, dict) else {names[0]: found}
        else:
            found = model.run_graph(inputs)
        for name, right in zip(names, wanted, strict=False):
            if found[name].shape != right.shape:
                shapes = f"{found[name].shape}; {right.shape} is right"
                return Outcome("wrong", [f"shape {shapes}"])
            if not (error := error_of(found[name], right)) <= BUDGET:
                return Outcome("wrong", [f"error {error:.1e} of {name}"])
    return Outcome("converted")


def error_of(found: Array, wanted: Array) -> float:
    """Return the largest error as a part of the largest value; NaN must stand where it should."""
    if not np.array_equal(np.isnan(found), np.isnan(wanted)):
        return float("inf")
    found, wanted = np.nan_to_num(found.astype(np.float64)), np.nan_to_num(wanted)
    scale = max(float(np.abs(wanted).max(initial=0)), 0.01)
    return float(np.abs(found - wanted).max(initial=0)) / scale


def draw(seed: int) -> tuple[Draft, Net, bytes]:
    """Return the model of a seed and its file."""
    draft = Draft(seed)
    with np.errstate(all="ignore"):
        net = draft.build()
    return draft, net, write(net, draft.era, draft.rng)


def run(seed: int) -> tuple[str, Outcome, set[str]]:
    """Return the group of a seed, what became of its model, and what it is made of."""
    draft, net, data = draw(seed)
    form = "archive" if draft.era.archive else "h5"
    group = f"Keras {draft.era.version} {form} {'Sequential' if net.chain else 'Functional'}"
    try:
        with np.errstate(all="ignore"):
            outcome = compare(gr.load(data), net, draft.feeds)
    except ConversionError as error:
        outcome = Outcome("refused", [str(reason) for reason in error.reasons])
    except Exception as error:  # a script that counts goes on
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        outcome = Outcome("wrong", [text[:300]])
    return group, outcome, parts(net)


def main() -> int:
    """Count the outcomes of many models."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write the file of --seed here and stop")
    arguments = parser.parse_args()
    if arguments.keep:
        arguments.keep.write_bytes(draw(arguments.seed)[2])
        return 0
    tally = Tally()
    with suppress(KeyboardInterrupt):  # what was counted until then is printed
        for seed in range(arguments.seed, arguments.seed + arguments.count):
            group, outcome, made = run(seed)
            tally.add(group, outcome, made)
            tally.tell(seed, outcome)
    print(tally.table())
    return 1 if tally.total("wrong") else 0


if __name__ == "__main__":
    sys.exit(main())
