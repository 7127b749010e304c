from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from libvirt_postcopy.programs import printable
from libvirt_postcopy.virsh.terminal import Terminal


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain ä 日本", "plain ä 日本"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\rb\nc\td", "a\\rb\\nc\\td"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202eevil", "\\u202eevil"),
        ("\udcff", "\\udcff"),
    ],
)
def test_nothing_steers_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown
    err = Tty()
    Terminal(io.StringIO(), err).say(text)
    assert err.getvalue() == shown + "\n"


def test_line_is_rewritten_in_its_place() -> None:
    err = Tty()
    terminal = Terminal(io.StringIO(), err)
    terminal.rewrite("long line")
    terminal.rewrite("short")
    terminal.rewrite("x\x1by")
    assert err.getvalue() == "\rlong line\rshort    \rx\\x1by"


def test_message_begins_on_a_line_of_its_own() -> None:
    err = Tty()
    terminal = Terminal(io.StringIO(), err)
    terminal.rewrite("50 %")
    terminal.say("hello")
    terminal.say("again")
    assert err.getvalue() == "\r50 %\nhello\nagain\n"


def test_line_never_wraps() -> None:
    err = Tty()  # no file behind it: 80 columns
    terminal = Terminal(io.StringIO(), err)
    terminal.rewrite("x" * 200)
    assert err.getvalue() == "\r" + "x" * 79
    assert terminal.columns == 79


def test_words_after_an_interrupt_begin_below_its_echo() -> None:
    err = Tty()
    terminal = Terminal(io.StringIO(), err)
    terminal.interrupt()
    terminal.say("aborting")
    terminal.rewrite("50 %")
    terminal.interrupt()
    terminal.say("still aborting")
    assert err.getvalue() == "\naborting\n\r50 %\nstill aborting\n"


def test_nothing_is_echoed_where_there_is_no_terminal() -> None:
    err = io.StringIO()
    Terminal(io.StringIO(), err).interrupt()
    assert err.getvalue() == ""


def test_closed_and_broken_streams_are_no_error() -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (closed, Broken()):
        terminal = Terminal(stream, stream)
        terminal.print("x")
        terminal.rewrite("y")
        terminal.interrupt()
        terminal.say("z")
        assert not terminal.is_interactive


def test_log_can_be_written_by_its_owner_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    umask = os.umask(0)
    try:
        terminal = Terminal(io.StringIO(), io.StringIO(), str(log))
        terminal.say("error: a")
        terminal.debug("INFO", "b")
    finally:
        os.umask(umask)
    assert log.stat().st_mode & 0o777 == 0o644
    ends = [line.partition("] ")[2] for line in log.read_text().splitlines()]
    assert ends == ["ERROR a", "INFO b"]
