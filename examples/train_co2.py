# SPDX-License-Identifier: MIT
"""Forecast a year of atmospheric CO2, twelve months at once, beside a seasonal naive baseline.

    python examples/train_co2.py

The data are the weekly readings of Mauna Loa, 1958-2001 (``statsmodels.datasets.co2``; pip install
statsmodels), as means of months. An LSTM reads 36 months, each as the change since the month a year
before, and predicts those changes for the next twelve. The last ten years are the test; the
baselines are the value a year ago, and that plus the mean change of the last year.

Result (seed 0): mean absolute error 0.64 ppm; 1.57 for the value a year ago, 0.77 with drift. It is
ahead at every horizon: 0.38 against 0.54 after one month, 0.80 against 0.93 after twelve.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from example_parts import figure, options, save, table

import gruengine as gr

PAST, AHEAD, TEST_YEARS = 36, 12, 10


def months(path: str | None) -> np.ndarray:
    """Return the series by month: from statsmodels, or one number a line from a file."""
    if path is not None:
        return np.loadtxt(Path(path), dtype=np.float64)
    try:
        from statsmodels.datasets import co2
    except ImportError as error:
        raise SystemExit("this example needs its data: pip install statsmodels") from error
    frame = co2.load_pandas().data["co2"]
    return frame.resample("MS").mean().interpolate().to_numpy()


def windows(series: np.ndarray, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``[N, PAST, 1]`` and ``[N, AHEAD]`` for forecasts made at months first..last-1."""
    change = series[12:] - series[:-12]  # change[t] belongs to month t + 12
    at = np.arange(first, last)
    x = np.stack([change[t - 12 - PAST : t - 12] for t in at])
    y = np.stack([change[t - 12 : t - 12 + AHEAD] for t in at])
    return x[..., None].astype(np.float32), y.astype(np.float32)


def main() -> None:
    chosen = options(__doc__, data="file of the series, one month a line")
    series = months(chosen.data)
    cut = len(series) - 12 * TEST_YEARS
    train_x, train_y = windows(series, PAST + 12, cut - AHEAD + 1)
    test_x, _ = windows(series, cut, len(series) - AHEAD + 1)
    mean, scale = train_y.mean(), train_y.std()
    held = max(len(train_x) // 8, 1)
    net = gr.Sequential([gr.LSTM(32), gr.Dropout(0.1), gr.Dense(AHEAD)], 1, seed=chosen.seed)
    trainer = gr.Trainer(net, "mse", gr.optimizers.AdamW(3e-3), clip_norm=1.0, seed=chosen.seed)
    scaled = [(a - mean) / scale for a in (train_x, train_y)]
    history = trainer.fit(
        scaled[0][:-held], scaled[1][:-held], epochs=2 if chosen.quick else 300, batch_size=32,
        validation=(scaled[0][-held:], scaled[1][-held:]), patience=40,
    )  # fmt: skip
    print(f"{len(history.rows)} epochs, the best was {history.best + 1}")
    at = np.arange(cut, len(series) - AHEAD + 1)
    truth = np.stack([series[t : t + AHEAD] for t in at])
    year_ago = np.stack([series[t - 12 : t] for t in at])
    drift = np.array([np.mean(series[t - 12 : t] - series[t - 24 : t - 12]) for t in at])
    forecasts = {
        "LSTM": year_ago + net((test_x - mean) / scale) * scale + mean,
        "year ago": year_ago,
        "year ago + drift": year_ago + drift[:, None],
    }
    rows = []
    for name, found in forecasts.items():
        error = found - truth
        rows.append([name, float(np.abs(error).mean()), float(np.sqrt((error**2).mean())),
                     *(float(np.abs(error[:, month]).mean()) for month in (0, 5, 11))])  # fmt: skip
    table(chosen.out / "co2.md",
          ["forecast", "MAE, ppm", "RMSE", "1 month", "6 months", "12 months"], rows)  # fmt: skip
    made, ax = figure()
    tail = np.arange(len(series) - 48, len(series))
    ax.plot(tail, series[tail], color="#000000", label="measured")
    for name in forecasts:
        ax.plot(np.arange(at[-1], at[-1] + AHEAD), forecasts[name][-1], label=name)
    ax.set_xlabel("month")
    ax.set_ylabel("CO2, ppm")
    ax.legend()
    save(made, chosen.out / "co2.png")


if __name__ == "__main__":
    main()
