"""Whatever is not ours: standard output, standard error and exit status are virsh's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shim.conftest import Ended, Pair

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


@pytest.mark.parametrize(
    "words",
    ["nosuch test:///default", "--offline --live nosuch x", "--live --direct nosuch x", "--live --timeout x nosuch x"],
)  # fmt: skip
def test_strict_exit_is_what_virsh_does_anyway(pair: Pair, words: str) -> None:
    line = ["virsh", "-c", "test:///default", "migrate", *words.split()]
    theirs, ours = pair.theirs(line), pair.ours([*line, "--strict-exit"])
    assert ours == theirs


@pytest.mark.parametrize("line", LINES)
def test_line(compare: Callable[..., Ended], line: str) -> None:
    compare(["bash", "-c", f"virsh {line}"])
