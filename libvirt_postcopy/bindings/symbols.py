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
    "NEWEST_KNOWN",
    "QEMU",
    "SYMBOLS",
    "TYPES",
    "Symbol",
    "newest_release",
    "own_release",
    "release_of",
    "version_number",
]

LIBVIRT, QEMU = "libvirt.so.0", "libvirt-qemu.so.0"

NEWEST_KNOWN = 12_008_000
"""The newest libvirt that this package was compared with; names that a later one adds are worth a note, no more."""

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
    :ivar glue: What libvirt-python's C module calls it, where that is another name.
    """

    name: str
    since: str
    prototype: str
    binding: str
    purpose: str
    is_needed: bool = False
    library: str = LIBVIRT
    passthrough: str = ""
    glue: str = ""

    @property
    def node(self) -> str:
        """Its version node in the library."""
        return f"{_NODES[self.library]}_{self.since}"


def version_number(text: str) -> int:
    """Write ``8.5.0`` as ``virConnectGetVersion`` does."""
    major, minor, release = (int(part) for part in text.split("."))
    return major * 1_000_000 + minor * 1000 + release


def newest_release(nodes: Iterable[str]) -> str:
    """The newest release among version nodes; empty if there is none."""
    return max(filter(None, map(release_of, nodes)), key=version_number, default="")


def release_of(node: str) -> str:
    """The release that a version node of one of the libraries speaks of; empty if it is none, or private."""
    found = _NODE.fullmatch(node)
    return found[1] if found else ""


def own_release(nodes: Iterable[str]) -> str:
    """The release that ``libvirt.so.0`` itself is of, which its private functions tell; empty if they do not."""
    return next((found[1] for found in map(_PRIVATE.fullmatch, nodes) if found), "")


_NODE = re.compile(r"LIBVIRT_(?:QEMU_)?(\d+\.\d+\.\d+)")
_PRIVATE = re.compile(r"LIBVIRT_PRIVATE_(\d+\.\d+\.\d+)")


def _symbol(
    since: str,
    prototype: str,
    binding: str,
    purpose: str,
    *,
    needed: bool = False,
    library: str = LIBVIRT,
    passthrough: str = "",
    glue: str = "",
) -> Symbol:
    name = prototype.partition("(")[0].split()[-1].lstrip("*")
    return Symbol(
        name, since, prototype, binding, purpose, needed, library, passthrough, glue
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
        "0.9.0",
        "int virEventRegisterDefaultImpl(void)",
        "virEventRegisterDefaultImpl",
        "events: a loop that delivers them",
        needed=True,
    ),
    _symbol(
        "0.9.0",
        "int virEventRunDefaultImpl(void)",
        "virEventRunDefaultImpl",
        "events: a loop that delivers them",
        needed=True,
    ),
    _symbol(
        "0.9.3",
        "int virEventAddTimeout(int frequency, virEventTimeoutCallback cb, void *opaque, virFreeCallback ff)",
        "virEventAddTimeout",
        "seeing whether there is a loop for events already",
        needed=True,
    ),
    _symbol(
        "0.9.3",
        "int virEventRemoveTimeout(int timer)",
        "virEventRemoveTimeout",
        "seeing whether there is a loop for events already",
        needed=True,
    ),
    _symbol(
        "0.0.3",
        "virConnectPtr virConnectOpen(const char *name)",
        "open",
        "connections",
        needed=True,
    ),
    _symbol(
        "0.4.0",
        "virConnectPtr virConnectOpenAuth(const char *name, virConnectAuthPtr auth, unsigned int flags)",
        "openAuth",
        "connections to daemons that ask for a name and a password",
    ),
    _symbol(
        "0.1.0",
        "void virSetErrorFunc(void *userData, virErrorFunc handler)",
        "registerErrorHandler",
        "programs that print an error once",
        glue="virRegisterErrorHandler",
    ),
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
        "0.0.3",
        "int virDomainFree(virDomainPtr domain)",
        "virDomain.__del__",
        "letting go of a domain",
        needed=True,
    ),
    _symbol(
        "0.0.3",
        "unsigned int virDomainGetID(virDomainPtr domain)",
        "virDomain.ID",
        "finding a domain by its number",
    ),
    _symbol(
        "0.7.3",
        "int virDomainIsPersistent(virDomainPtr dom)",
        "virDomain.isPersistent",
        "whether the domain is defined",
    ),
    _symbol(
        "0.9.10",
        "char *virDomainGetMetadata(virDomainPtr domain, int type, const char *uri, unsigned int flags)",
        "virDomain.metadata",
        "a domain's own policy",
    ),
    _symbol(
        "0.9.10",
        "int virDomainSetMetadata(virDomainPtr domain, int type, const char *metadata, const char *key,"
        " const char *uri, unsigned int flags)",
        "virDomain.setMetadata",
        "giving a domain its own policy",
    ),
    # Without libvirt's migration job, and a QEMU that is only asked.
    _symbol(
        "0.5.0",
        "virDomainPtr virDomainCreateXML(virConnectPtr conn, const char *xmlDesc, unsigned int flags)",
        "virConnect.createXML",
        "the qemu driver; asking a destination's QEMU",
    ),
    _symbol(
        "0.1.1",
        "virDomainPtr virDomainDefineXML(virConnectPtr conn, const char *xml)",
        "virConnect.defineXML",
        "the qemu driver: a definition that moves with the guest",
    ),
    _symbol(
        "0.0.3",
        "int virDomainResume(virDomainPtr domain)",
        "virDomain.resume",
        "the qemu driver: the guest's start on the destination",
    ),
    _symbol(
        "0.0.3",
        "int virDomainDestroy(virDomainPtr domain)",
        "virDomain.destroy",
        "the qemu driver: an end to what is left, and to a QEMU that was only asked",
    ),
    _symbol(
        "0.9.4",
        "int virDomainUndefineFlags(virDomainPtr domain, unsigned int flags)",
        "virDomain.undefineFlags",
        "the qemu driver: no definition where the guest has left",
    ),
    # The preflight of a host.
    _symbol(
        "0.0.3",
        "const char *virConnectGetType(virConnectPtr conn)",
        "virConnect.getType",
        "the preflight of a host",
    ),
    _symbol(
        "0.3.0",
        "char *virConnectGetHostname(virConnectPtr conn)",
        "virConnect.getHostname",
        "the preflight of a host",
    ),
    _symbol(
        "0.1.0",
        "int virNodeGetInfo(virConnectPtr conn, virNodeInfoPtr info)",
        "virConnect.getInfo",
        "the preflight of a host's memory",
    ),
    _symbol(
        "0.3.3",
        "unsigned long long virNodeGetFreeMemory(virConnectPtr conn)",
        "virConnect.getFreeMemory",
        "the preflight of a host's memory",
    ),
    _symbol(
        "0.9.3",
        "int virNodeGetMemoryStats(virConnectPtr conn, int cellNum, virNodeMemoryStatsPtr params,"
        " int *nparams, unsigned int flags)",
        "virConnect.getMemoryStats",
        "the preflight of a host's memory",
    ),
    _symbol(
        "1.2.6",
        "int virNodeGetFreePages(virConnectPtr conn, unsigned int npages, unsigned int *pages, int startcell,"
        " unsigned int cellcount, unsigned long long *counts, unsigned int flags)",
        "virConnect.getFreePages",
        "the preflight of a host's huge pages",
    ),
    _symbol(
        "1.2.7",
        "char *virConnectGetDomainCapabilities(virConnectPtr conn, const char *emulatorbin, const char *arch,"
        " const char *machine, const char *virttype, unsigned int flags)",
        "virConnect.getDomainCapabilities",
        "the preflight of emulator and machine type",
    ),
    _symbol(
        "4.4.0",
        "int virConnectCompareHypervisorCPU(virConnectPtr conn, const char *emulator, const char *arch,"
        " const char *machine, const char *virttype, const char *xmlCPU, unsigned int flags)",
        "virConnect.compareHypervisorCPU",
        "the preflight of the CPU",
    ),
    # Network filters.
    _symbol(
        "0.10.2",
        "int virConnectListAllNWFilters(virConnectPtr conn, virNWFilterPtr **filters, unsigned int flags)",
        "virConnect.listAllNWFilters",
        "nwfilter-define --keep-uuid",
    ),
    _symbol(
        "0.8.0",
        "const char *virNWFilterGetName(virNWFilterPtr nwfilter)",
        "virNWFilter.name",
        "nwfilter-define --keep-uuid",
    ),
    _symbol(
        "0.8.0",
        "int virNWFilterGetUUIDString(virNWFilterPtr nwfilter, char *buf)",
        "virNWFilter.UUIDString",
        "nwfilter-define --keep-uuid",
    ),
    _symbol(
        "7.7.0",
        "virNWFilterPtr virNWFilterDefineXMLFlags(virConnectPtr conn, const char *xmlDesc, unsigned int flags)",
        "virConnect.nwfilterDefineXMLFlags",
        "nwfilter-define --validate",
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
