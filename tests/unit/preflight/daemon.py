"""A daemon and a domain that answer what a preflight asks; everything else is as in :mod:`unit.fakes`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from libvirt_postcopy.constants import ErrorNumber
from unit.fakes import RUNNING, UUID, FakeConnection, FakeDomain, refused

__all__ = ["GUEST_XML", "Daemon", "Guest"]

GUEST_XML = f"""<domain type='qemu'><name>web1</name><uuid>{UUID}</uuid>
  <memory>131072</memory><os><type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type></os>
  <cpu mode='custom' check='full'><model>qemu64</model></cpu>
  <devices><emulator>/usr/bin/qemu</emulator></devices></domain>"""


class Daemon(FakeConnection):
    """A ``virConnect``.

    :ivar errors: What a call raises, by its name.
    :ivar created: XML and flags of the domains that were created.
    :ivar on_create: Runs when one is; may raise.
    """

    def __init__(self, uri: str = "qemu+tls://b/system", host_uuid: str = "bbbb") -> None:  # fmt: skip
        super().__init__(uri, host_uuid)
        self.errors: dict[str, Exception] = {}
        self.created: list[tuple[str, int]] = []
        self.on_create: Callable[[], None] = lambda: None
        self.pages: dict[int, dict[int, int]] = {}
        self.asked: list[tuple[Any, ...]] = []
        self.probe_answers: dict[str, Any] = {}

    def _tell(self, name: str, value: Any) -> Any:
        if name in self.errors:
            raise self.errors[name]
        return self._answer(value)

    def getLibVersion(self) -> int:
        return self._tell("getLibVersion", 11_003_000)

    def getType(self) -> str:
        return self._tell("getType", "QEMU")

    def getHostname(self) -> str:
        return self._tell("getHostname", "b.example")

    def getInfo(self) -> list[Any]:
        return self._tell("getInfo", ["x86_64", 4096, 2, 2000, 2, 1, 2, 1])

    def getFreeMemory(self) -> int:
        return self._tell("getFreeMemory", 1 << 30)

    def getMemoryStats(self, cellNum: int, flags: int = 0) -> dict[str, int]:
        assert cellNum == -1
        stats = {"total": 8000, "free": 1000, "buffers": 20, "cached": 300}
        return self._tell("getMemoryStats", stats)

    def getFreePages(
        self, pages: list[int], start: int, count: int, flags: int = 0
    ) -> dict[int, dict[int, int]]:
        assert (start, count) == (0, 2)
        return self._tell("getFreePages", self.pages)

    def getDomainCapabilities(self, *emulation: Any) -> str:
        self.asked.append(emulation)
        return self._tell("getDomainCapabilities", "<domainCapabilities/>")

    def compareHypervisorCPU(self, *emulation: Any) -> int:
        self.asked.append(emulation)
        return self._tell("compareHypervisorCPU", 2)

    def createXML(self, xml: str, flags: int = 0) -> Guest:
        self.created.append((xml, int(flags)))
        self._tell("createXML", None)
        made = Guest(self, uuid=xml.partition("<uuid>")[2].partition("<")[0])
        made.answers.update(self.probe_answers)
        self.on_create()
        return made


class Guest(FakeDomain):
    """A ``virDomain`` whose QEMU has more answers.

    :ivar answers: What QEMU's monitor returns, or an exception to be raised, by command.
    """

    def __init__(self, connection: Daemon, uuid: str = UUID, state: tuple[int, int] = RUNNING) -> None:  # fmt: skip
        super().__init__(connection, uuid, state)
        self.xml = GUEST_XML
        self.number = 7
        self.commands: list[dict[str, Any]] = []
        self.answers: dict[str, Any] = {
            "query-version": {"qemu": {"major": 7, "minor": 2, "micro": 22}},
            "query-migrate-capabilities": [
                {"capability": "postcopy-ram", "state": False}
            ],
            "query-migrate": {},
            "migrate-set-capabilities": {},
        }

    def ID(self) -> int:
        return self.number

    def XMLDesc(self, flags: int = 0) -> str:
        if "XMLDesc" in self.errors:
            raise self.errors["XMLDesc"]
        return self.xml

    def destroy(self) -> int:
        self._do("destroy")
        self.connection.domains.remove(self)
        return 0

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        self.commands.append(command)
        if "monitor" in self.errors:
            raise self.errors["monitor"]
        value = self.answers[command["execute"]]
        if isinstance(value, BaseException):
            raise value
        if isinstance(value, str):
            return {"error": {"class": "GenericError", "desc": value}}
        return {"return": value}


DENIED = refused(ErrorNumber.VIR_ERR_OPERATION_DENIED, "read only access prevents this")
