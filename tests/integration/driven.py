"""What the tests of the driver qemu have in common."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import libvirt
import libvirt_qemu
import pytest

import libvirt_postcopy as postcopy
from libvirt_postcopy.events import Resumed, Side, StatusSeen
from scenes.stage import Stage

__all__ = [
    "A",
    "B",
    "Check",
    "SLOW",
    "ask",
    "fails",
    "is_in_precopy",
    "is_split",
    "is_there",
    "kill_qemu",
    "migrate_by_qemu",
    "nothing_is_left",
    "taking",
]

Check = Callable[[], None]
A, B = "qemu+tcp://a/system", "qemu+tcp://b/system"
SLOW: dict[str, Any] = {"params": {"bandwidth.postcopy": 16}, "recover_bandwidth": 0}
"""Until it is resumed for the first time."""


def migrate_by_qemu(dom: libvirt.virDomain, **options: Any) -> postcopy.MigrationResult:
    return postcopy.migrate(dom, options.pop("to", B), driver="qemu", **options)


def is_there(seen: Resumed) -> bool:
    return seen.side is Side.DESTINATION


def is_in_precopy(seen: StatusSeen) -> bool:
    return seen.side is Side.SOURCE and seen.status == "active"


def is_split(seen: StatusSeen) -> bool:
    return seen.side is Side.SOURCE and seen.status == "postcopy-active"


def ask(stage: Stage, name: str, command: str) -> Any:
    """Ask the guest's QEMU on a host."""
    words = json.dumps({"execute": command})
    return json.loads(libvirt_qemu.qemuMonitorCommand(stage.find(name), words, 0))[
        "return"
    ]


def kill_qemu(stage: Stage, name: str) -> None:
    host = stage.lab.host(name)
    pid = host.path(f"/run/libvirt/qemu/{stage.name}.pid").read_text().strip()
    host.run(["kill", "-KILL", pid])


def fails(dom: libvirt.virDomain, match: str, **options: Any) -> None:
    with pytest.raises(postcopy.PostcopyError, match=match) as caught:
        migrate_by_qemu(dom, policy="manual", **options)
    assert getattr(caught.value, "guest", "source") == "source"


def nothing_is_left(stage: Stage, stayed: Check) -> None:
    stayed()
    assert stage.find("b") is None


class taking:
    """Something else listens on a port of b."""

    _PROGRAM = "import socket,sys; s=socket.create_server(('',int(sys.argv[1]))); print('on',flush=True); s.accept()"

    def __init__(self, stage: Stage, port: int) -> None:
        host = stage.lab.host("b")
        self._process = host.popen(
            ["python3", "-c", self._PROGRAM, str(port)], stdout=subprocess.PIPE
        )

    def __enter__(self) -> None:
        assert self._process.stdout.readline().strip() in ("on", b"on")

    def __exit__(self, *args: object) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
