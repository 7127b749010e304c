from __future__ import annotations

import pytest

from libvirt_postcopy.virsh.verbs import VERBS, claims, is_strict_anyway, read


@pytest.mark.parametrize(
    "line",
    [
        "migrate --live --postcopy a b",
        "migrate --live --enable-postcopy a b",
        "migrate a b --live --postcopy-after 5",
        "migrate a b --live --postcopy-after=5",
        "migrate a b --live --postcopy-after-precopy",
        "migrate a b --live --postcopy-policy never",
        "migrate a b --live --postcopy --timeout 5 --timeout-postcopy",
        "migrate a b --live --postcopy --tls --verbose",
        "migrate a b --strict-exit",
        # our own options make these ours to refuse
        "migrate a b --live --enable-postcopy --timeout 5",
        "migrate a b --live --postcopy-policy never --postcopy-resume",
        # invalid, and ours because an option of ours is named
        "migrate --postcopy",
        "migrate a b --postcopy --foo",
        "migrate a b --postcopy-after",
        "migrate a b --postcopy-after=x",
        # help
        "migrate --help",
        "migrate a --help",
        "migrate-start-postcopy a",
        "migrate-start-postcopy a --strict-exit",
        "migrate-start-postcopy",
        "migrate-start-postcopy --foo",
        "migrate-postcopy a",
        "migrate-postcopy --help",
    ],
)
def test_ours(line: str) -> None:
    words = line.split()
    verb = claims(words)
    assert verb is not None and verb.name == words[0]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "list",
        "frobnicate",
        "help migrate",
        "migrate",
        "migrate --live a b",
        "migrate a b --foo",
        "migrate a b --bandwidth x",
        "migrate a b --timeout 5 --timeout-postcopy",
        "migrate a b --postcopy-bandwidth 5",
        "migrate a b --dname --postcopy",
        "migrate a b -- --postcopy",
        # virsh's own recovery and its own way with a timeout
        "migrate a b --live --postcopy --postcopy-resume",
        "migrate a b --live --postcopy --timeout 5",
        "migrate a b --live --postcopy --timeout 5 --timeout-suspend",
        "migrate-setspeed a 5",
        "domjobabort a --postcopy",
        # virsh's command strings
        "migrate\\ --live\\ --postcopy\\ a\\ b",
    ],
)
def test_not_ours(line: str) -> None:
    words = [word.replace("\0", " ") for word in line.replace("\\ ", "\0").split()]
    assert claims(words) is None


@pytest.mark.parametrize(
    "line, is_virshs",
    [
        ("a b --strict-exit", True),
        ("a b --offline --persistent --strict-exit", True),
        ("a b --live --direct --strict-exit", True),
        ("a b --live --timeout 5 --strict-exit", True),
        ("a b --live --postcopy --timeout 5 --timeout-suspend --strict-exit", True),
        ("a b --live --postcopy --postcopy-resume --strict-exit", True),
        ("a b --live --strict-exit", False),
        ("a b --live --postcopy --strict-exit", False),
        ("a b --postcopy --strict-exit", False),
        ("a b --offline --postcopy-check off --strict-exit", False),
        ("a b --offline", False),
    ],
)
def test_what_strict_exit_alone_has_made_ours(line: str, is_virshs: bool) -> None:
    words = ["migrate", *line.split()]
    assert is_strict_anyway(words, read(VERBS["migrate"], words)) is is_virshs
