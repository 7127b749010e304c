from __future__ import annotations

import pytest

from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.drivers.select import choose
from libvirt_postcopy.drivers.wishes import Wishes
from libvirt_postcopy.errors import LibvirtError, UsageError
from unit.fakes import NO_ANSWER, FakeConnection, FakeDomain

LIVE = MigrateFlags.VIR_MIGRATE_LIVE | MigrateFlags.VIR_MIGRATE_POSTCOPY


class Typed(FakeConnection):
    kind = "QEMU"

    def getType(self) -> str:
        return self.kind


def _domain(
    libvirt: int = 9_000_000, qemu: int = 7_002_022, kind: str = "QEMU"
) -> FakeDomain:
    connection = Typed(version=qemu)
    connection.libvirt_version = libvirt
    connection.kind = kind
    return FakeDomain(connection)


@pytest.mark.parametrize(
    ("dom", "wishes", "driver", "words"),
    [
        (_domain(), Wishes(), "native", "libvirt can do all"),
        (_domain(libvirt=1_003_002), Wishes(), "qemu", "1.3.2 has no post-copy"),
        (_domain(libvirt=1_003_003), Wishes(), "native", "all"),
        (_domain(qemu=2_005_001), Wishes(), "qemu", "QEMU 2.5.1 has for"),
        (_domain(qemu=2_006_000), Wishes(), "native", "all"),
        (_domain(qemu=2, kind="TEST"), Wishes(), "native", "all"),
        (_domain(), Wishes(preempt=True), "qemu", "9.0.0 does not know postcopy-preempt"),
        (_domain(libvirt=10_000_000), Wishes(preempt=True), "native", "all"),
        (_domain(), Wishes(blocktime=True), "native", "all"),
        (_domain(), Wishes(release_ram=True), "qemu", "does not know release-ram"),
        (_domain(), Wishes(downtime_limit_ms=0), "qemu", "no downtime limit"),
    ],
)  # fmt: skip
def test_auto(dom: FakeDomain, wishes: Wishes, driver: str, words: str) -> None:
    choice = choose("auto", dom, LIVE, wishes)
    assert choice.driver == driver and words in choice.reason


def test_old_libvirt_can_do_precopy() -> None:
    flags = MigrateFlags.VIR_MIGRATE_LIVE
    assert choose("auto", _domain(libvirt=1_000_000), flags).driver == "native"


@pytest.mark.parametrize("driver", ["native", "qemu"])
def test_asked_for(driver: str) -> None:
    assert choose(driver, _domain(), LIVE).reason == "asked for"


def test_native_that_cannot_do_it_says_so() -> None:
    with pytest.raises(UsageError, match="release-ram.*--postcopy-driver qemu"):
        choose("native", _domain(), LIVE, Wishes(release_ram=True))


def test_unknown_driver() -> None:
    with pytest.raises(UsageError, match="no driver 'quick'.*auto, native, qemu"):
        choose("quick", _domain(), LIVE)


def test_daemon_that_does_not_answer() -> None:
    dom = _domain()
    dom.connection.error = NO_ANSWER
    with pytest.raises(LibvirtError):
        choose("auto", dom, LIVE)
