"""What is told of a command that is debugged."""

from __future__ import annotations

import io
import logging

import pytest

from libvirt_postcopy.virsh.debug import Debug, level_of
from libvirt_postcopy.virsh.grammar import Globals
from libvirt_postcopy.virsh.terminal import Terminal

LOG = logging.getLogger("libvirt_postcopy.virsh")


@pytest.mark.parametrize(
    "option, text, level",
    [(4, "", 4), (4, "0", 0), (4, "3", 3), (4, "4", 4), (4, "5", 4), (4, "-1", 4), (4, "x", 4), (2, "0", 2), (0, "3", 0)],
)  # fmt: skip
def test_option_counts_before_the_environment(
    option: int, text: str, level: int
) -> None:
    assert level_of(Globals(debug=option), {"VIRSH_DEBUG": text}) == level
    assert level_of(Globals(debug=option), {}) == option


@pytest.mark.parametrize("level", range(5))
def test_what_is_logged_is_told_from_its_level_on(level: int) -> None:
    out = io.StringIO()
    package = logging.getLogger("libvirt_postcopy")
    before = (package.level, list(package.handlers))
    with Debug(Terminal(out, io.StringIO()), level).telling("migrate"):
        LOG.debug("a %s", "b\x1b")
        LOG.info("c")
        LOG.warning("d")
        LOG.error("e")
    LOG.error("f")
    said = {0: "a b\\x1b c d e", 1: "c d e", 2: "d e", 3: "d e", 4: ""}[level]
    letters = [line.partition("migrate: ")[2] for line in out.getvalue().splitlines()]
    assert " ".join(letters) == said
    assert (package.level, list(package.handlers)) == before
