"""The names and numbers of libvirt that this package carries itself, gathered for comparison."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import lru_cache
from types import MappingProxyType

from libvirt_postcopy import constants
from libvirt_postcopy.bindings.parameters import PARAMETERS, ParameterType

__all__ = ["Ours", "is_about_postcopy", "ours"]

_SINCE = re.compile(r"since libvirt (\d+\.\d+\.\d+)")


@dataclass(frozen=True)
class Ours:
    """What we say of libvirt.

    :ivar numbers: Members of C enums, and macros that are numbers.
    :ivar strings: Names of typed parameters and of job statistics.
    :ivar since: The release that brought a name, where we say so.
    """

    numbers: Mapping[str, int]
    strings: Mapping[str, str]
    since: Mapping[str, str]

    def has(self, name: str) -> bool:
        """Whether we have a name."""
        return name in self.numbers or name in self.strings


def is_about_postcopy(name: str) -> bool:
    """Whether a name of libvirt's speaks of post-copy."""
    return "postcopy" in name.lower().replace("_", "")


@lru_cache(maxsize=1)
def ours() -> Ours:
    """Gather it from :mod:`libvirt_postcopy.constants` and from here."""
    enums: list[type[Enum]] = [ParameterType]
    for name in constants.__all__:
        value = getattr(constants, name)
        if isinstance(value, type) and issubclass(value, Enum):
            enums.append(value)
    numbers = {m.name: int(m.value) for enum in enums for m in enum if _is_int(enum)}
    strings = {each.name: each.key for each in PARAMETERS.values()}
    written = {
        name: value
        for keys in (constants.MigrateParam, constants.JobField)
        for name, value in vars(keys).items()
        if name.startswith("VIR_")
    }
    since = {each.name: each.since for each in PARAMETERS.values()}
    return Ours(
        MappingProxyType(numbers),
        MappingProxyType({**strings, **written}),
        MappingProxyType({**since, **dict(_comments())}),
    )


def _is_int(enum: type[Enum]) -> bool:
    return issubclass(enum, (IntEnum, int))


def _comments() -> Iterator[tuple[str, str]]:
    """What the comments in the constants' source say; nothing where there is no source."""
    try:
        source = inspect.getsource(constants)
    except OSError:
        return
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            found = _SINCE.search(text)
            if found:
                yield node.targets[0].id, found[1]
