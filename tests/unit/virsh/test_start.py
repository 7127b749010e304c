from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from virsh_postcopy import may_be_ours

ROOT = Path(__file__).resolve().parents[3]

Ended = tuple[int, str, str]
"""Exit status, what was printed, what was complained of."""


@pytest.mark.parametrize(
    "line",
    [
        "list",
        "-c test:///default list --all",
        "-c migrate-postcopy list",
        "--connect x -q -r -t -d 0 -e ^] -k 1 -K 1 -l log list",
        "--connect=x --quiet --readonly --timing list",
        "migrate --live a b",
        "migrate --live a b --timeout 5",
        "frobnicate --foo",
        "- list",
        "domjobinfo a --completed",
        "list;list --all",
    ],
)
def test_what_is_certainly_virshs(line: str) -> None:
    assert not may_be_ours(line.split())


@pytest.mark.parametrize(
    "line",
    [
        "",
        "-q",
        "-c test:///default",
        "-c",
        "migrate --live --postcopy a b",
        "migrate --live --enable-postcopy a b",
        "migrate --live --strict-exit a b",
        "nwfilter-define x --keep-uuid",
        "migrate-postcopy a",
        "postcopy-check a b",
        "domjobinfo a --postcopy",
        "help",
        "complete -- mig",
        "--help",
        "-h",
        "migrate --help",
        # read in full before it is decided
        "-qr list",
        "--conn x list",
        "-cx list",
        "--keepalive-count=5 list",
        "-- list",
        "-v",
        "-z list",
        "--frobnicate",
    ],
)
def test_what_is_to_be_read_with_care(line: str) -> None:
    assert may_be_ours(line.split())


@pytest.mark.parametrize(
    "string",
    ["list;migrate-postcopy a", "migrate a b --post\\copy", "'postcop'y-check a b", '"po"stcopy-recover a', "post\\\ncopy-check a b"],
)  # fmt: skip
def test_string_is_read_without_its_quotes(string: str) -> None:
    assert may_be_ours([string])
    assert may_be_ours(["-q", string])


def test_words_are_not_unquoted() -> None:
    assert not may_be_ours(["echo", "post\\copy"])


SHOW = """
import os, sys
sys.argv = ["virsh-postcopy", *{words!r}]
os.execve = lambda path, argv, environ: (print(path, *sorted(set(sys.modules) - before)), os._exit(0))
sys.stdout.reconfigure(line_buffering=True)
before = set(sys.modules)
import virsh_postcopy
virsh_postcopy.entry()
"""


def loaded(words: list[str], virsh: Path) -> set[str]:
    environ = {**os.environ, "VIRSH_POSTCOPY_VIRSH": str(virsh)}
    code = SHOW.format(words=words)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    path, *modules = done.stdout.split()
    assert path == str(virsh)
    return set(modules)


@pytest.mark.programs
def test_nothing_is_imported_on_the_way(tmp_path: Path) -> None:
    modules = loaded(["-c", "test:///default", "list"], tmp_path / "virsh")
    assert modules - {"_signal"} == {"virsh_postcopy"}


@pytest.mark.programs
def test_nothing_heavy_is_imported_for_what_is_read_with_care(tmp_path: Path) -> None:
    modules = loaded(["-qr", "list"], tmp_path / "virsh")
    heavy = {"libvirt", "libvirtmod", "lxml", "cffi", "qemu", "asyncio", "subprocess"}
    assert "libvirt_postcopy.virsh.main" in modules
    assert not modules & heavy


STRIKE = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""


def interrupted_at(module: str, folder: Path, *, ignored: bool = False) -> Ended:
    """Press Ctrl-C in the moment in which a module is imported."""
    (folder / "sitecustomize.py").write_text(STRIKE.format(module=module))
    (folder / "virsh").write_text("#!/bin/sh\necho passed through\n")
    (folder / "virsh").chmod(0o755)
    environ = {**os.environ, "VIRSH_POSTCOPY_VIRSH": str(folder / "virsh")}
    environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])
    words = ["list"] if module == "virsh_postcopy" else ["-c", "test:///default", "migrate-postcopy", "nosuch"]  # fmt: skip
    program = [sys.executable, str(ROOT / "bin" / "virsh-postcopy"), *words]
    if ignored:
        program = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *program]
    done = subprocess.run(
        program, env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.programs
@pytest.mark.parametrize(
    "module", ["virsh_postcopy", "libvirt_postcopy.virsh.main", "libvirt"]
)
def test_ctrl_c_ends_us_as_it_ends_virsh(module: str, tmp_path: Path) -> None:
    """However early it comes; there is nothing to explain and nothing to undo."""
    assert interrupted_at(module, tmp_path) == (-signal.SIGINT, "", "")


@pytest.mark.programs
def test_interrupt_that_is_ignored_stays_so(tmp_path: Path) -> None:
    ended = interrupted_at("virsh_postcopy", tmp_path, ignored=True)
    assert ended == (0, "passed through\n", "")
