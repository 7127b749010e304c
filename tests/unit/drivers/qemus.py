"""QEMUs for the driver that speaks to them: one that plays back what a real one said, and one that we can break."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from itertools import dropwhile
from pathlib import Path
from typing import Any

from libvirt_postcopy.constants import ErrorNumber
from unit.fakes import NO_DOMAIN, RUNNING, UUID, FakeConnection, FakeDomain, refused

XML = f"""<domain type='qemu'>
  <name>web1</name>
  <uuid>{UUID}</uuid>
  <memory unit='MiB'>64</memory>
</domain>
"""

PAUSED_AT_START = (3, 11)
PAUSED_BY_QEMU = (3, 0)
PAUSED_BY_USER = (3, 1)

Reply = dict[str, Any]


def ok(value: Any = None) -> Reply:
    return {"return": {} if value is None else value}


def refuse(desc: str, kind: str = "GenericError") -> Reply:
    return {"error": {"class": kind, "desc": desc}}


class Machine(FakeDomain):
    """A domain whose monitor is a QEMU of ours.

    :ivar sent: The commands that its QEMU was given.
    """

    qemu: Any = None

    def __init__(self, connection: FakeConnection, state: tuple[int, int]) -> None:
        super().__init__(connection, state=state)
        self.sent: list[dict[str, Any]] = []
        self.is_defined = False
        self.xml = XML

    def answer(self, command: dict[str, Any]) -> Reply:
        if "monitor" in self.errors:
            raise self.errors["monitor"]
        self.sent.append(command)
        reply: Reply = self.qemu.answer(command)
        return reply

    def emit(self, event: str, data: Any = None) -> None:
        details = None if data is None else json.dumps(data)
        self.connection.emit(event, self, event, 0, 0, details)

    @property
    def commands(self) -> list[str]:
        return [command["execute"] for command in self.sent]

    def state(self, flags: int = 0) -> list[int]:
        if self not in self.connection.domains:
            raise NO_DOMAIN
        return super().state(flags)

    def XMLDesc(self, flags: int = 0) -> str:
        return self.xml

    def isPersistent(self) -> int:
        return int(self.is_defined)

    def migrateGetMaxSpeed(self, flags: int = 0) -> int:
        return 0 if flags else 8796093022207

    def resume(self) -> int:
        self._do("resume")
        self.now = RUNNING
        self.qemu.has_resumed()
        return 0

    def destroy(self) -> int:
        self._do("destroy")
        if self in self.connection.domains:
            self.connection.domains.remove(self)
        return 0

    def undefineFlags(self, flags: int = 0) -> int:
        self._do("undefine", flags)
        self.is_defined = False
        return 0


class Daemon(FakeConnection):
    """A host; ``start`` makes the QEMU of a domain that is created there."""

    def __init__(self, uri: str, host_uuid: str) -> None:
        super().__init__(uri, host_uuid)
        self.start: Callable[[Machine], Any] = lambda machine: None
        self.loses_answer: Exception | None = None  #: what a caller gets of a creation
        self.created: list[str] = []
        self.defined: list[str] = []

    def getHostname(self) -> str:
        return "192.0.2.2"

    def createXML(self, xml: str, flags: int = 0) -> Machine:
        self._answer(None)
        self.created.append(xml)
        machine = Machine(self, PAUSED_AT_START)
        machine.xml = xml
        machine.qemu = self.start(machine)
        if self.loses_answer is not None:
            raise self.loses_answer
        return machine

    def defineXML(self, xml: str) -> None:
        self._answer(None)
        self.defined.append(xml)


class Hosts:
    """Two hosts, a guest on the first, and the way there."""

    def __init__(
        self, here: Callable[[Machine], Any], there: Callable[[Machine], Any]
    ) -> None:
        self.source = Daemon("fake:///a", "aaaa")
        self.destination = Daemon("fake:///b", "bbbb")
        self.destination.start = there
        self.dom = Machine(self.source, RUNNING)
        self.dom.qemu = here(self.dom)

    def open(self, uri: str | None, side: str = "") -> Daemon:
        return self.source if uri == "fake:///a" else self.destination

    @property
    def there(self) -> Machine:
        return self.destination.domains[-1]  # type: ignore[return-value]


# Played back


class Recording:
    """A conversation with two QEMUs, played back by what each is asked.

    A question is answered as the real one answered the same question at that point of the conversation.  A command
    that has an effect moves the conversation on to where it was given, and what both QEMUs announced after it, up to
    the next such command, is announced.
    """

    EFFECTS = ("migrate", "migrate-incoming", "migrate-start-postcopy")
    SETTING = "migrate-set-capabilities"  #: has an effect on one of them only, and announces nothing

    def __init__(self, path: Path) -> None:
        _, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        self.lines: list[dict[str, Any]] = lines
        self.at = 0
        self.set_at: dict[str, int] = {}
        self.machines: dict[str, Machine] = {}

    def player(self, peer: str) -> Callable[[Machine], Any]:
        def start(machine: Machine) -> Any:
            self.machines[peer] = machine
            return _Player(self, peer)

        return start

    def ask(self, peer: str, command: dict[str, Any]) -> Reply:
        name = command["execute"]
        asked = [
            index
            for index, line in enumerate(self.lines)
            if line["peer"] == peer and line["msg"].get("execute") == name
        ]
        if not asked:
            return refuse(f"The command {name} has not been found", "CommandNotFound")
        if name in self.EFFECTS:
            index = next(index for index in asked if index >= self.at)
            reply = self._reply(index)
            self._go_on(index)
            return reply
        if name == self.SETTING:
            self.set_at[peer] = asked[0]
        after = [index for index in asked if index > self.set_at.get(peer, -1)]
        now = [index for index in after if index < self._next_effect()]
        before = [index for index in now if index <= self.at]
        return self._reply(before[-1] if before else (now or asked)[0])

    def _next_effect(self) -> int:
        later = range(self.at + 1, len(self.lines))
        effects = (at for at in later if self._has_effect(self.lines[at]))
        return next(effects, len(self.lines))

    def _has_effect(self, line: dict[str, Any]) -> bool:
        return line["dir"] == "->" and line["msg"]["execute"] in self.EFFECTS

    def _reply(self, index: int) -> Reply:
        peer = self.lines[index]["peer"]
        reply: Reply = next(
            line["msg"]
            for line in self.lines[index:]
            if line["peer"] == peer
            and line["dir"] == "<-"
            and "event" not in line["msg"]
        )
        return reply

    def _go_on(self, index: int) -> None:
        events = []
        for at in range(index + 1, len(self.lines)):
            line = self.lines[at]
            if self._has_effect(line):
                break
            self.at = at
            if "event" in line["msg"]:
                events.append((line["peer"], line["msg"]))
        threading.Thread(target=self._announce, args=(events,), daemon=True).start()

    def _announce(self, events: list[tuple[str, dict[str, Any]]]) -> None:
        for peer, message in events:
            machine = self.machines[peer]
            if message["event"] == "STOP":
                machine.now = PAUSED_BY_QEMU
            if message["event"] == "RESUME" and peer == "dst":
                continue  # recorded without -S
            machine.emit(message["event"], message.get("data"))


class _Player:
    def __init__(self, recording: Recording, peer: str) -> None:
        self._recording = recording
        self._peer = peer

    def answer(self, command: dict[str, Any]) -> Reply:
        return self._recording.ask(self._peer, command)

    def has_resumed(self) -> None:
        self._recording.machines[self._peer].emit("RESUME")


# A model


class Pair:
    """Two QEMUs that migrate when they are told; ``replies`` replaces an answer to be given to (peer, command).

    :ivar on: What happens when a command was answered, by (peer, command).
    """

    CAPABILITIES = (
        "events", "postcopy-ram", "return-path", "late-block-activate", "multifd",
        "postcopy-preempt", "postcopy-blocktime", "release-ram",
    )  # fmt: skip

    def __init__(self) -> None:
        self.replies: dict[tuple[str, str], Reply] = {}
        self.on: dict[tuple[str, str], Callable[[], None]] = {}
        self.version = (7, 2, 0)
        self.missing: set[str] = set()  #: commands that they do not know
        self.dropped: set[str] = set()  #: accepted, and not on afterwards
        self.taken: set[str] = set()  #: ports at which something else listens
        self.has_link = True
        self.models: dict[str, Model] = {}
        self.resumed_at: list[str] = (
            []
        )  #: the source's status when the destination was resumed

    def start(self, peer: str) -> Callable[[Machine], Model]:
        def start(machine: Machine) -> Model:
            self.models[peer] = Model(self, peer, machine)
            return self.models[peer]

        return start

    def say(self, peer: str, status: str) -> None:
        self.models[peer].say(status)

    def complete(self) -> None:
        self.say("dst", "completed")
        self.say("src", "completed")
        self.models["src"].run_state = "postmigrate"

    def switch(self) -> None:
        source, destination = self.models["src"], self.models["dst"]
        source.say("postcopy-active")
        source.run_state = "finish-migrate"
        source.machine.now = PAUSED_BY_QEMU
        source.machine.emit("STOP")
        destination.run_state = "paused"
        destination.say("postcopy-active")

    def play(self, path: Path, hosts: Hosts) -> None:
        """Say what two real ones said from the switch on, until somebody did something."""
        lines = map(json.loads, path.read_text(encoding="utf-8").splitlines()[1:])
        for line in dropwhile(lambda line: not _is_asked(line, SWITCH), lines):
            if _is_asked(line, "cont"):
                return
            model = self.models.get(line["side"])
            if line["dir"] == "eof" and line["side"] == "dst":
                hosts.destination.domains.clear()
            elif line["dir"] == "event" and model is not None:
                model.announce(line["msg"]["event"], line["msg"].get("data"))


SWITCH = "migrate-start-postcopy"


def _is_asked(line: dict[str, Any], command: str) -> bool:
    return line["dir"] == "cmd" and line["msg"]["execute"] == command


class Model:
    def __init__(self, pair: Pair, peer: str, machine: Machine) -> None:
        self.pair = pair
        self.peer = peer
        self.machine = machine
        self.status: str | None = None
        self.run_state = "running" if peer == "src" else "inmigrate"
        self.capabilities = dict.fromkeys(pair.CAPABILITIES, False)
        self.capabilities["events"] = True
        self.parameters: dict[str, Any] = {
            "max-bandwidth": 134217728, "downtime-limit": 300, "max-postcopy-bandwidth": 0,
            "tls-creds": "", "tls-hostname": "",
        }  # fmt: skip
        self.port = 0
        self.sockets: dict[str, Any] = {}

    def say(self, status: str) -> None:
        self.status = status
        self.machine.emit("MIGRATION", {"status": status})

    def announce(self, event: str, data: Any) -> None:
        """Be in the state of which a recorded event speaks, and say it."""
        if event == "STOP":
            self.run_state, self.machine.now = "finish-migrate", PAUSED_BY_QEMU
        if event == "RESUME":
            self.run_state, self.machine.now = "running", RUNNING
        if event == "MIGRATION":
            self.status = data["status"]
        self.machine.emit(event, data)

    def has_resumed(self) -> None:
        self.run_state = "running"
        if self.peer == "dst":
            self.pair.resumed_at.append(str(self.pair.models["src"].status))
            self.machine.emit("RESUME")

    def answer(self, command: dict[str, Any]) -> Reply:
        name = command["execute"]
        key = (self.peer, name)
        if key in self.pair.replies:
            return self.pair.replies[key]
        method = getattr(self, "_" + name.replace("-", "_"), None)
        if method is None:
            return refuse(f"The command {name} has not been found", "CommandNotFound")
        reply: Reply = method(**_plain(command.get("arguments", {})))
        if key in self.pair.on:
            threading.Thread(target=self.pair.on[key], daemon=True).start()
        return reply

    def _query_migrate(self) -> Reply:
        info: dict[str, Any] = {}
        if self.status is not None:
            info["status"] = self.status
        if self.port:
            info["socket-address"] = [{"type": "inet", "port": str(self.port)}]
        if self.peer == "dst" and self.status == "completed":
            if self.capabilities["postcopy-blocktime"]:
                info["postcopy-blocktime"] = 42
        elif self.status in ("active", "postcopy-active", "completed"):
            info["ram"] = {"total": 1 << 26, "transferred": 1 << 25, "remaining": 0}
        return ok(info)

    def _query_status(self) -> Reply:
        return ok({"status": self.run_state})

    def _query_version(self) -> Reply:
        major, minor, micro = self.pair.version
        return ok({"qemu": {"major": major, "minor": minor, "micro": micro}})

    def _query_commands(self) -> Reply:
        names = (name[1:].replace("_", "-") for name in dir(Model) if name[0] == "_")
        known = {*names, "announce-self", "yank"} - self.pair.missing
        return ok([{"name": name} for name in sorted(known)])

    def _query_migrate_capabilities(self) -> Reply:
        listed = self.capabilities.items()
        return ok([{"capability": name, "state": on} for name, on in listed])

    def _migrate_set_capabilities(self, capabilities: list[dict[str, Any]]) -> Reply:
        for each in capabilities:
            if each["capability"] not in self.pair.dropped:
                self.capabilities[each["capability"]] = each["state"]
        return ok()

    def _query_migrate_parameters(self) -> Reply:
        return ok(dict(self.parameters))

    def _migrate_set_parameters(self, **given: Any) -> Reply:
        self.parameters.update(
            {name.replace("_", "-"): value for name, value in given.items()}
        )
        return ok()

    def _migrate_incoming(self, uri: str) -> Reply:
        if uri.startswith("unix:"):
            return ok()
        self.port = int(uri.split(",")[0].rpartition(":")[2])
        return ok()

    def _migrate(self, uri: str, resume: bool = False) -> Reply:
        if not resume:
            self.say("setup")
            self.pair.say("dst", "active")
            self.say("active")
        return ok()

    def _migrate_start_postcopy(self) -> Reply:
        return ok()

    def _migrate_recover(self, uri: str) -> Reply:
        if uri.startswith("unix:"):
            return ok()
        self.port = int(uri.split(",")[0].rpartition(":")[2]) + 1
        return ok()

    def _migrate_pause(self) -> Reply:
        return ok()

    def _chardev_add(self, id: str, backend: dict[str, Any]) -> Reply:
        data = backend["data"]
        address = data["addr"]["data"]
        if data["server"] and address["port"] in self.pair.taken:
            return refuse("Failed to bind socket: Address already in use")
        self.sockets[id] = address
        return ok()

    def _query_chardev(self) -> Reply:
        other = self.pair.models["dst" if self.peer == "src" else "src"]
        return ok(
            [
                {
                    "label": name,
                    "filename": (
                        "tcp:"
                        if address == other.sockets.get(name) and self.pair.has_link
                        else "disconnected:tcp:"
                    ),
                }
                for name, address in self.sockets.items()
            ]
        )

    def _chardev_remove(self, id: str) -> Reply:
        if id not in self.sockets:
            return refuse(f"Chardev '{id}' not found")
        del self.sockets[id]
        return ok()

    def _object_add(self, **given: Any) -> Reply:
        return ok()

    def _object_del(self, id: str) -> Reply:
        return ok()

    def _migrate_cancel(self) -> Reply:
        self.say("cancelling")
        self.say("cancelled")
        return ok()

    def _cont(self) -> Reply:
        self.run_state = "running"
        return ok()


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("-", "_"): value for name, value in arguments.items()}


NO_LOCK = refused(
    ErrorNumber.VIR_ERR_OPERATION_TIMEOUT,
    "Timed out during operation: cannot acquire state change lock",
)
