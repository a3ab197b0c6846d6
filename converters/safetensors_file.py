# SPDX-License-Identifier: MIT
"""Weights in a safetensors file, as named arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from gruengine import safetensors
from gruengine.errors import ModelFileError

#: Bytes of header for some 80,000 tensors; the format allows far more than any model of this kind.
MAX_HEADER = 1 << 23


def read_weights(source: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Return the tensors of a safetensors file by name; bfloat16 as float32.

    Their order is that of the bytes, which tells nothing about the model.

    Raises
    ------
    ModelFileError
        The file breaks the format, or its header is larger than ``MAX_HEADER``.
    """
    length = int.from_bytes(source[:8], "little")
    if length > MAX_HEADER:
        raise ModelFileError(f"a header of {length} bytes; allowed are {MAX_HEADER}")
    tensors, _ = safetensors.read(source)
    return tensors
