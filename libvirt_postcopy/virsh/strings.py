"""virsh's command strings: ``;`` and newline between commands, quotes, backslashes, comments.

Text that was not UTF-8 comes with surrogates, as everywhere in Python, and is handed on as it came.

Source: libvirt ``tools/vsh.c`` ``vshCommandStringGetArg``, ``vshCommandParse`` (9.0.0).
"""

from __future__ import annotations

from dataclasses import dataclass

from libvirt_postcopy.errors import UsageError

__all__ = ["Command", "split"]


@dataclass(frozen=True)
class Command:
    """One command of a string.

    :ivar text: Its part of the string, with the separator behind it: all of them together are the string.
    :ivar words: Empty where there is only a comment, or nothing.
    :ivar error: Why the string cannot be read further than these words.
    :ivar is_open: Ends inside an apostrophe that is not closed: whatever is added would be a part of its last word.
    """

    text: str
    words: tuple[str, ...]
    error: UsageError | None = None
    is_open: bool = False

    @property
    def closed(self) -> str:
        """Its text, as it can stand before more."""
        return self.text + "'" if self.is_open else self.text


def split(string: str) -> list[Command]:
    """Take a command string apart; the last command says if it cannot be read to its end."""
    commands: list[Command] = []
    begin = at = 0
    words: list[str] = []
    is_open = False
    while True:
        try:
            word, at, quote = _next(string, at)
        except UsageError as error:
            commands.append(Command(string[begin:], tuple(words), error))
            return commands
        if word is not None:
            words.append(word)
            is_open = bool(quote)
            continue
        # A quoted "#" is a comment too, up to the end of its command.
        given = () if words and words[0].startswith("#") else tuple(words)
        commands.append(Command(string[begin:at], given, is_open=is_open))
        if at >= len(string):
            return commands
        begin, words, is_open = at, [], False


def _next(string: str, at: int) -> tuple[str | None, int, str]:
    """Read a word.

    :return: It, where it ends and the quote that is open there; None, and where the next command begins.
    :raises UsageError: In virsh's words.
    """
    at = _skip_blanks(string, at)
    if at >= len(string):
        return None, len(string), ""
    if string[at] in ";\n":
        return None, at + 1, ""
    if string[at] == "#":
        end = string.find("\n", at)
        return None, len(string) if end < 0 else end + 1, ""
    return _word(string, at)


def _skip_blanks(string: str, at: int) -> int:
    while at < len(string):
        if string[at] in " \t":
            at += 1
        elif string.startswith("\\\n", at):
            at += 2
        else:
            break
    return at


def _word(string: str, at: int) -> tuple[str, int, str]:
    """An apostrophe that is not closed is no mistake to virsh: its word goes on to the end of the string."""
    word: list[str] = []
    quote = ""
    while at < len(string) and (quote or string[at] not in " \t;\n"):
        char = string[at]
        at += 1
        if char == quote or (char in "'\"" and not quote):
            quote = "" if quote else char
        elif char == "\\" and quote != "'":
            if at >= len(string):
                raise UsageError("dangling \\")
            if string[at] != "\n":
                word.append(string[at])
            at += 1
        else:
            word.append(char)
    if quote == '"':
        raise UsageError('missing "')
    return "".join(word), at, quote
