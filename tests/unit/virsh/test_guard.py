"""A resume of virsh's own is refused where it would crash the destination's daemon, and nowhere else."""

from __future__ import annotations

import shlex

import libvirt
import pytest

from libvirt_postcopy.virsh import main as program
from libvirt_postcopy.virsh.main import main
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
