from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import pytest

from libvirt_postcopy.errors import NotSupportedError
from libvirt_postcopy.qmp.commands import CommandError, MonitorError, Qemu, value_of


class Script:
    """A monitor that answers by a table and keeps what it was sent."""

    side = "source"

    def __init__(self, **replies: Any) -> None:
        self.replies = {name.replace("_", "-"): it for name, it in replies.items()}
        self.sent: list[tuple[str, Any]] = []

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        self.sent.append((command, arguments))
        reply = self.replies.get(command.replace("_", "-"), {})
        if isinstance(reply, list) and reply and isinstance(reply[0], Exception):
            raise reply.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


def caps(**states: bool) -> list[dict[str, Any]]:
    listed = states.items()
    return [{"capability": name.replace("_", "-"), "state": on} for name, on in listed]


def test_capabilities_are_read_back() -> None:
    script = Script(query_migrate_capabilities=caps(x_postcopy_ram=True, events=True))
    Qemu(script).set_capabilities({"x-postcopy-ram": True})
    assert script.sent[0] == (
        "migrate-set-capabilities",
        {"capabilities": [{"capability": "x-postcopy-ram", "state": True}]},
    )


@pytest.mark.parametrize("after", [caps(postcopy_ram=False), caps(events=True)])
def test_dropped_capability_is_an_error(after: Any) -> None:
    qemu = Qemu(Script(query_migrate_capabilities=after))
    with pytest.raises(NotSupportedError, match="postcopy-ram and then dropped"):
        qemu.set_capabilities({"postcopy-ram": True})


def test_nothing_is_sent_where_nothing_is_to_be_switched() -> None:
    script = Script()
    Qemu(script).set_capabilities({})
    assert script.sent == []


def test_old_commands_where_there_is_no_parameter() -> None:
    names = [{"name": "migrate_set_speed"}, {"name": "migrate_set_downtime"}]
    script = Script(
        query_migrate_parameters={"compress-level": 1}, query_commands=names
    )
    Qemu(script).set_parameters({"max-bandwidth": 1024, "downtime-limit": 300})
    assert ("migrate_set_speed", {"value": 1024}) in script.sent
    assert ("migrate_set_downtime", {"value": 0.3}) in script.sent
    assert "migrate-set-parameters" not in [command for command, _ in script.sent]


def test_parameter_that_it_has_in_no_way() -> None:
    script = Script(query_migrate_parameters={}, query_commands=[{"name": "migrate"}])
    with pytest.raises(NotSupportedError, match="max-postcopy-bandwidth"):
        Qemu(script).set_parameters({"max-postcopy-bandwidth": 1})


def test_command_list_is_read_once() -> None:
    script = Script(query_commands=[{"name": "migrate-recover"}])
    qemu = Qemu(script)
    assert qemu.has_command("migrate-recover") and not qemu.has_command("yank")
    assert len(script.sent) == 1


@pytest.mark.parametrize(
    ("reply", "status"), [({}, "none"), ({"status": "new"}, "new"), ("?", "none")]
)
def test_status_that_is_not_told_is_none(reply: Any, status: str) -> None:
    assert Qemu(Script(query_migrate=reply)).status() == status


@pytest.mark.parametrize(
    ("addresses", "ports"),
    [
        ([{"type": "inet", "port": "49153"}, {"port": "49152"}], (49153, 49152)),
        ([{"type": "unix", "path": "/x"}], ()),
        (None, ()),
        ("49152", ()),
        ([7], ()),
    ],
)
def test_listening_ports(addresses: Any, ports: tuple[int, ...]) -> None:
    script = Script(query_migrate={"socket-address": addresses})
    assert Qemu(script).listening_ports() == ports


def test_resume_is_said_only_when_it_is_one() -> None:
    script = Script()
    qemu = Qemu(script)
    qemu.migrate("tcp:h:1")
    qemu.migrate("tcp:h:1", resume=True)
    assert [given for _, given in script.sent] == [
        {"uri": "tcp:h:1"},
        {"uri": "tcp:h:1", "resume": True},
    ]


def test_credentials_before_qemu_6_have_props() -> None:
    old = CommandError("object-add", "GenericError", "Parameter 'dir' is unexpected")
    script = Script(object_add=[old])
    Qemu(script).add_tls_credentials("c", "/etc/pki/qemu", is_server=True)
    given = script.sent[-1][1]
    assert given["props"] == {"dir": "/etc/pki/qemu", "endpoint": "server", "verify-peer": True}  # fmt: skip


def test_credentials_that_cannot_be_read_are_not_tried_twice() -> None:
    error = CommandError("object-add", "GenericError", "Unable to access credentials")
    script = Script(object_add=error)
    with pytest.raises(CommandError, match="credentials"):
        Qemu(script).add_tls_credentials("c", "/x", is_server=False)
    assert len(script.sent) == 1


def test_version_is_written_as_libvirt_writes_it() -> None:
    numbers = {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": "Debian"}
    assert Qemu(Script(query_version=numbers)).version() == 7_002_022


def test_value_of_a_reply() -> None:
    assert value_of("x", {"return": []}, "source") == []
    with pytest.raises(CommandError, match="refused x: no") as caught:
        value_of("x", {"error": {"class": "CommandNotFound", "desc": "no"}}, "source")
    assert caught.value.is_unknown_command and caught.value.side == "source"
    assert pickle.loads(pickle.dumps(caught.value)).desc == "no"


@pytest.mark.parametrize("reply", [{}, [], None, {"error": "x"}, "text"])
def test_what_is_no_reply(reply: Any) -> None:
    with pytest.raises(MonitorError, match="no reply to x"):
        value_of("x", reply, "source")
