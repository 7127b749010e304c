import copy

import pytest

from scenes.demo import _relay, not_shown, table

GOOD = {
    "precopy": {
        "converged": False,
        "passes": 7,
        "sent_mib": 1104,
        "remaining_mib": 116,
        "total_ms": 25300,
        "blackout_ms": 33.9,
    },
    "postcopy": {
        "completed": True,
        "total_ms": 16300,
        "blackout_ms": 90.5,
        "downtime_ms": 70,
        "passes": 1,
        "memory_ok": True,
    },
}


def changed(part, **values):
    figures = copy.deepcopy(GOOD)
    figures[part].update(values)
    return figures


def test_demo_that_went_well_has_shown_all():
    assert not_shown(GOOD) is None


@pytest.mark.parametrize(
    ["figures", "claim"],
    [
        (changed("precopy", converged=True, total_ms=12300), "after 12.3 s"),
        (changed("postcopy", completed=False, memory_ok=False), "post-copy ends"),
        (changed("postcopy", memory_ok=False), "memory is right on host b"),
    ],
)
def test_claim_that_did_not_hold_is_named(figures, claim):
    assert claim in not_shown(figures)


def test_guest_that_precopy_has_moved_leaves_nothing_to_post_copy():
    assert "pre-copy" in not_shown(
        {**changed("precopy", converged=True), "postcopy": {}}
    )


def test_table_has_both_migrations():
    lines = table(GOOD).splitlines()
    assert lines[2].split() == ["came", "to", "its", "end", "no,", "aborted", "yes"]
    assert lines[4].split() == ["longest", "blackout", "33.9", "ms", "90.5", "ms"]
    assert "yes, every page" in lines[5]
    assert "NO" in table(changed("postcopy", memory_ok=False)).splitlines()[5]


def test_words_are_relayed_line_by_line_while_they_come():
    said, shown = [], []

    def lines():
        yield "first\n"
        assert shown == ["  first"]
        yield "\rone\rtwo\n"

    _relay(lines(), said, shown.append)
    assert said == ["first", "one", "two"]
    assert shown[1:] == ["  one", "  two"]


def test_words_are_kept_when_nobody_reads_them():
    def closed(text):
        raise BrokenPipeError

    said = []
    _relay(["downtime 70 ms\n"], said, closed)
    assert said == ["downtime 70 ms"]
