"""What is wrong, from what the witnesses say.  Asks nobody."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from libvirt_postcopy.bindings.binding import Binding
from libvirt_postcopy.bindings.call import CALLABLE
from libvirt_postcopy.bindings.description import Description, Name
from libvirt_postcopy.bindings.library import Library
from libvirt_postcopy.bindings.names import ours
from libvirt_postcopy.bindings.parameters import (
    PARAMETERS,
    Parameter,
    ParameterType,
    guess,
)
from libvirt_postcopy.bindings.report import (
    Finding,
    ParameterRow,
    Path,
    Row,
    Severity,
)
from libvirt_postcopy.bindings.symbols import SYMBOLS, Symbol, version_number
from libvirt_postcopy.constants import CLIENT_SIDE_FLAGS

__all__ = [
    "against_binding",
    "against_description",
    "age",
    "libraries",
    "parameters",
    "symbols",
]

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

_REINSTALL = (
    "build libvirt-python against this libvirt: pip install --force-reinstall"
    " --no-binary :all: libvirt-python"
)
_PACKAGE = "reinstall libvirt's client library (libvirt0, libvirt-libs)"


# Libraries and functions


def libraries(found: Collection[Library]) -> Iterator[Finding]:
    """What is wrong with the libraries themselves."""
    for library in found:
        file = f"{library.files[0]}: " if library.files else ""
        if library.error:
            yield Finding(ERROR, library.soname, f"{file}{library.error}", _PACKAGE)
        elif len(library.files) > 1:
            yield Finding(
                ERROR,
                library.soname,
                f"it is loaded twice: {', '.join(library.files)}",
                "install one libvirt, and libvirt-python built against it",
            )


def symbols(
    found: Mapping[str, Library], binding: Binding
) -> tuple[list[Row], list[Finding]]:
    """Each function: where it is, and what way a call takes."""
    rows: list[Row] = []
    findings: list[Finding] = []
    version = binding.libvirt
    for symbol in SYMBOLS.values():
        library = found[symbol.library]
        node = library.version(symbol.name)
        is_wrapped = binding.has(symbol)
        path = _path(symbol, node, found, binding, is_wrapped=is_wrapped)
        rows.append(
            Row(
                symbol.name,
                node,
                symbol.library,
                symbol.binding if is_wrapped else None,
                path,
            )
        )
        if not library.error:
            is_due = version >= version_number(symbol.since)
            findings += _about(symbol, node, path, is_wrapped, is_due)
    return rows, findings


def _path(
    symbol: Symbol,
    node: str | None,
    found: Mapping[str, Library],
    binding: Binding,
    *,
    is_wrapped: bool,
) -> Path:
    if node is not None and is_wrapped:
        return Path.BINDING
    if node is not None and symbol.name in CALLABLE:
        return Path.CFFI
    monitor = SYMBOLS["virDomainQemuMonitorCommand"]
    has_monitor = found[monitor.library].version(monitor.name) is not None
    if symbol.passthrough and has_monitor and binding.has(monitor):
        return Path.PASSTHROUGH
    return Path.NONE


def _about(
    symbol: Symbol, node: str | None, path: Path, is_wrapped: bool, is_due: bool
) -> Iterator[Finding]:
    lost = f"not possible: {symbol.purpose}"
    severity = ERROR if symbol.is_needed and path is Path.NONE else WARNING
    if node is None and not is_due and not symbol.is_needed:
        severity = NOTE
    if node is None:
        evidence = f"{symbol.library} lacks it; {_instead(path) or lost}"
        cure = _PACKAGE if is_due else f"libvirt >= {symbol.since} has it"
        yield Finding(severity, symbol.name, evidence, cure)
    elif not is_wrapped:
        evidence = f"libvirt-python lacks {symbol.binding}; {_instead(path) or lost}"
        yield Finding(severity, symbol.name, evidence, _REINSTALL)
    elif node and node != symbol.node:
        yield Finding(
            WARNING, symbol.name, f"its version is {node}, {symbol.node} was expected"
        )


def _instead(path: Path) -> str:
    return {
        Path.CFFI: "it is called through cffi",
        Path.PASSTHROUGH: "QEMU's own command is sent through the monitor",
    }.get(path, "")


# Parameters


def parameters(binding: Binding) -> tuple[list[ParameterRow], list[Finding]]:
    """Each typed parameter: the type that a dict comes out with."""
    hints = binding.hints()
    rows, findings = [], []
    if hints is None:
        findings.append(
            Finding(
                NOTE,
                "typed parameters",
                "libvirt-python's table of types could not be read, so only its guesses are known",
            )
        )
    for each in PARAMETERS.values():
        hint = None if hints is None else hints.get(each.key)
        passed = hint or guess("" if each.type.word == "STRING" else 1)
        rows.append(
            ParameterRow(
                each.key,
                each.since,
                each.type.word,
                None if hint is None else _word(hint),
                _word(passed),
                Path.BINDING if passed == each.type else Path.CFFI,
            )
        )
        if hints is not None:
            findings += _about_type(each, hint, passed, binding.libvirt)
    return rows, findings


def _about_type(
    each: Parameter, hint: int | None, passed: int | None, version: int
) -> Iterator[Finding]:
    is_due = version >= version_number(each.since)
    if passed != each.type:
        evidence = (
            f"libvirt-python passes it as {_word(passed)}, the daemon wants"
            f" {each.type.word} and refuses it; this package passes it right"
        )
        if is_due:
            yield Finding(ERROR, each.key, evidence, _REINSTALL)
        else:
            evidence += f"; only daemons of libvirt >= {each.since} know it"
            yield Finding(NOTE, each.key, evidence)
    elif hint is None and is_due:
        yield Finding(
            NOTE,
            each.key,
            f"libvirt-python has no type for it and guesses {_word(passed)}, which is right",
        )


def _word(number: int | None) -> str:
    try:
        return ParameterType(number).word  # type: ignore[arg-type]
    except ValueError:
        return str(number)


# Constants


def against_binding(binding: Binding) -> Iterator[Finding]:
    """Our numbers and names against libvirt-python's, both ways."""
    mine, numbers, strings = ours(), binding.numbers(), binding.strings()
    theirs: dict[str, Any] = {**numbers, **strings}
    for name, value in {**mine.numbers, **mine.strings}.items():
        if name in theirs and theirs[name] != value:
            yield _different(name, value, theirs[name], "libvirt-python")
    yield from _client_side(
        (value for name, value in numbers.items() if _is_flag(name)), "libvirt-python"
    )
    wrapped = {symbol.binding for symbol in SYMBOLS.values()}
    for name in sorted(binding.postcopy_names()):
        if not mine.has(name) and name not in wrapped:
            yield _unknown(name, "libvirt-python")


def age(binding: Binding, library: Library) -> Iterator[Finding]:
    """Whether the binding was built against an older libvirt than the one that is loaded.

    Not every release brings functions, so the newest that the library has is what counts.
    """
    uses, has = binding.newest(), library.newest()
    if uses and has and version_number(uses) < version_number(has):
        yield Finding(
            NOTE,
            "libvirt-python",
            f"it was built against an older libvirt: it calls no function newer than {uses}, the library has some of {has}",
            _REINSTALL,
        )


def _is_flag(name: str) -> bool:
    return name.startswith("VIR_MIGRATE_") and not name.startswith("VIR_MIGRATE_PARAM_")


def _different(name: str, value: object, theirs: object, whose: str) -> Finding:
    return Finding(
        ERROR,
        name,
        f"{whose} says {theirs!r}, this package {value!r}",
        "reinstall libvirt-python; if that changes nothing, report it",
    )


def _client_side(flags: Iterator[int], whose: str) -> Iterator[Finding]:
    taken = 0
    for value in flags:
        taken |= value
    if taken & int(CLIENT_SIDE_FLAGS):
        yield Finding(
            ERROR,
            "VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY",
            f"{whose} has another meaning for its bit: {taken & int(CLIENT_SIDE_FLAGS):#x}",
            "upgrade libvirt-postcopy",
        )


def _unknown(name: str, whose: str) -> Finding:
    return Finding(
        WARNING,
        name,
        f"{whose} has this name for post-copy, this package has not",
        "upgrade libvirt-postcopy; if that changes nothing, report it",
    )


def against_description(described: Description, version: int) -> Iterator[Finding]:
    """Our names, numbers, types and releases against libvirt's description of its API, both ways.

    :param version: Of the libvirt that is described.
    """
    mine, whose = ours(), "libvirt-api.xml"
    for name, value in {**mine.numbers, **mine.strings}.items():
        found = described.constants.get(name) or described.macros.get(name)
        if found is None:
            since = mine.since.get(name)
            if since is None or version_number(since) <= version:
                yield _not_there(name, whose)
            continue
        if found.value != value:
            yield _different(name, value, found.value, whose)
        yield from _since(name, mine.since.get(name, ""), found.since)
    for symbol in SYMBOLS.values():
        if symbol.name in described.functions:
            since = described.functions[symbol.name].since
            yield from _since(symbol.name, symbol.since, since)
        elif version_number(symbol.since) <= version:
            yield _not_there(symbol.name, whose)
    yield from _types(described)
    flags = (
        each.value
        for name, each in described.constants.items()
        if each.kind == "virDomainMigrateFlags" and isinstance(each.value, int)
    )
    yield from _client_side(flags, whose)
    yield from _lacking(described, whose)


def _not_there(name: str, whose: str) -> Finding:
    return Finding(ERROR, name, f"there is no such name in {whose}")


def _since(name: str, mine: str, theirs: str) -> Iterator[Finding]:
    if mine and theirs and mine != theirs:
        yield Finding(
            WARNING,
            name,
            f"libvirt-api.xml says since {theirs}, this package since {mine}",
        )


def _types(described: Description) -> Iterator[Finding]:
    """The types of typed parameters, and parameters that we do not know."""
    known = {each.name: each for each in PARAMETERS.values()}
    for name, found in described.macros.items():
        if not name.startswith("VIR_MIGRATE_PARAM_"):
            continue
        if name not in known:
            yield Finding(
                WARNING, name, f"a parameter of migrations that is not known here: {found.value}"
            )  # fmt: skip
        elif found.kind and found.kind != known[name].type.word:
            yield _different(name, known[name].type.word, found.kind, "libvirt-api.xml")


def _lacking(described: Description, whose: str) -> Iterator[Finding]:
    mine = ours()
    names: list[Mapping[str, Name]] = [described.constants, described.macros]
    for name in sorted(name for each in names for name in each if "POSTCOPY" in name):
        if not mine.has(name):
            yield _unknown(name, whose)
    for name in sorted(described.functions):
        if "postcopy" in name.lower() and name not in SYMBOLS:
            yield _unknown(name, whose)
