"""What the C compiler says: the values of all names, each prototype, the layout of structures.

Two modules are made.  In the first the compiler only answers: what is a name's value, has a function exactly this type, how
large is a structure, where is a field and of which type (``__builtin_types_compatible_p`` of gcc and clang: a cast would hide
a wrong one).  A wrong answer is a finding that names what is wrong.  In the second cffi makes calls of the functions, with the
structures left open (``...``): what the compiler refuses there would be refused, or worse, in a call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from libvirt_postcopy.bindings.binding import Binding
from libvirt_postcopy.bindings.functions import HOLD, SYMBOLS
from libvirt_postcopy.bindings.names import is_about_postcopy, ours
from libvirt_postcopy.bindings.report import Finding, Severity, unknown
from libvirt_postcopy.bindings.symbols import TYPES, Symbol, version_number
from libvirt_postcopy.bindings.toolchain import (
    CannotCompile,
    Headers,
    Source,
    WrongSource,
    build,
    make,
    read_headers,
    working_ffi,
)
from libvirt_postcopy.constants import CLIENT_SIDE_FLAGS
from libvirt_postcopy.features import version_text

__all__ = ["calls", "check_compiled", "questions"]

_STRUCTURES = ("virTypedParameter", "virDomainJobInfo")


def check_compiled(binding: Binding) -> tuple[str, list[Finding]]:
    """Ask the compiler, and compare.

    :return: What has become of it, and what was found.
    """
    try:
        headers = read_headers()
        found = list(_compare(headers, binding))
    except CannotCompile as error:
        return f"not asked: {error}", []
    return f"headers of libvirt {version_text(headers.version)}", found


def _compare(headers: Headers, binding: Binding) -> Iterator[Finding]:
    """Compare all there is.

    :raises CannotCompile: If nothing can be compiled here.
    """
    try:
        lib, ffi = _built(questions(headers))
        found = [
            *_values(lib, ffi, binding, headers),
            *_functions_differ(lib, headers),
            *_layout(lib),
        ]
        yield from found
        if not any(each.severity is Severity.ERROR for each in found):
            make(calls(headers))  # what is known to be wrong need not be refused too
    except WrongSource as error:
        yield _error(
            "headers",
            f"the compiler refuses what this package says of libvirt: {error}",
        )
    yield from _unknown(headers)
    if headers.version // 1000 != binding.libvirt // 1000:
        yield Finding(
            Severity.NOTE,
            "headers",
            f"they are of libvirt {version_text(headers.version)}, loaded is {version_text(binding.libvirt)}",
        )


def _built(source: Source) -> tuple[Any, Any]:
    module: Any = build(source)
    return module.lib, module.ffi


# What is asked


def questions(headers: Headers) -> Source:
    """Values, and whether types are the same: constants, all of them, that the compiler computes.

    :raises WrongSource: If our types are none.
    """
    mine, asked = ours(), list(_comparisons(headers))
    texts = sorted(headers.words & mine.strings.keys())
    numbers = sorted(headers.words & (mine.numbers.keys() | _relevant(headers)))
    return Source(
        "_libvirt_postcopy_questions",
        declared="".join(
            (
                *(f"static const int {name};\n" for name in numbers),
                *(f"static char *const {name};\n" for name in texts),
                *(f"static const int {name};\n" for name, _ in asked),
            )
        ),
        # An objection of the compiler's names the question instead of a file.
        text="".join(
            f'#line 1 "{name}"\nenum {{ {name} = {value} }};\n' for name, value in asked
        ),
    )


def _comparisons(headers: Headers) -> Iterator[tuple[str, str]]:
    for each in _functions(headers):
        type = each.prototype.replace(f"{each.name}(", "(", 1)
        yield _same(each.name), _is_same(each.name, type)
    for structure in _STRUCTURES:
        yield f"postcopy_size_{structure}", f"sizeof({structure})"
        for field, _, type in _fields(structure):
            name = _named(structure, field)
            yield f"postcopy_at_{name}", f"__builtin_offsetof({structure}, {field})"
            yield _same(name), _is_same(f"(({structure} *)0)->{field}", type)


def calls(headers: Headers) -> Source:
    """Calls of all functions whose types are declared here, so that cffi can make one."""
    known = {"virDomainPtr", "virConnectPtr", "virTypedParameterPtr"}
    types = re.compile(r"\bvir\w+(?:Ptr|Callback|Func)\b")
    functions = (
        each for each in _functions(headers) if set(types.findall(each.prototype)) <= known
    )  # fmt: skip
    texts = sorted(headers.words & ours().strings.keys())
    numbers = sorted(headers.words & ours().numbers.keys())
    return Source(
        "_libvirt_postcopy_calls",
        "".join(
            (
                *(f"static const int {name};\n" for name in numbers),
                *(f"static char *const {name};\n" for name in texts),
                # Left open, so that the compiler lays each structure out.
                re.sub(r"\n\} (vir\w+);", r"\n    ...;\n} \1;", TYPES),
                *(f"{each.prototype};\n" for each in functions),
            )
        ),
    )


def _functions(headers: Headers) -> list[Symbol]:
    return [each for each in _relied_on() if each.name in headers.words]


def _relied_on() -> list[Symbol]:
    return [*SYMBOLS.values(), HOLD]


def _relevant(headers: Headers) -> frozenset[str]:
    """Numbers that we do not have, and that are to be looked at for that reason."""
    return frozenset(
        name
        for name in headers.words - headers.strings.keys()
        if name.startswith("VIR_MIGRATE_") or _is_constant_for_postcopy(name)
    )


def _is_constant_for_postcopy(name: str) -> bool:
    return name.startswith("VIR_") and is_about_postcopy(name)


def _is_same(what: str, type: str) -> str:
    return f"__builtin_types_compatible_p(__typeof__({what}), {type})"


def _same(name: str) -> str:
    return f"postcopy_same_{name}"


def _named(structure: str, field: str) -> str:
    return f"{structure}__{field.replace('.', '__')}"


def _declared() -> Any:
    declared = working_ffi()
    try:
        declared.cdef(TYPES)
    except Exception as error:  # whatever cffi dislikes in it
        raise WrongSource(f"cffi: {error}") from error
    return declared


def _fields(structure: str) -> Iterator[tuple[str, int, str]]:
    """Fields as they are declared for calls without a compiler: name, place and type; those of a union one by one."""
    ffi = _declared()

    def fields_of(type: Any, before: str, at: int) -> Iterator[tuple[str, int, str]]:
        for name, field in type.fields:
            place = at + field.offset
            if field.type.kind in ("union", "struct"):
                yield from fields_of(field.type, f"{before}{name}.", place)
            else:
                yield f"{before}{name}", place, ffi.getctype(field.type)

    return fields_of(ffi.typeof(structure), "", 0)


# Comparing


def _values(
    lib: Any, ffi: Any, binding: Binding, headers: Headers
) -> Iterator[Finding]:
    mine = ours()
    theirs: dict[str, object] = {**binding.numbers(), **binding.strings()}
    for name, value in {**mine.numbers, **mine.strings}.items():
        if not hasattr(lib, name):
            since = mine.since.get(name)
            if since is None or version_number(since) <= headers.version:
                yield _error(name, "there is no such name in the headers")
            continue
        compiled = _value(lib, ffi, name)
        if compiled != value:
            yield _error(
                name, f"the compiler says {compiled!r}, this package {value!r}"
            )
        if name in theirs and theirs[name] != compiled:
            yield _error(
                name, f"the compiler says {compiled!r}, libvirt-python {theirs[name]!r}"
            )
    for name in dir(lib):
        if _is_constant_for_postcopy(name) and not mine.has(name):
            what = f"the headers have {name} ({_value(lib, ffi, name)})"
            yield unknown(name, what, headers.version)
    yield from _taken(lib, headers)


def _taken(lib: Any, headers: Headers) -> Iterator[Finding]:
    for name in dir(lib):
        is_flag = name.startswith("VIR_MIGRATE_") and name not in headers.strings
        if is_flag and getattr(lib, name) & int(CLIENT_SIDE_FLAGS):
            yield _error(
                "VIR_MIGRATE_POSTCOPY_AFTER_PRECOPY", f"its bit is {name}'s in the headers"
            )  # fmt: skip


def _value(lib: Any, ffi: Any, name: str) -> int | str:
    value = getattr(lib, name)
    return value if isinstance(value, int) else ffi.string(value).decode()


def _functions_differ(lib: Any, headers: Headers) -> Iterator[Finding]:
    for symbol in _relied_on():
        same = getattr(lib, _same(symbol.name), None)
        if same is None:
            if version_number(symbol.since) <= headers.version:
                yield _error(symbol.name, "the headers declare no such function")
        elif not same:
            yield _error(
                symbol.name,
                f"the headers declare it otherwise than: {symbol.prototype}",
            )


def _layout(lib: Any) -> Iterator[Finding]:
    """Structures as they are declared for calls without a compiler, against the compiler's own layout."""
    declared = _declared()
    for structure in _STRUCTURES:
        mine = declared.sizeof(structure)
        theirs = getattr(lib, f"postcopy_size_{structure}")
        if mine != theirs:
            yield _error(
                structure, f"the compiler says {theirs} bytes, this package {mine}"
            )
        for field, place, type in _fields(structure):
            name, what = _named(structure, field), f"{structure}.{field}"
            at = getattr(lib, f"postcopy_at_{name}")
            if at != place:
                yield _error(
                    what, f"the compiler says byte {at}, this package {place}"
                )  # fmt: skip
            if not getattr(lib, _same(name)):
                yield _error(what, f"the headers declare it otherwise than: {type}")


def _unknown(headers: Headers) -> Iterator[Finding]:
    """Parameters, job fields and functions that we do not have."""
    for name, text in headers.strings.items():
        is_relevant = name.startswith("VIR_MIGRATE_PARAM_") or is_about_postcopy(name)
        if is_relevant and not ours().has(name):
            what = f'the headers have {name} ("{text}")'
            yield unknown(name, what, headers.version)
    for name in sorted(filter(is_about_postcopy, headers.functions - SYMBOLS.keys())):
        yield unknown(name, f"the headers have {name}()", headers.version)


def _error(name: str, evidence: str) -> Finding:
    return Finding(
        Severity.ERROR, name, evidence, "report it, with the versions shown above"
    )
