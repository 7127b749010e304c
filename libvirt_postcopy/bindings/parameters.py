"""The typed parameters of ``virDomainMigrate3``, and which type each comes out with.

A dict of Python tells no types.  libvirt-python has a table of hints; what is not in it is guessed from the value, and the
daemon refuses a parameter of the wrong type, when the migration is started and no sooner.

Source: libvirt ``QEMU_MIGRATION_PARAMETERS`` (``qemu_migration.h``) and ``libvirt-domain.h``; libvirt-python
``virPyDomainMigrate3Params`` and ``virPyDictToTypedParams``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any

from libvirt_postcopy.constants import Length

__all__ = [
    "PARAMETERS",
    "Parameter",
    "ParameterType",
    "guess",
    "misread",
    "typed",
]


class ParameterType(IntEnum):
    """``virTypedParameterType``."""

    VIR_TYPED_PARAM_INT = 1
    VIR_TYPED_PARAM_UINT = 2
    VIR_TYPED_PARAM_LLONG = 3
    VIR_TYPED_PARAM_ULLONG = 4
    VIR_TYPED_PARAM_DOUBLE = 5
    VIR_TYPED_PARAM_BOOLEAN = 6
    VIR_TYPED_PARAM_STRING = 7

    @property
    def word(self) -> str:
        """As people say it: ``ULLONG``."""
        return self.name.rpartition("_")[2]


INT, ULLONG, STRING = (
    ParameterType.VIR_TYPED_PARAM_INT,
    ParameterType.VIR_TYPED_PARAM_ULLONG,
    ParameterType.VIR_TYPED_PARAM_STRING,
)


@dataclass(frozen=True)
class Parameter:
    """A typed parameter.

    :ivar name: In C: ``VIR_MIGRATE_PARAM_*``.
    :ivar since: The release that brought it.
    """

    key: str
    name: str
    type: ParameterType
    since: str


_ALL = (
    Parameter("migrate_uri", "URI", STRING, "1.1.0"),
    Parameter("destination_name", "DEST_NAME", STRING, "1.1.0"),
    Parameter("destination_xml", "DEST_XML", STRING, "1.1.0"),
    Parameter("persistent_xml", "PERSIST_XML", STRING, "1.3.4"),
    Parameter("bandwidth", "BANDWIDTH", ULLONG, "1.1.0"),
    Parameter("bandwidth.postcopy", "BANDWIDTH_POSTCOPY", ULLONG, "5.1.0"),
    Parameter(
        "bandwidth.avail.switchover", "BANDWIDTH_AVAIL_SWITCHOVER", ULLONG, "11.1.0"
    ),
    Parameter("graphics_uri", "GRAPHICS_URI", STRING, "1.1.0"),
    Parameter("listen_address", "LISTEN_ADDRESS", STRING, "1.1.4"),
    Parameter("migrate_disks", "MIGRATE_DISKS", STRING, "1.2.17"),
    Parameter(
        "migrate_disks_detect_zeroes", "MIGRATE_DISKS_DETECT_ZEROES", STRING, "10.9.0"
    ),
    Parameter(
        "migrate_disks_target_zero", "MIGRATE_DISKS_TARGET_ZERO", STRING, "12.2.0"
    ),
    Parameter("disks_port", "DISKS_PORT", INT, "1.3.3"),
    Parameter("disks_uri", "DISKS_URI", STRING, "6.8.0"),
    Parameter("compression", "COMPRESSION", STRING, "1.3.4"),
    Parameter("compression.mt.level", "COMPRESSION_MT_LEVEL", INT, "1.3.4"),
    Parameter("compression.mt.threads", "COMPRESSION_MT_THREADS", INT, "1.3.4"),
    Parameter("compression.mt.dthreads", "COMPRESSION_MT_DTHREADS", INT, "1.3.4"),
    Parameter("compression.xbzrle.cache", "COMPRESSION_XBZRLE_CACHE", ULLONG, "1.3.4"),
    Parameter("compression.zlib.level", "COMPRESSION_ZLIB_LEVEL", INT, "9.4.0"),
    Parameter("compression.zstd.level", "COMPRESSION_ZSTD_LEVEL", INT, "9.4.0"),
    Parameter("auto_converge.initial", "AUTO_CONVERGE_INITIAL", INT, "2.0.0"),
    Parameter("auto_converge.increment", "AUTO_CONVERGE_INCREMENT", INT, "2.0.0"),
    Parameter("parallel.connections", "PARALLEL_CONNECTIONS", INT, "5.2.0"),
    Parameter("tls.destination", "TLS_DESTINATION", STRING, "6.0.0"),
)

PARAMETERS: Mapping[str, Parameter] = MappingProxyType(
    {
        each.key: Parameter(
            each.key, f"VIR_MIGRATE_PARAM_{each.name}", each.type, each.since
        )
        for each in _ALL
    }
)


def guess(value: object) -> ParameterType | None:
    """The type that libvirt-python gives a value whose key it has no hint for; None where it refuses.

    A number that is expected to be an ``INT`` becomes an ``ULLONG``.
    """
    if isinstance(value, bool):
        return ParameterType.VIR_TYPED_PARAM_BOOLEAN
    if isinstance(value, int):
        return ParameterType.VIR_TYPED_PARAM_LLONG if value < 0 else ULLONG
    if isinstance(value, float):
        return ParameterType.VIR_TYPED_PARAM_DOUBLE
    return STRING if isinstance(value, str) else None


def misread(
    params: Mapping[str, Any], hints: Mapping[str, int] | None
) -> tuple[str, ...]:
    """Keys among ``params`` that libvirt-python would pass with another type than libvirt expects.

    :param hints: Its table; None where it could not be read, which leaves everything to its guess.
    """
    hints = hints or {}
    return tuple(
        key
        for key, value in params.items()
        if key in PARAMETERS
        and any(
            hints.get(key, guess(each)) != PARAMETERS[key].type for each in _each(value)
        )
    )


def typed(params: Mapping[str, Any]) -> list[tuple[str, ParameterType, Any]]:
    """Write parameters one by one, each with the type that libvirt expects.

    :raises ValueError: If one of them cannot be written; the text says which.
    """
    found = []
    for key, value in params.items():
        if not _is_name(key):
            raise ValueError(f"{key!r:.40} is no name of a parameter")
        for each in _each(value):
            found.append(_typed(key, each))
    return found


def _is_name(key: object) -> bool:
    if not isinstance(key, str) or not key or "\0" in key:
        return False
    return len(key.encode()) < Length.VIR_TYPED_PARAM_FIELD_LENGTH


def _each(value: object) -> Iterable[Any]:
    return value if isinstance(value, (list, tuple)) else (value,)


def _typed(key: str, value: Any) -> tuple[str, ParameterType, Any]:
    known = PARAMETERS.get(key)
    type = known.type if known is not None else guess(value)
    if type is None or (type is STRING) is not isinstance(value, str):
        wanted = "" if type is None else f", which is to be a {_PLAIN[type]}"
        raise ValueError(f"{key}{wanted}: not {value!r:.60}")
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"{key}: there is a NUL in it")
    low, high = _RANGES.get(type, (None, None))
    if low is not None and high is not None:
        if not isinstance(value, int):
            raise ValueError(f"{key}, which is to be a number: not {value!r:.60}")
        if not low <= value <= high:
            raise ValueError(f"{key}: {value} is not between {low} and {high}")
    return key, type, value


def _ranges() -> Iterator[tuple[ParameterType, tuple[int, int]]]:
    yield INT, (-(1 << 31), (1 << 31) - 1)
    yield ParameterType.VIR_TYPED_PARAM_UINT, (0, (1 << 32) - 1)
    yield ParameterType.VIR_TYPED_PARAM_LLONG, (-(1 << 63), (1 << 63) - 1)
    yield ULLONG, (0, (1 << 64) - 1)


_RANGES = MappingProxyType(dict(_ranges()))
_PLAIN = MappingProxyType(
    {each: "text" if each is STRING else "number" for each in ParameterType}
)
