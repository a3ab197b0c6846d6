# SPDX-License-Identifier: MIT
"""Out of gruengine: a model as ONNX, or its weights as PyTorch and Keras keep them."""

from __future__ import annotations

import os
from typing import Any

from gruengine import safetensors, spec_file
from gruengine.converters.to_keras import to_keras, weights_h5, weights_npz
from gruengine.converters.to_onnx import to_onnx
from gruengine.converters.to_torch import to_state_dict
from gruengine.errors import InvalidInputError, InvalidTypeError
from gruengine.spec import ModelSpec

#: Ending of a file -> what is written.
ENDINGS = {
    ".onnx": "onnx",
    ".weights.h5": "keras-h5",
    ".npz": "keras",
    ".safetensors": "torch",
}


def export(model: Any, path: str | os.PathLike[str], *, format: str | None = None) -> None:  # noqa: A002
    """Write a model in another format, exactly or not at all.

    Parameters
    ----------
    model : Model, ModelSpec, Sequential, EncoderDecoder, path or bytes
        A path or bytes: of a model file, or of any source that ``convert`` reads without hints.
    path : path
        Replaced as a whole, or left alone if anything fails.
    format : {"onnx", "torch", "keras", "keras-h5"}, optional
        By default from the ending of ``path``: ``.onnx`` is ONNX of opset 17, ``.safetensors`` a
        PyTorch state dict, ``.npz`` and ``.weights.h5`` are weights of Keras.

    Raises
    ------
    ConversionError
        What the format cannot say exactly; every reason is listed.
    InvalidInputError
        An ending or a format that is not known.
    UnsupportedError
        ``.weights.h5`` without h5py.
    FileAccessError
        The operating system refuses to write; an old file is untouched.
    """
    kind = format or format_of(path)
    if kind not in ENDINGS.values():
        raise InvalidInputError(
            f"format {kind!r} for {os.fspath(path)!r}; allowed: {', '.join(ENDINGS.values())}, or "
            f"a file that ends in {', '.join(ENDINGS)}"
        )
    spec = spec_of(model)
    name = str(spec.provenance.get("name") or "model")
    if kind == "onnx":
        data = to_onnx(spec, name)
    elif kind == "torch":
        pieces = safetensors.pieces(to_state_dict(spec, name), {"format": "pt"})
        data = b"".join(pieces)
    else:
        layers = to_keras(spec, name)
        data = weights_npz(layers) if kind == "keras" else weights_h5(layers)
    spec_file.save(path, [data])


def export_file(source: str, path: str, **options: Any) -> None:
    """Read ``source`` with the options of ``convert`` and export it by the ending of ``path``."""
    from gruengine.conversion import read_spec
    from gruengine.converters import is_model_file

    given = {key: value for key, value in options.items() if value}
    if is_model_file(source) and given:
        raise InvalidInputError(f"a model file takes no options; got {sorted(given)}")
    export(read_spec(source, **given), path)


def format_of(path: str | os.PathLike[str]) -> str | None:
    """Return the format that the ending of a path stands for, None if it stands for none."""
    name = os.path.basename(os.fspath(path)).lower()
    return next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)


def spec_of(model: Any) -> ModelSpec:
    """Return the spec of anything that has one.

    Raises
    ------
    InvalidTypeError
        Something else.
    """
    from gruengine.conversion import read_spec
    from gruengine.encoder_decoder import EncoderDecoder
    from gruengine.layers import Sequential
    from gruengine.model import Model

    if isinstance(model, ModelSpec):
        return model
    if isinstance(model, Model):
        return model.spec
    if isinstance(model, (Sequential, EncoderDecoder)):
        return model.spec()
    if isinstance(model, (str, os.PathLike, bytes)):
        return read_spec(model)
    raise InvalidTypeError(
        f"a {type(model).__name__}; it must be a Model, a ModelSpec, a Sequential, an "
        "EncoderDecoder or a path"
    )
