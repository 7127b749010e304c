from __future__ import annotations

import os
from pathlib import Path

import pytest

from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.virsh.grammar import Kind, Value, parse_command
from libvirt_postcopy.virsh.options import MIGRATE_OPTIONS
from libvirt_postcopy.virsh.plan import Plan, check_times, make_plan, patience

F = MigrateFlags


def given(line: str) -> dict[str, Value]:
    return parse_command("migrate", MIGRATE_OPTIONS, line.split())


def plan(line: str) -> Plan:
    made = make_plan(given(line))
    check_times(given(line), made)
    return made


@pytest.mark.parametrize(
    "options, policy",
    [
        ("--postcopy", "manual"),
        ("--enable-postcopy", "manual"),
        ("--postcopy --enable-postcopy", "manual"),
        ("--postcopy --postcopy-after-precopy", "after-precopy"),
        ("--postcopy-after-precopy", "after-precopy"),
        ("--postcopy-after 0", "after:0s"),
        ("--postcopy-after 90", "after:90s"),
        ("--postcopy-after 5m", "after:5m"),
        ("--postcopy-after 300ms", "after:300ms"),
        ("--postcopy --timeout 60 --timeout-postcopy", "after:1m"),
        ("--enable-postcopy --timeout 60 --timeout-postcopy", "after:1m"),
        ("--postcopy-after-precopy --timeout 9 --timeout-postcopy", "after-precopy|after:9s"),
        ("--postcopy-after-precopy --postcopy-after 9", "after-precopy|after:9s"),
        ("--postcopy-policy after-precopy:3", "after-precopy:3"),
        ("--postcopy --postcopy-policy after:5m&after-precopy", "after:5m&after-precopy"),
        ("--postcopy-policy after:5m --postcopy-after-precopy", "after:5m|after-precopy"),
        ("--postcopy-policy after:5m --postcopy-after 3", "after:5m|after:3s"),
        ("--postcopy-policy never", "never"),
        ("--strict-exit", "never"),
        ("--strict-exit --verbose --p2p", "never"),
        ("--strict-exit --postcopy", "manual"),
    ],
)  # fmt: skip
def test_policy(options: str, policy: str) -> None:
    made = plan(f"--live a b {options}")
    assert str(made.policy) == policy
    assert bool(made.flags & F.VIR_MIGRATE_POSTCOPY) == (policy != "never")


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("a b --postcopy", "source: post-copy migration is not supported with non-live or paused migration (add --live)"),
        ("a b --p2p --postcopy-after-precopy", "source: post-copy migration is not supported with non-live or paused migration (add --live)"),
        ("a b --postcopy-policy never", "--postcopy-policy never needs a live migration (add --live)"),
        ("a b --postcopy-after 5", "migrate: Unexpected postcopy-after for offline migration (it is offline because --live is missing: add --live)"),
        ("a b --live --postcopy-after 5 --timeout 5 --timeout-postcopy", "migrate: --postcopy-after is incompatible with --timeout"),
        ("a b --postcopy --timeout 5 --timeout-postcopy", "migrate: Unexpected timeout for offline migration"),
        ("a b --live --postcopy --timeout-postcopy", "migrate: Unexpected --timeout-* option without --timeout"),
        ("a b --live --enable-postcopy --timeout 5",
         "migrate: to suspend the guest after --timeout does not go with virsh-postcopy's own options (add --timeout-postcopy)"),
        ("a b --live --offline --postcopy", "Options --live and --offline are mutually exclusive"),
        ("a b --live --postcopy --timeout 5 --timeout-suspend --timeout-postcopy",
         "Options --timeout-suspend and --timeout-postcopy are mutually exclusive"),
        ("a b --live --postcopy --copy-storage-all --copy-storage-inc",
         "Options --copy-storage-all and --copy-storage-inc are mutually exclusive"),
        ("a b --live --postcopy --persistent-xml f", "Option --persistent is required by option --persistent-xml"),
        ("a b --live --postcopy --tls-destination h", "Option --tls is required by option --tls-destination"),
        ("a b/system --live --postcopy", "destination: the URI 'b/system' does not include a driver name (write it, as in qemu+ssh://b/system)"),
        ("a //b/system --live --postcopy", "destination: the URI '//b/system' does not include a driver name (write it, as in qemu+ssh://b/system)"),
        ("a b --offline --postcopy-policy never", "--postcopy-policy never needs a live migration (add --live)"),
        ("a b --live --postcopy-policy never|after:5",
         "'never' stands alone: beside '|' it forbids what the others ask for (leave out 'never', or all but 'never')"),
        ("a b --live --strict-exit --timeout 5 --timeout-postcopy", "Option --postcopy is required by option --timeout-postcopy"),
        ("a b --live --postcopy --direct", "post-copy and --direct do not go together (use --p2p, or neither)"),
        ("a b --live --enable-postcopy --postcopy-resume",
         "a migration that is resumed cannot be given a policy (virsh-postcopy postcopy-recover resumes it)"),
        ("a b --live --postcopy-policy never --postcopy", "--postcopy-policy never forbids what --postcopy asks for (leave one of them out)"),
        ("a b --live --postcopy-policy never --postcopy-after-precopy",
         "--postcopy-policy never forbids what --postcopy-after-precopy asks for (leave one of them out)"),
        ("a b --live --postcopy-policy never --timeout 5 --timeout-postcopy",
         "--postcopy-policy never forbids what --timeout-postcopy asks for (leave one of them out)"),
        ("a b --live --postcopy-policy soon",
         "unknown policy 'soon' (write one of: manual, never, after-precopy[:PASSES], after:DURATION; join with | or &)"),
        ("a b --live --postcopy --xml /nonexistent/x", "cannot read file '/nonexistent/x': No such file or directory"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_in_one_line(line: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(line)
    assert str(caught.value) == complaint


def test_plain_line() -> None:
    made = plan("--live --postcopy web1 qemu+tls://b/system")
    assert (made.domain, made.destination) == ("web1", "qemu+tls://b/system")
    assert made.flags == F.VIR_MIGRATE_LIVE | F.VIR_MIGRATE_POSTCOPY
    assert not made.params and not made.is_peer2peer and not made.is_verbose


@pytest.mark.parametrize(
    "uri", ["b", "b-1_x", "qemu:///system", "b:16509/system", "xen:/"]
)
def test_uri_that_a_daemon_may_understand_is_left_to_it(uri: str) -> None:
    assert plan(f"--live --postcopy a {uri}").destination == uri


def test_p2p_is_said_apart_from_the_flags() -> None:
    made = plan("--live --postcopy --p2p --verbose a b")
    assert made.is_peer2peer and made.is_verbose
    assert not made.flags & F.VIR_MIGRATE_PEER2PEER


VALUES = {Kind.STRING: ("x", "x"), Kind.LIST: ("vda,vdb", ["vda", "vdb"])}
VALUES.update({Kind.INT: ("7", 7), Kind.BIG: ("7", 7)})


@pytest.mark.parametrize(
    "option", [each for each in MIGRATE_OPTIONS if each.param and each.kind in VALUES],
    ids=lambda option: option.name,
)  # fmt: skip
def test_every_parameter_reaches_the_call(option) -> None:
    typed, value = VALUES[option.kind]
    line = f"--live --postcopy --tls a b --{option.name} {typed}"
    assert plan(line).params == {option.param: value}


def test_what_virsh_takes_for_not_given() -> None:
    made = plan("--live --postcopy a b --timeout 0 --disks-port 0")
    assert (str(made.policy), made.params) == ("manual", {})
    with pytest.raises(UsageError, match=r"Unexpected --timeout-\* option without"):
        plan("--live --postcopy a b --timeout 0 --timeout-postcopy")


def test_writes_are_synchronous_only_to_storage_that_is_copied() -> None:
    with pytest.raises(UsageError, match="requires one of '--copy-storage-all'"):
        plan("--live --postcopy a b --copy-storage-synchronous-writes")
    plan("--live --postcopy a b --copy-storage-synchronous-writes --copy-storage-inc")


@pytest.mark.parametrize(
    "option",
    [each for each in MIGRATE_OPTIONS if each.flag],
    ids=lambda option: option.name,
)
def test_every_flag_reaches_the_call(option) -> None:
    options = {"--live", "--postcopy-after-precopy", f"--{option.name}"}
    if option.name == "offline":
        options.remove("--live")
    if option.name == "postcopy-resume":
        return  # refused, see above
    if option.name == "copy-storage-synchronous-writes":
        options.add("--copy-storage-all")  # it means nothing without
    made = plan(" ".join([*sorted(options), "a", "b"]))
    if option.name == "p2p":
        assert made.is_peer2peer
    else:
        assert made.flags & option.flag


def test_xml_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "guest.xml"
    file.write_text("<domain>ä</domain>", encoding="utf-8")
    line = f"--live --postcopy --persistent a b --xml {file} --persistent-xml {file}"
    assert plan(line).params == {
        "destination_xml": "<domain>ä</domain>",
        "persistent_xml": "<domain>ä</domain>",
    }


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"\xff", "it is not UTF-8"),
        (b"x" * ((10 << 20) + 1), "it is larger than 10 MiB"),
    ],
)
def test_xml_that_cannot_be_used_is_refused(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    file = tmp_path / "guest.xml"
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        plan(f"--live --postcopy a b --xml {file}")
    assert str(caught.value) == f"cannot read file '{file}': {reason}"


def test_xml_file_with_an_odd_name_can_be_read(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.xml"
    Path(os.fsdecode(name)).write_text("<domain/>", encoding="utf-8")
    words = ["--live", "--postcopy", "a", "b", "--xml", os.fsdecode(name)]
    made = make_plan(parse_command("migrate", MIGRATE_OPTIONS, words))
    assert made.params == {"destination_xml": "<domain/>"}


@pytest.mark.parametrize(
    "text, seconds",
    [("30", 30), ("5m", 300), ("300ms", 0.3), ("never", 0), ("0", 0)],
)
def test_patience(text: str, seconds: float) -> None:
    assert patience(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "Never"])
def test_patience_that_is_none_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(UsageError, match="postcopy-recover") as caught:
        patience(text)
    assert "never" in caught.value.cure


def test_checks_by_default_what_is_certain_to_fail() -> None:
    assert plan("--live --postcopy a b").check == "warn"
    assert plan("--live --postcopy --postcopy-check strict a b").check == "strict"
    assert plan("--live --strict-exit a b").check == "off"


def test_check_that_is_none_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="postcopy-check") as caught:
        plan("--live --postcopy --postcopy-check perhaps a b")
    assert "off, warn, strict" in caught.value.cure


def test_patience_of_half_an_hour_is_the_default() -> None:
    assert plan("--live --postcopy a b").patience_s == 1800
