"""Which file of the user's says how readline is to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from libvirt_postcopy.virsh.line_editor import _inputrc


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("INPUTRC", raising=False)
    return tmp_path


@pytest.mark.parametrize("named", ["", None])
def test_own_file_if_there_is_one(
    home: Path, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    if named is not None:
        monkeypatch.setenv("INPUTRC", named)
    assert _inputrc() == Path("/etc/inputrc")
    (home / ".inputrc").touch()
    assert _inputrc() == home / ".inputrc"


def test_named_file_whether_it_is_there_or_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / ".inputrc").touch()
    monkeypatch.setenv("INPUTRC", "/nonexistent")
    assert _inputrc() == Path("/nonexistent")
