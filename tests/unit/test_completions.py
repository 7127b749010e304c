"""Completion: what is in the repository is what the tables say, and the shells can read it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

import completions

FILES = completions.files()
ALL = [path.name for path in completions.FOLDER.iterdir()]


@pytest.mark.parametrize("name", FILES)
def test_file_is_up_to_date(name: str) -> None:
    written = (completions.FOLDER / name).read_text(encoding="utf-8")
    assert written == FILES[name], "run .venv/bin/python tools/completions.py"


def shell_of(name: str) -> str:
    shell = "zsh" if name.startswith("_") else name.rpartition(".")[2]
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    return shell


@pytest.mark.programs
@pytest.mark.parametrize("name", ALL)
def test_shell_can_read_it(name: str) -> None:
    path = str(completions.FOLDER / name)
    subprocess.run([shell_of(name), "-n", path], check=True, timeout=60)


def run(name: str, script: str, *words: str, path: str = "/usr/bin") -> list[str]:
    """What a shell prints that has read a file."""
    with TemporaryDirectory() as home:  # fish makes folders there
        done = subprocess.run(
            [shell_of(name), "-c", script, *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={"PATH": path, "HOME": home},
        )
    assert done.stderr == ""
    return done.stdout.splitlines()


def complete(name: str, *words: str, path: str = "/usr/bin") -> list[str]:
    """What bash offers for the last word."""
    function = "_" + name.replace("-", "_")
    script = f"""
complete() {{ :; }}
. "{completions.FOLDER / name}.bash"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
{function} "$1" "${{@: -1}}" "${{@: -2:1}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    return run(f"{name}.bash", script, "bash", name, *words, path=path)


# virsh-postcopy answers by itself: what it is asked, and that its answer is what is offered


@pytest.fixture
def path(tmp_path: Path) -> str:
    program = tmp_path / "virsh-postcopy"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "--p:$*"\n')
    program.chmod(0o755)
    (tmp_path / "virsh").symlink_to(program)
    return f"{tmp_path}:/usr/bin:/bin"


LINES = [
    (["migrate", "--live", "--p"], "--p:-q complete -- migrate --live --p"),
    (["-c", "test:///x", "-r", "-q", "list", "--p"], "--p:-q -c test:///x -r complete -- list --p"),
]  # fmt: skip


@pytest.mark.programs
@pytest.mark.parametrize("words, offered", LINES)
def test_bash(path: str, words: list[str], offered: str) -> None:
    assert complete("virsh-postcopy", *words, path=path) == [offered]


@pytest.mark.programs
@pytest.mark.parametrize("words, offered", LINES)
def test_zsh(path: str, words: list[str], offered: str) -> None:
    script = f"""
compadd() {{ print -l -- "${{(@P)2}}" }}
words=(virsh-postcopy "$@")
CURRENT=$#words
source {completions.FOLDER / "_virsh-postcopy"}
"""
    assert run("_virsh-postcopy", script, "zsh", *words, path=path) == [offered]


@pytest.mark.programs
@pytest.mark.parametrize("name", ["virsh-postcopy", "virsh"])
@pytest.mark.parametrize("words, offered", LINES)
def test_fish(path: str, words: list[str], offered: str, name: str) -> None:
    script = f"""
source {completions.FOLDER / "virsh-postcopy.fish"}
complete -C '{' '.join([name, *words])}'
"""
    shown = run("virsh-postcopy.fish", script, path=path)
    assert offered in shown and (name == "virsh" or len(shown) == 1)  # fish knows virsh


# libvirt-postcopy


@pytest.mark.programs
def test_other_program() -> None:
    assert "bindings" in complete("libvirt-postcopy", "b")
    assert complete("libvirt-postcopy", "check", "--pr") == ["--probe"]


def test_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "VERBS", {})
    assert all(text != FILES[name] for name, text in completions.files().items())
