"""The table against a list written by hand, and against the virsh that is installed."""

from __future__ import annotations

import re
import subprocess

import pytest

from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.virsh.grammar import Kind, Option
from libvirt_postcopy.virsh.options import ENABLING, MIGRATE_OPTIONS, option_names

BY_NAME = {option.name: option for option in MIGRATE_OPTIONS}

FLAGS = {
    "live": 1 << 0,
    "p2p": 1 << 1,
    "tunnelled": 1 << 2,
    "persistent": 1 << 3,
    "undefinesource": 1 << 4,
    "suspend": 1 << 5,
    "copy-storage-all": 1 << 6,
    "copy-storage-inc": 1 << 7,
    "change-protection": 1 << 8,
    "unsafe": 1 << 9,
    "offline": 1 << 10,
    "compressed": 1 << 11,
    "abort-on-error": 1 << 12,
    "auto-converge": 1 << 13,
    "rdma-pin-all": 1 << 14,
    "postcopy": 1 << 15,
    "tls": 1 << 16,
    "parallel": 1 << 17,
    "copy-storage-synchronous-writes": 1 << 18,
    "postcopy-resume": 1 << 19,
    "zerocopy": 1 << 20,
}

PARAMS = {
    "migrateuri": ("migrate_uri", Kind.STRING),
    "graphicsuri": ("graphics_uri", Kind.STRING),
    "listen-address": ("listen_address", Kind.STRING),
    "dname": ("destination_name", Kind.STRING),
    "xml": ("destination_xml", Kind.FILE),
    "persistent-xml": ("persistent_xml", Kind.FILE),
    "migrate-disks": ("migrate_disks", Kind.LIST),
    "migrate-disks-detect-zeroes": ("migrate_disks_detect_zeroes", Kind.LIST),
    "disks-port": ("disks_port", Kind.INT),
    "disks-uri": ("disks_uri", Kind.STRING),
    "comp-methods": ("compression", Kind.LIST),
    "comp-mt-level": ("compression.mt.level", Kind.INT),
    "comp-mt-threads": ("compression.mt.threads", Kind.INT),
    "comp-mt-dthreads": ("compression.mt.dthreads", Kind.INT),
    "comp-xbzrle-cache": ("compression.xbzrle.cache", Kind.BIG),
    "comp-zlib-level": ("compression.zlib.level", Kind.INT),
    "comp-zstd-level": ("compression.zstd.level", Kind.INT),
    "auto-converge-initial": ("auto_converge.initial", Kind.INT),
    "auto-converge-increment": ("auto_converge.increment", Kind.INT),
    "postcopy-bandwidth": ("bandwidth.postcopy", Kind.BIG),
    "parallel-connections": ("parallel.connections", Kind.INT),
    "bandwidth": ("bandwidth", Kind.BIG),
    "tls-destination": ("tls.destination", Kind.STRING),
    "available-switchover-bandwidth": ("bandwidth.avail.switchover", Kind.BIG),
}

BY_NAME_ONLY = {"domain", "desturi", "direct", "verbose", "postcopy-after-precopy"}
BY_NAME_ONLY |= {"timeout", "timeout-suspend", "timeout-postcopy"}
OURS = {
    "enable-postcopy",
    "postcopy-after",
    "postcopy-blocktime",
    "postcopy-check",
    "postcopy-driver",
    "postcopy-policy",
    "postcopy-monitor-dir",
    "postcopy-preempt",
    "postcopy-recover",
    "postcopy-recover-bandwidth",
    "postcopy-release-ram",
    "strict-exit",
}

POSITIONAL = "domain desturi migrateuri graphicsuri listen-address dname timeout xml migrate-disks disks-port"


@pytest.mark.parametrize("name, bit", FLAGS.items())
def test_flag(name: str, bit: int) -> None:
    option = BY_NAME[name]
    assert option.flag == bit and option.kind is Kind.BOOL and option.param is None


@pytest.mark.parametrize("name, param", PARAMS.items())
def test_param(name: str, param: tuple[str, Kind]) -> None:
    option = BY_NAME[name]
    assert (option.param, option.kind) == param and option.flag is None


def test_no_option_is_forgotten() -> None:
    assert set(BY_NAME) == FLAGS.keys() | PARAMS.keys() | BY_NAME_ONLY | OURS
    assert len(BY_NAME) == len(MIGRATE_OPTIONS)
    assert set(MigrateFlags) == {BY_NAME[name].flag for name in FLAGS}
    assert {option.name for option in MIGRATE_OPTIONS if option.is_ours} == OURS
    assert set(ENABLING) <= set(BY_NAME)


def test_positional_ones_in_their_order() -> None:
    positional = [option.name for option in MIGRATE_OPTIONS if option.is_positional]
    assert positional == POSITIONAL.split()


def installed() -> list[tuple[str, str, str]]:
    """Name, value and help of each option that the installed virsh lists."""
    text = subprocess.run(
        ["virsh", "help", "migrate"], capture_output=True, text=True, check=True
    ).stdout
    row = re.compile(r"    \[?--([a-z0-9-]+)\]?(?: <(\w+)>)? +(\S.*)")
    rows = text.partition("  OPTIONS\n")[2].splitlines()
    return [match.groups("") for match in map(row.fullmatch, rows) if match]  # type: ignore[misc]


def value_of(option: Option) -> str:
    if option.kind is Kind.BOOL:
        return ""
    return option.kind.value_word


@pytest.mark.programs
def test_installed_virsh_has_no_option_that_the_table_lacks() -> None:
    theirs = installed()
    assert len(theirs) > 40
    for name, value, text in theirs:
        option = BY_NAME[name]
        assert (name, value, text) == (name, value_of(option), option.help)
    order = [option.name for option in MIGRATE_OPTIONS]
    positions = [order.index(name) for name, _, _ in theirs]
    assert positions == sorted(positions)


@pytest.mark.parametrize(
    "text, shown",
    [
        ("VIR_MIGRATE_PAUSED", "--suspend"),
        ("no VIR_MIGRATE_TUNNELLED, VIR_MIGRATE_OFFLINE", "no --tunnelled, --offline"),
        ("started with VIR_MIGRATE_POSTCOPY flag", "started with --postcopy"),
        ("VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY", "--postcopy-after-precopy"),
        ("VIR_MIGRATE_PARAM_URI, XVIR_MIGRATE_LIVE", "VIR_MIGRATE_PARAM_URI, XVIR_MIGRATE_LIVE"),
        ("flag", "flag"),
    ],
)  # fmt: skip
def test_flags_are_called_by_what_people_type(text: str, shown: str) -> None:
    assert option_names(text) == shown
