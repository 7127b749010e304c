"""The XML of a destination: in ``tests/golden/domxml``, ``-in.xml`` becomes ``-out.xml``."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from lxml import etree

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.incoming import (
    add_arguments,
    clean_xml,
    incoming_arguments,
    incoming_xml,
    is_made_by,
    property_arguments,
    renamed,
    socket_arguments,
)

FOLDER = Path(__file__).parents[1] / "golden" / "domxml"
CASES = sorted(path.name[: -len("-in.xml")] for path in FOLDER.glob("*-in.xml"))
ALL = (*incoming_arguments(), *socket_arguments("/run/web1.qmp"))
SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
HELPER = Path("/usr/lib/libvirt/virt-aa-helper")


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def test_there_are_cases() -> None:
    assert len(CASES) >= 4


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    made = add_arguments(_read(f"{case}-in.xml"), ALL) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        (FOLDER / f"{case}-out.xml").write_text(made, encoding="utf-8")
    assert made == _read(f"{case}-out.xml")


@pytest.mark.parametrize("case", CASES)
def test_twice_is_as_once(case: str) -> None:
    once = add_arguments(_read(f"{case}-in.xml"), ALL)
    assert add_arguments(once, ALL) == once


@pytest.mark.parametrize("case", CASES)
def test_cleaned_it_is_as_before(case: str) -> None:
    before = _read(f"{case}-in.xml")
    cleaned = clean_xml(incoming_xml(before))
    assert cleaned == clean_xml(before)
    assert "LIBVIRT_POSTCOPY" not in cleaned and "defer" not in cleaned


@pytest.mark.parametrize("case", CASES)
@pytest.mark.skipif(not SCHEMA.exists(), reason="libvirt's schemas are not installed")
def test_libvirts_schema_takes_it(case: str) -> None:
    schema = etree.RelaxNG(etree.parse(str(SCHEMA)))
    for made in (_read(f"{case}-out.xml"), clean_xml(_read(f"{case}-out.xml"))):
        assert schema.validate(etree.fromstring(made)), schema.error_log


@pytest.mark.programs
@pytest.mark.skipif(not HELPER.exists(), reason="libvirt is without AppArmor")
def test_apparmors_profile_takes_it_and_permits_no_path_of_ours() -> None:
    """As docs/qemu-driver.md says; needs no AppArmor."""
    made = _read("plain-out.xml")
    assert "/run/web1.qmp" in made
    uuid = etree.fromstring(made).findtext("uuid")
    profile = subprocess.run(
        [str(HELPER), "--dryrun", "--create", "--uuid", f"libvirt-{uuid}"],
        input=made,
        text=True,
        capture_output=True,
        timeout=30,
        check=True,
    ).stderr
    assert ".pid" in profile and "/run/web1.qmp" not in profile


def test_what_somebody_has_edited_is_left_alone() -> None:
    ours = incoming_xml(_read("plain-in.xml"))
    edited = ours.replace('value="defer"', 'value="tcp:0:4444"')
    assert "tcp:0:4444" in clean_xml(edited)
    more = ours.replace('ARGUMENTS" value="2"', 'ARGUMENTS" value="99999"')
    assert "-incoming" not in clean_xml(more)
    odd = ours.replace('ARGUMENTS" value="2"', 'ARGUMENTS" value="1"')
    assert "-incoming" in clean_xml(odd)


def test_run_that_has_made_a_domain() -> None:
    ours = incoming_xml(_read("plain-in.xml"), run="one")
    assert is_made_by("one", ours) and not is_made_by("another", ours)
    assert not is_made_by("one", _read("plain-in.xml"))
    again = incoming_xml(ours, run="another")
    assert is_made_by("another", again) and not is_made_by("one", again)
    assert clean_xml(ours) == clean_xml(_read("plain-in.xml"))
    assert "LIBVIRT_POSTCOPY" not in clean_xml(ours)


def test_another_name() -> None:
    assert "<name>web2</name>" in renamed(_read("plain-in.xml"), "web2")
    with pytest.raises(UsageError, match="no <name>"):
        renamed("<domain/>", "web2")


def test_properties_only_where_qemu_has_them() -> None:
    wanted = {"postcopy-blocktime": "on", "x-postcopy-preempt": "on"}
    assert property_arguments(wanted, ["x-postcopy-preempt"]) == (
        "-global",
        "migration.x-postcopy-preempt=on",
    )


@pytest.mark.parametrize("path", ["relative", "/a\nb", "/" + "a" * 107, ""])
def test_what_is_no_path_for_a_socket(path: str) -> None:
    with pytest.raises(UsageError, match="not a path for a socket"):
        socket_arguments(path)


def test_comma_in_a_path() -> None:
    assert "path=/a,,b," in socket_arguments("/a,b")[1]


BOMB = "".join(
    f'<!ENTITY e{n} "{f"&e{n - 1};" * 20}">' if n else '<!ENTITY e0 "boo">'
    for n in range(12)
)


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        (f"<!DOCTYPE d [{BOMB}]><domain><name>&e11;</name></domain>", "document type|not the XML"),
        ('<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><domain>&x;</domain>', "document type"),
        ('<!DOCTYPE d SYSTEM "http://192.0.2.1/d.dtd"><domain/>', "document type"),
        ("<domain>" + "<a>" * 100_000, "not the XML"),
        ("<domain>" + "x" * (11 << 20) + "</domain>", "larger than 10 MiB"),
        ("<network/>", "begins with <network>"),
        ("<domain", "not the XML"),
        ("", "not the XML"),
    ],
)  # fmt: skip
def test_hostile_or_broken(xml: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        incoming_xml(xml)
