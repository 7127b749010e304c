"""The commands that virsh-postcopy answers itself; all others are the real virsh's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.virsh.grammar import (
    HelpWanted,
    Kind,
    Option,
    mentions,
    read_command,
)
from libvirt_postcopy.virsh.options import (
    DOMAIN,
    ENABLING,
    MIGRATE_OPTIONS,
    RECOVER_BANDWIDTH,
    STRICT_EXIT,
)
from libvirt_postcopy.virsh.real import ask_virsh

__all__ = ["RESUME_OPTIONS", "VERBS", "Verb", "claims", "is_strict_anyway", "read"]

_OURS = frozenset(option.name for option in MIGRATE_OPTIONS if option.is_ours)
_TOKENS = frozenset(f"--{name}" for name in _OURS.union(ENABLING))


def _wants_migrate(given: Mapping[str, str]) -> bool:
    """Whether post-copy, or something else of ours, is asked for.

    virsh's own recovery (``--postcopy-resume``) and its own way with ``--timeout``, which is to suspend
    the guest, are left to it as long as no option of ours is there too.
    """
    if _OURS & given.keys():
        return True
    suspends = "timeout" in given and "timeout-postcopy" not in given
    if suspends or "timeout-suspend" in given or "postcopy-resume" in given:
        return False
    return not given.keys().isdisjoint(ENABLING)


_NOT_AS_WE_DO = frozenset(
    ("offline", "direct", "timeout", "timeout-suspend", "postcopy-resume")
)


def is_strict_anyway(words: Sequence[str], given: Mapping[str, str]) -> bool:
    """Whether a migration is ours by ``--strict-exit`` alone, and is nothing that we carry out.

    virsh does what that asks for by itself.
    """
    if words[0] != "migrate" or _OURS & given.keys() != {STRICT_EXIT.name}:
        return False
    rest = {name: text for name, text in given.items() if name != STRICT_EXIT.name}
    is_plain = "live" in rest and rest.keys().isdisjoint(_NOT_AS_WE_DO)
    return not is_plain and not _wants_migrate(rest)


@dataclass(frozen=True)
class Verb:
    """A command that we answer, always or when ``wants`` says so of its options.

    :ivar module: Where its ``run`` is, imported only when it is run.
    :ivar tokens: Words that make an invalid line ours to complain about; None for any line.
    :ivar is_virshs: virsh has it too, with text of its own for ``help``.
    """

    name: str
    summary: str
    description: str
    options: tuple[Option, ...]
    module: str
    wants: Callable[[Mapping[str, str]], bool] = lambda given: True
    tokens: frozenset[str] | None = None
    is_virshs: bool = False


_START = Verb(
    name="migrate-start-postcopy",
    summary="Switch running migration from pre-copy to post-copy",
    description="Switch running migration from pre-copy to post-copy. The migration must have been started"
    " with --postcopy or --enable-postcopy.",
    options=(DOMAIN, STRICT_EXIT),
    module="libvirt_postcopy.virsh.switch",
)

_CHECK = Verb(
    name="postcopy-check",
    summary="Say whether domain can be migrated by post-copy",
    description="Say beforehand whether domain can be migrated by post-copy, and what would go wrong. The exit status"
    " is 1 if something certainly would.",
    options=(
        DOMAIN,
        Option(
            "desturi",
            Kind.STRING,
            "connection URI of the destination host as seen from the client",
            is_positional=True,
            is_required=True,
        ),
        Option(
            "probe",
            Kind.BOOL,
            "start a paused domain of our own on the destination for a moment, and ask its QEMU; run on the"
            " source, also try a migration port there",
        ),
        Option("json", Kind.BOOL, "print the report as JSON"),
    ),
    module="libvirt_postcopy.virsh.check",
)

_DESTINATION = Option(
    "desturi",
    Kind.STRING,
    "connection URI of its destination, where the journal of the client that started it does not tell",
    is_positional=True,
)
_PATIENCE = Option(
    "postcopy-recover",
    Kind.STRING,
    "how long to try to resume a broken migration, counted from the last page that moved (30m), or never",
)
_VERBOSE = Option("verbose", Kind.BOOL, "display the progress of migration")

_OF_A_RESUME = (
    "p2p",
    "persistent",
    "undefinesource",
    "tls",
    "tls-destination",
    "migrateuri",
    "listen-address",
    "dname",
    "postcopy-bandwidth",
)
RESUME_OPTIONS = tuple(
    replace(option, is_positional=False)
    for option in MIGRATE_OPTIONS
    if option.name in _OF_A_RESUME
)
"""Those of the migrate call that a call which resumes it needs again, where no journal has them."""

_ATTACH = Verb(
    name="postcopy-attach",
    summary="Go on with running migration that another client has started",
    description="Go on with the running migration of domain, which another client has started: switch it to post-copy,"
    " watch it, and resume it if it breaks. Ctrl-C leaves it as it is. Where no journal of ours tells how it was started,"
    " name the options that it was started with: a call that resumes it needs them again.",
    options=(
        DOMAIN,
        _DESTINATION,
        Option(
            "postcopy-policy",
            Kind.STRING,
            "switch to post-copy when this says so; see help migrate",
        ),
        _PATIENCE,
        RECOVER_BANDWIDTH,
        Option(
            "shadow", Kind.BOOL, "send nothing: only watch, and say what would be sent"
        ),
        *RESUME_OPTIONS,
        _VERBOSE,
        STRICT_EXIT,
    ),
    module="libvirt_postcopy.virsh.attach",
)

_RECOVER = Verb(
    name="postcopy-recover",
    summary="Resume broken post-copy migration",
    description="Resume the broken post-copy migration of domain, again and again until it is whole. Ctrl-C leaves it"
    " as it is. Where no journal of ours tells how it was started, name the options that it was started with: a call"
    " that resumes it needs them again.",
    options=(
        DOMAIN,
        _DESTINATION,
        _PATIENCE,
        RECOVER_BANDWIDTH,
        *RESUME_OPTIONS,
        _VERBOSE,
        STRICT_EXIT,
    ),
    module="libvirt_postcopy.virsh.recover",
)

_JOB_INFO = Verb(
    name="domjobinfo",
    summary="domain job information",
    description="Returns information about jobs running on a domain.",
    options=(
        DOMAIN,
        Option(
            "completed",
            Kind.BOOL,
            "return statistics of a recently completed job",
        ),
        Option(
            "keep-completed",
            Kind.BOOL,
            "don't destroy statistics of a recently completed job when reading",
        ),
        Option("anystats", Kind.BOOL, "print statistics for any kind of job"),
        Option("rawstats", Kind.BOOL, "print the raw data returned by libvirt"),
        Option(
            "postcopy",
            Kind.BOOL,
            "say also whether it is in post-copy, where the guest is and how many pages it has asked for; with"
            " --completed, on the destination, how long it has waited for them",
            is_ours=True,
        ),
    ),
    module="libvirt_postcopy.virsh.jobinfo",
    wants=lambda given: "postcopy" in given,
    tokens=frozenset(["--postcopy"]),
    is_virshs=True,
)

_POLICY = Verb(
    name="postcopy-policy",
    summary="Show or set the post-copy policy that domain carries",
    description="Show the policy for post-copy that domain carries in its XML, set it, or take it away. migrate --postcopy"
    " obeys it where no other policy is given. It migrates with the domain.",
    options=(
        DOMAIN,
        Option("set", Kind.STRING, "the policy; see --postcopy-policy in help migrate"),
        Option("unset", Kind.BOOL, "take it away"),
    ),
    module="libvirt_postcopy.virsh.policy",
)

_NWFILTER = Verb(
    name="nwfilter-define",
    summary="define or update a network filter from an XML file",
    description="Define a new network filter or update an existing one. With --keep-uuid a filter that exists keeps"
    " its UUID, whatever the file says.",
    options=(
        Option(
            "file",
            Kind.STRING,
            "file containing an XML network filter description",
            is_positional=True,
            is_required=True,
        ),
        Option("validate", Kind.BOOL, "validate the XML against the schema"),
        Option(
            "keep-uuid",
            Kind.BOOL,
            "let a filter of this name keep its UUID",
            is_ours=True,
        ),
    ),
    module="libvirt_postcopy.virsh.nwfilter",
    wants=lambda given: "keep-uuid" in given,
    tokens=frozenset(("--keep-uuid",)),
    is_virshs=True,
)

VERBS: Mapping[str, Verb] = MappingProxyType(
    {
        verb.name: verb
        for verb in (
            Verb(
                name="migrate",
                summary="migrate domain to another host",
                description="Migrate domain to another host.  Add --live for live migration.",
                options=MIGRATE_OPTIONS,
                module="libvirt_postcopy.virsh.migrate",
                wants=_wants_migrate,
                tokens=_TOKENS,
                is_virshs=True,
            ),
            _START,
            replace(_START, name="migrate-postcopy", is_virshs=True),
            _JOB_INFO,
            _CHECK,
            _ATTACH,
            _RECOVER,
            _POLICY,
            _NWFILTER,
        )
    }
)


def read(
    verb: Verb, words: Sequence[str], found: dict[str, str] | None = None
) -> dict[str, str]:
    """Read a command line of a verb as :func:`libvirt_postcopy.virsh.grammar.read_command` does."""
    fills_all = _fills_all if verb.is_virshs else _only_marked
    return read_command(
        verb.name, verb.options, words[1:], fills_all=fills_all, found=found
    )


def _only_marked() -> bool:
    return False


def _fills_all() -> bool:
    """Whether the real virsh lets data fill any option, by how it takes more than the marked ones can hold."""
    words = ["migrate", *"1234567890", "11", "--no-such-option"]
    return b"--no-such-option" in ask_virsh(words)[2]


def claims(words: Sequence[str]) -> Verb | None:
    """Say which verb of ours a command line is for; None if the real virsh is to have it.

    A line that is not valid is ours only if it names an option of ours, so that virsh complains about
    all others in its own way.
    """
    verb = VERBS.get(words[0]) if words else None
    if verb is None or verb.tokens is None:
        return verb
    try:
        given = read(verb, words)
    except HelpWanted:
        return verb
    except UsageError:
        return verb if mentions(verb.tokens, words[1:]) else None
    return verb if verb.wants(given) else None
