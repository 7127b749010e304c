"""How virsh reads its arguments: ``getopt_long`` before the command, a grammar of its own after it.

Command strings are taken apart in :mod:`libvirt_postcopy.virsh.strings`.

Source: libvirt ``tools/virsh.c`` ``virshParseArgv``, ``tools/vsh.c`` ``vshCommandParse`` (9.0.0, 11.3.0).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Union

from libvirt_postcopy.constants import MigrateFlags
from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.units import DURATIONS, parse_duration

__all__ = [
    "LEAST_DEBUG",
    "CommandLine",
    "Globals",
    "HelpWanted",
    "Kind",
    "MissingError",
    "Option",
    "Value",
    "convert",
    "mentions",
    "parse_command",
    "parse_globals",
    "read_command",
]

# Before the command


LEAST_DEBUG = 4
"""What virsh says only of errors."""


@dataclass(frozen=True)
class Globals:
    """virsh's options before the command, as far as a command can tell the difference.

    ``-e`` is read and checked, and means nothing to our verbs.

    :ivar debug: How much of what is done is told, from 0, all of it, to 4.
    :ivar log: The file that errors are written to as well; empty for none.
    :ivar has_agent: Not ``--no-pkttyagent``.
    :ivar complaints: What virsh says of them before anything else.
    """

    connect: str | None = None
    is_quiet: bool = False
    is_timed: bool = False
    is_readonly: bool = False
    keepalive_interval: int | None = None
    keepalive_count: int | None = None
    has_agent: bool = True
    debug: int = LEAST_DEBUG
    log: str = ""
    complaints: tuple[str, ...] = ()

    @property
    def connection(self) -> tuple[str, ...]:
        """Those that say which connection, as the real virsh can be given them."""
        named = () if self.connect is None else (f"--connect={self.connect}",)
        return (*named, "--readonly") if self.is_readonly else named


@dataclass(frozen=True)
class CommandLine:
    """A command line of virsh, split before the command.

    :ivar given: The options again, as the real virsh can be given them.
    :ivar asks_for_usage: ``-h`` or ``--help`` came before any command.
    """

    options: Globals
    words: tuple[str, ...]
    given: tuple[str, ...] = ()
    asks_for_usage: bool = False


_WITH_VALUE = {
    "c": "connect",
    "d": "debug",
    "e": "escape",
    "k": "keepalive-interval",
    "K": "keepalive-count",
    "l": "log",
}
_WITHOUT_VALUE = {"h": "help", "q": "quiet", "r": "readonly", "t": "timing"}
_SHORT = {**_WITH_VALUE, **_WITHOUT_VALUE}
_LONG = frozenset((*_SHORT.values(), "version", "no-pkttyagent"))
_TAKES_VALUE = frozenset(_WITH_VALUE.values())


class _LeftToVirsh(Exception):
    """Asks for virsh's version, or is something that virsh will refuse by itself."""


class _UsageWanted(Exception):  # noqa: N818 - not an error
    """``-h`` or ``--help``: virsh reads no further."""


def parse_globals(argv: Sequence[str]) -> CommandLine | None:
    """Read the options before the command.

    :param argv: Without the program's name.
    :return: None for what only the real virsh can answer: its version, and its complaints.
    """
    options = Globals()
    words = list(argv)
    given: list[str] = []
    try:
        while words and words[0].startswith("-") and words[0] != "-":
            word = words.pop(0)
            if word == "--":
                break
            read = _long(word, words) if word.startswith("--") else _short(word, words)
            for name, value in read:
                options = _with(options, name, value)
                given.append(
                    f"--{name}={value}" if name in _TAKES_VALUE else f"--{name}"
                )
    except _UsageWanted:
        return CommandLine(options, (), asks_for_usage=True)
    except _LeftToVirsh:
        return None
    return CommandLine(options, tuple(words), tuple(given))


def _long(word: str, rest: list[str]) -> Iterator[tuple[str, str]]:
    typed, equals, value = word[2:].partition("=")
    name = _resolve(typed)
    if name not in _TAKES_VALUE:
        if equals:
            raise _LeftToVirsh
        yield name, ""
    elif equals:
        yield name, value
    else:
        yield name, _next(rest)


def _resolve(typed: str) -> str:
    """Complete an unambiguous prefix."""
    if typed in _LONG:
        return typed
    matching = [name for name in _LONG if name.startswith(typed)]
    if len(matching) != 1:
        raise _LeftToVirsh
    return matching[0]


def _short(word: str, rest: list[str]) -> Iterator[tuple[str, str]]:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter in _WITH_VALUE:
            yield _WITH_VALUE[letter], letters or _next(rest)
            return
        if letter not in _WITHOUT_VALUE:
            raise _LeftToVirsh
        yield _WITHOUT_VALUE[letter], ""


def _next(rest: list[str]) -> str:
    if not rest:
        raise _LeftToVirsh
    return rest.pop(0)


def _with(options: Globals, name: str, value: str) -> Globals:
    if name == "help":
        raise _UsageWanted
    if name == "version":
        raise _LeftToVirsh
    if name == "connect":
        return replace(options, connect=value)
    if name == "quiet":
        return replace(options, is_quiet=True)
    if name == "timing":
        return replace(options, is_timed=True)
    if name == "readonly":
        return replace(options, is_readonly=True)
    if name == "no-pkttyagent":
        return replace(options, has_agent=False)
    if name == "log":
        return replace(options, log=value)
    if name == "debug":
        return _with_debug(options, _integer(value))
    if name == "escape" and not (value.isascii() and _ESCAPE.fullmatch(value)):
        raise _LeftToVirsh
    if name == "keepalive-interval":
        return replace(options, keepalive_interval=_number(_any_base(value)))
    if name == "keepalive-count":
        return replace(options, keepalive_count=_number(_any_base(value)))
    return options


def _number(number: int | None) -> int:
    if number is None or not 0 <= number < 1 << 31:
        raise _LeftToVirsh
    return number


def _with_debug(options: Globals, level: int | None) -> Globals:
    """A debug level that is out of range is ignored by virsh, not without a word."""
    if level is None or not -(1 << 31) <= level < 1 << 31:
        raise _LeftToVirsh
    if 0 <= level <= LEAST_DEBUG:
        return replace(options, debug=level)
    complaint = f"ignoring debug level {level} out of range [0-4]"
    return replace(options, complaints=(*options.complaints, complaint))


_ESCAPE = re.compile(r"\^[a-z@A-Z\[\\\]^_]|[^^]", re.ASCII)

# However many zeros a number begins with, it has few other digits, or is out of every range.
_DECIMAL = re.compile(r"\s*([+-]?)0*([0-9]{1,20})", re.ASCII)
_OCTAL = re.compile(r"\s*([+-]?)0+([0-7]{0,22})", re.ASCII)
_HEXADECIMAL = re.compile(r"\s*([+-]?)0[xX]0*([0-9a-fA-F]{1,16})", re.ASCII)


def _integer(text: str) -> int | None:
    """Read a decimal as ``strtol`` does, white space before it and a sign allowed."""
    return _read(_DECIMAL, 10, text)


def _any_base(text: str) -> int | None:
    """Read a number as ``strtol`` does when it is not told the base."""
    if text.lstrip(" \t\n\v\f\r+-").startswith("0"):
        number = _read(_HEXADECIMAL, 16, text)
        return _read(_OCTAL, 8, text) if number is None else number
    return _integer(text)


def _read(pattern: re.Pattern[str], base: int, text: str) -> int | None:
    found = pattern.fullmatch(text)
    return None if found is None else int(f"{found[1]}{found[2] or 0}", base)


# The command's own options


class Kind(Enum):
    """What an option takes."""

    BOOL = "bool"
    STRING = "string"
    LIST = "comma separated list"
    FILE = "file name"
    SECONDS = "number of seconds"
    DELAY = "duration, 0 too"
    INT = "number"
    BIG = "number up to 64 bits"

    @property
    def value_word(self) -> str:
        """What its value is called in virsh's help and complaints."""
        if self is Kind.DELAY:
            return "duration"
        return "number" if self in _RANGES else "string"


_LONGEST_S = ((1 << 31) - 1) // 1000  # the series counts milliseconds in a C int

_RANGES: Mapping[Kind, tuple[int, int]] = {
    Kind.SECONDS: (0, (1 << 32) - 1),
    Kind.INT: (-(1 << 31), (1 << 31) - 1),
    Kind.BIG: (0, (1 << 64) - 1),
}


@dataclass(frozen=True)
class Option:
    """One option of a command.

    :ivar flag: The migrate flag that it sets.
    :ivar param: The typed parameter of ``virDomainMigrate3`` that it gives.
    :ivar is_positional: Its value may be given without its name, in the order of the table.
    :ivar is_ours: virsh does not have it.
    """

    name: str
    kind: Kind
    help: str
    flag: MigrateFlags | None = None
    param: str | None = None
    is_positional: bool = False
    is_required: bool = False
    is_ours: bool = False
    alias: str = ""


Value = Union[bool, int, float, str]
"""True for a flag that is given; text; a number; or a duration in seconds."""


class HelpWanted(Exception):  # noqa: N818 - not an error
    """``--help`` was given."""


class MissingError(UsageError):
    """Required options are missing; virsh complains of each on a line of its own.

    :ivar complaints: All of them.
    """

    def __init__(self, complaints: Sequence[str]) -> None:
        super().__init__(complaints[0])
        self.complaints = tuple(complaints)


def parse_command(
    name: str, options: Sequence[Option], words: Sequence[str]
) -> dict[str, Value]:
    """Read what follows a command's name, and the values too.

    :return: The options that were given, by name.
    :raises UsageError: In virsh's words.
    :raises HelpWanted: If ``--help`` was among them, before anything wrong.
    """
    return convert(options, read_command(name, options, words))


def convert(options: Sequence[Option], found: Mapping[str, str]) -> dict[str, Value]:
    """Read the values, which virsh does when it runs the command.

    :raises UsageError: In virsh's words.
    """
    by_name = {option.name: option for option in options}
    return {name: _convert(by_name[name], text) for name, text in found.items()}


def read_command(
    name: str,
    options: Sequence[Option],
    words: Sequence[str],
    *,
    fills_all: Callable[[], bool] = lambda: False,
    found: dict[str, str] | None = None,
) -> dict[str, str]:
    """Read what follows a command's name, as far as virsh does before it runs anything.

    :param fills_all: Says whether data goes to any option that takes some, as in virsh 9.0, not only to those
        that are marked, as in 11.3; asked only if it matters.
    :param found: Gets what is returned, and that much also if the rest cannot be read.
    :return: The options that were given, by name; the text of a flag is empty.
    :raises UsageError: In virsh's words.
    :raises HelpWanted: If ``--help`` was among them, before anything wrong.
    """
    found = {} if found is None else found
    rest = list(reversed(words))
    only_data = wants_help = False
    while rest:
        word = rest.pop()
        if only_data or not _is_option(word):
            if word == "--" and not only_data:
                only_data = True
                continue
            option, value = _positional(options, found, word, fills_all), word
        elif word == "--help":
            wants_help = True
            continue
        else:
            option, value = _named(name, options, found, word, rest)
        found[option.name] = value
    if wants_help:
        raise HelpWanted
    missing = [
        f"command '{name}' requires <{option.name}> option"
        for option in options
        if option.is_required and option.name not in found
    ]
    if missing:
        raise MissingError(missing)
    return found


def mentions(names: frozenset[str], words: Sequence[str]) -> bool:
    """Whether one of these options is named somewhere, in a line that may not be valid."""
    return any(word.partition("=")[0] in names for word in words)


def _is_option(word: str) -> bool:
    return word.startswith("--") and word[2:3].isascii() and word[2:3].isalnum()


def _positional(
    options: Sequence[Option],
    found: Mapping[str, str],
    word: str,
    fills_all: Callable[[], bool],
) -> Option:
    left = [
        option
        for option in options
        if option.kind is not Kind.BOOL and option.name not in found
    ]
    for option in left:
        if option.is_positional:
            return option
    if left and not left[0].is_ours and fills_all():
        return left[0]
    raise UsageError(f"unexpected data '{word}'")


def _named(
    command: str,
    options: Sequence[Option],
    found: Mapping[str, str],
    word: str,
    rest: list[str],
) -> tuple[Option, str]:
    name, equals, value = word[2:].partition("=")
    if name == "help":
        raise UsageError("invalid '=' after option --help")
    option = next((each for each in options if name in (each.name, each.alias)), None)
    if option is None or not name:
        raise UsageError(f"command '{command}' doesn't support option --{name}")
    if option.name in found:
        raise UsageError(f"option --{option.name} already seen")
    if option.kind is Kind.BOOL:
        if equals:
            raise UsageError(f"invalid '=' after option --{name}")
        return option, ""
    if equals:
        return option, value
    if not rest:
        raise UsageError(f"expected syntax: --{name} <{option.kind.value_word}>")
    return option, rest.pop()


def _convert(option: Option, text: str) -> Value:
    if option.kind is Kind.BOOL:
        return True
    if not text:
        raise UsageError(
            f"Failed to get option '{option.name}': Option argument is empty"
        )
    if option.kind is Kind.DELAY:
        return _delay(option.name, text)
    if option.kind not in _RANGES:
        return _checked(option, text)
    number = _integer(text)
    least, most = _RANGES[option.kind]
    is_signed = least < 0 or "-" not in text  # virsh refuses "-0" too
    if number is None or not is_signed or not least <= number <= most:
        raise UsageError(
            f"Numeric value '{text}' for <{option.name}> option is malformed or out of range"
        )
    return number


def _delay(name: str, text: str) -> float:
    """Read a bare number as seconds; complain in the words of the series that brought ``--postcopy-after``."""
    number: float | None = _integer(text)
    if number is None:
        with suppress(UsageError):
            number = parse_duration(text)
    if number is None or number < 0:
        raise UsageError(f"invalid {name} parameter", cure=f"write {DURATIONS}")
    if number > _LONGEST_S:
        raise UsageError(
            "post-copy after parameter is too large",
            cure=f"at most {_LONGEST_S} seconds; write {DURATIONS}",
        )
    return number


def _checked(option: Option, text: str) -> str:
    """libvirt-python passes text as UTF-8; only a file's name may be anything."""
    try:
        text.encode()
    except UnicodeEncodeError:
        if option.kind is not Kind.FILE:
            raise UsageError(f"the value of --{option.name} is not UTF-8") from None
    return text
