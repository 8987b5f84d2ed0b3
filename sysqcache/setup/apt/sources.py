# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading apt's own source lists, and writing lists for another suite.

Both notations are read: one-line ``.list`` files and deb822 ``.sources`` files.
Nothing here runs a program or asks the network.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sysqcache.base.errors import SysqcacheError

APT_DIR: Final = Path("/etc/apt")
DEBIAN_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

CODENAMES: Final = frozenset({"bullseye", "bookworm", "trixie", "forky", "sid"})
ALIASES: Final = frozenset({"oldoldstable", "oldstable", "stable", "testing", "unstable"})
_POCKETS: Final = ("", "-updates", "-security", "-backports", "-proposed-updates")
SUITES: Final = frozenset(name + p for name in CODENAMES | ALIASES for p in _POCKETS)


@dataclass(frozen=True)
class Source:
    """One archive of apt's configuration.

    :param types: ``deb``, ``deb-src`` or both.
    :param signed_by: value of Signed-By, "" when apt's global keyrings are used.
    """

    types: tuple[str, ...]
    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""

    def deb822(self) -> str:
        """The stanza of a ``.sources`` file, ending in one newline."""
        lines = [
            f"Types: {' '.join(self.types)}",
            f"URIs: {' '.join(self.uris)}",
            f"Suites: {' '.join(self.suites)}",
            f"Components: {' '.join(self.components)}",
        ]
        if self.signed_by:
            lines.append(f"Signed-By: {self.signed_by}")
        return "\n".join(lines) + "\n"


def parse_list(text: str) -> list[Source]:
    """Read the one-line notation; lines that apt would refuse are left out."""
    found = []
    for raw in text.splitlines():
        line = raw.split("#", 1)[0].strip()
        match = re.match(r"(deb|deb-src)\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)(.*)$", line)
        if not match:
            continue
        kind, options, uri, suite, components = match.groups()
        signed_by = re.search(r"signed-by=(\S+)", options or "")
        found.append(
            Source(
                types=(kind,),
                uris=(uri,),
                suites=(suite,),
                components=tuple(components.split()),
                signed_by=signed_by.group(1) if signed_by else "",
            )
        )
    return found


def parse_deb822(text: str) -> list[Source]:
    """Read the stanza notation; disabled and incomplete stanzas are left out."""
    return [source for fields in _stanzas(text) if (source := _from_fields(fields))]


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    last = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif line[0] in " \t" and last:
            fields[last] += "\n" + line.strip()
        elif ":" in line:
            name, value = line.split(":", 1)
            last = name.strip().lower()
            fields[last] = value.strip()


def _from_fields(fields: dict[str, str]) -> Source | None:
    if fields.get("enabled", "yes").lower() in ("no", "false", "off", "0"):
        return None
    source = Source(
        types=tuple(fields.get("types", "").split()),
        uris=tuple(fields.get("uris", "").split()),
        suites=tuple(fields.get("suites", "").split()),
        components=tuple(fields.get("components", "").split()),
        signed_by=fields.get("signed-by", ""),
    )
    return source if source.types and source.uris and source.suites else None


def read_sources(apt_dir: Path = APT_DIR) -> list[Source]:
    """All archives configured below ``apt_dir``, in apt's order; unreadable files are skipped."""
    files = [apt_dir / "sources.list"]
    parts = apt_dir / "sources.list.d"
    if parts.is_dir():
        files += sorted(p for p in parts.iterdir() if p.suffix in (".list", ".sources"))
    found: list[Source] = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        found += parse_deb822(text) if file.suffix == ".sources" else parse_list(text)
    return found


def debian_sources(sources: Iterable[Source]) -> list[Source]:
    """Those of ``sources`` that are Debian's own archive.

    Other vendors use Debian's suite names too, so an entry counts only with the
    component ``main`` and with Debian's keyring (or apt's global ones).
    """
    found = []
    for source in sources:
        suites = tuple(s for s in source.suites if s.rstrip("/") in SUITES)
        ours = not source.signed_by or "debian-archive" in source.signed_by
        if suites and ours and "main" in source.components:
            found.append(replace(source, suites=suites))
    return found


def mirrors(sources: Iterable[Source]) -> list[str]:
    """URIs of Debian's main archive (not of its security archive), without repeats."""
    uris: dict[str, None] = {}
    for source in debian_sources(sources):
        if all(suite.endswith("-security") for suite in source.suites):
            continue
        uris.update(dict.fromkeys(source.uris))
    return list(uris)


def for_suite(sources: Iterable[Source], suite: str, *types: str) -> list[Source]:
    """Archives for ``suite`` at the mirrors of ``sources``; empty when none is Debian's.

    :param types: ``deb``, ``deb-src``.
    """
    return [
        Source(
            types=types,
            uris=(uri,),
            suites=(suite,),
            components=("main",),
            signed_by=str(DEBIAN_KEYRING),
        )
        for uri in mirrors(sources)
    ]


def for_release(sources: Iterable[Source], codename: str) -> list[Source]:
    """Binary archives of ``codename`` with its updates and security pockets.

    When the machine itself uses that release its entries are taken as they are;
    otherwise the main mirror is asked for the release alone.
    """
    wanted = {codename, f"{codename}-updates", f"{codename}-security"}
    found = []
    for source in debian_sources(sources):
        suites = tuple(s for s in source.suites if s in wanted)
        if suites and "deb" in source.types:
            found.append(
                replace(
                    source,
                    types=("deb",),
                    suites=suites,
                    components=("main",),
                    signed_by=str(DEBIAN_KEYRING),
                )
            )
    if any(codename in source.suites for source in found):
        return found
    return for_suite(sources, codename, "deb")


def require(
    archives: list[Source],
    error: type[SysqcacheError],
    hint: str = "add Debian's archive to /etc/apt/sources.list.d",
) -> list[Source]:
    """The archives, which must be some. Raises ``error``."""
    if not archives:
        raise error("apt's configuration of this machine names no Debian mirror", hint=hint)
    return archives


def acquire_options(dump: str) -> dict[str, str]:
    """Settings of `apt-config dump` that decide how files are fetched: proxies, dates, retries."""
    kept: dict[str, str] = {}
    for line in dump.splitlines():
        match = re.match(r"(Acquire::[\w:./-]+) (\".*\");$", line)
        if not match or "IndexTargets" in line or "CompressionTypes" in line:
            continue
        name, value = match.group(1), "".join(shlex.split(match.group(2)))
        if value and not name.endswith("::"):
            kept[name] = value
    return kept
