"""A link that breaks in the instant in which the guest arrives stops the destination's main loop: only out of band is it
reached, and libvirt goes no such way.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest
from commands import URI, Typed
from main_loop import IDLE, SLOW, Begun, lookout, stop_main_loop
from observers import Awaited, Recovered, all_of
from sshd import SshServer

import libvirt_postcopy as postcopy
from labkit import Lab
from libvirt_postcopy.actions import Resume
from libvirt_postcopy.api import Wishes
from libvirt_postcopy.events import StatusSeen
from scenes.stage import Stage

Check = Callable[[], None]
Observer = Callable[[object], None]


@pytest.fixture
def stage(network: Lab) -> Iterator[Stage]:
    with Stage(network, IDLE) as stage:
        yield stage


def _start(stage: Stage, observer: Observer, recover_bandwidth: int) -> postcopy.Job:
    """A migration whose client has a second monitor at the destination's QEMU."""
    return postcopy.start(
        stage.start(qemu_args=lookout(stage)),
        URI,
        policy="manual",
        params=SLOW,
        wishes=Wishes(monitor_dir=str(stage.lab.shared)),
        recover=60,
        recover_bandwidth=recover_bandwidth,
        observer=observer,
    )


def test_guest_is_brought_back_out_of_band(stage: Stage, moved: Check) -> None:
    begun = Begun()
    job = _start(stage, begun, recover_bandwidth=0)
    begun.wait()
    stop_main_loop(stage)
    result = job.wait(90)
    moved()
    assert result.notes == ()


def test_guest_is_brought_back_again(stage: Stage, moved: Check) -> None:
    """libvirt had no part in the first recovery, and refuses the second where it takes no note of the break."""
    begun, again = Begun(), Awaited(StatusSeen, Recovered())
    job = _start(stage, all_of(begun, again), recover_bandwidth=4)
    begun.wait()
    stop_main_loop(stage)
    again.wait()
    assert stage.lab.break_migrations() > 0
    result = job.wait(120)
    moved()
    assert result.notes == ()
    assert len(again.of(Resume)) > 1


def test_connection_over_ssh_outlives_a_dead_link(stage: Stage, moved: Check) -> None:
    """Another one could not be made to that QEMU."""
    dom = stage.start(qemu_args=lookout(stage))
    begun = Begun()
    with SshServer(stage.lab, "b"):
        job = postcopy.start(
            dom,
            URI,
            policy="manual",
            params=SLOW,
            wishes=Wishes(blocktime=True),
            recover=90,
            recover_bandwidth=0,
            observer=begun,
        )
        begun.wait()
        stop_main_loop(stage)
        stage.lab.cut("b")
        time.sleep(20.0)  # the break's own length
        stage.lab.uncut("b")
        result = job.wait(120)
        moved()
        assert result.notes == ()
    assert result.blocktime["postcopy-blocktime"] > 20_000


def test_without_a_second_monitor_it_is_told_and_left_split(stage: Stage) -> None:
    stage.start(qemu_args=lookout(stage))
    slow = ["--bandwidth", "8", "--postcopy-bandwidth", "2"]
    options = ["--live", "--postcopy", *slow, "--verbose"]
    with Typed([*options, "--postcopy-recover", "20"]) as typed:
        typed.wait_for("pass 1|pre-copy")
        stop_main_loop(stage)
        typed.wait_for("the destination's takes no command")
        code, text = typed.end()
    assert code == 3, text
    error = text.strip().splitlines()[-1]
    assert "given up after 20 s" in error and "takes no command" in error
    assert "destroy, resume and reset neither half" in error
    assert re.search(r"virsh-postcopy .*postcopy-recover busy", error)
    assert stage.active_on() == ["a", "b"]
