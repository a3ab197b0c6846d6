# SPDX-License-Identifier: MIT
"""Modules and their accelerated copies: what the tests of ``gruengine.torch`` share."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn

import gruengine as gr

TOLERANCE = 2e-6
I, H = 7, 11
LAYERS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
CELLS = {"rnn": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}


def pair(module):
    """The original and an accelerated copy."""
    module.eval()
    return module, gr.torch.accelerate(copy.deepcopy(module))


def states(kind, *lead, width=H):
    h = torch.randn(*lead, width)
    return (h, torch.randn(*lead, H)) if kind == "lstm" else h


def flat(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, tuple):
        return [one for part in value for one in flat(part)]
    return []


def assert_same(found, expected):
    assert len(flat(found)) == len(flat(expected)) > 0
    for a, b in zip(flat(found), flat(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert (a.double() - b.double()).abs().max() <= TOLERANCE


def quiet_engine(module, *arguments):
    """Call the module; fail if it went to PyTorch."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return module(*arguments)
