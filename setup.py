"""What a package is installed with besides its code; all else is in setup.cfg."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup

COMPLETION = {
    "bash-completion/completions": "*.bash",
    "zsh/site-functions": "_*",
    "fish/vendor_completions.d": "*.fish",
}
"""Where each shell looks for its files."""


def completions() -> list[tuple[str, list[str]]]:
    """Completion for the shells."""
    return [
        (f"share/{folder}", sorted(map(str, Path("completion").glob(pattern))))
        for folder, pattern in COMPLETION.items()
    ]


def man_pages() -> list[str]:
    """Build the manual; nothing where docutils is not there, as without a build environment of pip's."""
    try:
        from docutils.core import publish_file
    except ImportError:
        return []
    folder = Path("build/man")
    folder.mkdir(parents=True, exist_ok=True)
    built = []
    for source in sorted(Path("man").glob("*.rst")):
        page = str(folder / source.stem)
        publish_file(
            source_path=str(source), destination_path=page, writer_name="manpage"
        )
        built.append(page)
    return built


setup(data_files=[*completions(), ("share/man/man1", man_pages())])
