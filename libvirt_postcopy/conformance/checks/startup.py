"""How a destination starts, and over what the two talk."""

from __future__ import annotations

from libvirt_postcopy.conformance.checks.reading import (
    alive,
    capability,
    completed,
    first_of,
    granted,
    last_reply,
    need,
    order,
    reached,
    refused,
    replies,
    run_states,
    switch,
)
from libvirt_postcopy.conformance.evidence import Conversation, Line
from libvirt_postcopy.conformance.registry import (
    check,
    require,
    unseen,
)

__all__: list[str] = []

_INCOMING = "qapi/migration.json migrate-incoming"


def has_s(seen: Conversation, side: str = "dst") -> bool:
    """Whether a side was started with -S."""
    found = seen.of("argv", side)
    if not found:
        unseen(f"the command line of {side} was not recorded")
    return "-S" in found[0].msg


@check(
    "incoming/bad-address-then-good",
    alias="D1",
    source=_INCOMING,
    scenario="incoming-bad-address",
)
def second_address(seen: Conversation) -> None:
    """After a migrate-incoming that could not bind, another one is accepted and the migration completes."""
    tries = [each for each in seen.asked("migrate-incoming", "dst") if each.reply is not None]  # fmt: skip
    if len(tries) < 2 or tries[0].is_ok or "nonexistent" not in str(tries[0].arguments):
        unseen("no migrate-incoming with an address that cannot be")
    granted(tries[1])
    completed(seen)


@check(
    "incoming/twice", alias="D2", source=_INCOMING, scenario=("post-copy", "listening")
)
def incoming_twice(seen: Conversation) -> None:
    """A second migrate-incoming is refused, and the first goes on working."""
    tries = [each for each in seen.asked("migrate-incoming", "dst") if each.reply is not None]  # fmt: skip
    if len(tries) < 2 or not tries[0].is_ok:
        unseen("migrate-incoming was not sent twice")
    refused(tries[1], "The incoming migration has already been started")
    reached(seen, "dst", "active")


@check(
    "incoming/tcp-port-0",
    alias="D3",
    source="qapi/migration.json MigrationInfo socket-address",
    since="4.0",
)
def port_zero(seen: Conversation) -> None:
    """Of tcp port 0 query-migrate tells the port that was chosen."""
    asked = [e for e in seen.asked("migrate-incoming", "dst") if str(e.arguments.get("uri", "")).endswith(":0")]  # fmt: skip
    begin = first_of([e for e in asked if e.is_ok], "nobody listened on port 0")
    for value, exchange in replies(seen, "dst"):
        if seen.is_before(begin.cmd, exchange.cmd):
            rows = value.get("socket-address") or []
            ports = [row.get("port") for row in rows if row.get("type") == "inet"]
            require(ports and str(ports[0]).isdecimal() and ports[0] != "0", "socket-address with a port", str(rows or "none"), exchange)  # fmt: skip
            return
    unseen("nobody asked for the port")


@check(
    "incoming/status-while-listening",
    alias="D4",
    source="migration/migration.c fill_destination_migration_info",
)
def status_while_listening(seen: Conversation) -> None:
    """A destination that listens says setup from 9.1 on, and has no status before."""
    begin = first_of([e for e in seen.asked("migrate-incoming", "dst") if e.is_ok], "it never listened")  # fmt: skip
    end = seen.first("dst", "active")
    for value, exchange in replies(seen, "dst"):
        if seen.is_before(begin.cmd, exchange.cmd) and (end is None or seen.is_before(exchange.cmd, end)):  # fmt: skip
            wanted = "setup" if seen.version >= (9, 1) else None
            require(value.get("status") == wanted, f"status {wanted}", f"status {value.get('status')}", exchange)  # fmt: skip
            return
    unseen("nobody asked meanwhile")


@check(
    "incoming/autostart",
    alias="D5",
    source="docs/devel/migration/postcopy.rst",
    since="2.6",
    scenario="post-copy-autostart",
)
def resumes_by_itself(seen: Conversation) -> None:
    """A destination without -S resumes by itself after it has announced postcopy-active."""
    if has_s(seen):
        unseen("the destination was started with -S")
    switch(seen)
    order(seen, "dst", "postcopy-active", "RESUME")
    require(not seen.asked("cont", "dst"), "nobody sent cont", "cont was sent", *seen.asked("cont", "dst"))  # fmt: skip


@check(
    "incoming/stays-stopped",
    alias="D6",
    source="docs/devel/migration/postcopy.rst",
    scenario=("post-copy", "post-copy-stopped"),
)
def stays_stopped(seen: Conversation) -> None:
    """A destination with -S stays paused until cont, which works in post-copy."""
    if not has_s(seen):
        unseen("the destination was started without -S")
    begin = switch(seen, "dst")
    resume = seen.first("dst", "RESUME")
    conts = [each for each in seen.asked("cont", "dst") if seen.is_before(begin, each.cmd)]  # fmt: skip
    if resume is not None:
        require(conts and seen.is_before(conts[0].cmd, resume), "RESUME after cont", "RESUME before it", resume, *conts[:1])  # fmt: skip
    for each in conts[:1]:
        granted(each)
        need(resume, "the conversation ends after cont") if seen.scenario != "post-copy" else reached(seen, "dst", "RESUME")  # fmt: skip
    states = [(status, e) for status, e in run_states(seen, "dst", begin) if resume is None or seen.is_before(e.cmd, resume)]  # fmt: skip
    for status, asked in states:
        # It is inmigrate until the devices are loaded.
        accepted = ("inmigrate", "paused") if asked is not states[-1][1] else ("paused",)  # fmt: skip
        require(status in accepted, "run state paused before cont", status, asked)


@check(
    "incoming/early-cont",
    alias="D7",
    source="docs/devel/migration/postcopy.rst",
    scenario="cont-while-incoming",
)
def early_cont(seen: Conversation) -> None:
    """cont on a destination with -S before anything arrived is refused or has no effect; the guest stays stopped after the switch."""
    if not has_s(seen):
        unseen("the destination was started without -S")
    begin = seen.first("dst", "active")
    conts = [e for e in seen.asked("cont", "dst") if begin is None or seen.is_before(e.cmd, begin)]  # fmt: skip
    asked = first_of(conts, "no cont was sent before something arrived")
    switch(seen)
    resume = seen.first("dst", "RESUME")
    if len(seen.asked("cont", "dst")) == 1:
        require(resume is None, "no RESUME", "the guest runs", asked, resume)


def _stopped_by_user(seen: Conversation) -> Line:
    """Go on only if the source's guest had been stopped before the migration."""
    begin = first_of(seen.asked("migrate", "src"), "no migrate").cmd
    stops = [each for each in seen.asked("stop", "src") if seen.is_before(each.cmd, begin)]  # fmt: skip
    if not stops or [
        e for e in seen.asked("cont", "src") if seen.is_before(e.cmd, begin)
    ]:
        unseen("the guest had not been stopped before")
    return switch(seen)


def _stays_stopped(seen: Conversation) -> None:
    begin = _stopped_by_user(seen)
    resume = seen.first("dst", "RESUME")
    require(
        resume is None,
        "no RESUME on the destination",
        "the guest runs there",
        begin,
        resume,
    )
    for status, asked in run_states(seen, "dst", begin)[-1:]:
        require(status == "paused", "run state paused", status, asked)


@check(
    "incoming/paused-guest-autostart",
    alias="D8",
    source="migration/savevm.c loadvm_postcopy_handle_run_bh",
    scenario="stopped-source",
)
def paused_guest_stays_paused(seen: Conversation) -> None:
    """A guest that its user had stopped does not run after post-copy, also without -S on the destination."""
    if has_s(seen):
        unseen("the destination was started with -S")
    _stays_stopped(seen)


@check(
    "incoming/paused-guest",
    alias="D9",
    source="migration/savevm.c loadvm_postcopy_handle_run_bh",
    scenario="stopped-source-stopped",
)
def paused_guest_with_s(seen: Conversation) -> None:
    """A guest that its user had stopped is paused after post-copy to a destination with -S."""
    if not has_s(seen):
        unseen("the destination was started without -S")
    _stays_stopped(seen)


def _transport(seen: Conversation) -> str:
    uri = [
        str(e.arguments.get("uri", "")) for e in seen.asked("migrate", "src") if e.is_ok
    ]
    return uri[0] if uri else ""


def _over(seen: Conversation, begin: str) -> None:
    if not _transport(seen).startswith(begin):
        unseen(f"it did not go over {begin}")
    switch(seen)
    completed(seen)


@check(
    "transport/tcp",
    alias="D10",
    source="qapi/migration.json migrate",
    scenario="post-copy",
)
def over_tcp(seen: Conversation) -> None:
    """Post-copy completes over tcp."""
    _over(seen, "tcp:127" if seen.scenario == "post-copy" else "tcp:")


@check(
    "transport/tcp6", alias="D10", source="qapi/migration.json migrate", scenario="tcp6"
)
def over_tcp6(seen: Conversation) -> None:
    """Post-copy completes over tcp with IPv6."""
    _over(seen, "tcp:[")


@check(
    "transport/unix",
    alias="D10",
    source="qapi/migration.json migrate",
    scenario="post-copy-autostart",
)
def over_unix(seen: Conversation) -> None:
    """Post-copy completes over a unix socket."""
    _over(seen, "unix:")


@check(
    "transport/vsock",
    alias="D10",
    source="qapi/migration.json migrate",
    since="3.0",
    scenario="vsock",
)
def over_vsock(seen: Conversation) -> None:
    """Post-copy completes over vsock."""
    _over(seen, "vsock:")


@check(
    "transport/exec",
    alias="D10",
    source="qapi/migration.json migrate",
    scenario="exec",
)
def over_exec(seen: Conversation) -> None:
    """Post-copy completes through a command on each side."""
    _over(seen, "exec:")


@check(
    "transport/tls",
    alias="D10",
    source="qapi/migration.json MigrationParameter tls-creds",
    since="3.0",
    scenario="tls",
    needs=("param:tls-creds",),
)
def over_tls(seen: Conversation) -> None:
    """Post-copy completes over tcp with TLS."""
    with_tls(seen)
    _over(seen, "tcp:")


def with_tls(seen: Conversation) -> None:
    """Go on only if both sides had TLS credentials before the migration."""
    begin = first_of(seen.asked("migrate", "src"), "no migrate").cmd
    for side in ("src", "dst"):
        if not [e for e in seen.asked("migrate-set-parameters", side) if e.is_ok and e.arguments.get("tls-creds") and seen.is_before(e.cmd, begin)]:  # fmt: skip
            unseen(f"{side} had no tls-creds")


@check(
    "transport/rdma",
    alias="D10",
    source="migration/rdma.c rdma_start_outgoing_migration",
    since="10.2",
    scenario="rdma",
)
def over_rdma(seen: Conversation) -> None:
    """Over RDMA migrate is refused while postcopy-ram is set."""
    tries = [e for e in seen.asked("migrate", "src") if str(e.arguments.get("uri")).startswith("rdma:")]  # fmt: skip
    asked = first_of(tries, "it did not go over rdma:")
    if not capability(seen, "src", "postcopy-ram", asked.cmd):
        unseen("post-copy was off")
    refused(asked, "RDMA and postcopy-ram can't be used together")


@check("transport/fd", alias="D10", source="qapi/migration.json migrate", scenario="fd")
def over_fd(seen: Conversation) -> None:
    """Post-copy completes over a file descriptor."""
    _over(seen, "fd:")


@check(
    "transport/fd-preempt",
    alias="D10",
    source="migration/migration.c migration_channels_and_transport_compatible",
    since="7.1",
    scenario="fd-preempt",
    needs=("cap:postcopy-preempt",),
)
def fd_preempt_refused(seen: Conversation) -> None:
    """With postcopy-preempt a transport that has one channel is refused, on both sides, and nothing changes state."""
    caps = [e for e in seen.asked("migrate-set-capabilities", "src") if e.is_ok and "postcopy-preempt" in str(e.arguments)]  # fmt: skip
    if not caps or not any(str(e.arguments.get("uri")).startswith("fd:") for e in seen.asked("migrate", "src")):  # fmt: skip
        unseen("preempt over fd was not asked for")
    for side, name in (("dst", "migrate-incoming"), ("src", "migrate")):
        asked = first_of(seen.asked(name, side), f"no {name}")
        refused(asked, "Migration requires multi-channel URIs (e.g. tcp)")
        require(not seen.statuses(side), "no MIGRATION event", f"{seen.statuses(side)}", *seen.events("MIGRATION", side))  # fmt: skip


@check(
    "transport/channels",
    alias="D11",
    source="qapi/migration.json migrate, channels",
    since="8.2",
    scenario="channels",
    needs=("arg:migrate/channels",),
)
def channels(seen: Conversation) -> None:
    """An address given by channels is as good as one by uri."""
    asked = first_of([e for e in seen.asked("migrate", "src") if "channels" in e.arguments], "no migrate with channels")  # fmt: skip
    granted(asked)
    switch(seen)
    completed(seen)


@check(
    "incoming/exit-on-error-off",
    alias="D12",
    source=f"{_INCOMING}, exit-on-error",
    since="9.1",
    scenario="exit-on-error",
    needs=("arg:migrate-incoming/exit-on-error",),
)
def exit_on_error_off(seen: Conversation) -> None:
    """With exit-on-error false a destination survives a broken pre-copy and tells why."""
    asked = [e for e in seen.asked("migrate-incoming", "dst") if e.arguments.get("exit-on-error") is False]  # fmt: skip
    first_of(asked, "exit-on-error was not switched off")
    reached(seen, "dst", "failed")
    alive(seen, "dst")
    value, exchange = last_reply(seen, "dst", "failed")
    require(
        value.get("error-desc"), "status failed with error-desc", str(value), exchange
    )
