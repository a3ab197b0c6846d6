# SPDX-License-Identifier: MIT
"""A sequence autoencoder: reconstruct the frames of moving dots, and predict those to come.

    python examples/train_moving_dots.py

The composite model of Srivastava et al. 2015: an LSTM reads eight frames of 12 x 12 with two dots
that move straight and bounce off the walls; from its last state one LSTM writes the frames again,
in reverse order, another the next four. Both are unconditioned: their input is zero. The gradients
of both go through the state into the encoder (``begin_update`` and ``backprop``, no Trainer).
Baselines for the prediction: the mean frame, and the last frame seen.

Result (seed 0): after 4,000 updates the squared error is 0.0052 for the reconstruction (mean frame:
0.0202) and 0.0105 for the prediction (mean frame: 0.0202, last frame seen: 0.0283), which follows
both dots, ever more blurred.
"""

from __future__ import annotations

import numpy as np
from example_parts import figure, options, save, table

import gruengine as gr
from gruengine.training_parameters import Parameters

SIDE, PAST, AHEAD, DOTS, UNITS, BATCH, UPDATES = 12, 8, 4, 2, 192, 32, 4000


def films(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return ``[N, PAST + AHEAD, SIDE * SIDE]`` float32: soft dots that bounce."""
    place = rng.uniform(1, SIDE - 2, (count, DOTS, 2))
    speed = rng.uniform(-1.2, 1.2, (count, DOTS, 2))
    grid = np.arange(SIDE)
    frames = []
    for _ in range(PAST + AHEAD):
        x = np.exp(-((grid - place[..., :1]) ** 2))
        y = np.exp(-((grid - place[..., 1:]) ** 2))
        frames.append(np.clip(np.einsum("ndx,ndy->nxy", x, y), 0, 1).reshape(count, -1))
        place = place + speed
        outside = (place < 0) | (place > SIDE - 1)
        speed = np.where(outside, -speed, speed)
        place = np.clip(place, 0, SIDE - 1)
    return np.stack(frames, 1).astype(np.float32)


class Composite:
    """One encoder, two decoders that start from its state."""

    def __init__(self, seed: int) -> None:
        pixels = SIDE * SIDE
        self.encoder = gr.Sequential([gr.LSTM(UNITS)], pixels, seed=seed)
        self.past, self.future = (
            gr.Sequential([gr.LSTM(UNITS, return_sequences=True), gr.Dense(pixels)], 1, seed=s)
            for s in (seed + 1, seed + 2)
        )
        self.nets = (self.encoder, self.past, self.future)
        self.parameters = [Parameters(net) for net in self.nets]
        rate = gr.optimizers.cosine(3e-3, UPDATES, 1e-4)
        self.optimizers = [gr.optimizers.Adam(rate) for _ in self.nets]
        self.loss = gr.losses.BinaryCrossEntropy()

    def run(self, film: np.ndarray, train: bool) -> tuple[list[float], list[np.ndarray]]:
        """Return the losses of past and future, and both as images; train if asked."""
        run = gr.Pass(training=train)
        seen, later = film[:, :PAST], film[:, PAST:]
        _, state, undo = self.encoder.begin_update(seen, None, run)
        total, losses, images = None, [], []
        for net, wanted in ((self.past, seen[:, ::-1]), (self.future, later)):
            zeros = np.zeros((*wanted.shape[:2], 1), np.float32)
            y, _, undo_decoder = net.begin_update(zeros, state, run)
            value, dy = self.loss(y, np.ascontiguousarray(wanted))
            losses.append(value)
            images.append(1 / (1 + np.exp(-y)))
            if train:
                _, (dstate,) = undo_decoder(dy)
                total = dstate if total is None else gr.State(
                    total.h + dstate.h, total.c + dstate.c)  # fmt: skip
        if train:
            undo(None, (total,))
            self._update()
        return losses, images

    def _update(self) -> None:
        gradients = [parameters.gradients() for parameters in self.parameters]
        norm = np.sqrt(sum(gr.optimizers.global_norm(g) ** 2 for g in gradients))
        scale = gr.optimizers.scale_of(float(norm), 1.0)
        for optimizer, parameters, found in zip(self.optimizers, self.parameters, gradients,
                                                strict=True):  # fmt: skip
            optimizer.update(parameters.values, found, scale=scale)
            parameters.clear_gradients()


def main() -> None:
    chosen = options(__doc__)
    rng = np.random.default_rng(chosen.seed)
    test, model = films(np.random.default_rng(chosen.seed + 99), 128), Composite(chosen.seed)
    steps = 5 if chosen.quick else UPDATES
    rows = []
    for step in range(1, steps + 1):
        model.run(films(rng, BATCH), True)
        if step % max(steps // 5, 1) == 0:
            _, (past, future) = model.run(test, False)
            rows.append([f"after {step} updates",
                         float(np.mean((past - test[:, :PAST][:, ::-1]) ** 2)),
                         float(np.mean((future - test[:, PAST:]) ** 2))])  # fmt: skip
            print(*rows[-1], flush=True)
    mean = test.mean((0, 1))
    rows.append(["mean frame", *(float(np.mean((test[:, part] - mean) ** 2))
                                 for part in (slice(0, PAST), slice(PAST, None)))])  # fmt: skip
    rows.append(["last frame seen", "-",
                 float(np.mean((test[:, PAST:] - test[:, PAST - 1 : PAST]) ** 2))])  # fmt: skip
    table(chosen.out / "moving_dots.md",
          ["", "squared error, reconstruction", "squared error, prediction"], rows)  # fmt: skip
    _, (past, future) = model.run(test[:1], False)
    made, axes = figure(2, PAST + AHEAD, 12.0, 2.4)
    shown = np.concatenate([past[0, ::-1], future[0]])
    for at in range(PAST + AHEAD):
        for row, frames in enumerate((test[0], shown)):
            axes[row, at].imshow(frames[at].reshape(SIDE, SIDE), vmin=0, vmax=1, cmap="gray")
            axes[row, at].set_axis_off()
        axes[0, at].set_title(f"{at - PAST + 1:+d}" if at >= PAST else str(at - PAST + 1))
    save(made, chosen.out / "moving_dots.png")


if __name__ == "__main__":
    main()
