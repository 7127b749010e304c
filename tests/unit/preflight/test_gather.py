"""From what libvirt answers, or does not, to facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import libvirt
import pytest

import libvirt_postcopy.vir.calls as vir
from libvirt_postcopy.errors import LibvirtError
from libvirt_postcopy.events import Half
from libvirt_postcopy.incoming import incoming_xml
from libvirt_postcopy.preflight import gather as module
from libvirt_postcopy.preflight import here
from libvirt_postcopy.preflight.facts import Facts, Host, Link, Memory, Unknown
from libvirt_postcopy.preflight.gather import Gathering, gather
from unit.fakes import (
    NO_ANSWER,
    OTHER_UUID,
    RUNNING,
    SHUT_OFF,
    SPLIT_HERE,
    SPLIT_THERE,
    UUID,
    refused,
)
from unit.preflight.daemon import GUEST_XML, Daemon, Guest

A, B = "qemu+tls://a/system", "qemu+tls://b/system"


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch, monitor: None) -> dict[str, Daemon]:
    """Two daemons by their URI; the second is what ``libvirt.open`` opens."""
    made = {A: Daemon(A, "aaaa"), B: Daemon(B, "bbbb")}

    def connect(uri: str) -> Daemon:
        if uri not in made:
            raise refused(38, f"Unable to resolve address '{uri}'", domain=7)
        return made[uri]

    monkeypatch.setattr(libvirt, "open", connect)
    monkeypatch.setattr(vir, "require_answer", lambda *args: None)
    return made


@pytest.fixture
def guest(hosts: dict[str, Daemon]) -> Guest:
    return Guest(hosts[A])


def facts_of(guest: Guest, dest: Any = B, **options: Any) -> Facts:
    return gather(Gathering(guest.connection, guest, dest, **options))


def unknowns(value: Any) -> Iterator[str]:
    for each in fields(value):
        if isinstance(getattr(value, each.name), Unknown):
            yield each.name


# A good pair


def test_destination_is_opened_as_asked(guest: Guest) -> None:
    there = Daemon("", "cccc")
    opened: list[str | None] = []
    facts = facts_of(guest, connect=lambda uri: opened.append(uri) or there)
    assert opened == [B] and facts.destination is not None
    assert facts.destination.uuid == "cccc" and there.is_closed


def test_good_pair(guest: Guest) -> None:
    facts = facts_of(guest, with_probe=True)
    assert facts.destination is not None and facts.domain is not None
    assert facts.source.uuid == "aaaa" and facts.destination.uuid == "bbbb"
    assert (facts.source.libvirt, facts.destination.libvirt) == (11_003_000,) * 2
    assert facts.domain.name == "web1" and facts.guest.machine == "pc-i440fx-7.2"
    assert facts.there == facts.guest
    assert facts.memory == Memory(8000, 1320)
    assert (facts.emulation, facts.cpu_refusal, facts.domains) == ("", "", ())
    assert facts.domain.capabilities == {"postcopy-ram"}
    assert facts.connection_refusal == ""
    # What only the hosts themselves could tell, and nothing else.
    assert set(unknowns(facts)) == {"userfaultfd", "link", "tls_files"}
    assert set(unknowns(facts.domain)) == {"disk_places"}
    assert set(unknowns(facts.destination)) == set()


def test_running_qemu_counts_not_the_one_that_is_installed(guest: Guest) -> None:
    facts = facts_of(guest)
    assert facts.source.qemu == 7_002_022
    assert facts.destination is not None and facts.destination.qemu == 10_001_000


def test_qemu_of_the_probe_counts_there(guest: Guest) -> None:
    facts = facts_of(guest, with_probe=True)
    assert facts.destination is not None and facts.destination.qemu == 7_002_022


def test_connections_of_our_own_are_closed(
    guest: Guest, hosts: dict[str, Daemon]
) -> None:
    facts_of(guest)
    assert hosts[B].is_closed and not hosts[A].is_closed


def test_connection_that_was_given_is_left_open(
    guest: Guest, hosts: dict[str, Daemon]
) -> None:
    facts = facts_of(guest, hosts[B])
    assert not hosts[B].is_closed and hosts[B].keepalive is None
    assert facts.destination is not None
    assert isinstance(facts.destination.has_keepalive, Unknown)
    assert facts.destination.uuid == "bbbb"


def test_flags_of_our_own_are_no_flags_of_libvirt(guest: Guest) -> None:
    facts = facts_of(guest, flags=1 << 30 | 1 << 15)
    assert facts.request.flags == 1 << 15


def test_no_probe_unless_it_is_asked_for(
    guest: Guest, hosts: dict[str, Daemon]
) -> None:
    facts = facts_of(guest)
    assert hosts[B].created == []
    assert isinstance(facts.probe, Unknown) and "--probe" in facts.probe.why


def test_each_probe_has_a_name_of_its_own(
    guest: Guest, hosts: dict[str, Daemon]
) -> None:
    for _ in range(2):
        facts_of(guest, with_probe=True)
    (one, _), (other, _) = hosts[B].created
    assert "libvirt-postcopy-probe-" in one and one != other
    assert UUID not in one and ">web1<" not in one
    assert hosts[B].domains == []


# What cannot be asked


def test_destination_that_is_away_is_not_waited_for(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_away(uri: str, side: str) -> None:
        assert (uri, side) == (B, "destination")
        raise LibvirtError("it does not answer", side=side)

    def connect(uri: str) -> Daemon:
        raise AssertionError("libvirt would try for minutes")

    monkeypatch.setattr(vir, "require_answer", is_away)
    monkeypatch.setattr(libvirt, "open", connect)
    assert facts_of(guest).connection_refusal == "it does not answer"


def test_destination_that_cannot_be_reached(guest: Guest) -> None:
    facts = facts_of(guest, "qemu+tls://nowhere/system", with_probe=True)
    assert "nowhere" in facts.connection_refusal
    assert facts.destination is not None
    assert set(unknowns(facts.destination)) == {each.name for each in fields(Host)} - {
        "uri",
        "is_here",
    }
    assert facts.there == facts.guest
    assert isinstance(facts.probe, Unknown)


@pytest.mark.parametrize("name", ["a", "b"])
def test_daemon_that_answers_nothing_raises_nothing(
    guest: Guest, hosts: dict[str, Daemon], name: str
) -> None:
    daemon = hosts[f"qemu+tls://{name}/system"]
    daemon.error = NO_ANSWER
    for each in ("isActive", "XMLDesc", "monitor", "jobStats", "state"):
        guest.errors[each] = NO_ANSWER
    facts = facts_of(guest, hosts[B], with_probe=True)
    host = facts.source if name == "a" else facts.destination
    assert host is not None
    assert {"uuid", "libvirt", "hostname", "cpu"} <= set(unknowns(host))
    assert facts.domain is not None
    assert isinstance(facts.domain.guest, Unknown)
    assert "closed" in facts.domain.guest.why


def test_answers_that_make_no_sense_raise_nothing(
    guest: Guest, hosts: dict[str, Daemon]
) -> None:
    guest.answers = {
        "query-version": {"qemu": {"major": 8, "minor": 0, "micro": 0}},
        "query-migrate-capabilities": [{"name": "x"}],
        "query-migrate": [],
    }
    guest.xml = "<network/>"
    hosts[B].errors["getMemoryStats"] = refused(3, "no such function")
    hosts[B].errors["getInfo"] = TypeError("what?")
    facts = facts_of(guest)
    assert facts.domain is not None
    assert {"guest", "capabilities", "blockers"} <= set(unknowns(facts.domain))
    assert {"there", "memory", "emulation"} <= set(unknowns(facts))


def test_host_without_a_uuid(guest: Guest, hosts: dict[str, Daemon]) -> None:
    hosts[B].host_uuid = None
    facts = facts_of(guest)
    assert facts.destination is not None
    assert isinstance(facts.destination.uuid, Unknown)
    assert "no UUID" in facts.destination.uuid.why


def test_rights_that_are_missing_are_said(guest: Guest) -> None:
    guest.errors["monitor"] = refused(29, "read only access prevents monitor")
    facts = facts_of(guest)
    assert facts.domain is not None
    assert isinstance(facts.domain.capabilities, Unknown)
    assert "read only" in facts.domain.capabilities.why
    assert facts.source.qemu == 10_001_000, "the installed one is all that is known"


def test_probe_that_fails_says_why(guest: Guest, hosts: dict[str, Daemon]) -> None:
    hosts[B].errors["createXML"] = refused(29, "read only access prevents createXML")
    facts = facts_of(guest, with_probe=True)
    assert isinstance(facts.probe, Unknown)
    assert "the probe failed" in facts.probe.why and "read only" in facts.probe.why


# The domain's state


def test_domain_that_does_not_run_is_asked_no_more(guest: Guest) -> None:
    guest.now = SHUT_OFF
    facts = facts_of(guest)
    assert facts.domain is not None and facts.domain.is_running is False
    assert isinstance(facts.domain.has_job, Unknown) and facts.domain.has_job.is_moot
    assert facts.guest.name == "web1"
    assert guest.commands == []


@pytest.mark.parametrize("state", [SPLIT_HERE, SPLIT_THERE, (3, 2), (3, 11)])
def test_half_of_a_guest_is_asked_neither_xml_nor_monitor(
    guest: Guest, state: tuple[int, int]
) -> None:
    """On an incoming domain both wait for a job that may never end."""
    guest.now = state
    guest.errors["XMLDesc"] = AssertionError("was asked")
    facts = facts_of(guest)
    assert guest.commands == []
    assert facts.domain is not None and facts.domain.is_in_migration
    assert isinstance(facts.domain.guest, Unknown)
    assert "part of a migration" in facts.domain.guest.why


def test_old_qemu_does_not_say_what_blocks_it(guest: Guest) -> None:
    guest.answers["query-version"] = {"qemu": {"major": 5, "minor": 2, "micro": 0}}
    facts = facts_of(guest)
    assert facts.domain is not None and isinstance(facts.domain.blockers, Unknown)
    guest.answers["query-version"] = {"qemu": {"major": 6, "minor": 0, "micro": 0}}
    facts = facts_of(guest)
    assert facts.domain is not None and facts.domain.blockers == ()


# The destination


def test_destinations_xml_counts_there(guest: Guest, hosts: dict[str, Daemon]) -> None:
    xml = GUEST_XML.replace("pc-i440fx-7.2", "pc-i440fx-5.2")
    facts = facts_of(guest, params={"destination_xml": xml})
    assert facts.guest.machine == "pc-i440fx-7.2"
    assert isinstance(facts.there, module.Guest)
    assert facts.there.machine == "pc-i440fx-5.2"
    assert hosts[B].asked[0][2] == "pc-i440fx-5.2"


def test_destinations_xml_that_is_none(guest: Guest) -> None:
    facts = facts_of(guest, params={"destination_xml": "web1.xml"})
    assert isinstance(facts.there, Unknown) and "not the XML" in facts.there.why


def test_domains_there_that_have_the_name_or_the_uuid(
    guest: Guest, hosts: dict[str, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    half = Guest(hosts[B], UUID, SPLIT_THERE)
    half.name = lambda: "renamed"  # type: ignore[method-assign]
    Guest(hosts[B], OTHER_UUID)
    stranger = Guest(hosts[B], "33333333-0000-4000-8000-000000000001")
    stranger.name = lambda: "db1"  # type: ignore[method-assign]
    everything = hosts[B].listAllDomains
    monkeypatch.setattr(
        hosts[B], "listAllDomains", lambda flags=0: [half] if flags == 1 else everything()
    )  # fmt: skip
    facts = facts_of(guest)
    assert not isinstance(facts.domains, Unknown)
    assert [(d.name, d.uuid, d.is_active, d.half) for d in facts.domains] == [
        ("renamed", UUID, True, Half.SPLIT),
        ("web1", OTHER_UUID, False, Half.WHOLE),
    ]


def test_huge_pages_are_asked_for_only_if_the_guest_has_some(
    guest: Guest, hosts: dict[str, Daemon]
) -> None:
    hosts[B].errors["getInfo"] = AssertionError("was asked")
    assert facts_of(guest).free_pages == {}
    del hosts[B].errors["getInfo"]
    guest.xml = GUEST_XML.replace("<os>", "<memoryBacking><hugepages><page size='2048'/></hugepages></memoryBacking><os>")  # fmt: skip
    hosts[B].pages = {0: {2048: 5}}
    assert facts_of(guest).free_pages == {2048: 5}


# Keepalive


def test_keepalive_of_our_own_connections(
    guest: Guest, hosts: dict[str, Daemon]
) -> None:
    facts = facts_of(guest, owns_source=True)
    assert facts.destination is not None
    assert facts.source.has_keepalive is facts.destination.has_keepalive is True


def test_daemon_without_keepalive(guest: Guest, hosts: dict[str, Daemon], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(hosts[B], "setKeepAlive", lambda interval, count: 1)
    facts = facts_of(guest)
    assert facts.destination is not None and facts.destination.has_keepalive is False


def test_local_daemon_needs_none(guest: Guest, hosts: dict[str, Daemon]) -> None:
    hosts[A].uri = "qemu:///system"
    assert facts_of(guest).source.has_keepalive is True


# The way, from the source itself


@pytest.fixture
def on_the_source(
    hosts: dict[str, Daemon], monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, int]]:
    """This program runs on the source; what it tries to connect to."""
    tried: list[tuple[str, int]] = []

    def refusal(name: str, port: int) -> str:
        tried.append((name, port))
        return "silence"

    monkeypatch.setattr(here, "is_here", lambda uri, name: uri == A)
    monkeypatch.setattr(here, "is_resolved", lambda name: name != "b.unheard")
    monkeypatch.setattr(here, "connection_refusal", refusal)
    monkeypatch.setattr(here, "disk_places", lambda disks: ())
    monkeypatch.setattr(here, "tls_files", lambda: "files")
    return tried


@pytest.mark.parametrize(
    "uri, expected",
    [
        ("", ("b.example", 49152)),
        ("tcp://192.0.2.7", ("192.0.2.7", 49152)),
        ("tcp:192.0.2.7:50000", ("192.0.2.7", 50000)),
        ("tcp://[2001:db8::7]:50000", ("2001:db8::7", 50000)),
        ("rdma://192.0.2.7", ("192.0.2.7", 49152)),
        ("tcp://b:port", ("b.example", 49152)),
    ],
)
def test_port_that_is_tried(guest: Guest, on_the_source: list[tuple[str, int]], uri: str, expected: tuple[str, int]) -> None:  # fmt: skip
    params = {"migrate_uri": uri} if uri else {}
    facts = facts_of(guest, params=params, with_probe=True)
    assert facts.link == Link(expected[0], True, expected[1], "silence")
    assert on_the_source == [expected]
    assert facts.tls_files == "files"
    assert facts.domain is not None and facts.domain.disk_places == ()


def test_name_that_cannot_be_resolved_is_not_tried(
    guest: Guest, on_the_source: list[tuple[str, int]]
) -> None:
    facts = facts_of(guest, params={"migrate_uri": "tcp://b.unheard"}, with_probe=True)
    assert isinstance(facts.link, Link) and facts.link.is_resolved is False
    assert on_the_source == []


def test_without_a_probe_no_port_is_touched(
    guest: Guest, on_the_source: list[tuple[str, int]]
) -> None:
    """Somebody may wait there for the rest of a guest, and would die of it."""
    link = facts_of(guest).link
    assert on_the_source == []
    assert isinstance(link, Link) and link.is_resolved is True
    assert isinstance(link.refusal, Unknown) and "--probe" in link.refusal.why


@pytest.mark.parametrize(
    "state", [SPLIT_THERE, (1, 10), (3, 2), (3, 11), None],
    ids=["post-copy", "failed", "migrating", "starting", "no answer"],
)  # fmt: skip
def test_no_port_is_touched_where_a_guest_may_be_taken_in(
    guest: Guest,
    hosts: dict[str, Daemon],
    on_the_source: list[tuple[str, int]],
    state: tuple[int, int] | None,
) -> None:
    other = Guest(hosts[B], OTHER_UUID, state or RUNNING)
    if state is None:
        other.errors["state"] = NO_ANSWER
    link = facts_of(guest, with_probe=True).link
    assert on_the_source == []
    assert isinstance(link, Link) and isinstance(link.refusal, Unknown)
    assert "taking in web1" in link.refusal.why


def test_no_port_is_touched_where_a_qemu_was_started_to_take_a_guest_in(
    guest: Guest, hosts: dict[str, Daemon], on_the_source: list[tuple[str, int]]
) -> None:
    """To libvirt it is an ordinary domain."""
    other = Guest(hosts[B], OTHER_UUID)
    other.xml = incoming_xml(GUEST_XML)
    link = facts_of(guest, with_probe=True).link
    assert on_the_source == []
    assert isinstance(link, Link) and isinstance(link.refusal, Unknown)


def test_no_port_is_touched_where_the_destination_cannot_be_asked(
    guest: Guest,
    hosts: dict[str, Daemon],
    on_the_source: list[tuple[str, int]],
) -> None:
    Guest(hosts[B], OTHER_UUID).errors["XMLDesc"] = NO_ANSWER
    link = facts_of(guest, with_probe=True).link
    assert on_the_source == []
    assert isinstance(link, Link) and isinstance(link.refusal, Unknown)


def test_port_is_tried_beside_guests_that_just_run(
    guest: Guest, hosts: dict[str, Daemon], on_the_source: list[tuple[str, int]]
) -> None:
    Guest(hosts[B], OTHER_UUID)
    facts_of(guest, with_probe=True)
    assert on_the_source == [("b.example", 49152)]


def test_no_network_is_no_way(
    guest: Guest, on_the_source: list[tuple[str, int]]
) -> None:
    facts = facts_of(guest, params={"migrate_uri": "unix:/run/m.sock"}, with_probe=True)
    assert isinstance(facts.link, Unknown) and facts.link.is_moot
    assert on_the_source == []


def test_destination_that_does_not_tell_its_name(
    guest: Guest, hosts: dict[str, Daemon], on_the_source: list[tuple[str, int]]
) -> None:
    hosts[B].errors["getHostname"] = NO_ANSWER
    assert isinstance(facts_of(guest).link, Unknown)


def test_kernel_of_the_destination_is_asked_where_this_runs_there(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(here, "is_here", lambda uri, name: uri == B)
    monkeypatch.setattr(here, "userfaultfd", lambda: False)
    facts = facts_of(guest)
    assert facts.userfaultfd is False and isinstance(facts.link, Unknown)


# Without a domain, without a destination


def test_hosts_alone(hosts: dict[str, Daemon]) -> None:
    facts = gather(Gathering(hosts[A], None, B, with_probe=True))
    assert facts.domain is None
    assert isinstance(facts.there, Unknown) and facts.there.is_moot
    assert isinstance(facts.domains, Unknown) and facts.domains.is_moot
    assert facts.memory == Memory(8000, 1320)
    assert not isinstance(facts.probe, Unknown)


def test_source_alone(hosts: dict[str, Daemon]) -> None:
    facts = gather(Gathering(hosts[A]))
    assert facts.destination is None and facts.source.uuid == "aaaa"
    assert isinstance(facts.probe, Unknown) and facts.probe.is_moot
