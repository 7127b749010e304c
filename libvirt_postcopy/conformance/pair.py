"""Two fresh QEMUs, and what a scenario does with them."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from libvirt_postcopy.conformance import host
from libvirt_postcopy.conformance.evidence import Exchange, Line
from libvirt_postcopy.conformance.guest import PAGE, Guest
from libvirt_postcopy.conformance.introspection import Facts
from libvirt_postcopy.conformance.link import Link
from libvirt_postcopy.conformance.machine import Machine, Target
from libvirt_postcopy.conformance.memory import filler, judge_memory
from libvirt_postcopy.conformance.monitor import Gone, Hung, Record, Stopped

__all__ = ["Pair", "Refused", "Setup", "Side", "Unavailable"]

MIB = 1 << 20
STEP_S = 10.0
BREAK_S = 15.0
START_S = 30.0
ENDS = ("completed", "failed", "cancelled")


class Unavailable(Stopped):
    """This machine has not what the scenario needs."""


class Refused(Stopped):
    """A QEMU refuses what it says it can do, so that the scenario cannot go on."""


@dataclass(frozen=True)
class Setup:
    """How the two QEMUs are started."""

    guest: Guest = Guest()
    dst_is_stopped: bool = True  #: ``-S``
    src_extra: Sequence[str] = ()
    dst_extra: Sequence[str] = ()
    src_memory: Sequence[str] = ()
    dst_memory: Sequence[str] = ()
    monitors: int = 1
    oob: bool = False
    is_alone: bool = False  #: no destination
    dst_guest: Guest | None = None
    dst_is_unprivileged: bool = False  #: a user who may not use userfaultfd
    needs: Sequence[str] = ()  #: of this machine, as :func:`.host.missing` knows it
    places: Mapping[str, str] = field(
        default_factory=dict
    )  #: for ``{name}`` in the arguments


class Side:
    """One QEMU of a pair."""

    def __init__(self, machine: Machine, pair: Pair) -> None:
        self.machine = machine
        self.name = machine.side
        self._pair = pair

    def cmd(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        oob: bool = False,
        timeout_s: float = STEP_S,
    ) -> Exchange:
        """Send a command; a refusal is an answer."""
        return self.machine.monitor.cmd(name, arguments, oob=oob, timeout_s=timeout_s)

    def capabilities(self, states: Mapping[str, bool]) -> Exchange:
        return self.cmd(
            "migrate-set-capabilities",
            {
                "capabilities": [
                    {"capability": name, "state": state}
                    for name, state in states.items()
                ]
            },
        )

    def parameters(self, values: Mapping[str, Any]) -> Exchange:
        return self.cmd("migrate-set-parameters", values)

    def status(self) -> str:
        value = self.cmd("query-migrate").value
        return str(value.get("status", "")) if isinstance(value, dict) else ""

    def wait(
        self, *names: str, after: Line | None = None, timeout_s: float = STEP_S
    ) -> Line:
        """Wait for an event, or for a ``MIGRATION`` event with a status.

        :param after: Only what comes later counts.
        """
        return self._pair.record.wait(
            lambda line: line.side == self.name
            and line.dir == "event"
            and (line.event in names or line.status in names),
            " or ".join(names),
            since=0 if after is None else after.number,
            timeout_s=timeout_s,
            gone=self.name,
        )

    def settle(self, name: str, most: int = 50) -> bool:
        """Wait for a run state that may not come; no event tells all of them.

        :param most: How often it is asked for, fifty times a second.
        """
        for _ in range(most):
            if self.cmd("query-status").value.get("status") == name:
                return True
            self._pair.record.pause(0.02)
        return False

    def wait_run_state(self, name: str) -> None:
        """Wait for a run state; no event tells it.

        :raises Hung: If it does not come.
        """
        if self.settle(name, 500):
            return
        self._pair.record.add(self.name, "timeout", f"run state {name}")
        raise Hung(f"{self.name}: no run state {name}")

    def has_seen(self, *names: str) -> bool:
        return any(
            line.side == self.name and (line.event in names or line.status in names)
            for line in list(self._pair.record.lines)
        )

    @property
    def hangs(self) -> bool:
        """Whether an answer of its monitor was waited for in vain."""
        return any(
            line.dir == "timeout" and line.side == self.name and str(line.msg).startswith("an answer")  # fmt: skip
            for line in self._pair.record.lines
        )

    def settle_or_end(self, *names: str, after: Line, timeout_s: float = 1.0) -> None:
        """Wait for a status, or for the end of either side; that nothing of it comes is an answer, too."""
        with contextlib.suppress(Stopped):
            self._pair.record.wait(
                lambda line: line.dir == "eof"
                or (line.side == self.name and line.status in names),
                "",
                since=after.number,
                timeout_s=timeout_s,
            )

    def wait_ended(self, timeout_s: float = STEP_S) -> None:
        """Wait until its monitor has ended."""
        with contextlib.suppress(Gone):
            self._pair.record.wait(
                lambda line: line.side == self.name and line.dir == "eof",
                "its end",
                timeout_s=timeout_s,
            )


class Pair:
    """A source and a destination; whatever is started through it is ended by :meth:`close`."""

    def __init__(
        self,
        targets: tuple[Target, Target],
        facts: tuple[Facts, Facts],
        folder: Path,
        record: Record,
        setup: Setup,
        machine: str = "",
    ) -> None:
        self.record = record
        self.folder = folder
        self.setup = setup
        self.facts = facts[0]
        self.dst_facts = facts[1]
        self.board = targets[0].board
        self._targets = targets
        self._machine = machine
        self._closers: list[Any] = []
        self.uri = ""
        self.link: Link | None = None
        self._idle_threads = 0
        older = self._older_machine()
        if not older and any("{older}" in word for word in setup.dst_extra):
            raise Unavailable("not runnable here: this QEMU has no older machine type")
        self._names = {"folder": str(folder), "older": older, **setup.places}
        (folder / "keys.psk").write_text(f"qemu:{secrets.token_hex(16)}\n")
        try:
            self.src = self._start(
                "src", targets[0], setup.guest, setup.src_extra, setup.src_memory
            )
            if not setup.is_alone:
                self.dst = self.start_destination("dst")
            for side in (self.src,) if setup.is_alone else (self.src, self.dst):
                for monitor in side.machine.monitors:
                    monitor.start(oob=setup.oob)
            if not setup.is_alone:
                self._idle_threads = self.dst.machine.threads()
                self.await_guest("src")
        except BaseException:
            self.close()
            raise

    def _older_machine(self) -> str:
        """The last machine type but one that is a release's own; the board's is the last."""
        found = filter(self.board.release_of, self.dst_facts.machines)
        return "".join(sorted(found, key=self.board.release_of)[-2:-1])

    def await_guest(self, side: str, after: Line | None = None) -> None:
        """Wait until the guest has filled its memory, so that all of it has a meaning."""
        letter = "B" if self.setup.guest.working_pages else "F"
        self.record.wait(
            lambda line: line.dir == "serial"
            and line.side == side
            and line.msg == letter,
            "the guest's start",
            since=0 if after is None else after.number,
            timeout_s=START_S,
            gone=side,
        )

    def _start(
        self,
        name: str,
        target: Target,
        guest: Guest,
        extra: Sequence[str],
        memory: Sequence[str],
        *,
        is_unprivileged: bool = False,
    ) -> Side:
        machine = Machine(
            target,
            name,
            self.record,
            self.folder,
            guest=guest,
            machine=self._machine,
            extra=[word.format_map(self._names) for word in extra],
            memory=[word.format_map(self._names) for word in memory],
            monitors=self.setup.monitors,
            is_unprivileged=is_unprivileged,
        )
        self._closers.append(machine.end)
        return Side(machine, self)

    def start_destination(self, name: str) -> Side:
        """Start a QEMU that waits for ``migrate-incoming``."""
        stopped = ["-S"] if self.setup.dst_is_stopped else []
        extra = [*stopped, "-incoming", "defer"]
        return self._start(
            name,
            self._targets[1],
            self.setup.dst_guest or self.setup.guest,
            [*extra, *self.setup.dst_extra],
            self.setup.dst_memory,
            is_unprivileged=self.setup.dst_is_unprivileged,
        )

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.src, self.dst

    @property
    def postcopy(self) -> str:
        """The capability's name: QEMU 2.5 has it with x-."""
        caps = self.facts.capabilities
        return "postcopy-ram" if "postcopy-ram" in caps else "x-postcopy-ram"

    def prepare(
        self,
        src: Mapping[str, bool] | None = None,
        dst: Mapping[str, bool] | None = None,
        *,
        events: bool = True,
        both: Mapping[str, bool] | None = None,
    ) -> None:
        """Set capabilities on both; ``events`` and post-copy unless said otherwise.

        :raises Refused: If a QEMU refuses.
        """
        base = {"events": True} if events else {}
        base.update({self.postcopy: True} if both is None else both)
        for side, more in zip(self.sides, (src, dst)):
            answer = side.capabilities({**base, **(more or {})})
            if not answer.is_ok:
                raise Refused(f"{side.name} refuses {answer.arguments}: {answer.desc}")

    def set_tls(self) -> None:
        """Use the credentials that both were started with.

        :raises Refused: If a QEMU refuses.
        """
        for side in self.sides:
            answer = side.parameters({"tls-creds": "tls0"})
            if not answer.is_ok:
                raise Refused(f"{side.name} refuses tls-creds: {answer.desc}")

    def limit(self, pre_mib_s: float = 8, post_mib_s: float | None = 4) -> None:
        """Keep pre-copy from ending, and post-copy from being over at once."""
        self.src.parameters({"max-bandwidth": int(pre_mib_s * MIB)})
        if post_mib_s is not None:
            self.src.parameters({"max-postcopy-bandwidth": int(post_mib_s * MIB)})

    def release(self) -> None:
        """Let post-copy go as fast as it can."""
        self.src.parameters({"max-postcopy-bandwidth": 0})

    def address(self, kind: str = "tcp", name: str = "mig") -> str:
        """An address to listen on."""
        if kind == "unix":
            return f"unix:{self.folder}/{name}.sock"
        if kind == "vsock":
            with socket.socket(socket.AF_VSOCK) as free:
                free.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
                return f"vsock:{host.VMADDR_CID_LOCAL}:{free.getsockname()[1]}"
        if self.facts.version < (4, 0):
            with socket.create_server(("127.0.0.1", 0)) as free:
                return f"tcp:127.0.0.1:{free.getsockname()[1]}"
        return "tcp:[::1]:0" if kind == "tcp6" else "tcp:127.0.0.1:0"

    def listen(self, kind: str = "tcp", *, side: Side | None = None) -> str:
        """Let the destination listen, and return where.

        :raises Refused: If it cannot.
        """
        side = side or self.dst
        uri = self.address(kind)
        answer = side.cmd("migrate-incoming", {"uri": uri})
        if not answer.is_ok:
            raise Refused(f"{side.name} cannot listen at {uri}: {answer.desc}")
        self.uri = self.real_address(uri, side)
        return self.uri

    def real_address(self, uri: str, side: Side) -> str:
        """Find the port that QEMU has chosen."""
        if not uri.endswith(":0"):
            return uri
        found = side.cmd("query-migrate").value.get("socket-address") or [{}]
        port = found[0].get("port", "0")
        return f"{uri[:-1]}{port}"

    def through_link(self) -> str:
        """Put a link that can be cut between the two, and return its address."""
        kind, _, rest = self.uri.partition(":")
        if kind == "unix":
            self.link = Link(rest)
        else:
            host, _, port = rest.rpartition(":")
            self.link = Link((host.strip("[]"), int(port)))
        self._closers.append(self.link.close)
        return self.link.uri

    def cut(self) -> None:
        assert self.link is not None
        self.record.add("src", "act", "link cut")
        self.link.cut()

    def migrate(self, uri: str = "", **more: Any) -> Exchange:
        return self.src.cmd("migrate", {"uri": uri or self.uri, **more})

    def resume(self, uri: str, **more: Any) -> Exchange:
        """Let the source go on over a new channel to where the destination listens, when it may; :meth:`migrate` would at once."""
        self._let_rest()
        return self.migrate(uri, resume=True, **more)

    def start_postcopy(self) -> Exchange:
        return self.src.cmd("migrate-start-postcopy")

    def to_precopy(self, *, linked: bool = False, kind: str = "tcp") -> None:
        """Listen, migrate and wait until memory is copied."""
        self.listen(kind)
        self.migrate(self.through_link() if linked else "")
        self.src.wait("active", "failed")

    def to_postcopy(
        self, *, linked: bool = False, kind: str = "tcp", resume: bool = True
    ) -> None:
        """Go on until the source says that post-copy is active, and let the guest run there.

        :param resume: Send the destination a ``cont``, as it was started with ``-S``.
        """
        self.to_precopy(linked=linked, kind=kind)
        self.start_postcopy()
        self.src.wait("postcopy-active", "failed")
        self.dst.wait("postcopy-active", "failed")
        if resume and self.setup.dst_is_stopped:
            self.dst.cmd("cont")
        if resume:
            self.dst.wait("RESUME")

    def wait_broken(self) -> None:
        """Wait until both sides know that the link is gone."""
        self.src.wait("postcopy-paused", "failed", timeout_s=BREAK_S)
        self.dst.wait("postcopy-paused", "failed", timeout_s=BREAK_S)

    def recover(self, kind: str = "unix", name: str = "again", **more: Any) -> Exchange:
        """Give both a new channel.  The first in-band answer of a destination may wait for a page, so out of band."""
        uri = self.address(kind, name)
        answer = self.dst.cmd("migrate-recover", {"uri": uri}, oob=True)
        if not answer.is_ok:
            return answer
        return self.resume(self.real_address(uri, self.dst), **more)

    def _let_rest(self) -> None:
        """Wait until the source has nothing more to do with the channel that broke.

        Before 8.1.2 (commit ef796ee93b, "migration: Replace the return path retry logic") that takes the thread that reads the
        return path.  A resume that comes before that thread has put the old channel away loses the new one; the source then
        crashes.  No check is about that, and no event tells when it is done: so all threads have to be at rest.
        """
        if self.facts.version >= (8, 1, 2):
            return
        quiet = 0
        for _ in range(200):
            quiet = quiet + 1 if self.src.machine.is_at_rest() else 0
            if quiet == 3:
                return
            self.record.pause(0.005)

    def finish(self, after: Line | None = None) -> None:
        """Let it come to its end on both sides."""
        self.release()
        self.src.wait(*ENDS, after=after, timeout_s=BREAK_S)
        self.dst.wait("completed", "failed", after=after, timeout_s=BREAK_S)
        self.let_listener_end()

    def let_listener_end(self) -> None:
        """Wait until the destination has put away what it has listened with.

        In 5.2 to 10.0 the thread that receives the pages does so after completed, beside the main loop: it frees the address that
        query-migrate tells, and QEMU may die of a question just then (seen once with 5.2, SIGABRT).  No check is about that.  A
        later QEMU is asked at once, so that one that dies of it is seen.
        """
        if self.dst_facts.version[:2] > (10, 0):
            return
        for _ in range(100):
            if self.dst.machine.threads() <= self._idle_threads:
                return
            self.record.pause(0.005)

    def look(self) -> None:
        """Record how both sides stand."""
        for side in self.sides:
            side.cmd("query-migrate")
            side.cmd("query-status")

    def verify_memory(self, side: Side | None = None) -> None:
        """Stop the guest and compare its memory to the byte."""
        side = side or self.dst
        guest = self.setup.guest
        path = self.folder / f"{side.name}.dump"
        side.cmd("stop")
        dump = side.cmd(
            "pmemsave",
            {
                "val": self.board.first_page,
                "size": self.board.dump_bytes(guest),
                "filename": str(path),
            },
            timeout_s=30,
        )
        if not dump.is_ok:
            self.record.add(side.name, "note", f"no dump: {dump.desc}")
            return
        report = judge_memory(path.read_bytes(), guest, self.board)
        path.unlink()
        self.record.add(side.name, "memory", report.to_json())

    def read_page(self, number: int) -> None:
        """Read one page of the destination's guest, and record its first word beside what it must be."""
        path = self.folder / "page"
        address = self.board.address(number)
        answer = self.dst.cmd("pmemsave", {"val": address, "size": PAGE, "filename": str(path)})  # fmt: skip
        if answer.is_ok:
            word = int.from_bytes(path.read_bytes()[:4], "little")
        else:  # since 11.1: not allowed during migration
            line = f"xp /1wx {address:#x}"
            answer = self.dst.cmd("human-monitor-command", {"command-line": line})
            text = str(answer.value).strip().rpartition(" ")[2]
            if not answer.is_ok or not text.startswith("0x"):
                raise Refused(f"a guest's page cannot be read: {answer.said}")
            word = int(text, 16)
        self.record.add("dst", "memory", {"page-read": word, "expected": filler(address), "bad-pages": 0, "pages": 1, "edges": 0})  # fmt: skip

    def note_resident(self, side: Side) -> None:
        """Record how much memory a QEMU has resident."""
        with contextlib.suppress(OSError):
            for row in Path(f"/proc/{side.machine.process.pid}/status").read_text().splitlines():  # fmt: skip
                if row.startswith(("RssShmem:", "VmRSS:")):
                    self.record.add(side.name, "note", {"rss-kib": int(row.split()[1])})
                    return

    def end_normally(self) -> None:
        """What every scenario ends with: a completed migration has its memory verified, once."""
        if self.setup.is_alone:
            return
        lines = self.record.lines
        has_completed = any(
            line.side == "src" and line.status == "completed" for line in lines
        )
        is_verified = any(
            line.dir == "memory" and "sweep" in line.msg for line in lines
        )
        with contextlib.suppress(Stopped):
            if has_completed and not is_verified and self.dst.machine.is_alive:
                self.dst.wait("completed", "failed")
                self.verify_memory()
        for side in self.sides:
            with contextlib.suppress(Gone, Hung):
                if side.machine.is_alive and not side.hangs:
                    side.cmd("query-status")

    def close(self) -> None:
        """End everything; what the one says of the other's end is not recorded."""
        self.record.close()
        while self._closers:
            closer = self._closers.pop()
            with contextlib.suppress(OSError):
                closer()
