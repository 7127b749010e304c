"""What a command line of postcopy-attach and postcopy-recover gives to the call that resumes a migration."""

from __future__ import annotations

import io
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from libvirt_postcopy import journal as j
from libvirt_postcopy import takeover
from libvirt_postcopy.constants import ErrorNumber
from libvirt_postcopy.constants import MigrateFlags as F
from libvirt_postcopy.errors import LibvirtError, StateError, UsageError
from libvirt_postcopy.events import Place
from libvirt_postcopy.takeover import Left
from libvirt_postcopy.virsh import attach
from libvirt_postcopy.virsh.grammar import Globals, convert
from libvirt_postcopy.virsh.terminal import Terminal
from libvirt_postcopy.virsh.verbs import VERBS, read
from unit.fakes import (
    MIGRATED,
    SHUT_OFF,
    SPLIT_HERE,
    SPLIT_THERE,
    UUID,
    FakeConnection,
    FakeDomain,
)

FLAGS = F.VIR_MIGRATE_LIVE | F.VIR_MIGRATE_POSTCOPY | F.VIR_MIGRATE_TLS


class Signals:
    def catch(self) -> None: ...


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What was given to the library."""
    seen: list[dict[str, Any]] = []

    def take(dom: object, dest: object, **given: Any) -> None:
        seen.append(given)
        raise StateError("enough")

    dom = FakeDomain(state=SPLIT_HERE)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(attach, "connect", lambda options, **more: dom.connect())
    monkeypatch.setattr(attach, "find_domain", lambda connection, name: dom)
    monkeypatch.setattr(takeover, "attach", take)
    return seen


def typed(line: str, verb: str = "postcopy-attach") -> str:
    words, said = [verb, *shlex.split(line)], io.StringIO()
    given = convert(VERBS[verb].options, read(VERBS[verb], words))
    terminal = Terminal(io.StringIO(), said)
    attach.run(given, Globals(), terminal, Signals())  # type: ignore[arg-type]
    return said.getvalue()


def given(attached: list[dict[str, Any]], line: str) -> dict[str, Any]:
    with pytest.raises(Exception, match="enough"):
        typed(line)
    (call,) = attached
    return {
        name: call[name] for name in ("flags", "params", "peer2peer") if name in call
    }


def test_what_is_not_named_is_the_journals_to_tell(attached: list[dict[str, Any]]) -> None:  # fmt: skip
    assert given(attached, "web1 qemu+tls://b/system") == {}


def test_options_of_the_call_are_given(attached: list[dict[str, Any]]) -> None:
    line = (
        "web1 qemu+tls://b/system --migrateuri tcp://192.0.2.7 --listen-address 192.0.2.7 --tls --tls-destination b"
        " --p2p --persistent --undefinesource --dname web2 --postcopy-bandwidth 9"
    )
    flags = F.VIR_MIGRATE_TLS | F.VIR_MIGRATE_PERSIST_DEST | F.VIR_MIGRATE_UNDEFINE_SOURCE  # fmt: skip
    assert given(attached, line) == {
        "flags": int(flags),
        "params": {
            "migrate_uri": "tcp://192.0.2.7",
            "listen_address": "192.0.2.7",
            "tls.destination": "b",
            "destination_name": "web2",
            "bandwidth.postcopy": 9,
        },
        "peer2peer": True,
    }


def test_they_are_added_to_what_the_journal_tells(
    attached: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"migrate_uri": "tcp://old", "dname": "x"}
    facts = j.Facts("web1", UUID, "fake:///a", flags=int(FLAGS), params=told)
    left = Left(SimpleNamespace(facts=facts, pid=1))  # type: ignore[arg-type]
    monkeypatch.setattr(takeover, "left_behind", lambda dom: left)
    found = given(attached, "web1 --persistent --migrateuri tcp://new")
    assert found["flags"] == int(FLAGS | F.VIR_MIGRATE_PERSIST_DEST)
    assert found["params"] == {"migrate_uri": "tcp://new", "dname": "x"}
    assert "peer2peer" not in found


@pytest.mark.parametrize("verb", ["postcopy-attach", "postcopy-recover"])
def test_a_second_word_is_the_destination_and_no_other(verb: str) -> None:
    with pytest.raises(UsageError):
        read(VERBS[verb], [verb, "web1", "b:///", "tcp://192.0.2.7"])


def test_name_for_certificates_needs_tls(attached: list[dict[str, Any]]) -> None:
    with pytest.raises(UsageError, match="--tls is required"):
        typed("web1 --tls-destination b")
    assert attached == []


def words_for(
    monkeypatch: pytest.MonkeyPatch, facts: j.Facts | None = None, **given: str
) -> attach._Texts:
    """The words for a migration of which the journal knows this."""
    entry = None if facts is None else SimpleNamespace(facts=facts)
    left = Left(entry)  # type: ignore[arg-type]
    monkeypatch.setattr(takeover, "left_behind", lambda dom: left)
    return attach._texts({"domain": "web1", **given}, FakeDomain())


@pytest.mark.parametrize("is_peer2peer", [True, False])
def test_destination_is_the_one_that_is_named_or_the_journals(
    monkeypatch: pytest.MonkeyPatch, is_peer2peer: bool
) -> None:
    facts = j.Facts(
        "web1", UUID, "fake:///a", destination="c:///", is_peer2peer=is_peer2peer
    )
    named = words_for(monkeypatch, facts, desturi="b:///")
    assert named.destination == named.plan.destination == "b:///"
    assert not named.plan.is_peer2peer
    known = words_for(monkeypatch, facts)
    assert known.destination == known.plan.destination == "c:///"
    assert known.plan.is_peer2peer is is_peer2peer
    for nothing in (None, replace(facts, destination=None)):
        words = words_for(monkeypatch, nothing)
        assert words.destination is None and words.plan.destination == "DESTURI"


@pytest.mark.parametrize(
    "place, guest, text",
    [
        (Place.SOURCE, "unknown", "the guest is on the source until the switch"),
        (Place.SPLIT, "split", "destroy, resume and reset neither half"),
        (Place.UNKNOWN, "unknown", "it cannot be told where the guest 'web1' is"),
    ],
)
def test_who_leaves_is_told_where_the_guest_was_then(
    monkeypatch: pytest.MonkeyPatch, place: Place, guest: str, text: str
) -> None:
    left = words_for(monkeypatch, desturi="b:///").left(place)
    assert left.guest == guest and text in str(left)


@pytest.fixture
def driver() -> str:
    return "native"


@pytest.fixture
def there(
    attached: list[dict[str, Any]], driver: str, monkeypatch: pytest.MonkeyPatch
) -> FakeConnection:
    """A destination, by a journal of a client that is gone, of a domain that its source does not have any more."""
    destination = FakeConnection("fake:///b")

    def no_domain(connection: object, name: str) -> None:
        error = LibvirtError(f"no domain '{name}'", side="source")
        error.code = ErrorNumber.VIR_ERR_NO_DOMAIN
        raise error

    facts = j.Facts("web1", UUID, "fake:///a", destination="fake:///b", driver=driver)
    monkeypatch.setattr(attach, "find_domain", no_domain)
    older = j.Facts("web1", UUID, "fake:///a", destination="fake:///c")
    left = [SimpleNamespace(facts=each, end=None) for each in (facts, older)]
    monkeypatch.setattr(attach, "entries", lambda: left)
    monkeypatch.setattr(
        attach.calls, "open_connection", lambda uri, side, open_: destination
    )
    return destination


def test_guest_that_has_arrived_meanwhile_is_all_that_was_wanted(
    there: FakeConnection,
) -> None:
    there.domains.append(FakeDomain(there, state=MIGRATED))
    assert typed("web1") == "'web1' has arrived on fake:///b\n"
    assert there.is_closed


def test_guest_that_arrives_while_it_is_attached_to_is_all_that_was_wanted(
    there: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    there.domains.append(FakeDomain(there, state=MIGRATED))
    gone = attach.find_domain
    monkeypatch.setattr(attach, "find_domain", lambda connection, name: FakeDomain())
    monkeypatch.setattr(
        attach.takeover, "attach", lambda dom, dest, **options: gone(dom, "web1")
    )
    assert typed("web1") == "'web1' has arrived on fake:///b\n"


@pytest.mark.parametrize("is_there", [True, False])
def test_guest_that_has_left_its_definition_has_arrived_too(
    there: FakeConnection, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    def attach_to(*args: object, **options: object) -> None:
        raise StateError("nothing to attach to: domain 'web1' does not run")

    there.domains += [FakeDomain(there, state=MIGRATED)] if is_there else []
    here = FakeDomain(state=SHUT_OFF)
    monkeypatch.setattr(attach, "find_domain", lambda connection, name: here)
    monkeypatch.setattr(attach.takeover, "attach", attach_to)
    if is_there:
        assert typed("web1") == "'web1' has arrived on fake:///b\n"
        return
    with pytest.raises(StateError, match="does not run"):
        typed("web1")


def test_guest_that_came_back_is_not_looked_for_elsewhere(
    there: FakeConnection,
) -> None:
    """The migration was undone, and the domain has gone from here since."""
    there.domains.append(FakeDomain(there, state=MIGRATED))
    attach.entries()[0].end = Place.SOURCE
    with pytest.raises(LibvirtError) as caught:
        typed("web1")
    assert caught.value.cure.startswith("attach on the source; if it was migrating")


@pytest.mark.parametrize(
    ("state", "driver"),
    [
        (None, "native"),
        (SPLIT_THERE, "native"),
        (SHUT_OFF, "native"),
        (MIGRATED, "qemu"),  # libvirt would not know of missing pages
    ],
)
def test_what_has_not_arrived_is_looked_for_by_its_operator(
    there: FakeConnection, state: tuple[int, int] | None
) -> None:
    if state is not None:
        there.domains.append(FakeDomain(there, state=state))
    with pytest.raises(LibvirtError) as caught:
        typed("web1")
    assert "went to fake:///b; look there: virsh -c" in caught.value.cure
