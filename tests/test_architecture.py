# SPDX-License-Identifier: MIT
"""The rules of docs/architecture.md that a tool can hold: who includes and imports whom."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CPP = ROOT / "cpp"
SOURCES = ("*.py", "*.pyx", "*.pxd", "*.c", "*.cpp", "*.h", "*.inc", "*.cmake", "CMakeLists.txt")
MAX_LINES = 400

INTRINSICS = {"immintrin.h", "x86intrin.h", "arm_neon.h", "arm_sve.h", "emmintrin.h", "amxintrin.h"}
FRAMEWORKS = {"torch", "onnx", "onnxruntime", "onnxscript", "keras", "tensorflow", "h5py"}


def sources() -> list[Path]:
    folders = ("benchmarks", "converters", "cpp", "examples", "gruengine", "tests")
    found = [p for folder in folders for kind in SOURCES for p in (ROOT / folder).rglob(kind)]
    return sorted(p for p in found if "build" not in p.relative_to(ROOT).parts)


def includes(folder: str) -> Iterator[tuple[Path, str]]:
    for path in sorted((CPP / folder).rglob("*")):
        if path.suffix in (".h", ".cpp", ".inc"):
            for name in re.findall(r"^\s*#\s*include\s*[<\"]([^>\"]+)", path.read_text(), re.M):
                yield path, name


def outside(folder: str, allowed: str) -> list[str]:
    """The includes of a folder that do not match; the standard library is named one by one."""
    return [f"{p.name}: {name}" for p, name in includes(folder) if not re.fullmatch(allowed, name)]


# -- files ----------------------------------------------------------------------------------------


def test_there_are_sources_of_every_kind():
    kinds = {path.suffix for path in sources()}
    assert {".py", ".pyx", ".cpp", ".h", ".inc", ".cmake"} <= kinds


def test_files_stay_short():
    long = {str(p.relative_to(ROOT)): n for p in sources() if (n := count(p)) > MAX_LINES}
    assert long == {}


def count(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_sources_name_their_licence():
    missing = [
        str(p.relative_to(ROOT))
        for p in sources()
        if p.suffix in (".py", ".pyx", ".pxd", ".c", ".cpp", ".h")
        and "SPDX-License-Identifier: MIT" not in p.read_text().split("\n", 1)[0]
    ]
    assert missing == []


# -- C++ ------------------------------------------------------------------------------------------

C_STANDARD = r"c(stdint|stddef|string|math|float)"


def test_cells_include_nothing_but_each_other():
    assert outside("src/cells", rf"{C_STANDARD}|cells/\w+\.h|\w+\.h") == []


def test_kernels_see_cells_and_the_table():
    own = r"(cells|kernels)/\w+\.(h|inc)|isa/((low_|train_)?table\.h|functions\.inc)"
    assert outside("src/kernels", rf"{C_STANDARD}|{own}|immintrin\.h|arm_neon\.h|stdint\.h") == []


@pytest.mark.parametrize(
    "folder", ["src/engine", "src/ops", "src/io", "src/train", "include", "bindings"]
)
def test_intrinsics_stay_out(folder):
    assert [f"{p.name}: {n}" for p, n in includes(folder) if n in INTRINSICS] == []


@pytest.mark.parametrize("folder", ["src/engine", "src/ops", "src/io", "src/train"])
def test_the_engine_sees_the_table_and_no_kernel(folder):
    found = [f"{p.name}: {n}" for p, n in includes(folder) if n.startswith(("kernels/", "cells/"))]
    assert found == []


def test_public_headers_stand_alone():
    assert outside("include", r"[a-z_]+(\.h)?|gruengine/\w+\.h") == []


def test_bindings_see_the_public_headers():
    own = r"errors\.h|register\.h|array\.h|interrupt\.h|gil\.h|Python\.h|unistd\.h"
    assert outside("bindings", rf"gruengine/\w+\.h|pybind11/\w+\.h|{own}|[a-z_]+") == []


def test_the_gil_is_taken_in_a_way_that_survives_the_end_of_python():
    users = [p.name for p in (CPP / "bindings").iterdir() if "gil_scoped" in p.read_text()]
    assert users == [], "use GilRelease and GilAcquire of gil.h"


def test_the_c_api_sees_the_public_headers():
    assert outside("src/c_api", r"gruengine/\w+\.h|c_api/\w+\.h|[a-z_]+") == []


def test_threads_are_started_in_two_places():
    users = {
        path.name
        for path in (CPP / "src").rglob("*")
        if path.suffix in (".h", ".cpp", ".inc")
        and re.search(r"std::j?thread[>(]|#\s*pragma\s+omp", path.read_text())
    }
    assert users == {"thread_pool.cpp", "scheduler_impl.h"}


def test_kernel_objects_define_their_table_alone():
    """A symbol shared by two instruction sets would be merged into one by the linker."""
    objects = sorted(ROOT.glob("build*/**/*_kernels_*.dir/**/*kernels.cpp.o"))
    assert objects, "no kernel objects under build/: install the package from this folder first"
    for path in objects:
        match = re.search(r"_kernels_(\w+)\.dir", str(path))
        assert match is not None
        listed = subprocess.run(
            ["nm", "-C", "--defined-only", "--extern-only", str(path)],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        symbols = {line.split(maxsplit=2)[2] for line in listed.splitlines() if line}
        assert symbols, path
        foreign = {s for s in symbols if not s.startswith(f"gruengine::{match[1]}::")}
        assert foreign == set(), path


# -- Python ---------------------------------------------------------------------------------------


def module_level_imports(path: Path) -> set[str]:
    """Full names of what a module imports when it is imported itself."""
    found: set[str] = set()
    todo: list[ast.AST] = list(ast.parse(path.read_text()).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            todo += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            todo += ast.iter_child_nodes(node)
    return found


def every_import(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def python(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found
    return found


# What is imported first by those who have torch themselves.
TORCH = {ROOT / "gruengine" / name for name in ("torch.py", "torch_training.py")}


@pytest.mark.parametrize("folder", ["gruengine", "converters"])
def test_frameworks_are_imported_inside_functions(folder):
    # gruengine.torch is imported when it is first asked for.
    early = {p.name: n for p in python(folder) for n in module_level_imports(p)
             if n.split(".")[0] in FRAMEWORKS and p not in TORCH}  # fmt: skip
    assert early == {}


def test_converters_never_see_the_engine():
    engine = re.compile(
        r"gruengine\._core|gruengine\._stream|gruengine\.model(\.|$)|gruengine\.cli"
    )
    seen = {p.name: n for p in python("converters") for n in every_import(p) if engine.match(n)}
    assert seen == {}


def test_no_module_unpickles_or_runs_code():
    banned = {"pickle", "cPickle", "dill", "shelve", "marshal", "torch.load"}
    users = {p.name: n for folder in ("gruengine", "converters") for p in python(folder)
             for n in every_import(p) if n in banned}  # fmt: skip
    assert users == {}
    calls = re.compile(r"\btorch\.load\(|allow_pickle=True|(?<![.\w])(eval|exec)\(")
    for folder in ("gruengine", "converters"):
        for path in python(folder):
            assert not calls.search(path.read_text()), path


def test_the_engine_never_runs_on_the_reference():
    """Outside the reference itself it is imported inside functions, to make and check samples."""
    users = {
        p.name
        for p in python("gruengine")
        if not p.name.startswith("reference")
        and any(n.startswith("gruengine.reference") for n in module_level_imports(p))
    }
    assert users == set()


def test_importing_the_package_needs_numpy_alone(tmp_path):
    program = (
        "import sys; before = set(sys.modules); import gruengine; "
        "print('\\n'.join(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    foreign = loaded - set(sys.stdlib_module_names) - {"gruengine", "numpy"}
    # Cython registers its runtime under a name of its own.
    assert {name for name in foreign if not name.startswith(("_cython", "cython_runtime"))} == set()
    assert "gruengine" in loaded
