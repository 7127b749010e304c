"""A fetch puts a whole root into the cache, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from releases.aptconf import Mirror
from releases.cache import Cache
from releases.errors import FetchError, Interrupted, MachineError
from releases.fetch import check_machine, fetch, reason
from releases.known import Flavour, Release
from releases.root import Root

from .fakes import FakeRun, InterruptedRun

TRIXIE = Release("trixie")


@pytest.fixture(name="cache")
def fixture_cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def fetched(cache: Cache, run: FakeRun, *, refresh: bool = False) -> Root:
    mirror = Mirror("http://one.example/debian")
    return fetch(
        TRIXIE,
        Flavour.QEMU,
        cache=cache,
        mirror=mirror,
        say=print,
        refresh=refresh,
        run=run,
    )


def visible(cache: Cache) -> list[str]:
    """All of the cache's folder but logs and locks."""
    return sorted(
        path.name
        for path in cache.folder.iterdir()
        if path.suffix not in (".log", ".lock")
    )


@pytest.mark.programs
def test_fetched_root_is_in_the_cache(cache: Cache) -> None:
    root = fetched(cache, FakeRun())
    assert cache.roots() == [root]
    assert root.qemu == "10.0.13"
    assert root.folder.stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in root.folder.iterdir()) == [
        "qemu-system-x86_64",
        "root",
    ]


@pytest.mark.programs
def test_what_is_there_is_not_fetched_again(cache: Cache) -> None:
    run = FakeRun()
    assert fetched(cache, run) == fetched(cache, run)
    assert run.calls == 1


@pytest.mark.programs
def test_refresh_replaces_what_is_there(cache: Cache) -> None:
    fetched(cache, FakeRun(qemu="10.0.2"))
    assert fetched(cache, FakeRun(qemu="10.0.13"), refresh=True).qemu == "10.0.13"
    assert visible(cache) == ["trixie-qemu"]


@pytest.mark.programs
def test_failed_fetch_leaves_the_log_and_no_root(cache: Cache) -> None:
    run = FakeRun(
        log="I: x\nE: Unable to locate package qemu\nE: apt failed\n", status=25
    )
    with pytest.raises(FetchError) as caught:
        fetched(cache, run)
    log = cache.folder / "trixie-qemu.log"
    assert str(caught.value) == (
        f"fetching trixie failed: Unable to locate package qemu (log: {log})"
    )
    assert log.exists()
    assert visible(cache) == []


@pytest.mark.programs
def test_failed_refresh_keeps_what_was_there(cache: Cache) -> None:
    fetched(cache, FakeRun(qemu="10.0.2"))
    with pytest.raises(FetchError):
        fetched(cache, FakeRun(status=1), refresh=True)
    assert [root.qemu for root in cache.roots()] == ["10.0.2"]


@pytest.mark.programs
def test_interrupted_fetch_leaves_no_root(cache: Cache) -> None:
    with pytest.raises(Interrupted, match="fetching trixie was interrupted"):
        fetched(cache, InterruptedRun())
    assert visible(cache) == []


@pytest.mark.programs
def test_qemu_that_does_not_run_is_a_failed_fetch(cache: Cache) -> None:
    with pytest.raises(
        FetchError, match="fetching trixie failed: its QEMU does not run"
    ):
        fetched(cache, FakeRun(linker="#!/bin/sh\nexit 1\n"))
    assert visible(cache) == []


@pytest.mark.programs
def test_rest_of_a_killed_fetch_is_swept(cache: Cache) -> None:
    rest = cache.folder / ".trixie-qemu.tmp-abc"
    other = cache.folder / ".trixie-full.tmp-abc"
    (rest / "root").mkdir(parents=True)
    other.mkdir()
    fetched(cache, FakeRun())
    assert not rest.exists()
    assert other.exists()


@pytest.mark.parametrize(
    ("log", "why"),
    [
        ("I: a\nE: first\nE: second\n", "first"),
        (
            "dpkg: error: No space left on device\nE: dpkg failed\n",
            "dpkg: error: No space left on device",
        ),
        (
            "I: a\nunshare: unshare failed: Operation not permitted\n\n",
            "unshare: unshare failed: Operation not permitted",
        ),
        ("", "mmdebstrap ended with status 9"),
    ],
)
def test_reason_is_the_line_that_says_why(log: str, why: str) -> None:
    assert reason(log, 9) == why


def test_missing_keys_are_named_with_the_cure() -> None:
    with pytest.raises(MachineError, match="tools/setup"):
        check_machine(Mirror("http://one.example/debian", "/nowhere/keys.gpg"))
