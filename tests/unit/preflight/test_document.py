from __future__ import annotations

from pathlib import Path

from libvirt_postcopy.preflight.document import to_markdown
from libvirt_postcopy.preflight.finding import CHECKS

PAGE = Path(__file__).parents[3] / "docs" / "preflight.md"


def test_page_in_the_documentation_is_of_today() -> None:
    assert to_markdown(CHECKS.values()) == PAGE.read_text(encoding="utf-8"), (
        "run: libvirt-postcopy check --list > docs/preflight.md"
    )  # fmt: skip


def test_page_has_each_check_once() -> None:
    page = to_markdown(CHECKS.values())
    headings = [line[4:] for line in page.splitlines() if line.startswith("### ")]
    assert headings == list(CHECKS)
    for each in CHECKS.values():
        assert each.why in page and f"Cure: {each.cure}." in page


def test_each_area_is_one_section() -> None:
    page = to_markdown(CHECKS.values())
    areas = [line[3:] for line in page.splitlines() if line.startswith("## ")]
    assert areas == list(dict.fromkeys(id.partition("/")[0] for id in CHECKS))
    assert len(areas) == len(set(areas))
