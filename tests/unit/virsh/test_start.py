from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from virsh_postcopy import may_be_ours


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


def test_nothing_is_imported_on_the_way(tmp_path: Path) -> None:
    modules = loaded(["-c", "test:///default", "list"], tmp_path / "virsh")
    assert modules - {"_signal"} == {"virsh_postcopy"}


def test_nothing_heavy_is_imported_for_what_is_read_with_care(tmp_path: Path) -> None:
    modules = loaded(["-qr", "list"], tmp_path / "virsh")
    heavy = {"libvirt", "libvirtmod", "lxml", "cffi", "qemu", "asyncio", "subprocess"}
    assert "libvirt_postcopy.virsh.main" in modules
    assert not modules & heavy
