# SPDX-License-Identifier: MIT
"""Models from the Hugging Face Hub, read by gruengine's own readers: no code from a model runs.

>>> import gruengine as gr
>>> model = gr.hub.from_pretrained("org/name", filename="model.onnx")
"""

from __future__ import annotations

from typing import Any

from gruengine.errors import FileAccessError, GruEngineError, InvalidInputError, UnsupportedError
from gruengine.model import Model, load

__all__ = ["from_pretrained"]

#: Names and endings of files that hold a whole model, the surest first.
PREFERRED = ("gruengine.safetensors", "model.onnx", "model.keras", "model.safetensors")
ENDINGS = (".safetensors", ".onnx", ".keras", ".nam", ".pt", ".pth", ".npz", ".h5")


def from_pretrained(
    repo_id: str,
    revision: str | None = None,
    filename: str | None = None,
    *,
    num_threads: int = 1,
    **options: Any,
) -> Model:
    """Download one file of a repository and load it.

    Parameters
    ----------
    repo_id : str
        ``"org/name"``.
    revision : str, optional
        Branch, tag or commit. A commit is the only one that always gives the same model.
    filename : str, optional
        By default ``gruengine.safetensors``, ``model.onnx``, ``model.keras``,
        ``model.safetensors``, or else the only file that may hold a model.
    num_threads, **options
        As for :func:`gruengine.load`.

    Raises
    ------
    UnsupportedError
        huggingface_hub is not installed.
    InvalidInputError
        No file that may hold a model, or several; a file name that is none.
    FileAccessError
        The repository or the file is not there, or cannot be reached.
    ConversionError, ModelFileError
        As for :func:`gruengine.load`.
    """
    hub = _hub()
    for what, value in (("repo_id", repo_id), ("revision", revision), ("filename", filename)):
        if not isinstance(value, str) and (value is not None or what == "repo_id"):
            raise InvalidInputError(f"{what} is {value!r}; it must be a string")
    try:
        if filename is None:
            names = list(hub.list_repo_files(repo_id, revision=revision))
            filename = _choose(repo_id, names)
        path = hub.hf_hub_download(repo_id, filename, revision=revision)
    except GruEngineError:
        raise
    except Exception as error:  # of the network, of the service, of the file system
        where = f"{repo_id}/{filename}" if filename else repo_id
        raise FileAccessError(f"cannot get {where!r} from the hub: {error}") from error
    return load(path, num_threads=num_threads, **options)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UnsupportedError(
            "models from the hub need huggingface_hub: pip install gruengine[hub]"
        ) from None
    return huggingface_hub


def _choose(repo_id: str, names: list[str]) -> str:
    for name in PREFERRED:
        if name in names:
            return name
    likely = [name for name in names if name.lower().endswith(ENDINGS)]
    if len(likely) == 1:
        return likely[0]
    found = f"the files {likely}" if likely else f"no file of {', '.join(ENDINGS)}"
    raise InvalidInputError(f"{repo_id} has {found}; say which with filename=...")
