from __future__ import annotations

import io

import pytest

from libvirt_postcopy.cli.main import main
from unit.golden import FOLDER, check_golden

SPECS = (FOLDER / "policy.in").read_text(encoding="utf-8").splitlines()


def explained(spec: str) -> str:
    out = io.StringIO()
    assert main(["policy", spec], out) == 0
    return out.getvalue()


def test_explanations() -> None:
    check_golden(
        "policy.out", "".join(f"$ {spec}\n{explained(spec)}" for spec in SPECS)
    )


@pytest.mark.parametrize("spec", SPECS)
def test_what_is_printed_can_be_typed(spec: str) -> None:
    canonical = explained(spec).splitlines()[0]
    assert explained(canonical) == explained(spec)
