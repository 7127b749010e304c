"""A daemon that asks who we are, wherever a command of ours connects to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.conftest import Pair

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
    done = pair.run(words, b"alice\n" + answer + b"\n")[1]
    assert done.out.startswith(ASKED) and done.out.count(b"Enter") == 2
    assert (b"destination/connection" in done.out) is not is_let_in


def test_destination_asks_once_for_all_of_a_migration(pair: Pair, guarded: str) -> None:
    """The look beforehand and the migration itself."""
    line = f"virsh -c test:///default migrate --live --postcopy --unsafe test {guarded}"
    done = pair.run(line.split(), b"alice\nsesame\n")[1]
    assert done.out.count(b"Enter") == 2 and done.status == 1
    assert b"this function is not supported" in done.err
