"""What a client leaves behind about its migrations, so that another can go on where it was killed.

Theory of operation
===================

Each migration has a file of its own, one JSON object a line (:data:`FORMAT`), under ``$XDG_STATE_HOME`` (by default
``~/.local/state``) in ``libvirt-postcopy``.  The client that drives a migration holds its file with ``flock``: the
kernel lets go of it whatever ends the client, so nobody has to guess from process numbers.

Records: ``start`` before the migrate call is made (again if the client comes to manage it after all), ``attach``
when another client takes over, ``armed`` when pre-copy begins and a switch may be sent from now on, ``switch`` when
one was accepted, ``pause`` and ``resume`` before those calls, ``may-run`` before the driver ``qemu`` starts the
destination's vCPUs and ``runs`` when it has seen them run, ``end``, which says too what the driver has left to do.

A thread of its own writes, and brings each record to the disk.  Only what must be there before a call that cannot be
taken back is waited for, and not for long.  ``armed`` is such a record; it is written so early that a switch finds it
on the disk and loses no time.  A journal that cannot be written is one warning and no reason to endanger a migration.

No secrets: see :func:`without_secrets` and :func:`safe_uri`.  Definitions are held back whole: where in them a
secret may stand (passwords, cookies, tokens in queries) changes with each libvirt.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from libvirt_postcopy.actions import Switch
from libvirt_postcopy.constants import MigrateParam
from libvirt_postcopy.events import (
    PassSeen,
    Place,
    Resumed,
    Side,
    StatsSeen,
    StatusSeen,
    SwitchAccepted,
)
from libvirt_postcopy.phases import Phase, Status
from libvirt_postcopy.version import __version__

__all__ = [
    "Entry",
    "FORMAT",
    "Facts",
    "Journal",
    "entries",
    "folder",
    "newest",
    "safe_uri",
    "tidy",
    "without_secrets",
]

LOG = logging.getLogger("libvirt_postcopy.journal")

FORMAT = 1
"""Of the records.  A file of another format is left alone."""

KEPT_DAYS = 30
KEPT = 100
"""Journals of migrations that are over: none is kept longer, nor more of them."""

WAIT_S = 5.0
"""How long a call waits for its record to be on the disk; a home on a dead file server must not stop a recovery."""

_NAME = re.compile(r"(\d{8}T\d{6}\.\d{6}Z)-([0-9a-f-]{36})-\d+\.jsonl")
_LARGEST = 64 << 20  # bytes of a journal that is read


def folder() -> Path:
    """Where journals are.

    :raises OSError: If the user has no home.
    """
    base = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(base):  # as the base directory specification wants it
        home = os.path.expanduser("~")
        if not os.path.isabs(home):
            raise OSError("no home directory")
        base = os.path.join(home, ".local", "state")
    return Path(base) / "libvirt-postcopy"


@dataclass(frozen=True)
class Facts:
    """What must be known of a migration to go on with it.

    :ivar uuid: The domain's.
    :ivar source: URI.
    :ivar source_host: The UUID by which libvirt tells the host; URIs of one host differ.
    :ivar destination: URI; None where it is not known.
    :ivar policy: As it is typed.
    :ivar recover_s: How long a broken migration is tried to be resumed.
    :ivar driver: How it is carried out: ``native`` or ``qemu``.
    :ivar run: What the domain is marked with that the driver ``qemu`` has created on the destination.
    """

    name: str
    uuid: str
    source: str | None
    source_host: str | None = None
    destination: str | None = None
    is_peer2peer: bool = True
    flags: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    policy: str = "manual"
    recover_s: float = 0.0
    driver: str = "native"
    run: str = ""


# Secrets


_HARMLESS_QUERY = frozenset("""
    auth authfile command keyfile known_hosts known_hosts_verify knownhosts knownhosts_verify mode name netcat no_sanity no_tty
    no_verify pkipath proxy socket sshauth tls_priority tlsPort tlsSubject
    """.split())  # noqa: SIM905
"""What libvirt reads of its own URIs and of a graphics URI; files are named there, not what they hold."""

_PLAIN = frozenset("""
    destination_name bandwidth bandwidth.postcopy bandwidth.avail.switchover listen_address migrate_disks
    migrate_disks_detect_zeroes disks_port compression compression.mt.level compression.mt.threads
    compression.mt.dthreads compression.xbzrle.cache compression.zlib.level compression.zstd.level
    auto_converge.initial auto_converge.increment parallel.connections tls.destination
    """.split())  # noqa: SIM905
_URIS = frozenset(
    (
        MigrateParam.VIR_MIGRATE_PARAM_URI,
        MigrateParam.VIR_MIGRATE_PARAM_GRAPHICS_URI,
        "disks_uri",
    )
)


def safe_uri(uri: str) -> str:
    """Leave out a password, and what an unknown part of the query may say."""
    try:
        parts = urlsplit(uri)
        user, has_user, host = parts.netloc.rpartition("@")
        query = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        return ""
    login = user.partition(":")[0] + has_user
    kept = [(key, value) for key, value in query if key in _HARMLESS_QUERY]
    asked = urlencode(kept, quote_via=quote, safe="/:")
    # Not urlunsplit(), which makes qemu:/system of qemu:///system.
    scheme = f"{parts.scheme}:" if parts.scheme else ""
    slashes = "//" if uri[len(scheme) :].startswith("//") else ""
    return f"{scheme}{slashes}{login}{host}{parts.path}" + (asked and f"?{asked}")


def without_secrets(params: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Say what of typed parameters may be written down.

    :return: Parameters, and the names of those whose value is kept back: it may be a secret, or nobody knows.
    """
    kept: dict[str, Any] = {}
    held_back = []
    for name, value in params.items():
        safe = _safe_param(name, value)
        if safe is None:
            held_back.append(str(name))
        else:
            kept[name] = safe
    return kept, held_back


def _safe_param(name: str, value: Any) -> Any:
    if name in _PLAIN and _is_plain(value):
        return value
    if isinstance(value, str) and name in _URIS:
        return safe_uri(value) or None
    return None


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(each, str) for each in value)
    return isinstance(value, (bool, int, float, str))


# Writing


@dataclass
class _Order:
    """One record to be written."""

    record: dict[str, Any]
    is_done: threading.Event = field(default_factory=threading.Event)
    is_overdue: bool = False  #: somebody has waited for it in vain


class Journal:
    """One migration's file, and the thread that writes it.  No method raises, and only some wait.

    :param entry: What another client has left: its file is gone on with.  Else a file is made by the first record.
    """

    def __init__(self, facts: Facts, entry: Entry | None = None) -> None:
        self._facts = facts
        self._path = None if entry is None else entry.path
        self._fd: int | None = None
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._warning = ""
        self._is_broken = False
        self._armed: _Order | None = None  # that a switch may be sent
        self._asked: Switch | None = None
        self._may_run = self._runs_there = False
        self._left = ""
        self._resumes = 0

    def hold(self) -> bool:
        """Take over the file that another client has left.

        :return: False if a client holds it now; one that cannot be opened is not held.
        """
        if self._path is None:
            return True
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
            _lock(self._fd)
        except BlockingIOError:
            self._let_go()
            return False
        except OSError as error:
            self._fail(error)
        return True

    def start(self, *, source_host: str | None, is_peer2peer: bool) -> None:
        """Note a migrate call, and wait until that is on the disk."""
        self._facts = replace(
            self._facts, source_host=source_host, is_peer2peer=is_peer2peer
        )
        self._write("start", self._described(), wait_s=WAIT_S)

    def attach(self) -> None:
        """Note that a migration is taken over, wherever it is: a switch may be sent from now on."""
        self._armed = self._write("attach", self._described(), wait_s=WAIT_S)

    def arm(self) -> None:
        """Note that a switch may be sent from now on, and wait until that is on the disk; the first time only."""
        self._begin()
        if self._armed is not None:
            self._await(self._armed, WAIT_S)

    def pause(self) -> None:
        """Note a call that breaks the migration, and wait until that is on the disk."""
        self._write("pause", {}, wait_s=WAIT_S)

    def resume(self, *, is_peer2peer: bool) -> None:
        """Note a call that resumes the migration, and wait until that is on the disk."""
        self._resumes += 1
        told = {"attempt": self._resumes, "is_peer2peer": is_peer2peer}
        self._write("resume", told, wait_s=WAIT_S)

    def see(self, what: object) -> None:
        """Note what matters of events and actions; never waits."""
        if isinstance(what, Switch):
            self._asked = what
        elif isinstance(what, SwitchAccepted) and self._asked is not None:
            asked, self._asked = self._asked, None
            self._write("switch", {"reason": asked.reason, "attempt": asked.attempt})
        elif _begins_precopy(what):
            self._begin()
        elif what == Resumed(Side.DESTINATION):
            self._see_running()

    def may_run(self) -> None:
        """Note that the destination's vCPUs may be started from now on; never waits, as the guest stands still."""
        if not self._may_run:
            self._may_run = True
            self._write("may-run", {})

    def leave(self, what: str) -> None:
        """Note, with the end, what is left to do for whoever takes the migration over."""
        self._left = what

    def _see_running(self) -> None:
        """Only of the driver ``qemu``: in its own migrations libvirt knows that itself."""
        if self._facts.driver == "qemu" and not self._runs_there:
            self._runs_there = True
            self._write("runs", {})

    def end(self, guest: Place, phase: Phase, given_up: str = "") -> None:
        """Note the end, and let go of the file."""
        if self._writer is not None:  # or nothing was started
            told = {
                "guest": guest.value,
                "phase": phase.value,
                "given_up": given_up,
                "left": self._left,
            }
            self._write("end", told, wait_s=WAIT_S)
        self.close()

    def close(self) -> None:
        """Let go of the file, when all is written."""
        if self._writer is not None:
            self._orders.put(None)
        else:
            self._let_go()

    def take_warning(self) -> str:
        """What the operator should know of this journal; empty if nothing, or if it was taken before."""
        warning, self._warning = self._warning, ""
        return warning

    def _described(self) -> dict[str, Any]:
        facts = self._facts
        told = {each.name: getattr(facts, each.name) for each in fields(facts)}
        for side in ("source", "destination"):
            told[side] = None if told[side] is None else safe_uri(told[side])
        told["params"], told["params_held_back"] = without_secrets(facts.params)
        told["flags"] = int(facts.flags)
        return told

    def _begin(self) -> None:
        if self._armed is None:
            self._armed = self._write("armed", {})

    def _write(
        self, kind: str, told: Mapping[str, Any], *, wait_s: float = 0.0
    ) -> _Order | None:
        if self._is_broken:
            return None
        order = _Order({**_signature(kind), **told})
        self._orders.put(order)
        if self._writer is None:
            self._writer = threading.Thread(
                target=self._run, name="postcopy-journal", daemon=True
            )
            self._writer.start()
        if wait_s:
            self._await(order, wait_s)
        return order

    def _await(self, order: _Order, wait_s: float) -> None:
        """Wait until it is on the disk; but only once for a disk that does not answer."""
        if order.is_overdue or order.is_done.wait(wait_s):
            return
        order.is_overdue = True
        self._warn(f"no answer within {wait_s:.0f} s")

    # On the writer's thread

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            if not self._is_broken:
                try:
                    self._append(order.record)
                except Exception as error:  # whatever it is, the migration goes on
                    self._fail(error)
            order.is_done.set()
        self._let_go()

    def _append(self, record: dict[str, Any]) -> None:
        record["version"] = __version__
        line = json.dumps(record, default=str).encode() + b"\n"
        is_new = self._fd is None
        if self._fd is None:
            self._fd = self._create()
        _write_all(self._fd, line)
        os.fsync(self._fd)
        if is_new and self._path is not None:
            _sync_folder(self._path.parent)
            tidy()

    def _create(self) -> int:
        where = folder()
        _make_folder(where)
        now = datetime.now(timezone.utc)
        stamp = now.strftime("%Y%m%dT%H%M%S.%fZ")
        self._path = where / f"{stamp}-{self._facts.uuid}-{os.getpid()}.jsonl"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = os.open(self._path, flags, 0o600)
        with suppress(OSError):  # a file system without locks
            _lock(fd)
        return fd

    def _fail(self, error: Exception) -> None:
        self._is_broken = True
        why = getattr(error, "strerror", None) or str(error)
        self._warn(why)

    def _warn(self, why: str) -> None:
        where = self._path or "no file"
        self._warning = (
            f"the journal of this migration cannot be written ({where}: {why}):"
            " if this client is killed, name the destination to attach to it"
        )
        LOG.warning("%s", self._warning)

    def _let_go(self) -> None:
        if self._fd is not None:
            with suppress(OSError):
                os.close(self._fd)
            self._fd = None


def _begins_precopy(what: object) -> bool:
    if isinstance(what, StatsSeen):
        return what.stats is not None and bool(what.stats.memory_total)
    if isinstance(what, StatusSeen):
        return what.side is Side.SOURCE and what.status == Status.ACTIVE
    return isinstance(what, PassSeen)


def _signature(kind: str) -> dict[str, Any]:
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    return {"format": FORMAT, "record": kind, "time": now, "pid": os.getpid()}


def _make_folder(where: Path) -> None:
    """Make it private from its first moment, and so its parents where there are none."""
    for path in (*reversed(where.parents), where):
        if not path.is_dir():
            with suppress(FileExistsError):
                path.mkdir(0o700)


_LOCKED_WITHIN_S = 0.5


def _lock(fd: int) -> None:
    """Hold a file.  Who reads it holds it too, for a moment.

    :raises BlockingIOError: If a client holds it.
    """
    ends = time.monotonic() + _LOCKED_WITHIN_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.01)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# Reading


@dataclass(frozen=True)
class Entry:
    """What a journal says.

    :ivar began: When the call was made, or the first client attached; seconds since 1970.
    :ivar pid: Of the last client that drove it.
    :ivar end: Where the guest was at the end; None if no client saw the end.
    :ivar held_back: Parameters whose values are not written down.
    :ivar is_held: A client drives it now.
    :ivar has_run_there: The destination's vCPUs were seen to run.
    :ivar may_run_there: They may have been started.
    :ivar left: What is left to do although the guest has arrived.
    :ivar resumed: When it was resumed last; seconds since 1970.
    """

    path: Path
    facts: Facts
    began: float
    pid: int
    end: Place | None = None
    held_back: tuple[str, ...] = ()
    is_held: bool = False
    has_run_there: bool = False
    may_run_there: bool = False
    left: str = ""
    resumed: float | None = None

    @property
    def is_over(self) -> bool:
        """Nothing is left to be attached to."""
        return not self.left and self.end in (
            Place.SOURCE,
            Place.DESTINATION,
            Place.LOST,
        )


def entries() -> Iterator[Entry]:
    """All journals that can be read, the newest first; others are left alone."""
    for path in _paths():
        entry = _read(path)
        if entry is not None:
            yield entry


def newest(uuid: str, source: str | None, source_host: str | None) -> Entry | None:
    """The newest journal of a domain on a host; None where there is none.

    :param source: A URI of the host.
    :param source_host: libvirt's UUID of the host; decides where both are known.
    """
    for path in _paths():
        if f"-{uuid}-" not in path.name:
            continue
        entry = _read(path)
        if entry is None:
            continue
        facts = entry.facts
        if facts.source_host and source_host:
            is_it = facts.source_host == source_host
        else:
            is_it = source is not None and facts.source == safe_uri(source)
        if is_it and facts.uuid == uuid:
            return entry
    return None


def tidy(now: float | None = None) -> None:
    """Remove journals of migrations that are over: those older than :data:`KEPT_DAYS`, and all but :data:`KEPT`.

    :param now: Seconds since 1970; the present if None.
    """
    oldest = (time.time() if now is None else now) - KEPT_DAYS * 86_400
    over = [entry for entry in entries() if entry.is_over and not entry.is_held]
    for number, entry in enumerate(over):
        if number >= KEPT or entry.began < oldest:
            with suppress(OSError):
                entry.path.unlink()


def _paths() -> list[Path]:
    try:
        names = [path for path in folder().iterdir() if _NAME.fullmatch(path.name)]
    except OSError as error:
        LOG.debug("no journals: %s", error)
        return []
    return sorted(names, reverse=True)  # their names begin with the time


def _read(path: Path) -> Entry | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            lines = file.read(_LARGEST).splitlines()
            is_held = _is_held(file.fileno())
        return replace(_understand(path, lines), is_held=is_held)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        LOG.info("%s: not read: %r", path, error)
        return None


def _is_held(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    return False


def _understand(path: Path, lines: list[bytes]) -> Entry:
    """Read records one after the other; what is torn at the end, or of a later version of ours, is passed over.

    :raises ValueError: If it is no journal, or one of another format.
    """
    entry: Entry | None = None
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if entry is None and record["format"] != FORMAT:
            raise ValueError(f"format {record['format']!r:.20}")
        entry = _take(entry, path, record)
    if entry is None:
        raise ValueError("no record of a start")
    return entry


def _take(entry: Entry | None, path: Path, record: Mapping[str, Any]) -> Entry | None:
    kind = record["record"]
    if kind in ("start", "attach"):
        began = _seconds(record["time"]) if entry is None else entry.began
        held_back = tuple(map(str, record.get("params_held_back", ())))
        pid = int(record["pid"])
        has_run = entry is not None and entry.has_run_there
        may_run = entry is not None and entry.may_run_there
        facts = _facts(record)
        resumed = None if entry is None else entry.resumed
        made = Entry(path, facts, began, pid, None, held_back, resumed=resumed)
        return replace(made, has_run_there=has_run, may_run_there=may_run)
    if entry is None:
        return None
    if kind == "resume":
        facts = replace(entry.facts, is_peer2peer=bool(record["is_peer2peer"]))
        resumed = _seconds(record["time"])
        return replace(entry, facts=facts, end=None, resumed=resumed)
    if kind == "runs":
        return replace(entry, has_run_there=True, may_run_there=True)
    if kind == "may-run":
        return replace(entry, may_run_there=True)
    if kind == "end":
        left = str(record.get("left", ""))
        return replace(entry, end=Place(record["guest"]), left=left)
    return entry


_LATE = frozenset(("driver", "run"))  # in no journal before the driver qemu had one


def _facts(record: Mapping[str, Any]) -> Facts:
    told = {
        each.name: record[each.name]
        for each in fields(Facts)
        if each.name in record or each.name not in _LATE
    }
    facts = Facts(**told)
    is_right = (
        isinstance(facts.name, str)
        and isinstance(facts.uuid, str)
        and isinstance(facts.params, dict)
        and isinstance(facts.flags, int)
        and all(isinstance(it, str) for it in (facts.policy, facts.driver, facts.run))
        and isinstance(facts.recover_s, (int, float))
        and all(
            it is None or isinstance(it, str)
            for it in (facts.source, facts.source_host, facts.destination)
        )
    )
    if not is_right:
        raise ValueError("not the facts of a migration")
    return facts


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
