"""What is refused, and how both QEMUs are set up."""

from __future__ import annotations

from typing import Any

import pytest

from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.drivers.wishes import Wishes
from libvirt_postcopy.errors import (
    NotSupportedError,
    PostcopyError,
    StateError,
    UsageError,
)
from unit.drivers.plays import (
    LIVE,
    Play,
    closed,
    hosts,
    impatient,
    moved,
    pair,
    refuses,
    sent,
    switched,
)
from unit.drivers.qemus import Hosts, Machine, Pair, ok, refuse

__all__ = ["closed", "hosts", "impatient", "pair"]  # fixtures

pytestmark = pytest.mark.usefixtures("monitor")


def test_destination_waits_and_listens_at_one_address(pair: Pair, hosts: Hosts) -> None:
    moved(pair, hosts)
    assert "-incoming" in hosts.destination.created[0]
    there = pair.models["dst"].machine
    uri = next(c["arguments"]["uri"] for c in there.sent if c["execute"] == "migrate-incoming")  # fmt: skip
    assert uri == "tcp:192.0.2.2:49184,to=49215"
    sent = next(c["arguments"] for c in hosts.dom.sent if c["execute"] == "migrate")
    assert sent == {"uri": "tcp:192.0.2.2:49184"}


def test_what_another_migration_has_left_on_is_switched_off(
    pair: Pair, hosts: Hosts
) -> None:
    pair.models["src"].capabilities["multifd"] = True
    pair.models["src"].parameters["max-postcopy-bandwidth"] = 5
    moved(pair, hosts)
    assert switched(hosts.dom)["multifd"] is False
    assert pair.models["src"].parameters["max-postcopy-bandwidth"] == 0


def test_capability_that_is_accepted_and_dropped(pair: Pair, hosts: Hosts) -> None:
    pair.dropped.add("postcopy-ram")
    refuses(hosts, NotSupportedError, "accepted postcopy-ram and then dropped it")


def test_capability_that_is_refused(pair: Pair, hosts: Hosts) -> None:
    pair.replies["dst", "migrate-set-capabilities"] = refuse(
        "Postcopy is not supported"
    )
    refuses(hosts, NotSupportedError, "Postcopy is not supported.*userfaultfd")


def test_capability_that_one_of_them_does_not_have(pair: Pair, hosts: Hosts) -> None:
    del pair.models["src"].capabilities["postcopy-preempt"]
    refuses(
        hosts,
        NotSupportedError,
        "no postcopy-preempt.*7.1",
        wishes=Wishes(preempt=True),
    )


def test_source_is_as_it_was_after_a_refusal(pair: Pair, hosts: Hosts) -> None:
    before = dict(pair.models["src"].capabilities), dict(pair.models["src"].parameters)
    pair.replies["src", "object-add"] = refuse("Unable to access credentials")
    pair.replies["dst", "object-add"] = ok()
    flags = LIVE | MigrateFlags.VIR_MIGRATE_TLS
    refuses(hosts, NotSupportedError, "no TLS certificates", flags=flags)
    assert (pair.models["src"].capabilities, pair.models["src"].parameters) == before


def test_address_that_cannot_be_listened_at(pair: Pair, hosts: Hosts) -> None:
    pair.replies["dst", "migrate-incoming"] = refuse("Failed to bind socket: in use")
    refuses(hosts, PostcopyError, "cannot listen at 192.0.2.2: Failed to bind")


def test_qemu_that_migrates_already(pair: Pair, hosts: Hosts) -> None:
    pair.models["src"].status = "active"
    refuses(hosts, StateError, "migrating it already: active")
    assert hosts.destination.created == []


@pytest.mark.parametrize("status", ["cancelling", "failing"])
def test_qemu_that_still_ends_the_one_before(
    pair: Pair, hosts: Hosts, status: str
) -> None:
    """It may still connect, and to the port at which the next destination would listen."""
    pair.models["src"].status = status
    refuses(hosts, StateError, f"the migration before yet: {status}")
    assert hosts.destination.created == []


def test_shell_of_a_guest_that_is_elsewhere(pair: Pair, hosts: Hosts) -> None:
    """What a migration has left behind must not be started by another one."""
    pair.models["src"].status, pair.models["src"].run_state = "completed", "postmigrate"
    refuses(hosts, StateError, "does not hold the guest.*postmigrate")


def test_same_host(pair: Pair, hosts: Hosts) -> None:
    hosts.destination.host_uuid = "aaaa"
    refuses(hosts, UsageError, "are the same host")


def test_domain_that_is_there_already_is_left_alone(pair: Pair, hosts: Hosts) -> None:
    other = Machine(hosts.destination, (1, 1))
    play = Play(hosts).begin()
    play.ended()
    assert "has a domain 'web1' already" in str(play.driver.error)
    assert other.calls == [] and hosts.destination.created == []


def test_both_ends_encrypt(pair: Pair, hosts: Hosts) -> None:
    moved(pair, hosts, LIVE | MigrateFlags.VIR_MIGRATE_TLS)
    there = pair.models["dst"].machine
    set_there, set_here = (
        {name: it for given in sent(each, "migrate-set-parameters") for name, it in given.items() if it}
        for each in (there, hosts.dom)
    )  # fmt: skip
    assert set_there == {"tls-creds": "libvirt-postcopy-tls"}
    assert set_here["tls-creds"] == "libvirt-postcopy-tls"
    assert set_here["tls-hostname"] == "192.0.2.2"
    ends = [sent(each, "object-add")[0]["endpoint"] for each in (hosts.dom, there)]
    assert ends == ["client", "server"]


def test_certificate_needs_a_name(pair: Pair, hosts: Hosts) -> None:
    flags = LIVE | MigrateFlags.VIR_MIGRATE_TLS
    unix = {"migrate_uri": "unix:///run/m.sock"}
    refuses(hosts, UsageError, "tls.destination", flags=flags, **unix)
    moved(pair, hosts, flags, **unix, **{"tls.destination": "b"})
    assert pair.models["src"].parameters["tls-hostname"] == "b"


def test_release_ram_is_refused_where_it_crashes_qemu(pair: Pair, hosts: Hosts) -> None:
    pair.version = (2, 12, 1)
    wishes = Wishes(release_ram=True)
    refuses(hosts, NotSupportedError, "2.12.1 crashes", wishes=wishes)
    assert hosts.destination.created == []
    pair.version = (3, 0, 0)
    moved(pair, hosts, wishes=wishes)


@pytest.mark.parametrize(
    ("flags", "params", "match"),
    [
        (MigrateFlags.VIR_MIGRATE_NON_SHARED_DISK, {}, "copies no disks"),
        (MigrateFlags.VIR_MIGRATE_PARALLEL, {}, "VIR_MIGRATE_PARALLEL"),
        (MigrateFlags.VIR_MIGRATE_CHANGE_PROTECTION, {}, "CHANGE_PROTECTION"),
        (MigrateFlags(1 << 29), {}, "0x20000000"),
        (MigrateFlags(0), {"disks_port": 1}, "disks_port"),
    ],
)
def test_what_would_be_ignored_is_refused(
    hosts: Hosts, flags: MigrateFlags, params: dict[str, Any], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        Play(hosts, LIVE | flags, **params)
