from __future__ import annotations

import io
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import libvirt
import pytest

from libvirt_postcopy import __version__
from libvirt_postcopy.cli import main as program
from libvirt_postcopy.cli.main import VERBS, main
from libvirt_postcopy.errors import UsageError

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nothing is left to be flushed at the end."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


def run(*words: str) -> tuple[int, str]:
    out = io.StringIO()
    return main(words, out), out.getvalue()


@pytest.mark.programs
def test_version_names_all_that_is_involved() -> None:
    status, text = run("--version")
    number = libvirt.getVersion()
    rows = dict(line.rsplit(" ", 1) for line in text.splitlines())
    assert status == 0
    assert rows["libvirt-postcopy"] == __version__
    assert rows["libvirt"] == f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"  # fmt: skip
    assert rows["Python"] == sys.version.split()[0]
    assert rows["libvirt-python"][0].isdigit()


def installed(folder: Path, answer: str) -> None:
    """Put a QEMU alone on the PATH."""
    qemu = folder / f"qemu-system-{platform.machine()}"
    qemu.write_text(f"#!/bin/sh\n{answer}\n")
    qemu.chmod(0o755)


@pytest.mark.programs
@pytest.mark.parametrize(
    "answer, row",
    [
        ("echo 'QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)'", "QEMU 7.2.22"),
        ("echo 'QEMU emulator version 11.1'", "QEMU 11.1"),
        ("echo nothing", "QEMU unknown ("),
        ("exit 1", "QEMU unknown ("),
    ],
)
def test_version_of_the_installed_qemu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, row: str
) -> None:
    installed(tmp_path, answer)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert f"\n{row}" in run("--version")[1]


def test_version_where_no_qemu_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(program, "_QEMU_ELSEWHERE", str(tmp_path / "none"))
    assert "QEMU" not in run("--version")[1]


@pytest.mark.programs
def test_version_where_libvirt_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def import_module(name: str) -> object:
        raise ImportError("libvirt.so.0: no such file")

    monkeypatch.setattr(program, "import_module", import_module)
    status, text = run("--version")
    assert status == 0
    assert "libvirt cannot be loaded: libvirt.so.0: no such file\n" in text


def test_without_a_verb_help_is_printed() -> None:
    status, text = run()
    assert status == 0
    assert all(name in text for name in VERBS)


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["frobnicate"], "argument VERB: invalid choice: 'frobnicate'"),
        (["policy"], "the following arguments are required: SPEC"),
        (["policy", "soon"], "unknown policy 'soon'"),
        (["policy", "\x1b[2J"], "unknown policy '\\x1b[2J'"),
        (["phases", "--png"], "unrecognized arguments: --png"),
    ],
)
def test_mistakes_get_one_line(
    capsys: Capture, words: list[str], complaint: str
) -> None:
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"error: {complaint}") and err.count("\n") == 1


@pytest.mark.parametrize(
    "error, text",
    [
        (UsageError("no", cure="yes"), "error: no (yes)\n"),
        (KeyboardInterrupt(), "error: interrupted\n"),
        (ValueError("a\nb"), "error: unexpected, please report: ValueError: a b\n"),
    ],
)
def test_errors_become_status_and_line(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, error: BaseException, text: str
) -> None:
    def run_verb(args: object, out: object) -> int:
        raise error

    verb = SimpleNamespace(options=lambda parser: None, run=run_verb)
    monkeypatch.setattr(program, "import_module", lambda name: verb)
    monkeypatch.delenv("LIBVIRT_POSTCOPY_DEBUG", raising=False)
    assert main(["phases"]) == 1
    assert capsys.readouterr().err == text
    monkeypatch.setenv("LIBVIRT_POSTCOPY_DEBUG", "1")
    assert main(["phases"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_verb_decides_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    verb = SimpleNamespace(options=lambda parser: None, run=lambda args, out: 7)
    monkeypatch.setattr(program, "import_module", lambda name: verb)
    assert run("phases")[0] == 7


@pytest.mark.programs
def test_only_the_verb_that_is_named_is_loaded() -> None:
    code = """
import sys
from libvirt_postcopy.cli.main import main
main(["policy", "manual"])
print(*sorted(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "libvirt_postcopy.cli.commands.policy" in loaded
    assert not {"libvirt_postcopy.cli.commands.phases", "libvirt"} & loaded


@pytest.mark.programs
@pytest.mark.parametrize(
    "words, redirection, status",
    [
        ("phases", ">&-", 0),
        ("phases", "2>&-", 0),
        ("frobnicate", ">&- 2>&-", 1),
        ("frobnicate", "2>&-", 1),
        ("frobnicate", "2>/dev/full", 1),
        ("phases", ">/dev/full", 1),
        ("--help", "| true", 0),
        ("policy soon", "2>&1 | true", 1),
    ],
)
def test_streams_that_take_nothing(words: str, redirection: str, status: int) -> None:
    us = Path(sys.executable).with_name("libvirt-postcopy")
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {us} {words} {redirection}"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.programs
def test_reader_who_has_enough_is_no_error() -> None:
    us = Path(sys.executable).with_name("libvirt-postcopy")
    done = subprocess.run(
        ["sh", "-c", f"{us} phases | true; {us} phases | head -1"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("SIDE ")
