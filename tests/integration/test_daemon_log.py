"""What the options of ``migrate`` make the daemons say to their QEMUs, by their logs: what virsh makes them say."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from integration.commands import URI, migrate
from labkit import Lab
from scenes.stage import Stage

_SENT = re.compile(r"QEMU_MONITOR_SEND_MSG: mon=\S+ msg=(\{.*?\})\s+fd=", re.DOTALL)
_OF_MIGRATION = ("migrate-set-capabilities", "migrate-set-parameters", "migrate", "migrate-incoming")  # fmt: skip
_SOURCE = "qemu+tcp://a/system"

LINES = [
    "--auto-converge --auto-converge-initial 30 --auto-converge-increment 15 --bandwidth 200 --abort-on-error --persistent",
    "--compressed --comp-methods xbzrle --comp-xbzrle-cache 33554432",
    "--comp-methods mt --comp-mt-level 2 --comp-mt-threads 3 --comp-mt-dthreads 5 --compressed",
    "--parallel --parallel-connections 3 --unsafe",
    "--p2p --bandwidth 150 --migrateuri tcp://b:49321 --listen-address 0.0.0.0",
    "--postcopy --postcopy-bandwidth 100 --bandwidth 300",
    "--postcopy --postcopy-after-precopy --p2p",
]


class Logs:
    """What two daemons say to the QEMUs of a migration from now on."""

    def __init__(self, lab: Lab) -> None:
        self._hosts = [lab.host(name) for name in "ab"]
        self._from = [host.log_path.stat().st_size for host in self._hosts]

    def sent(self) -> list[dict[str, Any]]:
        return [each for at in range(2) for each in self._sent_by(at)]

    def _sent_by(self, at: int) -> Iterator[dict[str, Any]]:
        with self._hosts[at].log_path.open() as log:
            log.seek(self._from[at])
            for text in _SENT.findall(log.read()):
                message = json.loads(text)
                if message["execute"] in _OF_MIGRATION:
                    yield alike(message)


def alike(message: dict[str, Any]) -> dict[str, Any]:
    """Without what is another in each run: the id, and the port where none was asked for."""
    text = json.dumps({name: message[name] for name in message if name != "id"})
    found: dict[str, Any] = json.loads(re.sub(r":4915\d", ":port", text))
    return found


@pytest.mark.parametrize("line", LINES)
def test_daemons_say_the_same(stage: Stage, network: Lab, line: str) -> None:
    options = ["--live", *line.split()]
    network.unlimit()
    said = []
    for is_ours in (False, True):
        stage.start()
        logs = Logs(network)
        if is_ours:
            status = migrate(*options, "--postcopy-check", "off").returncode
        else:
            words = ["virsh", "-c", _SOURCE, "migrate", *options, stage.name, URI]
            status = subprocess.run(words, capture_output=True, timeout=90, check=False).returncode  # fmt: skip
        said.append((status, logs.sent()))
        stage.clear()
    assert said[1] == said[0]
    assert {"migrate-set-parameters", "migrate"} <= {each["execute"] for each in said[0][1]}  # fmt: skip
