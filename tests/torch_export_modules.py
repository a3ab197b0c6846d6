# SPDX-License-Identifier: MIT
"""Modules of torch.nn for the tests of traced modules, added to the cases."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch_export_cases import CASES, Case, ints, positive, x

MODULES: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor]]] = {
    "linear": (lambda: nn.Linear(6, 3), x(3, 4, 6)),
    "linear_bare": (lambda: nn.Linear(6, 3, bias=False), x(3, 6)),
    "bilinear": (lambda: _Bilinear(), x(3, 6)),
    "layer_norm": (lambda: nn.LayerNorm(6), x(3, 4, 6)),
    "layer_norm_two": (lambda: nn.LayerNorm((4, 6), elementwise_affine=False), x(3, 4, 6)),
    "rms_norm": (lambda: nn.RMSNorm(6), x(3, 4, 6)),
    "batch_norm": (lambda: nn.BatchNorm1d(6), x(3, 6)),
    "batch_norm_bare": (lambda: nn.BatchNorm1d(4, affine=False), x(3, 4, 6)),
    "batch_norm2d": (lambda: nn.BatchNorm2d(4), x(2, 4, 5, 3)),
    "group_norm": (lambda: nn.GroupNorm(2, 4), x(3, 4, 6)),
    "instance_norm": (lambda: nn.InstanceNorm1d(4, affine=True), x(3, 4, 6)),
    "prelu": (lambda: nn.PReLU(4), x(3, 4, 6)),
    "prelu_one": (lambda: nn.PReLU(), x(3, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), x(3, 4, 9)),
    "conv1d_stride": (lambda: nn.Conv1d(4, 6, 3, stride=2, dilation=2, groups=2), x(3, 4, 9)),
    "conv1d_same": (lambda: nn.Conv1d(4, 2, 4, padding="same", bias=False), x(3, 4, 9)),
    "conv1d_reflect": (lambda: nn.Conv1d(4, 2, 3, padding=1, padding_mode="reflect"), x(3, 4, 9)),
    "conv1d_alone": (lambda: nn.Conv1d(4, 2, 3), x(4, 9)),
    "conv1d_depth": (lambda: nn.Conv1d(4, 4, 3, groups=4), x(3, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(2, 3, (3, 2), stride=(1, 2), padding=(1, 0)), x(2, 2, 7, 6)),
    "conv2d_same": (lambda: nn.Conv2d(2, 3, 3, padding="same", dilation=2), x(2, 2, 7, 6)),
    "max_pool1d": (lambda: nn.MaxPool1d(3, 2, 1), x(3, 4, 9)),
    "max_pool1d_plain": (lambda: nn.MaxPool1d(2), x(3, 4, 9)),
    "max_pool2d": (lambda: nn.MaxPool2d(2, dilation=(1, 2)), x(2, 3, 8, 7)),
    "avg_pool1d": (lambda: nn.AvgPool1d(3, 2, 1, count_include_pad=False), x(3, 4, 9)),
    "avg_pool2d": (lambda: nn.AvgPool2d((2, 3), 2), x(2, 3, 8, 7)),
    "adaptive_avg": (lambda: nn.AdaptiveAvgPool1d(1), x(3, 4, 9)),
    "adaptive_max": (lambda: nn.AdaptiveMaxPool2d(1), x(2, 3, 8, 7)),
    "adaptive_two": (lambda: nn.Sequential(nn.Flatten(1), nn.AdaptiveAvgPool1d(4)), x(3, 2, 4)),
    "upsample": (lambda: nn.Upsample(scale_factor=2), x(2, 3, 5)),
    "pixel_shuffle": (lambda: nn.PixelShuffle(2), x(2, 4, 3, 5)),
    "mha": (lambda: _Attends(nn.MultiheadAttention(6, 2, batch_first=True)), x(3, 4, 6)),
    "transformer": (lambda: nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), x(3, 4, 6)),
    "weight_norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 3)), x(3, 6)),
    "embedding": (lambda: nn.Embedding(9, 4), ints(9, 3, 5)),
    "embedding_sum": (lambda: _Bag(), ints(9, 3, 5)),
    "softmax2d": (lambda: nn.Softmax2d(), x(2, 3, 4, 5)),
}


class _Bilinear(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Bilinear(6, 6, 3)

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        return self.inner(a, a.tanh())


class _Attends(nn.Module):  # type: ignore[misc]
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, a: torch.Tensor) -> torch.Tensor:
        return self.inner(a, a, a, need_weights=False)[0]


class _Bag(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)

    def forward(self, i: torch.Tensor) -> torch.Tensor:
        return self.table(i).sum(1)


def _module_case(make: Callable[[], nn.Module], example: Callable[[], torch.Tensor]) -> Case:
    torch.manual_seed(1)
    module = make()
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            if value.is_floating_point():
                value.copy_(positive(*value.shape) * 0.5)
    return module, (example(),)


for _name, (_make, _example) in MODULES.items():
    CASES[f"module_{_name}"] = lambda make=_make, example=_example: _module_case(make, example)
