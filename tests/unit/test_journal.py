from __future__ import annotations

import fcntl
import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from libvirt_postcopy import journal as j
from libvirt_postcopy.actions import Note, Switch
from libvirt_postcopy.events import PassSeen, Place, SwitchAccepted, SwitchHeld
from libvirt_postcopy.phases import Phase
from unit.fakes import DST, OTHER_UUID, SRC, UUID, reading, status

FACTS = j.Facts(
    name="web1",
    uuid=UUID,
    source="qemu:///system",
    destination="qemu+tcp://b/system",
    flags=33,
    params={"bandwidth.postcopy": 16},
    policy="after:5m",
    recover_s=1800.0,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "libvirt-postcopy"


def records(home: Path) -> list[dict[str, Any]]:
    (path,) = home.iterdir()
    return [json.loads(line) for line in path.read_text().splitlines()]


def started(**facts: Any) -> j.Journal:
    journal = j.Journal(j.replace(FACTS, **facts))
    journal.start(source_host="aaaa", is_peer2peer=True)
    return journal


def ended(guest: Place = Place.DESTINATION, **facts: Any) -> j.Entry:
    """A journal that a client has closed."""
    journal = started(**facts)
    journal.end(guest, Phase.COMPLETED)
    await_release(journal)
    return next(j.entries())


def await_release(journal: j.Journal) -> None:
    """Until the writer has let go of the file."""
    assert journal._writer is not None
    journal._writer.join(10)
    assert not journal._writer.is_alive()


# Where and how


def test_folder_is_that_of_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/op")
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    assert j.folder() == Path("/home/op/.local/state/libvirt-postcopy")
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert j.folder() == Path("/var/state/libvirt-postcopy")


def test_file_and_folders_are_private_from_the_first(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for forbidden in ("chmod", "fchmod"):
        monkeypatch.setattr(os, forbidden, lambda *args, **more: pytest.fail("chmod"))
    before = os.umask(0)
    try:
        started().close()
    finally:
        os.umask(before)
    (path,) = home.iterdir()
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (home.parent, home, path)]
    assert modes == [0o700, 0o700, 0o600]


def test_nothing_is_made_before_the_call(home: Path) -> None:
    journal = j.Journal(FACTS)
    journal.close()
    journal.end(Place.SOURCE, Phase.FAILED)
    assert not home.exists()


def test_start_is_on_the_disk_before_the_call_is_made(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    started().close()
    (path,) = home.iterdir()
    assert synced[:2] == [str(path), str(home)]


def test_each_record_says_when_who_and_in_which_format(home: Path) -> None:
    journal = started()
    journal.see(PassSeen(1))
    journal.see(Switch("now", 1))
    journal.see(SwitchAccepted())
    journal.pause()
    journal.resume(is_peer2peer=False)
    journal.resume(is_peer2peer=False)
    journal.end(Place.DESTINATION, Phase.COMPLETED)
    found = records(home)
    kinds = ["start", "armed", "switch", "pause", "resume", "resume", "end"]
    assert [record["record"] for record in found] == kinds
    for record in found:
        assert record["format"] == j.FORMAT and record["pid"] == os.getpid()
        assert record["version"] and record["time"].endswith("+00:00")
    start, _, switch, _, _, again, end = found
    assert start["uuid"] == UUID and start["flags"] == 33
    assert start["source_host"] == "aaaa" and start["is_peer2peer"] is True
    assert (switch["reason"], again["attempt"]) == ("now", 2)
    assert (end["guest"], end["phase"]) == ("destination", "completed")


@pytest.mark.parametrize(
    "what, arms",
    [
        (PassSeen(1), True),
        (status("active"), True),
        (status("active", DST), False),
        (status("setup", SRC), False),
        (reading(0, 0), False),
        (reading(1), True),
        (Note("x"), False),
    ],
)
def test_it_is_armed_once_when_precopy_begins(
    home: Path, what: object, arms: bool
) -> None:
    journal = started()
    for _ in range(3):
        journal.see(what)
    journal.end(Place.SOURCE, Phase.FAILED)
    kinds = [record["record"] for record in records(home)]
    assert kinds == ["start", *(["armed"] if arms else []), "end"]


@pytest.mark.parametrize("call", ["arm", "pause"])
def test_call_that_cannot_be_taken_back_waits_for_its_record(
    home: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    journal = started()
    (path,) = home.iterdir()
    hangs, may_go_on = threading.Event(), threading.Event()

    def fsync(fd: int) -> None:
        hangs.set()
        may_go_on.wait(30)

    monkeypatch.setattr(os, "fsync", fsync)
    asked = threading.Thread(target=getattr(journal, call), daemon=True)
    asked.start()
    assert hangs.wait(10) and asked.is_alive()
    may_go_on.set()
    asked.join(10)
    assert not asked.is_alive()
    assert [record["record"] for record in records(home)][1:] in (["armed"], ["pause"])
    journal.close()


def test_switch_finds_its_record_on_the_disk(home: Path) -> None:
    """Written when pre-copy begins, it costs a switch nothing; and once is enough."""
    journal = started()
    journal.see(PassSeen(1))
    journal.arm()
    journal.arm()
    journal.end(Place.SOURCE, Phase.FAILED)
    kinds = [record["record"] for record in records(home)]
    assert kinds == ["start", "armed", "end"]


def test_switch_that_was_held_back_is_not_noted(home: Path) -> None:
    journal = started()
    for answer in (SwitchHeld("no sign of life"), SwitchAccepted()):
        journal.see(Switch("now", 1))
        journal.see(answer)
    journal.end(Place.SPLIT, Phase.BROKEN)
    kinds = [record["record"] for record in records(home)]
    assert kinds == ["start", "switch", "end"]


def test_switch_waits_only_once_for_a_disk_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journal = started()
    hangs = threading.Event()
    monkeypatch.setattr(j, "WAIT_S", 0.05)
    monkeypatch.setattr(os, "fsync", lambda fd: hangs.wait(30))
    try:
        journal.arm()
        assert "no answer" in journal.take_warning()
        monkeypatch.setattr(j, "WAIT_S", 30.0)
        again = threading.Thread(target=journal.arm, daemon=True)
        again.start()
        again.join(10)
        assert not again.is_alive() and journal.take_warning() == ""
    finally:
        hangs.set()
    journal.close()


def test_no_disk_delays_what_is_only_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = started()
    hangs = threading.Event()
    monkeypatch.setattr(os, "fsync", lambda fd: hangs.wait(30))
    try:
        for what in (PassSeen(1), Switch("now", 1), SwitchAccepted()):
            thread = threading.Thread(target=journal.see, args=(what,), daemon=True)
            thread.start()
            thread.join(10)
            assert not thread.is_alive(), "see() waits for the disk"
            assert journal.take_warning() == ""
    finally:
        hangs.set()
    journal.end(Place.SOURCE, Phase.FAILED)


def test_a_disk_that_hangs_delays_a_call_only_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hangs = threading.Event()
    monkeypatch.setattr(j, "WAIT_S", 0.05)
    monkeypatch.setattr(os, "fsync", lambda fd: hangs.wait(30))
    journal = j.Journal(FACTS)
    journal.start(source_host=None, is_peer2peer=True)
    assert "cannot be written" in journal.take_warning()
    hangs.set()
    journal.close()


# Trouble


def full(fd: int, data: bytes) -> int:
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", full)
    journal = started()
    warning = journal.take_warning()
    assert "No space left on device" in warning and "\n" not in warning
    journal.arm()
    journal.pause()
    journal.resume(is_peer2peer=True)
    journal.end(Place.SPLIT, Phase.BROKEN)
    assert journal.take_warning() == ""


@pytest.mark.parametrize("base", ["/proc/nowhere", "/dev/null"])
def test_a_home_that_cannot_be_written_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", base)
    journal = started()
    assert "cannot be written" in journal.take_warning()
    journal.end(Place.SOURCE, Phase.FAILED)
    assert list(j.entries()) == []


# Secrets


@pytest.mark.parametrize(
    "uri, safe",
    [
        ("qemu:///system", "qemu:///system"),
        ("qemu+tcp://b/system", "qemu+tcp://b/system"),
        ("qemu+tcp://[fe80::1]:99/system", "qemu+tcp://[fe80::1]:99/system"),
        ("qemu+ssh://me:s3cret@b:22/system", "qemu+ssh://me@b:22/system"),
        ("qemu+ssh://me:s3@cret@b/system", "qemu+ssh://me@b/system"),
        ("qemu+ssh://b/system?keyfile=/root/id&token=s3cret", "qemu+ssh://b/system?keyfile=/root/id"),
        ("qemu+tls://b/system?s3cret", "qemu+tls://b/system"),
        ("qemu+tls://b/system#s3cret", "qemu+tls://b/system"),
        ("spice://b:5900?tlsPort=5901&password=s3cret", "spice://b:5900?tlsPort=5901"),
        ("unix:///run/x?socket=/run/y", "unix:///run/x?socket=/run/y"),
        ("tcp:b:49152", "tcp:b:49152"),
        ("alias", "alias"),
        ("qemu+ssh://[s3cret", ""),
    ],
)  # fmt: skip
def test_no_secret_of_a_uri(uri: str, safe: str) -> None:
    assert j.safe_uri(uri) == safe


@pytest.mark.parametrize("name", ["destination_xml", "persistent_xml"])
def test_a_definition_is_held_back(name: str) -> None:
    params = {
        name: "<domain><cookies><cookie name='a'>s3cret</cookie></cookies></domain>",
        "bandwidth": 5,
    }
    assert j.without_secrets(params) == ({"bandwidth": 5}, [name])


def test_no_secret_reaches_the_file(home: Path) -> None:
    started(
        source="qemu+ssh://a:s3cret@a/system",
        destination="qemu+ssh://b:s3cret@b/system?pw=s3cret",
        params={
            "migrate_uri": "tcp://u:s3cret@b",
            "graphics_uri": "spice://b?password=s3cret",
            "persistent_xml": "<domain><graphics passwd='s3cret'/></domain>",
            "new_in_13.0": "s3cret",
            "bandwidth": object(),
            "migrate_disks": ["vda", "vdb"],
        },
    ).end(Place.SOURCE, Phase.FAILED)
    text = json.dumps(records(home))
    assert "s3cret" not in text
    start, _ = records(home)
    assert start["params_held_back"] == ["persistent_xml", "new_in_13.0", "bandwidth"]
    assert start["params"]["migrate_disks"] == ["vda", "vdb"]


# Reading


def test_what_is_written_is_read() -> None:
    journal = started(is_peer2peer=False)
    entry = j.newest(UUID, "qemu:///system", None)
    assert entry is not None and entry.is_held and entry.pid == os.getpid()
    assert entry.facts == j.replace(FACTS, source_host="aaaa", is_peer2peer=True)
    assert entry.end is None and not entry.is_over and entry.resumed is None
    journal.resume(is_peer2peer=False)
    journal.end(Place.SPLIT, Phase.BROKEN)
    await_release(journal)
    entry = j.newest(UUID, None, "aaaa")
    assert entry is not None and not entry.is_held
    assert not entry.facts.is_peer2peer
    assert entry.end is Place.SPLIT and not entry.is_over
    assert entry.resumed is not None and 0 <= time.time() - entry.resumed < 60


@pytest.mark.parametrize(
    "guest, is_over",
    [
        (Place.SOURCE, True),
        (Place.DESTINATION, True),
        (Place.LOST, True),
        (Place.SPLIT, False),
        (Place.UNKNOWN, False),
    ],
)
def test_a_split_guest_is_not_over(guest: Place, is_over: bool) -> None:
    assert ended(guest).is_over is is_over


def test_a_client_that_is_gone_holds_nothing_and_another_takes_over(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(j, "_LOCKED_WITHIN_S", 0.02)
    journal = started()
    (path,) = home.iterdir()
    first = next(j.entries())
    assert not j.Journal(FACTS, first).hold()
    journal.resume(is_peer2peer=True)
    journal.close()
    await_release(journal)
    second = j.Journal(FACTS, first)
    assert second.hold()
    second.attach()
    assert list(home.iterdir()) == [path]
    kinds = ["start", "resume", "attach"]
    assert [record["record"] for record in records(home)] == kinds
    entry = next(j.entries())
    assert entry.is_held and entry.resumed is not None
    second.see(PassSeen(1))
    second.end(Place.DESTINATION, Phase.COMPLETED)
    assert [record["record"] for record in records(home)] == [*kinds, "end"]


def test_a_reader_that_holds_for_a_moment_keeps_nobody_from_taking_over(
    home: Path,
) -> None:
    entry = ended(Place.SPLIT)
    fd = os.open(entry.path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    timer = threading.Timer(0.05, os.close, args=(fd,))
    timer.start()
    journal = j.Journal(FACTS, entry)
    assert journal.hold()
    journal.close()
    timer.join()


def test_newest_of_that_domain_on_that_host() -> None:
    ended(policy="after:1s")
    wanted = ended(policy="after:2s")
    ended(uuid=OTHER_UUID)
    assert j.newest(UUID, "qemu:///system", None) == wanted
    assert j.newest(UUID, "qemu+tcp://a/system", "aaaa") == wanted  # the host decides
    assert j.newest(UUID, "qemu:///system", "bbbb") is None
    assert j.newest(UUID, "qemu+tcp://a/system", None) is None


def spoil(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(path.read_text().splitlines()[0])
    change(record)
    path.write_text(json.dumps(record) + "\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.update(format=2),
        lambda it: it.pop("uuid"),
        lambda it: it.update(flags="many"),
        lambda it: it.update(params=[]),
        lambda it: it.update(destination=7),
        lambda it: it.update(time="yesterday"),
        lambda it: it.update(record="start of something else"),
    ],
)
def test_what_is_broken_or_unknown_is_left_alone(
    change: Callable[[dict[str, Any]], object],
) -> None:
    path = ended().path
    spoil(path, change)
    assert list(j.entries()) == []
    j.tidy(now=9e9)
    assert path.exists()


@pytest.mark.parametrize("text", [b"", b"\xff\0", b"[]\n", b'"x"\n', b"null\n", b"7\n"])
def test_rubbish_is_left_alone(text: bytes) -> None:
    path = ended().path
    path.write_bytes(text)
    assert list(j.entries()) == []
    j.tidy(now=9e9)
    assert path.exists()


def test_a_torn_last_line_costs_only_itself() -> None:
    path = ended(Place.SPLIT).path
    with path.open("ab") as file:
        file.write(b'{"format": 1, "rec')
    entry = next(j.entries())
    assert entry.end is Place.SPLIT


def test_a_link_is_not_followed(home: Path, tmp_path: Path) -> None:
    path = ended().path
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert list(j.entries()) == []


# Tidying


def test_ended_journals_are_removed_after_their_time() -> None:
    entry = ended()
    days = 86_400.0
    j.tidy(now=entry.began + 29 * days)
    assert entry.path.exists()
    j.tidy(now=entry.began + 31 * days)
    assert not entry.path.exists()


def test_what_is_not_over_is_kept_for_ever() -> None:
    entry = ended(Place.SPLIT)
    journal = started(uuid=OTHER_UUID)
    j.tidy(now=9e9)
    assert len(list(j.entries())) == 2
    assert entry.path.exists()
    journal.end(Place.SOURCE, Phase.FAILED)


def test_the_newest_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(j, "KEPT", 2)
    paths = [ended().path for _ in range(4)]
    j.tidy()
    assert [path.exists() for path in paths] == [False, False, True, True]


def test_files_of_others_are_left_alone(home: Path) -> None:
    entry = ended()
    other = home / "notes.jsonl"
    other.write_text("mine")
    j.tidy(now=9e9)
    assert list(home.iterdir()) == [other]
    assert not entry.path.exists()
