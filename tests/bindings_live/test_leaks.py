from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bindings_live.leak import CALLS

TESTS = Path(__file__).parents[1]

COUNT = 10_000
GROWTH_KIB = 128
"""Less than 14 bytes a call: one lost byte of C's memory a call takes 16 at least."""


def growth(kind: str, library: str) -> int:
    """KiB, of a process that makes the calls."""
    done = subprocess.run(
        [sys.executable, "-m", "bindings_live.leak", kind, library, str(COUNT)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("kind", CALLS)
def test_ten_thousand_calls_leak_nothing(kind: str, shim_file: Path) -> None:
    assert growth(kind, str(shim_file)) < GROWTH_KIB


@pytest.mark.parametrize("kind", CALLS)
def test_ten_thousand_refusals_leak_nothing(kind: str) -> None:
    assert growth(kind, "") < GROWTH_KIB


def test_sixteen_bytes_lost_a_call_are_seen(shim_file: Path) -> None:
    assert growth("leaking", str(shim_file)) > GROWTH_KIB
