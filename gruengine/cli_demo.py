# SPDX-License-Identifier: MIT
"""``gruengine demo``: a small trained model, converted, verified, streamed and timed.

The model is an LSTM of 32 units that predicts a noisy signal one sample ahead
(``examples/train_demo.py`` trains it); it ships as ``.onnx`` and as a PyTorch ``.pt``.
"""

from __future__ import annotations

import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gruengine.cli_text import fields, seconds, spark
from gruengine.errors import UnsupportedError

if TYPE_CHECKING:
    from gruengine.model import Model

Array = np.ndarray[Any, Any]

#: What a state_dict does not say.
CHECKPOINT_HINTS = {"batch_first": True, "output": "sequence", "activations": {"head": "none"}}
#: The first predictions are made before the network has seen enough.
WARM_UP = 50
_PLOTTED = slice(300, 364)


def demo_file(name: str) -> Path:
    """Return the path of ``demo.onnx``, ``demo.pt`` or ``demo_signal.npy``."""
    return Path(str(resources.files("gruengine") / "data" / name))


def errors_of(predicted: Array, signal: Array) -> tuple[float, float]:
    """Return the rms error of a prediction, and of taking each sample for the next one.

    Parameters
    ----------
    predicted : [T], made from samples 0 to t for t + 1
    signal : [T, 2], noisy and clean
    """
    clean = signal[WARM_UP + 1 :, 1]
    found = np.sqrt(np.mean((predicted[WARM_UP:-1] - clean) ** 2))
    naive = np.sqrt(np.mean((signal[WARM_UP:-1, 0] - clean) ** 2))
    return float(found), float(naive)


def demo() -> int:
    """Run the demo and return the exit code: 1 if a check failed."""
    import gruengine

    info = gruengine.info()
    print(f"gruengine {info['version']}, {info['isa']}")
    print("an LSTM of 32 units predicts a noisy signal one sample ahead\n")
    with tempfile.TemporaryDirectory() as folder:
        models = [
            _convert("demo.onnx", folder),
            _convert("demo.pt", folder, **CHECKPOINT_HINTS),
        ]
        ok = _verify(folder)
        signal = np.load(demo_file("demo_signal.npy"))
        ok = _stream(models, signal) and ok
        _time(models[0], signal)
    if ok:
        print("\nNext: gruengine inspect YOUR_MODEL.onnx, gruengine convert YOUR_MODEL.onnx OUT")
    return 0 if ok else 1


def _convert(name: str, folder: str, **hints: Any) -> Model:
    import gruengine
    from gruengine.conversion import convert

    target = Path(folder) / (name.replace(".", "_") + ".safetensors")
    report = convert(demo_file(name), target, **hints)
    _say(
        f"convert {name}",
        f"{report.parameters:,} parameters, {report.nodes_before or '?'} -> {report.nodes_after} "
        f"nodes, largest error {report.parity_error:.1e}",
    )
    return gruengine.load(target)


def _verify(folder: str) -> bool:
    from gruengine.conversion import verify

    target = Path(folder) / "demo_onnx.safetensors"
    try:
        report = verify(target, demo_file("demo.onnx"))
    except UnsupportedError:
        # ONNX Runtime is not installed: the float64 reference alone remains.
        report = verify(target)
    for check in report.checks:
        _say(
            "verify",
            f"against {check.against}: {check.max_abs_error:.1e} of {check.tolerance:.1e} allowed"
            f"{'' if check.passed else '  FAILED'}",
        )
    return report.passed


def _stream(models: list[Model], signal: Array) -> bool:
    x = np.ascontiguousarray(signal[None, :, :1])
    whole = np.asarray(models[0](x))
    one = models[0].stream()
    # A stream hands out its own buffer or a new array; either way a copy is kept.
    steps = np.array([one.step(x[:, t]).copy() for t in range(x.shape[1])])[:, 0, 0]
    other = np.asarray(models[1](x))
    same_bits = np.array_equal(steps, whole[0, :, 0])
    same_files = float(np.max(np.abs(other - whole)))
    error, naive = errors_of(steps, signal)
    _say("stream", f"{len(steps)} samples one by one; the same bits as one call: {same_bits}")
    _say("formats", f".onnx and .pt differ by {same_files:.1e}")
    _say("accuracy", f"rms error {error:.3f}; repeating the last sample {naive:.3f}")
    seen, said = signal[_PLOTTED, 0], steps[_PLOTTED.start - 1 : _PLOTTED.stop - 1]
    low, high = float(seen.min()), float(seen.max())
    print()
    print(fields([
        ("measured", spark(seen.tolist(), low, high)),
        ("predicted", spark(said.tolist(), low, high)),
        ("truth", spark(signal[_PLOTTED, 1].tolist(), low, high)),
    ]))  # fmt: skip
    print()
    return same_bits and same_files < 1e-5 and error < naive


def _time(model: Model, signal: Array) -> None:
    from gruengine.cli_bench import measure
    from gruengine.verify_source import onnx_session

    x = np.ascontiguousarray(signal[None, :, :1])
    frame, stream = np.ascontiguousarray(x[:, 0]), model.stream()
    calls = [lambda: stream.step(frame), lambda: model(x)]
    try:
        session = onnx_session(str(demo_file("demo.onnx")))
        one = np.ascontiguousarray(x[:, :1])
        calls += [lambda: session.run(None, {"x": one}), lambda: session.run(None, {"x": x})]
    except UnsupportedError:
        pass
    times = measure(calls, 9)
    names = ["step", f"{x.shape[1]} samples in one call"]
    for i, name in enumerate(names):
        beside = f"; ONNX Runtime {seconds(times[i + 2])}" if len(times) > 2 else ""
        _say(name if i == 0 else "sequence", f"{seconds(times[i])}{beside}")


def _say(label: str, text: str) -> None:
    print(f"  {label:<18}{text}", flush=True)
