from __future__ import annotations

import pytest

from libvirt_postcopy.virsh import help as ours
from libvirt_postcopy.virsh.help import (
    group,
    help_text,
    is_for_group,
    is_for_overview,
    overview,
    topic,
)
from libvirt_postcopy.virsh.verbs import VERBS
from unit.golden import check_golden


@pytest.fixture
def virsh(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What it answers to ``help``."""
    answer: list[object] = [0, b"  NAME\n    virsh's own \xff\n\n", b""]

    def ask(argv: list[str]) -> list[object]:
        assert argv[:2] == ["-q", "help"]
        return answer

    monkeypatch.setattr(ours, "ask_virsh", ask)
    return answer


@pytest.mark.parametrize("name", sorted(VERBS))
def test_help(virsh: list[object], name: str) -> None:
    """Ours in full, as for a virsh that does not know the verb."""
    virsh[0] = 1
    check_golden(f"help-{name}.out", help_text(VERBS[name]))


def test_help_of_a_command_of_virshs_is_its_own_and_what_we_add(
    virsh: list[object],
) -> None:
    text = help_text(VERBS["migrate"])
    head, added = text.split("  OPTIONS OF virsh-postcopy\n")
    assert head == "  NAME\n    virsh's own \udcff\n\n"
    assert "    --postcopy-after <duration>  " in added and added.endswith("\n\n")
    assert "--live" not in added


def test_overview_names_each_verb_and_what_we_add_to_virshs() -> None:
    lines = overview().split("\n")
    assert lines[0] == " Post-copy (help keyword 'postcopy'):"
    assert lines[-2:] == ["", ""] and overview() == f"{group()}\n"
    verbs = [line.split()[0] for line in lines[1:] if line[4:5].isalpha()]
    assert verbs == list(VERBS)
    options = [line.split()[0] for line in lines if line.startswith("      --")]
    added = [
        f"--{option.name}"
        for verb in VERBS.values()
        for option in verb.options
        if verb.is_virshs and option.is_ours
    ]
    assert options == added and "--postcopy-policy" in added


def test_group() -> None:
    for words in (["help", "postcopy"], ("help", "--command=postcopy")):
        assert is_for_group(words)
    for words in (["help"], ["help", "migrate"], ["postcopy"], []):
        assert not is_for_group(words)


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
    assert is_for_overview(("help",))
    assert not is_for_overview(("help", "list"))
    assert not is_for_overview(("list",))
