"""What a person sees on a terminal of 80 columns and 24 lines."""

from __future__ import annotations

import fcntl
import os
import shlex
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from libvirt_postcopy.conformance import report, transcript
from libvirt_postcopy.conformance.registry import CHECKS
from libvirt_postcopy.conformance.replay import replay
from libvirt_postcopy.conformance.verdicts import Finding, Subject, Verdict

ROOT = Path(__file__).parents[2]
FOLDER = Path("tests/transcripts")
COLUMNS, LINES = 80, 24
MAIN = "import sys; from libvirt_postcopy.cli.main import main; sys.exit(main(sys.argv[1:]))"  # fmt: skip


def on_a_terminal(*words: str) -> tuple[int, list[str]]:
    """Run the program with a terminal as its output; give its status, and the rows that the terminal has then."""
    near, far = os.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", MAIN, *words], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=far, stderr=subprocess.DEVNULL) as process:  # fmt: skip
        os.close(far)
        data = b""
        while True:
            try:
                more = os.read(near, 4096)
            except OSError:  # the other end is closed
                break
            data += more
        os.close(near)
    text = data.decode()
    return process.returncode, [row[at : at + COLUMNS] for row in text.splitlines() for at in range(0, len(row) or 1, COLUMNS)]  # fmt: skip


@cache
def judged(version: str) -> Subject:
    (subject,) = replay(transcript.read_folder(ROOT / FOLDER / f"qemu-{version}"), list(CHECKS.values()))  # fmt: skip
    return subject


@pytest.mark.parametrize("version", ["7.2", "11.1"])
def test_the_summary_of_a_qemu_fits(version: str) -> None:
    status, rows = on_a_terminal("conformance", "replay", str(FOLDER / f"qemu-{version}"))  # fmt: skip
    assert status == 1 and len(rows) < LINES  # the prompt needs one
    bad = [f.check.id for f in judged(version).findings if f.verdict in report.BAD]
    assert all(any(f" {id}: " in row for row in rows) for id in bad) and len(bad) > 5


def test_the_command_that_the_summary_ends_with_shows_all_messages() -> None:
    _, rows = on_a_terminal("conformance", "replay", str(FOLDER / "qemu-7.2"))
    said = "".join(rows).rpartition("With all messages: ")[2]
    name, *words = shlex.split(said)
    assert name == "libvirt-postcopy"
    done = subprocess.run([sys.executable, "-c", MAIN, *words], cwd=ROOT, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 1
    assert words[words.index("--check") + 1] in done.stdout
    assert "accepted  " in done.stdout and '{"execute": "migrate_cancel"' in done.stdout


def _failing(subject: Subject, count: int) -> Subject:
    findings: list[Finding] = []
    for each in subject.findings:
        is_one = each.verdict is Verdict.KNOWN and len(findings) < count
        findings += [replace(each, verdict=Verdict.FAIL, deviation=None)] if is_one else []  # fmt: skip
    assert len(findings) == count
    return replace(subject, findings=findings)


def test_the_more_fails_the_less_is_told_of_each() -> None:
    subject = judged("7.2")
    few, some, many = (report.on_screen([_failing(subject, n)], [], COLUMNS, LINES) for n in (1, 4, 10))  # fmt: skip
    assert "actual" in few and "migrate_cancel" in few.partition("actual")[2]
    assert "actual" in some and '"execute"' not in some
    assert "actual" not in many and many.count("FAIL") == 10
    for text in (few, some, many):
        assert text.count("\n") <= LINES
        assert max(map(len, text.splitlines()[1:])) <= COLUMNS
