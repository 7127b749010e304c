"""TLS for a migration whose QEMUs are set up by us: certificates, and the parameters that name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from libvirt_postcopy.drivers.ends import End
from libvirt_postcopy.errors import NotSupportedError, UsageError
from libvirt_postcopy.events import Side
from libvirt_postcopy.qmp.commands import CommandError

__all__ = ["Tls"]

_CREDENTIALS = "libvirt-postcopy-tls"
_PKI = ("/etc/pki/libvirt-migrate", "/etc/pki/qemu")
"""libvirt's defaults (qemu.conf: migrate_tls_x509_cert_dir, default_tls_x509_cert_dir), in its order."""


class Tls:
    """What is encrypted.

    :param is_wanted: All that is sent; nothing is sent otherwise.
    :param name: The destination's, as its certificate has it.
    :raises UsageError: If it is wanted, and the certificate could not be checked.
    """

    def __init__(self, is_wanted: bool, name: str) -> None:
        if is_wanted and not name:
            raise UsageError(
                "a unix socket does not tell whose certificate the destination must show",
                side="destination",
                cure="name it: --tls-destination NAME (the parameter tls.destination)",
            )
        self._is_wanted = is_wanted
        self._name = name

    def set_up(self, end: End, before: Mapping[str, Any]) -> dict[str, Any]:
        """Load the certificates, and give the parameters to be set.

        :param before: The parameters as they are: an earlier migration may have left some.
        :raises NotSupportedError: If there are none: nothing is sent in the clear that was to be encrypted.
        """
        if not self._is_wanted:
            return {"tls-creds": ""} if before.get("tls-creds") else {}
        self._load(end)
        if end.side is Side.DESTINATION:
            return {"tls-creds": _CREDENTIALS}
        return {"tls-creds": _CREDENTIALS, "tls-hostname": self._name}

    def _load(self, end: End) -> None:
        is_server = end.side is Side.DESTINATION
        refusals = []
        for folder in _PKI:
            try:
                end.control.add_tls_credentials(
                    _CREDENTIALS, folder, is_server=is_server
                )
            except CommandError as error:
                refusals.append(error.desc)
                continue
            end.settings.credentials.append(_CREDENTIALS)
            return
        name = "server" if is_server else "client"
        raise NotSupportedError(
            f"no TLS certificates for migration: {refusals[-1]}",
            side=end.side.value,
            cure=f"put ca-cert.pem, {name}-cert.pem and {name}-key.pem into {_PKI[-1]}, readable for QEMU,"
            " or leave out --tls",
        )
