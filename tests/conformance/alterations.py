"""For each check: a recorded conversation that passes, and what to alter so that it must fail."""

from __future__ import annotations

from typing import Any

from conformance.alter import (
    Alteration,
    Rows,
    accept,
    accept_where,
    add,
    both,
    dies,
    dies_of,
    drop,
    edit,
    edit_where,
    ends_after,
    lines,
    lives_on,
    memory,
    refuse,
    refuse_where,
    silence,
    status_of,
    swap,
)

Case = tuple[str, str, Alteration]

_CAPS = "migrate-set-capabilities"
_READ = "query-migrate-capabilities"


def _set(path: str, value: Any) -> Any:
    """A change of one member, named by a path with points."""

    def change(answer: Any) -> None:
        *way, last = path.split(".")
        for step in way:
            answer = answer[step]
        answer[last] = value

    return change


def _delete(name: str) -> Any:
    def change(answer: Any) -> None:
        del answer[name]

    return change


def _capability_on(name: str, state: bool) -> Any:
    def change(rows: Any) -> None:
        for row in rows:
            if row["capability"] == name:
                row["state"] = state

    return change


def _schema(kind: str, name: str, **values: Any) -> Alteration:
    def change(entries: Any) -> None:
        for entry in entries:
            if entry.get("meta-type") == kind and entry["name"] == name:
                entry.update({key.replace("_", "-"): value for key, value in values.items()})  # fmt: skip

    return edit("src", "query-qmp-schema", change)


def _without_enum_value(value: str) -> Alteration:
    def change(entries: Any) -> None:
        for entry in entries:
            if entry.get("meta-type") == "enum" and value in entry.get("values", []):
                entry["values"].remove(value)
                entry["members"] = [m for m in entry.get("members", []) if m["name"] != value]  # fmt: skip

    return edit("src", "query-qmp-schema", change)


def _greeting(**values: Any) -> Alteration:
    def alter(rows: Rows) -> None:
        for row in rows:
            if row["dir"] == "greeting" and row["side"] == "src":
                row["msg"]["QMP"].update(values)

    return lines(alter)


def _other_id(rows: Rows) -> None:
    for row in rows:
        if row["dir"] == "reply" and row["msg"].get("id") == "a string":
            row["msg"]["id"] = "another string"


def _no_error_oob(rows: Rows) -> None:
    for row in rows:
        if row["dir"] == "reply" and row["msg"].get("id") == "out of band":
            row["msg"] = {"return": {"status": "running", "running": True}, "id": "out of band"}  # fmt: skip


def _time_goes_back(rows: Rows) -> None:
    last = [row for row in rows if row["dir"] == "event" and row["side"] == "src"][-1]
    last["msg"]["timestamp"]["seconds"] -= 5


def _other_order(rows: Rows) -> None:
    mine = [row for row in rows if row["dir"] == "event" and row["side"] == "src-2"]
    mine[0]["msg"], mine[-1]["msg"] = mine[-1]["msg"], mine[0]["msg"]


def _undo_deprecation(entries: Any) -> None:
    for entry in entries:
        for member in entry.get("members") or []:
            if member.get("name") == "zero-blocks":
                member.pop("features", None)


def _drop_capability(name: str) -> Any:
    return lambda rows: [row for row in rows if row["capability"] != name]


def _beat(rows: Rows) -> None:
    place = max(n for n, r in enumerate(rows) if r["side"] == "dst" and r["dir"] == "reply" and "status" in str(r["msg"]))  # fmt: skip
    recover = next(n for n, r in enumerate(rows) if r["dir"] == "event" and "postcopy-recover" in str(r["msg"]) and r["side"] == "dst")  # fmt: skip
    place = min(place, recover - 1)
    rows.insert(
        place, {"t": rows[place]["t"], "side": "dst", "dir": "serial", "msg": "B"}
    )


def _stray_after_start(rows: Rows) -> None:
    """An event after the last migrate-start-postcopy of the source."""
    place = max(n for n, r in enumerate(rows) if r["side"] == "src" and r["dir"] == "cmd" and r["msg"].get("execute") == "migrate-start-postcopy")  # fmt: skip
    stamp = [r for r in rows if r["dir"] == "event" and r["side"] == "src"][-1]["msg"]["timestamp"]  # fmt: skip
    rows.insert(place + 1, {"t": rows[place]["t"], "side": "src", "dir": "event", "msg": {"event": "MIGRATION", "data": {"status": "setup"}, "timestamp": stamp}})  # fmt: skip


def _stray_after_cancel(rows: Rows) -> None:
    place = next(n for n, r in enumerate(rows) if r["side"] == "src" and r["dir"] == "cmd" and r["msg"].get("execute") == "migrate_cancel")  # fmt: skip
    rows.insert(place + 1, {"t": rows[place]["t"], "side": "src", "dir": "event", "msg": {"event": "MIGRATION", "data": {"status": "cancelling"}, "timestamp": {"seconds": 1, "microseconds": 1}}})  # fmt: skip


def _reset_requests(value: Any) -> None:
    value["ram"]["transferred"] = 1


def _fast(value: Any) -> None:
    value["ram"]["transferred"] += 64 << 20


def _skewed(value: Any) -> None:
    value["postcopy-latency"] = 1 << 60


def _both_run(side: str = "src") -> Alteration:
    return add(side, "RESUME", after=("dst", "RESUME"))


def _rss(rows: Rows) -> None:
    for row in reversed(rows):
        if row["dir"] == "note" and "rss-kib" in str(row["msg"]):
            row["msg"]["rss-kib"] = 1 << 30
            return


def _accept_off(rows: Rows) -> None:
    """Accept the first refused postcopy-ram: false."""
    for n, row in enumerate(rows):
        if row["dir"] == "reply" and "error" in row["msg"] and "requires postcopy-ram" in row["msg"]["error"]["desc"]:  # fmt: skip
            cmd = [r for r in rows[:n] if r["dir"] == "cmd" and r["side"] == row["side"]][-1]  # fmt: skip
            caps = cmd["msg"]["arguments"]["capabilities"]
            if caps[0]["capability"] == "postcopy-ram" and caps[0]["state"] is False:
                row["msg"] = {"return": {}, "id": row["msg"]["id"]}
                return
    raise AssertionError("no such refusal")


def _ends(rows: Rows) -> None:
    """In the place of the time that was waited in vain: a failure."""
    for row in rows:
        if row["dir"] == "timeout":
            row.update(dir="event", side="src", msg={"event": "MIGRATION", "data": {"status": "failed"}})  # fmt: skip
            return


def _faster(rows: Rows) -> None:
    """The last answer in post-copy before the limit was lifted counts 64 MiB more."""
    lifted = max(n for n, r in enumerate(rows) if r["dir"] == "cmd" and "max-postcopy-bandwidth" in str(r["msg"]))  # fmt: skip
    found = [r for r in rows[:lifted] if r["dir"] == "reply" and r["side"] == "src" and isinstance(r["msg"].get("return"), dict) and r["msg"]["return"].get("status") == "postcopy-active"]  # fmt: skip
    _fast(found[-1]["msg"]["return"])


def _first_pass(rows: Rows) -> None:
    for row in rows:
        if row["dir"] == "event" and row["msg"]["event"] == "MIGRATION_PASS" and row["side"] == "src":  # fmt: skip
            row["msg"]["data"]["pass"] = 0
            return


def _no_resume(rows: Rows) -> None:
    """What the destination would have said, had it stayed stopped."""
    rows[:] = [r for r in rows if not (r["side"] == "dst" and r["dir"] == "event" and r["msg"]["event"] == "RESUME")]  # fmt: skip
    for row in rows:
        value = row["msg"].get("return") if row["dir"] == "reply" and row["side"] == "dst" else None  # fmt: skip
        if isinstance(value, dict) and value.get("status") == "running":
            value.update(status="paused", running=False)


def _own_status(rows: Rows) -> None:
    """What the destination would have said, had it not mixed up its two migrations."""
    before: set[str] = set()
    for row in rows:
        if row["dir"] == "cmd" and row["side"] == "dst":
            before.add(row["msg"]["execute"])
        value = row["msg"].get("return") if row["dir"] == "reply" and row["side"] == "dst" else None  # fmt: skip
        if isinstance(value, dict) and value.get("status") == "setup" and "migrate" in before:  # fmt: skip
            value["status"] = "postcopy-active"


def _stopped_often(rows: Rows) -> None:
    """Put more stop and cont where there are some."""
    place = next(n for n, r in enumerate(rows) if r["side"] == "dst" and r["dir"] == "cmd" and r["msg"].get("execute") == "device_add")  # fmt: skip
    at = rows[place]["t"]
    for n in range(25):
        rows[place:place] = [
            {"t": at, "side": "dst", "dir": "cmd", "msg": {"execute": "stop", "id": f"s{n}"}},  # fmt: skip
            {"t": at, "side": "dst", "dir": "reply", "msg": {"return": {}, "id": f"s{n}"}},  # fmt: skip
        ]


def _over(uri: str) -> Alteration:
    """Let the migration go elsewhere."""

    def alter(rows: Rows) -> None:
        for row in rows:
            if row["dir"] == "cmd" and row["msg"].get("execute") == "migrate":
                row["msg"]["arguments"]["uri"] = uri

    return alter


def _device(rows: Rows) -> None:
    for row in rows:
        if row["dir"] == "argv" and row["side"] == "src":
            row["msg"] += ["-device", "vfio-pci,host=0000:01:00.0"]


_RDMA = both(_over("rdma:127.0.0.1:4444"), refuse("src", "migrate", desc="RDMA and postcopy-ram can't be used together"))  # fmt: skip
_VFIO = both(_device, refuse("src", "migrate", desc="0000:01:00.0: VFIO migration is not supported with postcopy migration"))  # fmt: skip

ALTERATIONS: dict[str, Case] = {
    # Introspection and protocol
    "introspection/lists-agree": ("10.0", "introspection", edit("src", _READ, _drop_capability("multifd"))),
    "introspection/replies-follow-schema": ("10.0", "introspection", edit("src", "query-status", lambda v: v.update({"singlestep": False}))),
    "introspection/capabilities": ("10.0", "introspection", edit("src", _READ, _drop_capability("postcopy-preempt"))),
    "introspection/statuses": ("10.0", "introspection", _without_enum_value("postcopy-recover-setup")),
    "introspection/out-of-band": ("10.0", "introspection", _schema("command", "migrate-recover", allow_oob=False)),
    "introspection/deprecation": ("10.0", "introspection", edit("src", "query-qmp-schema", _undo_deprecation)),
    "introspection/no-old-name": ("10.0", "introspection", edit("src", _READ, lambda rows: rows.append({"capability": "x-postcopy-ram", "state": False}))),
    "introspection/migrationthreads": ("10.0", "introspection", edit("src", "query-commands", lambda rows: [r for r in rows if r["name"] != "query-migrationthreads"])),
    "protocol/greeting": ("10.0", "introspection", _greeting(capabilities=[])),
    "protocol/oob-unnegotiated": ("10.0", "introspection", lines(_no_error_oob)),
    "protocol/ids": ("10.0", "introspection", lines(_other_id)),
    "protocol/timestamps": ("10.0", "post-copy", lines(_time_goes_back)),
    "protocol/two-monitors": ("10.0", "post-copy", lines(_other_order)),
    "protocol/events-off": ("10.0", "events-off", add("src", "active", after=("src", "STOP"), status=True)),
    "protocol/polling": ("10.0", "post-copy", edit_where("src", "query-migrate", "completed", _reset_requests)),
    "protocol/oob-while-stuck": ("10.0", "recover", silence("dst", "migrate-recover")),
    # Capabilities
    "capabilities/with-multifd": ("10.0", "capability-pairs", accept_where("dst", _CAPS, '"multifd", "state": true')),
    "capabilities/with-compress": ("7.2", "capability-pairs", refuse_where("src", _CAPS, '"compress", "state": true')),
    "capabilities/preempt-with-compress": ("7.2", "capability-pairs", accept_where("dst", _CAPS, '"postcopy-preempt", "state": true}, {"capability": "compress"')),
    "capabilities/with-x-ignore-shared": ("10.0", "capability-pairs", accept_where("src", _CAPS, "x-ignore-shared")),
    "capabilities/with-background-snapshot": ("10.0", "capability-pairs", accept_where("src", _CAPS, "background-snapshot")),
    "capabilities/with-mapped-ram": ("10.0", "capability-pairs", accept_where("dst", _CAPS, "mapped-ram")),
    "capabilities/with-zero-copy-send": ("10.0", "capability-pairs", accept_where("src", _CAPS, "zero-copy-send")),
    "capabilities/preempt-alone": ("10.0", "capability-pairs", accept_where("src", _CAPS, '[{"capability": "postcopy-preempt"')),
    "capabilities/preempt-accepted": ("10.0", "capability-pairs", refuse_where("dst", _CAPS, '"postcopy-ram", "state": true}, {"capability": "postcopy-preempt"')),
    "capabilities/free-partners": ("10.0", "capability-pairs", refuse_where("dst", _CAPS, "validate-uuid")),
    "capabilities/with-cpr": ("10.0", "cpr", accept("src", "migrate")),
    "capabilities/postcopy-off-under-preempt": ("10.0", "capability-pairs", lines(_accept_off)),
    "capabilities/last-wins": ("10.0", "refusals", edit("src", _READ, _capability_on("xbzrle", True), nth=1)),
    "capabilities/fixed-while-active": ("10.0", "post-copy", accept("src", _CAPS, nth=1)),
    "capabilities/fixed-while-listening": ("10.0", "listening", accept("dst", _CAPS, nth=1)),
    "capabilities/read-back": ("10.0", "refusals", edit("dst", _READ, _capability_on("xbzrle", True), nth=1)),
    "mismatch/postcopy-source": ("10.0", "mismatch-source", edit("src", "query-status", _set("status", "finish-migrate"))),
    "mismatch/postcopy-destination": ("10.0", "mismatch-destination", status_of("src", "completed", "failed")),
    "mismatch/preempt-source": ("10.0", "mismatch-preempt-source", _both_run()),
    "mismatch/ram-size": ("10.0", "mismatch-ram", edit("src", "query-status", _set("status", "postmigrate"))),
    # Start-up and transports
    "incoming/bad-address-then-good": ("7.2", "incoming-bad-address", refuse("dst", "migrate-incoming", nth=1, desc="Illegal migration incoming state: setup")),
    "incoming/twice": ("10.0", "post-copy", accept("dst", "migrate-incoming", nth=1)),
    "incoming/tcp-port-0": ("10.0", "post-copy", edit("dst", "query-migrate", _delete("socket-address"))),
    "incoming/status-while-listening": ("10.0", "post-copy", edit("dst", "query-migrate", _delete("status"))),
    "incoming/autostart": ("10.0", "post-copy-autostart", swap("dst", "postcopy-active", "RESUME")),
    "incoming/stays-stopped": ("10.0", "post-copy-stopped", add("dst", "RESUME", after=("dst", "postcopy-active"))),
    "incoming/paused-guest": ("10.0", "stopped-source-stopped", add("dst", "RESUME", after=("dst", "postcopy-active"))),
    "transport/tcp": ("10.0", "post-copy", drop("dst", "completed")),
    "transport/tcp6": ("10.0", "tcp6", drop("src", "completed")),
    "transport/unix": ("10.0", "post-copy-autostart", memory(bad_pages=1)),
    "transport/fd": ("10.0", "fd", dies("dst")),
    "transport/fd-preempt": ("10.0", "fd-preempt", accept("src", "migrate")),
    "transport/exec": ("10.0", "exec", memory(bad_pages=1)),
    "transport/tls": ("10.0", "tls", dies("dst")),
    "transport/channels": ("10.0", "channels", refuse("src", "migrate")),
    "incoming/exit-on-error-off": ("10.0", "exit-on-error", dies("dst", 1)),
    # The switch
    "start/without-capability": ("10.0", "refusals", accept("src", "migrate-start-postcopy")),
    "start/before-migrate": ("10.0", "refusals", accept("src", "migrate-start-postcopy", nth=1)),
    "start/twice": ("10.0", "post-copy", refuse("src", "migrate-start-postcopy", nth=1)),
    "start/after-the-end": ("10.0", "post-copy", lines(_stray_after_start)),
    "start/on-destination": ("10.0", "refusals", accept("dst", "migrate-start-postcopy")),
    "start/right-after-migrate": ("10.0", "early-start", drop("src", "postcopy-active")),
    "start/converged": ("10.0", "idle-guest", status_of("src", "completed", "failed")),
    "status/source-order": ("10.0", "post-copy", swap("src", "STOP", "postcopy-active")),
    "status/destination-order": ("10.0", "post-copy", swap("dst", "RESUME", "active")),
    "pause/order": ("10.0", "pause-before-switchover", drop("src", "device")),
    "pause/pre-copy-order": ("10.0", "pre-copy-pause", swap("src", "pre-switchover", "device")),
    "pause/continue-in-a-wrong-state": ("10.0", "pause-before-switchover", accept("src", "migrate-continue")),
    "status/two-vcpus": ("10.0", "two-vcpus", swap("src", "active", "postcopy-active")),
    "source/stays-stopped": ("10.0", "post-copy", accept("src", "cont")),
    "numbers/downtime-in-postcopy": ("10.0", "post-copy", edit_where("src", "query-migrate", "postcopy-active", _delete("downtime"))),
    "numbers/downtime-is-the-sources": ("10.0", "post-copy-autostart", edit_where("src", "query-migrate", "completed", _set("downtime", 12568))),
    "numbers/bytes-add-up": ("10.0", "post-copy", edit_where("src", "query-migrate", "completed", _set("ram.postcopy-bytes", 1))),
    "numbers/remaining": ("10.0", "post-copy", edit_where("src", "query-migrate", "completed", _set("ram.remaining", 4096))),
    "numbers/postcopy-bandwidth": ("10.0", "bandwidth", lines(_faster)),
    "numbers/blocktime": ("10.0", "two-vcpus", edit_where("dst", "query-migrate", "completed", _set("postcopy-vcpu-blocktime", [1]))),
    "numbers/no-blocktime-while-stopped": ("10.0", "post-copy-stopped", edit_where("dst", "query-migrate", "completed", _set("postcopy-blocktime", 7))),
    "numbers/latency-distribution": ("11.1", "two-vcpus", edit_where("dst", "query-migrate", "completed", _skewed)),
    "numbers/requests": ("10.0", "preempt", edit_where("src", "query-migrate", "completed", _set("ram.postcopy-requests", 0))),
    "numbers/passes": ("10.0", "post-copy", edit_where("src", "query-migrate", "completed", _set("ram.dirty-sync-count", 99))),
    "numbers/first-pass": ("10.0", "post-copy", lines(_first_pass)),
    "numbers/remaining-of-all": ("11.1", "post-copy", edit_where("src", "query-migrate", "postcopy-active", _set("remaining", 0))),
    # Memory
    "memory/working-set": ("10.0", "post-copy", memory(edges=2)),
    "memory/every-page": ("10.0", "post-copy", memory(bad_pages=1)),
    "memory/read-ahead": ("10.0", "read-ahead", memory(page_read=0)),
    "memory/ram": ("10.0", "memory-ram", memory(bad_pages=3)),
    "memory/memfd": ("10.0", "memory-memfd", memory(bad_pages=3)),
    "memory/hugepages": ("10.0", "memory-hugepages", memory(bad_pages=3)),
    "memory/shm": ("10.0", "memory-shm", memory(edges=3)),
    "memory/file-on-disk": ("10.0", "file-backend-disk", accept("dst", _CAPS)),
    "memory/release-ram": ("10.0", "release-ram", lines(_rss)),
    "memory/preempt": ("10.0", "preempt", memory(bad_pages=1)),
    "memory/recovered-thrice": ("10.0", "recover-thrice", memory(bad_pages=1)),
    "memory/onward": ("10.0", "onward", memory("next", bad_pages=1)),
    "memory/other-version": ("5.2", "cross", memory(bad_pages=1)),
    # Recovery
    "break/both-paused": ("10.0", "recover", drop("dst", "postcopy-paused")),
    "recover/order": ("10.0", "recover", swap("src", "postcopy-recover-setup", "postcopy-recover")),
    "recover/bad-uri-then-good": ("10.0", "recover-bad-address", refuse("dst", "migrate-recover", nth=1)),
    "recover/nobody-then-good": ("10.0", "resume-to-nobody", dies("src")),
    "recover/second-failure": ("10.0", "recover-second-failure", dies("dst", 1)),
    "recover/other-transport": ("10.0", "recover", memory(bad_pages=1)),
    "recover/preempt": ("10.0", "recover-preempt", status_of("dst", "completed", "failed")),
    "recover/tls": ("10.0", "recover-tls", status_of("dst", "completed", "failed")),
    "recover/release-ram": ("10.0", "recover-release-ram", accept("src", "migrate", nth=1)),
    "recover/empty-connection": ("10.0", "recover-empty-connection", dies("dst", -11)),
    "recover/tls-without-credentials": ("10.0", "no-tls-creds", dies("dst", -11)),
    "recover/slow-then-fast": ("10.0", "recover-slow", drop("src", "completed")),
    "break/pause-when-paused": ("10.0", "recover", accept("src", "migrate-pause")),
    "break/pause-in-recovery": ("10.0", "recover-second-failure", refuse("src", "migrate-pause")),
    "break/by-command": ("10.0", "pause", refuse("src", "migrate-pause")),
    "break/monitor-alive": ("10.0", "paused-long", lines(_beat)),
    "break/yank": ("10.0", "yank", drop("dst", "postcopy-paused")),
    "loss/destination": ("10.0", "kill-destination", add("src", "RESUME", after=("src", "postcopy-paused"))),
    "mismatch/machine": ("10.0", "mismatch-machine", drop("src", "failed")),
    "mismatch/page-size": ("10.0", "mismatch-page-size", edit("src", "query-status", _set("status", "postmigrate"))),
    "recover/fd-preempt": ("10.0", "recover-fd-preempt", accept("dst", "migrate-recover")),
    "loss/source": ("10.0", "kill-source", dies("dst", 1)),
    "loss/source-quits": ("10.0", "quit-source", dies("src", -6)),
    "switch/cut-never-two": ("10.0", "cut-in-switch", _both_run()),
    "switch/cut-stopped-destination": ("10.0", "cut-in-switch-stopped", add("dst", "RESUME", after=("dst", "postcopy-active"))),
    "switch/device-state-rejected": ("11.1", "device-state-rejected", drop("src", "RESUME")),
    "guest/one-runs": ("10.0", "post-copy-autostart", _both_run()),
    # Cancelling and abuse
    "cancel/nothing-to-cancel": ("10.0", "refusals", lines(_stray_after_cancel)),
    "cancel/active": ("10.0", "cancel-precopy", edit("src", "query-status", _set("status", "postmigrate"))),
    "cancel/pre-switchover": ("10.0", "cancel-pre-switchover", edit("src", "query-status", _set("status", "paused"), nth=-1)),
    "cancel/pre-switchover-postcopy": ("10.0", "cancel-pre-switchover-postcopy", edit("src", "query-status", _set("status", "postmigrate"), nth=-1)),
    "cancel/postcopy": ("10.0", "cancel-postcopy", accept("src", "migrate_cancel")),
    "cancel/paused": ("10.0", "cancel-paused", accept("src", "migrate_cancel")),
    "cancel/on-destination": ("10.0", "post-copy", refuse("dst", "migrate_cancel")),
    "cancel/at-random": ("10.0", "random-cancels", edit("src", "query-status", _set("status", "postmigrate"), nth=5)),
    "robust/abuse": ("10.0", "abuse-destination", silence("dst", "device_add")),
    "robust/reset": ("10.0", "reset-destination", drop("dst", "RESET")),
    "robust/multifd": ("11.1", "multifd", dies("dst", -6)),
    "blocker/reason": ("10.0", "blocker", accept("src", "migrate")),
    "host/userfaultfd-denied": ("7.2", "no-userfaultfd", accept("dst", _CAPS)),
}  # fmt: skip


def _no_memory(rows: Rows) -> None:
    """Let the guest's memory not have been compared."""
    rows[:] = [row for row in rows if row["dir"] != "memory"]


def _waits_in_vain(status: str) -> Alteration:
    """In the place of a status of the source: the time in which it did not come."""

    def alter(rows: Rows) -> None:
        for row in rows:
            if row["side"] == "src" and row["dir"] == "event" and (row["msg"].get("data") or {}).get("status") == status:  # fmt: skip
                row.update(dir="timeout", msg=f"{status} or completed: not within 10 s")

    return lines(alter)


def _never_asked(side: str, words: str) -> Alteration:
    """Take the commands that have some words away, with their answers."""

    def alter(rows: Rows) -> None:
        ids = [r["msg"]["id"] for r in rows if r["side"] == side and r["dir"] == "cmd" and words in str(r["msg"])]  # fmt: skip
        rows[:] = [r for r in rows if r["side"] != side or r["dir"] not in ("cmd", "reply") or r["msg"].get("id") not in ids]  # fmt: skip

    return lines(alter)


def _cancels_fail(rows: Rows) -> None:
    for row in rows:
        if row["side"] == "src" and row["dir"] == "event" and row["msg"].get("data", {}).get("status") == "cancelled":  # fmt: skip
            row["msg"]["data"]["status"] = "failed"


def _never_counted(rows: Rows) -> None:
    for row in rows:
        if row["dir"] == "reply" and "remaining" in row["msg"].get("return", ()):
            row["msg"]["return"]["remaining"] = 0


#: A refused recovery is not tried again.
_NO_RECOVERY = both(refuse("dst", "migrate-recover"), ends_after("dst", "migrate-recover"))  # fmt: skip
_NO_RESUME = ends_after("dst", "migrate-recover")

#: What more has to fail, or has not been reached, which fails in a run.
ALSO: list[tuple[str, str, str, Alteration]] = [
    ("transport/fd-preempt", "10.0", "fd-preempt", accept("dst", "migrate-incoming")),
    ("recover/fd-preempt", "10.0", "recover-fd-preempt", silence("dst", "migrate-recover")),
    ("recover/fd-preempt", "10.0", "recover-fd-preempt", lines(_no_memory)),
    ("loss/source", "10.0", "kill-source", memory(page_read=0)),
    ("loss/source", "10.0", "kill-source", lines(_no_memory)),
    ("pause/continue-in-a-wrong-state", "10.0", "pause-before-switchover", add("src", "device", after=("src", "pre-switchover"), status=True)),
    ("transport/tcp", "10.0", "post-copy", lines(_no_memory)),
    ("transport/tls", "10.0", "tls", lines(_no_memory)),
    ("recover/order", "10.0", "recover", lines(_no_memory)),
    ("recover/tls", "10.0", "recover-tls", lines(_no_memory)),
    ("robust/reset", "10.0", "reset-destination", refuse("dst", "system_reset")),
    ("switch/cut-never-two", "10.0", "cut-in-switch", drop("dst", "RESUME")),
    ("switch/cut-never-two", "11.1", "cut-in-switch", drop("src", "postcopy-device")),
    ("pause/pre-copy-order", "10.0", "pre-copy-pause", drop("src", "device")),
    ("client/unknown-status", "10.0", "post-copy", drop("src", "completed")),
    ("break/yank", "10.0", "yank", _NO_RECOVERY),
    ("break/yank", "10.0", "yank", _NO_RESUME),
    ("break/yank", "10.0", "yank", refuse("src", "migrate", nth=1)),
    ("break/by-command", "10.0", "pause", _NO_RECOVERY),
    ("break/by-command", "10.0", "pause", _NO_RESUME),
    ("cancel/paused", "10.0", "cancel-paused", _NO_RECOVERY),
    ("cancel/paused", "10.0", "cancel-paused", _NO_RESUME),
    ("cancel/paused", "10.0", "cancel-paused", both(refuse("src", "migrate_cancel", desc="Not now."), _NO_RECOVERY)),
    ("cancel/at-random", "10.0", "random-cancels", _cancels_fail),
    ("mismatch/preempt-source", "10.0", "mismatch-preempt-source", both(drop("dst", "RESUME"), _waits_in_vain("postcopy-paused"))),
    ("mismatch/preempt-source", "10.0", "mismatch-preempt-source", _waits_in_vain("postcopy-paused")),
    ("mismatch/preempt-source", "10.0", "mismatch-preempt-source", drop("src", "postcopy-paused")),
    ("mismatch/preempt-source", "10.0", "mismatch-preempt-source", both(drop("dst", "RESUME"), status_of("src", "postcopy-paused", "failed"))),
    ("loss/source-quits", "10.0", "quit-source", lives_on("src")),
    ("loss/source-quits", "10.0", "quit-source", dies("src", 1)),
    ("capabilities/free-partners", "10.0", "capability-pairs", dies_of("dst", "validate-uuid")),
    ("capabilities/free-partners", "10.0", "capability-pairs", _never_asked("dst", "validate-uuid")),
    ("capabilities/with-x-ignore-shared", "10.0", "capability-pairs", dies_of("dst", "x-ignore-shared")),
    ("numbers/remaining-of-all", "11.1", "post-copy", _never_counted),
]  # fmt: skip

#: No released QEMU that is recorded here passes these: what would have to be otherwise.
FAIL_AS_RECORDED: dict[str, Case] = {
    "mismatch/preempt-destination": ("7.2", "mismatch-preempt-destination", lines(_ends)),
    "incoming/early-cont": ("10.0", "cont-while-incoming", lines(_no_resume)),
    "incoming/paused-guest-autostart": ("10.0", "stopped-source", lines(_no_resume)),
    "robust/migrate-on-destination": ("10.0", "migrate-on-destination", lines(_own_status)),
}  # fmt: skip

#: Needs what no CI has (KVM, a device, a module of the kernel): made of a recording of something near.
MADE: dict[str, tuple[str, str, Alteration, Alteration]] = {
    "transport/vsock": ("10.0", "post-copy", lines(_over("vsock:1:4444")), both(lines(_over("vsock:1:4444")), memory(bad_pages=1))),
    "transport/rdma": ("10.0", "fd-preempt", _RDMA, both(_RDMA, accept("src", "migrate"))),
    "blocker/vfio": ("10.0", "blocker", _VFIO, both(_VFIO, accept("src", "migrate"))),
    "robust/stop-cont-with-blocktime": ("10.0", "abuse-destination", lines(_stopped_often), both(lines(_stopped_often), dies("dst", -6))),
}  # fmt: skip
