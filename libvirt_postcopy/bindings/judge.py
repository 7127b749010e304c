"""What is wrong, from what the witnesses say.  Asks nobody."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from libvirt_postcopy.bindings.binding import REBUILD, Binding
from libvirt_postcopy.bindings.call import can_call
from libvirt_postcopy.bindings.description import Description
from libvirt_postcopy.bindings.functions import SYMBOLS
from libvirt_postcopy.bindings.library import Library
from libvirt_postcopy.bindings.names import is_about_postcopy, ours
from libvirt_postcopy.bindings.parameters import (
    PARAMETERS,
    Parameter,
    ParameterType,
    guess,
)
from libvirt_postcopy.bindings.paths import path_of
from libvirt_postcopy.bindings.report import (
    Finding,
    ParameterRow,
    Row,
    Severity,
    unknown,
)
from libvirt_postcopy.bindings.symbols import Symbol, release_of, version_number
from libvirt_postcopy.constants import CLIENT_SIDE_FLAGS
from libvirt_postcopy.features import Path, call_path

__all__ = [
    "against_binding",
    "against_description",
    "age",
    "libraries",
    "parameters",
    "symbols",
    "unknown_functions",
]

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

_REBUILD = f"build libvirt-python against this libvirt: {REBUILD}"
_PACKAGE = "reinstall libvirt's client library (libvirt0, libvirt-libs)"


# Libraries and functions


def libraries(found: Collection[Library]) -> Iterator[Finding]:
    """What is wrong with the libraries themselves."""
    for library in found:
        file = f"{library.files[0]}: " if library.files else ""
        if len(library.files) > 1:
            yield Finding(
                ERROR,
                library.soname,
                f"it is loaded twice: {', '.join(library.files)}",
                "install one libvirt, and libvirt-python built against it",
            )
        elif library.error:
            yield Finding(ERROR, library.soname, f"{file}{library.error}", _PACKAGE)


def symbols(
    found: Mapping[str, Library], binding: Binding, version: int
) -> tuple[list[Row], list[Finding]]:
    """Each function: where it is, and what way a call takes.

    :param version: Of the libraries.
    """
    rows: list[Row] = []
    findings: list[Finding] = []

    def has(name: str) -> bool:
        return found[SYMBOLS[name].library].version(name) is not None

    for symbol in SYMBOLS.values():
        library = found[symbol.library]
        node = library.version(symbol.name)
        is_wrapped = binding.has(symbol)
        path = path_of(symbol.name, binding, has)
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


def unknown_functions(found: Collection[Library], version: int) -> Iterator[Finding]:
    """Functions for post-copy that a library has and this package has not.

    :param version: Of the libraries.
    """
    for library in found:
        defined = library.shared.defined if library.shared is not None else {}
        for name, node in sorted(defined.items()):
            # Private functions, of which libvirt has many for post-copy, are no business of ours.
            if is_about_postcopy(name) and release_of(node) and name not in SYMBOLS:
                yield unknown(name, f"{library.soname} has {name}()", version)


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
        yield Finding(severity, symbol.name, evidence, _REBUILD)
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


def parameters(
    binding: Binding, version: int
) -> tuple[list[ParameterRow], list[Finding]]:
    """Each typed parameter: the type that a dict comes out with, and how our own API passes it.

    :param version: Of the library.
    """
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
        path = call_path(
            in_library=True,
            in_binding=passed == each.type,
            past_binding=can_call("virDomainMigrate3"),
            by_monitor=False,
        )
        rows.append(
            ParameterRow(
                each.key,
                each.since,
                each.type.word,
                None if hint is None else _word(hint),
                _word(passed),
                path,
            )
        )
        if hints is not None:
            findings += _about_type(each, hint, passed, path, version)
    return rows, findings


def _about_type(
    each: Parameter, hint: int | None, passed: int | None, path: Path, version: int
) -> Iterator[Finding]:
    is_due = version >= version_number(each.since)
    if passed != each.type:
        evidence = (
            f"libvirt-python passes it as {_word(passed)}, the daemon wants"
            f" {each.type.word} and refuses it; "
        )
        evidence += (
            "this package passes it right, through cffi"
            if path is Path.CFFI
            else "without cffi this package cannot pass it either (pip install cffi)"
        )
        if is_due:
            yield Finding(ERROR, each.key, evidence, _REBUILD)
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
            yield unknown(name, _for_postcopy("libvirt-python"), binding.libvirt)


def age(binding: Binding, library: Library) -> Iterator[Finding]:
    """Whether the binding was built against an older libvirt than the library's, or a newer one.

    Not every release brings functions, so the newest that the library has is what counts.  A newer one's binding cannot be
    loaded with the library, which is seen where that is a file that is read only.
    """
    if library.error:
        return
    uses, has = binding.newest(library.soname), library.newest()
    what = "libvirt-python"
    if not uses or not has:
        whose = f"{what}'s C module" if not uses else library.soname
        yield Finding(
            NOTE,
            what,
            f"whether it was built against an older {library.soname} is not known: {whose} does not tell",
        )
    elif version_number(uses) < version_number(has):
        yield Finding(
            NOTE,
            what,
            f"it was built against an older {library.soname}: it calls no function newer than {uses},"
            f" the library has some of {has}",
            _REBUILD,
        )
    elif version_number(uses) > version_number(has):
        yield Finding(
            ERROR,
            what,
            f"it cannot be loaded with this {library.soname}: it calls functions of {uses},"
            f" the library has none newer than {has}",
            _REBUILD,
        )


def _for_postcopy(whose: str) -> str:
    return f"{whose} has this name for post-copy"


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
        if found.value not in (None, value):
            yield _different(name, value, found.value, whose)
        yield from _since(name, mine.since.get(name, ""), found.since)
    for symbol in SYMBOLS.values():
        if symbol.library not in described.libraries:
            continue
        if symbol.name in described.functions:
            since = described.functions[symbol.name].since
            yield from _since(symbol.name, symbol.since, since)
        elif version_number(symbol.since) <= version:
            yield _not_there(symbol.name, whose)
    yield from _types(described, version)
    flags = (
        each.value
        for name, each in described.constants.items()
        if each.kind == "virDomainMigrateFlags" and isinstance(each.value, int)
    )
    yield from _client_side(flags, whose)
    yield from _lacking(described, version)


def _not_there(name: str, whose: str) -> Finding:
    return Finding(ERROR, name, f"there is no such name in {whose}")


def _since(name: str, mine: str, theirs: str) -> Iterator[Finding]:
    if mine and theirs and mine != theirs:
        yield Finding(
            WARNING,
            name,
            f"libvirt-api.xml says since {theirs}, this package since {mine}",
        )


def _types(described: Description, version: int) -> Iterator[Finding]:
    """The types of typed parameters, and parameters that we do not know."""
    known = {each.name: each for each in PARAMETERS.values()}
    for name, found in described.macros.items():
        if not name.startswith("VIR_MIGRATE_PARAM_"):
            continue
        if name not in known:
            what = f"libvirt-api.xml has the parameter {found.value}"
            yield unknown(name, what, version)
        elif found.kind and found.kind != known[name].type.word:
            yield _different(name, known[name].type.word, found.kind, "libvirt-api.xml")


def _lacking(described: Description, version: int) -> Iterator[Finding]:
    mine, what = ours(), _for_postcopy("libvirt-api.xml")
    values = {**described.constants, **described.macros}
    for name in sorted(filter(is_about_postcopy, values)):
        # Parameters have been looked at by their types.
        if not mine.has(name) and not name.startswith("VIR_MIGRATE_PARAM_"):
            yield unknown(name, what, version)
    for name in sorted(described.functions.keys() - SYMBOLS.keys()):
        if is_about_postcopy(name):
            yield unknown(name, what, version)
