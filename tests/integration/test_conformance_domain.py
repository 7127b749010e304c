"""The conformance checks on a domain that runs, through its daemon's monitor passthrough."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import libvirt_qemu

import libvirt_postcopy as postcopy
from libvirt_postcopy.phases import Phase
from scenes.stage import VENV, Stage
from waiting import wait_until

Check = Callable[[], None]
A, B = "qemu+tcp://a/system", "qemu+tcp://b/system"


def run(*words: str) -> subprocess.CompletedProcess[str]:
    program = [str(VENV / "libvirt-postcopy"), "conformance", "run", "--connect", A, "--known-ok"]  # fmt: skip
    return subprocess.run([*program, *words], capture_output=True, text=True, timeout=90, check=False)  # fmt: skip


def test_a_running_domain_is_asked_and_left_as_it_was(
    stage: Stage, stayed: Check
) -> None:
    dom = stage.start()
    ask = '{"execute": "query-migrate-capabilities"}'

    def capabilities() -> str:
        # The id at the end is libvirt's.
        return str(libvirt_qemu.qemuMonitorCommand(dom, ask, 0)).partition('"id"')[0]

    before = capabilities()
    done = run("--domain", dom.name())
    assert done.returncode == 0, done.stdout + done.stderr
    done = run("--domain", dom.UUIDString(), "--disruptive")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fail" not in done.stdout
    assert capabilities() == before
    stayed()


def test_a_domain_that_is_being_migrated_is_not_disturbed(
    stage: Stage, moved: Check
) -> None:
    dom = stage.start()
    job = postcopy.start(dom, B, policy="manual")
    try:
        wait_until(lambda: job.phase is Phase.PRECOPY, "pre-copy", 30)
        done = run("--domain", dom.name(), "--disruptive")
        assert done.returncode == 2
        assert "only questions were sent" in done.stderr, done.stdout + done.stderr
    finally:
        job.start_postcopy()
        job.wait()
    moved()
