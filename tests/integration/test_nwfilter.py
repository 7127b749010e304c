"""A network filter is defined anew with another UUID, on libvirt's own driver."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from labkit import Lab
from scenes.stage import VENV

NAME = "postcopy-test"
FIRST, SECOND = (f"6f0b2a3c-6d3f-4d0a-9c55-{n:012d}" for n in (1, 2))


def _write(folder: Path, uuid: str, action: str) -> Path:
    path = folder / "filter.xml"
    path.write_text(
        f"<filter name='{NAME}' chain='root'>\n  <uuid>{uuid}</uuid>\n"
        f"  <rule action='{action}' direction='in' priority='500'/>\n</filter>\n"
    )
    return path


def _define(lab: Lab, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [VENV / "virsh-postcopy", "-c", lab.host("a").uri, "nwfilter-define"]
    return subprocess.run(
        [*map(str, command), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def host(lab: Lab) -> Iterator[libvirt.virConnect]:
    connection = libvirt.open(lab.host("a").uri)
    yield connection
    for each in connection.listAllNWFilters():
        if each.name() == NAME:
            each.undefine()
    connection.close()


def test_redefinition_keeps_the_uuid(
    lab: Lab, host: libvirt.virConnect, tmp_path: Path
) -> None:
    new = _define(lab, _write(tmp_path, FIRST, "drop"), "--keep-uuid")
    assert new.returncode == 0, new.stderr
    other = _write(tmp_path, SECOND, "accept")
    refused = _define(lab, other)  # the real virsh's
    assert refused.returncode == 1 and "already exists" in refused.stderr
    done = _define(lab, other, "--keep-uuid", "--validate")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Network filter {NAME} defined from {other}\n\n"
    found = host.nwfilterLookupByName(NAME)
    assert found.UUIDString() == FIRST
    assert "action='accept'" in found.XMLDesc()


@pytest.mark.parametrize(
    ("content", "words"),
    [("<network/>", "begins with <network>"), ("<filter", "not the XML")],
)
def test_what_is_no_filter(lab: Lab, tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "wrong.xml"
    path.write_text(content)
    done = _define(lab, path, "--keep-uuid")
    assert done.returncode == 1 and words in done.stderr
    assert done.stderr.count("\n") == 1
