"""Where roots are, and who may put one there."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from releases.cache import Cache, default_folder
from releases.known import Flavour, parse

from .fakes import fake_tree


@pytest.fixture(name="cache")
def fixture_cache(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path)
    for suite, flavour, qemu in [
        ("sid", Flavour.QEMU, "11.2.0"),
        ("forky", Flavour.FULL, "11.1.2"),
        ("forky", Flavour.QEMU, "11.1.2"),
        ("trixie-backports", Flavour.QEMU, "11.1.3"),
    ]:
        with cache.workshop(suite, flavour) as folder:
            fake_tree(folder / "root", qemu=qemu)
            (folder / "qemu-system-x86_64").touch()
            cache.put(folder, suite, flavour)
    return cache


@pytest.fixture(autouse=True)
def fixture_folder(tmp_path: Path) -> None:
    (tmp_path / "releases").mkdir()


@pytest.mark.parametrize(
    ("env", "folder"),
    [
        ({"HOME": "/h"}, "/h/.cache/libvirt-postcopy"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/libvirt-postcopy"),
        ({"HOME": "/h", "XDG_CACHE_HOME": ""}, "/h/.cache/libvirt-postcopy"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x", "LIBVIRT_POSTCOPY_CACHE": "/c"}, "/c"),
    ],
)
def test_environment_says_where_the_cache_is(env: dict[str, str], folder: str) -> None:
    assert default_folder(env) == Path(folder)


def test_roots_are_in_the_tables_order(cache: Cache) -> None:
    assert [root.folder.name for root in cache.roots()] == [
        "forky-qemu",
        "forky-full",
        "trixie-backports-qemu",
        "sid-qemu",
    ]


def test_cache_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert Cache(tmp_path / "none").roots() == []


def test_what_is_not_a_root_is_not_listed(cache: Cache) -> None:
    (cache.folder / "trixie-full").mkdir()
    (cache.folder / "my-notes").mkdir()
    (cache.folder / "trixie-qemu.log").touch()
    assert len(cache.roots()) == 4


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("forky", "forky-qemu"),
        ("11.1", "forky-qemu"),
        ("11.1.3", "trixie-backports-qemu"),
        ("11.2", "sid-qemu"),
        ("sid", "sid-qemu"),
    ],
)
def test_root_is_found_by_what_is_really_in_it(
    cache: Cache, name: str, found: str
) -> None:
    root = cache.find(parse(name))
    assert root and root.folder.name == found


def test_flavour_can_be_asked_for(cache: Cache) -> None:
    root = cache.find(parse("11.1"), flavour=Flavour.FULL)
    assert root and root.folder.name == "forky-full"
    assert cache.find(parse("sid"), flavour=Flavour.FULL) is None


def test_second_maker_of_the_same_root_waits(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    waits, enters = threading.Event(), threading.Event()

    def second() -> None:
        with cache.lock("trixie", Flavour.QEMU, on_wait=waits.set):
            enters.set()

    thread = threading.Thread(target=second)
    with cache.lock("trixie", Flavour.QEMU, on_wait=lambda: None):
        thread.start()
        assert waits.wait(10)
        assert not enters.is_set()
    assert enters.wait(10)
    thread.join()


def test_makers_of_different_roots_do_not_wait(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    waited: list[str] = []
    with ExitStack() as stack:
        for flavour in Flavour:
            lock = cache.lock(
                "trixie", flavour, on_wait=lambda: waited.append("waited")
            )
            stack.enter_context(lock)
    assert waited == []


def test_workshop_is_gone_afterwards(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with pytest.raises(ZeroDivisionError), cache.workshop(
        "trixie", Flavour.QEMU
    ) as folder:
        (folder / "half").mkdir()
        raise ZeroDivisionError
    assert list(cache.folder.iterdir()) == []
