"""What there is of a guest on its hosts, before and after: nothing but the guest may be left."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import libvirt
import libvirt_qemu

from labkit import Host
from scenes.stage import Stage

__all__ = ["Inventory", "left_behind", "take_inventory"]


@dataclass(frozen=True)
class Inventory:
    """What was found, a host at a time.

    :ivar domains: Names, active or not.
    :ivar qemus: How many QEMUs the guest has.
    :ivar networks: How many network namespaces are in use.
    :ivar files: libvirt's own files about a running guest.
    :ivar settings: Capabilities and parameters of migration, of the QEMU that runs the guest.
    """

    domains: Mapping[str, frozenset[str]]
    qemus: Mapping[str, int]
    networks: Mapping[str, int]
    files: Mapping[str, frozenset[str]]
    settings: Mapping[str, Any] = field(default_factory=dict)


def take_inventory(stage: Stage, place: str) -> Inventory:
    """Look at all hosts.

    :param place: The host on which the guest runs.
    """
    hosts = stage.lab.hosts()
    return Inventory(
        {host.name: _domains(stage, host.name) for host in hosts},
        {host.name: len(stage.qemus(host.name)) for host in hosts},
        {host.name: _networks(host) for host in hosts},
        {host.name: _files(stage, host) for host in hosts},
        _settings(stage, place),
    )


def left_behind(before: Inventory, after: Inventory, place: str) -> list[str]:
    """What is left of a migration, in words; the guest was alone on ``a`` before, and is on ``place`` now."""
    moved = {"a": place, place: "a"}  # what is there now is what was on the source
    return [
        text
        for host in after.domains
        for text in _differences(before, after, host, moved.get(host, host))
    ] + _changed(before.settings, after.settings)


def _differences(
    before: Inventory, after: Inventory, host: str, was: str
) -> Iterator[str]:
    for name in sorted(after.domains[host] ^ before.domains[was]):
        yield f"{host}: domain {name} {_how(name in after.domains[host])}"
    if after.qemus[host] != before.qemus[was]:
        yield f"{host}: {after.qemus[host]} QEMUs of the guest"
    if after.networks[host] != before.networks[host]:
        yield f"{host}: {after.networks[host]} network namespaces for {before.networks[host]}"
    for name in sorted(after.files[host] ^ before.files[was]):
        yield f"{host}: {name} {_how(name in after.files[host])}"


def _how(is_there: bool) -> str:
    return "left behind" if is_there else "missing"


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        f"{name}: {before.get(name)} before, {after.get(name)} now"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def _domains(stage: Stage, host: str) -> frozenset[str]:
    return frozenset(dom.name() for dom in stage.connection(host).listAllDomains())


def _networks(host: Host) -> int:
    shown = host.run(["lsns", "--type=net", "--noheadings", "--output=NS"], check=False)
    return len(set(shown.stdout.split()))


def _files(stage: Stage, host: Host) -> frozenset[str]:
    folder = host.path("/run/libvirt/qemu")
    return frozenset(path.name for path in folder.glob(f"{stage.name}.*"))


def _settings(stage: Stage, place: str) -> dict[str, Any]:
    domain = stage.find(place)
    if domain is None:
        return {}
    capabilities = _ask(domain, "query-migrate-capabilities")
    parameters = _ask(domain, "query-migrate-parameters")
    return {each["capability"]: each["state"] for each in capabilities} | dict(
        parameters
    )


def _ask(domain: libvirt.virDomain, command: str) -> Any:
    answer = libvirt_qemu.qemuMonitorCommand(
        domain, json.dumps({"execute": command}), 0
    )
    return json.loads(answer)["return"]
