from __future__ import annotations

import pytest

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.virsh.grammar import (
    Globals,
    HelpWanted,
    Kind,
    MissingError,
    Option,
    convert,
    mentions,
    parse_command,
    parse_globals,
    read_command,
)

OPTIONS = (
    Option("domain", Kind.STRING, "", is_positional=True, is_required=True),
    Option("desturi", Kind.STRING, "", is_positional=True, is_required=True),
    Option("live", Kind.BOOL, ""),
    Option("tunnelled", Kind.BOOL, "", alias="tunneled"),
    Option("uri", Kind.STRING, "", is_positional=True),
    Option("disks", Kind.LIST, ""),
    Option("xml", Kind.FILE, ""),
    Option("timeout", Kind.SECONDS, "", is_positional=True),
    Option("after", Kind.DELAY, ""),
    Option("level", Kind.INT, ""),
    Option("bandwidth", Kind.BIG, ""),
)


@pytest.mark.parametrize(
    "line, options, words",
    [
        ("", Globals(), ""),
        ("list --all", Globals(), "list --all"),
        ("-c u list", Globals(connect="u"), "list"),
        ("-cu list", Globals(connect="u"), "list"),
        ("-c=u list", Globals(connect="=u"), "list"),
        ("--connect u list", Globals(connect="u"), "list"),
        ("--connect=u list", Globals(connect="u"), "list"),
        ("--connect= list", Globals(connect=""), "list"),
        ("--conn u list", Globals(connect="u"), "list"),
        ("--c u list", Globals(connect="u"), "list"),
        ("-c u -c v list", Globals(connect="v"), "list"),
        ("-c -q list", Globals(connect="-q"), "list"),
        ("-q list -q", Globals(is_quiet=True), "list -q"),
        ("-qrt list", Globals(is_quiet=True, is_readonly=True, is_timed=True), "list"),
        ("-qcu list", Globals(is_quiet=True, connect="u"), "list"),
        ("--qu --t --r list", Globals(is_quiet=True, is_timed=True, is_readonly=True), "list"),
        ("-k 3 -K 4 list", Globals(keepalive_interval=3, keepalive_count=4), "list"),
        ("--keepalive-i=0 list", Globals(keepalive_interval=0), "list"),
        ("-d 4 -l log -e ^] list", Globals(log="log"), "list"),
        ("-d -1 list", Globals(complaints=("ignoring debug level -1 out of range [0-4]",)), "list"),
        ("-d 5 -d 9 list", Globals(complaints=("ignoring debug level 5 out of range [0-4]",
                                               "ignoring debug level 9 out of range [0-4]")), "list"),
        ("-k 0x1F -K 017 list", Globals(keepalive_interval=31, keepalive_count=15), "list"),
        ("-k +0 -K 00 list", Globals(keepalive_interval=0, keepalive_count=0), "list"),
        ("-k 0000000000000000000000000000000007 list", Globals(keepalive_interval=7), "list"),
        ("-e x list", Globals(), "list"),
        ("-- list -q", Globals(), "list -q"),
        ("-q -- -x", Globals(is_quiet=True), "-x"),
        ("- list", Globals(), "- list"),
        ("--no-pkttyagent list", Globals(has_agent=False), "list"),
    ],
)  # fmt: skip
def test_globals(line: str, options: Globals, words: str) -> None:
    found = parse_globals(line.split())
    assert found is not None
    assert found.options == options
    assert found.words == tuple(words.split())


@pytest.mark.parametrize(
    "line",
    ["-v", "-V", "--version", "--version=long", "-qv", "--help=1", "-z list", "--nope list", "--k 3 list", "--keepalive- 3 list", "-c", "--connect", "-qc",
     "--quiet=1 list", "-k x list", "-k -1 list", "-k 09 list", "-k 0x list", "-k 1k list", "-e ^1 list", "-e ^ list", "-e é list", "-e xy list", "-d 4294967296 list", "-K 99999999999 list", "-d x list", "-d"],
)  # fmt: skip
def test_what_only_virsh_can_answer_is_left_to_it(line: str) -> None:
    assert parse_globals(line.split()) is None


@pytest.mark.parametrize("line", ["-h", "--help", "--he list", "-q -h list", "-qh -z"])
def test_usage_is_asked_for_before_anything_that_follows(line: str) -> None:
    found = parse_globals(line.split())
    assert found is not None and found.asks_for_usage and found.words == ()


@pytest.mark.parametrize(
    "line, found",
    [
        ("a b", {"domain": "a", "desturi": "b"}),
        ("a b c 5", {"domain": "a", "desturi": "b", "uri": "c", "timeout": 5}),
        ("a --live b", {"domain": "a", "live": True, "desturi": "b"}),
        ("--desturi b a", {"domain": "a", "desturi": "b"}),
        ("--desturi=b a c", {"domain": "a", "desturi": "b", "uri": "c"}),
        ("a b --uri --live", {"domain": "a", "desturi": "b", "uri": "--live"}),
        ("a b -- --live", {"domain": "a", "desturi": "b", "uri": "--live"}),
        ("a -- b --", {"domain": "a", "desturi": "b", "uri": "--"}),
        ("a -x", {"domain": "a", "desturi": "-x"}),
        ("a b --= 5", {"domain": "a", "desturi": "b", "uri": "--=", "timeout": 5}),
        ("a b --uri=x=y", {"domain": "a", "desturi": "b", "uri": "x=y"}),
        ("a b --tunneled", {"domain": "a", "desturi": "b", "tunnelled": True}),
        ("a b --disks x,y", {"domain": "a", "desturi": "b", "disks": "x,y"}),
        ("a b --level -3", {"domain": "a", "desturi": "b", "level": -3}),
        ("a b --bandwidth +7", {"domain": "a", "desturi": "b", "bandwidth": 7}),
        ("a b --after 0", {"domain": "a", "desturi": "b", "after": 0}),
        ("a b --after +7", {"domain": "a", "desturi": "b", "after": 7}),
        ("a b --after 30s", {"domain": "a", "desturi": "b", "after": 30}),
        ("a b --after 5m", {"domain": "a", "desturi": "b", "after": 300}),
        ("a b --after 300ms", {"domain": "a", "desturi": "b", "after": 0.3}),
        ("a b --after=0.5", {"domain": "a", "desturi": "b", "after": 0.5}),
        ("a b --after 2147483", {"domain": "a", "desturi": "b", "after": 2147483}),
        ("a b --bandwidth 18446744073709551615",
         {"domain": "a", "desturi": "b", "bandwidth": (1 << 64) - 1}),
    ],
)  # fmt: skip
def test_command(line: str, found: dict[str, object]) -> None:
    assert parse_command("migrate", OPTIONS, line.split()) == found


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("", "command 'migrate' requires <domain> option"),
        ("a", "command 'migrate' requires <desturi> option"),
        ("a b --foo", "command 'migrate' doesn't support option --foo"),
        ("a b --foo=3", "command 'migrate' doesn't support option --foo"),
        ("a b --liv", "command 'migrate' doesn't support option --liv"),
        ("a b --live --live", "option --live already seen"),
        ("a b --domain c", "option --domain already seen"),
        ("a b --tunneled --tunnelled", "option --tunnelled already seen"),
        ("a b --live=1", "invalid '=' after option --live"),
        ("a b --uri", "expected syntax: --uri <string>"),
        ("a b --timeout", "expected syntax: --timeout <number>"),
        ("a b --after", "expected syntax: --after <duration>"),
        ("a b c 5 d", "unexpected data 'd'"),
        ("a b --uri=", "Failed to get option 'uri': Option argument is empty"),
        ("a b --timeout x", "Numeric value 'x' for <timeout> option is malformed or out of range"),
        ("a b --timeout -1", "Numeric value '-1' for <timeout> option is malformed or out of range"),
        ("a b --timeout 4294967296", "Numeric value '4294967296' for <timeout> option is malformed or out of range"),
        ("a b --level 1x", "Numeric value '1x' for <level> option is malformed or out of range"),
        ("a b --level 2147483648", "Numeric value '2147483648' for <level> option is malformed or out of range"),
        ("a b --bandwidth -5", "Numeric value '-5' for <bandwidth> option is malformed or out of range"),
        ("a b --bandwidth 18446744073709551616",
         "Numeric value '18446744073709551616' for <bandwidth> option is malformed or out of range"),
        ("a b --after -1", "invalid after parameter (write 30, 30s, 5m, 2h or 300ms)"),
        ("a b --after soon", "invalid after parameter (write 30, 30s, 5m, 2h or 300ms)"),
        ("a b --after 5d", "invalid after parameter (write 30, 30s, 5m, 2h or 300ms)"),
        ("a b --after 2147484",
         "post-copy after parameter is too large (at most 2147483 seconds; write 30, 30s, 5m, 2h or 300ms)"),
        ("a b --after 600h",
         "post-copy after parameter is too large (at most 2147483 seconds; write 30, 30s, 5m, 2h or 300ms)"),
        ("a b --uri \udcff", "the value of --uri is not UTF-8"),
    ],
)  # fmt: skip
def test_complaints_are_virshs(line: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_command("migrate", OPTIONS, line.split(" ") if line else [])
    assert str(caught.value) == complaint


def test_file_name_may_be_any_bytes() -> None:
    words = ["a", "b", "--xml", "\udcff"]
    assert parse_command("migrate", OPTIONS, words)["xml"] == "\udcff"


def test_help_is_found_anywhere_unless_there_is_a_mistake() -> None:
    for line in ("--help", "a --help", "a b --live --help", "--help --help"):
        with pytest.raises(HelpWanted):
            parse_command("migrate", OPTIONS, line.split())
    for line in ("--foo --help", "--help --foo", "a b --help=", "--live --help --live"):
        with pytest.raises(UsageError):
            parse_command("migrate", OPTIONS, line.split())
    assert parse_command("m", OPTIONS, ["a", "--", "--help"])["desturi"] == "--help"


def test_each_option_that_is_missing_is_complained_of() -> None:
    with pytest.raises(MissingError) as caught:
        read_command("migrate", OPTIONS, ["--live"])
    assert caught.value.complaints == (
        "command 'migrate' requires <domain> option",
        "command 'migrate' requires <desturi> option",
    )
    with pytest.raises(MissingError) as caught:
        read_command("migrate", OPTIONS, ["--desturi=b"])
    assert caught.value.complaints == ("command 'migrate' requires <domain> option",)


def test_values_are_read_after_all_words() -> None:
    words = ["a", "b", "--timeout", "x", "--level="]
    found = read_command("migrate", OPTIONS, words)
    assert found == {"domain": "a", "desturi": "b", "timeout": "x", "level": ""}
    with pytest.raises(UsageError, match="Numeric value 'x'"):
        convert(OPTIONS, found)


def test_data_fills_what_this_virsh_lets_it_fill() -> None:
    words = ["a", "b", "c", "5", "x,y"]
    with pytest.raises(UsageError, match="unexpected data 'x,y'"):
        read_command("migrate", OPTIONS, words)
    found = read_command("migrate", OPTIONS, words, fills_all=lambda: True)
    assert (found["uri"], found["timeout"], found["disks"]) == ("c", "5", "x,y")


def test_options_are_given_on_in_full() -> None:
    line = parse_globals(["-qcu", "--t", "-k", "3", "list", "-r"])
    assert line is not None
    assert line.given == ("--quiet", "--connect=u", "--timing", "--keepalive-interval=3")  # fmt: skip


def test_option_is_mentioned_with_and_without_a_value() -> None:
    names = frozenset(["--ours"])
    assert mentions(names, ["--x", "--ours"]) and mentions(names, ["--ours=3"])
    assert not mentions(names, ["--ourselves", "ours", "--theirs=--ours"])
