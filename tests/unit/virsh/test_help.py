from __future__ import annotations

import pytest

from libvirt_postcopy.virsh.grammar import CommandLine, Globals
from libvirt_postcopy.virsh.help import help_text, is_for_overview, overview, topic
from libvirt_postcopy.virsh.verbs import VERBS
from unit.golden import check_golden


@pytest.mark.parametrize("name", sorted(VERBS))
def test_help(name: str) -> None:
    check_golden(f"help-{name}.out", help_text(VERBS[name]))


def test_overview_names_each_verb_and_what_we_add_to_virshs() -> None:
    lines = overview().splitlines()
    assert lines[0].startswith(" Post-copy (virsh-postcopy") and lines[-1] == ""
    verbs = [line.split()[0] for line in lines[1:] if line[4:5].isalpha()]
    assert verbs == list(VERBS)
    options = [line.split()[0] for line in lines if line.startswith("      --")]
    ours = [each.name for each in VERBS["migrate"].options if each.is_ours]
    assert options == [f"--{name}" for name in ours]


@pytest.mark.parametrize(
    "words, name",
    [
        ("help migrate", "migrate"),
        ("help --command migrate-postcopy", "migrate-postcopy"),
        ("help --command=migrate-start-postcopy", "migrate-start-postcopy"),
        ("help", None),
        ("help domain", None),
        ("help list", None),
        ("help migrate list", None),
        ("help --foo migrate", None),
        ("help --help", None),
        ("list migrate", None),
        ("", None),
    ],
)
def test_topic(words: str, name: str | None) -> None:
    verb = topic(tuple(words.split()))
    assert (verb and verb.name) == name


def test_overview_belongs_below_virshs_own() -> None:
    line = CommandLine(Globals(), ("help",))
    assert is_for_overview(line)
    assert is_for_overview(CommandLine(Globals(), (), asks_for_usage=True))
    assert not is_for_overview(CommandLine(Globals(), ("help", "list")))
    assert not is_for_overview(CommandLine(Globals(), ("list",)))
