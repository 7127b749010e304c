"""Watching a migration: a job that plays a script, one step for each look at it."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from libvirt_postcopy.actions import Abort, Note
from libvirt_postcopy.api import MigrationResult
from libvirt_postcopy.constants import DomainState, MigrateFlags, PausedReason
from libvirt_postcopy.errors import (
    GuestLost,
    MigrationCancelled,
    MigrationError,
    MigrationFailed,
    MigrationUnknown,
    NotSupportedError,
    PostcopyBroken,
    PostcopyError,
    StateError,
    UsageError,
)
from libvirt_postcopy.events import (
    Died,
    Ended,
    Half,
    Place,
    Resumed,
    Side,
    StatusSeen,
)
from libvirt_postcopy.figures import Summary
from libvirt_postcopy.phases import Phase
from libvirt_postcopy.policy import After, Never
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.virsh import migrate
from libvirt_postcopy.virsh.grammar import Globals, parse_command
from libvirt_postcopy.virsh.options import MIGRATE_OPTIONS
from libvirt_postcopy.virsh.terminal import Terminal
from libvirt_postcopy.virsh.texts import LeftAlone
from unit.fakes import SPLIT_HERE, FakeConnection, FakeDomain

FAILED_HERE = (
    DomainState.VIR_DOMAIN_PAUSED,
    PausedReason.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED,
)

LINE = "--live --postcopy web1 qemu+tls://b/system"
DONE = MigrationResult(ended_ms=2300, total_ms=1000, downtime_ms=4, passes=1)


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


Step = Callable[["Scene"], Any]


class FakeSignals:
    def __init__(self) -> None:
        self.pending = 0
        self.is_catching = False

    def catch(self) -> None:
        self.is_catching = True

    def take(self) -> int:
        taken, self.pending = self.pending, 0
        return taken


class Scene:
    """The job, the daemon and the user, all at once."""

    def __init__(self) -> None:
        self.steps: list[Step | BaseException | MigrationResult] = []
        self.phase, self.guest = Phase.PRECOPY, Place.SOURCE
        self.can_be_left, self.is_over = True, False
        self.driver, self.driver_reason = "native", "libvirt can do it"
        self.signals = FakeSignals()
        self.aborts = 0
        self.abort_error: Exception | None = None
        self.answer_to_abort: object = Abort()
        self.started: dict[str, Any] = {}
        self.start_error: Exception | None = None
        self.out, self.err = io.StringIO(), io.StringIO()
        self.dom = FakeDomain()
        self.order: list[str] = []
        self.looked: tuple[Any, ...] = ()
        self.obstacle: Exception | None = None

    # The job

    def wait(self, timeout: float | None = None) -> MigrationResult:
        assert timeout is not None and timeout <= 0.5, "an interrupt must be seen soon"
        assert self.signals.is_catching
        if not self.steps:
            pytest.fail("waits longer than the script")
        step = self.steps.pop(0)
        if isinstance(step, MigrationResult):
            return step
        if isinstance(step, BaseException):
            raise step
        step(self)
        raise TimeoutError

    def abort(self) -> None:
        self.aborts += 1
        if self.abort_error is not None:
            raise self.abort_error
        self.see(self.answer_to_abort)

    def stats(self) -> Stats | None:
        return Stats(memory_total=100, memory_remaining=40)

    def summary(self) -> Summary:
        return Summary(passes=0)

    # What calls it

    def look_first(
        self, mode: str, say: Any, dom: Any, dest: str, **options: Any
    ) -> None:
        assert not self.started
        self.looked = (mode, dom, dest, options)
        if self.obstacle is not None:
            raise self.obstacle
        if dest == "warned":
            say("warning: VIR_MIGRATE_TLS is not asked for")

    def start(self, dom: Any, dest: str, **options: Any) -> Scene:
        self.order.append("start")
        self.started = {"dom": dom, "dest": dest, **options}
        assert self.signals.is_catching, "an interrupt could kill what is being started"
        if self.start_error is not None:
            raise self.start_error
        return self

    def run(self, *steps: Any, line: str = LINE, **options: Any) -> str:
        """Run the verb; return what was said."""
        self.steps, self.line = list(steps), line
        given = parse_command("migrate", MIGRATE_OPTIONS, line.split())
        terminal = Terminal(self.out, self.err)
        migrate.run(given, Globals(**options), terminal, self.signals)
        return self.said

    @property
    def said(self) -> str:
        return self.err.getvalue()

    def see(self, what: object) -> None:
        self.started["observer"](what)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene()
    monkeypatch.setattr(migrate.api, "start", made.start)
    monkeypatch.setattr(migrate, "before_migration", made.look_first)
    monkeypatch.setattr(migrate.calls, "silence_libvirt", lambda: None)
    monkeypatch.setattr(
        migrate, "ensure_event_loop", lambda: made.order.append("event loop")
    )

    def connect(options: Globals) -> FakeConnection:
        made.order.append("connect")
        return made.dom.connect()

    monkeypatch.setattr(migrate, "connect", connect)
    monkeypatch.setattr(migrate, "find_domain", lambda connection, text: made.dom)
    return made


def press(scene: Scene) -> None:
    scene.signals.pending += 1


def idle(scene: Scene) -> None:
    pass


def split(scene: Scene) -> None:
    scene.phase, scene.guest = Phase.POSTCOPY, Place.SPLIT
    scene.can_be_left = "--p2p" in scene.line


def resumed(scene: Scene) -> None:
    scene.can_be_left = True
    scene.see(Resumed(Side.DESTINATION))


def in_doubt(scene: Scene) -> None:
    """The source's daemon is gone, and its call with it."""
    scene.guest, scene.can_be_left = Place.UNKNOWN, scene.driver == "native"


def split_and_resumed(scene: Scene) -> None:
    split(scene)
    resumed(scene)


def both(*steps: Step) -> Step:
    return lambda scene: [step(scene) for step in steps]


# What is started


def test_start_gets_what_the_line_says(scene: Scene) -> None:
    line = "--live --postcopy-after 5 --p2p --bandwidth 7 --persistent web1 b:///"
    assert scene.run(DONE, line=line) == ""
    started = scene.started
    assert started["dom"] is scene.dom and started["dest"] == "b:///"
    assert str(started["policy"]) == "after:5s"
    assert started["params"] == {"bandwidth": 7}
    assert started["peer2peer"] is True
    wanted = MigrateFlags.VIR_MIGRATE_LIVE | MigrateFlags.VIR_MIGRATE_PERSIST_DEST
    assert started["flags"] == wanted | MigrateFlags.VIR_MIGRATE_POSTCOPY
    assert scene.order == ["event loop", "connect", "start"]


@pytest.mark.parametrize(
    "options, policy",
    [
        ("--postcopy", "after:5m"),
        ("--enable-postcopy --timeout 0", "after:5m"),  # virsh takes 0 for not given
        ("--postcopy --timeout 7 --timeout-postcopy", "after:7s"),
        ("--postcopy-after 0", "after:0s"),
        ("--postcopy-policy manual", "manual"),
        ("", "never"),
    ],
)
def test_domains_own_policy_holds_where_nothing_says_when(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, options: str, policy: str
) -> None:
    monkeypatch.setattr(migrate, "read_policy", lambda dom: After(300))
    said = scene.run(DONE, line=f"--live {options} web1 b:///")
    assert str(scene.started["policy"]) == policy
    is_own = policy == "after:5m"
    assert said == ("note: the domain's own policy: after:5m\n" if is_own else "")


@pytest.mark.parametrize("options", ["--postcopy", "--postcopy --timeout 0"])
def test_postcopy_that_the_domain_itself_forbids_is_refused(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    monkeypatch.setattr(migrate, "read_policy", lambda dom: Never())
    with pytest.raises(UsageError, match="the domain's own policy is 'never'"):
        scene.run(line=f"--live {options} web1 b:///")
    assert not scene.started


def test_client_manages_unless_told_otherwise(scene: Scene) -> None:
    scene.run(DONE)
    assert scene.started["peer2peer"] is False
    assert scene.order == ["event loop", "connect", "start"]


def test_line_that_cannot_be_meant_reaches_no_daemon(scene: Scene) -> None:
    with pytest.raises(UsageError):
        scene.run(line="--live --direct --postcopy web1 b:///")
    assert scene.order == []


def test_domain_is_looked_up_before_the_times_are_checked(scene: Scene) -> None:
    with pytest.raises(UsageError, match="not supported with non-live"):
        scene.run(line="--postcopy web1 b:///")
    assert scene.order == ["event loop", "connect"]


def test_refused_start_is_passed_on(scene: Scene) -> None:
    scene.start_error = UsageError("the destination URI is empty")
    with pytest.raises(UsageError, match="is empty"):
        scene.run()


# What is shown


def test_verbose_shows_the_way_and_the_figures(scene: Scene) -> None:
    step = lambda scene: scene.see(object())  # noqa: E731
    said = scene.run(step, DONE, line=f"--verbose {LINE}").splitlines()
    assert said[0] == "driver native: libvirt can do it"
    assert said[1].startswith("Migration: [60.00 %] pre-copy pass 1")
    assert said[2] == "Migration: [100.00 %] completed"
    assert said[3] == "Migrated in 2.3 s: downtime 4 ms, 1 pass, completed as pre-copy"
    assert len(said) == 4 and scene.out.getvalue() == ""


def test_waits_for_pages_are_told_as_they_are_spread(scene: Scene) -> None:
    counts = [0] * 24
    counts[6], counts[9], counts[10], counts[20] = 3, 40, 12, 1
    figures = {"postcopy-blocktime": 7, "postcopy-latency": 9, "postcopy-latency-dist": counts}  # fmt: skip
    said = scene.run(replace(DONE, blocktime=figures))
    assert said.splitlines() == [
        "postcopy-blocktime: 7 ms",
        "page faults: 3 in 64 us to 128 us, 40 in 512 us to 1 ms, 12 in 1 ms to 2 ms, 1 in 1 s to 2 s",
    ]


def test_driver_and_its_reason_are_said(scene: Scene) -> None:
    scene.driver, scene.driver_reason = "qemu", "libvirt does not know it"
    options = "--postcopy-blocktime --postcopy-release-ram --postcopy-preempt"
    said = scene.run(DONE, line=f"{options} --postcopy-driver qemu --verbose {LINE}")
    assert "driver qemu: libvirt does not know it" in said
    assert "unencrypted" in said and "tainted" in said
    assert scene.started["driver"] == "qemu"
    wishes = scene.started["wishes"]
    assert wishes.blocktime and wishes.release_ram and wishes.preempt
    assert wishes.monitor_dir is None


def test_folder_for_a_second_monitor(scene: Scene) -> None:
    scene.run(DONE, line=f"--postcopy-monitor-dir /run/qemu/ {LINE}")
    assert scene.started["wishes"].monitor_dir == "/run/qemu"


def test_encrypted_one_is_not_called_unencrypted(scene: Scene) -> None:
    scene.driver = "qemu"
    said = scene.run(DONE, line=f"--postcopy-driver qemu --tls {LINE}")
    assert "tainted" in said and "unencrypted" not in said


def test_what_did_not_work_although_the_guest_has_moved_is_said(scene: Scene) -> None:
    blocktime = {"postcopy-blocktime": 42, "postcopy-vcpu-blocktime": [42]}
    done = replace(DONE, notes=("it is not defined",), blocktime=blocktime)
    said = scene.run(done)
    assert "note: it is not defined" in said and "postcopy-blocktime: 42 ms" in said


@pytest.mark.parametrize("is_quiet", [False, True])
def test_progress_is_off_when_quiet(scene: Scene, is_quiet: bool) -> None:
    step = lambda scene: scene.see(object())  # noqa: E731
    said = scene.run(step, DONE, line=f"--verbose {LINE}", is_quiet=is_quiet)
    assert ("Migration: [60.00 %]" in said) is not is_quiet


def test_it_is_looked_at_for_the_driver_that_will_do_it(scene: Scene) -> None:
    """Which is chosen as the migration will choose it."""
    scene.dom.connection.libvirt_version = 1_003_002
    scene.run(DONE, line=f"--postcopy-monitor-dir /run/x {LINE}")
    options = scene.looked[-1]
    assert options["driver"] == "qemu" and scene.started["driver"] == "auto"
    assert options["wishes"] is scene.started["wishes"]


def test_it_is_looked_at_first(scene: Scene) -> None:
    scene.run(DONE, line="--live --postcopy --bandwidth 9 web1 warned")
    mode, dom, dest, options = scene.looked
    assert (mode, dom, dest) == ("warn", scene.dom, "warned")
    assert options["params"] == {"bandwidth": 9}
    assert options["flags"] == scene.started["flags"]
    assert options["driver"] == "native"
    assert scene.said.startswith("warning: --tls is not asked for\n")


def test_what_is_certain_to_fail_is_not_started(scene: Scene) -> None:
    scene.obstacle = NotSupportedError(
        "VIR_MIGRATE_PARALLEL cannot be", side="source", cure="leave it"
    )
    with pytest.raises(NotSupportedError) as caught:
        scene.run()
    assert not scene.started
    assert str(caught.value).startswith("source: --parallel cannot be; the guest ")
    assert str(caught.value).endswith("(leave it)")


def test_words_after_ctrl_c_begin_below_its_echo(scene: Scene) -> None:
    scene.err = Tty()
    with pytest.raises(MigrationCancelled):
        scene.run(press, MigrationCancelled("x"))
    assert scene.said.startswith("\naborting")


def test_note_at_the_very_end_is_said(scene: Scene) -> None:
    def last(scene: Scene) -> None:
        scene.steps.insert(0, MigrationFailed("gone"))
        scene.signals.take = lambda: scene.see(Note("look out")) or 0  # type: ignore

    with pytest.raises(MigrationFailed):
        scene.run(last)
    assert scene.said == "note: look out\n"


# Interrupts


def test_interrupt_before_the_switch_aborts_and_waits(scene: Scene) -> None:
    end = MigrationCancelled("operation aborted: migration out job: canceled by client")
    with pytest.raises(MigrationCancelled) as caught:
        scene.run(press, idle, idle, end)
    assert scene.aborts == 1 and scene.steps == []
    assert str(caught.value) == "migration aborted: the guest runs on the source"
    assert scene.said == "aborting: the guest stays on the source\n"


def test_second_interrupt_does_not_disturb_the_abort(scene: Scene) -> None:
    with pytest.raises(MigrationCancelled):
        scene.run(press, press, idle, MigrationCancelled("x"))
    assert scene.aborts == 1
    assert scene.said.splitlines()[1:] == [
        "the abort is not confirmed yet: still waiting"
    ]


def test_third_interrupt_leaves_an_abort_that_nobody_confirms(scene: Scene) -> None:
    with pytest.raises(LeftAlone) as caught:
        scene.run(press, press, press)
    assert scene.aborts == 1 and caught.value.guest == "source"
    assert "virsh -c fake:///a domjobinfo web1" in str(caught.value)


def test_abort_that_is_left_to_the_daemons_may_not_come(scene: Scene) -> None:
    with pytest.raises(LeftAlone) as caught:
        scene.run(press, press, press, line=f"--p2p {LINE}")
    assert caught.value.guest == "unknown"
    text = str(caught.value)
    assert "the migration may go on" in text and "cannot be told" in text
    assert "virsh -c fake:///a domstate --reason web1" in text
    assert "virsh -c qemu+tls://b/system domstate --reason web1" in text


def test_abort_is_not_said_before_it_is_carried_out(scene: Scene) -> None:
    text = "the switch to post-copy has been asked for: aborted only if it is refused"
    scene.answer_to_abort = Note(text)
    said = scene.run(press, split, resumed, DONE).splitlines()
    assert said[0] == f"note: {text}"
    assert said[1].startswith("the abort came too late: the guest is split")
    assert "aborting" not in scene.said


def test_managed_switch_is_not_left(scene: Scene) -> None:
    def switching(scene: Scene) -> None:
        scene.phase, scene.can_be_left = Phase.SWITCHING, False

    three = both(press, press, press)
    scene.run(press, both(switching, three), DONE)
    assert scene.steps == []


def test_abort_that_comes_too_late_is_said(scene: Scene) -> None:
    scene.abort_error = StateError("the guest is split")
    said = scene.run(press, split, idle, DONE).splitlines()
    assert said[0].startswith("the abort came too late: the guest is split")
    assert said[1] == "the abort came too late: the guest has moved"
    assert len(said) == 2


def test_interrupt_after_the_switch_explains_and_goes_on(scene: Scene) -> None:
    said = scene.run(split_and_resumed, press, idle, idle, DONE)
    assert scene.aborts == 0 and scene.steps == []
    assert said == (
        "the guest is split over both hosts and cannot go back: the migration goes on"
        " (Ctrl-C again leaves it to itself)\n"
    )


def test_second_interrupt_after_the_switch_detaches(scene: Scene) -> None:
    with pytest.raises(LeftAlone) as caught:
        scene.run(split_and_resumed, press, press)
    assert scene.aborts == 0 and caught.value.guest == "split"
    text = str(caught.value)
    assert text.startswith("left the migration to itself, and it goes on: ")
    assert "destroy, resume and reset neither half" in text
    assert "libvirt may call it failed meanwhile" in text
    assert "virsh-postcopy -c fake:///a postcopy-attach web1; look: " in text
    assert "virsh -c fake:///a domstate --reason web1" in text
    assert "virsh -c qemu+tls://b/system domstate --reason web1" in text


def test_two_interrupts_in_one_slice(scene: Scene) -> None:
    with pytest.raises(LeftAlone):
        scene.run(both(split_and_resumed, press, press))


def test_managed_migration_is_left_only_once_the_guest_runs(scene: Scene) -> None:
    with pytest.raises(LeftAlone):
        scene.run(split, press, press, idle, press, resumed)
    assert scene.steps == [] and scene.aborts == 0
    assert scene.said.count("not running on the destination yet") == 2


def test_peer_to_peer_migration_can_be_left_at_once(scene: Scene) -> None:
    with pytest.raises(LeftAlone) as caught:
        scene.run(split, press, press, line=f"--p2p {LINE}")
    assert "libvirt may call it failed" not in str(caught.value)


IN_DOUBT = (
    "it cannot be told now where the guest is: looking on"
    " (Ctrl-C again leaves the migration to itself)"
)


def test_interrupt_while_nobody_knows_where_the_guest_is_explains(scene: Scene) -> None:
    said = scene.run(in_doubt, press, idle, DONE)
    assert scene.aborts == 0 and scene.steps == []
    assert said == f"{IN_DOUBT}\n"


@pytest.mark.parametrize("steps", [[press, press], [both(press, press)]])
def test_second_interrupt_while_nobody_knows_where_the_guest_is_detaches(
    scene: Scene, steps: list[Step]
) -> None:
    with pytest.raises(LeftAlone) as caught:
        scene.run(in_doubt, *steps)
    assert scene.aborts == 0 and caught.value.guest == "unknown"
    assert str(caught.value) == (
        "left the migration to itself: it cannot be told where the guest 'web1' is, or whether its migration goes on:"
        " destroy it neither on fake:///a nor on qemu+tls://b/system (look: virsh -c fake:///a domstate --reason web1;"
        " virsh -c qemu+tls://b/system domstate --reason web1; where it goes on: virsh-postcopy -c fake:///a"
        " postcopy-attach web1)"
    )


def test_driver_that_the_guest_may_need_is_not_left_in_doubt(scene: Scene) -> None:
    scene.driver = "qemu"
    said = scene.run(in_doubt, press, press, idle, press, DONE)
    assert scene.aborts == 0 and scene.steps == []
    assert said.count("the guest may still need this program") == 2


def test_abort_whose_end_cannot_be_told_is_explained(scene: Scene) -> None:
    with pytest.raises(LeftAlone) as caught:
        scene.run(press, in_doubt, idle, press)
    assert scene.aborts == 1 and caught.value.guest == "unknown"
    assert scene.said.splitlines()[1:] == [IN_DOUBT]


def test_interrupt_at_the_end_changes_nothing(scene: Scene) -> None:
    def arrived(scene: Scene) -> None:
        scene.phase, scene.guest = Phase.COMPLETED, Place.DESTINATION

    said = scene.run(both(arrived, press), press, DONE)
    assert said == "the migration is about to end: still waiting\n" * 2
    assert scene.aborts == 0


# How it ends


def broken(line: str, error: MigrationError, scene: Scene) -> str:
    with pytest.raises(type(error)) as caught:
        scene.run(error, line=line)
    assert caught.value.__cause__ is error
    return str(caught.value)


def test_split_guest_is_explained(scene: Scene) -> None:
    line = "--live --postcopy-after-precopy --p2p --tls --verbose --bandwidth 9 web1 qemu+tls://b/system"
    error = PostcopyBroken("job 'migration out' failed in post-copy phase", side="source")  # fmt: skip
    assert broken(line, error, scene) == (
        "source: job 'migration out' failed in post-copy phase: the guest 'web1' is split, its newest memory on"
        " qemu+tls://b/system, the rest on fake:///a: destroy, resume and reset neither half (look: virsh -c"
        " fake:///a domstate --reason web1; virsh -c qemu+tls://b/system domstate --reason web1; when the"
        " link is back: virsh-postcopy -c fake:///a postcopy-recover web1 qemu+tls://b/system)"
    )


def test_next_command_can_be_typed_as_it_is(scene: Scene) -> None:
    scene.dom.connect().uri = "qemu+ssh://a/system?x=1&y=2"
    text = broken(LINE, PostcopyBroken("x"), scene)
    assert "virsh-postcopy -c 'qemu+ssh://a/system?x=1&y=2' postcopy-recover" in text


HERE, THERE = "on the source, fake:///a,", "on the destination, qemu+tls://b/system,"


@pytest.mark.parametrize(
    "halves, gone",
    [
        ((Half.SPLIT, Half.GONE), f"its half {THERE} is gone"),
        ((Half.SPLIT_FAILED, Half.INACTIVE), f"its half {THERE} is gone"),
        ((Half.GONE, Half.SPLIT_FAILED), f"its half {HERE} is gone"),
        ((Half.INACTIVE, Half.SPLIT), f"its half {HERE} is gone"),
        ((Half.GONE, Half.GONE), "both halves are gone"),
        ((Half.UNKNOWN, Half.UNKNOWN), "both halves are gone"),
        ((Half.UNKNOWN, Half.GONE), f"its half {THERE} is gone, and the source"),
        ((Half.UNKNOWN, Half.INACTIVE), f"its half {THERE} is gone, and the source"),
    ],
)
def test_lost_guest_is_explained_by_the_half_that_is_gone(
    scene: Scene, halves: tuple[Half, Half], gone: str
) -> None:
    """Whatever the call had found when it ended: that may have been long before."""
    error = GuestLost("the process died", side="source")
    error.halves = halves
    ended = Ended("x", here=Half.SPLIT_FAILED, there=Half.SPLIT_FAILED)
    with pytest.raises(GuestLost) as caught:
        scene.run(lambda scene: scene.see(ended), error, line=f"{LINE} --dname web2")
    text = str(caught.value)
    assert "destroy neither half before you have seen both hosts" in text
    assert text.startswith(f"the guest 'web1' is lost: {gone}")
    assert "the process died" in text
    assert "domstate --reason web1" in text and "domstate --reason web2" in text


def test_guest_that_died_before_the_switch_is_explained_by_its_qemu(
    scene: Scene,
) -> None:
    error = GuestLost("the process died", side="source")
    error.halves = (Half.GONE, Half.GONE)
    with pytest.raises(GuestLost) as caught:
        scene.run(lambda scene: scene.see(Died(Side.SOURCE)), error)
    text = str(caught.value)
    assert "is lost: its QEMU on the source, " in text
    assert "ended before the guest had moved: the process died" in text


def failed(scene: Scene, error: PostcopyError, line: str = LINE, *steps: Step) -> str:
    with pytest.raises(type(error)) as caught:
        scene.run(*steps, error, line=line)
    assert caught.value.__cause__ is error
    return str(caught.value)


def test_failure_before_the_switch_ends_with_where_the_guest_is(scene: Scene) -> None:
    error = MigrationFailed("no route to host", side="destination", cure="find one")
    assert failed(scene, error) == (
        "destination: no route to host; the guest runs on the source (find one)"
    )


@pytest.mark.parametrize(
    "error", [UsageError("same host"), NotSupportedError("too old")]
)
def test_refusal_by_the_job_ends_with_where_the_guest_is(
    scene: Scene, error: PostcopyError
) -> None:
    assert failed(scene, error).endswith("; the guest runs on the source")


NO_CREDENTIALS = "Unable to access credentials /etc/pki/qemu/ca-cert.pem"
NO_CERTIFICATE = "Cannot read CA certificate '/etc/pki/CA/cacert.pem'"


def prepared(scene: Scene) -> None:
    scene.see(StatusSeen(Side.DESTINATION, "setup"))


@pytest.mark.parametrize(
    "text, options, steps, side",
    [
        (NO_CREDENTIALS, "--tls", [], "destination: "),
        (NO_CREDENTIALS, "--tls", [prepared], "source: "),
        (NO_CREDENTIALS, "--tls --p2p", [prepared], "source: "),
        (NO_CREDENTIALS, "--tls --p2p", [], ""),
        (NO_CERTIFICATE, "", [], "client: "),
        (NO_CERTIFICATE, "--p2p", [], "source: "),
    ],
)
def test_side_that_lacks_certificates_is_named(
    scene: Scene, text: str, options: str, steps: list[Step], side: str
) -> None:
    error = MigrationFailed(text, side="destination")
    assert failed(scene, error, f"{LINE} {options}", *steps).startswith(side + text)


@pytest.mark.parametrize(
    "state, text", [(SPLIT_HERE, "is in post-copy already"), (FAILED_HERE, "libvirt calls the post-copy")]
)  # fmt: skip
def test_split_domain_is_not_migrated(
    scene: Scene, state: tuple[int, int], text: str
) -> None:
    scene.dom.now = state
    with pytest.raises(PostcopyBroken, match=text) as caught:
        scene.run()
    assert "destroy, resume and reset neither half" in str(caught.value)
    assert scene.order == ["event loop", "connect"]


def test_guest_that_cannot_be_found_is_explained(scene: Scene) -> None:
    error = MigrationUnknown("client socket is closed", side="source")
    text = broken(f"{LINE} --dname web2", error, scene)
    assert text.startswith(
        "source: client socket is closed: it cannot be told where the guest 'web1' is"
    )
    assert "destroy it neither on fake:///a nor on qemu+tls://b/system" in text
    assert "domstate --reason web1" in text and "domstate --reason web2" in text


def test_error_that_cannot_be_explained_still_says_where_the_guest_is(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate.Texts, "of", fail)
    error = PostcopyBroken("x")
    with pytest.raises(PostcopyBroken) as caught:
        scene.run(error)
    assert caught.value is error


# Bugs of ours


def fail(*args: Any, **options: Any) -> Any:
    raise RuntimeError("bug")


def test_display_that_fails_does_not_end_the_migration(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("update", "say_notes", "finish"):
        monkeypatch.setattr(migrate.Progress, name, fail)
    scene.run(idle, split, both(resumed, press), idle, DONE)
    assert scene.steps == []
    said = scene.said.splitlines()
    assert said[0] == (
        "note: unexpected, please report: RuntimeError: bug; the migration goes on"
    )
    assert said[1].startswith("the guest is split over both hosts")
    assert len(said) == 2


def test_display_that_fails_can_still_be_left(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate.Progress, "update", fail)
    with pytest.raises(LeftAlone):
        scene.run(split, press, press, resumed)
    assert scene.steps == []


def test_terminal_that_fails_does_not_end_the_migration(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Terminal, "say", fail)
    note = lambda scene: scene.see(Note("x"))  # noqa: E731
    scene.run(note, split, both(press, press), idle, DONE)
    assert scene.steps == []


def test_wait_that_fails_goes_on_until_the_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate.time, "sleep", lambda seconds: None)
    scene.run(split, RuntimeError("bug"), RuntimeError("bug"), DONE)
    assert scene.steps == [] and scene.said.count("please report") == 1


@pytest.mark.parametrize(
    "guest", [Place.SPLIT, Place.DESTINATION, Place.UNKNOWN, Place.LOST]
)
def test_end_that_cannot_be_told_is_not_taken_for_a_failure_on_the_source(
    scene: Scene, guest: Place
) -> None:
    scene.is_over, scene.guest = True, guest
    with pytest.raises(
        LeftAlone, match="RuntimeError: bug: it cannot be told"
    ) as caught:
        scene.run(RuntimeError("bug"))
    assert caught.value.guest == "unknown"


def test_end_that_cannot_be_told_on_the_source(scene: Scene) -> None:
    scene.is_over = True
    with pytest.raises(RuntimeError):
        scene.run(RuntimeError("bug"))
