# SPDX-License-Identifier: MIT
"""The exceptions of gruengine. Each is also the built-in that a Python user would catch."""

from __future__ import annotations


class GruEngineError(Exception):
    """Base of every error that gruengine raises on purpose."""


class InvalidInputError(GruEngineError, ValueError):
    """A value, shape or name that the call does not allow."""


class InvalidTypeError(GruEngineError, TypeError):
    """A dtype or memory layout that the call does not allow."""


class ModelFileError(GruEngineError, ValueError):
    """A file that breaks its format."""


class UnsupportedError(GruEngineError, ValueError):
    """A valid model or request that this version does not run."""


class StreamBusyError(GruEngineError, RuntimeError):
    """A stream used by two callers at once."""


class Overloaded(GruEngineError, RuntimeError):  # noqa: N818
    """No room: every place of a pool is taken, or the queue of a scheduler is full."""


class DeadlineError(GruEngineError, TimeoutError):
    """A step that was not begun in the time it was given; the state is unchanged."""


class SchedulerClosedError(GruEngineError, RuntimeError):
    """A scheduler that was shut down takes no more steps."""


class FileAccessError(GruEngineError, OSError):
    """The operating system refused to open, read or write a file."""


class DivergenceError(GruEngineError, FloatingPointError):
    """NaN or infinity in training; the parameters are those before the step.

    Attributes
    ----------
    step : int
        Updates before it.
    layer : str
        Where it was first seen: a layer, ``"x"`` or ``"loss"``.
    checkpoint : str or None
        The last good checkpoint.
    """

    def __init__(self, message: str, step: int, layer: str, checkpoint: str | None = None) -> None:
        super().__init__(message)
        self.step, self.layer, self.checkpoint = step, layer, checkpoint


class InternalError(GruEngineError, RuntimeError):
    """A broken invariant inside gruengine: please report it."""
