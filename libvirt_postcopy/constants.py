"""libvirt's numbers, spelled as in C, and the 2014 series' own names.

One class per C enum, so that a search finds both.  Importing this module needs no libvirt: a binding
built against an old libvirt lacks the newer names, but numbers and string keys always work.

Source: ``include/libvirt/libvirt-domain.h``, ``virterror.h`` (libvirt 11.3.0).
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

__all__ = [
    "VIR_MIGRATE_ENABLE_POSTCOPY",
    "VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY",
    "CLIENT_SIDE_FLAGS",
    "MigrateFlags",
    "MigrateParam",
    "JobField",
    "ConnectListFlags",
    "CreateFlags",
    "XMLFlags",
    "UndefineFlags",
    "ModificationImpact",
    "MetadataType",
    "CompareCPUFlags",
    "AbortJobFlags",
    "MaxSpeedFlags",
    "JobStatsFlags",
    "JobType",
    "JobOperation",
    "DomainState",
    "RunningReason",
    "PausedReason",
    "EventID",
    "LifecycleEvent",
    "StoppedDetail",
    "SuspendedDetail",
    "ResumedDetail",
    "ErrorNumber",
    "ErrorDomain",
    "MemoryStatsCells",
    "NWFilterDefineFlags",
    "Length",
]


class MigrateFlags(IntFlag):
    """``virDomainMigrateFlags``."""

    VIR_MIGRATE_LIVE = 1 << 0
    VIR_MIGRATE_PEER2PEER = 1 << 1
    VIR_MIGRATE_TUNNELLED = 1 << 2
    VIR_MIGRATE_PERSIST_DEST = 1 << 3
    VIR_MIGRATE_UNDEFINE_SOURCE = 1 << 4
    VIR_MIGRATE_PAUSED = 1 << 5
    VIR_MIGRATE_NON_SHARED_DISK = 1 << 6
    VIR_MIGRATE_NON_SHARED_INC = 1 << 7
    VIR_MIGRATE_CHANGE_PROTECTION = 1 << 8
    VIR_MIGRATE_UNSAFE = 1 << 9
    VIR_MIGRATE_OFFLINE = 1 << 10
    VIR_MIGRATE_COMPRESSED = 1 << 11
    VIR_MIGRATE_ABORT_ON_ERROR = 1 << 12
    VIR_MIGRATE_AUTO_CONVERGE = 1 << 13
    VIR_MIGRATE_RDMA_PIN_ALL = 1 << 14
    VIR_MIGRATE_POSTCOPY = 1 << 15  #: since libvirt 1.3.3
    VIR_MIGRATE_TLS = 1 << 16  #: since libvirt 3.2.0
    VIR_MIGRATE_PARALLEL = 1 << 17  #: since libvirt 5.2.0
    VIR_MIGRATE_NON_SHARED_SYNCHRONOUS_WRITES = 1 << 18  #: since libvirt 8.0.0
    VIR_MIGRATE_POSTCOPY_RESUME = 1 << 19  #: since libvirt 8.5.0
    VIR_MIGRATE_ZEROCOPY = 1 << 20  #: since libvirt 8.5.0


VIR_MIGRATE_ENABLE_POSTCOPY = MigrateFlags.VIR_MIGRATE_POSTCOPY
"""The series' name for what libvirt 1.3.3 merged as ``VIR_MIGRATE_POSTCOPY``; the bit is the same."""

VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY = MigrateFlags(1 << 30)
"""The series' policy flag: switch to post-copy when the first pass over memory is done.

libvirt dropped the policy and gave the series' bit, 16, to ``VIR_MIGRATE_TLS``, so the flag lives on
the client's side only, in a bit that libvirt does not use.  If it ever reached a daemon, that daemon
would refuse the call ("unsupported flags") rather than do something else.
"""

CLIENT_SIDE_FLAGS = VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY
"""All flags that are ours and must never reach libvirt."""


class MigrateParam:
    """Keys of the typed parameters of ``virDomainMigrate3`` (``VIR_MIGRATE_PARAM_*``)."""

    VIR_MIGRATE_PARAM_URI = "migrate_uri"
    VIR_MIGRATE_PARAM_DEST_NAME = "destination_name"
    VIR_MIGRATE_PARAM_DEST_XML = "destination_xml"
    VIR_MIGRATE_PARAM_PERSIST_XML = "persistent_xml"
    VIR_MIGRATE_PARAM_BANDWIDTH = "bandwidth"  #: MiB/s
    VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY = (
        "bandwidth.postcopy"  #: MiB/s, since libvirt 5.1.0
    )
    VIR_MIGRATE_PARAM_GRAPHICS_URI = "graphics_uri"
    VIR_MIGRATE_PARAM_LISTEN_ADDRESS = "listen_address"


class JobField:
    """Keys of job statistics (``VIR_DOMAIN_JOB_*``), the ones we read."""

    VIR_DOMAIN_JOB_OPERATION = "operation"
    VIR_DOMAIN_JOB_TIME_ELAPSED = "time_elapsed"  #: ms
    VIR_DOMAIN_JOB_SETUP_TIME = "setup_time"  #: ms
    VIR_DOMAIN_JOB_DOWNTIME = "downtime"  #: ms
    VIR_DOMAIN_JOB_DATA_REMAINING = "data_remaining"
    VIR_DOMAIN_JOB_MEMORY_TOTAL = "memory_total"
    VIR_DOMAIN_JOB_MEMORY_PROCESSED = "memory_processed"
    VIR_DOMAIN_JOB_MEMORY_REMAINING = "memory_remaining"
    VIR_DOMAIN_JOB_MEMORY_CONSTANT = "memory_constant"  #: pages
    VIR_DOMAIN_JOB_MEMORY_NORMAL_BYTES = "memory_normal_bytes"
    VIR_DOMAIN_JOB_MEMORY_BPS = "memory_bps"
    VIR_DOMAIN_JOB_MEMORY_DIRTY_RATE = "memory_dirty_rate"  #: pages/s
    VIR_DOMAIN_JOB_MEMORY_ITERATION = "memory_iteration"
    VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE = "memory_page_size"
    VIR_DOMAIN_JOB_MEMORY_POSTCOPY_REQS = "memory_postcopy_requests"


class ConnectListFlags(IntFlag):
    """``virConnectListAllDomainsFlags``, the ones we use."""

    VIR_CONNECT_LIST_DOMAINS_ACTIVE = 1 << 0


class CreateFlags(IntFlag):
    """``virDomainCreateFlags``, the ones we use."""

    VIR_DOMAIN_START_PAUSED = 1 << 0
    VIR_DOMAIN_START_AUTODESTROY = 1 << 1


class XMLFlags(IntFlag):
    """``virDomainXMLFlags``."""

    VIR_DOMAIN_XML_SECURE = 1 << 0
    VIR_DOMAIN_XML_INACTIVE = 1 << 1
    VIR_DOMAIN_XML_MIGRATABLE = 1 << 3


class UndefineFlags(IntFlag):
    """``virDomainUndefineFlagsValues``, the ones we use."""

    VIR_DOMAIN_UNDEFINE_KEEP_NVRAM = 1 << 3  #: since libvirt 2.3.0


class ModificationImpact(IntFlag):
    """``virDomainModificationImpact``."""

    VIR_DOMAIN_AFFECT_LIVE = 1 << 0
    VIR_DOMAIN_AFFECT_CONFIG = 1 << 1


class MetadataType(IntEnum):
    """``virDomainMetadataType``, the ones we use."""

    VIR_DOMAIN_METADATA_ELEMENT = 2


class CompareCPUFlags(IntFlag):
    """``virConnectCompareCPUFlags``, the ones we use."""

    VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE = 1 << 0


class AbortJobFlags(IntFlag):
    """``virDomainAbortJobFlagsValues``."""

    VIR_DOMAIN_ABORT_JOB_POSTCOPY = 1 << 0  #: since libvirt 8.5.0


class MaxSpeedFlags(IntFlag):
    """``virDomainMigrateMaxSpeedFlags``."""

    VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY = 1 << 0  #: since libvirt 5.1.0


class JobStatsFlags(IntFlag):
    """``virDomainGetJobStatsFlags``."""

    VIR_DOMAIN_JOB_STATS_COMPLETED = 1 << 0
    VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED = 1 << 1


class JobType(IntEnum):
    """``virDomainJobType``."""

    VIR_DOMAIN_JOB_NONE = 0
    VIR_DOMAIN_JOB_BOUNDED = 1
    VIR_DOMAIN_JOB_UNBOUNDED = 2
    VIR_DOMAIN_JOB_COMPLETED = 3
    VIR_DOMAIN_JOB_FAILED = 4
    VIR_DOMAIN_JOB_CANCELLED = 5


class JobOperation(IntEnum):
    """``virDomainJobOperation``, the ones that speak of migration."""

    VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN = 4  #: since libvirt 3.3.0
    VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT = 5  #: since libvirt 3.3.0


class DomainState(IntEnum):
    """``virDomainState``."""

    VIR_DOMAIN_NOSTATE = 0
    VIR_DOMAIN_RUNNING = 1
    VIR_DOMAIN_BLOCKED = 2
    VIR_DOMAIN_PAUSED = 3
    VIR_DOMAIN_SHUTDOWN = 4
    VIR_DOMAIN_SHUTOFF = 5
    VIR_DOMAIN_CRASHED = 6
    VIR_DOMAIN_PMSUSPENDED = 7


class RunningReason(IntEnum):
    """``virDomainRunningReason``, the ones that speak of migration."""

    VIR_DOMAIN_RUNNING_MIGRATED = 2
    VIR_DOMAIN_RUNNING_MIGRATION_CANCELED = 6
    VIR_DOMAIN_RUNNING_POSTCOPY = 10
    VIR_DOMAIN_RUNNING_POSTCOPY_FAILED = 11  #: since libvirt 8.5.0


class PausedReason(IntEnum):
    """``virDomainPausedReason``, the ones that speak of migration."""

    VIR_DOMAIN_PAUSED_UNKNOWN = 0  #: QEMU has stopped it, and libvirt knows of no job
    VIR_DOMAIN_PAUSED_MIGRATION = 2
    VIR_DOMAIN_PAUSED_STARTING_UP = 11
    VIR_DOMAIN_PAUSED_POSTCOPY = 12
    VIR_DOMAIN_PAUSED_POSTCOPY_FAILED = 13


class EventID(IntEnum):
    """``virDomainEventID``, the ones we listen to."""

    VIR_DOMAIN_EVENT_ID_LIFECYCLE = 0
    VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION = 20  #: since libvirt 1.3.2
    VIR_DOMAIN_EVENT_ID_JOB_COMPLETED = 21  #: since libvirt 1.3.3


class LifecycleEvent(IntEnum):
    """``virDomainEventType``."""

    VIR_DOMAIN_EVENT_DEFINED = 0
    VIR_DOMAIN_EVENT_UNDEFINED = 1
    VIR_DOMAIN_EVENT_STARTED = 2
    VIR_DOMAIN_EVENT_SUSPENDED = 3
    VIR_DOMAIN_EVENT_RESUMED = 4
    VIR_DOMAIN_EVENT_STOPPED = 5
    VIR_DOMAIN_EVENT_SHUTDOWN = 6
    VIR_DOMAIN_EVENT_PMSUSPENDED = 7
    VIR_DOMAIN_EVENT_CRASHED = 8


class StoppedDetail(IntEnum):
    """``virDomainEventStoppedDetailType``, the ones that nobody asked for."""

    VIR_DOMAIN_EVENT_STOPPED_CRASHED = 2
    VIR_DOMAIN_EVENT_STOPPED_FAILED = 5


class SuspendedDetail(IntEnum):
    """``virDomainEventSuspendedDetailType``, the ones that speak of migration."""

    VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED = 1
    VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY = 7
    VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED = 8


class ResumedDetail(IntEnum):
    """``virDomainEventResumedDetailType``, the ones that speak of migration."""

    VIR_DOMAIN_EVENT_RESUMED_MIGRATED = 1
    VIR_DOMAIN_EVENT_RESUMED_POSTCOPY = 3
    VIR_DOMAIN_EVENT_RESUMED_POSTCOPY_FAILED = 4  #: since libvirt 8.5.0


class ErrorNumber(IntEnum):
    """``virErrorNumber``, the ones we decide by."""

    VIR_ERR_INTERNAL_ERROR = 1
    VIR_ERR_NO_SUPPORT = 3
    VIR_ERR_NO_CONNECT = 5
    VIR_ERR_INVALID_ARG = 8
    VIR_ERR_OPERATION_FAILED = 9
    VIR_ERR_OPERATION_DENIED = 29
    VIR_ERR_SYSTEM_ERROR = 38
    VIR_ERR_RPC = 39
    VIR_ERR_NO_DOMAIN = 42
    VIR_ERR_OPERATION_INVALID = 55
    VIR_ERR_CONFIG_UNSUPPORTED = 67
    VIR_ERR_OPERATION_TIMEOUT = 68
    VIR_ERR_ARGUMENT_UNSUPPORTED = 74
    VIR_ERR_OPERATION_ABORTED = 78
    VIR_ERR_MIGRATE_UNSAFE = 81
    VIR_ERR_OPERATION_UNSUPPORTED = 84
    VIR_ERR_ACCESS_DENIED = 88
    VIR_ERR_CPU_INCOMPATIBLE = 91
    VIR_ERR_MIGRATE_FINISH_OK = 93


class ErrorDomain(IntEnum):
    """``virErrorDomain``, the ones that a connection that cannot be made comes from."""

    VIR_FROM_RPC = 7
    VIR_FROM_REMOTE = 13
    VIR_FROM_AUTH = 46
    VIR_FROM_SSH = 50
    VIR_FROM_LIBSSH = 66


class MemoryStatsCells(IntEnum):
    """``virNodeGetMemoryStatsAllCells``."""

    VIR_NODE_MEMORY_STATS_ALL_CELLS = -1


class NWFilterDefineFlags(IntFlag):
    """``virNWFilterDefineFlags``."""

    VIR_NWFILTER_DEFINE_VALIDATE = 1 << 0  #: since libvirt 7.7.0


class Length(IntEnum):
    """Lengths of texts, in bytes with the NUL at the end; macros in C."""

    VIR_UUID_STRING_BUFLEN = 37
    VIR_TYPED_PARAM_FIELD_LENGTH = 80
