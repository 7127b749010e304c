"""Each option of ``migrate`` reaches libvirt as virsh sends it: the function, its flags and typed parameters.

libvirt's own log of the calls is compared; the test driver refuses each of them, which does not matter here.
"""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from libvirt_postcopy.virsh.grammar import Kind, Option
from libvirt_postcopy.virsh.options import MIGRATE_OPTIONS
from shim.conftest import PATIENCE_S, SHIM, Pair
from waiting import wait_until

URI = "test:///default"


class Call(NamedTuple):
    """What libvirt was asked for."""

    function: str
    flags: int
    params: tuple[str, ...]
    destination: str


ASKED = re.compile(
    r" : (virDomainMigrate(?:3|ToURI3)):\d+ : dom=.*? (?:dconn=\w+|dconnuri=(\S+)),.* flags=0x([0-9a-f]+)$",
    re.MULTILINE,
)
PARAM = re.compile(r'virDomainMigrate\w+:\d+ : params\["(.*)$', re.MULTILINE)
REFUSED = re.compile(r": error : virDomainMigrate(?!GetMaxSpeed)")


def call(pair: Pair, argv: Sequence[str], log: Path) -> Call:
    """Run until libvirt has refused the call; virsh may never end then (its main loop may miss the end)."""
    env = {
        **pair.environs[0],
        "LIBVIRT_DEBUG": "1",
        "LIBVIRT_LOG_OUTPUTS": f"1:file:{log}",
    }
    process = subprocess.Popen(
        argv,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        text = wait_until(lambda: logged(log, process), f"{argv}: a call", PATIENCE_S)
    finally:
        process.send_signal(signal.SIGKILL)
        said = process.communicate(timeout=PATIENCE_S)[0]
    asked = ASKED.search(text)
    assert asked is not None, said.decode()
    params = tuple(sorted(PARAM.findall(text)))
    return Call(asked[1], int(asked[3], 16), params, asked[2] or "")


def logged(log: Path, process: subprocess.Popen[bytes]) -> str:
    has_ended = process.poll() is not None
    text = log.read_text() if log.exists() else ""
    return text if has_ended or REFUSED.search(text) else ""


VALUES = {
    Kind.INT: "3",
    Kind.BIG: "18446744073709551615",
    Kind.SECONDS: "5",
    Kind.STRING: "tcp:x y",
    Kind.LIST: "vda,vdb,,",
}

NEEDS = {
    "timeout-postcopy": ["--timeout", "5"],
    "timeout": ["--timeout-postcopy"],
    "persistent-xml": ["--persistent"],
    "tls-destination": ["--tls"],
    "copy-storage-synchronous-writes": ["--copy-storage-all"],
}
NEED_POSTCOPY = {"postcopy", "postcopy-after-precopy", "timeout", "timeout-postcopy"}

LEFT_TO_VIRSH = {
    "domain", "desturi", "offline", "direct", "postcopy-resume", "timeout-suspend",  # never ours, or no option
}  # fmt: skip


def is_known(option: Option) -> bool:
    """Whether this virsh has it."""
    return f" --{option.name} " in HELP or f" --{option.name}\n" in HELP


HELP = subprocess.run(
    ["virsh", "help", "migrate"], capture_output=True, text=True, check=True
).stdout
THEIRS = [
    each
    for each in MIGRATE_OPTIONS
    if not each.is_ours and each.name not in LEFT_TO_VIRSH and is_known(each)
]


def words_of(option: Option, folder: Path) -> list[str]:
    words = [f"--{option.name}"]
    if option.kind is Kind.FILE:
        path = folder / "guest.xml"
        path.write_text(f"<domain type='test'><name>{option.name}</name></domain>")
        words.append(str(path))
    elif option.kind is not Kind.BOOL:
        words.append(VALUES[option.kind])
    return words + NEEDS.get(option.name, [])


def compare(pair: Pair, folder: Path, words: list[str], ours: list[str]) -> Call:
    line = ["-c", URI, "migrate", "test", URI, *words]
    theirs = call(pair, [pair.virsh, *line], folder / "theirs.log")
    own = call(pair, [str(SHIM), *line, *ours], folder / "ours.log")
    assert own == theirs
    return theirs


NOT_WITH_POSTCOPY = {
    "tunnelled": "post-copy and --tunnelled do not go together",
    "suspend": "post-copy and --suspend do not go together",
    "parallel": "virDomainQemuMonitorCommand",  # QEMU is asked first whether it survives that
}


@pytest.mark.parametrize(
    "option",
    [each for each in THEIRS if each.name not in NOT_WITH_POSTCOPY],
    ids=lambda option: option.name,
)
def test_with_postcopy(pair: Pair, tmp_path: Path, option: Option) -> None:
    words = {"--live": None, "--postcopy": None}
    line = [*words, *(w for w in words_of(option, tmp_path) if w not in words)]
    compare(pair, tmp_path, line, ["--postcopy-check", "off"])


@pytest.mark.parametrize("name", NOT_WITH_POSTCOPY)
def test_refused_with_postcopy(pair: Pair, tmp_path: Path, name: str) -> None:
    line = ["-c", URI, "migrate", "test", URI, "--live", "--postcopy", f"--{name}"]
    with pytest.raises(AssertionError, match=NOT_WITH_POSTCOPY[name]):
        call(pair, [str(SHIM), *line, "--postcopy-check", "off"], tmp_path / "log")


@pytest.mark.parametrize(
    "option",
    [each for each in THEIRS if each.name not in NEED_POSTCOPY],
    ids=lambda option: option.name,
)
def test_without(pair: Pair, tmp_path: Path, option: Option) -> None:
    line = ["--live", *(w for w in words_of(option, tmp_path) if w != "--live")]
    sent = compare(pair, tmp_path, line, ["--strict-exit"])
    if option.flag:
        assert sent.flags & option.flag
    if option.param:
        assert any(each.startswith(f'{option.param}"') for each in sent.params)


def test_all_at_once(pair: Pair, tmp_path: Path) -> None:
    words = [
        "--live",
        *(
            word
            for option in THEIRS
            if option.kind in (Kind.INT, Kind.BIG, Kind.STRING, Kind.LIST)
            for word in words_of(option, tmp_path)
        ),
    ]
    sent = compare(pair, tmp_path, words, ["--strict-exit"])
    assert len(sent.params) > 15


NEWER = {
    "migrate-disks-detect-zeroes": ("vda,vdb", ['migrate_disks_detect_zeroes"]=(string)vda', 'migrate_disks_detect_zeroes"]=(string)vdb']),
    "comp-zlib-level": ("3", ['compression.zlib.level"]=(int)3']),
    "comp-zstd-level": ("3", ['compression.zstd.level"]=(int)3']),
    "available-switchover-bandwidth": ("18446744073709551615", ['bandwidth.avail.switchover"]=(ullong)18446744073709551615']),
}  # fmt: skip
"""What virsh 11.3 sends of its options that 9.0 does not have (``tools/virsh-domain.c``, ``doMigrate``)."""


@pytest.mark.parametrize("name", NEWER)
def test_option_of_a_newer_virsh(pair: Pair, tmp_path: Path, name: str) -> None:
    value, params = NEWER[name]
    line = ["-c", URI, "migrate", "test", URI, "--live", f"--{name}", value]
    sent = call(pair, [str(SHIM), *line, "--strict-exit"], tmp_path / "log")
    assert sent == Call("virDomainMigrate3", 1, tuple(params), "")


def test_every_option_is_compared() -> None:
    """With this virsh, or with what a newer one is known to send."""
    theirs = {each.name for each in MIGRATE_OPTIONS if not each.is_ours}
    compared = {each.name for each in THEIRS}
    assert theirs - compared - LEFT_TO_VIRSH <= NEWER.keys()
    assert theirs >= NEWER.keys()


def test_every_option_of_this_virsh_is_known() -> None:
    named = set(re.findall(r"^    (?:\[--|--)([a-z0-9-]+)", HELP, re.MULTILINE))
    assert named == {
        each.name for each in MIGRATE_OPTIONS if not each.is_ours and is_known(each)
    }.union({"domain", "desturi"})


def test_log_can_tell(pair: Pair, tmp_path: Path) -> None:
    """Of what the tests above depend on."""
    line = [pair.virsh, "-c", URI, "migrate", "test", URI, "--live", "--dname", "x"]
    sent = call(pair, line, tmp_path / "log")
    assert sent == Call("virDomainMigrate3", 1, ('destination_name"]=(string)x',), "")
