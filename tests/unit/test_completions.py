"""Completion: what is in the repository is what the tables say, and the shells can read it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import completions

FILES = completions.files()


@pytest.mark.parametrize("name", FILES)
def test_file_is_up_to_date(name: str) -> None:
    written = (completions.FOLDER / name).read_text(encoding="utf-8")
    assert written == FILES[name], "run .venv/bin/python tools/completions.py"


@pytest.mark.parametrize("name", FILES)
def test_shell_can_read_it(name: str) -> None:
    shell = {"_": "zsh", "h": "bash"}.get("_" if name[0] == "_" else name[-1], "")
    shell = "fish" if name.endswith(".fish") else shell
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    path = str(completions.FOLDER / name)
    subprocess.run([shell, "-n", path], check=True, timeout=60)


def complete(name: str, *words: str, more: str = "") -> list[str]:
    """What bash offers for the last word."""
    path = completions.FOLDER / f"{name}.bash"
    function = "_" + name.replace("-", "_")
    script = f"""
complete() {{ :; }}
{more}
. "{path}"
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
{function} "$1" "${{@: -1}}" "${{@: -2:1}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "-c", script, "bash", name, *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={"PATH": Path("/usr/bin").as_posix()},
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_verbs_are_offered() -> None:
    offered = complete("virsh-postcopy", "postcopy-")
    assert {"postcopy-check", "postcopy-attach", "postcopy-recover"} <= set(offered)
    assert all(each.startswith("postcopy-") for each in offered)


def test_options_are_those_of_the_verb() -> None:
    words = ["-c", "test:///default", "migrate", "--live", "--postcopy-a"]
    assert complete("virsh-postcopy", *words) == ["--postcopy-after"]
    assert complete("virsh-postcopy", "postcopy-check", "--pr") == ["--probe"]
    assert complete("virsh-postcopy", "domjobinfo", "--") == ["--postcopy"]


def test_values_are_offered() -> None:
    words = ["migrate", "--postcopy-check", ""]
    assert complete("virsh-postcopy", *words) == ["off", "warn", "strict"]


def test_virshs_own_come_first() -> None:
    """Its function is there already, as when somebody has completed a line of virsh before."""
    more = """
_get_comp_words_by_ref() { :; }
_virsh_complete() { COMPREPLY=(--postcopy-from-virsh); }
"""
    offered = complete("virsh-postcopy", "migrate", "--postcopy-a", more=more)
    assert offered == ["--postcopy-from-virsh", "--postcopy-after"]


def test_other_program() -> None:
    assert "bindings" in complete("libvirt-postcopy", "b")
    assert complete("libvirt-postcopy", "check", "--pr") == ["--probe"]


def test_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(completions.VALUES, "postcopy-check")  # type: ignore[arg-type]
    name = "virsh-postcopy.bash"
    assert completions.files()[name] != FILES[name]
