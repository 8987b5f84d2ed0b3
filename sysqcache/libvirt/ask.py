# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks libvirt and the engine whether the engine has all that a domain needs.

libvirt turns the domain's XML into a command line for the engine, and refuses what it knows
the engine not to have; then the engine itself is asked for every device and back end on
that line with all their options, and tries what only shows when it starts: a display's keys,
password and encryption, a disk's. Nothing is started but an engine without a machine.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sysqcache.base.errors import DomainRefused, LibvirtError
from sysqcache.libvirt import probe, tried
from sysqcache.libvirt.connect import explained
from sysqcache.libvirt.schema import Schema
from sysqcache.machine.launch.argv import escape

if TYPE_CHECKING:
    import libvirt

_NATIVE: Final = "qemu-argv"
_WITHOUT_SPICE: Final = (
    "have graphics of type vnc instead of spice, video of type virtio instead of qxl, and "
    "neither channels and audio of type spice nor redirdev"
)
_TRIED: Final = ("password=", "sasl=", "tls-creds=")
"""What of a VNC display needs libraries that an engine may have been built without."""
_KINDS: Final = {
    "-device": "driver",
    "-netdev": "type",
    "-blockdev": "driver",
    "-chardev": "backend",
    "-audiodev": "driver",
    "-object": "qom-type",
}
"""Options that name something which an engine may lack: the key of the name in its JSON form."""
_COMMANDS: Final = {
    "-netdev": "netdev_add",
    "-blockdev": "blockdev-add",
    "-object": "object-add",
}
"""The QMP commands whose arguments are what these options take."""
_PAST_TRANSLATOR: Final = ("vhost-scsi", "vhost-user-blk", "vhost-user-scsi", "vhost-user-fs")
"""Devices whose data come from outside of QEMU, right into the guest's memory: of code that
such a disk changes the translator would not know."""


def require_support(connection: libvirt.virConnect, xml: str, name: str, emulator: Path) -> None:
    """Check that an engine can run a domain.

    :param xml: its definition with the engine as its emulator.
    Raises :class:`DomainRefused` that names everything which the engine lacks.
    """
    arguments = command_line(connection, xml, name)
    machine = _value_of(arguments, "-machine").partition(",")[0]
    schema = Schema(probe.answers(emulator, ("query-qmp-schema", {}))[0])
    known = _ask(emulator, schema)
    lacking = [f"{what} {value}" for what, value in wanted(arguments) if value not in known[what]]
    lacking += _unknown_settings(schema, arguments)
    lacking += _unknown_properties(emulator, arguments, known["-device"])
    disks = [value for _, value in _json_values(arguments, "-blockdev")]
    lacking += tried.lacking(emulator, disks)
    options = _options(emulator)
    lacking += [word for word in _given(arguments) if word not in options]
    if machine not in known["-machine"]:
        lacking.append(f"-machine {machine}")
    if lacking:
        raise DomainRefused(
            f"the engine can't run {name}: it lacks {len(lacking)} of the things it needs",
            detail="\n".join(sorted(set(lacking))),
            hint=_hint(name, " ".join(lacking)),
        )
    refused = _try_display(emulator, arguments)
    if refused:
        raise DomainRefused(
            f"the engine can't show the display of {name}", detail=refused, hint=_hint(name)
        )


def command_line(connection: libvirt.virConnect, xml: str, name: str) -> list[str]:
    """What libvirt would start. Raises :class:`DomainRefused`."""
    try:
        with explained("the engine lacks something"):
            return shlex.split(connection.domainXMLToNative(_NATIVE, xml, 0))
    except LibvirtError as error:
        raise DomainRefused(
            f"the engine can't run {name}: {error.message}", hint=_hint(name, error.message)
        ) from None


def needs_no_acpi(arguments: Sequence[str], emulator: Path) -> bool:
    """Whether libvirt switches ACPI off by an option that the engine does not have."""
    return "-no-acpi" in arguments and "-no-acpi" not in _options(emulator)


def _hint(name: str, lacking: str = "") -> str:
    """The way out; virt-manager gives each new domain all that belongs to SPICE."""
    what = _WITHOUT_SPICE if re.search("spice|qxl|redir", lacking, re.IGNORECASE) else "do without"
    return f"virsh edit {name} to {what}, or leave it with its own emulator"


def _value_of(arguments: Sequence[str], option: str) -> str:
    for here, following in itertools.pairwise(arguments):
        if here == option:
            return following
    return ""


def wanted(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Option and name of everything on a command line that an engine may lack."""
    for option, value in itertools.pairwise(arguments):
        if option not in _KINDS:
            continue
        key = _KINDS[option]
        if value.startswith("{"):
            yield from ((option, name) for name in _names(json.loads(value), key))
        else:
            yield option, value.partition(",")[0].removeprefix(f"{key}=")


def _names(value: Mapping[str, Any], key: str) -> Iterator[str]:
    """Every name in a JSON value: a disk's drivers may lie in one another."""
    if key in value:
        yield str(value[key])
    for inner in value.values():
        if isinstance(inner, dict):
            yield from _names(inner, key)


def _json_values(arguments: Sequence[str], *options: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What options have as JSON, as libvirt writes it."""
    for option, value in itertools.pairwise(arguments):
        if option in options and value.startswith("{"):
            yield option, json.loads(value)


def _unknown_settings(schema: Schema, arguments: Sequence[str]) -> list[str]:
    """What is set of back ends that the engine does not know."""
    return [
        f"{option} {value.get(_KINDS[option])},{setting}"
        for option, value in _json_values(arguments, *_COMMANDS)
        for setting in schema.unknown(schema.argument(_COMMANDS[option]), value)
    ]


def _unknown_properties(
    emulator: Path, arguments: Sequence[str], devices: set[str]
) -> Iterator[str]:
    """What is set of devices that the engine has, and does not know."""
    values = [value for _, value in _json_values(arguments, "-device")]
    used = [value for value in values if value.get("driver") in devices]
    names = sorted({str(value["driver"]) for value in used})
    asked = [("device-list-properties", {"typename": name}) for name in names]
    found = dict(zip(names, probe.answers(emulator, *asked), strict=True))
    for value in used:
        name = str(value["driver"])
        known = {one["name"] for one in found[name]} | {"driver", "id", "bus"}
        yield from (f"-device {name},{key}" for key in value.keys() - known)


def _try_display(emulator: Path, arguments: Sequence[str]) -> str:
    """What an engine says of a domain's display when it can't have it, "" when it can."""
    with tempfile.TemporaryDirectory() as directory:
        display = list(_display(arguments, Path(directory) / "vnc"))
        if not display:
            return ""
        return probe.refusal(emulator, *display)


def _display(arguments: Sequence[str], socket: Path) -> Iterator[str]:
    """The arguments of a display, at a socket of ours."""
    for option, value in itertools.pairwise(arguments):
        if option == "-k" or (option == "-object" and _is_certificate(value)):
            yield from (option, value)
        elif option == "-vnc":
            tried = [part for part in value.split(",")[1:] if part.startswith(_TRIED)]
            yield from (option, ",".join([f"unix:{escape(socket)}", *tried]))


def _is_certificate(value: str) -> bool:
    """Whether an object is one of TLS; a key with a password of its own is left out."""
    if not value.startswith("{"):
        return value.startswith("tls-creds")
    given = json.loads(value)
    return str(given.get("qom-type", "")).startswith("tls-creds") and "passwordid" not in given


def _given(arguments: Sequence[str]) -> list[str]:
    """Options on a command line; a value that looks like one is the kernel's alone."""
    return [
        word
        for before, word in itertools.pairwise(arguments)
        if re.fullmatch(r"-[a-zA-Z][a-z-]*", word) and before != "-append"
    ]


def _options(emulator: Path) -> set[str]:
    """The options of an engine, from its help: QMP tells of some of them only."""
    return set(re.findall(r"^-[a-zA-Z][a-z-]*", probe.help_text(emulator, "-h"), re.MULTILINE))


def _ask(emulator: Path, schema: Schema) -> Mapping[str, set[str]]:
    """What an engine has, by option."""
    devices, machines = probe.answers(
        emulator,
        ("qom-list-types", {"implements": "device", "abstract": False}),
        ("query-machines", {}),
    )
    enumerations = {
        "-netdev": schema.member(schema.argument("netdev_add"), "type"),
        "-object": schema.member(schema.argument("object-add"), "qom-type"),
        "-audiodev": schema.member(schema.returned("query-audiodevs"), "driver"),
        "-chardev": schema.member(schema.member(schema.argument("chardev-add"), "backend"), "type"),
    }
    names = {entry["name"] for entry in devices}
    return {
        "-device": {name for name in names if not name.startswith(_PAST_TRANSLATOR)},
        "-machine": {entry["name"] for entry in machines}
        | {entry["alias"] for entry in machines if "alias" in entry},
        "-blockdev": tried.block_drivers(emulator),
        **{option: schema.values(kind) for option, kind in enumerations.items()},
    }
