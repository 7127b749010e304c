"""The check as a whole, with all the witnesses that are here: libvirt-dev and a compiler are needed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

import check_bindings
from libvirt_postcopy.bindings.description import (
    beside,
    find_description,
    read_description,
)
from libvirt_postcopy.bindings.judge import against_description
from libvirt_postcopy.bindings.parameters import PARAMETERS
from libvirt_postcopy.bindings.report import Severity
from libvirt_postcopy.bindings.symbols import LIBVIRT, QEMU, version_number
from libvirt_postcopy.cli.main import main


def test_ci_is_content_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_bindings.main([]) == 0
    assert "compiler: headers of libvirt " in capsys.readouterr().out


def test_description_of_this_libvirt_agrees() -> None:
    path = find_description()
    assert path.is_file(), f"there is no {path} (install libvirt-dev)"
    described = read_description(*beside(path))
    assert described.libraries == {LIBVIRT, QEMU}
    version = described.version
    assert version > 8_000_000
    found = against_description(described, version)
    assert [each for each in found if each.severity is not Severity.NOTE] == []
    typed = [p for p in PARAMETERS.values() if version_number(p.since) <= version]
    told = [p for p in typed if described.macros[p.name].kind == p.type.word]
    assert len(told) > 15, "the description says the types of nearly all"


def test_copy_of_the_description_is_as_good(tmp_path: Path) -> None:
    copy = tmp_path / "libvirt-api.xml"
    copy.write_bytes(find_description().read_bytes())
    out = io.StringIO()
    status = main(["bindings", "--no-compile", "--api", str(copy)], out)
    assert status == 0, out.getvalue()
