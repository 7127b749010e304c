"""docs/recovery.md, typed word for word when a guest is broken."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from observers import Awaited, wait_until_pages_flow

import libvirt_postcopy as postcopy
from labkit.network import KERNELS_OWN
from libvirt_postcopy.events import Resumed, Side
from scenes.stage import VENV, Stage
from waiting import wait_until

Check = Callable[[], None]

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "recovery.md"


def blocks(section: str) -> list[list[str]]:
    """The commands of a section, a list for each block."""
    text = DOCUMENT.read_text(encoding="utf-8")
    (body,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    found = re.findall(r"^```\n(.*?)^```$", body, re.M | re.S)
    return [block.strip().splitlines() for block in found]


def typed(line: str, stage: Stage) -> subprocess.CompletedProcess[str]:
    """Type one line, with this lab's names for the document's."""
    line = line.replace("qemu+tls://", "qemu+tcp://").replace("web1", stage.name)
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        env={**os.environ, "PATH": f"{VENV}:{os.environ['PATH']}"},
    )


def split(stage: Stage) -> postcopy.Job:
    """Switch, and slowly; nobody will bring it back."""
    seen = Awaited(Resumed, lambda what: what.side is Side.DESTINATION)
    job = postcopy.start(
        stage.start(),
        "qemu+tcp://b/system",
        policy="after:0",
        params={"bandwidth.postcopy": 8},
        recover="never",
        observer=seen,
    )
    seen.wait()
    wait_until_pages_flow(job)
    return job


def broken(stage: Stage) -> None:
    job = split(stage)
    assert stage.lab.break_migrations() > 0
    with pytest.raises(postcopy.PostcopyBroken):
        job.wait(60)


def look(stage: Stage) -> list[str]:
    (commands,) = blocks("Look")
    shown = [typed(line, stage) for line in commands]
    assert [done.returncode for done in shown] == [0, 0, 0], shown
    return [done.stdout for done in shown]


def test_each_word_of_the_table_is_what_is_shown(stage: Stage) -> None:
    job = split(stage)
    here, there, listed = look(stage)
    assert here.strip() == "paused (post-copy)"
    assert there.strip() == "running (post-copy)"
    assert "split" in listed
    assert stage.lab.break_migrations() > 0
    with pytest.raises(postcopy.PostcopyBroken):
        job.wait(60)
    here, there, listed = look(stage)
    assert here.strip() == "paused (post-copy failed)"
    assert there.strip() == "running (post-copy failed)"
    assert "broken" in listed and "postcopy-recover" in listed
    text = DOCUMENT.read_text(encoding="utf-8")
    for words in (here, there, "paused (post-copy)", "running (post-copy)"):
        assert f"| {words.strip()} |" in text


@pytest.mark.parametrize("which", [0, 1], ids=["virsh-postcopy", "virsh"])
def test_guest_is_brought_back(stage: Stage, moved: Check, which: int) -> None:
    broken(stage)
    (command,) = blocks("Bring it back")[which]
    done = typed(command, stage)
    assert done.returncode == 0, done.stderr
    here, there, _ = (typed(line, stage) for line in blocks("Look")[0])
    assert here.returncode != 0
    assert there.stdout.strip() == "running (migrated)"
    moved()


def is_postcopy(stage: Stage) -> bool:
    there = blocks("Look")[0][1]
    return typed(there, stage).stdout.strip() == "running (post-copy)"


def test_migration_of_somebody_else_is_watched_and_mended(
    stage: Stage, moved: Check
) -> None:
    stage.start()
    theirs = ["virsh", "-c", "qemu+tcp://a/system", "migrate", "--live", "--postcopy"]
    theirs += ["--postcopy-after-precopy", "--postcopy-bandwidth", "8", stage.name]
    with subprocess.Popen([*theirs, "qemu+tcp://b/system"], stderr=subprocess.DEVNULL):
        wait_until(lambda: is_postcopy(stage), "the switch", 60)
        stage.lab.break_migrations()
        ((command,),) = blocks("Watch it")
        done = typed(command, stage)
    assert done.returncode == 0, done.stderr
    moved()


def test_destination_is_made_to_notice(stage: Stage, moved: Check) -> None:
    job = split(stage)
    stage.lab.give_up_after(3)
    try:
        stage.lab.cut("b")
        with pytest.raises(postcopy.PostcopyBroken):
            job.wait(90)
    finally:
        stage.lab.uncut("b")
        stage.lab.give_up_after(KERNELS_OWN)
    ((command,),) = blocks("Make the destination notice")
    assert look(stage)[1].strip() == "running (post-copy)"
    stage.lab.host("b").run(["bash", "-c", command])
    wait_until(lambda: "failed" in look(stage)[1], "the destination's notice", 20)
    (recover,), _ = blocks("Bring it back")
    done = typed(recover, stage)
    assert done.returncode == 0, done.stderr
    moved()
