from __future__ import annotations

import io
import os
import pty
import signal
import sys
import termios
from types import SimpleNamespace

import libvirt
import pytest

from libvirt_postcopy.vir import login
from libvirt_postcopy.vir.login import Login
from unit.fakes import FakeConnection, refused

NAME, PASSWORD, POLKIT = (
    libvirt.VIR_CRED_AUTHNAME,
    libvirt.VIR_CRED_PASSPHRASE,
    libvirt.VIR_CRED_EXTERNAL,
)


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Asks for a name and a password, and lets in who knows them."""
    made = SimpleNamespace(
        errors=[], flags=[], asked=0, agents=0, connection="connection"
    )

    def open_auth(uri: str, auth: list, flags: int) -> str:
        made.flags.append(flags)
        if made.errors:
            raise made.errors.pop(0)
        asked = [[NAME, "Name", None, None, None], [PASSWORD, "Password", None, "sesame", None]]  # fmt: skip
        assert auth[1](asked, auth[2]) == 0
        if [each[4] for each in asked] != ["alice", "sesame"]:
            raise refused(libvirt.VIR_ERR_AUTH_FAILED, "wrong")
        return made.connection

    monkeypatch.setattr(login.libvirt, "openAuth", open_auth)
    return made


def typed(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def test_answers_are_remembered_for_the_host_that_they_opened(
    daemon: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    typed(monkeypatch, "alice\nsesame\nalice\n\n")
    mine = Login()
    assert [mine.open(uri) for uri in ("x", "x", "y")] == ["connection"] * 3
    assert capsys.readouterr().out == "Name: Password: " * 2


def test_answers_are_remembered_for_the_host_that_libvirt_itself_has_chosen(
    daemon: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ``LIBVIRT_DEFAULT_URI``: further connections name it."""
    daemon.connection = FakeConnection("x")
    typed(monkeypatch, "alice\nsesame\n")
    mine = Login()
    for uri in (None, "x", None):
        assert mine.open(uri) is daemon.connection


def test_connection_that_does_not_say_where_it_goes_is_opened_even_so(
    daemon: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.connection = FakeConnection("x")
    monkeypatch.setattr(daemon.connection, "getURI", fails)
    typed(monkeypatch, "alice\nsesame\n")
    assert Login().open(None) is daemon.connection


def fails() -> str:
    raise refused(libvirt.VIR_ERR_RPC, "gone")


def test_answers_that_opened_nothing_are_asked_again(
    daemon: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(monkeypatch, "alice\nwrong\nalice\nsesame\n")
    mine = Login()
    with pytest.raises(libvirt.libvirtError, match="wrong"):
        mine.open("x")
    assert mine.open("x") == "connection"


def test_read_only(daemon: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "alice\nsesame\n")
    assert Login().open_readonly("x") == "connection"
    assert daemon.flags == [libvirt.VIR_CONNECT_RO]


def polkit(code: int) -> libvirt.libvirtError:
    error = refused(code, "polkit")
    error.err = (code, libvirt.VIR_FROM_POLKIT, *error.err[2:])
    return error


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_polkits_agent_asks_where_there_is_a_terminal(
    daemon: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    def start(words: list[str], pass_fds: list[int]) -> SimpleNamespace:
        assert words[0] == "pkttyagent" and words[4] == str(pass_fds[0])
        return SimpleNamespace(
            terminate=lambda: ended.append("asked to"), wait=lambda: ended.append("is")
        )

    monkeypatch.setattr(login.subprocess, "Popen", start)
    monkeypatch.setattr(sys, "stdin", Terminal("alice\n"))
    monkeypatch.setattr(login, "_read_hidden", lambda: "sesame")
    daemon.errors = [polkit(libvirt.VIR_ERR_AUTH_UNAVAILABLE), polkit(libvirt.VIR_ERR_AUTH_FAILED)]  # fmt: skip
    assert Login().open("x") == "connection"
    assert ended == ["asked to", "is"] and len(daemon.flags) == 3


@pytest.mark.parametrize("code, tries", [(libvirt.VIR_ERR_AUTH_UNAVAILABLE, 1), (libvirt.VIR_ERR_AUTH_FAILED, 5)])  # fmt: skip
def test_polkit_is_not_asked_for_ever(
    daemon: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, code: int, tries: int
) -> None:
    typed(monkeypatch, "")  # no terminal, no agent
    daemon.errors = [polkit(code) for _ in range(9)]
    with pytest.raises(libvirt.libvirtError, match="polkit"):
        Login().open("x")
    assert len(daemon.flags) == tries


def test_only_polkit_may_ask_by_itself() -> None:
    answer = Login()._answer
    assert answer([[POLKIT, None, "PolicyKit", None, None]], "x") == 0
    assert answer([[POLKIT, None, "another", None, None]], "x") == -1


def test_what_a_signal_raises_while_it_is_asked_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read() -> str:
        raise KeyboardInterrupt

    def open_auth(uri: str, auth: list, flags: int) -> str:
        assert auth[1]([[NAME, "Name", None, None, None]], auth[2]) == -1
        raise refused(libvirt.VIR_ERR_AUTH_FAILED, "cancelled")

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(readline=read))
    monkeypatch.setattr(login.libvirt, "openAuth", open_auth)
    with pytest.raises(KeyboardInterrupt):
        Login().open("x")


@pytest.mark.parametrize("keys, answer, signals", [(b"sesame\n", "sesame", 0), (b"ses\x1c\x1a\x03", None, 1)])  # fmt: skip
def test_no_key_makes_a_signal_while_nothing_is_shown(
    monkeypatch: pytest.MonkeyPatch,
    keys: bytes,
    answer: str | None,
    signals: int,
) -> None:
    """Ctrl-C is sent when the terminal is as it was, for a handler that goes on."""
    terminal, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    seen: list[bool] = []

    def read(file: int, size: int) -> bytes:
        assert not termios.tcgetattr(theirs)[3] & (termios.ECHO | termios.ISIG)
        os.write(terminal, keys)
        return real_read(theirs, size)

    real_read = os.read
    real = {name: getattr(termios, name) for name in ("tcgetattr", "tcsetattr")}
    for name, call in real.items():
        monkeypatch.setattr(login.termios, name, lambda file, *rest, call=call: call(theirs, *rest))  # fmt: skip
    monkeypatch.setattr(login.os, "read", read)
    handler = signal.signal(
        signal.SIGINT,
        lambda *_: seen.append(termios.tcgetattr(theirs) == before),
    )
    try:
        assert login._read_hidden() == answer
    finally:
        signal.signal(signal.SIGINT, handler)
        os.close(theirs)
        os.close(terminal)
    assert seen == [True] * signals
