from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]

CALLS = 10_000
GROWTH_KIB = 128
"""Less than 14 bytes a call: one lost byte of C's memory a call takes 16 at least."""


@pytest.mark.parametrize("kind", ["error", "success", "parameters", "refused"])
def test_ten_thousand_calls_leak_nothing(kind: str, shim_file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "unit.bindings.leak", kind, str(shim_file), str(CALLS)],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < GROWTH_KIB
