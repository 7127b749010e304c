"""A whole run: several QEMUs, all checks, and every ordered pair of versions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from libvirt_postcopy.conformance import host, machine, transcript
from libvirt_postcopy.conformance.boards import PC, Board
from libvirt_postcopy.conformance.evidence import Conversation
from libvirt_postcopy.conformance.introspection import Facts
from libvirt_postcopy.conformance.live import (
    Bench,
    board_of,
    converse,
    examine,
    find_qemu,
    run_all,
)
from libvirt_postcopy.conformance.machine import Target
from libvirt_postcopy.conformance.registry import CHECKS, Check, outcomes
from libvirt_postcopy.conformance.scenarios import SCENARIOS, Scenario
from libvirt_postcopy.conformance.verdicts import (
    Subject,
    Verdict,
    gate,
    judge_all,
)
from libvirt_postcopy.errors import UsageError

__all__ = ["CROSS", "Options", "Pairing", "release_path", "run", "run_pairs"]

_TOOL = Path(__file__).parents[2] / "tools" / "qemu-versions"


@dataclass(frozen=True)
class Options:
    """How a run is done."""

    workers: int = 2
    quick: bool = False
    record: Path | None = None
    say: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Pairing:
    """A migration from one version to another."""

    source: str
    destination: str
    machine: str
    verdict: Verdict
    reason: str = ""


def release_path(release: str) -> str:
    """Return the QEMU of another release, as ``tools/qemu-versions`` has it.

    :raises UsageError: If it has none.
    """
    if not os.access(_TOOL, os.X_OK):
        raise UsageError(f"--release {release} needs tools/qemu-versions of the project's folder", cure="name a QEMU with --qemu PATH")  # fmt: skip
    done = subprocess.run([str(_TOOL), "path", release], capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        text = (
            done.stderr.strip().removeprefix("error: ") or f"status {done.returncode}"
        )
        raise UsageError(f"release {release}: {text}")
    return done.stdout.strip()


def scenarios_of(
    chosen: Sequence[Check], facts: Facts, options: Options, accel: str
) -> list[Scenario]:
    """What has to be driven for some checks; in a quick run only what is quick."""
    wanted = {
        name
        for check in chosen
        if not gate(check, facts, accel) and "*" not in check.scenarios
        for name in check.scenarios
    }
    return [
        each
        for each in SCENARIOS.values()
        if each.name in wanted
        and (each.is_quick or not options.quick)
        and all(facts.has(need) for need in each.needs)
        and each.accel in ("", accel)
    ]


def run(
    targets: Sequence[Target], chosen: Sequence[Check], options: Options
) -> list[Subject]:
    """Run the checks on each QEMU, one after the other, with several pairs side by side."""
    found: list[Subject] = []
    with Bench.open() as bench:
        for target in targets:
            taken = {subject.label for subject in found}
            found.append(_run_one(bench, target, chosen, options, taken))
    return found


def _run_one(
    bench: Bench,
    target: Target,
    chosen: Sequence[Check],
    options: Options,
    taken: Collection[str],
) -> Subject:
    """One that does not start is a finding, too: those before and after it keep theirs."""
    begin = time.monotonic()
    with _memory_watched() as peak:
        try:
            facts, introspection = examine(bench, target)
        except UsageError as error:
            return Subject(str(target), Facts(version=()), problem=str(error))
        label = _label(target, facts, taken)
        if any("introspection" in check.scenarios for check in chosen):
            options.say(f"{facts.text}: introspection")
        todo = [each for each in scenarios_of(chosen, facts, options, target.accel) if each.name != "introspection"]  # fmt: skip
        # The longest first, so that none is left alone at the end.
        todo.sort(key=lambda each: each.name not in _LONG)
        found = {"introspection": replace(introspection, facts=facts, _cache={})}
        jobs = [_job(bench, each, target, facts) for each in todo]

        def done(seen: Conversation) -> None:
            found[seen.scenario] = replace(seen, facts=facts, _cache={})
            options.say(
                f"{facts.text}: {seen.scenario} ({len(found)} of {len(todo) + 1})"
            )

        run_all(bench, jobs, options.workers, done)
    if options.record is not None:
        save(found, options.record / _file_name(label).lower())
    ran = [
        check
        for check in chosen
        if not options.quick
        or "*" in check.scenarios
        or any(name in found for name in check.scenarios)
    ]
    findings = judge_all(ran, found.values(), facts, target.accel)
    subject = Subject(
        label,
        facts,
        findings,
        time.monotonic() - begin,
        peak[0],
        str(introspection.header.get("package", "")),
    )
    subject.problem = _problem(subject, todo)
    return subject


def _label(target: Target, facts: Facts, taken: Collection[str]) -> str:
    """What a QEMU is called in reports; two builds of one version are two QEMUs."""
    kind = "" if target.board is PC else f" {target.board.target}"
    label = target.label or f"QEMU {facts.text}{kind}"
    return f"{label} {target.path}" if label in taken else label


def _file_name(label: str) -> str:
    return re.sub("[ /]+", "-", label)


def _problem(subject: Subject, driven: Sequence[Scenario]) -> str:
    """Why a run says nothing of post-copy, or empty."""
    reason = host.userfaultfd_missing(subject.facts.version) if driven else ""
    if not reason and not subject.has_run:
        reason = next((f.reason for f in subject.findings if f.check.is_driven), "nothing was chosen")  # fmt: skip
    return f"no post-copy was seen: {reason}" if reason else ""


#: These take some seconds; all others take less than one.
_LONG = ("random-cancels", "multifd", "mismatch-preempt-destination", "migrate-on-destination", "paused-long", "abuse-destination", "recover-fd-preempt")  # fmt: skip


def _job(
    bench: Bench, scenario: Scenario, target: Target, facts: Facts
) -> Callable[[], Conversation]:
    return lambda: converse(bench, scenario, (target, target), (facts, facts))


def save(found: Mapping[str, Conversation], folder: Path) -> None:
    """Write conversations down, each with the verdicts that it got.

    :raises UsageError: If they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, seen in found.items():
            judged = replace(seen, header={**seen.header, "verdicts": outcomes(seen)})  # fmt: skip
            (folder / f"{name}.ndjson").write_text(transcript.dumps(judged), encoding="utf-8")  # fmt: skip
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from error


@contextmanager
def _memory_watched() -> Iterator[list[float]]:
    """Keep the most that all QEMUs of this process had resident at a time, in MiB, in a list's only place."""
    peak = [0.0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            peak[0] = max(peak[0], sum(map(_resident_mib, machine.running_ids())))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join(2)


def _resident_mib(pid: int) -> float:
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    return 0.0


_AUTOSTART = SCENARIOS["post-copy-autostart"]


CROSS = replace(_AUTOSTART, name="cross", setup=replace(_AUTOSTART.setup, dst_is_stopped=True))  # fmt: skip


def common_machine(one: Facts, two: Facts, board: Board) -> str:
    """The newest of a release's machine types that both have, or empty."""
    both = filter(board.release_of, one.machines & two.machines)
    return max(both, key=board.release_of, default="")


def run_pairs(targets: Sequence[Target], options: Options) -> list[Pairing]:
    """Migrate from each QEMU to each other."""
    with Bench.open() as bench:
        ends = [_End.of(bench, target) for target in targets]
        _tell_apart(ends)
        kept: dict[str, Conversation] = {}
        found = [
            _run_pair(bench, one, two, options, kept)
            for one in ends
            for two in ends
            if one is not two
        ]
    if options.record is not None:
        save(kept, options.record / "cross")
    return found


@dataclass
class _End:
    """One QEMU of a matrix."""

    target: Target
    facts: Facts
    label: str
    problem: str = ""

    @classmethod
    def of(cls, bench: Bench, target: Target) -> _End:
        try:
            facts = examine(bench, target)[0]
        except UsageError as error:
            return cls(target, Facts(version=()), str(target), str(error))
        return cls(target, facts, _label(target, facts, ()).removeprefix("QEMU "))


def _tell_apart(ends: Sequence[_End]) -> None:
    """Two builds of one version are two QEMUs."""
    labels = [end.label for end in ends]
    for end in ends:
        if labels.count(end.label) > 1:
            end.label = f"{end.label} {end.target}"


def _run_pair(
    bench: Bench, one: _End, two: _End, options: Options, kept: dict[str, Conversation]
) -> Pairing:
    name = common_machine(one.facts, two.facts, one.target.board)
    problem = one.problem or two.problem
    if problem or not name:
        verdict = Verdict.FAIL if problem else Verdict.SKIP
        return Pairing(one.label, two.label, name, verdict, problem or "no machine type that both have")  # fmt: skip
    seen = converse(bench, CROSS, (one.target, two.target), (one.facts, two.facts), name)  # fmt: skip
    kept[_file_name(f"{one.label}-to-{two.label}")] = seen
    (finding,) = judge_all([CHECKS["memory/other-version"]], [seen], one.facts)
    options.say(f"{one.label} to {two.label}: {finding.verdict.value}")
    return Pairing(one.label, two.label, name, finding.verdict, finding.reason or finding.actual)  # fmt: skip


def targets_of(
    paths: Sequence[str], releases: Sequence[str], accel: str
) -> list[Target]:
    """Find the QEMUs that were asked for; this machine's own if none was."""
    words = [*paths, *map(release_path, releases)]
    if not words:
        own = f"qemu-system-{os.uname().machine}"
        words = [next(filter(shutil.which, (own, "qemu-system-x86_64", "/usr/libexec/qemu-kvm")), own)]  # fmt: skip
    if accel == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise UsageError("/dev/kvm cannot be used here", cure="leave --accel kvm out")
    return [_target(find_qemu(word), accel) for word in words]


def _target(path: str, accel: str) -> Target:
    board, own = board_of(path), os.uname().machine
    if accel == "kvm" and board.target != own:
        raise UsageError(f"'{path}' emulates {board.target}: there is no KVM for it on {own}", cure="leave --accel kvm out")  # fmt: skip
    return Target(path, accel, board=board)
