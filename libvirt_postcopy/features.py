"""What a refusal of libvirt or QEMU means: which side it speaks of, and the cure; and which way a call takes.

Texts are those of libvirt 7.0 to 12.8 and QEMU 5.2 to 11.1; a text that nobody knows is shown as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from libvirt_postcopy.constants import ErrorDomain, ErrorNumber

__all__ = [
    "Explanation",
    "Path",
    "call_path",
    "explain",
    "is_about_certificates",
    "is_about_migration_tls",
    "is_final_refusal",
    "is_lost_answer",
    "is_unreachable_peer",
    "Rejected",
    "after_rejection",
    "version_text",
]

MULTIFD_AND_POSTCOPY = 10_001_000
"""First QEMU (``virConnectGetVersion``) whose multifd and postcopy-ram work together: 10.1.

Before it QEMU refuses the pair (8.1 to 10.0) or dies at the end of the migration (7.2)."""


@dataclass(frozen=True)
class Explanation:
    """What is wrong, on which side, and what to do."""

    what: str
    side: str
    cure: str


_UFFD_CURE = (
    "on the destination, let QEMU use userfaultfd: sysctl vm.unprivileged_userfaultfd=1, "
    "or with QEMU >= 8.0 give its user access to /dev/userfaultfd"
)

CHECK_THE_WAY = "check the name, that its libvirt daemon listens, and the firewall"

_MIGRATION_PORT = r"49(1[5-9]|2[01])\d"  # libvirt's migration_port_min to _max; its daemon listens on a lower one
_CERTIFICATES = r"Cannot read (CA )?certificate|Unable to import (client|server) certificate"  # of libvirt's own connections
_LOCAL_SOCKET = r"Failed to connect socket to '[^']*'"
_MIGRATION_TLS = r"Unable to access credentials"  # of QEMU's migration channel

#: (pattern, what or empty for libvirt's own words, side, cure)
_KNOWN: tuple[tuple[str, str, str, str], ...] = (
    (
        r"Postcopy is not supported|[Uu]serfaultfd not available",
        "the destination's QEMU refused post-copy: {message}",
        "destination",
        _UFFD_CURE,
    ),
    (
        r"[Dd]omain is not running",
        "the domain is not running",
        "source",
        "start it first; a stopped one moves with --offline",
    ),
    (
        r"Attempt to migrate guest to the same host",
        "source and destination are the same host: {message}",
        "destination",
        "name another host; two daemons on one machine need different host_uuid in libvirtd.conf",
    ),
    (
        r"not supported with non-live or paused migration",
        "",
        "source",
        "post-copy needs --live, and a guest that runs and is not to be paused",
    ),
    (
        r"not supported with tunnelled migration",
        "",
        "source",
        "leave out --tunnelled; --tls encrypts without it",
    ),
    (
        r"Migration option 'postcopy-ram' is not supported by QEMU binary",
        "this QEMU has no post-copy",
        "source",
        "post-copy needs QEMU >= 2.6",
    ),
    (
        r"without shared storage is unsafe",
        "",
        "source",
        "share the disks, copy them (--copy-storage-all), or say --unsafe if they are shared",
    ),
    (
        r"can only be started while outgoing migration is in progress",
        "",
        "source",
        "nothing migrates it from here now: start with migrate --live --postcopy, or ask the host that it migrates from",
    ),
    (
        r"started with VIR_MIGRATE_POSTCOPY",
        "",
        "source",
        "the running migration cannot be changed: wait for it, or abort it and start it with --postcopy",
    ),
    (
        r"another migration job is already running",
        "",
        "source",
        "wait for it, abort it, or attach to it",
    ),
    (
        r"does not include a driver name",
        "",
        "",
        "write the driver too, as in qemu+ssh://HOST/system",
    ),
    (
        r"unexpected \w+ URI path",
        "",
        "",
        "write the path too, as in qemu+ssh://HOST/system",
    ),
    (
        r"transport in URL not recognised",
        "",
        "",
        "write one of these, as in qemu+ssh://HOST/system",
    ),
    (
        r"no connection driver available for",
        "",
        "",
        "check the URI's driver; for QEMU write qemu+ssh://HOST/system",
    ),
    (
        rf"{_LOCAL_SOCKET}: Permission denied",
        "",
        "",
        "be root or of the group libvirt, or name another host: qemu+ssh://HOST/system",
    ),
    (
        _LOCAL_SOCKET,
        "",
        "",
        (
            "start libvirt's daemon on this machine (systemctl start libvirtd, or virtqemud), or name another"
            " host: qemu+ssh://HOST/system"
        ),
    ),
    (
        r"missing scheme in migration URI|unsupported scheme .* in migration URI",
        "",
        "",
        "write --migrateuri tcp://HOST or tcp://HOST:PORT",
    ),
    (
        (
            rf"Unable to resolve address '[^']*' service '{_MIGRATION_PORT}'"
            rf"|unable to connect to server at '[^']*:{_MIGRATION_PORT}'"
        ),
        "cannot reach the destination for migration: {message}",
        "source",
        (
            "name an address of the destination that the source can reach: --migrateuri tcp://ADDRESS;"
            " and let ports 49152 to 49215 through the firewall"
        ),
    ),
    (
        r"'migrate-incoming'.*(Failed to bind|Cannot assign requested address|address resolution failed)",
        "cannot listen for migration: {message}",
        "destination",
        "--listen-address and --migrateuri must name an address of the destination",
    ),
    (
        r"(closed the monitor|connecting to monitor)[\s\S]*Cannot allocate memory",
        "its QEMU cannot get the memory it needs: {message}",
        "destination",
        "free memory there, or raise the limits of libvirt's daemon",
    ),
    (
        _MIGRATION_TLS,
        "no TLS certificates for migration: {message}",
        "",
        (
            "put ca-cert.pem there, with server-cert.pem and server-key.pem on the destination and client-cert.pem and"
            " client-key.pem on the source (qemu.conf: migrate_tls_x509_cert_dir), or leave out --tls"
        ),
    ),
    (
        _CERTIFICATES,
        "",
        "",
        "set up libvirt's TLS certificates, or name another transport, as in qemu+ssh://HOST/system",
    ),
    (
        (
            r"remote libvirt URI|unable to connect to|[Nn]o route to host|Connection refused|"
            r"Name or service not known|Temporary failure in name resolution|Network is unreachable|"
            r"Cannot recv data|[Nn]o connection driver available|"
            r"timed out"
        ),
        "",
        "destination",
        CHECK_THE_WAY,
    ),
    (
        r"domain '[^']*' (already exists|is already defined)|already exists with uuid",
        "",
        "destination",
        "a domain of this name or UUID is there already; remove it only if it is not this guest's other half",
    ),
)

_NEVER = frozenset(
    (
        ErrorNumber.VIR_ERR_NO_SUPPORT,
        ErrorNumber.VIR_ERR_OPERATION_DENIED,
        ErrorNumber.VIR_ERR_ACCESS_DENIED,
    )
)


def explain(message: str) -> Explanation:
    """Find out what a refusal means.

    :param message: libvirt's error message, with QEMU's inside where it was QEMU that refused.
    """
    for pattern, what, side, cure in _KNOWN:
        if re.search(pattern, message):
            return Explanation(
                (what or "{message}").format(message=message), side, cure
            )
    return Explanation(message, "", "")


def is_about_certificates(message: str) -> bool:
    """Whether libvirt lacks TLS certificates where it makes a connection to another host's daemon."""
    return re.search(_CERTIFICATES, message) is not None


def is_about_migration_tls(message: str) -> bool:
    """Whether QEMU lacks TLS certificates for the migration itself, on a host that the text does not name."""
    return re.search(_MIGRATION_TLS, message) is not None


def is_final_refusal(code: int | None, message: str) -> bool:
    """Whether a refused switch will be refused again, whatever time passes.

    Any other refusal may be over in a moment: too early, or libvirt's job lock is held by a reading.
    """
    return code in _NEVER or "started with VIR_MIGRATE_POSTCOPY" in message


def is_lost_answer(domain: int | None) -> bool:
    """Whether a call has failed on its way, so that nobody knows whether it was carried out.

    :param domain: The part of libvirt that the error comes from.
    """
    return domain in (ErrorDomain.VIR_FROM_RPC, ErrorDomain.VIR_FROM_REMOTE)


def is_unreachable_peer(domain: int | None, message: str) -> bool:
    """Whether a daemon could not connect to another daemon.

    :param domain: The part of libvirt that the error comes from.  libvirt 9.0 passes the error of the
        connection on; 7.0 wraps it in one of its QEMU driver.
    """
    is_about_connecting = domain in frozenset(ErrorDomain)
    return is_about_connecting or "connect to remote libvirt URI" in message


@dataclass(frozen=True)
class Rejected:
    """What becomes of a source whose destination has rejected the state of the devices.

    :ivar can_go_on: None where it is not known.
    """

    can_go_on: bool | None
    text: str


_STARTS_AGAIN_BY_HAND = 3_001_000  # seen up to 3.0.1: cont works
_NOT_FINALIZED = (
    4_002_000  # seen from 4.2.1: cont says "Migration is not finalized yet"
)
GOES_ON_BY_ITSELF = 10_002_000
"""First QEMU whose source waits until the devices are loaded (``postcopy-device``), and goes on if they are not; seen
with 11.1."""


def after_rejection(qemu: int) -> Rejected:
    """Say what the source can do: nothing of the guest has run on the destination, and its vCPUs are stopped here.

    :param qemu: The version of the QEMU that runs, as ``virConnectGetVersion`` writes it; 0 where unknown.
    """
    known = "up to 3.0 and from 10.2 it can, 4.2 to 10.1 cannot"
    if not qemu:
        return Rejected(
            None, f"whether the source can go on depends on its QEMU: {known}"
        )
    name = f"QEMU {version_text(qemu)} on the source"
    if qemu < _STARTS_AGAIN_BY_HAND:
        return Rejected(True, f"{name} can go on where it stopped: virsh resume, there")
    if qemu < _NOT_FINALIZED:
        return Rejected(None, f"whether {name} can go on is not known: {known}")
    if qemu < GOES_ON_BY_ITSELF:
        return Rejected(False, f"{name} cannot go on from there ({known})")
    return Rejected(None, f"{name} goes on by itself from there, and has not yet")


_KEEPS_NEW_CHANNEL = 8_001_002
"""First QEMU whose source ends the thread that reads the return path before it takes a new channel (commit ef796ee93b, and
its backport)."""


def rests_after_break(qemu: int) -> bool:
    """Whether a source must be left alone for a moment after a break.

    Before 8.1.2 the thread that read the old channel may close the new one instead, if it has not run since the break:
    QEMU crashes or hangs, and the guest is lost (seen with 5.2 and 7.2).

    :param qemu: As for :func:`after_rejection`; where it is unknown it is taken for an old one.
    """
    return qemu < _KEEPS_NEW_CHANNEL


def version_text(number: int) -> str:
    """Write ``virConnectGetVersion``'s number (major * 1,000,000 + minor * 1,000 + release)."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


# The way of a call


class Path(Enum):
    """The way that a call of one of libvirt's functions takes."""

    BINDING = "binding"  #: libvirt-python
    CFFI = "cffi"  #: the library itself, past libvirt-python
    PASSTHROUGH = "passthrough"  #: QEMU's own command, through libvirt's monitor passthrough  # fmt: skip
    NONE = "none"  #: it cannot be made


def call_path(
    *, in_library: bool, in_binding: bool, past_binding: bool, by_monitor: bool
) -> Path:
    """Choose the way.

    :param in_library: The C library has the function.
    :param in_binding: libvirt-python has it, and passes its parameters right.
    :param past_binding: It could be called past libvirt-python.
    :param by_monitor: QEMU has a command for the same, and can be sent it.
    """
    if in_library and in_binding:
        return Path.BINDING
    if in_library and past_binding:
        return Path.CFFI
    return Path.PASSTHROUGH if by_monitor else Path.NONE
