from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.virsh import real
from libvirt_postcopy.virsh.real import exec_virsh, find_virsh

ENTRY = (
    "#!{python}\nimport sys\nfrom libvirt_postcopy.virsh.main import entry\nentry()\n"
)


def program(path: Path, text: str = "#!/bin/sh\n") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def environ(*folders: Path, **more: str) -> dict[str, str]:
    return {"PATH": os.pathsep.join(map(str, folders)), **more}


@pytest.fixture
def own(tmp_path: Path) -> str:
    return program(tmp_path / "own" / "virsh-postcopy", ENTRY)


def test_first_on_path(tmp_path: Path, own: str) -> None:
    first = program(tmp_path / "1" / "virsh")
    program(tmp_path / "2" / "virsh")
    path = environ(tmp_path / "0", tmp_path / "1", tmp_path / "2")
    assert find_virsh(path, own) == first


def test_not_what_cannot_be_run(tmp_path: Path, own: str) -> None:
    (tmp_path / "1" / "virsh").mkdir(parents=True)
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "virsh").write_text("")
    third = program(tmp_path / "3" / "virsh")
    path = environ(tmp_path / "1", tmp_path / "2", tmp_path / "3")
    assert find_virsh(path, own) == third


def test_environment_goes_first(tmp_path: Path, own: str) -> None:
    program(tmp_path / "1" / "virsh")
    chosen = environ(tmp_path / "1", VIRSH_POSTCOPY_VIRSH="/opt/virsh")
    assert find_virsh(chosen, own) == "/opt/virsh"
    empty = environ(tmp_path / "1", VIRSH_POSTCOPY_VIRSH="")
    assert find_virsh(empty, own) == str(tmp_path / "1" / "virsh")


def test_never_ourselves_under_another_name(tmp_path: Path, own: str) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "virsh").symlink_to(own)
    second = program(tmp_path / "2" / "virsh")
    path = environ(tmp_path / "1", tmp_path / "2")
    assert find_virsh(path, own) == second
    assert find_virsh(path, str(tmp_path / "1" / "virsh")) == second


def test_never_ourselves_even_if_nothing_in_the_file_says_so(tmp_path: Path) -> None:
    own = program(tmp_path / "own" / "virsh-postcopy", "\x7fELF")
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "virsh").symlink_to(own)
    with pytest.raises(UsageError, match="no virsh on PATH"):
        find_virsh(environ(tmp_path / "1"), own)


def test_never_another_copy_of_us_or_a_script_that_starts_us(tmp_path: Path) -> None:
    program(tmp_path / "1" / "virsh", ENTRY)
    program(tmp_path / "2" / "virsh", '#!/bin/sh\nexec virsh-postcopy "$@"\n')
    third = program(tmp_path / "3" / "virsh", '#!/bin/sh\nexec /opt/virsh "$@"\n')
    path = environ(tmp_path / "1", tmp_path / "2", tmp_path / "3")
    assert find_virsh(path, "/elsewhere/virsh-postcopy") == third


def test_environment_that_names_us_is_refused(own: str) -> None:
    with pytest.raises(UsageError, match="names virsh-postcopy itself"):
        find_virsh({"VIRSH_POSTCOPY_VIRSH": own}, own)


def test_none_at_all(tmp_path: Path, own: str) -> None:
    with pytest.raises(UsageError, match="no virsh on PATH"):
        find_virsh(environ(tmp_path), own)


def test_loop_that_nobody_could_see_is_ended(tmp_path: Path, own: str) -> None:
    program(tmp_path / "1" / "virsh")
    for depth, ends in (("7", False), ("8", True), ("99", True), ("junk", False)):
        path = environ(tmp_path / "1", VIRSH_POSTCOPY_DEPTH=depth)
        if ends:
            with pytest.raises(UsageError, match="starts virsh-postcopy again"):
                find_virsh(path, own)
        else:
            find_virsh(path, own)


@pytest.mark.programs
def test_real_loop_ends(tmp_path: Path) -> None:
    """A wrapper that hides whom it calls, by fork and by exec."""
    us = program(
        tmp_path / "us" / "shim",
        ENTRY.format(python=sys.executable),
    )
    for call in ("exec $HIDDEN", "$HIDDEN"):
        program(tmp_path / "path" / "virsh", f'#!/bin/sh\n{call} "$@"\n')
        done = subprocess.run(
            [us, "list"],
            check=False,
            env={
                "PATH": f"{tmp_path / 'path'}:/usr/bin:/bin",
                "HIDDEN": us,
                "VIRSH_POSTCOPY_DEPTH": "6",
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert "starts virsh-postcopy again" in done.stderr


class Exec:
    """Stands in for ``os.execve``."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str], dict[str, str]]] = []
        self.error: OSError | None = None

    def __call__(self, path: str, argv: list[str], env: dict[str, str]) -> None:
        self.sigpipe = signal.getsignal(signal.SIGPIPE)
        self.calls.append((path, argv, env))
        if self.error:
            raise self.error


@pytest.fixture
def execve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Exec:
    monkeypatch.setenv("VIRSH_POSTCOPY_VIRSH", "/opt/virsh")
    monkeypatch.delenv("VIRSH_POSTCOPY_DEPTH", raising=False)
    fake = Exec()
    monkeypatch.setattr(real.os, "execve", fake)
    before = {
        number: signal.getsignal(number) for number in (signal.SIGPIPE, signal.SIGXFSZ)
    }
    yield fake
    for number, handler in before.items():
        signal.signal(number, handler)


def test_exec_hands_everything_over(execve: Exec) -> None:
    argv = ["-c", "test:///default", "list", "", "\udcff", "--all"]
    exec_virsh(argv)
    [(path, words, env)] = execve.calls
    assert (path, words) == ("/opt/virsh", ["virsh", *argv])
    assert env.pop("VIRSH_POSTCOPY_DEPTH") == "1"
    assert env == dict(os.environ)
    assert execve.sigpipe is signal.SIG_DFL


def test_virsh_that_cannot_be_run_is_an_error(execve: Exec) -> None:
    execve.error = FileNotFoundError(2, "No such file or directory")
    with pytest.raises(UsageError, match="cannot run '/opt/virsh': No such file"):
        exec_virsh(["list"])


@pytest.mark.programs
def test_environment_is_handed_on_as_it_was_given(tmp_path: Path) -> None:
    """Python sets LC_CTYPE in a C locale, which would change what virsh prints."""
    show = program(tmp_path / "virsh", "#!/bin/sh\nexec env\n")
    us = program(tmp_path / "us", ENTRY.format(python=sys.executable))
    given = {"PATH": "/usr/bin:/bin", "LANG": "C", "VIRSH_POSTCOPY_VIRSH": show}
    for more in ({}, {"LC_CTYPE": "C.UTF-8"}):
        env = {**given, **more}
        theirs = subprocess.run(
            [show], env=env, capture_output=True, text=True, check=True
        )
        ours = subprocess.run(
            [us, "x"], env=env, capture_output=True, text=True, check=True
        )
        expected = {*theirs.stdout.split("\n"), "VIRSH_POSTCOPY_DEPTH=1"}
        assert set(ours.stdout.split("\n")) == expected


@pytest.mark.programs
def test_signals_are_as_they_were_before_python(tmp_path: Path) -> None:
    show = program(tmp_path / "virsh", "#!/bin/sh\nexec grep SigIgn /proc/self/status\n")  # fmt: skip
    us = program(tmp_path / "us", ENTRY.format(python=sys.executable))
    env = {"PATH": "/usr/bin:/bin", "VIRSH_POSTCOPY_VIRSH": show}
    direct, become, run = (
        subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout
        for argv in ([show], [us, "x"], [us, "help"])
    )
    assert direct == become != ""
    assert ignored(run) == ignored(direct)


def ignored(text: str) -> int:
    """But the two signals that the C library has for itself: its posix_spawn ignores them."""
    return int(text.splitlines()[0].split()[1], 16) & ~(3 << 31)
