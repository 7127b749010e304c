"""A cluster resource agent as it is shipped, with virsh-postcopy under the name that it calls.

Debian's package resource-agents; nothing in the agent is changed, only PATH is its administrator's.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from observers import wait_until_pages_come

from labkit import Lab
from scenes.stage import VENV, Stage
from waiting import wait_until

AGENT = Path("/usr/lib/ocf/resource.d/heartbeat/VirtualDomain")

OCF_SUCCESS = 0

RUNNING_POSTCOPY = [1, 10]
BOOT_S, SWITCH_S, END_S = 30, 60, 120

Check = Callable[[], None]


class Agent:
    """The agent on each host, as a cluster manager would call it.

    :ivar folder: On PATH before virsh's own; seen by all hosts.
    """

    def __init__(self, stage: Stage, folder: Path) -> None:
        self._lab: Lab = stage.lab
        self._folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "virsh").symlink_to(VENV / "virsh-postcopy")
        self._config = folder / f"{stage.name}.xml"
        xml = stage.xml().replace("<name>", "\n<name>").replace("</name>", "</name>\n")
        self._config.write_text(xml)  # the agent looks for a line with the name

    def start(self, host: str, action: str, **more: str) -> subprocess.Popen[str]:
        """Start an action on a host."""
        given = {
            "PATH": f"{self._folder}:/usr/sbin:/usr/bin:/sbin:/bin",
            "OCF_ROOT": "/usr/lib/ocf",
            "OCF_RESOURCE_INSTANCE": "busy",
            "OCF_RESOURCE_TYPE": "VirtualDomain",
            "OCF_RESOURCE_PROVIDER": "heartbeat",
            "HA_RSCTMP": str(self._folder / host),
            "OCF_RESKEY_config": str(self._config),
            "OCF_RESKEY_hypervisor": "qemu:///system",
            "OCF_RESKEY_remoteuri": "qemu+tcp://%n/system",
            "OCF_RESKEY_migrate_options": "--postcopy --postcopy-after-precopy --postcopy-bandwidth=16",
            **more,
        }
        (self._folder / host).mkdir(exist_ok=True)
        words = [f"{name}={value}" for name, value in given.items()]
        return self._lab.host(host).popen(
            ["env", *words, str(AGENT), action],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture
def agent(stage: Stage) -> Iterator[Agent]:
    assert AGENT.exists(), "the package resource-agents is not installed"
    folder = Path(stage.lab.shared) / "agent"
    made = Agent(stage, folder)
    try:
        yield made
    finally:
        subprocess.run(["rm", "-r", str(folder)], check=True)


def ended(process: subprocess.Popen[str], patience_s: float) -> int:
    """Wait for the end of an action."""
    try:
        said = process.communicate(timeout=patience_s)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    print(said)
    return process.returncode


def is_split(stage: Stage) -> bool:
    """Whether the guest runs on the destination, and more of its memory is to come."""
    domain = stage.find("b")
    return domain is not None and domain.state() == RUNNING_POSTCOPY


def test_broken_link_ends_in_success(stage: Stage, agent: Agent, moved: Check) -> None:
    stage.start()
    target = {"OCF_RESKEY_CRM_meta_migrate_target": "b"}
    source = {"OCF_RESKEY_CRM_meta_migrate_source": "a"}
    assert ended(agent.start("a", "monitor"), BOOT_S) == OCF_SUCCESS
    leaving = agent.start("a", "migrate_to", **target)
    try:
        wait_until(lambda: is_split(stage), "the switch", SWITCH_S)
        wait_until_pages_come(stage.find("a"))
        assert stage.lab.break_migrations() > 0
    except BaseException:
        leaving.kill()
        raise
    assert ended(leaving, END_S) == OCF_SUCCESS
    assert ended(agent.start("b", "migrate_from", **source), BOOT_S) == OCF_SUCCESS
    assert ended(agent.start("b", "monitor"), BOOT_S) == OCF_SUCCESS
    moved()
