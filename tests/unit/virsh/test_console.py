"""What of the console needs no terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.virsh.console import _on_one_line
from libvirt_postcopy.virsh.strings import split


@given(st.text(alphabet="ab \t\n;#'\"\\é"))
def test_lines_that_are_pasted_say_the_same_on_one(string: str) -> None:
    commands = [each for each in split(string) if each.words or each.error]
    try:
        line = _on_one_line(split(string))
    except UsageError:
        is_broken = any(each.error for each in commands)
        assert is_broken or any("\n" in word for each in commands for word in each.words)  # fmt: skip
        return
    assert "\n" not in line
    said = [each.words for each in split(line) if each.words]
    assert said == [each.words for each in commands]


@pytest.mark.parametrize("string", ["echo a\necho 'b\nc'", "echo a\necho 'b\n", 'echo a\necho "', "echo a\n\\"])  # fmt: skip
def test_lines_that_cannot_be_said_on_one(string: str) -> None:
    with pytest.raises(UsageError):
        _on_one_line(split(string))
