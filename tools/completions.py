"""Write libvirt-postcopy's part of completion/ anew from its commands: for bash, zsh and fish.

``.venv/bin/python tools/completions.py`` writes; a test compares.  virsh-postcopy answers shells by itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from libvirt_postcopy.cli.main import VERBS
from libvirt_postcopy.virsh.complete import VALUES

__all__ = ["files", "main"]

FOLDER = Path(__file__).resolve().parents[1] / "completion"

PROGRAM = "libvirt-postcopy"

Words = Mapping[str, Sequence[tuple[str, str, bool]]]
"""By verb: each option without dashes, its help, and whether it takes a value."""


def words_of_commands() -> Words:
    """The commands, and their options."""
    return {name: list(_arguments(name)) for name in VERBS}


def _arguments(name: str) -> Iterator[tuple[str, str, bool]]:
    parser = argparse.ArgumentParser(prog=name)
    import_module(f"libvirt_postcopy.cli.commands.{name}").options(parser)
    seen = set()
    for action in _actions(parser):
        for option in action.option_strings:
            if option.startswith("--") and option not in seen:
                seen.add(option)
                yield option[2:], _plain(action.help or ""), action.nargs != 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _actions(child)
        else:
            yield action


def _plain(text: str) -> str:
    return " ".join(text.replace("%%", "%").split())


_HEAD = "# Completion of libvirt-postcopy in {}; written by tools/completions.py.\n"


# bash

_BASH = """
_libvirt_postcopy()
{
    local cur=${COMP_WORDS[COMP_CWORD]} ours
    case ${COMP_WORDS[1]} in
@options@        *) ours="@all@ --help --version" ;;
    esac
    [ "$COMP_CWORD" -gt 1 ] || ours="@all@ --help --version"
    COMPREPLY=($(compgen -W "$ours" -- "$cur"))
} &&
complete -o default -F _libvirt_postcopy libvirt-postcopy
"""


def bash(words: Words) -> str:
    """Write it for bash."""
    options = "".join(
        f"        {verb}) ours=\"{' '.join('--' + name for name, _, _ in given)}\" ;;\n"
        for verb, given in words.items()
    )
    text = _BASH.replace("@options@", options).replace("@all@", " ".join(words))
    return _HEAD.format("bash") + text


# zsh


def zsh(words: Words) -> str:
    """Write it for zsh."""
    lines = [f"#compdef {PROGRAM}", _HEAD.format("zsh"), "_libvirt_postcopy() {"]
    lines.append("    local -a verbs\n    local verb word\n    verbs=(")
    lines += [f"        {_zsh(v, s)}" for v, s in VERBS.items()]
    lines += ["    )", "    for word in ${words[2,CURRENT-1]}; do", "        case $word in"]  # fmt: skip
    lines += [f"            {'|'.join(words)}) verb=$word; break ;;"]
    lines += ["        esac", "    done", "    case $verb in"]
    for verb, given in words.items():
        specs = " ".join(_zsh_option(*option) for option in given)
        lines.append(f"        {verb}) _arguments {specs} '*:argument:_files' ;;")
    lines.append("        *) _describe -t commands command verbs ;;")
    lines += ["    esac", "}", '_libvirt_postcopy "$@"', ""]
    return "\n".join(lines)


def _zsh(name: str, text: str) -> str:
    return _quoted(f"{name}:{text}")


def _zsh_option(name: str, text: str, takes: bool) -> str:
    label = text.replace("[", "(").replace("]", ")").replace(":", ";")
    value = f":value:({' '.join(VALUES[name])})" if name in VALUES else ":value:_files"
    return _quoted(f"--{name}[{label}]{value if takes else ''}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# fish


def fish(words: Words) -> str:
    """Write it for fish."""
    lines = [_HEAD.format("fish").rstrip()]
    every = " ".join(words)
    for verb, summary in VERBS.items():
        lines.append(
            f"complete -c {PROGRAM} -n 'not __fish_seen_subcommand_from {every}' -a {verb} -d {_fish(summary)}"
        )
    for verb, given in words.items():
        for name, text, takes in given:
            values = f" -a {_fish(' '.join(VALUES[name]))}" if name in VALUES else ""
            more = f" -r{values}" if takes else ""
            lines.append(
                f"complete -c {PROGRAM} -n '__fish_seen_subcommand_from {verb}' -l {name}{more} -d {_fish(text)}"
            )
    return "\n".join([*lines, ""])


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def files() -> dict[str, str]:
    """All files, by name."""
    words = words_of_commands()
    return {
        f"{PROGRAM}.bash": bash(words),
        f"_{PROGRAM}": zsh(words),
        f"{PROGRAM}.fish": fish(words),
    }


def main() -> None:
    """Write them."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
