"""virsh's options of ``migrate``, and ours, as one table.

A later version of virsh adds rows.  An option without ``flag`` and ``param`` is read by its name in
:mod:`libvirt_postcopy.virsh.plan`.

Source: libvirt ``tools/virsh-domain.c`` ``opts_migrate``, ``doMigrate`` (11.3.0).
"""

from __future__ import annotations

import re
from dataclasses import replace

from libvirt_postcopy.constants import MigrateFlags, MigrateParam
from libvirt_postcopy.virsh.grammar import Kind, Option

__all__ = [
    "MIGRATE_OPTIONS",
    "DOMAIN",
    "ENABLING",
    "RECOVER_BANDWIDTH",
    "STRICT_EXIT",
    "option_names",
]

_BOOL, _STRING, _INT, _BIG = Kind.BOOL, Kind.STRING, Kind.INT, Kind.BIG


def _flag(name: str, flag: str, text: str) -> Option:
    return Option(name, _BOOL, text, flag=MigrateFlags[f"VIR_MIGRATE_{flag}"])


def _param(name: str, kind: Kind, param: str, text: str) -> Option:
    return Option(name, kind, text, param=param)


def _positional(option: Option) -> Option:
    return replace(option, is_positional=True)


def _ours(name: str, kind: Kind, text: str) -> Option:
    return Option(name, kind, text, is_ours=True)


DOMAIN = Option(
    "domain",
    _STRING,
    "domain name, id or uuid",
    is_positional=True,
    is_required=True,
)

STRICT_EXIT = _ours(
    "strict-exit",
    _BOOL,
    "exit with virsh's 0 and 1 only, not with 3 for a guest that is split or may be, and 4 for a lost one",
)

RECOVER_BANDWIDTH = _ours(
    "postcopy-recover-bandwidth",
    _BIG,
    "post-copy migration bandwidth limit in MiB/s from the first recovery on, 0 for none; as before if not given",
)

MIGRATE_OPTIONS: tuple[Option, ...] = (
    DOMAIN,
    Option(
        "desturi",
        _STRING,
        "connection URI of the destination host as seen from the client(normal migration) or source(p2p migration)",
        is_positional=True,
        is_required=True,
    ),
    _flag("live", "LIVE", "live migration"),
    _flag("offline", "OFFLINE", "offline migration"),
    _flag("p2p", "PEER2PEER", "peer-2-peer migration"),
    Option("direct", _BOOL, "direct migration"),
    replace(
        _flag("tunnelled", "TUNNELLED", "tunnelled migration"),
        alias="tunneled",
    ),
    _flag("persistent", "PERSIST_DEST", "persist VM on destination"),
    _flag("undefinesource", "UNDEFINE_SOURCE", "undefine VM on source"),
    _flag("suspend", "PAUSED", "do not restart the domain on the destination host"),
    _flag(
        "copy-storage-all",
        "NON_SHARED_DISK",
        "migration with non-shared storage with full disk copy",
    ),
    _flag(
        "copy-storage-inc",
        "NON_SHARED_INC",
        "migration with non-shared storage with incremental copy (same base image shared between source and destination)",
    ),
    _flag(
        "copy-storage-synchronous-writes",
        "NON_SHARED_SYNCHRONOUS_WRITES",
        "force guest disk writes to be synchronously written to the destination to improve storage migration convergence",
    ),
    _flag(
        "change-protection",
        "CHANGE_PROTECTION",
        "prevent any configuration changes to domain until migration ends",
    ),
    _flag("unsafe", "UNSAFE", "force migration even if it may be unsafe"),
    Option("verbose", _BOOL, "display the progress of migration"),
    _flag("compressed", "COMPRESSED", "compress repeated pages during live migration"),
    _flag("auto-converge", "AUTO_CONVERGE", "force convergence during live migration"),
    _flag(
        "rdma-pin-all",
        "RDMA_PIN_ALL",
        "pin all memory before starting RDMA live migration",
    ),
    _flag("abort-on-error", "ABORT_ON_ERROR", "abort on soft errors during migration"),
    _flag(
        "postcopy",
        "POSTCOPY",
        "enable post-copy migration; switch to it using migrate-postcopy command",
    ),
    Option(
        "postcopy-after-precopy",
        _BOOL,
        "automatically switch to post-copy migration after one pass of pre-copy",
    ),
    _flag("postcopy-resume", "POSTCOPY_RESUME", "resume failed post-copy migration"),
    _flag("zerocopy", "ZEROCOPY", "use zero-copy mechanism for migrating memory pages"),
    _positional(
        _param(
            "migrateuri",
            _STRING,
            MigrateParam.VIR_MIGRATE_PARAM_URI,
            "migration URI, usually can be omitted",
        )
    ),
    _positional(
        _param(
            "graphicsuri",
            _STRING,
            MigrateParam.VIR_MIGRATE_PARAM_GRAPHICS_URI,
            "graphics URI to be used for seamless graphics migration",
        )
    ),
    _positional(
        _param(
            "listen-address",
            _STRING,
            MigrateParam.VIR_MIGRATE_PARAM_LISTEN_ADDRESS,
            "listen address that destination should bind to for incoming migration",
        )
    ),
    _positional(
        _param(
            "dname",
            _STRING,
            MigrateParam.VIR_MIGRATE_PARAM_DEST_NAME,
            "rename to new name during migration (if supported)",
        )
    ),
    _positional(
        Option(
            "timeout",
            Kind.SECONDS,
            "run action specified by --timeout-* option (suspend by default) if live migration exceeds timeout (in seconds)",
        )
    ),
    Option("timeout-suspend", _BOOL, "suspend the guest after timeout"),
    Option("timeout-postcopy", _BOOL, "switch to post-copy after timeout"),
    _positional(
        _param(
            "xml",
            Kind.FILE,
            MigrateParam.VIR_MIGRATE_PARAM_DEST_XML,
            "filename containing updated XML for the target",
        )
    ),
    _positional(
        _param(
            "migrate-disks",
            Kind.LIST,
            "migrate_disks",
            "comma separated list of disks to be migrated",
        )
    ),
    _param(
        "migrate-disks-detect-zeroes",
        Kind.LIST,
        "migrate_disks_detect_zeroes",
        "comma separated list of disks to be migrated with zero detection enabled",
    ),
    _positional(
        _param(
            "disks-port",
            _INT,
            "disks_port",
            "port to use by target server for incoming disks migration",
        )
    ),
    _param(
        "disks-uri",
        _STRING,
        "disks_uri",
        "URI to use for disks migration (overrides --disks-port)",
    ),
    _param(
        "comp-methods",
        Kind.LIST,
        "compression",
        "comma separated list of compression methods to be used",
    ),
    _param(
        "comp-mt-level",
        _INT,
        "compression.mt.level",
        "compress level for multithread compression",
    ),
    _param(
        "comp-mt-threads",
        _INT,
        "compression.mt.threads",
        "number of compression threads for multithread compression",
    ),
    _param(
        "comp-mt-dthreads",
        _INT,
        "compression.mt.dthreads",
        "number of decompression threads for multithread compression",
    ),
    _param(
        "comp-xbzrle-cache",
        _BIG,
        "compression.xbzrle.cache",
        "page cache size for xbzrle compression",
    ),
    _param(
        "auto-converge-initial",
        _INT,
        "auto_converge.initial",
        "initial CPU throttling rate for auto-convergence",
    ),
    _param(
        "auto-converge-increment",
        _INT,
        "auto_converge.increment",
        "CPU throttling rate increment for auto-convergence",
    ),
    _param(
        "persistent-xml",
        Kind.FILE,
        MigrateParam.VIR_MIGRATE_PARAM_PERSIST_XML,
        "filename containing updated persistent XML for the target",
    ),
    _flag("tls", "TLS", "use TLS for migration"),
    _param(
        "postcopy-bandwidth",
        _BIG,
        MigrateParam.VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY,
        "post-copy migration bandwidth limit in MiB/s",
    ),
    _flag("parallel", "PARALLEL", "enable parallel migration"),
    _param(
        "parallel-connections",
        _INT,
        "parallel.connections",
        "number of connections for parallel migration",
    ),
    _param(
        "bandwidth",
        _BIG,
        MigrateParam.VIR_MIGRATE_PARAM_BANDWIDTH,
        "migration bandwidth limit in MiB/s",
    ),
    _param(
        "tls-destination",
        _STRING,
        "tls.destination",
        "override the destination host name used for TLS verification",
    ),
    _param(
        "comp-zlib-level",
        _INT,
        "compression.zlib.level",
        "compress level for zlib compression",
    ),
    _param(
        "comp-zstd-level",
        _INT,
        "compression.zstd.level",
        "compress level for zstd compression",
    ),
    _param(
        "available-switchover-bandwidth",
        _BIG,
        "bandwidth.avail.switchover",
        "bandwidth (in MiB/s) available for the final phase of migration",
    ),
    _ours(
        "enable-postcopy",
        _BOOL,
        "the same as --postcopy, by the name of the 2014 series",
    ),
    _ours(
        "postcopy-after",
        Kind.DELAY,
        "switch to post-copy after this long (30 or 30s, 5m, 300ms), 0 at once; enables post-copy",
    ),
    _ours(
        "postcopy-policy",
        _STRING,
        "switch to post-copy when this says so: manual, never, after-precopy[:PASSES], after:DURATION,"
        " joined by | (the first) or & (all); enables post-copy",
    ),
    _ours(
        "postcopy-check",
        _STRING,
        "look first whether it can work: off; warn, the default: refuse what is certain to fail and warn of the rest;"
        " strict: refuse that too; see postcopy-check",
    ),
    _ours(
        "postcopy-recover",
        _STRING,
        "how long to try to bring a guest back whose link breaks after the switch, counted from the last page that"
        " moved: 30 or 30s, 5m, or never; default 30m",
    ),
    RECOVER_BANDWIDTH,
    _ours(
        "postcopy-driver",
        _STRING,
        "native: libvirt's own migration; qemu: QEMU's commands through the monitor passthrough, for what libvirt"
        " cannot do: taints the domain, and needs this program until the end; auto, the default: native where that can"
        " do what is asked",
    ),
    _ours(
        "postcopy-blocktime",
        _BOOL,
        "let the destination's QEMU count how long vCPUs wait for pages, and tell it at the end; with libvirt's own"
        " migration by a second monitor, where this machine is the destination or its user's ssh gets there",
    ),
    _ours(
        "postcopy-monitor-dir",
        _STRING,
        "the folder for the socket of that second monitor, and asks for one: of the destination if that is reached by"
        " ssh, else one that this machine shares with it; default /var/lib/libvirt/qemu. With it a link that breaks"
        " is mended where the destination has libvirt 11.2 or 11.3, too",
    ),
    _ours(
        "postcopy-preempt",
        _BOOL,
        "send the pages that the guest waits for over a channel of their own (QEMU >= 7.1)",
    ),
    _ours(
        "postcopy-release-ram",
        _BOOL,
        "let the source give memory back as it is sent; a broken migration cannot be recovered then",
    ),
    STRICT_EXIT,
)

ENABLING = (
    "postcopy",
    "enable-postcopy",
    "postcopy-after",
    "postcopy-after-precopy",
    "postcopy-policy",
)
"""Each of these asks for post-copy by itself; virsh wants ``--postcopy`` beside its own."""


_NAMES = {
    str(option.flag.name): f"--{option.name}"
    for option in MIGRATE_OPTIONS
    if option.flag is not None
}
_NAMES["VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY"] = "--postcopy-after-precopy"
_FLAG_NAME = re.compile(r"\b(VIR_MIGRATE_[A-Z0-9_]+)\b(?: flag\b)?")


def option_names(text: str) -> str:
    """Call migrate flags by the options that people type; a name that no option sets is left."""
    return _FLAG_NAME.sub(lambda found: _NAMES.get(found[1], found[0]), text)
