"""A link that breaks after the switch leaves two halves; both are kept, and told of."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable

import libvirt
import libvirt_qemu
import pytest
from commands import URI, Typed
from main_loop import ask_qemu, lookout
from observers import (
    Awaited,
    Recovered,
    all_of,
    check_resumes,
    wait_until_pages_come,
    wait_until_pages_flow,
)

import libvirt_postcopy as postcopy
from libvirt_postcopy.actions import Note, Resume
from libvirt_postcopy.events import Half, Resumed, Side, StatusSeen
from libvirt_postcopy.obstacles import PAUSE_TOO_LATE
from scenes.stage import VENV, Stage
from waiting import wait_until

Check = Callable[[], None]
SLOW = {"bandwidth.postcopy": 16}

PAUSED, POSTCOPY, POSTCOPY_FAILED = 3, 12, 13


def _recover(command: list[str]) -> None:
    """Type a command that brings the guest back."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr


def _source_state(stage: Stage) -> list[int]:
    domain = stage.find("a")
    assert domain is not None
    state: list[int] = domain.state()
    return state


@pytest.mark.parametrize("is_managed", [False, True], ids=["peer to peer", "managed"])
def test_broken_link_leaves_guest_split_and_recoverable(
    stage: Stage, moved: Check, is_managed: bool
) -> None:
    domain = stage.start()
    # Not sooner: until the destination runs, it has not got enough to be recovered with.
    split = Awaited(Resumed, lambda seen: seen.side is Side.DESTINATION)
    job = postcopy.start(
        domain,
        libvirt.open(URI) if is_managed else URI,
        policy="after:0",
        params=SLOW,
        recover="never",
        observer=split,
    )
    split.wait()
    wait_until_pages_flow(job)
    assert stage.lab.break_migrations() > 0
    with pytest.raises(postcopy.PostcopyBroken) as caught:
        job.wait(60)
    assert caught.value.guest == "split"
    assert "neither half" in str(caught.value)
    assert isinstance(caught.value, libvirt.libvirtError)
    assert stage.active_on() == ["a", "b"]
    assert _source_state(stage) == [PAUSED, POSTCOPY_FAILED]
    recover = [str(VENV / "virsh-postcopy"), "-c", "qemu+tcp://a/system"]
    _recover([*recover, "postcopy-recover", stage.name])
    moved()


def test_command_says_where_the_halves_are_and_what_to_type(
    stage: Stage, moved: Check
) -> None:
    stage.start()
    options = ["--live", "--postcopy-after", "0", "--postcopy-bandwidth", "16"]
    options += ["--postcopy-recover", "never"]
    with Typed([*options, "--verbose"]) as typed:
        typed.wait_for("post-copy, .*blackout")  # it runs on the destination
        wait_until_pages_come(stage.find("a"))
        assert stage.lab.break_migrations() > 0
        code, text = typed.end()
    assert code == 3
    error = text.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "destroy, resume and reset neither half" in error
    command = re.search(r"when the link is back: (.*)\)$", error)
    assert command, error
    program, *words = shlex.split(command[1])
    _recover([str(VENV / program), *words])
    moved()


@pytest.mark.parametrize("is_managed", [False, True], ids=["peer to peer", "managed"])
def test_guest_is_brought_back_each_time_its_link_breaks(
    stage: Stage, moved: Check, is_managed: bool
) -> None:
    domain = stage.start()
    split = Awaited(Resumed, lambda seen: seen.side is Side.DESTINATION)
    again = Awaited(StatusSeen, Recovered())

    observe = all_of(split, again)
    job = postcopy.start(
        domain,
        libvirt.open(URI) if is_managed else URI,
        policy="after:0",
        params=SLOW,
        observer=observe,
    )
    split.wait()
    wait_until_pages_flow(job)
    assert stage.lab.break_migrations() > 0
    again.wait()
    assert job.guest == "split"
    assert stage.lab.break_migrations() > 0
    result = job.wait(60)
    assert result.is_peer2peer is not is_managed
    check_resumes(again, breaks=2)
    moved()


def test_guest_that_stops_by_itself_on_the_destination_is_brought_back_too(
    stage: Stage, moved: Check
) -> None:
    """As by a disk's error: libvirt calls its half an ordinary guest then, also when the link breaks."""
    domain = stage.start(qemu_args=lookout(stage))
    split = Awaited(Resumed, lambda seen: seen.side is Side.DESTINATION)
    job = postcopy.start(domain, URI, policy="after:0", params=SLOW, observer=split)
    split.wait()
    wait_until_pages_flow(job)
    with ask_qemu(stage) as qemu:
        qemu.ask("stop")
    there = stage.find("b")
    assert there is not None
    wait_until(lambda: there.state()[0] == PAUSED, "the guest to stand still", 20.0)
    assert there.state()[1] not in (POSTCOPY, POSTCOPY_FAILED)
    assert stage.lab.break_migrations() > 0
    result = job.wait(60)
    assert len(split.of(Resume)) >= 1
    result.domain.resume()
    moved()


def test_command_brings_guest_back_and_ends_well(stage: Stage, moved: Check) -> None:
    stage.start()
    options = ["--live", "--postcopy-after", "0", "--postcopy-bandwidth", "16"]
    with Typed([*options, "--verbose"]) as typed:
        typed.wait_for("post-copy, .*blackout")
        wait_until_pages_come(stage.find("a"))
        assert stage.lab.break_migrations() > 0
        code, text = typed.end()
    assert code == 0, text
    assert "post-copy failed" in text
    moved()


def _limit(domain: libvirt.virDomain) -> int:
    """Post-copy's limit, MiB/s, as the source's QEMU has it."""
    command = '{"execute": "query-migrate-parameters"}'
    answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, command, 0))
    limit: int = answer["return"]["max-postcopy-bandwidth"]
    return limit >> 20


@pytest.mark.parametrize("asked, limit", [(None, 16), (24, 24)])
def test_limit_of_the_rest_is_raised_when_asked_and_kept_otherwise(
    stage: Stage, moved: Check, asked: int | None, limit: int
) -> None:
    domain = stage.start()
    split = Awaited(Resumed, lambda seen: seen.side is Side.DESTINATION)
    again = Awaited(StatusSeen, Recovered())

    observe = all_of(split, again)
    job = postcopy.start(
        domain,
        URI,
        policy="after:0",
        params=SLOW,
        recover_bandwidth=asked,
        observer=observe,
    )
    split.wait()
    wait_until_pages_flow(job)
    assert _limit(domain) == 16
    stage.lab.break_migrations()
    again.wait()
    assert _limit(domain) == limit
    job.wait(60)
    moved()


_LITTLE = 1 << 20
"""Bytes that the kernel takes at once, so that QEMU has nothing left to send."""


def test_link_that_dies_when_all_is_sent_does_not_hold_the_client_for_ever(
    stage: Stage, moved: Check
) -> None:
    """Only the last answer is missing then: no QEMU notices, and none is to be paused."""
    domain = stage.start()
    seen = Awaited(Resumed, lambda what: what.side is Side.DESTINATION)
    job = postcopy.start(
        domain, URI, params={"bandwidth.postcopy": 8}, recover="25s", observer=seen
    )
    seen.wait()  # not sooner: libvirt 12.8 gives no figures in postcopy-device
    wait_until(lambda: _has_slowed_down(domain), "the last pages", 60, pause=0.1)
    _set_limit(domain, 16 << 10)  # no machine is busy for so long
    stage.lab.swallow_migrations()
    _set_limit(domain, 32 << 20)
    wait_until(lambda: _left(domain) == 0, "the kernel to take them", 20)
    with pytest.raises(
        postcopy.PostcopyBroken, match="call does not come back"
    ) as caught:
        job.wait(90)
    assert "QEMU has sent all of the guest" in str(caught.value)
    assert caught.value.halves == (Half.SPLIT, Half.SPLIT)
    refused = [note for note in seen.of(Note) if PAUSE_TOO_LATE in note.text]
    assert len(refused) == 1 and not seen.of(Resume)
    stage.lab.pass_migrations()
    stage.wait_until_only_on("b", 90)  # the kernels try by themselves
    moved()


def _has_slowed_down(domain: libvirt.virDomain) -> bool:
    """Whether little is left; what is takes some seconds, however much it is, so that its end is not missed."""
    left = _left(domain)
    if left != sys.maxsize:
        _set_limit(domain, max(left // 3, 64 << 10))
    return left < _LITTLE


def _set_limit(domain: libvirt.virDomain, rate: int) -> None:
    """Post-copy's limit, bytes/s: libvirt's own unit is a MiB/s."""
    wanted = {"max-postcopy-bandwidth": rate}
    command = {"execute": "migrate-set-parameters", "arguments": wanted}
    libvirt_qemu.qemuMonitorCommand(domain, json.dumps(command), 0)


def _left(domain: libvirt.virDomain) -> int:
    """Bytes of a post-copy that QEMU has not handed to the kernel yet."""
    stats = domain.jobStats()
    is_split = bool(stats.get("memory_postcopy_requests"))
    return int(stats["memory_remaining"]) if is_split else sys.maxsize
