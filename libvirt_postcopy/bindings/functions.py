"""The C functions that are relied on: since when, how declared, how libvirt-python calls them, what is lost without them.

Source: libvirt's ``libvirt_public.syms``, ``libvirt_qemu.syms`` and headers (libvirt 9.0 to 12.8).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from libvirt_postcopy.bindings.symbols import QEMU, Symbol

__all__ = ["HOLD", "SYMBOLS"]


_ALL = (
    # The migration itself.
    Symbol(
        "1.3.3",
        "int virDomainMigrateStartPostCopy(virDomainPtr domain, unsigned int flags)",
        "virDomain.migrateStartPostCopy",
        "the switch to post-copy",
        is_needed=True,
        passthrough="migrate-start-postcopy",
    ),
    Symbol(
        "1.1.0",
        "virDomainPtr virDomainMigrate3(virDomainPtr domain, virConnectPtr dconn,"
        " virTypedParameterPtr params, unsigned int nparams, unsigned int flags)",
        "virDomain.migrate3",
        "migrations that the client manages",
        is_needed=True,
    ),
    Symbol(
        "1.1.0",
        "int virDomainMigrateToURI3(virDomainPtr domain, const char *dconnuri,"
        " virTypedParameterPtr params, unsigned int nparams, unsigned int flags)",
        "virDomain.migrateToURI3",
        "migrations from daemon to daemon",
        is_needed=True,
    ),
    Symbol(
        "0.3.2",
        "virDomainPtr virDomainMigrate(virDomainPtr domain, virConnectPtr dconn, unsigned long flags,"
        " const char *dname, const char *uri, unsigned long bandwidth)",
        "virDomain.migrate",
        "the series' oldest call",
    ),
    Symbol(
        "0.9.2",
        "virDomainPtr virDomainMigrate2(virDomainPtr domain, virConnectPtr dconn, const char *dxml,"
        " unsigned long flags, const char *dname, const char *uri, unsigned long bandwidth)",
        "virDomain.migrate2",
        "the series' older call",
    ),
    Symbol(
        "0.7.2",
        "int virDomainMigrateToURI(virDomainPtr domain, const char *duri, unsigned long flags,"
        " const char *dname, unsigned long bandwidth)",
        "virDomain.migrateToURI",
        "the series' oldest call from daemon to daemon",
    ),
    Symbol(
        "0.9.2",
        "int virDomainMigrateToURI2(virDomainPtr domain, const char *dconnuri, const char *miguri,"
        " const char *dxml, unsigned long flags, const char *dname, unsigned long bandwidth)",
        "virDomain.migrateToURI2",
        "the series' older call from daemon to daemon",
    ),
    Symbol(
        "0.7.7",
        "int virDomainAbortJob(virDomainPtr domain)",
        "virDomain.abortJob",
        "giving up before the switch",
        is_needed=True,
    ),
    Symbol(
        "8.5.0",
        "int virDomainAbortJobFlags(virDomainPtr domain, unsigned int flags)",
        "virDomain.abortJobFlags",
        "recovery where only one side has noticed the break",
    ),
    Symbol(
        "1.0.3",
        "int virDomainGetJobStats(virDomainPtr domain, int *type, virTypedParameterPtr *params,"
        " int *nparams, unsigned int flags)",
        "virDomain.jobStats",
        "progress, and policies that read it",
        is_needed=True,
    ),
    Symbol(
        "0.7.7",
        "int virDomainGetJobInfo(virDomainPtr domain, virDomainJobInfoPtr info)",
        "virDomain.jobInfo",
        "progress, as the series read it",
    ),
    Symbol(
        "0.9.2",
        "int virDomainGetState(virDomainPtr domain, int *state, int *reason, unsigned int flags)",
        "virDomain.state",
        "seeing whether the guest is split",
        is_needed=True,
    ),
    Symbol(
        "0.9.0",
        "int virDomainMigrateSetMaxSpeed(virDomainPtr domain, unsigned long bandwidth, unsigned int flags)",
        "virDomain.migrateSetMaxSpeed",
        "limits on the bandwidth",
    ),
    Symbol(
        "0.9.5",
        "int virDomainMigrateGetMaxSpeed(virDomainPtr domain, unsigned long *bandwidth, unsigned int flags)",
        "virDomain.migrateGetMaxSpeed",
        "putting back limits on the bandwidth",
    ),
    Symbol(
        "0.8.0",
        "int virDomainMigrateSetMaxDowntime(virDomainPtr domain, unsigned long long downtime, unsigned int flags)",
        "virDomain.migrateSetMaxDowntime",
        "limits on the downtime",
    ),
    Symbol(
        "7.1.0",
        "int virDomainGetMessages(virDomainPtr domain, char ***msgs, unsigned int flags)",
        "virDomain.messages",
        "libvirt's notes on a domain",
    ),
    # Events and connections.
    Symbol(
        "0.9.0",
        "int virEventRegisterDefaultImpl(void)",
        "virEventRegisterDefaultImpl",
        "events: a loop that delivers them",
        is_needed=True,
    ),
    Symbol(
        "0.9.0",
        "int virEventRunDefaultImpl(void)",
        "virEventRunDefaultImpl",
        "events: a loop that delivers them",
        is_needed=True,
    ),
    Symbol(
        "0.9.3",
        "int virEventAddTimeout(int frequency, virEventTimeoutCallback cb, void *opaque, virFreeCallback ff)",
        "virEventAddTimeout",
        "seeing whether there is a loop for events already",
        is_needed=True,
    ),
    Symbol(
        "0.9.3",
        "int virEventRemoveTimeout(int timer)",
        "virEventRemoveTimeout",
        "seeing whether there is a loop for events already",
        is_needed=True,
    ),
    Symbol(
        "0.0.3",
        "virConnectPtr virConnectOpen(const char *name)",
        "open",
        "connections",
        is_needed=True,
    ),
    Symbol(
        "0.4.0",
        "virConnectPtr virConnectOpenAuth(const char *name, virConnectAuthPtr auth, unsigned int flags)",
        "openAuth",
        "connections to daemons that ask for a name and a password",
    ),
    Symbol(
        "0.1.0",
        "void virSetErrorFunc(void *userData, virErrorFunc handler)",
        "registerErrorHandler",
        "programs that print an error once",
        glue="virRegisterErrorHandler",
    ),
    Symbol(
        "0.8.0",
        "int virConnectDomainEventRegisterAny(virConnectPtr conn, virDomainPtr dom, int eventID,"
        " virConnectDomainEventGenericCallback cb, void *opaque, virFreeCallback freecb)",
        "virConnect.domainEventRegisterAny",
        "events: passes, and what becomes of the guest",
        is_needed=True,
    ),
    Symbol(
        "0.8.0",
        "int virConnectDomainEventDeregisterAny(virConnectPtr conn, int callbackID)",
        "virConnect.domainEventDeregisterAny",
        "an end to events",
        is_needed=True,
    ),
    Symbol(
        "0.9.8",
        "int virConnectSetKeepAlive(virConnectPtr conn, int interval, unsigned int count)",
        "virConnect.setKeepAlive",
        "noticing a dead link to a daemon",
    ),
    Symbol(
        "0.9.8",
        "int virConnectIsAlive(virConnectPtr conn)",
        "virConnect.isAlive",
        "noticing a dead daemon",
        is_needed=True,
    ),
    Symbol(
        "0.3.0",
        "char *virConnectGetURI(virConnectPtr conn)",
        "virConnect.getURI",
        "opening connections of our own",
        is_needed=True,
    ),
    Symbol(
        "0.2.1",
        "char *virConnectGetCapabilities(virConnectPtr conn)",
        "virConnect.getCapabilities",
        "telling hosts apart",
        is_needed=True,
    ),
    Symbol(
        "0.0.3",
        "int virConnectGetVersion(virConnectPtr conn, unsigned long *hvVer)",
        "virConnect.getVersion",
        "QEMU's version",
        is_needed=True,
    ),
    Symbol(
        "0.7.3",
        "int virConnectGetLibVersion(virConnectPtr conn, unsigned long *libVer)",
        "virConnect.getLibVersion",
        "the daemon's version",
        is_needed=True,
    ),
    Symbol(
        "0.9.13",
        "int virConnectListAllDomains(virConnectPtr conn, virDomainPtr **domains, unsigned int flags)",
        "virConnect.listAllDomains",
        "finding a domain",
        is_needed=True,
    ),
    Symbol(
        "0.0.3",
        "int virConnectClose(virConnectPtr conn)",
        "virConnect.close",
        "closing connections",
        is_needed=True,
    ),
    Symbol(
        "0.0.3",
        "const char *virDomainGetName(virDomainPtr domain)",
        "virDomain.name",
        "the domain's name",
        is_needed=True,
    ),
    Symbol(
        "0.1.1",
        "int virDomainGetUUIDString(virDomainPtr domain, char *buf)",
        "virDomain.UUIDString",
        "the domain's UUID",
        is_needed=True,
    ),
    Symbol(
        "0.7.3",
        "int virDomainIsActive(virDomainPtr dom)",
        "virDomain.isActive",
        "whether the domain runs",
        is_needed=True,
    ),
    Symbol(
        "0.0.3",
        "char *virDomainGetXMLDesc(virDomainPtr domain, unsigned int flags)",
        "virDomain.XMLDesc",
        "the preflight of a domain, and its own policy",
    ),
    Symbol(
        "0.0.3",
        "int virDomainFree(virDomainPtr domain)",
        "virDomain.__del__",
        "letting go of a domain",
        is_needed=True,
    ),
    Symbol(
        "0.0.3",
        "unsigned int virDomainGetID(virDomainPtr domain)",
        "virDomain.ID",
        "finding a domain by its number",
    ),
    Symbol(
        "0.7.3",
        "int virDomainIsPersistent(virDomainPtr dom)",
        "virDomain.isPersistent",
        "whether the domain is defined",
    ),
    Symbol(
        "0.9.10",
        "int virDomainSetMetadata(virDomainPtr domain, int type, const char *metadata, const char *key,"
        " const char *uri, unsigned int flags)",
        "virDomain.setMetadata",
        "giving a domain its own policy",
    ),
    # Without libvirt's migration job, and a QEMU that is only asked.
    Symbol(
        "0.5.0",
        "virDomainPtr virDomainCreateXML(virConnectPtr conn, const char *xmlDesc, unsigned int flags)",
        "virConnect.createXML",
        "the qemu driver; asking a destination's QEMU",
    ),
    Symbol(
        "0.1.1",
        "virDomainPtr virDomainDefineXML(virConnectPtr conn, const char *xml)",
        "virConnect.defineXML",
        "the qemu driver: a definition that moves with the guest",
    ),
    Symbol(
        "0.0.3",
        "int virDomainResume(virDomainPtr domain)",
        "virDomain.resume",
        "the qemu driver: the guest's start on the destination",
    ),
    Symbol(
        "0.0.3",
        "int virDomainDestroy(virDomainPtr domain)",
        "virDomain.destroy",
        "the qemu driver: an end to what is left, and to a QEMU that was only asked",
    ),
    Symbol(
        "0.9.4",
        "int virDomainUndefineFlags(virDomainPtr domain, unsigned int flags)",
        "virDomain.undefineFlags",
        "the qemu driver: no definition where the guest has left",
    ),
    # The preflight of a host.
    Symbol(
        "0.0.3",
        "const char *virConnectGetType(virConnectPtr conn)",
        "virConnect.getType",
        "the preflight of a host",
    ),
    Symbol(
        "0.3.0",
        "char *virConnectGetHostname(virConnectPtr conn)",
        "virConnect.getHostname",
        "the preflight of a host",
    ),
    Symbol(
        "0.1.0",
        "int virNodeGetInfo(virConnectPtr conn, virNodeInfoPtr info)",
        "virConnect.getInfo",
        "the preflight of a host's memory",
    ),
    Symbol(
        "0.3.3",
        "unsigned long long virNodeGetFreeMemory(virConnectPtr conn)",
        "virConnect.getFreeMemory",
        "the preflight of a host's memory",
    ),
    Symbol(
        "0.9.3",
        "int virNodeGetMemoryStats(virConnectPtr conn, int cellNum, virNodeMemoryStatsPtr params,"
        " int *nparams, unsigned int flags)",
        "virConnect.getMemoryStats",
        "the preflight of a host's memory",
    ),
    Symbol(
        "1.2.6",
        "int virNodeGetFreePages(virConnectPtr conn, unsigned int npages, unsigned int *pages, int startcell,"
        " unsigned int cellcount, unsigned long long *counts, unsigned int flags)",
        "virConnect.getFreePages",
        "the preflight of a host's huge pages",
    ),
    Symbol(
        "1.2.7",
        "char *virConnectGetDomainCapabilities(virConnectPtr conn, const char *emulatorbin, const char *arch,"
        " const char *machine, const char *virttype, unsigned int flags)",
        "virConnect.getDomainCapabilities",
        "the preflight of emulator and machine type",
    ),
    Symbol(
        "4.4.0",
        "int virConnectCompareHypervisorCPU(virConnectPtr conn, const char *emulator, const char *arch,"
        " const char *machine, const char *virttype, const char *xmlCPU, unsigned int flags)",
        "virConnect.compareHypervisorCPU",
        "the preflight of the CPU",
    ),
    # Network filters.
    Symbol(
        "0.10.2",
        "int virConnectListAllNWFilters(virConnectPtr conn, virNWFilterPtr **filters, unsigned int flags)",
        "virConnect.listAllNWFilters",
        "nwfilter-define --keep-uuid",
    ),
    Symbol(
        "0.8.0",
        "const char *virNWFilterGetName(virNWFilterPtr nwfilter)",
        "virNWFilter.name",
        "nwfilter-define --keep-uuid",
    ),
    Symbol(
        "0.8.0",
        "int virNWFilterGetUUIDString(virNWFilterPtr nwfilter, char *buf)",
        "virNWFilter.UUIDString",
        "nwfilter-define --keep-uuid",
    ),
    Symbol(
        "7.7.0",
        "virNWFilterPtr virNWFilterDefineXMLFlags(virConnectPtr conn, const char *xmlDesc, unsigned int flags)",
        "virConnect.nwfilterDefineXMLFlags",
        "nwfilter-define --validate",
    ),
    Symbol(
        "0.8.0",
        "virNWFilterPtr virNWFilterDefineXML(virConnectPtr conn, const char *xmlDesc)",
        "virConnect.nwfilterDefineXML",
        "nwfilter-define",
    ),
    # QEMU's monitor.
    Symbol(
        "0.8.3",
        "int virDomainQemuMonitorCommand(virDomainPtr domain, const char *cmd, char **result, unsigned int flags)",
        "qemuMonitorCommand",
        "asking QEMU itself: recovery, preflight",
        library=QEMU,
    ),
    Symbol(
        "1.2.3",
        "int virConnectDomainQemuMonitorEventRegister(virConnectPtr conn, virDomainPtr dom, const char *event,"
        " virConnectDomainQemuMonitorEventCallback cb, void *opaque, virFreeCallback freecb, unsigned int flags)",
        "qemuMonitorEventRegister",
        "QEMU's own events",
        library=QEMU,
    ),
    Symbol(
        "1.2.3",
        "int virConnectDomainQemuMonitorEventDeregister(virConnectPtr conn, int callbackID)",
        "qemuMonitorEventDeregister",
        "an end to QEMU's own events",
        library=QEMU,
    ),
)

SYMBOLS: Mapping[str, Symbol] = MappingProxyType({each.name: each for each in _ALL})

HOLD = Symbol(
    "0.6.0",
    "int virConnectRef(virConnectPtr conn)",
    "",
    "holding a connection during a call past libvirt-python",
)
"""What libvirt-python has no need of, so it is not among the others."""
