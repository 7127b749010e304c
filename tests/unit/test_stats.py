from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libvirt_postcopy.stats import PassCount, Stats
from libvirt_postcopy.units import MIB

JOB_STATS = {
    "type": 2,
    "operation": 5,
    "time_elapsed": 4012,
    "setup_time": 7,
    "downtime": 300,
    "data_total": 1_082_000_000,
    "data_processed": 400_000_000,
    "data_remaining": 682_000_000,
    "memory_total": 1_082_000_000,
    "memory_processed": 401_000_000,
    "memory_remaining": 682_000_000,
    "memory_constant": 1000,
    "memory_normal": 90_000,
    "memory_normal_bytes": 368_640_000,
    "memory_bps": 104_857_600,
    "memory_dirty_rate": 2500,
    "memory_iteration": 2,
    "memory_page_size": 4096,
    "memory_postcopy_requests": 12,
    "auto_converge_throttle": 20,
}
QUERY_MIGRATE = {
    "status": "active",
    "total-time": 4012,
    "setup-time": 7,
    "expected-downtime": 300,
    "downtime": 4,
    "remaining": 682_000_001,
    "ram": {
        "total": 1_082_000_000,
        "transferred": 401_000_000,
        "remaining": 682_000_000,
        "duplicate": 1000,
        "normal": 90_000,
        "normal-bytes": 368_640_000,
        "dirty-pages-rate": 2500,
        "mbps": 838.8608,
        "dirty-sync-count": 2,
        "page-size": 4096,
        "postcopy-requests": 12,
        "precopy-bytes": 400_999_000,
    },
}


def test_job_statistics_are_read() -> None:
    stats = Stats.from_job_stats(JOB_STATS)
    assert stats == Stats(
        elapsed_ms=4012,
        setup_ms=7,
        downtime_ms=300,
        data_remaining=682_000_000,
        memory_total=1_082_000_000,
        memory_sent=401_000_000,
        memory_remaining=682_000_000,
        constant_pages=1000,
        normal_bytes=368_640_000,
        bytes_per_s=104_857_600,
        dirty_pages_per_s=2500,
        sync_count=2,
        page_size=4096,
        postcopy_requests=12,
        other=stats.other,
    )


def test_query_migrate_is_read_into_the_same_shape() -> None:
    stats = Stats.from_query_migrate(QUERY_MIGRATE)
    assert stats == Stats(
        elapsed_ms=4012,
        setup_ms=7,
        downtime_ms=4,
        memory_total=1_082_000_000,
        memory_sent=401_000_000,
        memory_remaining=682_000_000,
        constant_pages=1000,
        normal_bytes=368_640_000,
        bytes_per_s=104_857_600,
        dirty_pages_per_s=2500,
        sync_count=2,
        page_size=4096,
        postcopy_requests=12,
        other=stats.other,
    )


def test_unknown_fields_are_kept() -> None:
    assert Stats.from_job_stats(JOB_STATS).other == {
        "type": 2,
        "operation": 5,
        "data_total": 1_082_000_000,
        "data_processed": 400_000_000,
        "memory_normal": 90_000,
        "auto_converge_throttle": 20,
    }
    assert Stats.from_query_migrate(QUERY_MIGRATE).other == {
        "status": "active",
        "expected-downtime": 300,
        "remaining": 682_000_001,
        "normal": 90_000,
        "mbps": 838.8608,
        "precopy-bytes": 400_999_000,
    }


@pytest.mark.parametrize("read", [Stats.from_job_stats, Stats.from_query_migrate])
def test_missing_figures_are_none_not_zero(read) -> None:
    figures = {name: value for name, value in vars(read({})).items() if name != "other"}
    assert len(figures) > 10 and set(figures.values()) == {None}


@pytest.mark.parametrize(
    "reply",
    [
        {"status": "setup"},
        {"status": "active", "ram": None},
        {"status": "active", "ram": [1]},
        {"status": "active", "ram": {"total": "much", "mbps": None}},
    ],
)
def test_reply_without_usable_figures_gives_none(reply: dict) -> None:
    stats = Stats.from_query_migrate(reply)
    assert (stats.memory_total, stats.bytes_per_s, stats.swept_bytes) == (None, None, 0)
    assert stats.other["status"] == reply["status"]


def test_truth_value_is_no_figure() -> None:
    assert Stats.from_job_stats({"memory_total": True}).memory_total is None


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_figure_that_is_no_number_is_none(figure: float) -> None:
    assert Stats.from_query_migrate({"ram": {"mbps": figure}}).bytes_per_s is None
    assert Stats.from_job_stats({"memory_bps": figure}).bytes_per_s is None


@given(
    st.dictionaries(
        st.sampled_from([*JOB_STATS, *QUERY_MIGRATE, *QUERY_MIGRATE["ram"], "new"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=3)
        | st.dictionaries(st.sampled_from(list(QUERY_MIGRATE["ram"])), st.integers() | st.none() | st.floats()),
    )
)  # fmt: skip
def test_no_reply_makes_reading_fail(reply: dict) -> None:
    Stats.from_job_stats(reply).swept_bytes  # noqa: B018
    Stats.from_query_migrate(reply).swept_bytes  # noqa: B018


@pytest.mark.parametrize(
    "stats, swept",
    [
        (Stats(), 0),
        (Stats(normal_bytes=10 * MIB), 10 * MIB),
        (Stats(normal_bytes=10 * MIB, constant_pages=256, page_size=4096), 11 * MIB),
        (Stats(constant_pages=256, page_size=16384), 4 * MIB),
        (Stats(constant_pages=256), MIB),  # QEMU < 2.10 gives no page size
    ],
)
def test_constant_pages_count_as_gone_over(stats: Stats, swept: int) -> None:
    assert stats.swept_bytes == swept


def test_dirty_rate_is_in_bytes_and_none_before_the_first_pass() -> None:
    assert Stats(dirty_pages_per_s=100, page_size=4096).dirty_bytes_per_s == 409_600
    assert Stats(dirty_pages_per_s=100).dirty_bytes_per_s == 409_600
    assert Stats(dirty_pages_per_s=0).dirty_bytes_per_s is None
    assert Stats().dirty_bytes_per_s is None


def test_stats_can_be_a_key() -> None:
    assert len({Stats.from_job_stats(JOB_STATS), Stats.from_job_stats(JOB_STATS)}) == 1


def count(*readings: tuple[int, int]) -> list[int]:
    """Passes done after each (MiB gone over, MiB remaining) of a guest with 100 MiB."""
    passes, done = PassCount(), []
    for swept, remaining in readings:
        passes = passes.advance(
            Stats(memory_total=100 * MIB, normal_bytes=swept * MIB, memory_remaining=remaining * MIB)
        )  # fmt: skip
        done.append(passes.done)
    return done


def test_first_pass_is_done_when_all_of_memory_is_gone_over() -> None:
    assert count((0, 100), (99, 1), (100, 40)) == [0, 0, 1]


def test_later_pass_is_done_when_what_was_left_is_gone_over() -> None:
    assert count((100, 40), (139, 10), (140, 30), (169, 5), (170, 0)) == [1, 1, 2, 2, 3]


def test_one_reading_shows_one_pass_at_most() -> None:
    assert count((100, 0), (500, 0)) == [1, 2]


def test_pass_with_nothing_left_needs_something_new() -> None:
    assert count((100, 0), (100, 0), (101, 0)) == [1, 1, 2]


@pytest.mark.parametrize(
    "stats", [Stats(), Stats(memory_total=0), Stats(normal_bytes=5 * MIB)]
)
def test_reading_without_a_total_counts_nothing(stats: Stats) -> None:
    before = PassCount(done=1, target=7)
    assert before.advance(stats) == before


@pytest.mark.parametrize(
    "stats, has_sent_all",
    [
        (Stats(), False),
        (Stats(memory_remaining=0), False),  # no migration has begun
        (Stats(memory_total=MIB), False),
        (Stats(memory_total=MIB, memory_remaining=1), False),
        (Stats(memory_total=MIB, memory_remaining=0), True),
    ],
)
def test_what_is_not_known_is_not_taken_for_sent(
    stats: Stats, has_sent_all: bool
) -> None:
    assert stats.has_sent_all is has_sent_all
