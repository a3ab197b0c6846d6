# SPDX-License-Identifier: MIT
"""The list of cases: the field's standard configurations and what we ask of ourselves there.

DeepBench's lists: github.com/baidu-research/DeepBench (I = H; its rule leaves the input products
out of the time, we count them; of several lengths the shortest is run). The streaming stacks:
vollo.myrtle.ai, benchmark-lstm (L layers, a linear layer to 32, batch 1, one step). The small
sizes: github.com/jatinchowdhury18/RTNeural-compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from benchmarks.cases import Case, File, Stack

RUN, BINDING = "onnxruntime", "onnxruntime-binding"
INT8, TORCH_INT8 = "onnxruntime-int8", "torch-int8"
OPENVINO_BF16 = "openvino-bf16"
CELLS = ("LSTM", "GRU")

# What a step of one row asks for in float32: against run(), and against IO binding.
_STEP = {8: (), 16: (), 32: (20, 10), 64: (9, 5), 128: (3.5, 2), 256: (1.7, 1.3), 512: (), 1024: ()}
_INT8_STEP = {64: (15, 15), 128: (9, 0), 256: (10, 4), 512: (7, 1.7), 1024: (4, 1.2)}
_BF16_STEP = {64: (0, 1.5), 128: (0, 1.5), 256: (4, 1.5), 512: (2.2, 1.5), 1024: (2, 1.5)}
_SEQUENCE = {64: 1.3, 128: 1.6, 256: 1.2}


def _targets(**given: float) -> dict[str, float]:
    return {name.replace("_", "-"): value for name, value in given.items() if value}


def _steps() -> list[Case]:
    cases = []
    for kind in CELLS:
        for H, asked in _STEP.items():
            run, binding = asked or (1, 1)
            targets = _targets(onnxruntime=run, onnxruntime_binding=binding, torch=1)
            name = f"{kind} step H={H}"
            stack = (Stack(kind, H),)
            cases.append(
                Case(name, "step", stack, True, targets=targets, quick=H in (32, 128, 512))
            )
    return cases


def _low_steps() -> list[Case]:
    cases = []
    for kind in CELLS:
        for H, (run, best) in _INT8_STEP.items():
            rivals = {TORCH_INT8: best, **({INT8: best} if kind == "LSTM" else {})}
            targets = {RUN: run, **{name: value for name, value in rivals.items() if value}}
            cases.append(_low(kind, H, "int8", targets))
        for H, (run, best) in _BF16_STEP.items():
            targets = {**({RUN: run} if run else {}), OPENVINO_BF16: best}
            cases.append(_low(kind, H, "bfloat16", targets))
    return cases


def _low(kind: str, H: int, compute_type: str, targets: Mapping[str, float]) -> Case:
    name = f"{kind} step H={H} {compute_type}"
    found = Case(name, "step", (Stack(kind, H),), True, targets=targets, quick=H == 256)
    return replace(found, compute_type=compute_type)


def _sequences() -> list[Case]:
    cases = []
    for kind in CELLS:
        for H, run in _SEQUENCE.items():
            name, stack = f"{kind} sequence H={H} T=100", (Stack(kind, H),)
            targets = _targets(onnxruntime=run, torch=1)
            cases.append(Case(name, "sequence", stack, False, T=100, targets=targets))
    large = (Stack("LSTM", 512),)
    name = "LSTM sequence H=512 T=100"
    one = Case(name, "sequence", large, False, T=100, targets=_targets(onnxruntime=1, torch=1))
    low = replace(one, name=f"{name} int8", compute_type="int8", targets={RUN: 15, INT8: 2})
    two = replace(one, name=f"{name}, 2 threads", threads=2, targets={"gruengine-float32": 2})
    return [*cases, one, low, two]


def _batched() -> list[Case]:
    cases = []
    for kind in CELLS:
        for H in (256, 512):
            for N in (16, 32):
                stack, targets = (Stack(kind, H),), _targets(onnxruntime=1.2, torch=1)
                name = f"{kind} batched {{}} H={H} N={N}"
                cases.append(Case(name.format("step"), "batched", stack, True, N, 1, targets))
                cases.append(
                    Case(name.format("sequence") + " T=50", "batched", stack, False, N, 50, targets)
                )
    asked = {
        "bfloat16": {RUN: 6, OPENVINO_BF16: 1.8},
        "int8": {RUN: 10},
        "bf16x3": {RUN: 1, "gruengine-float32": 2},
    }
    for compute_type, targets in asked.items():
        name = f"LSTM batched sequence H=512 N=32 T=50 {compute_type}"
        stack = (Stack("LSTM", 512),)
        cases.append(Case(name, "batched", stack, False, 32, 50, targets, compute_type))
    for compute_type in ("float32", "bfloat16", "int8"):
        for N in (1, 2, 4, 8, 16, 32, 64):
            name = f"LSTM streams H=256 N={N} {compute_type}"
            stack = (Stack("LSTM", 256),)
            cases.append(
                Case(name, "streams", stack, True, N, 1, {}, compute_type, quick=N in (1, 16))
            )
    return cases


# Layers and H; the figure of int8 that the smallest is measured against is 1.9-2.8 us.
_VOLLO = {
    "lstm_tiny": (2, 128), "lstm_small": (3, 256), "lstm_med": (3, 480),
    "lstm_med_deep": (6, 320), "lstm_large": (3, 960),
}  # fmt: skip


def _vollo() -> list[Case]:
    cases = []
    for name, (layers, H) in _VOLLO.items():
        for compute_type in ("float32", "bfloat16", "int8"):
            stack = (Stack("LSTM", H, layers, dense=32),)
            one = Case(f"{name} {compute_type}", "vollo", stack, True, targets={RUN: 1})
            cases.append(replace(one, compute_type=compute_type, quick=name == "lstm_tiny"))
    return cases


_SERVER = {"LSTM": ((512, 25), (1024, 25), (2048, 25), (1536, 50), (256, 150)),
           "GRU": ((2816, 187), (2560, 187), (2048, 187), (1536, 187), (512, 1))}  # fmt: skip
_DEVICE = (("RNN", 32, 672), ("RNN", 64, 96), ("LSTM", 256, 150))


def _deepbench() -> list[Case]:
    cases = []
    for kind, sizes in _SERVER.items():
        for H, T in sizes:
            for N in (1, 2, 4):
                name = f"DeepBench server {kind} H={H} N={N} T={T}"
                cases.append(_slow(name, "deepbench", Stack(kind, H), N, T))
    for kind, H, T in _DEVICE:
        name = f"DeepBench device {kind} H={H} T={T}"
        cases.append(_slow(name, "deepbench", Stack(kind, H), 1, T))
    return cases


def _slow(name: str, group: str, stack: Stack, N: int, T: int) -> Case:
    targets = _targets(onnxruntime=1, torch=1)
    return Case(name, group, (stack,), False, N, T, targets, quick=False)


def _small() -> list[Case]:
    """Return audio effects: one input, few units, a linear layer to one output."""
    return [
        Case(f"{kind} audio H={H}", "audio", (Stack(kind, H, inputs=1, dense=1),), True,
             targets=_targets(onnxruntime=1, torch=1), quick=H == 16)
        for kind in CELLS for H in (8, 16, 32, 64)
    ]  # fmt: skip


def _native() -> list[Case]:
    """Return steps from C: the sizes of RTNeural, and of audio effects with one input."""
    return [
        Case(f"{kind} {what} H={H}, from C", "native", (Stack(kind, H, inputs=inputs),), True,
             targets={"rtneural": 1}, quick=H == 16, native=True)
        for kind in CELLS for what, inputs in (("step", 0), ("audio", 1)) for H in (8, 16, 32, 64)
    ]  # fmt: skip


def _dtln(
    stage: int, size: int, inputs: tuple[str, str], outputs: tuple[str, str], weights: int
) -> File:
    state = ((inputs[1], outputs[1], (1, 2, 128, 2)),)
    path = f"dtln/model_{stage}.onnx"
    return File(path, inputs[0], (1, 1, size), outputs[0], state, weights, weights)


_DTLN1 = _dtln(1, 257, ("input_2", "input_3"), ("activation_2", "tf_op_layer_stack_2"), 361_984)
_DTLN2 = _dtln(2, 512, ("input_4", "input_5"), ("conv1d_3", "tf_op_layer_stack_5"), 622_592)


def _silero(frames: int) -> File:
    state = (("h", "hn", (1, 1, 128)), ("c", "cn", (1, 1, 128)))
    path = "silero/silero_vad_v6_sequence.onnx"
    return File(path, "input", (frames, 576), "speech_probs", state, 309_500, 680_000 * frames)


_SILERO_CALL = File(
    "silero/silero_vad_v6.2.onnx",
    "input",
    (1, 576),
    "output",
    (("state", "stateN", (2, 1, 128)),),
    309_500,
    680_000,
    {"sr": 16000},
)


def _models() -> list[Case]:
    both = (_DTLN1, _DTLN2)
    cases = [
        Case("DTLN block, both stages", "model", both, True, targets={RUN: 3}),
        Case("DTLN stage 1", "model", (_DTLN1,), True, targets={RUN: 1}),
        Case("DTLN stage 2", "model", (_DTLN2,), True, targets={RUN: 1}),
        Case("Silero v6 frame by frame", "model", (_silero(1),), True, targets={RUN: 1.5}),
        Case("Silero v6 T=100", "model", (_silero(100),), False, T=100, targets={RUN: 1.5}),
        Case("Silero v6.2 call", "model", (_SILERO_CALL,), True, targets={RUN: 1}),
    ]
    for compute_type in ("bfloat16", "int8"):
        name = f"DTLN block, both stages {compute_type}"
        cases.append(Case(name, "model", both, True, targets={RUN: 3}, compute_type=compute_type))
    return cases


def catalogue() -> list[Case]:
    """Return every case, in the order of the report."""
    layers = (_steps, _low_steps, _sequences, _batched)
    lists = (_vollo, _deepbench, _small, _native, _models)
    return [case for group in (*layers, *lists) for case in group()]
