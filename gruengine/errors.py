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


class FileAccessError(GruEngineError, OSError):
    """The operating system refused to open, read or write a file."""


class InternalError(GruEngineError, RuntimeError):
    """A broken invariant inside gruengine: please report it."""
