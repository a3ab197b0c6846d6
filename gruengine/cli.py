# SPDX-License-Identifier: MIT
"""The command line: ``gruengine convert | inspect | verify | stream | bench | info | demo``.

Exit codes: 0 done; 1 a check failed; 2 bad usage, or a file or model that was refused (with every
reason on stderr); 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from gruengine import __version__
from gruengine.cli_text import fields, print_json, progress, size, table
from gruengine.errors import GruEngineError, InvalidInputError

COMPUTE_TYPES = "float32 (default), bfloat16, int8, int4, bf16x3 or auto: how products are made"
OK, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except GruEngineError as error:
        # str() of an OSError begins with a number.
        text = error.strerror if isinstance(error, OSError) and error.strerror else error
        print(f"gruengine {args.command}: {text}", file=sys.stderr)
        return REFUSED
    except BrokenPipeError:
        # The reader went away, as `| head` does; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


# -- arguments ------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gruengine",
        description="Convert, check, run and time LSTM, GRU and RNN models on the CPU.",
        epilog="exit codes: 0 done, 1 a check failed, 2 bad usage or refused",
    )
    parser.add_argument("--version", action="version", version=f"gruengine {__version__}")
    for name in ("cmake", "include", "library", "pkgconfig"):
        text = f"print the folder for C and C++ programs ({name}) and exit"
        parser.add_argument(f"--{name}-dir", action=_PrintFolder, nargs=0, help=text)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_convert(commands)
    _add_inspect(commands)
    _add_verify(commands)
    _add_stream(commands)
    _add_bench(commands)
    info = _command(commands, "info", _info, "show the machine, instruction sets and versions")
    _json_option(info)
    _command(commands, "demo", _demo, "convert, verify, stream and time a small trained model")
    return parser


class _PrintFolder(argparse.Action):
    """``--cmake-dir`` and its like print a folder and exit, as ``--version`` does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from gruengine import paths

        print(getattr(paths, self.dest)())
        parser.exit()


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + "."
    )
    parser.set_defaults(run=run)
    return parser


def _add_convert(commands: Any) -> None:
    parser = _command(commands, "convert", _convert, "convert a trained model to a model file")
    parser.add_argument("source", help="ONNX, PyTorch checkpoint, safetensors weights, model file")
    others = "*.onnx, *.npz, *.weights.h5 or *.torch.safetensors for other programs"
    parser.add_argument("destination", help=f"the model file to write, or {others}")
    parser.add_argument("--compute-type", default="float32", help=COMPUTE_TYPES)
    _conversion_options(parser)
    _json_option(parser)


def _add_inspect(commands: Any) -> None:
    parser = _command(commands, "inspect", _inspect, "show what a model is made of")
    parser.add_argument("file", help="a model file or any source that convert reads")
    _conversion_options(parser)
    _json_option(parser)


def _add_verify(commands: Any) -> None:
    parser = _command(
        commands, "verify", _verify, "compare a model with its parity sample and its source"
    )
    parser.add_argument("file", help="a model file")
    parser.add_argument("--source", help="where it came from; ONNX is run by ONNX Runtime")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="relative to each output (default 1e-4)"
    )
    parser.add_argument(
        "--compute-type", help="instead: errors over time of bfloat16 or int8 against float32"
    )
    parser.add_argument("--data", metavar="X.npy", help="what to give the model for that")
    _conversion_options(parser)
    _json_option(parser)


def _add_stream(commands: Any) -> None:
    parser = _command(commands, "stream", _stream, "run a model frame by frame")
    parser.add_argument("file", help="a model file or any source that convert reads")
    parser.add_argument(
        "--input", default="-", help="frames: x.npy, or - for raw little-endian float32 on stdin"
    )
    parser.add_argument("--output", default="-", help="y.npy, or - for raw float32 on stdout")
    parser.add_argument("--take", default="", metavar="NAME", help="which of several outputs")
    _conversion_options(parser)


def _add_bench(commands: Any) -> None:
    parser = _command(commands, "bench", _bench, "time steps and sequences")
    parser.add_argument("file", help="a model file, or an .onnx to have ONNX Runtime beside it")
    parser.add_argument("--frames", type=int, default=100, help="length of a sequence (100)")
    parser.add_argument("--batch", type=int, default=1, help="sequences side by side (1)")
    parser.add_argument("--threads", type=int, default=1, help="threads of both engines (1)")
    parser.add_argument("--repeats", type=int, default=15, help="measurements to take (15)")
    _conversion_options(parser)
    _json_option(parser)


def _conversion_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("facts about the source")
    for flag, example, text in (
        ("--bind", "sr=16000", "fix a graph input"),
        ("--state", "h=hn", "a graph input and the output that is its next value"),
        ("--hint", "batch_first=true", "what the source does not say"),
        ("--size", "samples=512", "a free size, for the parity sample"),
    ):
        group.add_argument(
            flag, action="append", default=[], metavar="NAME=VALUE", help=f"{text}, e.g. {example}"
        )
    group.add_argument(
        "--fallback",
        choices=["onnxruntime"],
        help="let ONNX Runtime run the nodes of an ONNX model that are not run here",
    )


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def conversion_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of ``_conversion_options`` as keyword arguments of ``convert``.

    Raises
    ------
    InvalidInputError
        Something that is not ``NAME=VALUE``, or a name given twice.
    """
    found: dict[str, Any] = {key: _value(text) for key, text in _pairs("--hint", args.hint)}
    for reserved in ("bind", "state", "sizes", "compute_type", "fallback"):
        if reserved in found:
            raise InvalidInputError(f"--hint {reserved}=...: that has an option of its own")
    found["bind"] = {key: _value(text) for key, text in _pairs("--bind", args.bind)}
    if args.state:
        found["state"] = dict(_pairs("--state", args.state))
    if args.size:
        found["sizes"] = {key: _value(text) for key, text in _pairs("--size", args.size)}
    if args.fallback:
        found["fallback"] = args.fallback
    return found


def _pairs(flag: str, items: Sequence[str]) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals and value):
            raise InvalidInputError(f"{flag} {item!r}; it must be NAME=VALUE")
        if name in found:
            raise InvalidInputError(f"{flag} gives {name!r} twice")
        found[name] = value
    return list(found.items())


def _value(text: str) -> Any:
    """Read a number, true, false, null, or a list of them; anything else is a string."""
    try:
        return json.loads(text)
    except ValueError:
        return {"True": True, "False": False, "None": None}.get(text, text)


# -- commands -------------------------------------------------------------------------------------


def _convert(args: argparse.Namespace) -> int:
    from gruengine.cli_convert import convert_file

    return convert_file(args, conversion_arguments(args))


def _inspect(args: argparse.Namespace) -> int:
    from gruengine.cli_inspect import describe, in_words

    found = describe(args.file, conversion_arguments(args))
    if args.json:
        print_json(found)
    else:
        print(in_words(found))
    return OK


def _verify(args: argparse.Namespace) -> int:
    from gruengine.conversion import verify

    progress(f"verifying {args.file}")
    if args.compute_type is not None:
        return _accuracy(args)
    if args.data is not None:
        raise InvalidInputError("--data is for --compute-type")
    report = verify(args.file, args.source, args.tolerance, **conversion_arguments(args))
    if args.json:
        print_json(report.to_dict())
        return OK if report.passed else FAILED
    rows: list[Sequence[str]] = [("output", "against", "max error", "allowed", "scale", "")]
    for check in report.checks:
        numbers = (check.max_abs_error, check.tolerance, check.scale)
        verdict = "ok" if check.passed else "FAILED"
        rows.append((check.output, check.against, *(f"{n:.2e}" for n in numbers), verdict))
    print(args.file)
    print(table(rows, right=(2, 3, 4)))
    for note in report.notes:
        print(f"  note: {note}")
    return OK if report.passed else FAILED


def _accuracy(args: argparse.Namespace) -> int:
    from gruengine.accuracy import accuracy, in_words
    from gruengine.converters import is_model_file

    options = {} if is_model_file(args.file) else conversion_arguments(args)
    options.pop("sizes", None)
    data = None if args.data is None else _array(args.data)
    report = accuracy(args.file, args.compute_type, data, **options)
    if args.json:
        print_json(report.to_dict())
    else:
        print(in_words(report))
    return OK if report.passed else FAILED


def _array(path: str) -> Any:
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except OSError as error:
        raise InvalidInputError(f"cannot read {path!r}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise InvalidInputError(f"{path!r} is no .npy file: {error}") from error


def _stream(args: argparse.Namespace) -> int:
    from gruengine.cli_stream import stream

    return stream(args.file, args.input, args.output, args.take, conversion_arguments(args))


def _bench(args: argparse.Namespace) -> int:
    from gruengine.cli_bench import bench, in_words

    for name in ("frames", "batch", "threads", "repeats"):
        if getattr(args, name) < 1:
            raise InvalidInputError(f"--{name} is {getattr(args, name)}; it must be at least 1")
    progress(f"timing {args.file}")
    found = bench(
        args.file,
        frames=args.frames,
        batch=args.batch,
        threads=args.threads,
        repeats=args.repeats,
        options=conversion_arguments(args),
    )
    if args.json:
        print_json(found)
    else:
        print(in_words(found))
    return OK


def _info(args: argparse.Namespace) -> int:
    import gruengine

    found = gruengine.info()
    if args.json:
        print_json(found)
    else:
        print(fields(_flat(found), indent=""))
    return OK


def _flat(found: dict[str, Any]) -> list[tuple[str, str]]:
    """One line a fact, and one for each instruction set."""
    rows = [(key, str(item)) for key, item in found.items() if not isinstance(item, dict)]
    caches = ", ".join(f"{name} {size(count)}" for name, count in found["caches"].items())
    rows.append(("caches", caches))
    for name, facts in found["isas"].items():
        reason = f" ({facts['reason']})" if facts["reason"] else ""
        rows.append((f"isa {name}", ("yes" if facts["supported"] else "no") + reason))
    return rows


def _demo(args: argparse.Namespace) -> int:
    from gruengine.cli_demo import demo

    return demo()


if __name__ == "__main__":
    sys.exit(main())
