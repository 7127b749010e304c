"""Whatever is not ours: standard output, standard error and exit status are virsh's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shim.conftest import Ended

TABLE = Path(__file__).with_name("lines.txt")


def lines() -> Iterator[str]:
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if line.startswith("! "):
            yield line[2:]
        else:
            yield f"-c test:///default {line}"


LINES = list(lines())


def test_table_is_long_enough() -> None:
    assert len(set(LINES)) >= 300


@pytest.mark.parametrize("line", LINES)
def test_line(compare: Callable[..., Ended], line: str) -> None:
    compare(["bash", "-c", f"virsh {line}"])
