# SPDX-License-Identifier: MIT
"""gruengine: LSTM, GRU and RNN models on the CPU; convert, run, stream.

>>> import gruengine as gr
>>> net = gr.Sequential([gr.LSTM(32, return_sequences=True), gr.Dense(1)], input_size=8)
>>> stream = net.stream()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

try:
    from gruengine import _core  # noqa: F401
except ImportError as error:  # a source folder that shadows the package, or a broken install
    raise ImportError(
        "gruengine's compiled core is missing: install the package (pip install .), and do not "
        "import it from the root of its source tree"
    ) from error

from gruengine.accuracy import accuracy
from gruengine.conversion import convert, from_torch, verify
from gruengine.converters.base import ConversionError, ConversionReport
from gruengine.errors import (
    DeadlineError,
    DivergenceError,
    FileAccessError,
    GruEngineError,
    InternalError,
    InvalidInputError,
    InvalidTypeError,
    ModelFileError,
    Overloaded,
    SchedulerClosedError,
    StreamBusyError,
    UnsupportedError,
)
from gruengine.export import export
from gruengine.layer_base import Pass, State
from gruengine.layers import (
    GRU,
    LSTM,
    RNN,
    Activation,
    Dense,
    Dropout,
    Embedding,
    LayerNorm,
    Sequential,
    Softmax,
)
from gruengine.model import Model, Signature, Stream, Streamable, load
from gruengine.pool import Pool
from gruengine.runtime import info, isa
from gruengine.scheduler import Scheduler
from gruengine.spec import ModelSpec

if TYPE_CHECKING:
    from gruengine.encoder_decoder import EncoderDecoder
    from gruengine.rtrl import RTRL
    from gruengine.trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "RTRL",
    "Activation",
    "ConversionError",
    "ConversionReport",
    "DeadlineError",
    "Dense",
    "DivergenceError",
    "Dropout",
    "Embedding",
    "EncoderDecoder",
    "FileAccessError",
    "GruEngineError",
    "InternalError",
    "InvalidInputError",
    "InvalidTypeError",
    "LayerNorm",
    "Model",
    "ModelFileError",
    "ModelSpec",
    "Overloaded",
    "Pass",
    "Pool",
    "Scheduler",
    "SchedulerClosedError",
    "Sequential",
    "Signature",
    "Softmax",
    "State",
    "Stream",
    "StreamBusyError",
    "Streamable",
    "Trainer",
    "UnsupportedError",
    "accuracy",
    "convert",
    "export",
    "from_torch",
    "info",
    "isa",
    "load",
    "verify",
]


# Where the names of training live.
_TRAINING = {
    "EncoderDecoder": "encoder_decoder",
    "RTRL": "rtrl",
    "Trainer": "trainer",
}


def __getattr__(name: str) -> Any:
    """Import training, and what needs a package beside NumPy, when it is first asked for."""
    import importlib

    if name in ("diagnostics", "hub", "initializers", "losses", "metrics", "optimizers", "torch"):
        return importlib.import_module(f"gruengine.{name}")
    if name in _TRAINING:
        return getattr(importlib.import_module(f"gruengine.{_TRAINING[name]}"), name)
    raise AttributeError(f"module 'gruengine' has no attribute {name!r}")
