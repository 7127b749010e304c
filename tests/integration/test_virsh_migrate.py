"""``virsh-postcopy migrate`` between two real hosts."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from commands import Typed, migrate, virsh_postcopy

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
        ["--postcopy", "--timeout", "1", "--timeout-postcopy"],
        ["--postcopy-policy", "after:10m|after-precopy"],
    ],
    ids=" ".join,
)
def test_each_way_to_say_when(stage: Stage, moved: Check, options: list[str]) -> None:
    stage.start()
    done = migrate("--live", *options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")
    moved()


@pytest.mark.parametrize("verb", ["migrate-start-postcopy", "migrate-postcopy"])
def test_switch_by_hand(stage: Stage, moved: Check, verb: str) -> None:
    stage.start()
    with Typed(["--live", "--enable-postcopy", "--verbose"]) as typed:
        typed.wait_for("pre-copy pass")
        done = virsh_postcopy(verb, stage.name)
        assert (done.returncode, done.stderr) == (0, "")
        code, text = typed.end()
    assert code == 0, text
    moved()


def test_switch_by_hand_without_a_migration(stage: Stage, stayed: Check) -> None:
    stage.start()
    done = virsh_postcopy("migrate-start-postcopy", stage.name)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    stayed()


def test_progress_shows_both_phases_and_the_figures(stage: Stage, moved: Check) -> None:
    stage.start()
    done = migrate(*SLOW, "--postcopy-after-precopy")
    assert done.returncode == 0
    moved()
    assert re.search(r"Migration: \[.*pre-copy pass 1", done.stderr)
    assert re.search(r"Migration: \[.*post-copy, .*remaining", done.stderr)
    last = done.stderr.strip().splitlines()[-1]
    for word in ("downtime", "1 pass", "the first pass is done", "page request"):
        assert word in last
    sent = {
        phase: float(mib)
        for phase, mib in re.findall(r"(pre-copy|post-copy) ([\d.]+) MiB", last)
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
        typed.wait_for("post-copy, .*remaining")
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
        typed.wait_for("post-copy, .*remaining")
        typed.press_ctrl_c()
        typed.wait_for("split")
        typed.press_ctrl_c()
        code, text = typed.end(20)
    assert code == 3, text
    stage.wait_until_only_on("b", 60)
    moved()


def test_everything_else_is_virsh_itself(stage: Stage) -> None:
    stage.start()
    done = virsh_postcopy("domstate", stage.name)
    assert (done.returncode, done.stdout) == (0, "running\n\n")
