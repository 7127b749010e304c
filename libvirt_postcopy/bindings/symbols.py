"""The C functions that are relied on: since when, how declared, how libvirt-python calls them.

Source: libvirt's ``libvirt_public.syms``, ``libvirt_qemu.syms`` and headers (libvirt 9.0 to 12.8).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = [
    "LIBVIRT",
    "QEMU",
    "SYMBOLS",
    "TYPES",
    "Symbol",
    "newest_release",
    "version_number",
]

LIBVIRT, QEMU = "libvirt.so.0", "libvirt-qemu.so.0"

_NODES = {LIBVIRT: "LIBVIRT", QEMU: "LIBVIRT_QEMU"}


@dataclass(frozen=True)
class Symbol:
    """A function of libvirt.

    :ivar since: The release that brought it.
    :ivar prototype: Its declaration in C.
    :ivar binding: How libvirt-python calls it: ``CLASS.METHOD``, or a function of its module.
    :ivar is_needed: Whether there is no post-copy migration without it.
    :ivar purpose: What is lost without it.
    :ivar passthrough: QEMU's command for the same, where it may be sent instead.
    """

    name: str
    since: str
    prototype: str
    binding: str
    purpose: str
    is_needed: bool = False
    library: str = LIBVIRT
    passthrough: str = ""

    @property
    def node(self) -> str:
        """Its version node in the library."""
        return f"{_NODES[self.library]}_{self.since}"


def version_number(text: str) -> int:
    """Write ``8.5.0`` as ``virConnectGetVersion`` does."""
    major, minor, release = (int(part) for part in text.split("."))
    return major * 1_000_000 + minor * 1000 + release


def newest_release(nodes: Iterable[str]) -> str:
    """The newest release among version nodes of ``libvirt.so.0``; empty if there is none."""
    releases = (_NODE.fullmatch(node) for node in nodes)
    found = [each[1] for each in releases if each]
    return max(found, key=version_number, default="")


_NODE = re.compile(r"LIBVIRT_(\d+\.\d+\.\d+)")  # not LIBVIRT_PRIVATE_9.0.0


def _symbol(
    since: str,
    prototype: str,
    binding: str,
    purpose: str,
    *,
    needed: bool = False,
    library: str = LIBVIRT,
    passthrough: str = "",
) -> Symbol:
    name = prototype.partition("(")[0].split()[-1].lstrip("*")
    return Symbol(
        name, since, prototype, binding, purpose, needed, library, passthrough
    )


_ALL = (
    # The migration itself.
    _symbol(
        "1.3.3",
        "int virDomainMigrateStartPostCopy(virDomainPtr domain, unsigned int flags)",
        "virDomain.migrateStartPostCopy",
        "the switch to post-copy",
        needed=True,
        passthrough="migrate-start-postcopy",
    ),
    _symbol(
        "1.1.0",
        "virDomainPtr virDomainMigrate3(virDomainPtr domain, virConnectPtr dconn,"
        " virTypedParameterPtr params, unsigned int nparams, unsigned int flags)",
        "virDomain.migrate3",
        "migrations that the client manages",
        needed=True,
    ),
    _symbol(
        "1.1.0",
        "int virDomainMigrateToURI3(virDomainPtr domain, const char *dconnuri,"
        " virTypedParameterPtr params, unsigned int nparams, unsigned int flags)",
        "virDomain.migrateToURI3",
        "migrations from daemon to daemon",
        needed=True,
    ),
    _symbol(
        "0.3.2",
        "virDomainPtr virDomainMigrate(virDomainPtr domain, virConnectPtr dconn, unsigned long flags,"
        " const char *dname, const char *uri, unsigned long bandwidth)",
        "virDomain.migrate",
        "the series' oldest call",
    ),
    _symbol(
        "0.9.2",
        "virDomainPtr virDomainMigrate2(virDomainPtr domain, virConnectPtr dconn, const char *dxml,"
        " unsigned long flags, const char *dname, const char *uri, unsigned long bandwidth)",
        "virDomain.migrate2",
        "the series' older call",
    ),
    _symbol(
        "0.7.2",
        "int virDomainMigrateToURI(virDomainPtr domain, const char *duri, unsigned long flags,"
        " const char *dname, unsigned long bandwidth)",
        "virDomain.migrateToURI",
        "the series' oldest call from daemon to daemon",
    ),
    _symbol(
        "0.9.2",
        "int virDomainMigrateToURI2(virDomainPtr domain, const char *dconnuri, const char *miguri,"
        " const char *dxml, unsigned long flags, const char *dname, unsigned long bandwidth)",
        "virDomain.migrateToURI2",
        "the series' older call from daemon to daemon",
    ),
    _symbol(
        "0.7.7",
        "int virDomainAbortJob(virDomainPtr domain)",
        "virDomain.abortJob",
        "giving up before the switch",
        needed=True,
    ),
    _symbol(
        "8.5.0",
        "int virDomainAbortJobFlags(virDomainPtr domain, unsigned int flags)",
        "virDomain.abortJobFlags",
        "recovery where only one side has noticed the break",
    ),
    _symbol(
        "1.0.3",
        "int virDomainGetJobStats(virDomainPtr domain, int *type, virTypedParameterPtr *params,"
        " int *nparams, unsigned int flags)",
        "virDomain.jobStats",
        "progress, and policies that read it",
        needed=True,
    ),
    _symbol(
        "0.7.7",
        "int virDomainGetJobInfo(virDomainPtr domain, virDomainJobInfoPtr info)",
        "virDomain.jobInfo",
        "progress, as the series read it",
    ),
    _symbol(
        "0.9.2",
        "int virDomainGetState(virDomainPtr domain, int *state, int *reason, unsigned int flags)",
        "virDomain.state",
        "seeing whether the guest is split",
        needed=True,
    ),
    _symbol(
        "0.9.0",
        "int virDomainMigrateSetMaxSpeed(virDomainPtr domain, unsigned long bandwidth, unsigned int flags)",
        "virDomain.migrateSetMaxSpeed",
        "limits on the bandwidth",
    ),
    _symbol(
        "0.9.5",
        "int virDomainMigrateGetMaxSpeed(virDomainPtr domain, unsigned long *bandwidth, unsigned int flags)",
        "virDomain.migrateGetMaxSpeed",
        "putting back limits on the bandwidth",
    ),
    _symbol(
        "0.8.0",
        "int virDomainMigrateSetMaxDowntime(virDomainPtr domain, unsigned long long downtime, unsigned int flags)",
        "virDomain.migrateSetMaxDowntime",
        "limits on the downtime",
    ),
    _symbol(
        "3.7.0",
        "int virDomainMigrateGetMaxDowntime(virDomainPtr domain, unsigned long long *downtime, unsigned int flags)",
        "virDomain.migrateGetMaxDowntime",
        "putting back limits on the downtime",
    ),
    _symbol(
        "7.1.0",
        "int virDomainGetMessages(virDomainPtr domain, char ***msgs, unsigned int flags)",
        "virDomain.messages",
        "libvirt's notes on a domain",
    ),
    _symbol(
        "7.2.0",
        "int virDomainStartDirtyRateCalc(virDomainPtr domain, int seconds, unsigned int flags)",
        "virDomain.startDirtyRateCalc",
        "an estimate of the dirty rate beforehand",
    ),
    # Events and connections.
    _symbol(
        "0.8.0",
        "int virConnectDomainEventRegisterAny(virConnectPtr conn, virDomainPtr dom, int eventID,"
        " virConnectDomainEventGenericCallback cb, void *opaque, virFreeCallback freecb)",
        "virConnect.domainEventRegisterAny",
        "events: passes, and what becomes of the guest",
        needed=True,
    ),
    _symbol(
        "0.8.0",
        "int virConnectDomainEventDeregisterAny(virConnectPtr conn, int callbackID)",
        "virConnect.domainEventDeregisterAny",
        "an end to events",
        needed=True,
    ),
    _symbol(
        "0.9.8",
        "int virConnectSetKeepAlive(virConnectPtr conn, int interval, unsigned int count)",
        "virConnect.setKeepAlive",
        "noticing a dead link to a daemon",
    ),
    _symbol(
        "0.9.8",
        "int virConnectIsAlive(virConnectPtr conn)",
        "virConnect.isAlive",
        "noticing a dead daemon",
        needed=True,
    ),
    _symbol(
        "0.3.0",
        "char *virConnectGetURI(virConnectPtr conn)",
        "virConnect.getURI",
        "opening connections of our own",
        needed=True,
    ),
    _symbol(
        "0.2.1",
        "char *virConnectGetCapabilities(virConnectPtr conn)",
        "virConnect.getCapabilities",
        "telling hosts apart",
        needed=True,
    ),
    _symbol(
        "0.0.3",
        "int virConnectGetVersion(virConnectPtr conn, unsigned long *hvVer)",
        "virConnect.getVersion",
        "QEMU's version",
        needed=True,
    ),
    _symbol(
        "0.7.3",
        "int virConnectGetLibVersion(virConnectPtr conn, unsigned long *libVer)",
        "virConnect.getLibVersion",
        "the daemon's version",
        needed=True,
    ),
    _symbol(
        "0.9.13",
        "int virConnectListAllDomains(virConnectPtr conn, virDomainPtr **domains, unsigned int flags)",
        "virConnect.listAllDomains",
        "finding a domain",
        needed=True,
    ),
    _symbol(
        "0.0.3",
        "int virConnectClose(virConnectPtr conn)",
        "virConnect.close",
        "closing connections",
        needed=True,
    ),
    _symbol(
        "0.0.3",
        "const char *virDomainGetName(virDomainPtr domain)",
        "virDomain.name",
        "the domain's name",
        needed=True,
    ),
    _symbol(
        "0.1.1",
        "int virDomainGetUUIDString(virDomainPtr domain, char *buf)",
        "virDomain.UUIDString",
        "the domain's UUID",
        needed=True,
    ),
    _symbol(
        "0.7.3",
        "int virDomainIsActive(virDomainPtr dom)",
        "virDomain.isActive",
        "whether the domain runs",
        needed=True,
    ),
    _symbol(
        "0.0.3",
        "char *virDomainGetXMLDesc(virDomainPtr domain, unsigned int flags)",
        "virDomain.XMLDesc",
        "the preflight of a domain",
    ),
    _symbol(
        "0.8.0",
        "virNWFilterPtr virNWFilterDefineXML(virConnectPtr conn, const char *xmlDesc)",
        "virConnect.nwfilterDefineXML",
        "nwfilter-define",
    ),
    # QEMU's monitor.
    _symbol(
        "0.8.3",
        "int virDomainQemuMonitorCommand(virDomainPtr domain, const char *cmd, char **result, unsigned int flags)",
        "qemuMonitorCommand",
        "asking QEMU itself: recovery, preflight",
        library=QEMU,
    ),
    _symbol(
        "8.2.0",
        "int virDomainQemuMonitorCommandWithFiles(virDomainPtr domain, const char *cmd, unsigned int ninfiles,"
        " int *infiles, unsigned int *noutfiles, int **outfiles, char **result, unsigned int flags)",
        "qemuMonitorCommandWithFiles",
        "handing files to QEMU",
        library=QEMU,
    ),
    _symbol(
        "1.2.3",
        "int virConnectDomainQemuMonitorEventRegister(virConnectPtr conn, virDomainPtr dom, const char *event,"
        " virConnectDomainQemuMonitorEventCallback cb, void *opaque, virFreeCallback freecb, unsigned int flags)",
        "qemuMonitorEventRegister",
        "QEMU's own events",
        library=QEMU,
    ),
    _symbol(
        "1.2.3",
        "int virConnectDomainQemuMonitorEventDeregister(virConnectPtr conn, int callbackID)",
        "qemuMonitorEventDeregister",
        "an end to QEMU's own events",
        library=QEMU,
    ),
)

SYMBOLS: Mapping[str, Symbol] = MappingProxyType({each.name: each for each in _ALL})

TYPES = """
typedef struct _virConnect *virConnectPtr;
typedef struct _virDomain *virDomainPtr;
typedef struct _virTypedParameter {
    char field[80];
    int type;
    union {
        int i;
        unsigned int ui;
        long long int l;
        unsigned long long int ul;
        double d;
        char b;
        char *s;
    } value;
} virTypedParameter;
typedef virTypedParameter *virTypedParameterPtr;
typedef struct _virDomainJobInfo {
    int type;
    unsigned long long timeElapsed;
    unsigned long long timeRemaining;
    unsigned long long dataTotal;
    unsigned long long dataProcessed;
    unsigned long long dataRemaining;
    unsigned long long memTotal;
    unsigned long long memProcessed;
    unsigned long long memRemaining;
    unsigned long long fileTotal;
    unsigned long long fileProcessed;
    unsigned long long fileRemaining;
} virDomainJobInfo;
"""
"""The types as they are laid out in memory, which the compiler confirms."""
