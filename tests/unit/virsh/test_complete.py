from __future__ import annotations

import pytest

from libvirt_postcopy.drivers.select import DRIVERS
from libvirt_postcopy.policy import parse
from libvirt_postcopy.preflight.run import MODES
from libvirt_postcopy.virsh import complete
from libvirt_postcopy.virsh.complete import VALUES, candidates
from libvirt_postcopy.virsh.plan import patience


@pytest.fixture
def virsh(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Knows three commands, an option and a domain."""
    asked: list[list[str]] = []

    def ask(argv: list[str]) -> tuple[int, bytes, bytes]:
        asked.append(argv)
        *before, word = argv[argv.index("--") + 1 :]
        known = "migrate migrate-postcopy list"
        if before:
            known = "web1 web2" if before[-1] == "--domain" else "--postcopy --live"
        found = [each for each in known.split() if each.startswith(word)]
        return (0 if found else 1), "\n".join([*found, ""]).encode(), b""

    monkeypatch.setattr(complete, "ask_virsh", ask)
    return asked


@pytest.mark.parametrize(
    "line, found",
    [
        ("mig", "migrate migrate-postcopy migrate-start-postcopy"),
        ("postcopy-rec", "postcopy-recover"),
        ("li", "list"),
        ("migrate --postcopy-r", "--postcopy-recover --postcopy-recover-bandwidth --postcopy-release-ram"),
        ("migrate --postcopy", "--postcopy"),
        ("migrate --postcopy-check ", "off warn strict"),
        ("migrate --postcopy-driver n", "native"),
        ("migrate --postcopy-policy a", "after-precopy after:"),
        ("domjobinfo --domain w", "web1 web2"),
        ("domjobinfo web1 --p", "--postcopy"),
        ("postcopy-recover w", "web1 web2"),
        ("postcopy-recover --verbose w", "web1 web2"),
        ("postcopy-recover --domain w", "web1 web2"),
        ("postcopy-recover web1 w", ""),
        ("postcopy-recover --postcopy-recover n", "never"),
        ("postcopy-recover web1 --st", "--strict-exit"),
        ("postcopy-recover --strict-exit web1 --st", ""),
        ("postcopy-policy web1 --set m", "manual"),
        ("nosuch ", "--postcopy --live"),
    ],
)  # fmt: skip
def test_candidates(virsh: list, line: str, found: str) -> None:
    given = candidates(line.split(" "), ("--connect=x:///",))
    if line == "migrate --postcopy":
        assert given[0] == found and len(given) > 5
    else:
        assert given == found.split()
    assert all(argv[:4] == ["-q", "--connect=x:///", "complete", "--"] for argv in virsh)  # fmt: skip


def test_virsh_is_not_asked_about_what_is_ours(virsh: list) -> None:
    line = "migrate --live --postcopy-check off --strict-exit --postcopy-after=5 --p"
    candidates(line.split(), ())
    assert virsh == [["-q", "complete", "--", "migrate", "--live", "--p"]]


def test_nothing_typed(virsh: list) -> None:
    assert candidates([], ()) == candidates([""], ())
    assert {"list", "postcopy-check"}.issubset(candidates([""], ()))


def test_values_are_those_that_are_taken() -> None:
    assert set(VALUES["postcopy-check"]) == set(MODES)
    assert set(VALUES["postcopy-driver"]) == set(DRIVERS)
    for name in ("postcopy-policy", "set"):
        for value in VALUES[name]:
            parse(f"{value}5s" if value.endswith(":") else value)
    assert [patience(value) for value in VALUES["postcopy-recover"]] == [0.0]
