"""A daemon that asks who we are, wherever a command of ours connects to it."""

from __future__ import annotations

import os
import signal
import termios
from pathlib import Path

import pytest

from shim.conftest import PATIENCE_S, Pair, on_terminal, read_until, untouched
from waiting import wait_until

ASKED = b"Enter username for localhost: Enter alice's password for localhost: "


@pytest.fixture
def guarded(tmp_path: Path) -> str:
    """The URI of a daemon that lets in who knows a password."""
    file = tmp_path / "daemon.xml"
    text = "<node><auth><user password='sesame'>alice</user></auth></node>"
    file.write_text(text, encoding="utf-8")
    return f"test://{file}"


@pytest.mark.parametrize("answer, is_let_in", [(b"sesame", True), (b"wrong", False)])
def test_destination_is_looked_at_by_who_has_logged_in(
    pair: Pair, guarded: str, answer: bytes, is_let_in: bool
) -> None:
    words = ["virsh", "-c", "test:///default", "postcopy-check", "test", guarded]
    done = pair.ours(words, b"alice\n" + answer + b"\n")
    assert done.out.startswith(ASKED) and done.out.count(b"Enter") == 2
    assert (b"destination/connection" in done.out) is not is_let_in


def test_destination_asks_once_for_all_of_a_migration(pair: Pair, guarded: str) -> None:
    """The look beforehand and the migration itself."""
    line = f"virsh -c test:///default migrate --live --postcopy --unsafe test {guarded}"
    done = pair.ours(line.split(), b"alice\nsesame\n")
    assert done.out.count(b"Enter") == 2 and done.status == 1
    assert b"this function is not supported" in done.err


@pytest.mark.parametrize("is_in_shell", [False, True])
@pytest.mark.parametrize("is_hidden", [False, True])
def test_ctrl_c_at_its_question_ends_us_and_leaves_the_terminal_as_it_was(
    pair: Pair, guarded: str, is_in_shell: bool, is_hidden: bool
) -> None:
    """In the shell a handler of ours raises, inside a call of libvirt."""
    argv = ["virsh", "-c", "test:///default"]
    line = f"migrate --live --postcopy --postcopy-resume --unsafe test {guarded}"
    argv += [] if is_in_shell else line.split()
    with on_terminal(argv, pair.environs[1]) as (process, terminal):
        if is_in_shell:
            read_until(terminal, b"virsh # ")
            os.write(terminal, line.encode() + b"\r")
        read_until(terminal, b"Enter username for localhost: ")
        if is_hidden:
            os.write(terminal, b"alice\r")
            read_until(terminal, b"password for localhost: ")
            echo = termios.ECHO
            wait_until(lambda: not termios.tcgetattr(terminal)[3] & echo, "no echo", PATIENCE_S)  # fmt: skip
        os.write(terminal, b"\x03")
        assert process.wait(PATIENCE_S) == -signal.SIGINT
        assert termios.tcgetattr(terminal) == untouched()
