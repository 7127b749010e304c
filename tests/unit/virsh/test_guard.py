"""A resume of virsh's own is refused where it would crash the destination's daemon, and nowhere else."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from types import SimpleNamespace

import libvirt
import pytest

from libvirt_postcopy.virsh import main as program
from libvirt_postcopy.virsh import shell as shells
from libvirt_postcopy.virsh.batch import Connection
from libvirt_postcopy.virsh.grammar import parse_globals
from libvirt_postcopy.virsh.main import main
from libvirt_postcopy.virsh.shell import Shell
from libvirt_postcopy.virsh.strings import split
from unit.fakes import NO_ANSWER, FakeConnection, refused

URI = "fake:///b"
LINE = f"-c fake:///a migrate --live --postcopy --postcopy-resume web1 {URI}"


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What went to the real virsh."""
    seen: list[str] = []

    def take(words: list[str]) -> int:
        seen.append(shlex.join(words))
        return 0

    monkeypatch.setattr(program, "exec_virsh", take)
    return seen


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> FakeConnection:
    connection = FakeConnection(URI, "bbbb")

    def connect(uri: str) -> FakeConnection:
        if uri != URI:
            raise refused(38, "no connection driver available", domain=7)
        return connection

    monkeypatch.setattr(libvirt, "open", connect)
    return connection


@pytest.mark.parametrize("version", [11_002_000, 11_003_000])
@pytest.mark.parametrize("as_string", [False, True])
def test_refused(
    passed: list[str],
    there: FakeConnection,
    capsys: pytest.CaptureFixture[str],
    version: int,
    as_string: bool,
) -> None:
    there.libvirt_version = version
    words = shlex.split(LINE)
    assert main([*words[:2], shlex.join(words[2:])] if as_string else words) == 3
    said = capsys.readouterr().err
    assert "crashes when a migration is resumed" in said
    assert "destroy, resume and reset neither half" in said
    assert f"virsh-postcopy -c fake:///a postcopy-recover web1 {URI}" in said
    assert passed == [] and there.is_closed


def test_who_sits_at_a_terminal_logs_in_there(
    passed: list[str], there: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is piped are virsh's own answers, and it is as if there were no login."""
    flags: list[int] = []
    monkeypatch.setattr(libvirt, "openAuth", lambda uri, auth, flag: flags.append(flag) or there)  # fmt: skip
    monkeypatch.setattr(libvirt, "open", lambda uri: pytest.fail("without a login"))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    there.libvirt_version = 11_003_000
    assert main(shlex.split(LINE)) == 3
    assert flags == [libvirt.VIR_CONNECT_RO] and passed == []


@pytest.mark.parametrize(
    "line, version",
    [
        (LINE, 11_001_000),
        (LINE, 11_004_000),
        (LINE.replace(URI, "fake:///elsewhere"), 11_003_000),
        (f"migrate --postcopy-resume --foo web1 {URI}", 11_003_000),
        (f"echo --postcopy-resume web1 {URI}", 11_003_000),
    ],
)
def test_passed_on(
    passed: list[str], there: FakeConnection, line: str, version: int
) -> None:
    there.libvirt_version = version
    main(shlex.split(line))
    assert passed == [line]


def test_daemon_that_does_not_answer_is_virshs_to_find_out(
    passed: list[str], there: FakeConnection
) -> None:
    there.error = NO_ANSWER
    main(shlex.split(LINE))
    assert passed == [LINE]


# Ways round the program's own beginning


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was left to the real virsh by a command of ours."""
    seen: list[str] = []
    monkeypatch.setattr(program, "run_virsh", lambda words: seen.append(shlex.join(words)) or 0)  # fmt: skip
    return seen


@pytest.mark.parametrize("version, status", [(11_003_000, 1), (11_004_000, 0)])
def test_strict_exit_is_no_way_round(
    left: list[str], there: FakeConnection, version: int, status: int
) -> None:
    there.libvirt_version = version
    assert main(shlex.split(f"{LINE} --strict-exit")) == status
    assert left == [LINE.replace("-c fake", "--connect=fake")][status:]


class Ours:
    """Runs nothing; what is ours begins with ``ours``."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.ran: list[Sequence[str]] = []

    def claims(self, words: Sequence[str]) -> bool:
        return tuple(words[:1]) == ("ours",)

    def complain(self, complaints: Sequence[str]) -> None:
        self.said += complaints

    def mistake(self, words: Sequence[str]) -> None:
        return None

    def run(self, words: Sequence[str], now: Connection) -> int:
        self.ran.append(words)
        return 0

    def after(self) -> None: ...

    def can_connect(self, options: object) -> bool:
        return True


class Typed(Shell):
    """A shell whose virsh only takes lines."""

    child = os.getpid()

    def __init__(self, ours: Ours) -> None:
        line = parse_globals(["-c", "fake:///a"])
        assert line is not None
        super().__init__(line, ours)
        self.given: list[str] = []

    def take(self, text: str) -> bool:
        commands = split(text)
        take = self._run if self._has_ours(commands) else self._feed
        return take(text.encode(), commands)

    def _give(self, text: bytes) -> bool:
        self.given.append(text.decode().strip())
        return True

    def _line(self, string: str) -> bytes:
        return string.encode()

    def _begin(self, text: bytes) -> None: ...

    def _end(self) -> None: ...


RESUME = f"migrate --live --postcopy --postcopy-resume web1 {URI}"


@pytest.mark.parametrize("line", [RESUME, f"echo a; {RESUME}", f"echo a; ours; {RESUME}"])  # fmt: skip
def test_line_of_a_shell_that_is_refused_is_not_run_and_others_are(
    there: FakeConnection, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(shells, "cannot_read", lambda commands, given, ours: "")
    there.libvirt_version = 11_003_000
    ours = Ours()
    shell = Typed(ours)
    assert shell.take("connect fake:///other") and shell.take(line)
    assert shell.given == ["connect fake:///other"] and ours.ran == []
    [said] = ours.said
    assert "crashes when a migration is resumed" in said
    assert "virsh-postcopy -c fake:///other postcopy-recover web1" in said
    there.libvirt_version = 11_004_000
    assert shell.take(RESUME) and shell.given[1:] == [RESUME]
