"""A migration that another client has started, and left, is found again and brought to its end."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libvirt
import pytest
from commands import URI, Typed, virsh_postcopy, without_delays
from observers import Awaited, wait_until_pages_come, wait_until_pages_flow

import libvirt_postcopy as postcopy
from libvirt_postcopy.actions import Note
from libvirt_postcopy.events import Resumed, Side
from scenes.stage import VENV, Stage
from waiting import wait_until

Check = Callable[[], None]

SOURCE = "qemu+tcp://a/system"
SLOW = ["--live", "--postcopy", "--postcopy-bandwidth", "16", "--verbose"]
BY_WHOM = pytest.mark.parametrize(
    "options", [["--p2p"], []], ids=["peer to peer", "managed"]
)


def attach(*options: str) -> subprocess.CompletedProcess[str]:
    return virsh_postcopy("postcopy-attach", "busy", *options)


@contextmanager
def virsh_migrates(
    *options: str, postcopy: bool = True
) -> Iterator[subprocess.Popen[str]]:
    """The real virsh, killed at the end."""
    words = ["virsh", "-c", SOURCE, "migrate", "--live", *options]
    words += ["--postcopy"] if postcopy else []
    process = subprocess.Popen(
        [*words, "busy", URI],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def kill_in_postcopy(stage: Stage, options: list[str]) -> None:
    """Leave a migration behind that has switched, by kill -9."""
    with Typed([*SLOW, "--postcopy-after", "0", *options]) as typed:
        typed.wait_for("post-copy, .*blackout")  # it runs on the destination
        wait_until_pages_come(stage.find("a"))


@contextmanager
def held_up(stage: Stage) -> Iterator[None]:
    """The migration does not come to its end meanwhile, however long a program takes to start."""
    stage.lab.limit("1MiB")
    yield
    stage.lab.limit("32MiB")


@pytest.fixture
def journals(state_home: Path) -> Callable[[], list[list[dict[str, object]]]]:
    """All records of all journals, the newest first."""

    def read() -> list[list[dict[str, object]]]:
        paths = sorted((state_home / "libvirt-postcopy").glob("*"), reverse=True)
        return [
            [json.loads(line) for line in path.read_text().splitlines()]
            for path in paths
        ]

    return read


@BY_WHOM
def test_killed_after_the_switch(
    stage: Stage, moved: Check, journals: Callable[[], list[list[dict[str, object]]]], options: list[str]
) -> None:  # fmt: skip
    stage.start()
    kill_in_postcopy(stage, options)
    with Typed(["--verbose"], verb="postcopy-attach", uri="") as typed:
        with held_up(stage):
            typed.wait_for("post-copy, guest on destination")
        code, text = typed.end()
    assert code == 0, text
    moved()
    records = journals()[0]
    kinds = [record["record"] for record in records]
    assert kinds == ["start", "armed", "switch", "attach", "end"]
    assert records[0]["pid"] != records[-1]["pid"]
    assert records[-1]["guest"] == "destination"


@BY_WHOM
def test_killed_after_the_switch_and_then_broken(
    stage: Stage, moved: Check, options: list[str]
) -> None:
    stage.start()
    kill_in_postcopy(stage, options)
    assert stage.lab.break_migrations() > 0
    done = attach()
    assert done.returncode == 0, done.stderr
    moved()


@BY_WHOM
def test_killed_while_broken(stage: Stage, moved: Check, options: list[str]) -> None:
    stage.start()
    with Typed([*SLOW, "--postcopy-after", "0", "--postcopy-recover", "never", *options]) as typed:  # fmt: skip
        typed.wait_for("post-copy, .*blackout")
        wait_until_pages_come(stage.find("a"))
        assert stage.lab.break_migrations() > 0
        code, text = typed.end()
    assert code == 3, text
    done = attach()
    assert done.returncode == 0, done.stderr
    moved()


def test_killed_before_the_switch_peer_to_peer(stage: Stage, moved: Check) -> None:
    stage.start()
    with Typed([*SLOW, "--p2p"]) as typed:
        typed.wait_for("pre-copy pass")
    done = attach("--postcopy-policy", "after-precopy")
    assert done.returncode == 0, done.stderr
    moved()


def test_killed_before_the_switch_managed(stage: Stage, stayed: Check) -> None:
    """libvirt undoes what nobody manages."""
    domain = stage.start()
    with Typed(SLOW) as typed:
        typed.wait_for("pre-copy pass")
    stage.wait_until_only_on("a", 30)
    # The destination is rid of it a moment before the source's daemon is done.
    wait_until(
        lambda: domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE, "its end", 30
    )
    done = attach("--postcopy-policy", "after-precopy")
    assert done.returncode == 1
    assert "nothing to attach to: domain 'busy' runs" in done.stderr
    assert "left a migration to qemu+tcp://b/system behind" in done.stderr
    stayed()


def test_a_migration_of_virsh_is_switched_by_policy(stage: Stage, moved: Check) -> None:
    stage.start()
    with virsh_migrates("--p2p") as virsh:
        _wait_for_precopy(stage)
        done = attach(URI, "--postcopy-policy", "after-precopy", "--verbose")
        assert done.returncode == 0, done.stderr
        assert virsh.wait(30) == 0
    moved()
    assert "the first pass is done" in done.stderr


def test_what_post_copy_was_not_enabled_for_is_not_switched(
    stage: Stage, stayed: Check
) -> None:
    domain = stage.start()
    with virsh_migrates("--p2p", postcopy=False):
        _wait_for_precopy(stage)
        with Typed(["--postcopy-policy", "after:0"], verb="postcopy-attach") as typed:
            typed.wait_for("switch to post-copy was refused: .*started with --postcopy")
            domain.abortJob()
            code, text = typed.end()
        stage.wait_until_only_on("a", 30)
    assert code == 1
    assert "the migration has ended without moving the guest" in text
    stayed()


def test_shadow_only_says_what_it_would_do(stage: Stage, stayed: Check) -> None:
    domain = stage.start()
    options = ["--postcopy-policy", "after:0", "--shadow"]
    with virsh_migrates("--p2p"):
        _wait_for_precopy(stage)
        with Typed(options, verb="postcopy-attach") as typed:
            typed.wait_for("note: would switch to post-copy: at once, as asked")
            _wait_for_next_pass(stage)
            assert stage.active_on() == ["a", "b"]
            assert domain.state() == [1, 1]  # running, and not in post-copy
            typed.press_ctrl_c()
            code, text = typed.end()
        assert code == 3, text
        assert "left the migration of 'busy' to itself" in text
        domain.abortJob()
        stage.wait_until_only_on("a", 30)
    stayed()


def test_recover_brings_back_what_virsh_left_broken(stage: Stage, moved: Check) -> None:
    domain = stage.start()
    with virsh_migrates("--postcopy-bandwidth", "16") as virsh:
        _wait_for_precopy(stage)
        assert _recover().returncode == 1  # nothing is broken
        watched = Awaited(Resumed, lambda seen: seen.side is Side.DESTINATION)
        job = postcopy.attach(
            domain, URI, policy="after:0", shadow=True, observer=watched
        )
        # It connects on a thread of its own, and hears only what comes after that.
        wait_until(job._driver._connected.is_set, "an ear at the destination", 30)
        domain.migrateStartPostCopy()
        watched.wait()
        wait_until_pages_flow(job)
        assert stage.lab.break_migrations() > 0
        assert virsh.wait(60) == 1
    rows = migrations("a")
    assert [(row["phase"], row["guest"]) for row in rows] == [("broken", "split")]
    assert rows[0]["next"].endswith("postcopy-recover busy DESTURI")
    nowhere = _recover()
    assert nowhere.returncode == 3
    assert "the URI of its destination is needed" in nowhere.stderr
    done = _recover(URI)
    assert done.returncode == 0, done.stderr
    moved()


def test_the_other_half_is_told_from_the_source(stage: Stage, moved: Check) -> None:
    stage.start()
    kill_in_postcopy(stage, ["--p2p"])
    with held_up(stage):
        wrong = subprocess.run(
            [VENV / "virsh-postcopy", "-c", URI, "postcopy-attach", "busy"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert wrong.returncode == 3
    assert "this is the destination's half of domain 'busy'" in wrong.stderr
    assert f"run it against the source URI, {SOURCE}" in wrong.stderr
    assert attach().returncode == 0
    moved()


def test_what_is_driven_is_refused_and_listed(stage: Stage, moved: Check) -> None:
    stage.start()
    assert migrations("a") == []
    with Typed([*SLOW, "--postcopy-after", "0", "--p2p"]) as typed:
        typed.wait_for("post-copy, .*blackout")
        with held_up(stage):
            refused = attach()
            (outgoing,), (incoming,) = migrations("a"), migrations("b")
        code, text = typed.end()
    assert code == 0, text
    moved()
    assert refused.returncode == 3
    assert "is driven by process" in refused.stderr
    assert outgoing["side"] == "outgoing" and incoming["side"] == "incoming"
    assert outgoing["phase"] == incoming["phase"] == "post-copy"
    assert outgoing["destination"] == URI and outgoing["driven_by"] > 0
    assert migrations("b") == []


def test_where_a_migration_has_gone_to(stage: Stage, moved: Check) -> None:
    """It may have come to its end before anybody attached."""
    stage.start()
    kill_in_postcopy(stage, ["--p2p"])
    stage.wait_until_only_on("b", 60)
    done = attach()
    moved()
    assert done.returncode == 0
    assert done.stderr == f"'{stage.name}' has arrived on {URI}\n"
    stage.find("b").destroy()
    done = attach()
    assert done.returncode == 1
    assert f"its last migration from here went to {URI}" in done.stderr


def test_definition_that_a_guest_has_left_behind_is_not_it(
    stage: Stage, moved: Check
) -> None:
    domain = stage.start()
    domain.connect().defineXML(domain.XMLDesc())
    kill_in_postcopy(stage, ["--p2p"])
    stage.wait_until_only_on("b", 60)
    done = attach()
    moved()
    stage.find("a").undefine()
    assert done.returncode == 0
    assert done.stderr == f"'{stage.name}' has arrived on {URI}\n"


@pytest.mark.usefixtures("patience")
def test_attach_of_the_library_takes_the_journal(stage: Stage, moved: Check) -> None:
    domain = stage.start()
    with Typed([*SLOW, "--p2p", "--postcopy-policy", "after:10m"]) as typed:
        typed.wait_for("pre-copy pass")
    notes = Awaited(Note)
    job = postcopy.attach(domain, policy="after-precopy", observer=notes)
    with pytest.raises(postcopy.StateError, match="another client has started"):
        job.abort()
    with pytest.raises(postcopy.StateError, match="driven by process"):
        postcopy.attach(domain)
    result = job.wait(60)
    moved()
    assert result.domain is not None and result.domain.isActive()
    assert result.is_peer2peer
    assert result.switch is not None
    assert not [each for each in notes.of(Note) if without_delays(each.text)]


def migrations(host: str) -> list[dict[str, Any]]:
    """What the program lists."""
    done = subprocess.run(
        [VENV / "libvirt-postcopy", "migrations", f"qemu+tcp://{host}/system", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def _recover(*destination: str) -> subprocess.CompletedProcess[str]:
    return virsh_postcopy("postcopy-recover", "busy", *destination)


def _wait_for_precopy(stage: Stage) -> None:
    """Until memory flows; a client that only watches is told of no beginning."""
    wait_until(lambda: _pass_number(stage) is not None, "pre-copy", 30, pause=0.1)


def _wait_for_next_pass(stage: Stage) -> None:
    now = _pass_number(stage) or 0
    wait_until(lambda: (_pass_number(stage) or 0) > now, "a pass", 30, pause=0.1)


def _pass_number(stage: Stage) -> int | None:
    domain = stage.find("a")
    assert domain is not None
    stats = postcopy.job_stats(domain)
    return None if stats is None or not stats.memory_total else stats.sync_count
