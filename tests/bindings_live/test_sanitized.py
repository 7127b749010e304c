"""The compiled module and the calls past the binding once more, with the compiler's address sanitizer watching."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TOP = HERE.parents[1]

CALLS = ["tests/unit/bindings/test_call.py"]
COMPILED = [
    f"tests/bindings_live/test_compiled.py::test_{name}"
    for name in (
        "headers_agree",
        "everything_was_asked",
        "compiled_module_calls_libvirt",
    )
]

MAKE = """
from pathlib import Path
from tempfile import TemporaryDirectory
from libvirt_postcopy.bindings import compiled, toolchain
"""

INSTRUMENTED = f"""{MAKE}
headers = toolchain.read_headers()
for source in (compiled.questions(headers), compiled.calls(headers)):
    with TemporaryDirectory() as folder:
        path = toolchain._make(source, Path(folder))
        assert b"__asan_init" in path.read_bytes(), path
from unit.bindings import shim
with TemporaryDirectory() as folder:
    assert b"__asan_init" in shim.build(Path(folder)).read_bytes()
"""

#: Only code that was compiled for the sanitizer notices this: it leaves the stack's own memory for its neighbour's.
TOO_FAR = f"""{MAKE}
text = "static int at(int place) {{ volatile char few[8] = {{1}}; return few[place]; }}"
lib = toolchain.build(toolchain.Source("_x", "int at(int place);", text)).lib
assert lib.at(0) == 1
print("inside", flush=True)
lib.at(8)
"""


def sanitized(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the sanitizer; what is compiled meanwhile is watched closely, all else at malloc and copies."""
    library = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    ).stdout.strip()
    return subprocess.run(
        [sys.executable, *argv],
        env={
            **os.environ,
            "LD_PRELOAD": library,
            "CFLAGS": "-fsanitize=address -g -fno-omit-frame-pointer",
            # Python itself leaves much behind at its end; test_leaks.py looks for leaks.
            "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0",
            "PYTHONMALLOC": "malloc",
            "PYTHONPATH": str(TOP / "tests"),
        },
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    "tests, least", [(CALLS, 10), (COMPILED, len(COMPILED))], ids=["calls", "compiled"]
)
def test_memory_is_used_as_it_should_be(tests: list[str], least: int) -> None:
    done = sanitized("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= least and "skipped" not in done.stdout


def test_what_is_compiled_is_watched() -> None:
    done = sanitized("-c", INSTRUMENTED)
    assert done.returncode == 0, done.stderr


def test_sanitizer_sees_what_is_wrong() -> None:
    done = sanitized("-c", TOO_FAR)
    assert done.stdout == "inside\n"
    assert done.returncode != 0 and "stack-buffer-overflow" in done.stderr
