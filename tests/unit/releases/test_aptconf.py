"""Reading the machine's own apt configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from releases.aptconf import (
    KEYRING,
    Mirror,
    Source,
    choose,
    find_mirror,
    parse_list,
    parse_sources,
    read_sources,
)
from releases.errors import MachineError

ONE_LINE = """\
# deb http://old.example/debian trixie main
deb http://one.example/debian bookworm main contrib  # comment
deb-src http://one.example/debian bookworm main
deb [ arch=amd64 signed-by=/k.gpg ] https://two.example/apt stable main
deb   [signed-by=/k.gpg]   https://three.example/   ./
"""

DEB822 = """\
# Mirrors
Types: deb deb-src
URIs: http://one.example/debian
  http://two.example/debian
# within a stanza
Suites: trixie trixie-updates
Components: main non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: trixie
Components: main

types: deb
uris: http://key.example/debian
suites: trixie
components: main
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb-src
URIs: http://source.example/debian
Suites: trixie
Components: main
"""


def test_one_line_sources() -> None:
    assert list(parse_list(ONE_LINE)) == [
        Source("http://one.example/debian", "bookworm", ("main", "contrib")),
        Source("https://two.example/apt", "stable", ("main",), "/k.gpg"),
        Source("https://three.example/", "./", (), "/k.gpg"),
    ]


def test_deb822_sources() -> None:
    both = ("main", "non-free-firmware")
    assert list(parse_sources(DEB822)) == [
        Source("http://one.example/debian", "trixie", both, KEYRING),
        Source("http://one.example/debian", "trixie-updates", both, KEYRING),
        Source("http://two.example/debian", "trixie", both, KEYRING),
        Source("http://two.example/debian", "trixie-updates", both, KEYRING),
        Source("http://key.example/debian", "trixie", ("main",)),
    ]


def test_both_spellings_are_read(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(DEB822)
    (tmp_path / "sources.list.d" / "x.list.save").write_text(
        "deb http://saved.example/ sid main"
    )
    uris = [source.uri for source in read_sources(tmp_path)]
    assert uris[0] == "http://one.example/debian"
    assert uris[-1] == "http://key.example/debian"
    assert len(uris) == 8


def test_machine_without_sources_has_none(tmp_path: Path) -> None:
    assert read_sources(tmp_path) == []


def test_archive_with_debians_key_is_the_mirror() -> None:
    sources = [
        Source("https://vendor.example/", "bookworm", ("main",), "/vendor.gpg"),
        Source("http://one.example/debian", "bookworm", ("main",), KEYRING),
    ]
    assert choose(sources) == Mirror("http://one.example/debian", KEYRING)


def test_archive_with_more_suites_is_the_mirror() -> None:
    sources = [
        Source("https://vendor.example/", "bookworm", ("main",)),
        Source("http://one.example/debian", "bookworm", ("main",)),
        Source("http://one.example/debian", "bookworm-updates", ("main",)),
    ]
    assert choose(sources) == Mirror("http://one.example/debian", KEYRING)


def test_key_of_the_source_is_used() -> None:
    sources = [
        Source("http://one.example/debian", "sid", ("main",), "/etc/apt/own.gpg")
    ]
    assert choose(sources).keyring == "/etc/apt/own.gpg"


@pytest.mark.parametrize(
    "source",
    [
        Source("http://one.example/ubuntu", "noble", ("main",)),
        Source("http://one.example/debian-security", "bookworm-security", ("main",)),
        Source("http://one.example/debian", "bookworm", ("contrib",)),
        Source("cdrom:[Debian]/", "bookworm", ("main",)),
    ],
)
def test_machine_without_a_debian_archive_is_told_the_cure(source: Source) -> None:
    with pytest.raises(MachineError, match="--mirror URL"):
        choose([source])


def test_given_mirror_is_taken_as_it_is() -> None:
    assert find_mirror("http://my.example/debian") == Mirror(
        "http://my.example/debian", KEYRING
    )
