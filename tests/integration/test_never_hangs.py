"""A migration that fails at once ends at once: virsh itself hangs in a third of these (its loop is left before it is entered)."""

from __future__ import annotations

import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from scenes.stage import VENV

COMMAND = [
    *(str(VENV / "virsh-postcopy"), "-c", "test:///default"),
    *("migrate", "--live", "--postcopy-after-precopy", "--postcopy-check", "off"),
    *("test", "test:///default"),
]
HOW_MANY = 100
LONGEST_S = 60.0


def _status(_: int) -> int:
    done = subprocess.run(
        COMMAND, capture_output=True, text=True, timeout=LONGEST_S, check=False
    )
    assert done.stderr.count("error: ") == 1, done.stderr
    return done.returncode


def test_hundred_migrations_that_fail_at_once_end() -> None:
    with ThreadPoolExecutor(4) as several:
        statuses = Counter(several.map(_status, range(HOW_MANY)))
    assert statuses == {1: HOW_MANY}
