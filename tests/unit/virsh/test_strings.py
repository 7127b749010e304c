from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_postcopy.virsh.strings import split


@pytest.mark.parametrize(
    "string, words",
    [
        ("", [()]),
        (" \t ", [()]),
        ("list", [("list",)]),
        ("list --all", [("list", "--all")]),
        ("list;list --all", [("list",), ("list", "--all")]),
        ("list\nlist --all\n", [("list",), ("list", "--all")]),
        (";;", [(), ()]),
        ("# list", [()]),
        ("# a\nlist # b\n", [(), ("list",)]),
        ("list # b\nx", [("list",), ("x",)]),
        ("list#b", [("list#b",)]),
        ("'#x' y z; list", [(), ("list",)]),
        ("a '' \"\"", [("a", "", "")]),
        ("a 'b c'\"d e\"f", [("a", "b cd ef")]),
        ("a 'b;c' \"d\ne\"", [("a", "b;c", "d\ne")]),
        ('a \'b\\\' "c\\"\\x"', [("a", "b\\", 'c"x')]),
        ("a\\ b \\; \\# \\'", [("a b", ";", "#", "'")]),
        ("a\\\nb \\\n c", [("ab", "c")]),
        ("a \"b\\\nc\" 'd\\\ne'", [("a", "bc", "d\\\ne")]),
        ("a 'b; c", [("a", "b; c")]),
    ],
)
def test_split(string: str, words: list[tuple[str, ...]]) -> None:
    commands = split(string)
    if not commands[-1].text and string:  # behind the last separator there is nothing
        commands.pop()
    assert [each.words for each in commands] == words
    assert all(each.error is None for each in commands)


@pytest.mark.parametrize(
    "string, words, error",
    [
        ("list; a \\", [("list",), ("a",)], "dangling \\"),
        ('list; a "b; c', [("list",), ("a",)], 'missing "'),
        ('"', [()], 'missing "'),
    ],
)
def test_string_that_cannot_be_read(
    string: str, words: list[tuple[str, ...]], error: str
) -> None:
    commands = split(string)
    assert [each.words for each in commands] == words
    assert [str(each.error) for each in commands if each.error] == [error]
    assert commands[-1].error is not None


@given(st.text(alphabet="a \t\n;#'\"\\"), st.text(alphabet="a\n;#"))
def test_what_is_closed_stays_as_it_is_before_more(string: str, more: str) -> None:
    """An apostrophe that is not closed would swallow it."""
    commands = split(string)
    if commands[-1].error is None:
        closed = "".join(each.closed for each in commands)
        both = split(f"{closed}\n;{more}")
        assert [each.words for each in both if each.words] == [
            each.words for each in [*commands, *split(more)] if each.words
        ]


@pytest.mark.parametrize(
    "string, is_open",
    [("a 'b", True), ("a '", True), ("a 'b'", False), ("a; b 'c; d", True), ("a 'b' c", False), ("a # 'b", False)],
)  # fmt: skip
def test_apostrophe_that_is_not_closed(string: str, is_open: bool) -> None:
    assert split(string)[-1].is_open is is_open


@given(st.text(alphabet="ab \t\n;#'\"\\\udcff"))
def test_nothing_is_lost(string: str) -> None:
    assert "".join(each.text for each in split(string)) == string
