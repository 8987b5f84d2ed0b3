# SPDX-License-Identifier: GPL-2.0-or-later
"""The fields of vm.yaml: types, defaults and descriptions.

``python -m sysqcache.spec.schema`` prints the JSON schema for editors; the committed copy is
``configs/vm.schema.json``.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import sys
import warnings
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from sysqcache.base.types import (
    ArchName,
    CacheMode,
    DiskMode,
    GuestAccess,
    OnPoweroff,
)

_SIZE_UNITS: Final = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?) ?(KiB|MiB|GiB|TiB)", re.ASCII)
_MAX_SIZE: Final = 1 << 60
_TIME_UNITS: Final = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?) ?(ms|s|min|h)", re.ASCII)
_MAX_TIME: Final = 10 * 365 * 86400.0


def parse_size(value: object) -> int:
    """Bytes of a size such as ``1GiB`` or ``512MiB``; raises a validation error."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise PydanticCustomError("size", "expected a size such as 1GiB or 512MiB")
    size = float(match[1]) * _SIZE_UNITS[match[2]]
    if size > _MAX_SIZE:
        raise PydanticCustomError("size", "expected a size of at most 1,048,576 TiB")
    return int(size)


def parse_time(value: object) -> float:
    """Seconds of a time such as ``120s`` or ``2min``; raises a validation error."""
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise PydanticCustomError("time", "expected a time such as 120s, 2min or 500ms")
    seconds = float(match[1]) * _TIME_UNITS[match[2]]
    if seconds > _MAX_TIME:
        raise PydanticCustomError("time", "expected a time of at most ten years")
    return seconds


def _auto_size(value: object) -> int:
    return 0 if value == "auto" else parse_size(value)


def _check_pattern(value: object) -> str:
    if not isinstance(value, str):
        raise PydanticCustomError("regex", "expected a regular expression")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a later Python may read in another way
            re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise PydanticCustomError(
            "regex", "not a regular expression: {why}", {"why": str(error)}
        ) from None
    return value


def _check_argument(value: str) -> str:
    """What goes to the system ends at a NUL there."""
    if "\0" in value:
        raise PydanticCustomError("nul", "expected text without a NUL")
    return _check_text(value)


def _check_text(value: str) -> str:
    """Text, or with bytes of names that are no UTF-8, as Python reads arguments and folders."""
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise PydanticCustomError("half", "expected whole characters") from None
    return value


def _check_address(value: str) -> str:
    """QEMU's NAT listens at IPv4 addresses alone, and would look names up."""
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError:
        raise PydanticCustomError(
            "ipv4", "expected an IPv4 address such as 127.0.0.1 or 0.0.0.0"
        ) from None


def _written(text: str) -> Any:
    """A default as it is written in vm.yaml; it is parsed like any value."""
    return text


_SIZE_SCHEMA: Final = {"type": "string", "pattern": f"^{_SIZE.pattern}$", "examples": ["1GiB"]}
_TIME_SCHEMA: Final = {"type": "string", "pattern": f"^{_TIME.pattern}$", "examples": ["120s"]}
_AUTO_SIZE_SCHEMA: Final = {"type": "string", "pattern": f"^(auto|{_SIZE.pattern})$"}

Size = Annotated[int, BeforeValidator(parse_size), WithJsonSchema(_SIZE_SCHEMA)]
AutoSize = Annotated[int, BeforeValidator(_auto_size), WithJsonSchema(_AUTO_SIZE_SCHEMA)]
Time = Annotated[float, BeforeValidator(parse_time), WithJsonSchema(_TIME_SCHEMA)]
Text = Annotated[str, AfterValidator(_check_text)]
Argument = Annotated[str, AfterValidator(_check_argument)]
Address = Annotated[str, AfterValidator(_check_address)]
Pattern = Annotated[str, BeforeValidator(_check_pattern)]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
HostPort = Annotated[int, Field(ge=0, le=65535, strict=True)]
NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
WORD_PATTERN: Final = r"^[a-z0-9][a-z0-9.+_-]*$"
UUID_PATTERN: Final = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Word = Annotated[str, Field(pattern=WORD_PATTERN)]
Uuid = Annotated[str, Field(pattern=UUID_PATTERN)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values can't change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class DiskFields(Section):
    """One disk of the machine."""

    file: Argument = Field(description="image file, or image:NAME for a built image")
    format: Literal["auto", "qcow2", "raw"] = Field(
        "auto", description="qcow2 or raw; auto looks into the file"
    )
    mode: DiskMode = Field(
        DiskMode.EPHEMERAL,
        description="ephemeral: writes go to an overlay that ends with the machine; "
        "persistent: into the file; read-only: refused",
    )


class ForwardFields(Section):
    """One forwarded port."""

    host: HostPort = Field(description="port on this host; 0 takes a free one")
    guest: Port = Field(description="port in the guest")
    protocol: Literal["tcp", "udp"] = Field("tcp", description="tcp or udp")
    address: Address = Field("127.0.0.1", description="address on this host to listen on")


class NetworkFields(Section):
    """The guest's network card."""

    mode: Literal["user", "none"] = Field(
        "user", description="user: behind QEMU's own NAT; none: no card"
    )
    forwards: tuple[ForwardFields, ...] = Field((), description="host ports that lead inside")


class SerialFields(Section):
    """The serial console."""

    log: Argument = Field("auto", description="file that gets all output; auto: kept per machine")


class ReadyFields(Section):
    """What tells that the machine is ready."""

    probe: Literal["auto", "serial", "tcp", "guest-agent", "none"] = Field(
        "auto",
        description="serial, tcp, guest-agent or none; auto takes what the other fields fit",
    )
    pattern: Pattern = Field("", description="regular expression in the serial output")
    port: HostPort = Field(0, description="guest port that must answer; needs a forward")
    send: Text = Field("", description="text sent to the port first, for silent protocols")
    timeout: Time = Field(_written("300s"), description="counted from the start of QEMU")
    hint: Argument = Field("", description="shown when the machine does not get ready")


class CacheFields(Section):
    """How the machine uses the translation cache."""

    mode: CacheMode = Field(
        CacheMode.ON,
        description="on: adopt and record; read-only: adopt; verify: translate and compare; "
        "off: plain QEMU",
    )
    journal_max: Size = Field(_written("1GiB"), description="a run stops recording at this size")


class AcceleratorFields(Section):
    """Options of QEMU's translator."""

    thread: Literal["auto", "single", "multi"] = Field(
        "auto", description="one thread for all vCPUs or one each; auto: multi from 2 vCPUs"
    )
    tb_size: AutoSize = Field(
        _written("auto"), description="size of the code buffer; auto: QEMU's default"
    )


class VmFields(Section):
    """A virtual machine for sysqcache."""

    name: Name = Field("auto", description="the machine's name; auto: the name of this file")
    arch: ArchName = Field(ArchName.X86_64, description="guest architecture")
    machine: Argument = Field("auto", description="QEMU machine type; auto: pc or virt")
    cpu: Argument = Field("auto", description="QEMU CPU model; auto: one without slow features")
    memory: Size = Field(_written("1GiB"), description="guest memory")
    vcpus: Annotated[int, Field(ge=1, le=255, strict=True)] = Field(
        1, description="number of virtual CPUs"
    )
    firmware: Argument = Field(
        "auto", description="auto: the machine type's own; efi: the engine's EFI; or a file"
    )
    kernel: Argument | None = Field(None, description="kernel to boot directly")
    initrd: Argument | None = Field(None, description="initial RAM disk for the kernel")
    cmdline: Argument = Field("", description="kernel command line")
    disks: tuple[DiskFields, ...] = Field((), description="disks, in the guest's order")
    network: NetworkFields = Field(NetworkFields(), description="the network card")
    serial: SerialFields = Field(SerialFields(), description="the serial console")
    ready: ReadyFields = Field(ReadyFields(), description="the readiness probe")
    agent: GuestAccess = Field(
        GuestAccess.NONE,
        description="how commands run in the guest: guest-agent, serial-shell or none",
    )
    cache: CacheFields = Field(CacheFields(), description="the translation cache")
    accelerator: AcceleratorFields = Field(
        AcceleratorFields(), description="options of QEMU's translator"
    )
    on_poweroff: OnPoweroff = Field(
        OnPoweroff.QUIT, description="quit: QEMU ends with the guest; hold: it keeps memory"
    )
    poweroff_timeout: Time = Field(_written("60s"), description="then a stopping guest is killed")
    reboot: Annotated[bool, Field(strict=True)] = Field(
        True, description="false: a guest that reboots ends QEMU"
    )
    qemu_args: tuple[Argument, ...] = Field((), description="more arguments for QEMU")


def json_schema() -> dict[str, Any]:
    """The JSON schema of vm.yaml, as dictionary."""
    return VmFields.model_json_schema()


def main() -> None:
    """Print the JSON schema."""
    json.dump(json_schema(), sys.stdout, indent=2, default=str)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
