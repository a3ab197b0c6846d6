# SPDX-License-Identifier: MIT
"""``Trainer.fit``: epochs over arrays, validation, early stopping, checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gruengine.checkpoint import Checkpoint
from gruengine.errors import InvalidInputError
from gruengine.layer_base import Array, State, States, positive
from gruengine.metrics import Means
from gruengine.progress import Progress
from gruengine.trainer import Trainer, take

Path = str | os.PathLike[str]


@dataclass
class History:
    """What ``fit`` measured.

    rows : one dict an epoch: ``loss``, metrics, and with validation ``validation_...`` of each
    best : epoch of the least validation loss (loss without validation), from 0; -1 before any
    stopped : fewer epochs than asked for, because nothing got better
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    best: int = -1
    stopped: bool = False

    def __getitem__(self, name: str) -> list[float]:
        """Return one value of every epoch."""
        return [row[name] for row in self.rows]


@dataclass
class Plan:
    """The options of :func:`fit`."""

    epochs: int
    batch_size: int
    shuffle: bool
    truncate: int | None
    validation: tuple[Any, ...] | None
    patience: int | None
    min_delta: float
    restore_best: bool
    checkpoint: Path | None
    every: int | None
    callback: Callable[[int, dict[str, float]], None] | None
    progress: bool | None


def fit(
    trainer: Trainer,
    x: Any,
    y: Any,
    lengths: Any = None,
    *,
    mask: Any = None,
    epochs: int = 1,
    batch_size: int = 32,
    shuffle: bool = True,
    truncate: int | None = None,
    validation: tuple[Any, ...] | None = None,
    patience: int | None = None,
    min_delta: float = 0.0,
    restore_best: bool = True,
    checkpoint: Path | None = None,
    checkpoint_every: int | None = None,
    resume: bool = True,
    callback: Callable[[int, dict[str, float]], None] | None = None,
    progress: bool | None = None,
) -> History:
    """Train a trainer's model for some epochs.

    Parameters
    ----------
    x, y, lengths, mask : arrays for all rows; a batch of them is what ``Trainer.step`` takes.
    epochs, batch_size : int
    shuffle : bool
        Rows in a new order each epoch; the order depends on the seed and the epoch alone.
    truncate : int, optional
        Steps of truncated backpropagation: each batch is cut along time, with one update a piece;
        the state goes from piece to piece, the gradient does not. Targets have a time axis then,
        and no layer is bidirectional.
    validation : (x, y), (x, y, lengths) or (x, y, lengths, mask), optional
    patience : int, optional
        Stop after so many epochs in which the validation loss (the loss, without validation) got
        better by no more than ``min_delta``.
    restore_best : bool
        With ``patience``: end with the parameters of the best epoch.
    checkpoint : path, optional
        Written after each epoch and every ``checkpoint_every`` updates, whole or not at all.
    resume : bool
        If ``checkpoint`` exists, go on where it was written: the run ends with the same bits as
        one that was never interrupted.
    callback : callable, optional
        Called with the epoch and its row of the history.
    progress : bool, optional
        Draw a progress bar; None: on a terminal.

    Raises
    ------
    InvalidInputError
        Arrays that don't fit together, or an epoch begun with other batches.
    DivergenceError
        NaN or infinity; the last good checkpoint remains.
    """
    plan = Plan(
        positive("epochs", epochs), positive("batch_size", batch_size), shuffle,
        None if truncate is None else positive("truncate", truncate), validation, patience,
        min_delta, restore_best, checkpoint, checkpoint_every, callback, progress,
    )  # fmt: skip
    run = _Fit(trainer, plan, (x, y, lengths, mask))
    if checkpoint is not None and resume and os.path.exists(checkpoint):
        run.restore(trainer.load(checkpoint))
    return run.finish()


class _Fit:
    """One run of ``fit``: where it stands, and all that a checkpoint must hold of it."""

    def __init__(self, trainer: Trainer, plan: Plan, data: tuple[Any, ...]) -> None:
        self.trainer, self.plan = trainer, plan
        self.time_first = not trainer.net.batch_first
        self.data = tuple(as_arrays(value) for value in data)
        self.rows = rows_of(self.data[0], not self.time_first)
        self._check()
        self.history = History()
        self.epoch = self.batch = self.piece = self.waited = 0
        self.state: States = ()
        self.means = Means()
        self.best: dict[str, Array] = {}
        self.bar = Progress(self._updates(), plan.progress)

    def _check(self) -> None:
        for name, value in zip(("y", "lengths", "mask"), self.data[1:], strict=True):
            if value is None:
                continue
            rows = len(value) if not isinstance(value, np.ndarray) else rows_of(
                value, not self.time_first
            )  # fmt: skip
            if rows != self.rows:
                raise InvalidInputError(f"{name} has {rows} rows; x has {self.rows}")
        if self.rows == 0:
            raise InvalidInputError("x has no rows; at least one is needed")
        time = 0 if self.time_first else 1
        y = self.data[1]
        if self.plan.truncate and isinstance(self.data[0], tuple):
            raise InvalidInputError("truncate needs one sequence as x")
        both = [lay.name for lay in self.trainer.net.layers if getattr(lay, "bidirectional", False)]
        if self.plan.truncate and both:
            raise InvalidInputError(
                f"truncate carries states on in time; layer {both[0]!r} reads backwards too"
            )
        if self.plan.truncate and (y.ndim < 2 or y.shape[time] != self.data[0].shape[time]):
            raise InvalidInputError(
                f"truncate needs a target for each step; x has shape {self.data[0].shape} and y "
                f"{y.shape}"
            )

    # -- where it stands --------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint of trainer and run."""
        assert self.plan.checkpoint is not None
        tensors = {f"best/{name}": value for name, value in self.best.items()}
        for index, state in enumerate(self.state):
            tensors[f"state/{index}/h"] = state.h
            if state.c is not None:
                tensors[f"state/{index}/c"] = state.c
        self.trainer.save(
            self.plan.checkpoint,
            tensors=tensors,
            fit={
                "place": [self.epoch, self.batch, self.piece, self.waited],
                "batches": self._batches(),
                "means": self.means.sums,
                "rows": self.history.rows,
                "best": self.history.best,
                "stopped": self.history.stopped,
            },
        )

    def restore(self, found: Checkpoint) -> None:
        """Go on where a checkpoint was written."""
        facts = found.facts.get("fit")
        if facts is None:  # written by Trainer.save: the run starts anew with its parameters
            return
        self.epoch, self.batch, self.piece, self.waited = facts["place"]
        if (self.batch or self.piece) and facts["batches"] != self._batches():
            raise InvalidInputError(
                f"{self.trainer.checkpoint!r} was written within an epoch of {facts['batches']}; "
                f"this fit has {self._batches()}"
            )
        self.means = Means(facts["means"])
        self.history = History(facts["rows"], facts["best"], facts["stopped"])
        self.best = {k[5:]: v.copy() for k, v in found.tensors.items() if k.startswith("best/")}
        states: list[State] = []
        while f"state/{len(states)}/h" in found.tensors:
            at = f"state/{len(states)}/"
            states.append(State(found.tensors[at + "h"], found.tensors.get(at + "c")))
        self.state = tuple(states)

    # -- epochs -----------------------------------------------------------------------------------

    def finish(self) -> History:
        """Run what is left."""
        while self.epoch < self.plan.epochs and not self.history.stopped:
            self._run_epoch()
        if self.best and self.plan.restore_best:
            self.trainer.parameters.set(self.best)
        return self.history

    def _run_epoch(self) -> None:
        order = np.arange(self.rows)
        if self.plan.shuffle:
            order = np.random.default_rng([self.trainer.seed, self.epoch]).permutation(self.rows)
        batches = list(batches_of(self.rows, self.plan.batch_size))
        while self.batch < len(batches):
            self._run_batch(order[batches[self.batch]])
        row = self.means.values()
        if self.plan.validation is not None:
            row |= self._validate()
        self.history.rows.append(row)
        self._judge(row)
        self.bar.end(self._label(), row)
        if self.plan.callback is not None:
            self.plan.callback(self.epoch, row)
        self.epoch, self.batch, self.means = self.epoch + 1, 0, Means()
        if self.plan.checkpoint is not None:
            self.save()

    def _run_batch(self, rows: Array) -> None:
        part = [take(value, rows, not self.time_first) for value in self.data]
        pieces = list(self._pieces(part))
        while self.piece < len(pieces):
            x, y, lengths, mask = pieces[self.piece]
            step = self.trainer.step(x, y, lengths, self.state or None, mask)
            self.means.add(step.loss, step.weight, step.metrics, step.counted)
            self.bar.show(self._label(), self.batch + 1, self.means.values())
            self.piece += 1
            self.state = step.state if self.plan.truncate else ()
            if self.piece == len(pieces):
                self.batch, self.piece, self.state = self.batch + 1, 0, ()
            every = self.plan.every
            if every and self.plan.checkpoint is not None and self.trainer.steps % every == 0:
                self.save()
            if self.piece == 0:
                return

    def _pieces(self, part: list[Any]) -> Iterator[list[Any]]:
        """Cut a batch along time."""
        size, axis = self.plan.truncate, 0 if self.time_first else 1
        if size is None:
            yield part
            return
        x, y, lengths, mask = part
        for start in range(0, x.shape[axis], size):
            piece = slice(start, start + size)
            at = (piece,) if self.time_first else (slice(None), piece)
            steps = x[at].shape[axis]
            left = None if lengths is None else np.clip(lengths - start, 0, steps)
            if left is None or left.any():
                yield [x[at], y[at], left, None if mask is None else mask[at]]

    def _validate(self) -> dict[str, float]:
        data = [*(self.plan.validation or ()), None, None][:4]
        x, y, lengths, mask = (as_arrays(value) for value in data)
        found = self.trainer.evaluate(
            x, y, lengths, mask=mask, batch_size=max(self.plan.batch_size, 64)
        )
        if not np.isfinite(found["loss"]):
            what = f"the validation loss is {found['loss']}"
            self.trainer.stop("loss", what, "no checkpoint was written")
        return {f"validation_{name}": value for name, value in found.items()}

    def _judge(self, row: dict[str, float]) -> None:
        """Keep the best epoch; stop where nothing got better for long."""
        name = "validation_loss" if "validation_loss" in row else "loss"
        rows, best = self.history.rows, self.history.best
        if best < 0 or row[name] < rows[best][name] - self.plan.min_delta:
            self.history.best, self.waited = self.epoch, 0
            if self.plan.patience is not None:
                values = self.trainer.parameters.values
                self.best = {key: value.copy() for key, value in values.items()}
        else:
            self.waited += 1
        if self.plan.patience is not None and self.waited >= self.plan.patience:
            self.history.stopped = self.epoch + 1 < self.plan.epochs

    def _label(self) -> str:
        return f"epoch {self.epoch + 1}/{self.plan.epochs}"

    def _batches(self) -> dict[str, Any]:
        """Return what an epoch that was begun must be gone on with."""
        plan = self.plan
        return {"rows": self.rows, "batch_size": plan.batch_size, "shuffle": plan.shuffle,
                "truncate": plan.truncate}  # fmt: skip

    def _updates(self) -> int:
        return -(-self.rows // self.plan.batch_size)


def rows_of(x: Any, batch_first: bool) -> int:
    """Return N of an array, or a tuple of arrays, of a model with that order of axes."""
    if isinstance(x, tuple):
        return rows_of(x[0], batch_first)
    return int(x.shape[0] if batch_first or x.ndim == 1 else x.shape[1])


def batches_of(rows: int, size: int) -> Iterator[Array]:
    """Yield the numbers of the rows of one batch after the other."""
    for start in range(0, rows, size):
        yield np.arange(start, min(start + size, rows))


def as_arrays(value: Any) -> Any:
    """Return arrays as arrays; lists of sequences, as CTC's targets, as they are."""
    if value is None or isinstance(value, np.ndarray):
        return value
    if isinstance(value, tuple):  # the inputs of a model that has several
        return tuple(np.asarray(part) for part in value)
    ragged = isinstance(value, list) and value and not np.isscalar(value[0])
    return value if ragged else np.asarray(value)
