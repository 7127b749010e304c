"""A domain that turns out to be one half of a split guest, when it is asked for something else."""

from __future__ import annotations

import shlex

from libvirt_postcopy.constants import DomainState
from libvirt_postcopy.errors import LibvirtError, PostcopyBroken
from libvirt_postcopy.events import Half
from libvirt_postcopy.vir import calls
from libvirt_postcopy.vir.protocols import Domain

__all__ = ["SplitDomain", "attach_command", "look_command", "recover_command"]


def recover_command(uri: str | None, domain: str, *destination: str) -> str:
    """The command that brings a broken one back, or says why that must not be tried.

    :param uri: Of the source; None where it is the default.
    """
    connect = () if uri is None else ("-c", uri)
    words = ["virsh-postcopy", *connect, "postcopy-recover", domain]
    return shlex.join([*words, *destination])


def attach_command(uri: str, domain: str) -> str:
    """The command that goes on with it from here, and resumes it if it breaks; our journal knows the rest.

    :param uri: Of the source.
    """
    return shlex.join(["virsh-postcopy", "-c", uri, "postcopy-attach", domain])


def look_command(uri: str, domain: str) -> str:
    """The command that says in which state a domain is, and why."""
    return shlex.join(["virsh", "-c", uri, "domstate", "--reason", domain])


class SplitDomain:
    """What can be said of a half by its own host alone.

    :param name: The domain, as the user calls it.
    :param uri: Of the host.
    """

    def __init__(self, dom: Domain, name: str, uri: str) -> None:
        self._dom = dom
        self._name = name
        self._uri = uri

    def half(self) -> Half:
        """What its daemon says of it."""
        return calls.half(self._dom)

    def flowing(self) -> str:
        """Say that nothing has failed."""
        return (
            f"the guest '{self._name}' is in post-copy already: it runs on the destination, and the rest of its"
            " memory follows from the source"
        )

    def busy(self) -> PostcopyBroken:
        """Refuse what cannot be done while nothing has failed."""
        return PostcopyBroken(
            f"{self.flowing()}; destroy, resume and reset neither half",
            cure=f"wait for the end; look: {look_command(self._uri, self._name)}",
        )

    def broken(self) -> PostcopyBroken:
        """Say that libvirt calls post-copy failed, which may only mean that a daemon or client has gone away."""
        return PostcopyBroken(
            f"libvirt calls the post-copy of the guest '{self._name}' failed: it is split, its newest memory on the"
            " destination, the rest on the source: destroy, resume and reset neither half",
            cure=f"{self._watch()}; if not: {self._recover()}",
        )

    def _watch(self) -> str:
        """The job's figures are on the source only, where the guest does not run."""
        if self._is_running():
            return "look at its domjobinfo on the source: where the remaining memory shrinks, it ends by itself"
        job_info = shlex.join(["virsh", "-c", self._uri, "domjobinfo", self._name])
        return (
            f"look: {job_info}: where the remaining memory shrinks, it ends by itself"
        )

    def _recover(self) -> str:
        if self._is_running():
            return "run virsh-postcopy postcopy-recover on its source"
        return recover_command(self._uri, self._name)

    def _is_running(self) -> bool:
        try:
            with calls.refusals():
                return self._dom.state()[0] == DomainState.VIR_DOMAIN_RUNNING
        except LibvirtError:
            return False
