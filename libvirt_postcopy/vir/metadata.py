"""A domain's own policy, in the ``<metadata>`` of its XML: it is defined with the guest and migrates with it.

``schemas/postcopy-metadata.rng`` describes the element.
"""

from __future__ import annotations

from typing import Any, cast

import libvirt
from lxml import etree

from libvirt_postcopy.constants import ErrorNumber, MetadataType, ModificationImpact
from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.policy import Policy, parse
from libvirt_postcopy.vir.calls import refusals, translate
from libvirt_postcopy.vir.protocols import Domain

__all__ = ["NAMESPACE", "read_policy", "write_policy"]

NAMESPACE = "urn:libvirt-postcopy:metadata:1"
_KEY = "postcopy"  # the prefix that libvirt writes it with
_ELEMENT = int(MetadataType.VIR_DOMAIN_METADATA_ELEMENT)
_LIVE = int(ModificationImpact.VIR_DOMAIN_AFFECT_LIVE)
_CONFIG = int(ModificationImpact.VIR_DOMAIN_AFFECT_CONFIG)
_LONGEST = 1000  # characters of a policy that is read


def read_policy(dom: Domain) -> Policy | None:
    """The domain's own policy; None if it has none.

    :raises UsageError: If what is there is no policy.
    :raises LibvirtError: If the daemon cannot say.
    """
    read = getattr(dom, "metadata", None)
    if read is None:  # libvirt-python < 0.9.10
        return None
    try:
        text = read(_ELEMENT, NAMESPACE, 0)
    except libvirt.libvirtError as error:
        if error.get_error_code() == ErrorNumber.VIR_ERR_NO_DOMAIN_METADATA:
            return None
        raise translate(error, "source") from error
    return _policy_of(text)


def _policy_of(text: str) -> Policy:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        spec = str(etree.fromstring(text.encode(), parser).text or "").strip()
        return parse(spec[:_LONGEST])
    except (etree.XMLSyntaxError, ValueError, UsageError) as error:
        words = error.what if isinstance(error, UsageError) else str(error)
        raise UsageError(
            f"the policy in the domain's metadata cannot be read: {words}",
            side="source",
            cure="set another one: virsh-postcopy postcopy-policy DOMAIN --set SPEC, or --unset",
        ) from error


def write_policy(dom: Domain, policy: Policy | None) -> None:
    """Give the domain a policy of its own, running and defined; None takes it away.

    :raises LibvirtError: If libvirt refuses.
    """
    element = None
    if policy is not None:
        made = etree.Element("policy")
        made.text = str(policy)
        element = etree.tostring(made, encoding="unicode")
    domain = cast(Any, dom)
    with refusals("source"):
        flags = _LIVE if domain.isActive() else 0
        flags |= _CONFIG if domain.isPersistent() else 0
        domain.setMetadata(_ELEMENT, element, _KEY, NAMESPACE, flags)
