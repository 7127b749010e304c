"""What a command says of a refusal: first virsh's own lines, word for word, then what we know of it."""

from __future__ import annotations

from collections.abc import Iterator

from libvirt_postcopy.constants import ErrorNumber
from libvirt_postcopy.errors import LibvirtError, PostcopyError
from libvirt_postcopy.features import is_about_certificates

__all__ = ["NotBegunError", "RefusedError", "lines"]


class RefusedError(LibvirtError):
    """virsh has words of its own for this.

    :ivar said: Its lines.
    :ivar more: What they do not tell; may be empty.
    """

    said: tuple[str, ...] = ()
    more = ""

    @classmethod
    def to_connect(cls, error: LibvirtError, *first: str) -> RefusedError:
        """The source's daemon has not let us in.

        :param first: What virsh says before.
        """
        failed = "failed to connect to the hypervisor"
        made = cls(
            f"{failed}: {error.what}",
            side="client" if is_about_certificates(error.what) else "source",
            cure=error.cure,
        )
        made.code, made.domain = error.code, error.domain
        made.said = (*first, failed, _message(error))
        made.more = "" if error.what == made.said[-1] else error.what
        return made

    @classmethod
    def to_find(cls, name: str, error: LibvirtError) -> RefusedError:
        """There is no such domain, or the daemon does not say."""
        failed = f"failed to get domain '{name}'"
        made = cls(f"{failed}: {error.what}", side=error.side, cure=error.cure)
        made.code, made.domain = error.code, error.domain
        made.said = (failed,)
        made.more = "" if error.code == ErrorNumber.VIR_ERR_NO_DOMAIN else error.what
        return made


class NotBegunError(RefusedError):
    """The connection that ``-c`` names cannot be opened, so that virsh would not come to the command."""


def lines(error: PostcopyError, *, is_virshs: bool) -> Iterator[str]:
    """What is to be said, line by line; nothing if virsh has no words for it.

    :param is_virshs: It is about a command that virsh has too.
    """
    said: tuple[str, ...] = ()
    more = ""
    if isinstance(error, RefusedError):
        said, more = error.said, error.more
    elif is_virshs and isinstance(error, LibvirtError):
        said = (_message(error),)
        more = "" if error.what == said[0] else error.what
    if not said:
        return
    yield from (f"error: {line}" for line in said)
    note = LibvirtError(more, side=error.side if more else "", cure=error.cure)
    if more or error.cure:
        yield f"note: {note if more else error.cure}"


def _message(error: LibvirtError) -> str:
    """libvirt's own words."""
    tell = getattr(error, "get_error_message", None)
    return str(tell()) if tell is not None else error.what
