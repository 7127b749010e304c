"""The conformance suite on real QEMUs: this machine's own whole, and those of other releases that are cached, in short.

What was found before is in ``baselines``, one file a release: only what is worse fails.  ``make_baseline.py`` makes them.
Needs root, or a user who may use userfaultfd; ``tools/test`` fetches 10.0, and ``tools/qemu-versions fetch`` the rest.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from libvirt_postcopy.conformance import host
from libvirt_postcopy.conformance.boards import PC, Board
from libvirt_postcopy.conformance.live import Bench, examine
from libvirt_postcopy.conformance.machine import Target
from waiting import wait_until

ROOT = Path(__file__).parents[2]
BASELINES = Path(__file__).with_name("baselines")
OWN = shutil.which("qemu-system-x86_64")
ARM = shutil.which("qemu-system-aarch64")
MICROVM = shutil.which("qemu-system-x86_64-microvm")
MOST_MIB = 4096
MOST_S = 300
"""On a machine on which much else runs; docs/conformance.md has what it takes."""

pytestmark = [
    pytest.mark.skipif(OWN is None, reason="no qemu-system-x86_64"),
    pytest.mark.skipif(bool(host.userfaultfd_missing((10, 0))), reason=host.userfaultfd_missing((10, 0))),  # fmt: skip
]


def program(*words: str) -> list[str]:
    main = "import sys; from libvirt_postcopy.cli.main import main; sys.exit(main(sys.argv[1:]))"  # fmt: skip
    return [sys.executable, "-c", main, "conformance", *words]


def run(tmp_path: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """Run the program as in CI; give its status, the report and what it said."""
    report = tmp_path / "report.json"
    done = subprocess.run(program("run", *words, "--format", "json", "-o", str(report)), cwd=ROOT, capture_output=True, text=True, timeout=MOST_S, check=False)  # fmt: skip
    print(done.stdout, done.stderr)
    (subject,) = json.loads(report.read_text())["subjects"] if report.exists() else [{}]
    return done.returncode, subject, done.stdout + done.stderr


def cached() -> dict[str, str]:
    """The releases with a baseline that are in the cache, and the path of each."""
    found = {}
    for release in ("5.2", "10.0", "11.1"):
        done = subprocess.run([ROOT / "tools/qemu-versions", "path", release], capture_output=True, text=True, check=False)  # fmt: skip
        if not done.returncode:
            found[release] = done.stdout.strip()
    return found


OTHERS = cached()


def own_baseline(path: str) -> list[str]:
    """What is known of the machine's own release; of another one, the table of deviations."""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout  # fmt: skip
    number = ".".join(said.split("version ")[1].split(".")[:2])
    known = BASELINES / f"{number}.json"
    return ["--baseline", str(known)] if known.exists() else ["--known-ok"]


def test_this_machines_qemu_whole(tmp_path: Path) -> None:
    assert OWN is not None
    status, subject, text = run(tmp_path, "--qemu", OWN, *own_baseline(OWN))
    assert status == 0, text
    assert subject["counts"]["pass"] > 50 and subject["counts"]["fail"] == 0
    assert 0 < subject["peak-mib"] < MOST_MIB


@pytest.mark.skipif(ARM is None, reason="no qemu-system-aarch64")
def test_aarch64_in_short(tmp_path: Path) -> None:
    assert ARM is not None
    status, subject, text = run(tmp_path, "--qemu", ARM, "--quick", *own_baseline(ARM))
    assert status == 0, text
    assert subject["label"].endswith(" aarch64")
    assert subject["counts"]["pass"] > 30 and subject["counts"]["fail"] == 0
    assert 0 < subject["peak-mib"] < MOST_MIB
    found = {each["check"]: each["verdict"] for each in subject["findings"]}
    # Whatever else is skipped: its guest ran, and its memory was compared.
    assert found["memory/every-page"] == found["recover/order"] == "pass"


def is_without_gnutls(path: str) -> bool:
    """What a QEMU says of it on its command line."""
    words = [path, "-machine", "none", "-display", "none", "-qmp", "stdio", "-object", "tls-creds-anon,id=x"]  # fmt: skip
    done = subprocess.run(words, input='{"execute": "qmp_capabilities"}{"execute": "quit"}', capture_output=True, text=True, timeout=30, check=False)  # fmt: skip
    assert (done.returncode == 0) is not ("requires GNUTLS" in done.stderr), done
    return bool(done.returncode)


@pytest.mark.parametrize("path, board", [(OWN, PC), (MICROVM, replace(PC, machine="microvm"))], ids=["own", "microvm"])  # fmt: skip
def test_a_build_without_gnutls_is_known(path: str | None, board: Board) -> None:
    if path is None:
        pytest.skip("no qemu-system-x86_64-microvm: Debian builds it without GnuTLS")
    with Bench.open() as bench:
        # The guest need not run, and the microvm's QEMU has KVM alone.
        accel = "tcg" if board is PC else "qtest"
        facts, _ = examine(bench, Target(path, accel=accel, board=board))
    assert facts.has("build:gnutls") is not is_without_gnutls(path)


@pytest.mark.parametrize("release", OTHERS)
def test_other_releases_in_short(release: str, tmp_path: Path) -> None:
    path = OTHERS[release]
    baseline = str(BASELINES / f"{release}.json")
    status, subject, text = run(tmp_path, "--qemu", path, "--quick", "--baseline", baseline)  # fmt: skip
    assert status == 0, text
    assert subject["counts"]["pass"] > 30 and subject["counts"]["fail"] == 0
    assert 0 < subject["peak-mib"] < MOST_MIB


def test_as_tests_of_a_distribution() -> None:
    assert OWN is not None
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--postcopy-qemu", OWN, "-k", "incoming/autostart or introspection/statuses"], cwd=ROOT, capture_output=True, text=True, timeout=MOST_S, check=False)  # fmt: skip
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout


def _children_in(folder: Path) -> list[int]:
    """The QEMUs whose sockets lie in a folder."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            try:
                words = (each / "cmdline").read_bytes()
            except OSError:
                continue
            if b"-chardev" in words and str(folder).encode() in words:
                found.append(int(each.name))
    return found


def test_a_run_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    assert OWN is not None
    # A socket's path is short.
    folder = Path(f"/tmp/pcl-{os.getpid()}")
    folder.mkdir()
    try:
        with subprocess.Popen(program("run", "--qemu", OWN), cwd=ROOT, env={**os.environ, "TMPDIR": str(folder)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:  # fmt: skip
            wait_until(lambda: len(_children_in(folder)) > 1, "two QEMUs", 30)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 128 + signal.SIGTERM
        assert _children_in(folder) == [] and list(folder.iterdir()) == []
    finally:
        shutil.rmtree(folder)
