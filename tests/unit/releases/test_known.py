"""Names of releases."""

from __future__ import annotations

import pytest

from releases.errors import UnknownRelease
from releases.known import Release, find, known, matches, order, parse, upstream


@pytest.mark.parametrize(
    ("name", "suite"),
    [
        ("bullseye", "bullseye"),
        ("5.2", "bullseye"),
        ("qemu-7.2", "bookworm"),
        ("10.0", "trixie"),
        ("11.1", "forky"),
        ("libvirt-7.0", "bullseye"),
        ("libvirt-9.0", "bookworm"),
        ("libvirt-11.3", "trixie"),
        ("libvirt-12.8", "forky"),
        ("trixie-backports", "trixie-backports"),
    ],
)
def test_suite_and_versions_name_a_release(name: str, suite: str) -> None:
    assert find(parse(name)).suite == suite


@pytest.mark.parametrize("name", ["11.10", "1", "libvirt-10.0", "sid"])
def test_release_that_is_not_in_the_table_is_unknown(name: str) -> None:
    assert known(parse(name)) is None
    with pytest.raises(
        UnknownRelease, match=f"^{name}: no such release; known are bullseye, "
    ):
        find(parse(name))


@pytest.mark.parametrize(
    "name", ["", "../x", "Trixie", "10.", "libvirt-", "a b", "-x", "x/y"]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UnknownRelease):
        parse(name)


@pytest.mark.parametrize(
    ("debian", "version"),
    [
        ("1:7.2+dfsg-7+deb12u18+b3", "7.2"),
        ("1:10.0.13+ds-0+deb13u1", "10.0.13"),
        ("11.3.0-2~bpo12+1", "11.3.0"),
        ("1:10.2.0~rc3+ds-1", "10.2.0"),
        ("", ""),
    ],
)
def test_upstream_part_of_a_debian_version(debian: str, version: str) -> None:
    assert upstream(debian) == version


def test_point_release_is_what_its_release_is_called() -> None:
    assert matches("10.0.13", "10.0")
    assert matches("10.0.13", "10.0.13")
    assert not matches("10.0", "10.0.13")
    assert not matches("11.10", "11.1")
    assert not matches("", "5.2")


def test_backports_stand_on_their_base() -> None:
    assert Release("trixie-backports").base == "trixie"
    assert Release("trixie").base == "trixie"


def test_unknown_suites_sort_last() -> None:
    assert sorted(["sid", "forky", "abc", "bullseye"], key=order) == [
        "bullseye",
        "forky",
        "abc",
        "sid",
    ]
