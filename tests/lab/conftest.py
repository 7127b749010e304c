"""What the lab's own tests share: a lab in a folder of its own, and what it leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_helpers import leftovers, start_domain

from labkit import Lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs root where there is none."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A state folder, from which nothing is left at the end."""
    path = tmp_path / "lab"
    yield path
    Lab(path).down()
    assert leftovers(path) == []


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab that is up, for all tests of a file."""
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture
def domain(lab: Lab) -> Iterator[str]:
    """An idle domain on host a, gone from all hosts at the end."""
    start_domain(lab, "a", "idle")
    yield "idle"
    for host in lab.hosts():
        if "idle" in host.domains():
            host.virsh("destroy", "idle")
