# SPDX-License-Identifier: MIT
"""Train the model of ``gruengine demo``: an LSTM that predicts a noisy signal one sample ahead.

The signal is a sum of two tones that swell and fade, plus white noise; the
network sees the noisy samples and learns the clean one that comes next. Everything is generated
here from a seed.

    python examples/train_demo.py gruengine/data

writes ``demo.onnx`` and ``demo.pt`` (a state_dict) of the same weights, and ``demo_signal.npy``
``[T, 2]``: a held-out signal, noisy and clean. Needs torch, onnx and onnxscript; about a minute.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

SEED = 7
HIDDEN = 32
NOISE = 0.15
BATCH, LENGTH, STEPS = 64, 160, 2000


class Predictor(torch.nn.Module):
    """LSTM and a linear head: ``[N, T, 1]`` samples to ``[N, T, 1]`` predictions of the next."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(1, HIDDEN, batch_first=True)
        self.head = torch.nn.Linear(HIDDEN, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.lstm(x)
        return self.head(y)


def make_signals(
    rng: np.random.Generator, count: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy and clean signals, ``[count, length]`` float32 each, about within +-1.5."""
    t = np.arange(length)
    clean = np.zeros((count, length))
    for _ in range(2):
        frequency = rng.uniform(0.02, 0.1, (count, 1))
        phase = rng.uniform(0, 2 * np.pi, (count, 1))
        swell = 1 + 0.5 * np.sin(2 * np.pi * rng.uniform(0, 0.006, (count, 1)) * t + phase)
        amplitude = rng.uniform(0.3, 0.6, (count, 1))
        clean += amplitude * swell * np.sin(2 * np.pi * frequency * t + phase)
    noisy = clean + rng.normal(0, NOISE, clean.shape)
    return noisy.astype(np.float32), clean.astype(np.float32)


def train() -> Predictor:
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    model = Predictor()
    optimiser = torch.optim.Adam(model.parameters(), lr=8e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for step in range(STEPS):
        noisy, clean = make_signals(rng, BATCH, LENGTH + 1)
        x = torch.from_numpy(noisy[:, :-1, None])
        target = torch.from_numpy(clean[:, 1:, None])
        # The first samples cannot be predicted yet; they would only add noise to the gradient.
        loss = torch.nn.functional.mse_loss(model(x)[:, 16:], target[:, 16:])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == STEPS - 1:
            print(f"step {step:4d}  loss {loss.item():.5f}")
    return model.eval()


def export(model: Predictor, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "demo.pt")
    # The dynamo exporter bakes the example's length into the shape of an LSTM's output.
    torch.onnx.export(
        model,
        (torch.zeros(2, 9, 1),),
        folder / "demo.onnx",
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "N", 1: "T"}, "y": {0: "N", 1: "T"}},
        opset_version=17,
        dynamo=False,
    )
    noisy, clean = make_signals(np.random.default_rng(SEED + 1), 1, 600)
    np.save(folder / "demo_signal.npy", np.stack([noisy[0], clean[0]], axis=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="where the three files are written")
    torch.set_num_threads(1)
    folder = parser.parse_args().folder
    model = train()
    export(model, folder)
    noisy, clean = np.load(folder / "demo_signal.npy").T
    with torch.no_grad():
        predicted = model(torch.from_numpy(noisy[None, :-1, None])).numpy()[0, :, 0]
    error = np.sqrt(np.mean((predicted[50:] - clean[51:]) ** 2))
    naive = np.sqrt(np.mean((noisy[50:-1] - clean[51:]) ** 2))
    print(f"held-out signal: prediction error {error:.4f}, persistence {naive:.4f} (rms)")


if __name__ == "__main__":
    main()
