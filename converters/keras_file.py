# SPDX-License-Identifier: MIT
"""The files of Keras: archives (``.keras``) and HDF5 (``.h5``), taken apart without trust."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from gruengine.converters import hdf5
from gruengine.converters.hdf5 import Group
from gruengine.converters.keras_base import Era
from gruengine.converters.zip_reader import ZipArchive
from gruengine.errors import ModelFileError, UnsupportedError

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
PICKLED = "model.weights.npz"
MAX_JSON = 64 << 20


@dataclass(frozen=True)
class KerasFile:
    """What a file holds.

    config : ``{"class_name": ..., "config": ...}`` of the model, None of weights alone
    version : of Keras, as written, "" where it is not
    weights : the group of all arrays
    """

    kind: str
    config: Any
    version: str
    weights: Group

    def numbers(self) -> tuple[int, int]:
        """Return the first two numbers of the version; (3, 0) where the file does not say."""
        match = re.match(r"(\d{1,4})(?:\.(\d{1,4}))?", self.version)
        return (int(match[1]), int(match[2] or 0)) if match else (3, 0)

    def era(self) -> Era:
        """Return what depends on the version."""
        major, minor = self.numbers()
        # Keras of TensorFlow masks so since 2.2.4-tf, Keras by itself ended with 2.3.
        zeroes = major >= 3 or minor >= 4 or "tf" in self.version
        return Era(min(major, 3), zeroes, self.weights.attributes.get("backend") == "theano")


def read_file(data: bytes) -> KerasFile:
    """Take a Keras file apart.

    Raises
    ------
    ModelFileError
        The file breaks its format.
    UnsupportedError
        It is of a form that is not read.
    """
    if data[:4] == b"PK\x03\x04":
        return _archive(data)
    root = hdf5.read(data)
    text = root.attributes.get("model_config")
    version = root.attributes.get("keras_version")
    weights = root.groups.get("model_weights", root)
    if not isinstance(version, str):
        version = weights.attributes.get("keras_version", "")
    if text is None:
        return KerasFile("keras weights", None, str(version), weights)
    if not isinstance(text, str):
        raise ModelFileError("model_config is no text")
    return KerasFile("keras hdf5", parse_json(text, "model_config"), str(version), weights)


def _archive(data: bytes) -> KerasFile:
    archive = ZipArchive(data, deflated=True)
    if CONFIG not in archive:
        raise ModelFileError(f"a Keras archive without {CONFIG}; it has {_some(archive.names)}")
    config = parse_json(_text(archive, CONFIG), CONFIG)
    metadata = parse_json(_text(archive, METADATA), METADATA) if METADATA in archive else {}
    version = metadata.get("keras_version") if isinstance(metadata, dict) else ""
    if WEIGHTS not in archive:
        if PICKLED in archive:
            raise UnsupportedError(
                f"{PICKLED} holds pickled objects, which Keras does not load either; allowed is "
                f"{WEIGHTS}, which model.save writes"
            )
        raise ModelFileError(f"a Keras archive without {WEIGHTS}; it has {_some(archive.names)}")
    weights = hdf5.read(bytes(archive.read(WEIGHTS)))
    return KerasFile("keras archive", config, str(version or ""), weights)


def _some(names: tuple[str, ...]) -> str:
    more = ", ..." if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _text(archive: ZipArchive, name: str) -> str:
    try:
        return bytes(archive.read(name)).decode("utf-8")
    except UnicodeDecodeError:
        raise ModelFileError(f"{name} is not UTF-8") from None


def parse_json(text: str, what: str) -> Any:
    """Return the value of a JSON text.

    Raises
    ------
    ModelFileError
        It is no JSON, too deep or too long.
    """
    if len(text) > MAX_JSON:
        raise ModelFileError(f"{what} has {len(text)} characters; allowed are {MAX_JSON}")
    try:
        return json.loads(text)
    except RecursionError:
        raise ModelFileError(f"{what} is nested too deep") from None
    except ValueError as error:
        raise ModelFileError(f"{what} is no JSON: {str(error)[:200]}") from None
