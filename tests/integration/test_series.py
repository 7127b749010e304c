"""The 2014 series' calls and flags, as a program written for them uses them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import libvirt
import pytest
from observers import Awaited

import libvirt_postcopy as postcopy
from libvirt_postcopy.events import PassSeen
from scenes.stage import Stage

Check = Callable[[], None]
URI = "qemu+tcp://b/system"


@pytest.fixture
def installed() -> Iterator[None]:
    postcopy.install(libvirt)
    yield
    postcopy.uninstall(libvirt)


def _series_flags() -> int:
    return int(
        libvirt.VIR_MIGRATE_LIVE
        | libvirt.VIR_MIGRATE_ENABLE_POSTCOPY
        | libvirt.VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY
    )


TO_CONNECTION = {
    "migrate": lambda dom, conn, flags: dom.migrate(conn, flags, None, None, 0),
    "migrate2": lambda dom, conn, flags: dom.migrate2(conn, None, flags, None, None, 0),
    "migrate3": lambda dom, conn, flags: dom.migrate3(conn, {}, flags),
}
TO_URI = {
    "migrateToURI": lambda dom, uri, flags: dom.migrateToURI(uri, flags, None, 0),
    "migrateToURI2": lambda dom, uri, flags: dom.migrateToURI2(
        uri, None, None, flags, None, 0
    ),
    "migrateToURI3": lambda dom, uri, flags: dom.migrateToURI3(uri, {}, flags),
}


@pytest.mark.parametrize("method", list(TO_CONNECTION))
@pytest.mark.usefixtures("installed")
def test_methods_with_a_connection_obey_after_precopy(
    stage: Stage, moved: Check, method: str
) -> None:
    dom = stage.start()
    dconn = libvirt.open(URI)
    there = TO_CONNECTION[method](dom, dconn, _series_flags())
    heard = threading.Event()
    number = dconn.domainEventRegisterAny(
        there, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda *event: heard.set(), None
    )
    moved()  # suspends it, and resumes it
    assert heard.wait(10), "it is not of the connection that was given"
    dconn.domainEventDeregisterAny(number)
    assert there.UUIDString() == stage.find("b").UUIDString()
    assert there.connect().getHostname() == "b"


@pytest.mark.parametrize("method", list(TO_URI))
@pytest.mark.usefixtures("installed")
def test_methods_with_a_uri_obey_after_precopy(
    stage: Stage, moved: Check, method: str
) -> None:
    dom = stage.start()
    flags = _series_flags() | libvirt.VIR_MIGRATE_PEER2PEER
    assert TO_URI[method](dom, URI, flags) == 0
    moved()


@pytest.mark.usefixtures("installed")
def test_start_postcopy_switches_a_migration_that_libvirt_runs(
    stage: Stage, moved: Check
) -> None:
    """Mechanism: flags and call, no policy."""
    dom = stage.start()
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_ENABLE_POSTCOPY
    there = libvirt.open(URI)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(dom.migrate3, there, {}, flags)
        stats = _first_figures(dom)
        assert stats.sync_count is not None and stats.sync_count >= 1
        libvirt.virDomainMigrateStartPostCopy(dom)
        assert call.result(60).name() == stage.name
    moved()


def test_call_without_a_migration_is_refused_as_libvirt_does(
    stage: Stage, stayed: Check
) -> None:
    dom = stage.start()
    with pytest.raises(libvirt.libvirtError) as caught:
        postcopy.virDomainMigrateStartPostCopy(dom)
    assert isinstance(caught.value, postcopy.LibvirtError)
    assert caught.value.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID
    stayed()


def test_call_on_a_migration_without_postcopy_is_refused(
    stage: Stage, stayed: Check
) -> None:
    dom = stage.start()
    begun = Awaited(PassSeen)
    job = postcopy.start(dom, URI, policy="never", observer=begun)
    begun.wait()
    with pytest.raises(postcopy.LibvirtError, match="VIR_MIGRATE_POSTCOPY"):
        postcopy.virDomainMigrateStartPostCopy(dom)
    job.abort()
    with pytest.raises(postcopy.MigrationCancelled):
        job.wait(60)
    stayed()


def test_client_side_flag_is_refused_by_libvirt_itself(
    stage: Stage, stayed: Check
) -> None:
    """Without install() the flag must be refused loudly, not do something else."""
    dom = stage.start()
    flags = libvirt.VIR_MIGRATE_LIVE | postcopy.VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY
    with pytest.raises(libvirt.libvirtError, match="unsupported flags"):
        dom.migrate3(libvirt.open(URI), {}, flags)
    stayed()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("uri", "flags", "words"),
    [
        ("qemu+tcp://nowhere/system", 0, "nowhere"),
        ("qemu+tcp://a/system", 0, "same host"),
        (URI, libvirt.VIR_MIGRATE_TUNNELLED, "TUNNELLED"),
    ],
)
def test_refusals_are_libvirt_errors_after_install(
    stage: Stage, stayed: Check, uri: str, flags: int, words: str
) -> None:
    dom = stage.start()
    with pytest.raises(libvirt.libvirtError, match=words) as caught:
        dom.migrateToURI3(uri, {}, _series_flags() | flags)
    assert caught.value.get_error_code() and caught.value.get_error_message()
    stayed()


@pytest.mark.usefixtures("installed")
def test_domain_with_which_another_job_goes_on_is_a_libvirt_error(
    stage: Stage, stayed: Check
) -> None:
    dom = stage.start()
    begun = Awaited(PassSeen)
    job = postcopy.start(dom, URI, policy="never", observer=begun)
    begun.wait()
    with pytest.raises(libvirt.libvirtError, match="another job") as caught:
        dom.migrate3(libvirt.open(URI), {}, _series_flags())
    assert caught.value.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID
    job.abort()
    with pytest.raises(postcopy.MigrationCancelled):
        job.wait(60)
    stayed()


@pytest.mark.usefixtures("installed")
def test_domain_that_does_not_run_is_a_libvirt_error(stage: Stage) -> None:
    dom = stage.connection("a").defineXML(stage.xml())
    with pytest.raises(libvirt.libvirtError, match="not running"):
        dom.migrate3(libvirt.open(URI), {}, _series_flags())
    assert stage.find("b") is None


def _first_figures(dom: Any) -> postcopy.Stats:
    """Wait for the first reading with figures in it, with a bound."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        stats = postcopy.job_stats(dom)
        if stats is not None and stats.memory_total:
            return stats
    raise AssertionError("the migration did not begin")
