# SPDX-License-Identifier: MIT
"""The comfortable way to train: ``Trainer`` holds a model, a loss and an optimizer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gruengine import checkpoint as checkpoints
from gruengine.errors import (
    DivergenceError,
    InvalidInputError,
    ModelFileError,
    UnsupportedError,
)
from gruengine.layer_base import Array, Pass, States
from gruengine.layers import Sequential
from gruengine.losses import Loss, loss_of
from gruengine.metrics import Means, Metric, metrics_of
from gruengine.optimizers import Optimizer, clip_by_value, global_norm, optimizer_of, scale_of
from gruengine.training_ops import ACTIVATIONS
from gruengine.training_parameters import Parameters

if TYPE_CHECKING:
    from gruengine.encoder_decoder import EncoderDecoder
    from gruengine.fitting import History

TRAINING_TYPES = ("float32", "bfloat16")
Path = str | os.PathLike[str]


class Step(NamedTuple):
    """What one update did.

    loss : before the update
    state : after the last step of each row; give it to the next ``step`` to go on (truncated
        backpropagation: no gradient flows through it)
    norm : of all gradients together, before clipping
    metrics : by name
    counted : how many targets counted
    weight : what the loss is a mean over: of as many targets, or more or less of weighted ones
    """

    loss: float
    state: States
    norm: float
    metrics: dict[str, float]
    counted: int
    weight: float


class Trainer:
    """Trains a model in place.

    Parameters
    ----------
    net : Sequential or EncoderDecoder
        Built. Its parameters are trained in place; ``net(x)``, ``net.stream()``, ``net.save()``
        always use the present ones.
    loss : str or Loss
        ``"mse"``, ``"mae"``, ``"huber"``, ``"binary_cross_entropy"``, ``"cross_entropy"``,
        ``"ctc"``, or a :class:`gruengine.losses.Loss`. A model that ends in the sigmoid or softmax
        that a loss contains is trained on what stands before it.
    optimizer : str or Optimizer
        ``"sgd"``, ``"rmsprop"``, ``"adam"``, ``"adamw"``, or an instance of
        :mod:`gruengine.optimizers`.
    clip_norm, clip_value : float, optional
        Bound of the global norm of the gradients (Pascanu et al. 2013), of each element.
    metrics : sequence of str or callable
        ``"accuracy"``, ``"mae"``, ``"mse"``, or functions of ``(y, target, mask)``.
    num_threads : int
        Of the recurrences. Different numbers of threads give the same bits.
    compute_type : str
        ``"bfloat16"`` rounds both sides of the products with ``W`` and ``R`` and of Dense layers,
        forward and backward; sums, cells, parameters and optimizer stay float32 (Micikevicius et
        al. 2018, "Mixed precision training").
    seed : int
        Of dropout and of the order of batches: the same seed, data and machine repeat a run bit
        for bit.

    Examples
    --------
    >>> import numpy as np
    >>> import gruengine as gr
    >>> net = gr.Sequential([gr.GRU(8), gr.Dense(1)], input_size=1)
    >>> x = np.random.default_rng(0).normal(size=(64, 10, 1)).astype(np.float32)
    >>> trainer = gr.Trainer(net, "mse", gr.optimizers.Adam(0.01))
    >>> history = trainer.fit(x, x.sum(1), epochs=3, progress=False)
    >>> len(history.rows)
    3
    """

    def __init__(
        self,
        net: Sequential | EncoderDecoder,
        loss: str | Loss = "mse",
        optimizer: str | Optimizer = "adam",
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        metrics: Sequence[str | Metric] = (),
        num_threads: int = 1,
        compute_type: str = "float32",
        seed: int = 0,
    ) -> None:
        if compute_type not in TRAINING_TYPES:
            raise UnsupportedError(
                f"compute_type {compute_type!r}; training allows {', '.join(TRAINING_TYPES)}"
            )
        for name, bound in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if bound is not None and not 0 < bound < float("inf"):
                raise InvalidInputError(f"{name} is {bound!r}; it must be a positive number")
        self.net, self.loss, self.optimizer = net, loss_of(loss), optimizer_of(optimizer)
        self.clip_norm, self.clip_value = clip_norm, clip_value
        self.metrics = metrics_of(tuple(metrics))
        self.num_threads, self.compute_type, self.seed = num_threads, compute_type, seed
        self.checkpoint: str | None = None
        # One chain: its outputs have the steps of x, and no gradient by x is needed.
        self.whole = isinstance(net, Sequential)
        self.parameters = Parameters(net)
        self.ending = _ending(net)
        if self.loss.activation != "linear" and self.ending not in ("linear", self.loss.activation):
            raise InvalidInputError(
                f"the model ends in {self.ending!r} and the loss contains "
                f"{self.loss.activation!r}; the model must end in that, or in nothing"
            )

    @property
    def steps(self) -> int:
        """Updates so far."""
        return self.optimizer.steps

    # -- one update -------------------------------------------------------------------------------

    def step(
        self,
        x: Any,
        y: Any,
        lengths: Any = None,
        state: States | None = None,
        mask: Any = None,
    ) -> Step:
        """Run a batch forward and backward and update the parameters once.

        Parameters
        ----------
        x : array ``[N, T, F]``, or ``[N, T]`` integers for an Embedding (time first if the model
            is so).
        y : targets, as the loss wants them: for outputs ``[N, T, C]`` of numbers the same shape,
            of classes ``[N, T]`` integers; without T where the model gives its last output.
        lengths : ``[N]`` integers, optional
            Steps of each row; later ones are neither read nor learned. Of an EncoderDecoder: of
            what the encoder reads; ``mask`` says which targets count.
        state : optional
            Where the recurrence starts, as an earlier step returned it.
        mask : ``[N, T]`` or ``[N]``, optional
            Which targets count, and how much if it is float.

        Raises
        ------
        DivergenceError
            NaN or infinity in the loss or a gradient; nothing was updated.
        """
        self.parameters.adopt()
        run = self._pass(lengths, True)
        # NaN and infinity are found by looking for them, not by warnings on the way.
        with np.errstate(all="ignore"):
            found, states, backprop = self.net.begin_update(x, state, run)
            target, weights = _targets(y), self._mask(found, mask, run.lengths)
            loss, weight, dy = self._loss(found, target, weights)
            if not np.isfinite(loss):
                self._diverged(x, state, run, f"the loss is {loss}")
            self.parameters.clear_gradients()
            backprop(dy)
            gradients = self.parameters.gradients()
            norm, scale = self._clip(gradients)
            self.optimizer.update(
                self.parameters.values, gradients, scale=scale, num_threads=self.num_threads
            )
            self.parameters.clear_gradients()
            self.net.changed()
            metrics, counted = self._measure(found, target, weights)
        return Step(loss, states, norm, metrics, counted, weight)

    def _pass(self, lengths: Any, training: bool) -> Pass:
        rows = None if lengths is None else np.asarray(lengths)
        if rows is not None and (rows.ndim != 1 or rows.dtype.kind not in "iu"):
            raise InvalidInputError(
                f"lengths are {rows.dtype} of shape {rows.shape}; they must be integers, [N]"
            )
        logits = self.loss.activation != "linear" and self.ending == self.loss.activation
        seed, needed = (self.seed, self.steps), not self.whole
        return Pass(rows, training, seed, self.num_threads, self.compute_type, logits, needed)

    def _loss(self, y: Array, target: Any, mask: Array | None) -> tuple[float, float, Array]:
        """Return the loss, its weight and its gradient by ``y``."""
        turns = self.loss.time_first and self.net.batch_first
        if turns:
            y, mask = y.swapaxes(0, 1), None if mask is None else mask.T
        value, dy = self.loss(y, target, mask)
        return value, self.loss.weight(y, target, mask), dy.swapaxes(0, 1) if turns else dy

    def _mask(self, y: Array, mask: Any, lengths: Array | None) -> Array | None:
        """Which targets count: those asked for, and of sequences those within their lengths."""
        found = None if mask is None else np.asarray(mask)
        if lengths is None or y.ndim < 3 or not self.whole:
            return found
        time = 1 if self.net.batch_first else 0
        steps = np.arange(y.shape[time])
        within = steps < lengths[:, None] if time else steps[:, None] < lengths
        return within if found is None else np.where(within, found, 0).astype(found.dtype)

    def _clip(self, gradients: dict[str, Array]) -> tuple[float, float]:
        """Return the norm of the gradients, and what they are to be multiplied by."""
        norm = global_norm(gradients)
        if not np.isfinite(norm):
            bad = [name for name, g in gradients.items() if not np.isfinite(g).all()]
            layer = bad[-1].rsplit(".", 1)[0] if bad else "all"
            self.parameters.clear_gradients()
            self.stop(layer, f"the gradient of {', '.join(bad) or 'all'} is not finite")
        if self.clip_value is not None:
            clip_by_value(gradients, self.clip_value)
        after = norm if self.clip_value is None else global_norm(gradients)
        return norm, scale_of(after, self.clip_norm)

    def _measure(self, y: Array, target: Any, mask: Array | None) -> tuple[dict[str, float], int]:
        """Return the metrics, and over how many targets."""
        counts = self.loss.counted(target, mask)
        whole = y.size // max(y.shape[-1], 1)
        counted = whole if counts is None else int(np.count_nonzero(counts))
        if self.metrics and self.loss.activation != "linear":
            y = ACTIVATIONS[self.loss.activation](y)[0]
        found = {name: metric(y, target, counts) for name, metric in self.metrics.items()}
        return found, counted

    # -- NaN and infinity -------------------------------------------------------------------------

    def _diverged(self, x: Any, state: States | None, run: Pass, what: str) -> None:
        """Run the layers again, one by one, to name the first that gave NaN or infinity."""
        for array in map(np.asarray, x if isinstance(x, tuple) else (x,)):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                self.stop("x", f"{what}; x holds NaN or infinity")
        for name, value in self.parameters.values.items():
            if not np.isfinite(value).all():
                self.stop(name.rsplit(".", 1)[0], f"{what}; {name} holds NaN or infinity")
        for name, value in self.net.layer_outputs(x, state, run):
            if not np.isfinite(value).all():
                self.stop(name, f"{what}; layer {name!r} gave NaN or infinity")
        self.stop("loss", what)

    def stop(self, layer: str, what: str, left: str = "nothing was updated") -> None:
        """Raise the DivergenceError that says where the training stands."""
        kept = f"; the last good checkpoint is {self.checkpoint}" if self.checkpoint else ""
        raise DivergenceError(
            f"step {self.steps}, layer {layer!r}: {what}; {left}{kept}",
            self.steps, layer, self.checkpoint,
        )  # fmt: skip

    # -- evaluation -------------------------------------------------------------------------------

    def evaluate(
        self, x: Any, y: Any, lengths: Any = None, *, mask: Any = None, batch_size: int = 256
    ) -> dict[str, float]:
        """Return loss and metrics without dropout and without an update, for arrays of any N."""
        from gruengine.fitting import as_arrays, batches_of, rows_of

        self.parameters.adopt()
        x, y, lengths, mask = (as_arrays(value) for value in (x, y, lengths, mask))
        means, count = Means(), rows_of(x, self.net.batch_first)
        if not count:
            raise InvalidInputError("x has no rows; at least one is needed")
        data = (x, y, lengths, mask)
        for rows in batches_of(count, batch_size):
            part = [take(value, rows, self.net.batch_first) for value in data]
            run = self._pass(part[2], False)
            found, _, _ = self.net.begin_update(part[0], None, run)
            target, weights = _targets(part[1]), self._mask(found, part[3], run.lengths)
            loss, weight, _ = self._loss(found, target, weights)
            means.add(loss, weight, *self._measure(found, target, weights))
        return means.values()

    def fit(self, x: Any, y: Any, lengths: Any = None, **options: Any) -> History:
        """Train for some epochs: see :func:`gruengine.fitting.fit` for the options."""
        from gruengine.fitting import fit

        return fit(self, x, y, lengths, **options)

    # -- checkpoints ------------------------------------------------------------------------------

    def save(self, path: Path, **facts: Any) -> None:
        """Write a checkpoint, whole or not at all; ``gruengine.load`` runs it as a model.

        Raises
        ------
        DivergenceError
            A parameter holds NaN or infinity; an older checkpoint is left as it is.
        FileAccessError
            The operating system refuses.
        """
        self.parameters.adopt()
        for name, value in self.parameters.values.items():
            if not np.isfinite(value).all():
                what = f"{name} holds NaN or infinity after an update"
                self.stop(name.rsplit(".", 1)[0], what, "no checkpoint was written")
        tensors = {f"param/{name}": value for name, value in self.parameters.values.items()}
        for name, kept in self.optimizer.memory.items():
            tensors.update({f"memory/{key}/{name}": value for key, value in kept.items()})
        tensors.update(facts.pop("tensors", {}))
        state = {
            "steps": self.steps,
            "seed": self.seed,
            "optimizer": type(self.optimizer).__name__,
            "loss": type(self.loss).__name__,
            **facts,
        }
        checkpoints.save(path, self.net.spec(), checkpoints.Checkpoint(tensors, state))
        self.checkpoint = os.fspath(path)

    def load(self, path: Path) -> checkpoints.Checkpoint:
        """Go on where a checkpoint was written, bit for bit, and return all it holds.

        The trainer must be made as the one that wrote it: model, optimizer, loss and seed.

        Raises
        ------
        ModelFileError
            No checkpoint, or one of another model, optimizer, loss or seed; nothing is changed.
        """
        found = checkpoints.load(path)
        own = {
            "optimizer": type(self.optimizer).__name__,
            "loss": type(self.loss).__name__,
            "seed": self.seed,
        }
        for key, value in own.items():
            if found.facts.get(key) != value:
                raise ModelFileError(
                    f"{os.fspath(path)!r} was written with {key} {found.facts.get(key)!r}; "
                    f"this trainer has {value!r}"
                )
        params = _below(found.tensors, "param/")
        shapes = {name: value.shape for name, value in self.parameters.values.items()}
        if {name: value.shape for name, value in params.items()} != shapes:
            raise ModelFileError(f"{os.fspath(path)!r} holds the parameters of another model")
        memory: dict[str, dict[str, Array]] = {}
        for place, value in _below(found.tensors, "memory/").items():
            key, _, name = place.partition("/")
            memory.setdefault(name, {})[key] = value.copy()
        kept = {key for own in memory.values() for key in own}
        if memory and kept != set(self.optimizer.keeps):
            raise ModelFileError(
                f"{os.fspath(path)!r} was written by an optimizer that keeps {sorted(kept)}; this "
                f"one keeps {sorted(self.optimizer.keeps)}"
            )
        self.parameters.set(params)
        self.optimizer.memory, self.optimizer.steps = memory, int(found.facts["steps"])
        self.checkpoint = os.fspath(path)
        return found


def take(value: Any, rows: Array, batch_first: bool) -> Any:
    """Return the rows of a batch from an array whose batch axis the model names, or a list."""
    if value is None:
        return None
    if isinstance(value, tuple):
        return tuple(take(part, rows, batch_first) for part in value)
    if not isinstance(value, np.ndarray):
        return [value[row] for row in rows]
    return value[rows] if batch_first or value.ndim == 1 else value[:, rows]


def _below(tensors: dict[str, Array], prefix: str) -> dict[str, Array]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _targets(y: Any) -> Any:
    """Return targets as an array; sequences of different lengths (CTC) stay a list."""
    ragged = isinstance(y, (list, tuple)) and len({np.shape(row) for row in y}) > 1
    return y if ragged else np.asarray(y)


def _ending(net: Any) -> str:
    """Return the activation that a model ends in."""
    return str(getattr(net.layers[-1], "activation", "linear"))
