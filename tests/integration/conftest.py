"""The lab in which these tests run, and a busy guest on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from guest import GuestParams
from labkit import Lab
from libvirt_postcopy import migration
from libvirt_postcopy.vir.calls import silence_libvirt
from libvirt_postcopy.vir.events import ensure_event_loop
from missed import (
    pytest_runtest_makereport,
    pytest_runtest_protocol,
    pytest_terminal_summary,
)
from scenes.stage import Stage

__all__ = [
    "pytest_runtest_makereport",
    "pytest_runtest_protocol",
    "pytest_terminal_summary",
]

SMALL = GuestParams(memory_mib=128, working_set_mib=48, rate_mib_s=60)
"""Dirties 60 MiB/s where the link carries 32: pre-copy does not converge."""


def pytest_report_header() -> str:
    number = libvirt.getVersion()
    return f"libvirt {number // 1000000}.{number // 1000 % 1000}.{number % 1000}"


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Journals are not written to the home of whoever runs the tests."""
    path = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(path))
        yield path


@pytest.fixture(scope="session")
def lab() -> Lab:
    if "LIBVIRT_POSTCOPY_LAB_DIR" not in os.environ:
        pytest.exit(
            "run these with tools/test integration, or inside: tools/lab exec client", 2
        )
    silence_libvirt()
    ensure_event_loop()
    return Lab.attach()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """A switch that comes late, on a machine that is busy for a second, is not asked for again.

    :return: A migration's parameters: where attempts are counted, post-copy must last until it is looked whether it has come.
    """
    monkeypatch.setattr(migration, "VERIFY_S", 3.0)
    return {"bandwidth.postcopy": SMALL.working_set_mib // 4}


@pytest.fixture
def network(lab: Lab) -> Iterator[Lab]:
    """The lab with a slow link, put right afterwards."""
    lab.limit("32MiB")
    yield lab
    lab.pass_migrations()
    lab.unlimit()
    for host in lab.hosts():
        lab.uncut(host.name)


@pytest.fixture
def stage(network: Lab) -> Iterator[Stage]:
    with Stage(network, SMALL) as stage:
        yield stage


@pytest.fixture
def moved(stage: Stage) -> Callable[[], None]:
    """Asserts that the guest runs on b alone, its memory right, after what the test did."""

    def check() -> None:
        assert stage.active_on() == ["b"]
        report = stage.verify("b")
        assert report.ok, str(report)
        assert not stage.collector.strays, "beats from two QEMUs at once"

    return check


@pytest.fixture
def stayed(stage: Stage) -> Callable[[], None]:
    """Asserts that the guest runs on a alone, its memory right."""

    def check() -> None:
        assert stage.active_on() == ["a"]
        stage.collector.wait_for_beats(1000, timeout=30)
        report = stage.verify("a")
        assert report.ok, str(report)

    return check


@pytest.fixture
def shared(lab: Lab) -> Path:
    return lab.shared
