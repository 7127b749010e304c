from __future__ import annotations

import re
from pathlib import Path

import pytest

import libvirt_postcopy
from libvirt_postcopy import stats
from libvirt_postcopy.bindings.names import is_about_postcopy, ours
from libvirt_postcopy.constants import JobField

ROOT = Path(libvirt_postcopy.__file__).parent


def test_names_are_those_of_the_constants() -> None:
    for name in (
        "VIR_MIGRATE_POSTCOPY_RESUME",
        "VIR_MIGRATE_PARAM_COMPRESSION_ZLIB_LEVEL",
        "VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE",
        "VIR_UUID_STRING_BUFLEN",
    ):
        assert ours().has(name)
    assert not ours().has("VIR_NO_SUCH")


@pytest.mark.parametrize(
    "name, is_it",
    [
        ("VIR_MIGRATE_POSTCOPY", True),
        ("virDomainMigrateStartPostCopy", True),
        ("VIR_DOMAIN_JOB_POST_COPY_TIME", True),
        ("VIR_MIGRATE_PERSIST_DEST", False),
    ],
)
def test_names_that_speak_of_postcopy(name: str, is_it: bool) -> None:
    assert is_about_postcopy(name) is is_it


def test_statistics_are_read_by_keys_that_are_compared() -> None:
    keys = {v for name, v in vars(JobField).items() if name.startswith("VIR_")}
    assert stats._FROM_JOB.keys() < keys


def test_numbers_of_libvirt_are_written_in_the_constants_alone() -> None:
    """There they are compared; elsewhere a comment would only claim what a number is."""
    number = re.compile(r"=\s*-?\d[\d, -]*#.*\bVIR_[A-Z]")
    wrong = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in sorted(ROOT.rglob("*.py"))
        if path.name != "constants.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if number.search(line)
    ]
    assert wrong == []
