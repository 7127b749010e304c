"""What this machine's own apt knows: where a Debian mirror is, which key signs it, how to reach it.

We name no mirror ourselves. Both spellings of sources are read: one-line ``.list`` files and deb822 ``.sources``.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from releases.errors import MachineError

__all__ = [
    "Source",
    "Mirror",
    "find_mirror",
    "choose",
    "parse_list",
    "parse_sources",
    "read_sources",
    "acquire_options",
]

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

#: Suites that only Debian has; other archives reuse a codename at times, so siblings count too (see choose).
DEBIAN = re.compile(
    r"(?:(?:old){0,2}stable|testing|unstable|sid|buster|bullseye|bookworm|trixie|forky|duke)(?:-(?:updates|backports))?"
)


@dataclass(frozen=True)
class Source:
    """One suite of one archive."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""


@dataclass(frozen=True)
class Mirror:
    """A Debian archive and the key file its suites are signed with."""

    uri: str
    keyring: str = KEYRING


def parse_list(text: str) -> Iterator[Source]:
    """Read one-line sources: ``deb [signed-by=FILE] URI SUITE COMPONENT…``."""
    for line in text.splitlines():
        entry = re.fullmatch(
            r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s*(.*)",
            line.partition("#")[0].strip(),
        )
        if entry:
            options = dict(
                option.partition("=")[::2] for option in (entry[1] or "").split()
            )
            yield Source(
                entry[2],
                entry[3],
                tuple(entry[4].split()),
                options.get("signed-by", ""),
            )


def parse_sources(text: str) -> Iterator[Source]:
    """Read deb822 sources: stanzas of fields, each URI combined with each suite."""
    for stanza in re.split(
        r"\n\s*\n",
        "\n".join(line for line in text.splitlines() if not line.startswith("#")),
    ):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split() or fields.get(
            "enabled", "yes"
        ).lower() in ("no", "false"):
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                components = tuple(fields.get("components", "").split())
                yield Source(
                    uri, suite, components, _key_file(fields.get("signed-by", ""))
                )


def _fields(stanza: str) -> dict[str, str]:
    """Fields of a deb822 stanza by lower-case name, continuation lines joined."""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line[:1].isspace():
            fields[name] = fields.get(name, "") + "\n" + line.strip()
        else:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def _key_file(signed_by: str) -> str:
    """The field's file; an embedded key or a fingerprint is of no use to another apt configuration."""
    return (
        signed_by if signed_by.startswith("/") and len(signed_by.split()) == 1 else ""
    )


def read_sources(etc: Path = Path("/etc/apt")) -> list[Source]:
    """All sources of this machine, in apt's order."""
    found: list[Source] = []
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    for file in files:
        parse = {".list": parse_list, ".sources": parse_sources}.get(file.suffix)
        if parse and file.is_file():
            found += parse(file.read_text(encoding="utf-8", errors="replace"))
    return found


def choose(sources: Iterable[Source]) -> Mirror:
    """Pick the Debian archive among the sources.

    Others publish a ``bookworm main`` too. The archive proper is the one with Debian's own key or with more of Debian's
    suites; a wrong pick would be refused by apt, as Debian's key did not sign it.

    :raises MachineError: If there is none, as on Ubuntu.
    """
    suites: dict[str, set[str]] = {}
    keys: dict[str, str] = {}
    for source in sources:
        if (
            "main" in source.components
            and DEBIAN.fullmatch(source.suite)
            and "://" in source.uri
        ):
            suites.setdefault(source.uri, set()).add(source.suite)
            keys.setdefault(source.uri, source.signed_by)
    if not suites:
        raise MachineError(
            "this machine's apt sources name no Debian archive; give one with --mirror URL (or LIBVIRT_POSTCOPY_MIRROR)"
        )
    uri = max(suites, key=lambda uri: ("debian-archive" in keys[uri], len(suites[uri])))
    return Mirror(uri, keys[uri] or KEYRING)


def find_mirror(uri: str = "") -> Mirror:
    """The mirror to fetch from: the given one, else the one of this machine's apt."""
    return Mirror(uri) if uri else choose(read_sources())


def acquire_options() -> list[str]:
    """apt's settings for reaching archives on this machine (proxy, certificates), as lines for an apt.conf."""
    dump = subprocess.run(
        ["apt-config", "dump"], capture_output=True, text=True, check=False
    ).stdout
    return [
        line
        for line in dump.splitlines()
        if re.match(r'Acquire::(https?::\S+|Retries) ".+";', line)
    ]
