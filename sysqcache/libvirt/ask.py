# SPDX-License-Identifier: GPL-2.0-or-later
"""Asks libvirt and the engine whether the engine has all that a domain needs.

libvirt turns the domain's XML into a command line for the engine, and refuses what it knows
the engine not to have; then the engine itself is asked for every device and back end on
that line, and tries what only shows when it starts: a display's keys, password and
encryption. Nothing is started but an engine without a machine.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING, Any, Final

from sysqcache.base.errors import DomainRefused, LibvirtError
from sysqcache.libvirt.connect import explained
from sysqcache.machine.launch.argv import escape

if TYPE_CHECKING:
    import libvirt

_SECONDS: Final = 30.0
_NATIVE: Final = "qemu-argv"
_WITHOUT_SPICE: Final = (
    "have graphics of type vnc instead of spice, video of type virtio instead of qxl, and "
    "neither channels and audio of type spice nor redirdev"
)
_TRIED: Final = ("password=", "sasl=", "tls-creds=")
"""What of a VNC display needs libraries that an engine may have been built without."""
_KINDS: Final = {
    "-device": ("driver", ""),
    "-netdev": ("type", "NetClientDriver"),
    "-blockdev": ("driver", "BlockdevDriver"),
    "-chardev": ("backend", "ChardevBackendKind"),
    "-audiodev": ("driver", "AudiodevDriver"),
    "-object": ("qom-type", "ObjectType"),
}
"""Options that name something which an engine may lack: the key of the name in its JSON
form, and the QMP enumeration that lists what there is ("": any device)."""


def require_support(connection: libvirt.virConnect, xml: str, name: str, emulator: Path) -> None:
    """Check that an engine can run a domain.

    :param xml: its definition with the engine as its emulator.
    Raises :class:`DomainRefused` that names everything which the engine lacks.
    """
    arguments = command_line(connection, xml, name)
    machine = _value_of(arguments, "-machine").partition(",")[0]
    known = _ask(emulator)
    lacking = [f"{what} {value}" for what, value in wanted(arguments) if value not in known[what]]
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
        key = _KINDS[option][0]
        if value.startswith("{"):
            yield option, str(json.loads(value).get(key, ""))
        else:
            yield option, value.partition(",")[0].removeprefix(f"{key}=")


def _try_display(emulator: Path, arguments: Sequence[str]) -> str:
    """What an engine says of a domain's display when it can't have it, "" when it can."""
    with tempfile.TemporaryDirectory() as directory:
        display = list(_display(arguments, Path(directory) / "vnc"))
        if not display:
            return ""
        lines = _line("qmp_capabilities", {}) + _line("quit", {})
        done = _finished(_command(emulator, *display), lines)
    return done.stderr.strip() if done.returncode else ""


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
    done = _finished([str(emulator), "-h"])
    if done.returncode:
        raise LibvirtError(f"the engine {emulator} does not answer", detail=done.stderr)
    return set(re.findall(r"^-[a-zA-Z][a-z-]*", done.stdout, re.MULTILINE))


def _ask(emulator: Path) -> Mapping[str, set[str]]:
    """What an engine has, by option."""
    devices, machines, schema = _run(
        emulator,
        ("qom-list-types", {"implements": "device", "abstract": False}),
        ("query-machines", {}),
        ("query-qmp-schema", {}),
    )
    known = {
        "-device": {entry["name"] for entry in devices},
        "-machine": {entry["name"] for entry in machines}
        | {entry["alias"] for entry in machines if "alias" in entry},
    }
    members = _enumerations(schema)
    for option, (_, enumeration) in _KINDS.items():
        if enumeration:
            known[option] = members(enumeration)
    return known


def _enumerations(schema: list[dict[str, Any]]) -> Any:
    """The schema has no names of types, only numbers: look them up where they are used."""
    types = {entry["name"]: entry for entry in schema}
    tags = {
        "NetClientDriver": ("netdev_add", "type"),
        "BlockdevDriver": ("blockdev-add", "driver"),
        "ObjectType": ("object-add", "qom-type"),
        "AudiodevDriver": ("query-audiodevs", "driver"),
        "ChardevBackendKind": ("chardev-add", "type"),
    }

    def members(name: str) -> set[str]:
        command, tag = tags[name]
        entry = types[command]
        inner = types[entry["ret-type" if name == "AudiodevDriver" else "arg-type"]]
        if inner["meta-type"] == "array":
            inner = types[inner["element-type"]]
        if name == "ChardevBackendKind":
            backend = next(m["type"] for m in inner["members"] if m["name"] == "backend")
            inner = types[backend]
        kind = next(m["type"] for m in inner["members"] if m["name"] == tag)
        return {member["name"] for member in types[kind]["members"]}

    return members


def _run(emulator: Path, *commands: tuple[str, Mapping[str, object]]) -> list[Any]:
    """The answers of an engine without a machine."""
    asked = [("qmp_capabilities", {}), *commands]
    try:
        with subprocess.Popen(
            _command(emulator), stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True, cwd="/"
        ) as engine:
            limit = threading.Timer(_SECONDS, engine.kill)
            limit.start()
            try:
                answers = _answers(engine, asked)
            finally:
                limit.cancel()
                # "quit" would drop what does not fit the pipe while we are late in reading
                engine.kill()
            said = engine.stderr.read() if engine.stderr is not None else ""
    except (OSError, ValueError) as error:
        raise LibvirtError(f"the engine {emulator} does not answer: {error}") from None
    if len(answers) < len(asked):
        raise LibvirtError(f"the engine {emulator} does not answer", detail=said)
    return answers[1:]


def _finished(command: Sequence[str], lines: str = "") -> subprocess.CompletedProcess[str]:
    """An engine that ends by itself; ``lines`` is what it reads."""
    try:
        return subprocess.run(
            command,
            input=lines,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            cwd="/",
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise LibvirtError(f"the engine {command[0]} does not answer: {error}") from None


def _command(emulator: Path, *arguments: str) -> list[str]:
    """An engine without a machine, which reads QMP."""
    machine = ("-machine", "none", "-nodefaults", "-no-user-config", "-display", "none")
    return [str(emulator), *machine, *arguments, "-qmp", "stdio"]


def _line(command: str, arguments: Mapping[str, object]) -> str:
    return json.dumps({"execute": command, "arguments": arguments}) + "\n"


def _answers(
    engine: subprocess.Popen[str], asked: Sequence[tuple[str, Mapping[str, object]]]
) -> list[Any]:
    """What it returns for each command; fewer when it refuses one or ends."""
    assert engine.stdin is not None
    assert engine.stdout is not None
    for command, arguments in asked:
        engine.stdin.write(_line(command, arguments))
    engine.stdin.flush()
    messages = (json.loads(line) for line in engine.stdout)
    replies = (one for one in messages if "return" in one or "error" in one)
    return [one["return"] for one in itertools.islice(replies, len(asked)) if "return" in one]
