"""Write completion/ anew from the tables of both programs: for bash, zsh and fish.

``.venv/bin/python tools/completions.py`` writes; a test compares.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from libvirt_postcopy.cli.main import VERBS as CLI_VERBS
from libvirt_postcopy.virsh.grammar import Kind
from libvirt_postcopy.virsh.verbs import VERBS

__all__ = ["files", "main"]

FOLDER = Path(__file__).resolve().parents[1] / "completion"

SHIM, CLI = "virsh-postcopy", "libvirt-postcopy"

VALUES: Mapping[str, str] = {
    "postcopy-check": "off warn strict",
    "postcopy-driver": "auto native qemu",
    "postcopy-policy": "manual never after-precopy after: stalled predict",
    "postcopy-recover": "never",
}
"""What an option of ours takes, where it can be listed."""

Words = Mapping[str, Sequence[tuple[str, str, bool]]]
"""By verb: each option without dashes, its help, and whether it takes a value."""


def shim_words() -> Words:
    """What we add to virsh: our verbs with all of their options, and our options to its verbs."""
    return {
        verb.name: [
            (option.name, option.help, option.kind is not Kind.BOOL)
            for option in verb.options
            if option.is_ours or not verb.is_virshs
        ]
        for verb in VERBS.values()
    }


def cli_words() -> Words:
    """The verbs of the other program, and their options."""
    return {name: list(_arguments(name)) for name in CLI_VERBS}


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


def _summaries(program: str) -> Mapping[str, str]:
    if program == CLI:
        return CLI_VERBS
    return {verb.name: verb.summary for verb in VERBS.values()}


_HEAD = "# Completion of {0} in {1}; written by tools/completions.py.\n"


# bash

_BASH_SHIM = """
_virsh_postcopy()
{
    local cur=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} verb word ours=
    local file=/usr/share/bash-completion/completions/virsh
    # virsh's own, which asks the real virsh
    declare -F _virsh_complete >/dev/null || { [ -r "$file" ] && . "$file"; }
    COMPREPLY=()
    if declare -F _virsh_complete >/dev/null && declare -F _get_comp_words_by_ref >/dev/null; then
        _virsh_complete "$@"
    fi
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in
@verbs@) verb=$word; break ;;
        esac
    done
    case $before in
@values@    esac
    if [ -z "$ours" ]; then
        case $verb in
@options@            '') ours="@all@" ;;
        esac
    fi
    COMPREPLY+=($(compgen -W "$ours" -- "$cur"))
} &&
complete -o default -o filenames -F _virsh_postcopy virsh-postcopy
"""

_BASH_CLI = """
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


def bash(program: str, words: Words) -> str:
    """Write it for bash."""
    text = _BASH_SHIM if program == SHIM else _BASH_CLI
    indent = " " * (12 if program == SHIM else 8)
    options = "".join(
        f"{indent}{verb}) ours=\"{' '.join('--' + name for name, _, _ in given)}\" ;;\n"
        for verb, given in words.items()
    )
    values = "".join(
        f'        --{name}) ours="{given}" ;;\n' for name, given in _values(words)
    )
    for mark, given in (
        ("options", options),
        ("values", values),
        ("verbs", " " * 12 + "|".join(words)),
        ("all", " ".join(words)),
    ):
        text = text.replace(f"@{mark}@", given)
    return _HEAD.format(program, "bash") + text


def _values(words: Words) -> Iterator[tuple[str, str]]:
    known = {name for given in words.values() for name, _, _ in given}
    return (each for each in VALUES.items() if each[0] in known)


# zsh


def zsh(program: str, words: Words) -> str:
    """Write it for zsh."""
    name = program.replace("-", "_")
    lines = [f"#compdef {program}", _HEAD.format(program, "zsh"), f"_{name}() {{"]
    lines.append("    local -a verbs\n    local verb word\n    verbs=(")
    lines += [f"        {_zsh(v, s)}" for v, s in _summaries(program).items()]
    lines += ["    )", "    for word in ${words[2,CURRENT-1]}; do", "        case $word in"]  # fmt: skip
    lines += [f"            {'|'.join(words)}) verb=$word; break ;;"]
    lines += ["        esac", "    done", "    case $verb in"]
    for verb, given in words.items():
        specs = " ".join(_zsh_option(*option) for option in given)
        lines.append(f"        {verb}) _arguments {specs} '*:argument:_files' ;;")
    lines += ["        *) _describe -t commands command verbs"]
    if program == SHIM:
        lines += ["           (( $+functions[_libvirt] )) && _libvirt", "           compadd -- ${(f)\"$(virsh complete -- ${words[2,CURRENT]} 2>/dev/null)\"} ;;"]  # fmt: skip
    else:
        lines[-1] += " ;;"
    lines += ["    esac", "}", f'_{name} "$@"', ""]
    return "\n".join(lines)


def _zsh(name: str, text: str) -> str:
    return _quoted(f"{name}:{text}")


def _zsh_option(name: str, text: str, takes: bool) -> str:
    label = text.replace("[", "(").replace("]", ")").replace(":", ";")
    value = f":value:({VALUES[name]})" if name in VALUES else ":value:_files"
    return _quoted(f"--{name}[{label}]{value if takes else ''}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# fish


def fish(program: str, words: Words) -> str:
    """Write it for fish."""
    lines = [_HEAD.format(program, "fish").rstrip()]
    if program == SHIM:
        lines.append(f"complete -c {program} -w virsh")
    every = " ".join(words)
    for verb, summary in _summaries(program).items():
        lines.append(
            f"complete -c {program} -n 'not __fish_seen_subcommand_from {every}' -a {verb} -d {_fish(summary)}"
        )
    for verb, given in words.items():
        for name, text, takes in given:
            values = f" -a {_fish(VALUES[name])}" if name in VALUES else ""
            more = f" -r{values}" if takes else ""
            lines.append(
                f"complete -c {program} -n '__fish_seen_subcommand_from {verb}' -l {name}{more} -d {_fish(text)}"
            )
    return "\n".join([*lines, ""])


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def files() -> dict[str, str]:
    """All files, by name."""
    made = {}
    for program, words in ((SHIM, shim_words()), (CLI, cli_words())):
        made[f"{program}.bash"] = bash(program, words)
        made[f"_{program}"] = zsh(program, words)
        made[f"{program}.fish"] = fish(program, words)
    return made


def main() -> None:
    """Write them."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
