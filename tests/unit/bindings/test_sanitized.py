"""The compiled module and the calls past the binding once more, with the compiler's address sanitizer watching."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TOP = HERE.parents[2]

TOO_FAR = """
import ctypes
ctypes.memset(ctypes.create_string_buffer(8), 1, 4096)
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
        },
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    "tests",
    [
        ["test_call.py"],
        ["test_compiled.py", "-k", "agree or asked or calls"],
    ],
    ids=["calls", "compiled"],
)
def test_memory_is_used_as_it_should_be(tests: list[str]) -> None:
    file, *more = tests
    done = sanitized("-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / file), *more)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_sanitizer_sees_what_is_wrong() -> None:
    done = sanitized("-c", TOO_FAR)
    assert done.returncode != 0 and "heap-buffer-overflow" in done.stderr
