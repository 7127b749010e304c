"""``virsh-postcopy migrate`` between two real hosts."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from collections.abc import Callable

import pytest
from commands import (
    URI,
    Typed,
    close_the_terminal,
    migrate,
    press_ctrl_c_on_a_terminal,
    virsh_postcopy,
    without_delays,
)
from observers import Awaited, wait_until_pages_flow

import libvirt_postcopy as postcopy
from labkit import Lab
from libvirt_postcopy.events import Resumed, Side
from scenes.stage import Stage

Check = Callable[[], None]
SLOW = ["--live", "--postcopy", "--postcopy-bandwidth", "8", "--verbose"]


@pytest.mark.parametrize(
    "options",
    [
        ["--postcopy-after-precopy"],
        ["--postcopy", "--postcopy-after-precopy", "--p2p"],
        ["--enable-postcopy", "--postcopy-after", "1"],
        ["--postcopy-after", "0"],
        ["--postcopy-after", "900ms"],
        ["--postcopy", "--timeout", "1", "--timeout-postcopy"],
        ["--postcopy-policy", "after:10m|after-precopy"],
    ],
    ids=" ".join,
)
def test_each_way_to_say_when(stage: Stage, moved: Check, options: list[str]) -> None:
    stage.start()
    done = migrate("--live", *options)
    assert (done.returncode, done.stdout) == (0, "\n")
    assert without_delays(done.stderr, is_asked_again=True) == ""
    moved()


@pytest.mark.parametrize("verb", ["migrate-start-postcopy", "migrate-postcopy"])
def test_switch_by_hand(stage: Stage, moved: Check, verb: str) -> None:
    stage.start()
    with Typed(["--live", "--enable-postcopy", "--verbose"]) as typed:
        typed.wait_for("pre-copy pass")
        done = virsh_postcopy(verb, stage.name)
        assert (done.returncode, without_delays(done.stderr)) == (0, "")
        code, text = typed.end()
    assert code == 0, text
    moved()


def test_switch_by_hand_without_a_migration(stage: Stage, stayed: Check) -> None:
    stage.start()
    done = virsh_postcopy("migrate-start-postcopy", stage.name)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "start with migrate --live --postcopy" in done.stderr
    stayed()


def test_switch_by_hand_of_a_guest_that_has_switched(
    stage: Stage, moved: Check
) -> None:
    stage.start()
    with Typed([*SLOW, "--postcopy-after-precopy"]) as typed:
        typed.wait_for("post-copy, guest on destination")
        stage.lab.limit("1MiB")  # until that program has come to ask
        done = virsh_postcopy("migrate-start-postcopy", stage.name)
        stage.lab.limit("32MiB")
        code, text = typed.end()
    assert (done.returncode, done.stdout) == (0, "\n")
    assert "is in post-copy already" in done.stderr
    assert code == 0, text
    moved()


def test_broken_guest_is_told_of_by_whatever_is_typed(stage: Stage) -> None:
    arrived = Awaited(Resumed, lambda seen: seen.side is Side.DESTINATION)
    job = postcopy.start(
        stage.start(),
        URI,
        policy="after:0",
        params={"bandwidth.postcopy": 16},
        observer=arrived,
        recover="never",
    )
    arrived.wait()
    wait_until_pages_flow(job)
    assert stage.lab.break_migrations() > 0
    with pytest.raises(postcopy.PostcopyBroken):
        job.wait(60)
    for done in (
        virsh_postcopy("migrate-start-postcopy", stage.name),
        migrate("--live", "--postcopy"),
    ):
        assert done.returncode == 3
        assert "is split, its newest memory on the destination" in done.stderr
        assert "destroy, resume and reset neither half" in done.stderr
    done = virsh_postcopy("migrate-start-postcopy", stage.name, "--strict-exit")
    assert done.returncode == 1
    command = re.search(r"look: (virsh .*?): ", done.stderr)
    assert command, done.stderr
    looked = subprocess.run(
        shlex.split(command[1]), capture_output=True, text=True, check=True, timeout=60
    )
    assert "Memory remaining" in looked.stdout
    assert stage.active_on() == ["a", "b"]


def test_plain_precopy_with_strict_exit(
    stage: Stage, network: Lab, moved: Check
) -> None:
    stage.start()
    network.unlimit()
    done = migrate("--live", "--strict-exit", "--verbose")
    assert done.returncode == 0
    assert "completed as pre-copy" in done.stderr
    moved()


def test_progress_shows_both_phases_and_the_figures(stage: Stage, moved: Check) -> None:
    stage.start()
    done = migrate(*SLOW, "--postcopy-after-precopy")
    assert done.returncode == 0
    moved()
    assert re.search(r"Migration: \[.*pre-copy pass 1", done.stderr)
    assert re.search(r"Migration: \[.*post-copy, guest on destination", done.stderr)
    last = done.stderr.strip().splitlines()[-3:]
    assert max(map(len, last)) < 80
    took, switch, amount = last
    # A pass takes 1.5 s: on a busy machine the next one may end too before the switch is there.
    assert re.fullmatch(
        r"Migrated in .* s: downtime \d+ ms, switched after (1 pass|2 passes)", took
    )
    assert "the first pass is done" in switch and "page request" in amount
    total, switched = (
        float(line.split(" s")[0].split()[-1]) for line in (took, switch)
    )
    assert switched < total
    sent = {
        phase: float(mib)
        for mib, phase in re.findall(r"([\d.]+) MiB in (pre-copy|post-copy)", amount)
    }
    assert 115 < sent["pre-copy"] < 200
    assert 10 < sent["post-copy"] < 100


def test_ctrl_c_before_the_switch_aborts(stage: Stage, stayed: Check) -> None:
    stage.start()
    with Typed(["--live", "--postcopy", "--verbose"]) as typed:
        typed.wait_for("pre-copy pass")
        typed.press_ctrl_c()
        code, text = typed.end()
    assert code == 1
    assert "abort" in text and "source" in text
    stayed()
    assert stage.find("b") is None


def test_ctrl_c_after_the_switch_explains_and_goes_on(
    stage: Stage, moved: Check
) -> None:
    stage.start()
    with Typed([*SLOW, "--postcopy-after-precopy"]) as typed:
        typed.wait_for("post-copy, guest on destination")
        typed.press_ctrl_c()
        typed.wait_for("split")
        code, text = typed.end()
    assert code == 0, text
    moved()


@pytest.mark.parametrize("options", [[], ["--p2p"]], ids=["managed", "peer to peer"])
def test_second_ctrl_c_detaches_and_the_migration_ends_by_itself(
    stage: Stage, moved: Check, options: list[str]
) -> None:
    stage.start()
    origin = stage.collector.running
    assert origin is not None
    with Typed([*SLOW, "--postcopy-after-precopy", *options]) as typed:
        typed.wait_for("post-copy, guest on destination")
        typed.press_ctrl_c()
        typed.wait_for("split")
        typed.press_ctrl_c()
        code, text = typed.end(20)
    assert code == 3, text
    stage.wait_until_only_on("b", 60)
    moved()


def test_ctrl_c_on_a_terminal_is_answered_on_a_line_of_its_own(
    stage: Stage, stayed: Check
) -> None:
    stage.start()
    code, text = press_ctrl_c_on_a_terminal(["--live", "--postcopy"])
    assert code == 1
    lines = text.splitlines()
    assert lines[0] == "^C"
    assert lines[1].startswith("aborting")
    assert lines[-2:] == ["error: migration aborted: the guest runs on the source", ""]
    stayed()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_mean_the_same_before_the_switch(
    stage: Stage, stayed: Check, number: signal.Signals
) -> None:
    stage.start()
    with Typed(["--live", "--postcopy", "--verbose"]) as typed:
        typed.wait_for("pre-copy pass")
        typed.send(number)
        code, text = typed.end()
    assert code == 1
    assert "error: migration aborted: the guest runs on the source" in text
    stayed()
    assert stage.find("b") is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_mean_the_same_after_the_switch(
    stage: Stage, moved: Check, number: signal.Signals
) -> None:
    stage.start()
    with Typed([*SLOW, "--postcopy-after-precopy"]) as typed:
        typed.wait_for("post-copy, guest on destination")
        typed.send(number)
        typed.wait_for("split")
        code, text = typed.end()
    assert code == 0, text
    moved()


def test_terminal_that_is_closed_before_the_switch_aborts(
    stage: Stage, stayed: Check
) -> None:
    stage.start()
    options = ["--live", "--postcopy", "--verbose"]
    assert close_the_terminal(options, "pre-copy pass") == 1
    stayed()
    assert stage.find("b") is None


def test_terminal_that_is_closed_after_the_switch_ends_nothing(
    stage: Stage, moved: Check
) -> None:
    stage.start()
    options = [*SLOW, "--postcopy-after-precopy"]
    assert close_the_terminal(options, "post-copy, guest on destination") == 0
    moved()


def test_everything_else_is_virsh_itself(stage: Stage) -> None:
    stage.start()
    done = virsh_postcopy("domstate", stage.name)
    assert (done.returncode, done.stdout) == (0, "running\n\n")
