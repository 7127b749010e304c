"""The conformance checks as tests; see :mod:`.pytest_plugin`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from libvirt_postcopy.conformance import (
    checks,  # noqa: F401  (registers them)
    host,
)
from libvirt_postcopy.conformance.campaign import scenarios_of, targets_of
from libvirt_postcopy.conformance.evidence import Conversation
from libvirt_postcopy.conformance.introspection import Facts
from libvirt_postcopy.conformance.live import Bench, converse, examine
from libvirt_postcopy.conformance.machine import Target
from libvirt_postcopy.conformance.registry import ANY, CHECKS, Check
from libvirt_postcopy.conformance.report import Detail, finding_text
from libvirt_postcopy.conformance.scenarios import SCENARIOS
from libvirt_postcopy.conformance.verdicts import Verdict, judge_all

__all__ = ["test_conformance"]


class _Subject:
    """A QEMU, with the conversations that were held with it so far."""

    def __init__(self, bench: Bench, target: Target) -> None:
        self.bench = bench
        self.target = target
        self.facts, seen = examine(bench, target)
        self.held: dict[str, Conversation] = {"introspection": self._known(seen)}

    def _known(self, seen: Conversation) -> Conversation:
        return replace(seen, facts=self.facts, _cache={})

    def conversations(self, check: Check, *, quick: bool) -> dict[str, Conversation]:
        from libvirt_postcopy.conformance.campaign import Options

        options = Options(quick=quick)
        wanted = scenarios_of([check], self.facts, options, self.target.accel)
        if check.scenarios == ANY and len(self.held) == 1:
            # Chosen alone, or in a process of its own: an idle QEMU says little.
            wanted = [SCENARIOS["post-copy"]]
        for scenario in wanted:
            if scenario.name not in self.held:
                pair, facts = (self.target,) * 2, (self.facts,) * 2
                self.held[scenario.name] = self._known(
                    converse(self.bench, scenario, pair, facts)
                )
        return self.held


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    with Bench.open() as opened:
        yield opened


@pytest.fixture(scope="session")
def subjects() -> dict[Target, _Subject]:
    return {}


def pytest_generate_tests(metafunc: Any) -> None:
    """One test for each QEMU and check."""
    option = metafunc.config.getoption
    quick = option("--postcopy-quick")
    targets = targets_of(option("--postcopy-qemu"), [], option("--postcopy-accel"))
    chosen = [
        each
        for each in CHECKS.values()
        if not quick or each.scenarios == ANY or any(SCENARIOS[n].is_quick for n in each.scenarios if n in SCENARIOS)  # fmt: skip
    ]
    rows = [(target, check) for target in targets for check in chosen]
    # Together what has a scenario in common, so that a process of pytest-xdist drives it once; last what judges all of them.
    rows.sort(key=lambda row: (row[1].scenarios == ANY, row[1].scenarios[0]))
    metafunc.parametrize(
        ("target", "check"),
        [
            pytest.param(target, check, id=f"{target.path.rpartition('/')[2]}-{check.id}")  # fmt: skip
            for target, check in rows
        ],
    )


def test_conformance(
    target: Target,
    check: Check,
    bench: Bench,
    subjects: dict[Target, _Subject],
    request: pytest.FixtureRequest,
) -> None:
    """The requirement of one check."""
    if target not in subjects:
        subjects[target] = _Subject(bench, target)
    subject = subjects[target]
    assert isinstance(subject.facts, Facts)
    quick = request.config.getoption("--postcopy-quick")
    held = subject.conversations(check, quick=quick)
    (finding,) = judge_all([check], held.values(), subject.facts, target.accel)
    if host.userfaultfd_missing(subject.facts.version) and check.is_driven:
        pytest.fail(f"no post-copy here: {finding.reason}", pytrace=False)
    if finding.verdict is Verdict.SKIP:
        pytest.skip(finding.reason)
    text = "\n".join(finding_text(finding, Detail.ALL))
    if finding.verdict is Verdict.KNOWN and request.config.getoption("--postcopy-known-ok"):  # fmt: skip
        pytest.xfail(text)
    if finding.verdict in (Verdict.FAIL, Verdict.KNOWN):
        pytest.fail(text, pytrace=False)
