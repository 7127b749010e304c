"""The core against what QEMU 2.5 to 11.1 said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from libvirt_postcopy.events import Place
from libvirt_postcopy.migration import POLL_S
from libvirt_postcopy.phases import Phase
from libvirt_postcopy.units import MIB
from unit.transcripts import FILES, FOLDER, read, replay

P = Phase


@pytest.mark.parametrize("path", FILES, ids=lambda it: str(it.relative_to(FOLDER)))
def test_transcript_is_normalised(path: Path) -> None:
    transcript = read(path)
    version, scenario = transcript.header["qemu"], transcript.header["scenario"]
    assert transcript.header == {
        "qemu": version,
        "libvirt": None,
        "scenario": scenario,
        "format": 1,
    }
    assert path.stem == scenario
    assert path.parent.name == "qemu-" + ".".join(version.split(".")[:2])
    times = [line.t for line in transcript]
    assert times == sorted(times) and times[0] >= 0
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\d+\.\d+\.\d+\.\d+|/[a-z]+/", text), "an address or a path"
    assert len(text) < 12_000


def test_transcripts_are_there() -> None:
    assert len(FILES) >= 15


ENDS = {
    "qemu-2.5/post-copy": (P.COMPLETED, Place.DESTINATION),
    "qemu-3.0/destination-rejects": (P.BROKEN, Place.LOST),
    "qemu-5.2/post-copy": (P.COMPLETED, Place.DESTINATION),
    "qemu-7.2/post-copy": (P.COMPLETED, Place.DESTINATION),
    "qemu-7.2/recovery": (P.COMPLETED, Place.DESTINATION),
    "qemu-7.2/cancel-precopy": (P.CANCELLED, Place.SOURCE),
    "qemu-7.2/cancel-postcopy": (P.LOST, Place.LOST),
    "qemu-10.0/post-copy": (P.COMPLETED, Place.DESTINATION),
    "qemu-10.0/recovery": (P.COMPLETED, Place.DESTINATION),
    "qemu-10.0/pause-switchover": (P.COMPLETED, Place.DESTINATION),
    "qemu-10.0/cut-precopy": (P.FAILED, Place.SOURCE),
    "qemu-11.1/post-copy": (P.COMPLETED, Place.DESTINATION),
    "qemu-11.1/recovery": (P.COMPLETED, Place.DESTINATION),
    "qemu-11.1/pass-rate": (P.PRECOPY, Place.SOURCE),
    "qemu-11.1/cut-precopy": (P.FAILED, Place.SOURCE),
}


def test_every_transcript_has_its_end_written_here() -> None:
    assert set(ENDS) == {str(f.relative_to(FOLDER).with_suffix("")) for f in FILES}


@pytest.mark.parametrize("name", ENDS)
def test_transcript_is_followed_to_its_end(name: str) -> None:
    scene = replay(name)
    assert (scene.phase, scene.migration.place) == ENDS[name]
    assert scene.notes == []


@pytest.mark.parametrize("name", [name for name in ENDS if name.endswith("/recovery")])
def test_guest_is_split_while_the_link_is_broken(name: str) -> None:
    scene = replay(name)
    phases = []
    again = type(scene)("manual")
    for line in read(name):
        again.at(line.t, *line.events())
        phases.append((again.phase, again.migration.place))
    assert (P.BROKEN, Place.SPLIT) in phases
    assert (P.RECOVERING, Place.SPLIT) in phases
    broken = phases.index((P.BROKEN, Place.SPLIT))
    assert Place.SOURCE not in {where for _, where in phases[broken:]}


@pytest.mark.parametrize("name", ENDS)
def test_following_asks_for_no_more_than_two_readings_a_second(name: str) -> None:
    scene = replay(name)
    assert len(scene.readings) <= scene.now / POLL_S + 2


@pytest.mark.parametrize(
    "name, announced",
    [
        ("qemu-5.2/post-copy", 6.424),
        ("qemu-7.2/post-copy", 6.427),
        ("qemu-10.0/post-copy", 6.200),
    ],
)
def test_after_precopy_does_not_fire_before_the_pass_is_over(
    name: str, announced: float
) -> None:
    assert replay(name, "after-precopy", until=announced - 0.001).switches == []


@pytest.mark.parametrize(
    "name, announced",
    [
        ("qemu-5.2/post-copy", 6.424),
        ("qemu-7.2/post-copy", 6.427),
        ("qemu-10.0/post-copy", 6.200),
    ],
)
def test_after_precopy_fires_with_the_announcement(name: str, announced: float) -> None:
    """Most pages of these guests were zero; no reading is taken that would say more."""
    scene = replay(name, "after-precopy", until=announced)
    assert scene.switches == [announced]
    assert len(scene.readings) == 1, "that of the start"


def test_after_precopy_takes_a_reading_where_one_contradicts_the_announcement() -> None:
    """Somebody watched: when pass 2 was announced, the last reading was at 40 %."""
    name, announced, read_next = "qemu-7.2/post-copy", 6.427, 6.55
    scene = replay(name, "after-precopy", announced, is_watched=True)
    assert scene.switches == []
    (line,) = (each for each in read(name) if (each.t, each.is_sent) == (read_next, False))  # fmt: skip
    scene.at(read_next, *line.events())
    assert scene.switches == [read_next]


def test_after_precopy_goes_by_bytes_where_qemu_announces_no_pass() -> None:
    scene = replay("qemu-2.5/post-copy", "after-precopy")
    (switched,) = scene.switches
    done = next(
        line.t
        for line in read("qemu-2.5/post-copy")
        for event in line.events()
        if getattr(event, "stats", None)
        and event.stats.memory_total
        and event.stats.swept_bytes >= event.stats.memory_total
    )
    assert done <= switched <= done + POLL_S


def test_after_precopy_is_not_taken_in_by_ten_passes_a_second() -> None:
    scene = replay("qemu-11.1/pass-rate", "after-precopy")
    assert scene.migration._precopy.observe(scene.now).announced_pass == 47
    assert scene.migration.stats.swept_bytes == pytest.approx(280 * MIB, abs=MIB)
    assert scene.switches == []


@pytest.mark.parametrize("name", [n for n in ENDS if "post-copy" in n])
def test_downtime_is_measured(name: str) -> None:
    events = [
        (line.side.value, line.msg["event"], line.t)
        for line in read(name)
        if line.msg.get("event") in ("STOP", "RESUME")
    ]
    stopped = next(t for side, what, t in events if (side, what) == ("source", "STOP"))
    resumed = next(
        t for side, what, t in events if (side, what) == ("destination", "RESUME")
    )
    assert replay(name).migration.downtime_ms == pytest.approx(
        (resumed - stopped) * 1000
    )


@pytest.mark.parametrize(
    "name, passes",
    [
        ("qemu-5.2/post-copy", 1),
        ("qemu-7.2/post-copy", 1),
        ("qemu-10.0/post-copy", 1),
        ("qemu-11.1/post-copy", 0),
        ("qemu-7.2/recovery", 0),
        ("qemu-10.0/recovery", 0),
        ("qemu-11.1/recovery", 0),
        ("qemu-10.0/pause-switchover", 0),
    ],
)
def test_passes_are_those_before_the_stop(name: str, passes: int) -> None:
    """QEMU up to 10.0 announces one pass more once the guest is stopped."""
    assert replay(name).migration.summary().passes == passes


@pytest.mark.parametrize(
    "name", ["qemu-7.2/post-copy", "qemu-10.0/post-copy", "qemu-11.1/post-copy"]
)
def test_bytes_after_the_switch_are_qemus_own_to_within_a_reading(name: str) -> None:
    summary = replay(name).migration.summary()
    last = replay(name).migration.stats
    assert summary.precopy_bytes + summary.postcopy_bytes == last.memory_sent
    assert summary.postcopy_bytes <= last.other["postcopy-bytes"]
    late = last.other["postcopy-bytes"] - summary.postcopy_bytes
    assert late <= 16 * MIB * 2 * POLL_S
