"""``postcopy-attach``: goes on with a migration that somebody else has started, or only watches it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from libvirt_postcopy import takeover
from libvirt_postcopy.api import RECOVER, Job
from libvirt_postcopy.constants import ErrorNumber, MigrateFlags
from libvirt_postcopy.errors import (
    LibvirtError,
    MigrationError,
    PostcopyBroken,
    PostcopyError,
    StateError,
    UsageError,
)
from libvirt_postcopy.events import Half, Place
from libvirt_postcopy.journal import Facts, entries, safe_uri
from libvirt_postcopy.policy import Manual, Policy, parse
from libvirt_postcopy.vir import calls
from libvirt_postcopy.vir.events import ensure_event_loop
from libvirt_postcopy.vir.protocols import Connection, Domain
from libvirt_postcopy.virsh.daemon import (
    connect,
    find_domain,
    guest_on_source,
    login,
    require_writable,
    uri_of,
)
from libvirt_postcopy.virsh.grammar import Globals, Value
from libvirt_postcopy.virsh.interrupts import Signals, easily_interrupted
from libvirt_postcopy.virsh.migrate import Watch
from libvirt_postcopy.virsh.plan import make_plan, patience, recover_bandwidth
from libvirt_postcopy.virsh.progress import Progress
from libvirt_postcopy.virsh.split import look_command
from libvirt_postcopy.virsh.terminal import Terminal
from libvirt_postcopy.virsh.texts import LeftAlone, Texts
from libvirt_postcopy.virsh.verbs import RESUME_OPTIONS

__all__ = ["follow", "run"]


def run(
    given: Mapping[str, Value], options: Globals, terminal: Terminal, signals: Signals
) -> None:
    """Attach, and stay until the end or until the user leaves.

    :raises PostcopyError: What has become of it if it did not come to its end; text for the operator.
    """
    spec = given.get("postcopy-policy")
    policy = None if spec is None else parse(str(spec))
    follow(given, options, terminal, signals, policy=policy)


def follow(
    given: Mapping[str, Value],
    options: Globals,
    terminal: Terminal,
    signals: Signals,
    *,
    policy: Policy | None = None,
    only_broken: bool = False,
) -> None:
    """Attach to a domain's migration and watch it.

    :param only_broken: Refuse one that has not broken.
    """
    patience_s = patience(str(given.get("postcopy-recover", RECOVER)))
    with easily_interrupted():
        calls.silence_libvirt()
        ensure_event_loop()  # only connections opened after it deliver events
        connection = connect(options)
        name = str(given["domain"])
        try:
            dom = find_domain(connection, name)
        except LibvirtError as error:
            if error.code != ErrorNumber.VIR_ERR_NO_DOMAIN:
                raise
            return _tell_arrival(error, name, connection, options, terminal)
        if "shadow" not in given:
            require_writable(options, for_call="virDomainMigrateStartPostCopy")
        texts = _texts(given, dom)
        is_shown = "verbose" in given and not options.is_quiet
        progress = Progress(terminal, is_verbose=is_shown)
    signals.catch()
    try:
        if only_broken:
            takeover.require_broken(dom)
        job = takeover.attach(
            dom,
            texts.destination,
            policy=Manual() if only_broken else policy,
            recover=patience_s,
            recover_bandwidth=recover_bandwidth(given),
            **_call(given, dom),
            shadow="shadow" in given,
            connect=login(options).open,
            observer=progress.see,
        )
    except StateError as error:
        # One that has left may have left its definition behind.
        is_away = calls.half(dom) is Half.INACTIVE
        if is_away and _has_told_arrival(name, connection, options, terminal):
            return None
        raise _refusal(error, dom) from error
    except LibvirtError as error:  # it may have left this moment
        if error.code != ErrorNumber.VIR_ERR_NO_DOMAIN:
            raise
        return _tell_arrival(error, name, connection, options, terminal)
    try:
        _Onlooker(job, progress, signals, texts, terminal).wait()
    except LeftAlone:
        raise
    except MigrationError as error:
        is_back = error.guest == Place.SOURCE
        raise texts.of(
            error, progress.seen, guest_on_source(dom) if is_back else ""
        ) from error


def _tell_arrival(
    error: LibvirtError,
    name: str,
    connection: Connection,
    options: Globals,
    terminal: Terminal,
) -> None:
    """Say that a domain that is not here has arrived where it was sent; raise the error where it has not."""
    if not _has_told_arrival(name, connection, options, terminal):
        error.cure = _where_to_look(name, _last_seen(name, uri_of(connection)))
        raise error


def _has_told_arrival(
    name: str, connection: Connection, options: Globals, terminal: Terminal
) -> bool:
    facts = _last_seen(name, uri_of(connection))
    if facts is None or not _has_arrived(facts, login(options).open):
        return False
    terminal.say(f"'{name}' has arrived on {facts.destination}")
    return True


def _call(given: Mapping[str, Value], dom: Domain) -> dict[str, Any]:
    """What was given of the call that is to be made again, beside what the journal has of it.

    :raises UsageError: If it cannot be meant.
    """
    if "tls-destination" in given and "tls" not in given:
        raise UsageError("Option --tls is required by option --tls-destination")
    named = [option for option in RESUME_OPTIONS if option.name in given]
    call: dict[str, Any] = {"peer2peer": True} if "p2p" in given else {}
    flags = sum(int(option.flag or 0) for option in named)
    flags &= ~int(MigrateFlags.VIR_MIGRATE_PEER2PEER)
    params = {option.param: given[option.name] for option in named if option.param}
    if flags or params:
        entry = takeover.left_behind(dom).entry
        call["flags"] = flags | (entry.facts.flags if entry else 0)
        call["params"] = {**(entry.facts.params if entry else {}), **params}
    return call


def _last_seen(name: str, uri: str) -> Facts | None:
    """The last migration of a domain away from a host, by the journals; None where it came back from that."""
    here = safe_uri(uri)
    for entry in entries():
        facts = entry.facts
        is_it = name in (facts.name, facts.uuid) and facts.source == here
        if is_it and facts.destination:
            return None if entry.end is Place.SOURCE else facts
    return None


def _has_arrived(facts: Facts, open_: calls.Open) -> bool:
    """Whether its migration came to its end while nobody looked."""
    if facts.driver != "native":  # libvirt does not know which half is whole
        return False
    try:
        there = calls.open_connection(facts.destination, "destination", open_=open_)
        try:
            dom = calls.find_domain(there, facts.uuid)
            return dom is not None and calls.half(dom) is Half.WHOLE
        finally:
            there.close()
    except LibvirtError:
        return False


def _where_to_look(name: str, facts: Facts | None) -> str:
    if facts is None or not facts.destination:
        return "attach on the source; if it was migrating from here, look for it on the other host"
    look = look_command(facts.destination, name)
    return (
        f"its last migration from here went to {facts.destination}; look there: {look}"
    )


def _refusal(error: StateError, dom: Domain) -> PostcopyError:
    """What is refused of a split guest ends with the status of one."""
    if not calls.half(dom).is_split:
        return error
    return PostcopyBroken(
        f"{error.what}; the guest is split: destroy, resume and reset neither half",
        side=error.side,
        cure=error.cure,
    )


def _texts(given: Mapping[str, Value], dom: Domain) -> _Texts:
    """Words for this migration, with the destination that was named or is in the journal."""
    like: dict[str, Value] = {"live": True, "postcopy": True, "domain": given["domain"]}
    destination: str | None
    if "desturi" in given:
        destination = str(given["desturi"])
    elif (entry := takeover.left_behind(dom).entry) is not None:
        destination = entry.facts.destination
        if entry.facts.is_peer2peer:
            like["p2p"] = True
    else:
        destination = None
    like["desturi"] = destination or _UNKNOWN
    return _Texts(like, uri_of(dom.connect()), destination)


_UNKNOWN = "DESTURI"


class _Texts(Texts):
    """Words for a migration that was not started here.

    :param destination: None where it is not known.
    """

    def __init__(
        self, given: Mapping[str, Value], source: str, destination: str | None
    ) -> None:
        super().__init__(make_plan(given), given, source)
        self.destination = destination

    def left(self, guest: Place) -> LeftAlone:
        """The user left."""
        if guest is not Place.SOURCE:
            return super().left(guest)
        name = self.plan.domain
        job_info = shlex.join(["virsh", "-c", self._source, "domjobinfo", name])
        return LeftAlone(
            f"left the migration of '{name}' to itself, and it goes on; the guest is on the source until the switch",
            guest="unknown",
            cure=f"look: {job_info}",
        )

    def _halves(self) -> str:
        if self.destination is not None:
            return super()._halves()
        return (
            f"the guest '{self.plan.domain}' is split, its newest memory on the destination,"
            f" the rest on {self._source}: destroy, resume and reset neither half"
        )

    def _unknown(self) -> str:
        if self.destination is not None:
            return super()._unknown()
        return (
            f"it cannot be told where the guest '{self.plan.domain}' is, or whether its migration goes on:"
            f" destroy it neither on {self._source} nor on its destination"
        )


class _Onlooker(Watch):
    """Ctrl-C leaves: what somebody else has started is never aborted."""

    def __init__(
        self,
        job: Job,
        progress: Progress,
        signals: Signals,
        texts: _Texts,
        terminal: Terminal,
    ) -> None:
        super().__init__(job, progress, signals, texts, terminal)
        self._words = texts

    def _answer(self) -> None:
        if self._signals.take():
            self._terminal.interrupt()
            raise self._words.left(self._job.guest)
