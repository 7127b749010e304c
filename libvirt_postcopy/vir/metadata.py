"""A domain's own policy, in the ``<metadata>`` of its XML: it is defined with the guest and migrates with it.

``schemas/postcopy-metadata.rng`` describes the element.
"""

from __future__ import annotations

from typing import Any, cast

from lxml import etree

from libvirt_postcopy.constants import MetadataType, ModificationImpact
from libvirt_postcopy.errors import UsageError
from libvirt_postcopy.policy import Policy, parse
from libvirt_postcopy.vir.calls import refusals
from libvirt_postcopy.vir.probe import xml_of
from libvirt_postcopy.vir.protocols import Domain

__all__ = ["NAMESPACE", "read_policy", "write_policy"]

NAMESPACE = "urn:libvirt-postcopy:metadata:1"
_KEY = "postcopy"  # the prefix that libvirt writes it with
_ELEMENT = int(MetadataType.VIR_DOMAIN_METADATA_ELEMENT)
_LIVE = int(ModificationImpact.VIR_DOMAIN_AFFECT_LIVE)
_CONFIG = int(ModificationImpact.VIR_DOMAIN_AFFECT_CONFIG)
_LONGEST = 1000  # characters of a policy that is read


def read_policy(dom: Domain) -> Policy | None:
    """The domain's own policy, of the running one if it runs; None if it has none.

    libvirt's call for the element alone prints an error on stderr where there is none, which is the usual case.

    :raises UsageError: If what is there is no policy.
    :raises LibvirtError: If the daemon cannot say.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(xml_of(dom).encode(), parser)
        found = root.find(f"metadata/{{{NAMESPACE}}}*")
        return None if found is None else parse(_text_of(found))
    except (etree.XMLSyntaxError, ValueError, UsageError) as error:
        words = error.what if isinstance(error, UsageError) else str(error)
        raise UsageError(
            f"the policy in the domain's metadata cannot be read: {words}",
            side="source",
            cure="set another one: virsh-postcopy postcopy-policy DOMAIN --set SPEC, or --unset",
        ) from error


def _text_of(element: Any) -> str:
    return str(element.text or "").strip()[:_LONGEST]


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
