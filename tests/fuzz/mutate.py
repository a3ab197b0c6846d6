# SPDX-License-Identifier: MIT
"""Load random mutants of model files: each is refused with a clear error, or loads and runs.

    cd tests && python -m fuzz.mutate --count 20000 [--kind onnx]

Mutants are tried in a process of their own, so that a crash, a hang or a flood of memory is
reported with the number of its mutant; ``--start NUMBER --count 1 --keep FILE`` writes it down.
CONTRIBUTING.md says how to run this with sanitizers.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.deep import deepen

Array = np.ndarray[Any, Any]
TESTS = Path(__file__).parents[1]

WORKER = [sys.executable, "-m", "fuzz.mutate"]
CPU_SECONDS = 20  # for one mutant
#: AddressSanitizer keeps much memory for itself: then it alone watches.
SANITIZED = "libasan" in os.environ.get("LD_PRELOAD", "")
ADDRESS_SPACE = 4 << 30
ERRORS = 4000  # characters of what a crashed process said
# Memory that loading may take: what the libraries take for small change, and a multiple of a file.
MEMORY_FIXED, MEMORY_PER_BYTE = 24 << 20, 64
MOST_ELEMENTS = 1 << 20  # of an input that a mutant asks for

NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, -1, -2, 1 << 31, (1 << 31) - 1, -(1 << 31))
GOOD = ("refused", "loaded", "loaded, run refused")


def mutate(data: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    """Return ``data`` after one, two or four random changes."""
    changed = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        size = len(changed)
        if size == 0:
            break
        at, kind = int(rng.integers(size)), int(rng.integers(9))
        length = int(min(size - at, 1 << int(rng.integers(0, 9))))
        if kind == 0:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            changed[at] = int(rng.integers(256))
        elif kind == 2:  # numbers that sizes and offsets may hold
            width = int(rng.choice([1, 2, 4, 8]))
            number = int(rng.choice(NUMBERS))
            changed[at : at + width] = (number % (1 << (8 * width))).to_bytes(width, "little")
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:
            changed[at:at] = changed[at : at + length]
        elif kind == 5:
            other = others[int(rng.integers(len(others)))]
            start = int(rng.integers(len(other)))
            changed[at : at + length] = other[start : start + length]
        elif kind == 6:
            del changed[at:]
        elif kind == 7:  # a digit of JSON, or the length of a field
            places = [
                i for i in range(max(0, at - 64), min(size, at + 64)) if 48 <= changed[i] < 58
            ]
            if places:
                place = places[int(rng.integers(len(places)))]
                changed[place] = int(rng.integers(48, 58))
        else:
            to = int(rng.integers(size))
            changed[to : to + length] = changed[at : at + length]
    return bytes(changed)


def mutant(
    folder: Path, seed: int, number: int, kind: str = ""
) -> tuple[str, bytes, dict[str, Any]]:
    """Return mutant ``number``: the name of its seed, its bytes, and the hints to load it with.

    ``kind`` is how the names of the seeds begin.
    """
    paths = _seeds(folder, kind)
    data = [path.read_bytes() for path in paths]
    which = number % len(paths)
    rng = np.random.default_rng([seed, number])
    hints: dict[str, Any] = json.loads(paths[which].with_suffix(".json").read_text())
    name = paths[which].stem

    def flat(value: bytes) -> bytes:
        return mutate(value, data, rng)

    changed = deepen(name, data[which], rng, flat) if rng.random() < 0.5 else flat(data[which])
    return name, changed, hints


def _seeds(folder: Path, kind: str = "") -> list[Path]:
    return sorted(folder.glob(f"{kind}*.bin"))


# -- the process that tries them ------------------------------------------------------------------


def memory(field: str) -> int:
    """Return a line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    return 0


def inputs_of(model: Any, rng: np.random.Generator) -> dict[str, Array] | None:
    """Return inputs in which every named size is 2, or None if they would be large."""
    inputs: dict[str, Array] = {}
    for port in model.signature.inputs:
        shape = [2 if isinstance(size, str) else size for size in port.shape]
        if np.prod(shape, dtype=np.float64) > MOST_ELEMENTS:
            return None
        values = rng.integers(0, 2, shape) if port.dtype != "float32" else rng.normal(size=shape)
        inputs[port.name] = np.asarray(values).astype(port.dtype)
    return inputs


def run_as_stream(model: Any, inputs: dict[str, Array]) -> None:
    """Run from a state, and as a stream if the model is one."""
    carried = {before for before, _ in model.signature.state}
    free = {name: value for name, value in inputs.items() if name not in carried}
    _, state = model.run(free)
    model.run(free, state)
    if not model.streamable:
        return
    stream = model.stream(2 if model.streamable.batch else 1)
    if model.streamable.form == "calls":
        free = {name: np.stack([value] * 3) for name, value in free.items()}
    stream.run(free)
    stream.clone().set_state(stream.get_state())


def attempt(
    data: bytes, hints: dict[str, Any], file: Path, number: int, name: str = ""
) -> tuple[str, str]:
    """Load and run one mutant; return what came of it, and details."""
    import gruengine as gr

    if name == "state":
        return _restore(data)
    source: Any = data
    if number % 4 == 0:
        file.write_bytes(data)
        source = file
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    try:
        model = gr.load(source, **hints)
    except gr.GruEngineError as error:
        model, result = None, ("refused", f"{type(error).__name__}: {error}")
    taken = memory("VmHWM") - before
    if not SANITIZED and taken > MEMORY_FIXED + MEMORY_PER_BYTE * len(data):
        return "MEMORY", f"{taken >> 20} MiB for a file of {len(data)} bytes"
    if model is None:
        return result
    inputs = inputs_of(model, np.random.default_rng(number))
    if inputs is None:
        return "loaded", "not run: its inputs are large"
    try:
        model.run_graph(inputs)
        run_as_stream(model, inputs)
    except gr.GruEngineError as error:
        return "loaded, run refused", f"{type(error).__name__}: {error}"
    return "loaded", ""


def _restore(data: bytes) -> tuple[str, str]:
    """Give a stream a state that it may not have written itself, and go on from there."""
    import gruengine as gr
    from fuzz.seeds import streamed

    stream = streamed()
    try:
        stream.set_state(data)
    except gr.GruEngineError as error:
        return "refused", f"{type(error).__name__}: {error}"
    stream.run(np.ones((1, 3, 4), np.float32))
    return "loaded", ""


def work(folder: Path, seed: int, start: int, count: int, kind: str = "") -> None:
    """Try mutants one after the other; say which one before each, and what came of it after."""
    if not SANITIZED:
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for path in _seeds(folder, kind):  # what is imported for the first is not its doing
        hints = json.loads(path.with_suffix(".json").read_text())
        attempt(path.read_bytes(), hints, path, 1, path.stem)
    for number in range(start, start + count):
        print(json.dumps({"begin": number}), flush=True)
        name, data, hints = mutant(folder, seed, number, kind)
        # The default action ends the process even inside a loop in C++.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            what, detail = attempt(data, hints, folder / "mutant", number, name)
        except Exception as error:
            what, detail = "WRONG ERROR", f"{type(error).__name__}: {error}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        end = {"end": number, "what": what, "detail": detail[:500], "name": name}
        print(json.dumps(end), flush=True)


# -- the process that watches ---------------------------------------------------------------------


Result = tuple[int, str, str, str]  # number, what came of it, details, name of the seed


def watch(folder: Path, seed: int, start: int, count: int, kind: str = "") -> list[Result]:
    """Try ``count`` mutants; start the worker again after each that ended it."""
    results: list[Result] = []
    names = [path.stem for path in _seeds(folder, kind)]
    at, end = start, start + count
    while at < end:
        begun, code, errors = _one_worker(folder, seed, at, end - at, kind, results)
        done = results[-1][0] if results else start - 1
        if code == 0 and done == end - 1:
            break
        if begun <= done:
            raise RuntimeError(f"the worker failed by itself ({code}): {errors[-2000:]}")
        what = "HANG" if code == -signal.SIGPROF else "CRASH"
        name = names[begun % len(names)]
        results.append((begun, what, f"exit code {code}; {errors[-ERRORS:]}", name))
        at = begun + 1
    return results


def _one_worker(
    folder: Path, seed: int, start: int, count: int, kind: str, results: list[Result]
) -> tuple[int, int, str]:
    """Add what one worker reports to ``results``; return its last mutant and how it ended."""
    command = [*WORKER, "--folder", str(folder), "--seed", str(seed), "--work"]
    command += ["--start", str(start), "--count", str(count), "--kind", kind]
    begun = start - 1
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=TESTS
        ) as worker:
            for line in worker.stdout or ():
                message = json.loads(line)
                begun = message.get("begin", begun)
                if "end" in message:
                    end = [message[key] for key in ("end", "what", "detail", "name")]
                    results.append((end[0], end[1], end[2], end[3]))
        errors.seek(0)
        return begun, worker.returncode, errors.read()


def run(
    count: int, seed: int, start: int = 0, folder: Path | None = None, kind: str = ""
) -> dict[str, Any]:
    """Return how often each outcome came, by seed too, and every bad one with its details."""
    with tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            from fuzz import seeds

            folder = Path(temporary)
            seeds.write(folder)
        results = watch(folder, seed, start, count, kind)
    counts = collections.Counter(result[1] for result in results)
    by_name: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for _, what, _, name in results:
        by_name[name][what if what in GOOD else "BAD"] += 1
    bad = [result[:3] for result in results if result[1] not in GOOD]
    return {"counts": dict(counts), "bad": bad, "by_name": by_name}


def table(by_name: dict[str, collections.Counter[str]]) -> str:
    """Return what came of the mutants of each seed as a table."""
    columns = (*GOOD, "BAD")
    lines = [f"{'seed':<20}" + "".join(f"{column:>21}" for column in columns)]
    total: collections.Counter[str] = collections.Counter()
    for name, counts in sorted(by_name.items()):
        total.update(counts)
        lines.append(f"{name:<20}" + "".join(f"{counts[column]:21d}" for column in columns))
    lines.append(f"{'all':<20}" + "".join(f"{total[column]:21d}" for column in columns))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--kind", default="", help="how the names of the seeds begin: onnx, ...")
    parser.add_argument("--folder", type=Path, help="where the seeds are; made if not given")
    parser.add_argument("--keep", type=Path, help="write mutant --start to this file and stop")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.folder, options.seed, options.start, options.count, options.kind)
        return 0
    if options.keep:
        keep(options)
        return 0
    report = run(options.count, options.seed, options.start, options.folder, options.kind)
    print(table(report["by_name"]))
    for number, what, detail in report["bad"]:
        print(f"mutant {number} of seed {options.seed}: {what}: {detail}")
    return 1 if report["bad"] else 0


def keep(options: argparse.Namespace) -> None:
    """Write one mutant to a file."""
    from fuzz import seeds

    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.folder is None:
            seeds.write(folder)
        name, data, hints = mutant(folder, options.seed, options.start, options.kind)
    options.keep.write_bytes(data)
    print(f"{options.keep}: {len(data)} bytes of {name}, hints {hints}")


if __name__ == "__main__":
    sys.exit(main())
