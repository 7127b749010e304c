from __future__ import annotations

from enum import Enum

import libvirt

from libvirt_postcopy import constants
from libvirt_postcopy.constants import (
    CLIENT_SIDE_FLAGS,
    VIR_MIGRATE_ENABLE_POSTCOPY,
    VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY,
    JobField,
    Length,
    MigrateFlags,
    MigrateParam,
)

ENUMS = [
    getattr(constants, name)
    for name in constants.__all__
    if isinstance(getattr(constants, name), type)
    and issubclass(getattr(constants, name), Enum)
    and name != Length.__name__  # macros, which libvirt-python has not
]
NUMBERS = [(member.name, member.value) for enum in ENUMS for member in enum]
KEYS = [
    (name, value)
    for keys in (MigrateParam, JobField)
    for name, value in vars(keys).items()
    if name.startswith("VIR_")
]


def test_values_are_libvirts_own() -> None:
    for name, value in NUMBERS + KEYS:
        if not hasattr(libvirt, name):
            # These are newer than some bindings; the number was read in the header.
            assert libvirt.getVersion() < 8_005_000, f"{name} is no name of libvirt"
        else:
            assert getattr(libvirt, name) == value, name


def test_some_values_were_compared() -> None:
    assert sum(hasattr(libvirt, name) for name, _ in NUMBERS + KEYS) > 100


def test_series_flag_is_the_bit_libvirt_merged() -> None:
    assert VIR_MIGRATE_ENABLE_POSTCOPY == libvirt.VIR_MIGRATE_POSTCOPY == 1 << 15


def test_policy_flag_is_in_a_bit_libvirt_does_not_use() -> None:
    used = [
        value
        for name, value in vars(libvirt).items()
        if name.startswith("VIR_MIGRATE_") and isinstance(value, int)
    ]
    assert not any(value & CLIENT_SIDE_FLAGS for value in used)
    assert VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY in CLIENT_SIDE_FLAGS


def test_policy_flag_is_not_tls() -> None:
    assert not VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY & MigrateFlags.VIR_MIGRATE_TLS


def test_policy_flag_fits_a_c_unsigned_int() -> None:
    assert 0 < VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY < 1 << 31
