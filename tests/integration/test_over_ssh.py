"""A destination that is reached by the user's own ssh, and a real server there."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from commands import migrate
from observers import Awaited, wait_until_pages_flow
from sshd import SshServer

import libvirt_postcopy as postcopy
from labkit import Lab
from libvirt_postcopy.api import Wishes
from libvirt_postcopy.events import StatusSeen
from scenes.stage import Stage
from waiting import wait_until

Check = Callable[[], None]
_BY_SSH, _BY_TCP = "qemu+ssh://root@b/system", "qemu+tcp://b/system"
_WHEN = "after:2s"
"""QEMU counts only what it was told to count before the switch, and ssh may take its time."""


@pytest.fixture
def server(network: Lab) -> Iterator[SshServer]:
    with SshServer(network, "b") as server:
        yield server


@pytest.fixture
def split() -> Awaited:
    return Awaited(StatusSeen, lambda it: it.status == "postcopy-active")


@pytest.mark.parametrize("uri", [_BY_SSH, _BY_TCP])
def test_waits_are_counted(
    stage: Stage, moved: Check, server: SshServer, uri: str
) -> None:
    """The second monitor is in a folder that only the destination sees."""
    stage.start()
    options = ["--live", "--postcopy-policy", _WHEN, "--postcopy-blocktime"]
    done = migrate(*options, "--verbose", uri=uri)
    assert done.returncode == 0, done.stderr
    assert "postcopy-blocktime: " in done.stderr
    assert "not counted" not in done.stderr
    moved()
    wait_until(lambda: not server.sessions(), "the end of what ran over ssh", 10)


@pytest.mark.parametrize("driver", ["native", "qemu"])
@pytest.mark.usefixtures("patience")
def test_link_that_breaks(
    stage: Stage, moved: Check, server: SshServer, split: Awaited, driver: str
) -> None:
    job = postcopy.start(
        stage.start(),
        _BY_SSH,
        driver=driver,
        policy=_WHEN,
        params={"bandwidth.postcopy": 16},
        wishes=Wishes(blocktime=True),
        recover_bandwidth=0,
        observer=split,
    )
    split.wait()
    wait_until_pages_flow(job)
    assert stage.lab.break_migrations() > 0
    result = job.wait(90)
    assert result.driver == driver and result.notes == ()
    assert result.blocktime["postcopy-blocktime"] > 0
    moved()


@pytest.mark.usefixtures("patience")
def test_server_that_ends_costs_the_figures_only(
    stage: Stage, moved: Check, server: SshServer, split: Awaited
) -> None:
    job = postcopy.start(
        stage.start(),
        _BY_TCP,
        policy=_WHEN,
        params={"bandwidth.postcopy": 16},
        wishes=Wishes(blocktime=True),
        observer=split,
    )
    split.wait()
    assert server.sessions() > 0
    server.stop()
    result = job.wait(90)
    assert result.blocktime == {}
    assert len(result.notes) == 1 and "are not counted: " in result.notes[0]
    moved()
