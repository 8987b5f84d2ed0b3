# SPDX-License-Identifier: GPL-2.0-or-later
"""Connections to libvirt, and its errors as ours."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from sysqcache.base.errors import LibvirtError, SetupError

if TYPE_CHECKING:
    import libvirt

DEFAULT_URI: Final = ""
"""What libvirt itself takes: $LIBVIRT_DEFAULT_URI, else what fits the user."""


def module() -> Any:
    """The module ``libvirt``, silent: its errors reach the user as ours.

    Raises :class:`SetupError` when it is not installed.
    """
    try:
        import libvirt
    except ImportError:
        raise SetupError(
            "the Python package libvirt-python is not installed",
            hint="apt-get install libvirt-dev, then pip install 'sysqcache[libvirt]'",
        ) from None
    libvirt.registerErrorHandler(_silent, None)
    return libvirt


def _silent(_context: object, _error: object) -> None:
    """libvirt would print each error to stderr."""


@contextlib.contextmanager
def explained(what: str, hint: str = "") -> Iterator[None]:
    """Turn libvirt's errors into :class:`LibvirtError`: ``what`` failed, and why."""
    libvirt = module()
    try:
        yield
    except libvirt.libvirtError as error:
        code = error.get_error_code()
        if code in (libvirt.VIR_ERR_OPERATION_DENIED, libvirt.VIR_ERR_ACCESS_DENIED):
            hint = "this connection may only read: use a user or a URI that may change domains"
        elif code in (libvirt.VIR_ERR_AUTH_UNAVAILABLE, libvirt.VIR_ERR_AUTH_FAILED):
            hint = "run it as root, or as a member of the group libvirt"
        raise LibvirtError(f"{what}: {error.get_error_message()}", hint=hint) from None


def connect(uri: str = DEFAULT_URI, *, read_only: bool = False) -> libvirt.virConnect:
    """A connection to the libvirt of this host. Raises :class:`LibvirtError`, SetupError."""
    libvirt = module()
    named = uri or "libvirt"
    with explained(f"can't connect to {named}", "is libvirtd running? see --connect"):
        return libvirt.openReadOnly(uri) if read_only else libvirt.open(uri)


def require_local(connection: libvirt.virConnect) -> None:
    """Packs and journals are files: the domain's host must be this one."""
    with explained("libvirt does not say which host it runs"):
        host = connection.getHostname()
    if host.partition(".")[0] != socket.gethostname().partition(".")[0]:
        raise LibvirtError(
            f"this libvirt manages the machines of {host}, not of this host",
            hint=f"run sysqcache on {host}",
        )


def lookup(connection: libvirt.virConnect, name: str) -> libvirt.virDomain:
    """A domain by name or UUID. Raises :class:`LibvirtError`."""
    libvirt = module()
    for find in (connection.lookupByName, connection.lookupByUUIDString):
        with contextlib.suppress(libvirt.libvirtError):
            return find(name)
    with explained(f"libvirt can't list the domains of {connection.getURI()}"):
        known = sorted(domain.name() for domain in connection.listAllDomains())
    listed = ", ".join(known) or "none"
    raise LibvirtError(
        f"there is no domain {name!r} on {connection.getURI()}", hint=f"domains there: {listed}"
    )


def inactive_xml(domain: libvirt.virDomain) -> str:
    """The XML of a domain's next start, secrets included. Raises :class:`LibvirtError`."""
    libvirt = module()
    flags = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
    with explained(f"the definition of {domain.name()} can't be read"):
        return str(domain.XMLDesc(flags))


def define(connection: libvirt.virConnect, xml: str, name: str) -> str:
    """Define a domain anew; the XML as libvirt has it then. Raises :class:`LibvirtError`."""
    with explained(f"libvirt refuses the changed definition of {name}"):
        domain = connection.defineXML(xml)
    return inactive_xml(domain)
