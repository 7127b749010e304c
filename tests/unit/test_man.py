"""The man pages: they build, groff has no complaint, and no option is left out."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from completions import _actions
from libvirt_postcopy.cli.main import VERBS as CLI_VERBS
from libvirt_postcopy.virsh.verbs import VERBS

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "man"


def section(page: str, title: str) -> str:
    """What stands below a heading, up to the next."""
    lines = (PAGES / page).read_text(encoding="utf-8").splitlines()
    headings = [
        number - 1
        for number, line in enumerate(lines)
        if re.fullmatch("-{3,}|={3,}", line) and lines[number - 1]
    ]
    [begin] = [number for number in headings if lines[number] == title]
    end = next((number for number in headings if number > begin), len(lines))
    return "\n".join(lines[begin + 2 : end])


@pytest.mark.parametrize("name", VERBS)
def test_each_option_of_virsh_postcopy_is_explained(name: str) -> None:
    verb = VERBS[name]
    text = section("virsh-postcopy.1.rst", name)
    for option in verb.options:
        if option.is_ours or not verb.is_virshs:
            assert re.search(rf"^``--{option.name}( [A-Z]+)?``$", text, re.M), option.name  # fmt: skip


@pytest.mark.parametrize("name", CLI_VERBS)
def test_each_option_of_libvirt_postcopy_is_explained(name: str) -> None:
    parser = argparse.ArgumentParser(prog=name)
    import_module(f"libvirt_postcopy.cli.commands.{name}").options(parser)
    text = section("libvirt-postcopy.1.rst", name)
    for action in _actions(parser):
        for option in action.option_strings:
            if option not in ("-h", "--help"):
                assert re.search(rf"^``.*{option}\b.*``$", text, re.M), option


def test_nothing_is_explained_that_is_not_there() -> None:
    """In the sections of the verbs, where each option is a heading of its own."""
    for name, verb in VERBS.items():
        text = section("virsh-postcopy.1.rst", name)
        named = set(re.findall(r"^``--([a-z0-9-]+)", text, re.M))
        assert named <= {option.name for option in verb.options}


@pytest.mark.programs
def test_pages_build_without_a_complaint(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ROOT / "tools" / "man"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("virsh-postcopy.1", "libvirt-postcopy.1"):
        assert (tmp_path / name).read_text().count(".TH ") == 1


@pytest.mark.programs
def test_a_package_has_the_manual_and_completion(tmp_path: Path) -> None:
    command = ["setup.py", "-q", "install_data", "--install-dir", str(tmp_path)]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, timeout=60)
    found = {str(path.relative_to(tmp_path / "share")) for path in tmp_path.rglob("*") if path.is_file()}  # fmt: skip
    assert found == {
        f"{folder}/{name}"
        for program in ("virsh-postcopy", "libvirt-postcopy")
        for folder, name in (
            ("man/man1", f"{program}.1"),
            ("bash-completion/completions", f"{program}.bash"),
            ("zsh/site-functions", f"_{program}"),
            ("fish/vendor_completions.d", f"{program}.fish"),
        )
    }
