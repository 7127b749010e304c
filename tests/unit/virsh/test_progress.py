from __future__ import annotations

import io
from dataclasses import replace

import pytest

from libvirt_postcopy.actions import Abort, Note, Resume
from libvirt_postcopy.events import (
    Ended,
    Half,
    Looked,
    PassSeen,
    Resumed,
    Side,
    StatsSeen,
    StatusSeen,
)
from libvirt_postcopy.figures import Summary, SwitchRecord
from libvirt_postcopy.phases import Phase
from libvirt_postcopy.stats import Stats
from libvirt_postcopy.units import MIB
from libvirt_postcopy.virsh.progress import (
    Moment,
    Progress,
    Seen,
    describe,
    summarise,
)
from libvirt_postcopy.virsh.terminal import Terminal
from unit.golden import check_golden

HALF = Stats(
    memory_total=512 * MIB,
    memory_remaining=188 * MIB,
    bytes_per_s=48 * MIB,
    dirty_pages_per_s=20480,
    page_size=4096,
    postcopy_requests=345,
)
SWITCH = SwitchRecord("the first pass is done", asked_ms=8300, took_effect_ms=8373)
RESULT = Summary(
    total_ms=8900,
    downtime_ms=79.4,
    passes=1,
    precopy_bytes=249 * MIB,
    postcopy_bytes=70 * MIB,
    postcopy_requests=1056,
    switch=SWITCH,
)

ARRIVED = Moment(Phase.POSTCOPY, HALF, blackout_ms=79.4, runs_there=True)

MOMENTS = [
    Moment(Phase.PREPARING),
    Moment(Phase.PREPARING, HALF),
    Moment(Phase.PRECOPY),
    Moment(Phase.PRECOPY, Stats(memory_total=0, memory_remaining=0)),
    Moment(Phase.PRECOPY, replace(HALF, dirty_pages_per_s=None, bytes_per_s=None)),
    Moment(Phase.PRECOPY, HALF, passes=1),
    Moment(Phase.PRECOPY, replace(HALF, memory_remaining=0), passes=2),
    Moment(Phase.PRECOPY, replace(HALF, memory_remaining=600 * MIB)),
    Moment(
        Phase.PRECOPY,
        replace(HALF, memory_total=64 << 30, memory_remaining=(64 << 30) - 1),
    ),
    Moment(Phase.SWITCHING, HALF, passes=2),
    Moment(Phase.POSTCOPY, replace(HALF, postcopy_requests=None)),
    Moment(Phase.POSTCOPY, replace(HALF, postcopy_requests=1)),
    Moment(Phase.POSTCOPY, HALF, runs_there=True),
    ARRIVED,
    replace(ARRIVED, shown_percent=98.5),
    replace(ARRIVED, phase=Phase.BROKEN),
    replace(ARRIVED, phase=Phase.RECOVERING),
    Moment(Phase.GOING_BACK, HALF),
    Moment(Phase.COMPLETED, HALF),
]


def test_lines() -> None:
    check_golden("progress.out", "".join(f"{describe(each)}\n" for each in MOMENTS))


def test_figures_that_do_not_fit_are_left_out_whole() -> None:
    whole = describe(ARRIVED)
    lines = {describe(ARRIVED, columns) for columns in range(len(whole) + 5)}
    figures = ["188 MiB left", "48.0 MiB/s", "blackout 79 ms", "345 page requests"]
    head = "Migration: [63.28 %] post-copy, guest on destination"
    assert lines == {", ".join([head, *figures[:count]]) for count in range(5)}
    for columns in range(len(head), len(whole)):
        assert len(describe(ARRIVED, columns)) <= columns


def test_speed_is_shown_only_where_something_flows() -> None:
    """QEMU goes on telling the last one."""
    shown = {phase for phase in Phase if "MiB/s" in describe(Moment(phase, HALF))}
    assert shown == {Phase.PRECOPY, Phase.POSTCOPY}


def test_rate_is_shown_on_an_ordinary_terminal() -> None:
    for moment in MOMENTS:
        shown = describe(moment, 79)
        has_rate = moment.stats is not None and "MiB/s" in describe(moment)
        assert len(shown) < 80 and has_rate == ("MiB/s" in shown)


SUMMARIES = [
    RESULT,
    replace(RESULT, switch=replace(SWITCH, attempts=4)),
    replace(RESULT, switch=replace(SWITCH, took_effect_ms=8300)),
    replace(RESULT, switch=SwitchRecord("at once, as asked", 1100, 1, 1103), passes=0),
    replace(RESULT, switch=replace(SWITCH, reason="2h of pre-copy are over and " * 9)),
    replace(RESULT, switch=replace(SWITCH, reason="x" * 200)),
    replace(RESULT, switch=None, postcopy_bytes=None, passes=7),
    replace(RESULT, precopy_bytes=None, postcopy_bytes=None, downtime_ms=None),
    replace(RESULT, precopy_bytes=99 << 40, postcopy_bytes=99 << 40, postcopy_requests=10**9),
    Summary(),
]  # fmt: skip


def test_summaries() -> None:
    texts = ["\n".join(summarise(replace(each, ended_ms=8900))) for each in SUMMARIES]
    check_golden("summary.out", "\n\n".join(texts) + "\n")


@pytest.mark.parametrize("result", SUMMARIES)
def test_summary_fits_a_terminal(result: Summary) -> None:
    lines = summarise(replace(result, ended_ms=10_000_000))
    assert 1 <= len(lines) <= 3
    assert max(map(len, lines)) < 80


def test_summary_has_one_clock() -> None:
    """QEMU's own total can end before the switch, on a clock that begins at ours."""
    result = replace(RESULT, total_ms=1900, ended_ms=9500)
    assert "Migrated in 9.5 s" in summarise(result)[0]
    assert "1.9 s" not in "".join(summarise(result))


class FakeJob:
    def __init__(self) -> None:
        self.phase, self.driver = Phase.PRECOPY, "native"
        self.figures: Stats | None = HALF
        self.result = Summary(downtime_ms=300)

    def stats(self) -> Stats | None:
        return self.figures

    def summary(self) -> Summary:
        return self.result


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


class Scene:
    def __init__(self, err: io.StringIO, *, is_verbose: bool = True) -> None:
        self.err, self.job = err, FakeJob()
        self.progress = Progress(Terminal(io.StringIO(), err), is_verbose=is_verbose)

    def news(self, now: float) -> str:
        """What is written at that time after something was seen."""
        self.progress.see(StatsSeen(HALF))
        return self.quiet(now)

    def quiet(self, now: float) -> str:
        before = len(self.err.getvalue())
        self.progress.update(self.job, now)
        return self.err.getvalue()[before:]


@pytest.fixture
def tty() -> Scene:
    return Scene(Tty())


@pytest.fixture
def plain() -> Scene:
    return Scene(io.StringIO())


def test_line_is_written_only_when_something_was_seen(tty: Scene) -> None:
    assert tty.quiet(0) == ""
    assert tty.news(1).startswith("\rMigration: [63.28 %] pre-copy pass 1")
    assert tty.quiet(2) == ""


def test_line_is_written_at_most_twice_a_second(tty: Scene) -> None:
    written = [tty.news(tick / 20) for tick in range(41)]  # two seconds
    assert sum(1 for text in written if text) == 5


def test_news_between_two_lines_are_not_forgotten(tty: Scene) -> None:
    tty.news(0)
    tty.job.phase = Phase.POSTCOPY
    assert tty.news(0.1) == ""
    assert "post-copy" in tty.quiet(0.5)


def test_plain_lines_come_with_each_phase(plain: Scene) -> None:
    assert plain.news(0).endswith("MiB/s\n")
    assert plain.news(1) == ""
    plain.job.phase = Phase.POSTCOPY
    assert plain.news(2).startswith("Migration: [63.28 %] post-copy")


def test_plain_line_comes_with_the_guest_on_the_destination(plain: Scene) -> None:
    plain.job.phase = Phase.POSTCOPY
    assert "] post-copy, 188 MiB left" in plain.news(0)
    plain.progress.see(Resumed(Side.DESTINATION))
    said = plain.quiet(1)
    assert (
        "] post-copy, guest on destination, 188" in said and "blackout 300 ms" in said
    )
    assert plain.news(2) == ""


@pytest.mark.parametrize(
    "driver, looked, is_there",
    [
        ("native", Looked(Side.DESTINATION, Half.SPLIT), True),
        ("native", Looked(Side.DESTINATION, Half.MIGRATING), False),
        ("native", Looked(Side.SOURCE, Half.SPLIT), False),
        ("qemu", Looked(Side.DESTINATION, Half.SPLIT), False),  # nobody has started it
    ],
)
def test_guest_whose_start_was_missed_is_told_by_the_destinations_daemon(
    plain: Scene, driver: str, looked: Looked, is_there: bool
) -> None:
    plain.job.phase, plain.job.driver = Phase.POSTCOPY, driver
    plain.job.result = Summary()
    assert "guest on destination" not in plain.news(0)
    plain.progress.see(looked)
    assert ("post-copy, guest on destination" in plain.quiet(1)) is is_there
    plain.progress.see(Looked(Side.DESTINATION, Half.UNKNOWN))
    assert plain.quiet(2) == ""  # what was known is not forgotten


def test_plain_lines_come_with_each_tenth_but_not_too_many(plain: Scene) -> None:
    plain.news(0)
    plain.job.figures = replace(HALF, memory_remaining=20 * MIB)
    assert plain.news(1) == ""
    assert "96.09 %" in plain.news(5)
    assert plain.news(20) == ""  # nothing has changed by a tenth
    plain.job.result = Summary(passes=3)
    assert "pass 4" in plain.news(25)


def test_end_shows_all_of_it_and_the_figures(tty: Scene, plain: Scene) -> None:
    for scene in (tty, plain):
        scene.news(0)
        scene.progress.finish(replace(RESULT, ended_ms=9000))
        lines = scene.err.getvalue().replace("\r", "\n").split("\n")
        assert [line.rstrip() for line in lines][-5:] == [
            "Migration: [100.00 %] completed",
            *summarise(replace(RESULT, ended_ms=9000)),
            "",
        ]


def test_line_does_not_show_the_end_before_it_has_come(plain: Scene) -> None:
    plain.job.phase = Phase.COMPLETED
    assert plain.news(0) == ""


def test_expected_downtime_is_not_shown_as_the_blackout(tty: Scene) -> None:
    tty.job.phase = Phase.POSTCOPY
    tty.job.figures = replace(HALF, memory_remaining=None, bytes_per_s=None)
    assert "blackout" not in tty.news(0)
    tty.progress.see(Resumed(Side.SOURCE))
    assert "blackout" not in tty.quiet(1) and not tty.progress.is_resumed
    tty.progress.see(Resumed(Side.DESTINATION))
    assert "blackout 300 ms" in tty.quiet(2) and tty.progress.is_resumed


def test_percentage_never_goes_back(tty: Scene) -> None:
    tty.job.figures = replace(HALF, memory_remaining=8 * MIB)
    assert "[98.43 %]" in tty.news(0)
    tty.job.phase = Phase.POSTCOPY
    tty.job.figures = replace(HALF, memory_remaining=300 * MIB)
    assert "[98.43 %] post-copy, 300 MiB left" in tty.news(1)
    tty.job.figures = replace(HALF, memory_remaining=5 * MIB)
    assert "[99.02 %]" in tty.news(2)


def test_what_explains_a_failure_is_kept(plain: Scene) -> None:
    assert plain.progress.seen == Seen()
    plain.progress.see(StatusSeen(Side.SOURCE, "setup"))
    assert not plain.progress.seen.is_prepared
    plain.progress.see(StatusSeen(Side.DESTINATION, "setup"))
    plain.progress.see(Ended("x"))
    assert plain.progress.seen == Seen(is_prepared=True)


def test_notes_are_said_also_when_not_verbose() -> None:
    scene = Scene(io.StringIO(), is_verbose=False)
    assert scene.news(0) == ""
    scene.progress.see(Note("mind the \x1b VIR_MIGRATE_TLS"))
    assert scene.quiet(1) == "note: mind the \\x1b --tls\n"
    assert scene.quiet(2) == ""
    scene.progress.finish(replace(RESULT, ended_ms=9000))
    assert scene.err.getvalue().count("\n") == 1


def test_abort_is_said_when_it_is_carried_out_and_once() -> None:
    scene = Scene(io.StringIO(), is_verbose=False)
    scene.progress.see(Abort())
    scene.progress.see(Abort())
    assert scene.quiet(1) == "aborting: the guest stays on the source\n"
    scene.progress.see(Abort())
    assert scene.quiet(2) == ""


def test_a_resume_is_said_once_also_when_not_verbose() -> None:
    scene = Scene(io.StringIO(), is_verbose=False)
    scene.progress.see(Resume(1))
    assert scene.quiet(1) == "note: the link broke: resuming the migration\n"
    scene.progress.see(Resume(2))
    assert scene.quiet(2) == ""


def test_watching_never_writes(tty: Scene) -> None:
    tty.progress.see(PassSeen(2))
    tty.progress.see(Note("x"))
    assert tty.err.getvalue() == ""
