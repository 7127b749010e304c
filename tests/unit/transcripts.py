"""Reads what real QEMUs said, from ``tests/transcripts/<qemu>/<scenario>.jsonl``.

The first line says which QEMU it was; each other is a message: ``t`` (seconds since the source's ``migrate``),
``peer`` (``src``, ``dst``), ``dir`` (``->`` sent to QEMU, ``<-`` from it) and ``msg``.  Kept are the events
and, thinned out, the source's ``query-migrate`` replies with the fields that are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from libvirt_postcopy.events import Event, PassSeen, Side, StatsSeen, StatsWanted
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.vir.events import from_monitor
from unit.fakes import DST, SRC, Scene

FOLDER = Path(__file__).parents[1] / "transcripts"
FILES = sorted(FOLDER.rglob("*.jsonl"))
PEERS = {"src": SRC, "dst": DST}


@dataclass(frozen=True)
class Line:
    t: float
    side: Side
    is_sent: bool
    msg: dict[str, Any]

    def events(self) -> list[Event]:
        """What the adapters make of a message."""
        name = self.msg.get("event")
        if name == "MIGRATION_PASS":
            return [PassSeen(self.msg["data"]["pass"])]
        if name is not None:
            return from_monitor(self.side, name, json.dumps(self.msg.get("data")))
        if "return" in self.msg:
            return [StatsSeen(Stats.from_query_migrate(self.msg["return"]))]
        return []


@dataclass(frozen=True)
class Transcript:
    header: dict[str, Any]
    lines: tuple[Line, ...]

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)


def read(path: Path | str) -> Transcript:
    """:param path: A file, or ``<qemu>/<scenario>``."""
    if isinstance(path, str):
        path = FOLDER / f"{path}.jsonl"
    header, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return Transcript(
        header,
        tuple(
            Line(line["t"], PEERS[line["peer"]], line["dir"] == "->", line["msg"])
            for line in lines
        ),
    )


def replay(
    path: Path | str,
    policy: str = "manual",
    until: float = inf,
    *,
    is_watched: bool = False,
) -> Scene:
    """Play a transcript to the core.  A reading that it asks for is answered by the next one recorded.

    :param is_watched: Somebody looks at the statistics all the time.
    """
    scene = Scene(policy)
    for line in read(path):
        if line.t > until:
            break
        events = line.events()
        scene.until(line.t)
        if is_watched:
            scene.at(line.t, StatsWanted())
        if any(isinstance(event, StatsSeen) for event in events):
            if scene.answered == len(scene.readings):
                continue  # nobody asked
            scene.answered = len(scene.readings)
        scene.at(line.t, *events)
    return scene
