"""What we read is what the real virsh reads, for command lines that nobody has thought of."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.virsh.grammar import (
    HelpWanted,
    MissingError,
    convert,
    parse_globals,
)
from libvirt_postcopy.virsh.strings import split
from libvirt_postcopy.virsh.verbs import VERBS, read
from shim.conftest import Ended, Pair, ended

EXAMPLES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def ask(pair: Pair, *words: str) -> Ended:
    return ended([pair.virsh, *words], pair.environs[0], b"")


# Command strings

ECHO = "echo --shell -- "
FRAGMENTS = st.lists(
    st.sampled_from(
        [
            *"ab \t;#'\"\\\n",
            " ",
            "\\\n",
            '\\"',
            "\\'",
            "\\\\",
            '"a\\"b"',
            "'a\\b'",
            '"a\'b\\\n"',
            f";{ECHO}",
            f"\n{ECHO}",
        ]
    ),
    max_size=12,
).map("".join)


@EXAMPLES
@given(FRAGMENTS)
def test_strings(pair: Pair, fragment: str) -> None:
    string = ECHO + fragment
    status, out, err = ask(pair, string)
    complaint = complaint_of(string)
    if complaint:
        assert (status, out, err.decode()) == (1, b"", f"error: {complaint}\n")
    else:
        echoed = [word for each in split(string) for word in each.words[3:]]
        assert (status, err) == (0, b"")
        assert shlex.split(out.decode()) == echoed


def complaint_of(string: str) -> str:
    """The first mistake in a string that is to have nothing but our echoes."""
    for command in split(string):
        if command.words and command.words[0] != "echo":
            return f"unknown command: '{command.words[0]}'"
        if command.error is not None:
            return str(command.error)
    return ""


# The options of a command

SHARED = ("migrate", "migrate-postcopy", "domjobinfo", "nwfilter-define")
"""Verbs that virsh has too."""

VALUES = st.sampled_from(["nosuch", "", "5", "x=y", "--", "-x", "--live", "a b", "#"])


def names_of(verb: str) -> list[str]:
    """virsh's own options."""
    names = [each.name for each in VERBS[verb].options if not each.is_ours]
    return [*names, "tunneled"] if verb == "migrate" else names


def options_of(verb: str) -> st.SearchStrategy[list[str]]:
    named = st.sampled_from(names_of(verb))
    return st.one_of(
        named.map(lambda name: [f"--{name}"]),
        named.map(lambda name: [f"--{name}"]),
        st.tuples(named, VALUES).map(lambda two: [f"--{two[0]}={two[1]}"]),
        st.tuples(named, VALUES).map(lambda two: [f"--{two[0]}", two[1]]),
        VALUES.map(lambda value: [value]),
        st.sampled_from([["--help"], ["--foo"], ["--live=1"], ["--=x"]]),
    )


def lines_of(verb: str) -> st.SearchStrategy[list[str]]:
    start = st.sampled_from([[], ["nosuch", "nosuch:///x"], ["nosuch"], ["--domain=nosuch"]])  # fmt: skip
    return st.tuples(start, st.lists(options_of(verb), max_size=5)).map(
        lambda parts: [verb, *parts[0], *(word for words in parts[1] for word in words)]
    )


@EXAMPLES
@given(st.one_of(*[lines_of("migrate")] * 3, *map(lines_of, SHARED[1:])))
def test_options_of_a_command(pair: Pair, line: list[str]) -> None:
    verb = VERBS[line[0]]
    answer = ask(pair, "-d0", "-c", "test:///default", *line)
    said = answer.err.decode().splitlines()
    if lacks_an_option(line[0], said):
        return
    try:
        found = read(verb, line)
    except HelpWanted:
        assert b"  SYNOPSIS\n" in answer.out and answer.status == 0
    except MissingError as error:
        assert said == [f"error: {each}" for each in error.complaints]
    except UsageError as error:
        assert said == [f"error: {error}"]
    else:
        assert seen(line[0], answer.out.decode()) == found


def lacks_an_option(verb: str, said: Sequence[str]) -> bool:
    """Whether this virsh complains of an option that a later one has."""
    complaint = rf"error: command '{verb}' doesn't support option --(\S+)"
    found = re.match(complaint, "".join(said[:1]))
    return found is not None and found[1] in names_of(verb)


def seen(verb: str, out: str) -> dict[str, str]:
    """The options that a virsh which is debugged says it has seen."""
    line = rf"^{verb}: (\S+)\((optdata|bool)\): (.*)$"
    return {
        name: "" if kind == "bool" else value
        for name, kind, value in re.findall(line, out, re.MULTILINE)
    }


def test_flags_are_told_from_data() -> None:
    """Of what the test above depends on."""
    assert seen(
        "migrate", "migrate: live(bool): (none)\nmigrate: dname(optdata): x\n"
    ) == {
        "live": "",
        "dname": "x",
    }


# Before the command

GLOBALS = st.lists(
    st.sampled_from(
        ["-q", "-r", "-t", "-qt", "--quiet", "--q", "--ti", "-d", "0", "-d1", "--debug=7", "-d", "x", "-k0", "-k", "0x0",
         "-K", "-1", "--keepalive", "--keepalive-i=0", "-e", "^]", "-e^1", "-c", "test:///default", "--conn=test:///default",
         "-z", "--", "-", "--no", "--log"]
    ),
    max_size=5,
)  # fmt: skip


@EXAMPLES
@given(GLOBALS)
def test_options_before_the_command(pair: Pair, words: list[str]) -> None:
    answer = ask(pair, *words, "echo", "--shell", "--", "the", "command")
    line = parse_globals([*words, "echo", "--shell", "--", "the", "command"])
    if line is None:
        assert answer.status == 1 and answer.err.startswith(b"error: ")
        return
    if b"unsupported option '--no'" in answer.err:
        return  # a prefix of what a later virsh has
    if b"failed to open the log file" in answer.err:
        return  # "--log" has taken a URI for its value
    if line.options.connect not in (None, "test:///default"):
        return  # "-c" has taken the next option for its value
    if line.words[:1] == ("echo",):
        ending = b"" if line.options.is_quiet else b"\n"
        ending = b"\n(Time: T ms)\n\n" if line.options.is_timed else ending
        assert answer.out.endswith(b"the command" + ending) and answer.status == 0
        complaints = "".join(f"error: {each}\n" for each in line.options.complaints)
        assert answer.err.decode() == complaints
        again = parse_globals([*line.given, *line.words])
        assert again is not None and again.given == line.given
    else:
        assert b"the command" not in answer.out


@EXAMPLES
@given(
    st.one_of(
        st.integers(-(1 << 33), 1 << 33).map(str),
        st.from_regex(r"\A[ \t]?[+-]?0?[0-9]{1,3}[ x]?\Z"),
    )
)
def test_numbers(pair: Pair, text: str) -> None:
    """``--timeout`` is read before there is a connection to the destination."""
    words = ["migrate", "--live", "test", "nosuch", f"--timeout={text}"]
    said = ask(pair, "-c", "test:///default", *words).err
    verb = VERBS["migrate"]
    try:
        convert(verb.options, read(verb, words))
    except UsageError as error:
        assert said.decode().split() == f"error: {error}".split()
    else:
        assert b"Numeric value" not in said and said.startswith(b"error: ")


@pytest.mark.parametrize("number", [0, 1, (1 << 32) - 1, 1 << 32])
def test_numbers_at_the_edge(pair: Pair, number: int) -> None:
    test_numbers.hypothesis.inner_test(pair, str(number))
