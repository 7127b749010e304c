"""``-d``: of a command that virsh has too, ours says what virsh says, on standard output and in the log."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shim.conftest import Pair, ended

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"  # of the test driver's domain
OF_VIRSH = re.compile(
    rb"commands: .*|migrate-postcopy: (?:\w+\((?:optdata|bool)\): .*|found option .*|<domain> .*)"
)


def told(out: bytes) -> list[bytes]:
    """The lines that virsh has, too; a connection without keepalive has other words here."""
    return [line for line in out.splitlines() if OF_VIRSH.fullmatch(line)]


@pytest.mark.parametrize("level", range(5))
@pytest.mark.parametrize(
    "words", [["test"], ["--domain", "1"], [f"--domain={UUID}"], ["nosuch"], ["99"], ["test", "--foo"], ["1", "2"], []],
    ids=" ".join,
)  # fmt: skip
def test_level(pair: Pair, level: int, words: list[str]) -> None:
    line = ["virsh", f"-d{level}", "-c", "test:///default", "migrate-postcopy", *words]
    theirs, ours = (told(each.out) for each in pair.run(line))
    assert ours == theirs
    assert bool(theirs) is (level < 2)


@pytest.mark.parametrize("level", ["", "0", "1", "4", "5", "x"])
def test_level_of_the_environment_and_log(
    pair: Pair, tmp_path: Path, level: str
) -> None:
    line = "virsh -l $1 -c test:///default 'migrate-postcopy test # x'"
    said = []
    for at, name in enumerate(("theirs", "ours")):
        log = tmp_path / name
        words = ["env", f"VIRSH_DEBUG={level}", "sh", "-c", line, "sh", str(log)]
        out = ended(words, pair.environs[at], b"").out
        logged = re.sub(rb"(?m)^\[[^]]+\] \w+ ", b"", log.read_bytes())
        kinds = re.findall(rb"(?m)^\[[^]]+\] (\w+) (?:commands|.*domain)", log.read_bytes())  # fmt: skip
        said.append((told(out), told(logged), kinds[: len(told(out))]))
    assert said[1] == said[0]
    assert said[0][0] == said[0][1] and bool(said[0][0]) is (level in {"0", "1"})


def test_what_a_command_does_is_told_at_the_lowest_level(pair: Pair) -> None:
    words = ["virsh", "-c", "test:///default", "postcopy-check", "test", "nosuch:///"]
    quiet, loud = (pair.ours([*words[:1], f"-d{n}", *words[1:]]).out for n in (1, 0))
    assert loud.count(b"postcopy-check: ") > quiet.count(b"postcopy-check: ") > 1


@pytest.mark.parametrize("line", ["migrate-postcopy test", "'echo a; migrate-postcopy test'"])  # fmt: skip
def test_nothing_is_run_without_the_log_that_is_asked_for(
    pair: Pair, line: str
) -> None:
    theirs, ours = pair.run(["sh", "-c", f"virsh -l /nonexistent/log {line}"])
    assert ours == theirs
    assert ours.status == 1 and ours.err.startswith(b"error: failed to open the log")


def test_log_stays_where_it_was_begun(pair: Pair, tmp_path: Path) -> None:
    """Whatever ``cd`` makes of a relative name."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    lines = f"cd {elsewhere}\nmigrate-start-postcopy nosuch\n".encode()
    shell = f"cd {tmp_path} && exec virsh -l log -c test:///default"
    pair.ours(["sh", "-c", shell], lines)
    assert b"failed to get domain 'nosuch'" in (tmp_path / "log").read_bytes()
    assert not list(elsewhere.iterdir())
