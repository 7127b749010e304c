"""The driver that speaks to QEMU itself: against a recorded QEMU, and against a pair that goes wrong when told."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from libvirt_postcopy.constants import ErrorNumber, MigrateFlags
from libvirt_postcopy.drivers import (
    ends,
    landing,
    passthrough,
    rejoin,
    switching,
    undoing,
)
from libvirt_postcopy.drivers.native import Target
from libvirt_postcopy.drivers.passthrough import QemuDriver
from libvirt_postcopy.drivers.runner import Runner
from libvirt_postcopy.drivers.wishes import Wishes
from libvirt_postcopy.errors import (
    LibvirtError,
    NotSupportedError,
    PostcopyError,
    StateError,
    UsageError,
)
from libvirt_postcopy.events import (
    AbortRefused,
    Ended,
    Event,
    Half,
    Place,
    StatsSeen,
    StatusSeen,
    SwitchAccepted,
    SwitchNotSeen,
    SwitchRefused,
    SwitchUnanswered,
)
from libvirt_postcopy.incoming import incoming_xml
from libvirt_postcopy.policy import parse
from unit.drivers.qemus import (
    PAUSED_BY_USER,
    XML,
    Daemon,
    Hosts,
    Machine,
    Pair,
    Recording,
    ok,
    refuse,
)
from unit.fakes import DST, NO_ANSWER, RUNNING, SRC, refused

pytestmark = pytest.mark.usefixtures("monitor")

PATIENCE_S = 15.0
RECORDED = Path(__file__).parent / "recorded" / "qemu-2.5.1.jsonl"
LIVE = MigrateFlags.VIR_MIGRATE_LIVE | MigrateFlags.VIR_MIGRATE_POSTCOPY
PERSIST = (
    MigrateFlags.VIR_MIGRATE_PERSIST_DEST | MigrateFlags.VIR_MIGRATE_UNDEFINE_SOURCE
)


_plays: list[Play] = []


@pytest.fixture(autouse=True)
def closed(monitor: None) -> Iterator[None]:
    """No thread of a driver is left to the next test."""
    yield
    while _plays:
        _plays.pop().driver.close()
    names = ("postcopy-start_vcpus", "postcopy-run", "postcopy-run_resume")
    for thread in threading.enumerate():
        if thread.name in names:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (undoing, landing, passthrough):
        monkeypatch.setattr(module, "_RETRY_S", 0.05)
    monkeypatch.setattr(landing, "_POLL_S", 0.05)
    monkeypatch.setattr(landing, "_RESUME_S", 0.2)
    monkeypatch.setattr(landing, "_CONFIRM_S", 0.3)
    monkeypatch.setattr(rejoin, "_PROBE_S", 0.2)
    monkeypatch.setattr(rejoin, "_PROBE_POLL_S", 0.01)
    monkeypatch.setattr(undoing, "_GO_ON_S", 0.5)
    monkeypatch.setattr(undoing, "_GO_ON_REJECTED_S", 0.2)
    monkeypatch.setattr(passthrough, "_HAND_OVER_S", 0.3)
    monkeypatch.setattr(undoing, "_REJECTED_S", 0.3)
    monkeypatch.setattr(undoing, "_ASK_S", 0.3)
    monkeypatch.setattr(switching, "_CANCEL_S", 0.3)
    monkeypatch.setattr(ends, "_ANSWER_S", 0.3)


class Play:
    """One driver, whose events are kept."""

    def __init__(
        self, hosts: Hosts, flags: MigrateFlags = LIVE, wishes: Wishes | None = None, run: str = "", **params: Any
    ) -> None:  # fmt: skip
        self.hosts = hosts
        self.driver = QemuDriver(
            hosts.dom,
            Target(uri="fake:///b"),
            {"migrate_uri": "tcp://192.0.2.2", **params},
            flags,
            hosts.open,
            wishes=wishes,
            run=run,
        )
        self.seen: list[Event] = []
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def begin(self) -> Play:
        _plays.append(self)
        self.driver.begin(self._queue.put)
        return self

    def until(self, test: Callable[[Event], bool]) -> Event:
        while True:
            event = self._queue.get(timeout=PATIENCE_S)
            self.seen.append(event)
            if test(event):
                return event

    def so_far(self) -> list[Event]:
        while not self._queue.empty():
            self.seen.append(self._queue.get())
        return self.seen

    def until_status(self, status: str) -> None:
        self.until(lambda event: event == StatusSeen(SRC, status))

    def ended(self) -> Ended:
        event = self.until(lambda event: isinstance(event, Ended))
        assert isinstance(event, Ended)
        return event


@pytest.fixture
def pair() -> Pair:
    return Pair()


@pytest.fixture
def hosts(pair: Pair) -> Hosts:
    return Hosts(pair.start("src"), pair.start("dst"))


def _begun(hosts: Hosts, *args: Any, **params: Any) -> Play:
    play = Play(hosts, *args, **params).begin()
    play.until_status("active")
    return play


def _moved(pair: Pair, hosts: Hosts, *args: Any, **params: Any) -> Play:
    play = _begun(hosts, *args, **params)
    pair.switch()
    play.until_status("postcopy-active")
    pair.complete()
    assert play.ended().error is None
    return play


def _set(machine: Machine) -> dict[str, bool]:
    """The capabilities that were switched, in one mapping."""
    given: dict[str, bool] = {}
    for command in machine.sent:
        if command["execute"] == "migrate-set-capabilities":
            for each in command["arguments"]["capabilities"]:
                given.setdefault(each["capability"], each["state"])
    return given


# QEMU 2.5.1


def test_recorded_qemu_2_5_is_moved_by_its_old_name() -> None:
    recording = Recording(RECORDED)
    hosts = Hosts(recording.player("src"), recording.player("dst"))
    source, seen = hosts.dom, []
    driver = QemuDriver(
        source,
        Target(uri="fake:///b"),
        {"migrate_uri": "tcp://192.0.2.2", "bandwidth": 32},
        LIVE,
        hosts.open,
    )
    runner = Runner(driver, parse("after:0"), seen.append)
    runner.start()
    assert runner.wait(PATIENCE_S)
    there = recording.machines["dst"]
    assert runner.migration.place is Place.DESTINATION, seen
    for machine in (source, there):
        assert _set(machine) == {"events": True, "x-postcopy-ram": True}
    assert {
        "execute": "migrate_set_speed",
        "arguments": {"value": 32 << 20},
    } in source.sent
    assert "migrate-set-parameters" not in source.commands
    assert source.commands.count("migrate-start-postcopy") == 1
    assert there.calls == [("resume",)]
    assert source.calls == [("destroy",)]
    assert runner.migration.summary().switch is not None


# The way


def test_both_ends_are_set_up_and_the_source_goes_last(
    pair: Pair, hosts: Hosts
) -> None:
    play = _moved(pair, hosts, wishes=Wishes(preempt=True, blocktime=True))
    there = pair.models["dst"].machine
    assert _set(hosts.dom) == {
        "postcopy-ram": True, "return-path": True, "postcopy-preempt": True,
    }  # fmt: skip
    assert _set(there) == {
        "postcopy-ram": True, "return-path": True, "postcopy-preempt": True,
        "postcopy-blocktime": True, "late-block-activate": True,
    }  # fmt: skip
    assert there.calls == [("resume",)] and hosts.dom.calls == [("destroy",)]
    play.driver.hand_over()
    assert play.driver.blocktime == {"postcopy-blocktime": 42}
    assert not any(pair.models["dst"].capabilities[name] for name in _set(there))


def test_destination_is_resumed_once_the_source_is_in_postcopy(
    pair: Pair, hosts: Hosts
) -> None:
    _moved(pair, hosts)
    assert pair.resumed_at in (["postcopy-active"], ["completed"])


def test_destination_that_still_loads_is_not_resumed(pair: Pair, hosts: Hosts) -> None:
    """``cont`` would undo ``-S`` there."""
    play = _begun(hosts)
    pair.say("src", "postcopy-active")
    play.until_status("postcopy-active")
    until(lambda: hosts.there.commands.count("query-status") > 3)
    assert pair.models["dst"].run_state == "inmigrate"
    assert hosts.there.calls == []
    pair.models["dst"].run_state = "paused"
    until(lambda: hosts.there.calls == [("resume",)])


def until(test: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if test():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come to that")


def test_start_that_is_refused_is_tried_again(pair: Pair, hosts: Hosts) -> None:
    """The guest runs nowhere meanwhile."""
    play = _begun(hosts)
    there = hosts.there
    there.errors["resume"] = NO_ANSWER
    pair.switch()
    until(lambda: there.calls.count(("resume",)) > 1)
    del there.errors["resume"]
    until(lambda: pair.models["dst"].run_state == "running")
    pair.complete()
    assert play.ended().error is None


def test_guest_that_its_user_has_paused_is_not_resumed(
    pair: Pair, hosts: Hosts
) -> None:
    play = _begun(hosts)
    hosts.dom.now = PAUSED_BY_USER
    hosts.dom.emit("STOP")
    pair.say("src", "postcopy-active")
    pair.models["dst"].run_state = "paused"
    pair.say("dst", "postcopy-active")
    play.until_status("postcopy-active")
    pair.complete()
    assert play.ended().error is None
    assert pair.models["dst"].machine.calls == []


def test_destination_waits_and_listens_at_one_address(pair: Pair, hosts: Hosts) -> None:
    _moved(pair, hosts)
    assert "-incoming" in hosts.destination.created[0]
    there = pair.models["dst"].machine
    uri = next(c["arguments"]["uri"] for c in there.sent if c["execute"] == "migrate-incoming")  # fmt: skip
    assert uri == "tcp:192.0.2.2:49184,to=49215"
    sent = next(c["arguments"] for c in hosts.dom.sent if c["execute"] == "migrate")
    assert sent == {"uri": "tcp:192.0.2.2:49184"}


def test_definition_goes_along_without_what_is_ours(pair: Pair, hosts: Hosts) -> None:
    hosts.dom.is_defined = True
    hosts.dom.xml = incoming_xml(hosts.dom.xml)  # it came here like this
    _moved(pair, hosts, LIVE | PERSIST)
    [defined] = hosts.destination.defined
    assert "incoming" not in defined and "web1" in defined
    assert hosts.dom.calls[:1] == [("destroy",)]


def test_what_another_migration_has_left_on_is_switched_off(
    pair: Pair, hosts: Hosts
) -> None:
    pair.models["src"].capabilities["multifd"] = True
    pair.models["src"].parameters["max-postcopy-bandwidth"] = 5
    _moved(pair, hosts)
    assert _set(hosts.dom)["multifd"] is False
    assert pair.models["src"].parameters["max-postcopy-bandwidth"] == 0


# Before the switch


def test_end_of_an_earlier_migration_is_not_taken_for_this_ones(
    pair: Pair, hosts: Hosts
) -> None:
    """QEMU tells of the last one until it has begun with the next."""
    pair.models["src"].status = "failed"
    play = Play(hosts)
    seen: list[list[Event]] = []
    read = pair.models["src"]._migrate

    def migrate(**given: Any) -> Any:
        seen.append(play.driver.read_stats())
        return read(**given)

    pair.models["src"]._migrate = migrate  # type: ignore[method-assign]
    play.begin().until_status("active")
    assert seen == [[StatsSeen(None)]]
    pair.switch()
    play.until_status("postcopy-active")
    pair.complete()
    assert play.ended().error is None


def _refused(
    hosts: Hosts, error: type[PostcopyError], match: str, **given: Any
) -> Play:
    play = Play(hosts, **given).begin()
    ended = play.ended()
    assert not ended.was_sent
    with pytest.raises(error, match=match):
        raise play.driver.error or AssertionError("no error")
    assert hosts.destination.domains == [], "something is left on the destination"
    assert "migrate" not in hosts.dom.commands
    assert hosts.dom.calls == []
    return play


def test_capability_that_is_accepted_and_dropped(pair: Pair, hosts: Hosts) -> None:
    pair.dropped.add("postcopy-ram")
    _refused(hosts, NotSupportedError, "accepted postcopy-ram and then dropped it")


def test_capability_that_is_refused(pair: Pair, hosts: Hosts) -> None:
    pair.replies["dst", "migrate-set-capabilities"] = refuse(
        "Postcopy is not supported"
    )
    _refused(hosts, NotSupportedError, "Postcopy is not supported.*userfaultfd")


def test_capability_that_one_of_them_does_not_have(pair: Pair, hosts: Hosts) -> None:
    del pair.models["src"].capabilities["postcopy-preempt"]
    _refused(
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
    _refused(hosts, NotSupportedError, "no TLS certificates", flags=flags)
    assert (pair.models["src"].capabilities, pair.models["src"].parameters) == before


def test_address_that_cannot_be_listened_at(pair: Pair, hosts: Hosts) -> None:
    pair.replies["dst", "migrate-incoming"] = refuse("Failed to bind socket: in use")
    _refused(hosts, PostcopyError, "cannot listen at 192.0.2.2: Failed to bind")


def test_qemu_that_migrates_already(pair: Pair, hosts: Hosts) -> None:
    pair.models["src"].status = "active"
    _refused(hosts, StateError, "migrating it already: active")
    assert hosts.destination.created == []


def test_shell_of_a_guest_that_is_elsewhere(pair: Pair, hosts: Hosts) -> None:
    """What a migration has left behind must not be started by another one."""
    pair.models["src"].status, pair.models["src"].run_state = "completed", "postmigrate"
    _refused(hosts, StateError, "does not hold the guest.*postmigrate")


def test_same_host(pair: Pair, hosts: Hosts) -> None:
    hosts.destination.host_uuid = "aaaa"
    _refused(hosts, UsageError, "are the same host")


def test_domain_that_is_there_already_is_left_alone(pair: Pair, hosts: Hosts) -> None:
    other = Machine(hosts.destination, (1, 1))
    play = Play(hosts).begin()
    play.ended()
    assert "has a domain 'web1' already" in str(play.driver.error)
    assert other.calls == [] and hosts.destination.created == []


def test_failure_in_precopy_goes_back(pair: Pair, hosts: Hosts) -> None:
    play = _begun(hosts)
    there = hosts.there
    pair.models["src"].run_state = "postmigrate"
    pair.say("src", "failed")
    ended = play.ended()
    assert (ended.here, ended.there) == (Half.WHOLE, Half.GONE)
    assert there.calls == [("destroy",)]
    assert "cont" in hosts.dom.commands and hosts.dom.calls == []
    assert pair.models["src"].capabilities["postcopy-ram"] is False


def test_guest_that_libvirt_saw_stop_goes_on_through_libvirt(
    pair: Pair, hosts: Hosts
) -> None:
    play = _begun(hosts)
    hosts.dom.now = (3, 0)
    pair.say("src", "failed")
    play.ended()
    assert hosts.dom.calls == [("resume",)]


def test_paused_guest_is_not_started_by_a_failure(pair: Pair, hosts: Hosts) -> None:
    hosts.dom.now = PAUSED_BY_USER
    play = _begun(hosts)
    pair.say("src", "failed")
    play.ended()
    assert hosts.dom.calls == [] and "cont" not in hosts.dom.commands


def test_destination_that_ends_in_precopy(pair: Pair, hosts: Hosts) -> None:
    play = _begun(hosts)
    hosts.destination.domains.clear()
    ended = play.ended()
    assert "its QEMU has ended" in str(ended.error)
    assert ended.here is Half.WHOLE


def test_source_that_dies_when_all_has_arrived(pair: Pair, hosts: Hosts) -> None:
    """What is on the destination is the only guest there is."""
    play = _begun(hosts)
    there = hosts.there
    pair.say("dst", "completed")
    hosts.source.domains.clear()
    pair.models["dst"].run_state = "paused"
    assert play.ended().error is None
    assert there.calls == [("resume",)]


def test_source_that_dies_while_the_destination_still_loads(
    pair: Pair, hosts: Hosts
) -> None:
    play = _begun(hosts)
    there = hosts.there
    hosts.source.domains.clear()
    until(lambda: "query-migrate" in there.commands)
    pair.models["dst"].run_state = "paused"
    pair.say("dst", "completed")
    assert play.ended().error is None
    assert there.calls == [("resume",)]


def test_old_destination_that_has_all_is_known_by_its_run_state(
    pair: Pair, hosts: Hosts
) -> None:
    """Up to QEMU 2.12 it has no word for it."""
    play = _begun(hosts)
    there = hosts.there
    pair.replies["dst", "query-migrate"] = ok({})
    hosts.source.domains.clear()
    until(lambda: "query-migrate" in there.commands)
    assert there.calls == []
    pair.models["dst"].run_state = "paused"
    assert play.ended().error is None
    assert there.calls == [("resume",)]


def test_source_that_dies_before_all_has_arrived(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "_LOAD_S", 0.2)
    play = _begun(hosts)
    there = hosts.there
    hosts.source.domains.clear()
    assert play.ended().here is Half.GONE
    assert there.calls == [("destroy",)]


@pytest.mark.parametrize("status", [None, "postcopy-active"])
def test_destination_that_may_have_all_is_not_removed(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch, status: str | None
) -> None:
    monkeypatch.setattr(landing, "_LOAD_S", 0.2)
    play = _begun(hosts)
    there = hosts.there
    if status is None:
        there.errors["monitor"] = NO_ANSWER
    else:
        pair.say("dst", status)
    hosts.source.domains.clear()
    ended = play.ended()
    assert "nothing was undone" in str(ended.error)
    assert (ended.here, ended.there) == (Half.UNKNOWN, Half.UNKNOWN)
    assert there.calls == []


def test_abort_before_anything_was_sent(pair: Pair, hosts: Hosts) -> None:
    play = Play(hosts)
    assert play.driver.abort() is None
    assert not play.begin().ended().was_sent
    assert hosts.destination.domains == [] and "migrate" not in hosts.dom.commands


def test_abort_in_precopy(pair: Pair, hosts: Hosts) -> None:
    play = _begun(hosts)
    assert play.driver.abort() is None
    play.ended()
    assert hosts.dom.commands.count("migrate_cancel") == 1
    assert hosts.destination.domains == []


# After the switch


@pytest.mark.parametrize(
    "status",
    ["postcopy-active", "postcopy-paused", "postcopy-recover", "device", "postcopy-device",
     "completed", "a-status-of-tomorrow"],
)  # fmt: skip
def test_cancel_is_never_sent_after_the_switch(
    pair: Pair, hosts: Hosts, status: str
) -> None:
    """QEMU < 10.0 accepts it, and the guest is lost.  Also where no event has told of the switch yet."""
    play = _begun(hosts)
    pair.models["src"].status = status
    assert isinstance(play.driver.abort(), AbortRefused)
    assert "migrate_cancel" not in hosts.dom.commands


def _split(pair: Pair, hosts: Hosts, *args: Any, **params: Any) -> Play:
    play = _begun(hosts, *args, **params)
    pair.switch()
    until(lambda: hosts.there.calls == [("resume",)])
    return play


def test_break_leaves_both_halves_alone(pair: Pair, hosts: Hosts) -> None:
    play = _split(pair, hosts)
    pair.say("src", "postcopy-paused")
    pair.say("dst", "postcopy-paused")
    ended = play.ended()
    assert (ended.here, ended.there) == (Half.SPLIT_FAILED, Half.UNKNOWN)
    assert hosts.there.calls == [("resume",)] and hosts.dom.calls == []
    here, there = play.driver.look(SRC), play.driver.look(DST)
    assert (here.half, here.status) == (Half.SPLIT_FAILED, "postcopy-paused")
    assert there.half is Half.SPLIT_FAILED and not here.obstacle


@pytest.mark.parametrize("status", ["postcopy-paused", "failed"])
def test_half_that_does_not_run_yet_is_not_removed(
    pair: Pair, hosts: Hosts, status: str
) -> None:
    """It may have the newest memory, though nobody has started it."""
    play = _begun(hosts)
    pair.say("src", "postcopy-active")
    play.until_status("postcopy-active")
    pair.say("src", status)
    play.ended()
    assert hosts.there.calls == [] and hosts.dom.calls == []
    assert "cont" not in hosts.dom.commands


def test_failed_after_the_switch_touches_nothing(pair: Pair, hosts: Hosts) -> None:
    play = _split(pair, hosts)
    pair.say("src", "failed")
    play.ended()
    assert hosts.there.calls == [("resume",)] and hosts.dom.calls == []
    assert "cont" not in hosts.dom.commands


def test_broken_one_gets_a_new_channel(pair: Pair, hosts: Hosts) -> None:
    play = _split(pair, hosts)
    pair.say("src", "postcopy-paused")
    play.ended()
    pair.on["src", "migrate"] = lambda: pair.say("src", "postcopy-recover")
    play.driver.resume()
    play.until_status("postcopy-recover")
    pair.say("src", "postcopy-active")
    pair.complete()
    assert play.ended().error is None
    resumes = [c["arguments"] for c in hosts.dom.sent if c["execute"] == "migrate"][1:]
    assert resumes == [{"uri": "tcp:192.0.2.2:49185", "resume": True}]
    assert hosts.dom.calls == [("destroy",)]


def test_resume_that_fails_without_a_word(pair: Pair, hosts: Hosts) -> None:
    """QEMU up to 9.0 stays postcopy-paused and announces nothing."""
    play = _split(pair, hosts)
    pair.say("src", "postcopy-paused")
    play.ended()
    play.driver.resume()
    assert "has not come back" in str(play.ended().error)
    assert hosts.dom.calls == []


def test_destination_that_waits_already_is_used_again(pair: Pair, hosts: Hosts) -> None:
    """Up to QEMU 7.0 migrate-recover can be sent once."""
    play = _split(pair, hosts)
    pair.say("src", "postcopy-paused")
    play.ended()
    for _ in range(2):
        play.driver.resume()
        play.ended()
        text = "Migrate recovery is triggered already"
        pair.replies["dst", "migrate-recover"] = refuse(text)
    resumes = [
        c["arguments"]["uri"] for c in hosts.dom.sent if c["execute"] == "migrate"
    ]
    assert resumes[1:] == ["tcp:192.0.2.2:49185"] * 2


def test_release_ram_stands_against_a_resume(pair: Pair, hosts: Hosts) -> None:
    play = _split(pair, hosts, wishes=Wishes(release_ram=True))
    pair.say("src", "postcopy-paused")
    play.ended()
    assert "release-ram" in play.driver.look(SRC).obstacle


def test_source_stays_until_the_destination_has_confirmed(
    pair: Pair, hosts: Hosts
) -> None:
    play = _split(pair, hosts)
    pair.say("src", "completed")
    play.until_status("completed")
    asked = hosts.there.commands.count("query-migrate")
    until(lambda: hosts.there.commands.count("query-migrate") > asked)
    assert hosts.dom.calls == []
    pair.say("dst", "completed")
    assert play.ended().error is None
    assert hosts.dom.calls == [("destroy",)]


def test_destination_that_does_not_answer_is_known_by_what_it_announced(
    pair: Pair, hosts: Hosts
) -> None:
    play = _split(pair, hosts)
    silent = threading.Event()
    pair.models["dst"]._query_migrate = lambda: silent.wait(PATIENCE_S) and ok()  # type: ignore[method-assign]
    pair.say("dst", "postcopy-paused")
    assert play.driver.look(DST).half is Half.SPLIT_FAILED
    silent.set()


# Not started there


def _unstarted(pair: Pair, hosts: Hosts) -> Play:
    """All has arrived, and the destination's daemon does not start it."""
    play = _begun(hosts)
    hosts.there.errors["resume"] = NO_ANSWER
    pair.switch()
    play.until_status("postcopy-active")
    pair.complete()
    return play


def test_guest_that_was_never_started_has_not_moved(pair: Pair, hosts: Hosts) -> None:
    play = _unstarted(pair, hosts)
    ended = play.ended()
    assert "its vCPUs are not started" in str(ended.error)
    assert (ended.here, ended.there) == (Half.SPLIT_FAILED, Half.UNKNOWN)
    looks = play.driver.look(SRC).half, play.driver.look(DST).half
    assert looks == (Half.SPLIT, Half.SPLIT)
    assert hosts.dom.calls == []
    # It goes on to be tried, and then it has moved.
    del hosts.there.errors["resume"]
    until(lambda: play.driver.look(DST).half is Half.WHOLE)
    assert play.driver.look(SRC).half is Half.INACTIVE
    play.driver.hand_over()
    assert hosts.dom.calls == [("destroy",)] and play.driver.notes == []


def test_hand_over_says_what_was_not_done(pair: Pair, hosts: Hosts) -> None:
    play = _unstarted(pair, hosts)
    play.ended()
    play.driver.hand_over()
    assert hosts.dom.calls == []
    [note] = play.driver.notes
    assert "vCPUs are not started" in note and "virsh resume" in note


def test_unstarted_guest_is_no_success_of_the_whole(pair: Pair, hosts: Hosts) -> None:
    seen: list[object] = []
    play = Play(hosts)
    runner = Runner(play.driver, parse("manual"), seen.append, patience_s=0.5)
    runner.start()
    until(lambda: StatusSeen(SRC, "active") in seen)
    hosts.there.errors["resume"] = NO_ANSWER
    pair.switch()
    pair.complete()
    assert runner.wait(PATIENCE_S)
    assert runner.migration.place is Place.SPLIT
    assert hosts.dom.calls == []


@pytest.mark.parametrize("is_announced", [True, False])
def test_start_whose_answer_was_lost(
    pair: Pair, hosts: Hosts, is_announced: bool
) -> None:
    """libvirt refuses another: it is running already."""
    play = _begun(hosts)
    there = hosts.there
    start = there.resume

    def lost() -> int:
        if there.now == RUNNING:
            raise refused(ErrorNumber.VIR_ERR_OPERATION_INVALID, "already running")
        start()
        raise NO_ANSWER

    there.resume = lost  # type: ignore[method-assign]
    if not is_announced:
        pair.models["dst"].has_resumed = lambda: None  # type: ignore[method-assign]
    pair.switch()
    until(lambda: there.calls == [("resume",)])
    pair.complete()
    assert play.ended().error is None
    assert hosts.dom.calls == [("destroy",)]


def test_start_comes_not_after_the_way_back(pair: Pair, hosts: Hosts) -> None:
    """Pre-copy has sent all, but the destination is never ready: the guest goes on here, and only here."""
    play = _begun(hosts)
    there = hosts.there
    pair.say("src", "completed")
    pair.models["src"].run_state = "postmigrate"
    ended = play.ended()
    assert (ended.here, ended.there) == (Half.WHOLE, Half.GONE)
    assert "cont" in hosts.dom.commands
    pair.models["dst"].run_state = "paused"
    pair.models["dst"].say("completed")
    _no_thread_is_left("postcopy-start_vcpus")
    assert there.calls == [("destroy",)]


def test_guest_goes_not_on_here_while_it_may_be_whole_there(
    pair: Pair, hosts: Hosts
) -> None:
    """Its daemon does not answer, and somebody may start it there by hand."""
    play = _begun(hosts)
    there = hosts.there
    there.errors["monitor"] = there.errors["resume"] = NO_ANSWER
    pair.complete()
    pair.models["src"].run_state = "postmigrate"
    ended = play.ended()
    assert (ended.here, ended.there) == (Half.UNKNOWN, Half.UNKNOWN)
    assert "nothing was undone" in str(ended.error)
    assert "cont" not in hosts.dom.commands and hosts.dom.calls == []
    # It goes on to be tried.
    there.errors.clear()
    pair.models["dst"].run_state = "paused"
    until(lambda: pair.models["dst"].run_state == "running")
    assert "cont" not in hosts.dom.commands


def test_guest_that_was_sent_goes_not_on_beside_what_has_it(
    pair: Pair, hosts: Hosts
) -> None:
    play = _begun(hosts)
    hosts.there.errors["destroy"] = NO_ANSWER
    pair.say("src", "completed")
    pair.models["src"].run_state = "postmigrate"
    ended = play.ended()
    assert ended.here is Half.MIGRATING
    assert play.driver.error is not None
    assert "never resume it" in play.driver.error.cure
    assert "once that domain is destroyed" in play.driver.error.what
    assert "cont" not in hosts.dom.commands and hosts.dom.calls == []


def test_what_is_left_there_is_not_to_be_resumed(pair: Pair, hosts: Hosts) -> None:
    play = _begun(hosts)
    hosts.there.errors["destroy"] = NO_ANSWER
    pair.say("src", "failed")
    assert play.ended().here is Half.WHOLE
    assert "never resume it" in str(play.driver.error)


def _no_thread_is_left(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def test_way_back_comes_not_after_the_start(pair: Pair, hosts: Hosts) -> None:
    play = _begun(hosts)
    there = hosts.there
    there.emit("RESUME")  # whoever has started it
    pair.say("src", "failed")
    ended = play.ended()
    assert (ended.here, ended.there) == (Half.SPLIT_FAILED, Half.MIGRATING)
    assert there.calls == [] and hosts.dom.calls == []
    assert "cont" not in hosts.dom.commands


def test_nothing_is_started_once_nobody_listens(pair: Pair, hosts: Hosts) -> None:
    play = _begun(hosts)
    pair.say("src", "postcopy-active")
    until(lambda: hosts.there.commands.count("query-status") > 3)
    play.driver.close()
    pair.models["dst"].run_state = "paused"
    _no_thread_is_left("postcopy-start_vcpus")
    assert hosts.there.calls == []


def test_destination_is_started_only_with_its_device_state(
    pair: Pair, hosts: Hosts
) -> None:
    """Up to QEMU 10.1 it says ``postcopy-active`` before it has that."""
    play = _begun(hosts)
    pair.say("src", "postcopy-active")
    pair.say("dst", "postcopy-active")
    play.until_status("postcopy-active")
    until(lambda: hosts.there.commands.count("query-status") > 3)
    assert hosts.there.calls == []
    pair.models["dst"].run_state = "paused"
    until(lambda: hosts.there.calls == [("resume",)])


def test_destination_that_tells_of_its_loading_is_not_asked(
    pair: Pair, hosts: Hosts
) -> None:
    play = _begun(hosts)
    asked = hosts.there.commands.count("query-status")
    pair.say("dst", "postcopy-device")
    pair.say("dst", "postcopy-active")
    pair.say("src", "postcopy-active")
    play.until_status("postcopy-active")
    until(lambda: hosts.there.calls == [("resume",)])
    assert hosts.there.commands.count("query-status") == asked


def test_no_connection_is_opened_while_the_guest_stands_still(
    pair: Pair, hosts: Hosts
) -> None:
    opened: list[str] = []
    play = Play(hosts)
    connect = hosts.open

    def counted(uri: str | None, side: str = "") -> Daemon:
        opened.append(side)
        return connect(uri, side)

    play.driver._destination.host._connect = counted
    play.begin().until_status("active")
    until(lambda: play.driver.switch() == SwitchAccepted())  # its daemon has answered
    before = len(opened)
    pair.switch()
    until(lambda: hosts.there.calls == [("resume",)])
    assert before and len(opened) == before


# Its user's pause


def test_guest_that_its_user_resumes_in_precopy_is_started(
    pair: Pair, hosts: Hosts
) -> None:
    hosts.dom.now = PAUSED_BY_USER
    play = _begun(hosts)
    hosts.dom.now = RUNNING
    hosts.dom.emit("RESUME")
    pair.switch()
    until(lambda: hosts.there.calls == [("resume",)])
    pair.complete()
    assert play.ended().error is None


def test_guest_that_its_user_resumes_in_precopy_goes_on_after_a_failure(
    pair: Pair, hosts: Hosts
) -> None:
    hosts.dom.now = PAUSED_BY_USER
    play = _begun(hosts)
    hosts.dom.now = RUNNING
    hosts.dom.emit("RESUME")
    pair.models["src"].announce("STOP", None)
    pair.say("src", "failed")
    assert play.ended().here is Half.WHOLE
    assert hosts.dom.calls == [("resume",)]


def test_source_that_does_not_answer_does_not_hold_the_switch_up(
    pair: Pair, hosts: Hosts
) -> None:
    """From QEMU 10.0 on it stops before it says that it is in post-copy."""
    play = _begun(hosts)
    answers = threading.Event()
    state = hosts.dom.state
    hosts.dom.state = lambda flags=0: answers.wait(PATIENCE_S) and state()  # type: ignore[method-assign]
    pair.models["src"].announce("STOP", None)
    pair.switch()
    until(lambda: hosts.there.calls == [("resume",)])
    assert not answers.is_set()
    answers.set()
    pair.complete()
    assert play.ended().error is None


# A device state that is rejected

TRANSCRIPTS = Path(__file__).parents[2] / "transcripts"
NOT_YET = refused(
    ErrorNumber.VIR_ERR_OPERATION_FAILED,
    "internal error: unable to execute QEMU command 'cont': Migration is not finalized yet",
)


@pytest.mark.parametrize(
    ("transcript", "can_go_on", "words"),
    [
        ("qemu-3.0/recorded-dst-load-fails", True, "goes on on the source"),
        ("qemu-6.2/recorded-dst-load-fails", False, "cannot go on from there"),
        ("qemu-7.2/device-state-rejected", False, "cannot go on from there"),
        ("qemu-10.0/device-state-rejected", False, "cannot go on from there"),
        ("qemu-11.1/device-state-rejected", True, "failed"),
    ],
)
def test_guest_that_never_ran_there_goes_on_where_qemu_lets_it(
    pair: Pair, hosts: Hosts, transcript: str, can_go_on: bool, words: str
) -> None:
    major, minor = transcript.partition("/")[0][len("qemu-") :].split(".")
    pair.version = (int(major), int(minor), 0)
    play = _begun(hosts)
    there = hosts.there
    if not can_go_on:
        hosts.dom.errors["resume"] = NOT_YET
    pair.play(TRANSCRIPTS / f"{transcript}.ndjson", hosts)
    ended = play.ended()
    assert words in str(ended.error)
    assert ended.there is Half.GONE
    assert ended.here is (Half.WHOLE if can_go_on else Half.SPLIT_FAILED)
    assert (hosts.dom.now == RUNNING) is can_go_on
    assert pair.models["src"].capabilities["postcopy-ram"] is not can_go_on
    pair.models["dst"].run_state = "paused"  # as if it had been loaded after all
    _no_thread_is_left("postcopy-start_vcpus")
    assert ("resume",) not in there.calls


def test_guest_that_may_have_run_there_is_not_started_here(
    pair: Pair, hosts: Hosts
) -> None:
    play = _split(pair, hosts)
    hosts.destination.domains.clear()
    pair.say("src", "postcopy-paused")
    ended = play.ended()
    assert (ended.here, ended.there) == (Half.SPLIT_FAILED, Half.UNKNOWN)
    assert hosts.dom.calls == [] and "cont" not in hosts.dom.commands


# Going back


def test_creation_whose_answer_was_lost_is_undone(pair: Pair, hosts: Hosts) -> None:
    hosts.destination.loses_answer = NO_ANSWER
    _refused(hosts, LibvirtError, "client socket is closed")
    assert len(hosts.destination.created) == 1


def test_what_another_run_has_created_is_left(pair: Pair, hosts: Hosts) -> None:
    def start(machine: Machine) -> Any:
        machine.xml = incoming_xml(XML, run="another")
        return pair.start("dst")(machine)

    hosts.destination.start = start
    hosts.destination.loses_answer = NO_ANSWER
    play = Play(hosts).begin()
    assert not play.ended().was_sent
    assert hosts.there.calls == []


def test_source_goes_on_before_the_destination_answers(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undoing, "_REMOVE_S", 0.2)
    play = _begun(hosts)
    answers = threading.Event()
    ran_on: list[bool] = []

    def destroy() -> int:
        ran_on.append("cont" in hosts.dom.commands)
        return int(answers.wait(PATIENCE_S))

    hosts.there.destroy = destroy  # type: ignore[method-assign]
    pair.models["src"].run_state = "postmigrate"
    pair.say("src", "failed")
    ended = play.ended()
    assert ended.here is Half.WHOLE and ran_on == [True]
    assert "still on the destination: its daemon does not answer" in str(ended.error)
    answers.set()


def test_destination_is_not_destroyed_too_late(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later run may have made another one by then."""
    monkeypatch.setattr(undoing, "_REMOVE_S", 0.2)
    play = _begun(hosts)
    there, answers = hosts.there, threading.Event()
    there.XMLDesc = lambda flags=0: answers.wait(PATIENCE_S) and there.xml  # type: ignore[method-assign]
    pair.say("src", "failed")
    assert "its daemon does not answer" in str(play.ended().error)
    answers.set()
    _no_thread_is_left("postcopy-within")
    assert there.calls == []


def test_destroy_that_is_carried_out_late_finds_nothing_that_can_be_split(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its daemon hangs with the request: the domain stays as it was, until that is taken."""
    monkeypatch.setattr(undoing, "_REMOVE_S", 0.2)
    play = _begun(hosts)
    there, answers = hosts.there, threading.Event()
    states: list[tuple[str | None, str]] = []
    destroy = there.destroy

    def late() -> int:
        assert answers.wait(PATIENCE_S)
        states.append((pair.models["src"].status, pair.models["dst"].run_state))
        return destroy()

    there.destroy = late  # type: ignore[method-assign]
    _fails(play)
    ended = play.ended()
    assert (ended.here, ended.there) == (Half.WHOLE, Half.MIGRATING)
    assert isinstance(play.driver.switch(), SwitchRefused)
    play.driver._starter.begin()
    later = Play(hosts).begin()
    assert "the destination has a domain 'web1' already" in str(later.ended().error)
    answers.set()
    _no_thread_is_left("postcopy-within")
    assert states == [("cancelled", "inmigrate")]
    assert there.calls == [("destroy",)]


def test_what_was_created_since_is_left(pair: Pair, hosts: Hosts) -> None:
    play = _begun(hosts)
    hosts.there.xml = incoming_xml(XML, run="another")
    pair.say("src", "failed")
    play.ended()
    assert hosts.there.calls == []


def _answerless(pair: Pair, hosts: Hosts) -> None:
    """``migrate`` is carried out, and its answer does not arrive."""
    source = pair.models["src"]
    migrate = source._migrate

    def lost(**given: Any) -> Any:
        migrate(**given)
        source.status = "postcopy-active"
        source.run_state = "finish-migrate"
        raise NO_ANSWER

    source._migrate = lost  # type: ignore[method-assign]


def _fails(play: Play) -> None:
    """While its migration goes on."""

    def fail(give_up_at: float | None) -> None:
        raise PostcopyError("a bug")

    play.driver._landing._look_around = fail  # type: ignore[method-assign]


def test_what_still_goes_on_is_cancelled_before_it_is_undone(
    pair: Pair, hosts: Hosts
) -> None:
    play = _begun(hosts)
    there = hosts.there
    statuses: list[str | None] = []
    destroy = there.destroy

    def noted() -> int:
        statuses.append(pair.models["src"].status)
        return destroy()

    there.destroy = noted  # type: ignore[method-assign]
    _fails(play)
    assert play.ended().here is Half.WHOLE
    assert statuses == ["cancelled"]
    switched = play.driver.switch()
    assert isinstance(switched, SwitchRefused) and switched.is_final
    assert "migrate-start-postcopy" not in hosts.dom.commands


def test_what_goes_on_and_cannot_be_cancelled_is_not_undone(
    pair: Pair, hosts: Hosts
) -> None:
    """Another client may let it switch, and the destination would be destroyed with half of the guest."""
    pair.replies["src", "migrate_cancel"] = refuse("it is busy")
    play = _begun(hosts)
    _fails(play)
    ended = play.ended()
    assert "it goes on, and could not be cancelled: nothing was undone" in str(
        ended.error
    )
    assert (ended.here, ended.there) == (Half.UNKNOWN, Half.UNKNOWN)
    assert hosts.there.calls == []


def test_cancel_that_is_refused_is_sent_again(pair: Pair, hosts: Hosts) -> None:
    pair.replies["src", "migrate_cancel"] = refuse("it is busy")
    play = _begun(hosts)
    there = hosts.there
    _fails(play)
    until(lambda: hosts.dom.commands.count("migrate_cancel") > 1)
    pair.replies.clear()
    assert play.ended().here is Half.WHOLE
    assert there.calls == [("destroy",)]


def test_switch_that_was_sent_is_not_cancelled(pair: Pair, hosts: Hosts) -> None:
    play = _begun(hosts)
    until(lambda: play.driver.switch() == SwitchAccepted())  # its daemon has answered
    _fails(play)
    ended = play.ended()
    assert "the switch was sent" in str(ended.error)
    assert (ended.here, ended.there) == (Half.UNKNOWN, Half.UNKNOWN)
    assert "migrate_cancel" not in hosts.dom.commands and hosts.there.calls == []


def test_switch_that_comes_while_it_is_undone_is_not_undone(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switching, "_CANCEL_S", PATIENCE_S)
    play = _begun(hosts)
    until(lambda: play.driver.switch() == SwitchAccepted())
    _fails(play)
    until(lambda: play.driver._switching._is_abandoned)
    pair.say("src", "postcopy-active")
    assert play.ended().here is Half.SPLIT_FAILED
    assert "migrate_cancel" not in hosts.dom.commands and hosts.there.calls == []


def test_nobody_waits_for_a_switch_to_a_destination_that_has_ended(
    pair: Pair, hosts: Hosts
) -> None:
    play = _begun(hosts)
    until(lambda: play.driver.switch() == SwitchAccepted())
    hosts.destination.domains.clear()
    ended = play.ended()
    assert (ended.here, ended.there) == (Half.WHOLE, Half.GONE)
    assert hosts.dom.commands.count("migrate_cancel") == 1


def test_what_has_switched_unseen_is_not_undone(pair: Pair, hosts: Hosts) -> None:
    _answerless(pair, hosts)
    ended = Play(hosts).begin().ended()
    assert (ended.here, ended.there) == (Half.SPLIT_FAILED, Half.UNKNOWN)
    assert hosts.there.calls == [] and hosts.dom.calls == []
    assert "cont" not in hosts.dom.commands


def test_nothing_is_undone_while_the_source_is_silent(pair: Pair, hosts: Hosts) -> None:
    play = _begun(hosts)
    hosts.dom.errors["monitor"] = NO_ANSWER
    pair.say("src", "failed")
    ended = play.ended()
    assert "nothing was undone" in str(ended.error)
    assert (ended.here, ended.there) == (Half.UNKNOWN, Half.UNKNOWN)
    assert hosts.there.calls == [] and hosts.dom.calls == []


def test_source_that_cannot_be_continued_is_told_of(pair: Pair, hosts: Hosts) -> None:
    play = _begun(hosts)
    hosts.dom.errors["resume"] = NOT_YET
    pair.models["src"].announce("STOP", None)
    pair.say("src", "failed")
    ended = play.ended()
    assert "the source stands still: virsh resume web1" in str(ended.error)
    assert (ended.here, ended.there) == (Half.MIGRATING, Half.GONE)


def test_source_that_cannot_be_asked_is_not_destroyed(pair: Pair, hosts: Hosts) -> None:
    play = _split(pair, hosts)
    hosts.dom.errors["state"] = hosts.dom.errors["monitor"] = NO_ANSWER
    pair.complete()
    assert play.ended().error is None
    assert hosts.dom.calls == []
    threading.Timer(0.1, hosts.dom.errors.clear).start()
    play.driver.hand_over()
    assert hosts.dom.calls == [("destroy",)] and play.driver.notes == []


def test_source_that_stays_silent_is_told_of(pair: Pair, hosts: Hosts) -> None:
    play = _split(pair, hosts)
    hosts.dom.errors["state"] = hosts.dom.errors["monitor"] = NO_ANSWER
    pair.complete()
    assert play.ended().error is None
    play.driver.hand_over()
    assert hosts.dom.calls == []
    assert "the source's daemon does not answer" in play.driver.notes[0]


def test_events_of_a_restarted_daemon_are_heard(pair: Pair, hosts: Hosts) -> None:
    play = _begun(hosts)
    old, hosts.source = hosts.source, Daemon("fake:///a", "aaaa")
    hosts.source.domains = old.domains
    hosts.dom.connection = hosts.source
    pair.models["src"].status = "postcopy-active"  # said while nobody listened
    old.is_dead = True
    until(lambda: "MIGRATION" in hosts.source.listened_to)
    pair.models["dst"].run_state = "paused"
    until(lambda: hosts.there.calls == [("resume",)])
    pair.complete()
    assert play.ended().error is None


# A source that is away


def _silence(machine: Machine) -> None:
    machine.errors["state"] = machine.errors["monitor"] = NO_ANSWER


def test_source_that_is_away_after_the_switch_is_given_up(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "_SILENT_S", 0.2)
    play = _split(pair, hosts)
    _silence(hosts.dom)
    ended = play.ended()
    assert "it does not answer" in str(play.driver.error)
    assert (ended.here, ended.there) == (Half.UNKNOWN, Half.UNKNOWN)
    assert hosts.there.calls == [("resume",)] and hosts.dom.calls == []


def test_daemon_that_hangs_is_one_that_is_away(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landing, "_SILENT_S", 0.2)
    play = _split(pair, hosts)
    answers = threading.Event()
    hosts.dom.errors["monitor"] = NO_ANSWER
    hosts.dom.state = lambda flags=0: answers.wait(PATIENCE_S) and list(RUNNING)  # type: ignore[method-assign]
    assert "it does not answer" in str(play.ended().error)
    assert not answers.is_set()
    answers.set()


def test_source_that_the_destination_has_lost_too_is_given_up_at_once(
    pair: Pair, hosts: Hosts
) -> None:
    play = _split(pair, hosts)
    _silence(hosts.dom)
    pair.say("dst", "postcopy-paused")
    assert "it does not answer" in str(play.ended().error)


def test_no_connection_is_opened_to_a_host_that_is_away(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for minutes, also when the host is back by then."""
    end = ends.End(SRC, hosts.dom.uuid, "fake:///a", hosts.open, None)
    with end.seat.domain() as dom:
        assert dom is hosts.dom
    monkeypatch.setattr(ends.vir, "listens", lambda uri, seconds: False)
    monkeypatch.setattr(end.host, "_connect", lambda uri, side: pytest.fail("opened"))
    hosts.source.is_dead = True
    with pytest.raises(LibvirtError, match="does not answer"), end.seat.domain():
        pass


def test_source_that_is_away_for_a_while_is_waited_for(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    play = _split(pair, hosts)
    asked: list[None] = []
    here = play.driver._source
    with monkeypatch.context() as patch:
        patch.setattr(here, "half", lambda: asked.append(None) or Half.UNKNOWN)
        until(lambda: len(asked) > 3)
    pair.complete()
    assert play.ended().error is None


def test_guest_whose_source_comes_back_is_started(
    pair: Pair, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has switched while nobody saw it, and is only looked at by now."""
    monkeypatch.setattr(landing, "_SILENT_BEFORE_S", 0.2)
    play = _begun(hosts)
    _silence(hosts.dom)
    assert play.ended().here is Half.UNKNOWN
    hosts.dom.errors.clear()
    pair.models["src"].status = "postcopy-active"
    pair.models["dst"].run_state = "paused"
    assert hosts.there.calls == []
    assert play.driver.look(SRC).half is Half.SPLIT
    until(lambda: hosts.there.calls == [("resume",)])


# A recovery that has one try


def _frail(pair: Pair, hosts: Hosts, *missing: str, **params: Any) -> Play:
    """QEMU before 7.1, broken."""
    del pair.models["src"].capabilities["postcopy-preempt"]
    pair.missing.update(missing)
    play = _split(pair, hosts, **params)
    pair.say("src", "postcopy-paused")
    play.ended()
    return play


def _sent(machine: Machine, command: str) -> list[dict[str, Any]]:
    return [c["arguments"] for c in machine.sent if c["execute"] == command]


def test_way_is_tried_before_it_is_used(pair: Pair, hosts: Hosts) -> None:
    play = _frail(pair, hosts)
    pair.taken.add("49184")
    pair.on["src", "migrate"] = lambda: pair.say("src", "postcopy-recover")
    play.driver.resume()
    play.until_status("postcopy-recover")
    assert _sent(hosts.there, "migrate-recover") == [{"uri": "tcp:192.0.2.2:49185"}]
    for model in pair.models.values():
        assert model.sockets == {}, "something of the try is left"
    tried = hosts.dom.commands.index("query-chardev")
    assert tried < len(hosts.dom.commands) - hosts.dom.commands[::-1].index("migrate")


def test_way_is_tried_again_for_the_next_break(pair: Pair, hosts: Hosts) -> None:
    play = _frail(pair, hosts, "yank")
    for number in (1, 2):
        pair.on["src", "migrate"] = lambda: pair.say("src", "postcopy-recover")
        play.driver.resume()
        play.until_status("postcopy-recover")
        pair.say("src", "postcopy-active")
        pair.say("src", "postcopy-paused")
        play.ended()
        assert hosts.there.commands.count("chardev-add") == number
        assert hosts.there.commands.count("migrate-recover") == number
    assert play.driver.look(SRC).obstacle == ""


def test_way_that_leads_nowhere_is_not_used(pair: Pair, hosts: Hosts) -> None:
    """The first migrate-recover would count, and the resume be the guest's end."""
    play = _frail(pair, hosts)
    pair.has_link = False
    for _ in range(2):
        play.driver.resume()
        assert "does not reach the destination" in str(play.ended().error)
    assert "migrate-recover" not in hosts.there.commands
    assert len(_sent(hosts.dom, "migrate")) == 1
    assert play.driver.look(SRC).obstacle == ""
    assert all(model.sockets == {} for model in pair.models.values())


TRIGGERED = refuse("Migrate recovery is triggered already")


def test_recovery_whose_answer_was_lost_is_gone_on_with(
    pair: Pair, hosts: Hosts
) -> None:
    """QEMU 3.0 to 7.0 waits, and takes no other: nor can its port be tried any more."""
    play = _frail(pair, hosts)

    def lost(uri: str) -> Any:
        pair.replies["dst", "migrate-recover"] = TRIGGERED
        raise NO_ANSWER

    pair.models["dst"]._migrate_recover = lost  # type: ignore[method-assign]
    for _ in range(2):
        play.driver.resume()
        play.ended()
    assert hosts.there.commands.count("chardev-add") == 1
    resume = {"uri": "tcp:192.0.2.2:49184", "resume": True}
    assert _sent(hosts.dom, "migrate")[1:] == [resume]
    assert play.driver.look(SRC).obstacle == ""


@pytest.mark.parametrize(
    ("ports", "uris"),
    [((49190, 49184), ["tcp:192.0.2.2:49190"]), ((49184,), [])],
)
def test_destination_that_another_client_has_told_to_recover(
    pair: Pair, hosts: Hosts, ports: tuple[int, ...], uris: list[str]
) -> None:
    """It tells its ports from QEMU 4.0 on, the newest first."""
    play = _frail(pair, hosts)
    told = [{"type": "inet", "port": str(port)} for port in ports]
    told_by = {"status": "postcopy-paused", "socket-address": told}
    pair.replies["dst", "query-migrate"] = ok(told_by)
    pair.replies["dst", "migrate-recover"] = TRIGGERED
    play.driver.resume()
    play.ended()
    assert [each["uri"] for each in _sent(hosts.dom, "migrate")[1:]] == uris
    assert bool(play.driver.look(SRC).obstacle) is not bool(uris)


@pytest.mark.parametrize("reply", [ok(), TRIGGERED])
def test_path_is_not_taken_from_a_destination_that_waits_there(
    pair: Pair, hosts: Hosts, reply: dict[str, Any]
) -> None:
    """QEMU unlinks a path before it listens there, also for a try."""
    play = _frail(pair, hosts, migrate_uri="unix:///run/m.sock")
    pair.replies["dst", "migrate-recover"] = reply
    play.driver.resume()
    play.ended()
    assert "chardev-add" not in hosts.there.commands
    resume = {"uri": "unix:/run/m.sock", "resume": True}
    assert _sent(hosts.dom, "migrate")[1:] == [resume]


def test_refused_recovery_is_no_recovery(pair: Pair, hosts: Hosts) -> None:
    """The way is tried anew."""
    play = _frail(pair, hosts)
    pair.replies["dst", "migrate-recover"] = refuse("not in postcopy-paused")
    for _ in range(2):
        play.driver.resume()
        play.ended()
    assert hosts.there.commands.count("chardev-add") == 2


def test_resume_that_has_reached_nobody_is_the_last(pair: Pair, hosts: Hosts) -> None:
    """QEMU 3.0 to 5.2: the next one crashes both."""
    play = _frail(pair, hosts, "yank")
    play.driver.resume()
    play.ended()
    assert "would crash both" in play.driver.look(SRC).obstacle


def test_resume_that_fails_is_not_the_last_of_a_newer_one(
    pair: Pair, hosts: Hosts
) -> None:
    play = _frail(pair, hosts)
    play.driver.resume()
    play.ended()
    assert play.driver.look(SRC).obstacle == ""


def test_port_that_is_not_told_is_given(pair: Pair, hosts: Hosts) -> None:
    """QEMU before 4.0."""
    pair.missing.add("announce-self")
    play = _split(pair, hosts)
    pair.say("src", "postcopy-paused")
    play.ended()
    play.driver.resume()
    play.ended()
    assert _sent(hosts.there, "migrate-incoming") == [{"uri": "tcp:192.0.2.2:49184"}]
    assert _sent(hosts.there, "migrate-recover") == [{"uri": "tcp:192.0.2.2:49184"}]


# TLS, and what is not promised


def test_both_ends_encrypt(pair: Pair, hosts: Hosts) -> None:
    _moved(pair, hosts, LIVE | MigrateFlags.VIR_MIGRATE_TLS)
    there = pair.models["dst"].machine
    set_there, set_here = (
        {name: it for given in _sent(each, "migrate-set-parameters") for name, it in given.items() if it}
        for each in (there, hosts.dom)
    )  # fmt: skip
    assert set_there == {"tls-creds": "libvirt-postcopy-tls"}
    assert set_here["tls-creds"] == "libvirt-postcopy-tls"
    assert set_here["tls-hostname"] == "192.0.2.2"
    ends = [_sent(each, "object-add")[0]["endpoint"] for each in (hosts.dom, there)]
    assert ends == ["client", "server"]


def test_certificate_needs_a_name(pair: Pair, hosts: Hosts) -> None:
    flags = LIVE | MigrateFlags.VIR_MIGRATE_TLS
    unix = {"migrate_uri": "unix:///run/m.sock"}
    _refused(hosts, UsageError, "tls.destination", flags=flags, **unix)
    _moved(pair, hosts, flags, **unix, **{"tls.destination": "b"})
    assert pair.models["src"].parameters["tls-hostname"] == "b"


def test_release_ram_is_refused_where_it_crashes_qemu(pair: Pair, hosts: Hosts) -> None:
    pair.version = (2, 12, 1)
    wishes = Wishes(release_ram=True)
    _refused(hosts, NotSupportedError, "2.12.1 crashes", wishes=wishes)
    assert hosts.destination.created == []
    pair.version = (3, 0, 0)
    _moved(pair, hosts, wishes=wishes)


# Questions


def test_switch_is_asked_for_and_verified(pair: Pair, hosts: Hosts) -> None:
    play = _begun(hosts)
    until(lambda: play.driver.switch() == SwitchAccepted())  # its daemon has answered
    assert play.driver.verify_switch() == SwitchNotSeen()
    pair.replies["src", "migrate-start-postcopy"] = refuse(
        "Postcopy must be started after"
    )
    assert play.driver.switch() == SwitchRefused("Postcopy must be started after", is_final=False)  # fmt: skip


def test_only_what_was_not_sent_counts_as_a_refused_switch(
    pair: Pair, hosts: Hosts
) -> None:
    play = _begun(hosts)
    until(lambda: play.driver.switch() == SwitchAccepted())  # its daemon has answered
    hosts.dom.errors["monitor"] = refused(68, "cannot acquire state change lock")
    busy = play.driver.switch()
    assert isinstance(busy, SwitchRefused) and not busy.is_final
    hosts.dom.errors["monitor"] = NO_ANSWER
    lost = play.driver.switch()
    assert isinstance(lost, SwitchUnanswered) and "socket is closed" in lost.message
    del hosts.dom.errors["monitor"]
    pair.replies["src", "migrate-start-postcopy"] = {}
    assert isinstance(play.driver.switch(), SwitchUnanswered)


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
