# SPDX-License-Identifier: MIT
"""Modules, files and runs that the tests of the PyTorch converter share."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gruengine.converters.base import ConversionError, ConversionReport, Options
from gruengine.converters.torch import read_checkpoint, read_module
from gruengine.reference_graph import run_graph
from gruengine.spec import ModelSpec

N, T, I, H = 3, 7, 5, 6


def saved(value: Any, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def from_state(
    state: Any, legacy: bool = False, **hints: Any
) -> tuple[ModelSpec, ConversionReport]:
    return read_checkpoint(
        saved(state, legacy), path=None, name="model", options=Options(hints=hints)
    )


def from_module(
    module: nn.Module, example_inputs: Any = None, **hints: Any
) -> tuple[ModelSpec, ConversionReport]:
    return read_module(
        module, name="model", options=Options(hints=hints), example_inputs=example_inputs
    )


def reasons_of(state: Any, **hints: Any) -> list[str]:
    with pytest.raises(ConversionError) as caught:
        from_state(state, **hints)
    return [str(reason) for reason in caught.value.reasons]


def run(spec: ModelSpec, x: torch.Tensor) -> np.ndarray[Any, Any]:
    return run_graph(spec.graph, spec.tensors, {"x": x.numpy()})["y"]


def in_float64(module: nn.Module, x: torch.Tensor) -> Any:
    """Run a float64 copy of ``module`` in eval mode."""
    module = module.double().eval()
    with torch.no_grad():
        return module(x.double() if x.is_floating_point() else x)


def sequence(batch_first: bool = False) -> torch.Tensor:
    return torch.randn((N, T, I) if batch_first else (T, N, I))


class Model(nn.Module):  # type: ignore[misc]
    """Embedding or not, LSTM or GRU, then a head: what people train."""

    def __init__(self, rnn: nn.Module, output: str, embedding: bool, batch_first: bool) -> None:
        super().__init__()
        width = rnn.hidden_size * (2 if rnn.bidirectional else 1)
        if embedding:
            self.embedding = nn.Embedding(11, I)
        self.rnn = rnn
        self.norm = nn.LayerNorm(width, eps=1e-3)
        self.fc1 = nn.Linear(width, 4)
        self.bn = nn.BatchNorm1d(4)
        self.fc2 = nn.Linear(4, 2, bias=False)
        self.output = output
        self.batch_first = batch_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if hasattr(self, "embedding"):
            x = self.embedding(x)
        y, last = self.rnn(x)
        h = last[0] if isinstance(last, tuple) else last
        if self.output == "last":
            y = torch.cat(list(h[-2:]), -1) if self.rnn.bidirectional else h[-1]
        elif self.output == "last_step":
            y = y[:, -1] if self.batch_first else y[-1]
        y = torch.relu(self.fc1(self.norm(y)))
        y = self.bn(y) if y.dim() == 2 else self.bn(y.permute(0, 2, 1)).permute(0, 2, 1)
        return torch.log_softmax(self.fc2(y), -1)


class First(nn.Module):  # type: ignore[misc]
    """Let torch run a Sequential whose recurrent modules return tuples."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.inner, nn.Sequential):
            for module in self.inner:
                x = First(module)(x)
            return x
        result = self.inner(x)
        return result[0] if isinstance(result, tuple) else result
