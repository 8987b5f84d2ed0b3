# SPDX-License-Identifier: GPL-2.0-or-later
"""Hears from libvirt which enabled domains start, and follows each of them in a thread.

Following needs no libvirt, so a libvirtd that restarts interrupts nothing; the watcher
connects again and looks which domains started meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sysqcache.base.errors import LibvirtError, SysqcacheError
from sysqcache.libvirt.connect import connect, explained, module, require_local
from sysqcache.libvirt.folder import DomainFolder, list_folders
from sysqcache.libvirt.follow import Follower

if TYPE_CHECKING:
    import libvirt

Tell = Callable[[str], None]

_TICK_MS: Final = 500
_KEEPALIVE: Final = (5, 3)
_PATIENCE: Final = (1.0, 2.0, 5.0, 10.0)
_STOP_SECONDS: Final = 30.0


class Watcher:
    """Follows the enabled domains of one libvirt until :meth:`stop`."""

    def __init__(self, uri: str, tell: Tell) -> None:
        self._uri = uri
        self._tell = tell
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._threads: dict[str, threading.Thread] = {}

    def stop(self) -> None:
        """End :meth:`run` soon; may be called from a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Watch. A libvirt that can't be reached is waited for, said once.

        Raises :class:`SetupError` when the Python package is not there.
        """
        libvirt = module()
        libvirt.virEventRegisterDefaultImpl()
        libvirt.virEventAddTimeout(_TICK_MS, lambda *_: None, None)
        failed = 0
        while not self._stop.is_set():
            try:
                self._serve(connect(self._uri))
                failed = 0
            except LibvirtError as error:
                if not failed:
                    self._tell(f"{error.message}; waiting for it")
                failed += 1
                self._stop.wait(_PATIENCE[min(failed, len(_PATIENCE)) - 1])
        for thread in self._threads.values():
            thread.join(_STOP_SECONDS)

    def _serve(self, connection: libvirt.virConnect) -> None:
        """Until the connection is lost, or the watcher stops."""
        libvirt = module()
        require_local(connection)
        self._lost.clear()
        with explained("libvirt sends no events"):
            connection.registerCloseCallback(lambda *_: self._lost.set(), None)
            number = connection.domainEventRegisterAny(
                None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_event, None
            )
            with contextlib.suppress(libvirt.libvirtError):
                connection.setKeepAlive(*_KEEPALIVE)
        self._tell(f"watching the domains of {connection.getURI()}")
        self._catch_up(connection)
        with explained("waiting for events failed"):
            while not self._stop.is_set() and not self._lost.is_set():
                libvirt.virEventRunDefaultImpl()
        if self._lost.is_set():
            self._tell("libvirt is gone; domains are followed all the same")
            raise LibvirtError("libvirt is gone")
        with contextlib.suppress(libvirt.libvirtError):
            connection.domainEventDeregisterAny(number)
            connection.unregisterCloseCallback()
            connection.close()

    def _catch_up(self, connection: libvirt.virConnect) -> None:
        """Domains that started while nobody watched, and what others left."""
        with explained("the domains can't be listed"):
            domains = {domain.UUIDString(): domain for domain in connection.listAllDomains()}
        for folder in list_folders():
            domain = domains.get(folder.uuid)
            if domain is None:
                self._tell(
                    f"the domain of {folder.directory} is not here; "
                    f"sysqcache libvirt disable {folder.uuid} forgets it"
                )
                continue
            self._look_after(folder, _xml(domain))

    def _on_event(self, _connection: Any, domain: Any, event: int, detail: int, _: Any) -> None:
        libvirt = module()
        folder = DomainFolder(domain.UUIDString())
        if not folder.exists():
            return
        if event == libvirt.VIR_DOMAIN_EVENT_DEFINED:
            with contextlib.suppress(SysqcacheError, OSError, libvirt.libvirtError):
                folder.update(name=domain.name())
        elif event in (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STOPPED):
            self._look_after(folder, _xml(domain))

    def _look_after(self, folder: DomainFolder, xml: str) -> None:
        """Follow a domain that runs, or take in what it left; in a thread of its own."""
        before = self._threads.get(folder.uuid)
        self._threads = {key: t for key, t in self._threads.items() if t.is_alive()}
        thread = threading.Thread(
            target=self._follow, args=(folder, xml, before), name=folder.uuid, daemon=True
        )
        self._threads[folder.uuid] = thread
        thread.start()

    def _follow(self, folder: DomainFolder, xml: str, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        try:
            Follower(folder, xml, self._tell, self._stop).follow()
        except Exception as error:
            # one domain's trouble must not end the watch over the others
            self._tell(f"the domain of {folder.directory} is not followed: {error!r}")


def _xml(domain: Any) -> str:
    """The definition of a domain, "" when it is gone already."""
    libvirt = module()
    with contextlib.suppress(libvirt.libvirtError):
        return str(domain.XMLDesc(0))
    return ""
