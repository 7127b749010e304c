"""A link that breaks after the switch leaves two halves; both are kept, and told of."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Callable

import libvirt
import pytest
from commands import URI, Typed
from observers import Awaited

import libvirt_postcopy as postcopy
from libvirt_postcopy.events import Resumed, Side
from scenes.stage import Stage

Check = Callable[[], None]
SLOW = {"bandwidth.postcopy": 16}

PAUSED, POSTCOPY_FAILED = 3, 13


def _resume(command: list[str]) -> None:
    """Type a command again while one of the two QEMUs has not noticed the break yet."""
    deadline = time.monotonic() + 20
    while True:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=90, check=False
        )
        too_early = "migration is still running" in done.stderr
        if not too_early or time.monotonic() > deadline:
            assert done.returncode == 0, done.stderr
            return


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
        observer=split,
    )
    split.wait()
    assert stage.lab.break_migrations() > 0
    with pytest.raises(postcopy.PostcopyBroken) as caught:
        job.wait(60)
    assert caught.value.guest == "split"
    assert "neither half" in str(caught.value)
    assert isinstance(caught.value, libvirt.libvirtError)
    assert stage.active_on() == ["a", "b"]
    assert _source_state(stage) == [PAUSED, POSTCOPY_FAILED]
    resume = ["virsh", "-c", "qemu+tcp://a/system", "migrate", "--live", "--postcopy"]
    _resume([*resume, "--postcopy-resume", stage.name, URI])
    moved()


def test_command_says_where_the_halves_are_and_what_to_type(
    stage: Stage, moved: Check
) -> None:
    stage.start()
    options = ["--live", "--postcopy-after", "0", "--postcopy-bandwidth", "16"]
    with Typed([*options, "--verbose"]) as typed:
        typed.wait_for("post-copy, .*downtime")  # it runs on the destination
        assert stage.lab.break_migrations() > 0
        code, text = typed.end()
    assert code == 3
    error = text.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "destroy, resume and reset neither half" in error
    command = re.search(r"when the link is back: (.*)\)$", error)
    assert command, error
    _resume(shlex.split(command[1]))
    moved()
