"""The table in docs/bindings.md."""

from __future__ import annotations

from typing import Any

import bindings_table
from libvirt_postcopy.bindings.check import examine
from libvirt_postcopy.vir.binding import installed


def found(**changes: Any) -> dict[str, Any]:
    more = {"python": "3.11.2", "cffi": "1.15.1", "in_library": "9.0.0", "described": True}  # fmt: skip
    report = examine(installed()).to_json()
    return {**report, **more, "compiled": "headers of libvirt 9.0.0", **changes}


def parameter(key: str, since: str, expected: str, hint: str | None, passed: str) -> dict[str, Any]:  # fmt: skip
    return {"key": key, "since": since, "expected": expected, "hint": hint, "passed": passed}  # fmt: skip


def test_row_of_what_is_here() -> None:
    row = bindings_table.row(
        found(libvirt="9.0.0", binding="9.0.0", newest="9.0.0", findings=[], parameters=[]),
        "bookworm",
        "the release's own",
    )  # fmt: skip
    assert row == (
        "9.0.0 (bookworm)",
        "3.11.2, 1.15.1",
        "9.0.0, the release's own",
        "9.0.0 / 9.0.0",
        "none",
        "none",
        "none",
        "0",
    )


def test_row_of_what_is_wrong() -> None:
    seen = found(
        libvirt="9.4.0",
        ok=False,
        compiled="not asked: there is no C compiler (install gcc)",
        described=False,
        symbols=[{"symbol": "virDomainMigrate3", "version": None}],
        parameters=[
            parameter("disks_port", "1.3.3", "INT", "INT", "INT"),
            parameter("disks_uri", "6.8.0", "STRING", None, "STRING"),
            parameter("compression.zlib.level", "9.4.0", "INT", None, "ULLONG"),
            parameter("migrate_disks_target_zero", "12.2.0", "STRING", None, "STRING"),
        ],
        findings=[{"severity": "error"}, {"severity": "note"}, {"severity": "note"}],
    )
    row = bindings_table.row(seen, "somewhere", "built there")
    assert row[0] == "9.4.0 (somewhere, no compiler, no description)"
    assert row[4:] == (
        "`virDomainMigrate3`",
        "**`compression.zlib.level`: `ULLONG` where `INT` is expected**; `disks_uri`: right by luck",
        "1 error, 2 notes",
        "**1**",
    )


def test_table_has_a_place_in_the_page() -> None:
    page = bindings_table.PAGE.read_text(encoding="utf-8")
    _, begin, rest = page.partition(bindings_table.BEGIN)
    table, end, _ = rest.partition(bindings_table.END)
    assert begin and end
    head, _, *rows = table.strip().splitlines()
    assert head == bindings_table.table([]).splitlines()[0]
    for release in bindings_table.RELEASES:
        version = release.partition("-")[2]
        assert sum(row.startswith(f"| {version}") for row in rows) == 2, release
