"""What all unit tests share."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import libvirt
import libvirt_qemu
import pytest
from hypothesis import settings

# The same examples in every run: a test that fails for one reader fails for the next.
settings.register_profile("unit", deadline=None, derandomize=True, database=None)
settings.load_profile("unit")

# Thousands of tests are collected and kept: looking through all of them for garbage, again and again, took a quarter
# of the time.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


STARTS = frozenset(
    ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system")
)
"""Python's audit events when a program is started."""

_started: list[str] = []
sys.addaudithook(lambda event, _: _started.append(event) if event in STARTS else None)


@pytest.fixture(autouse=True)
def starts_programs_only_if_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Such tests have a phase of their own in tools/test, so that the others stay quick."""
    _started.clear()
    yield
    if request.node.get_closest_marker("programs") is None:
        assert not _started, "a test that starts programs is marked: programs"


def pytest_report_header() -> str:
    number = libvirt.getVersion()
    version = f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
    return f"libvirt: {version}, Python {sys.version.split()[0]}"


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Journals are not written to the home of whoever runs the tests."""
    path = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(path))
        yield path


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let libvirt_qemu's functions, which want C objects, work on our fakes."""
    monkeypatch.setattr(
        libvirt_qemu,
        "qemuMonitorEventRegister",
        lambda conn, dom, event, cb, opaque, flags=0: conn.register(event, cb),
    )
    monkeypatch.setattr(
        libvirt_qemu,
        "qemuMonitorEventDeregister",
        lambda conn, number: conn.deregister(number),
    )
    monkeypatch.setattr(
        libvirt_qemu,
        "qemuMonitorCommand",
        lambda dom, command, flags: json.dumps(dom.answer(json.loads(command))),
    )
