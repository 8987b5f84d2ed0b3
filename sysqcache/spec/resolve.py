# SPDX-License-Identifier: GPL-2.0-or-later
"""From the fields of a vm.yaml to a concrete :class:`~sysqcache.spec.spec.MachineSpec`.

Here every ``auto`` becomes a value and every file is looked up, once.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sysqcache.base.errors import ConfigError, ImageMissing
from sysqcache.base.types import ArchName, DiskFormat, GuestAccess, Probe
from sysqcache.spec import vmyaml
from sysqcache.spec.arch import Arch, get_arch, read_kernel_machine
from sysqcache.spec.imageformat import disk_format
from sysqcache.spec.onhost import is_here, is_same, no_pc_firmware, shown, unusable, unwritable
from sysqcache.spec.schema import DiskFields, VmFields
from sysqcache.spec.spec import (
    Accelerator,
    CachePolicy,
    Disk,
    Forward,
    MachineSpec,
    Network,
    Ready,
)
from sysqcache.spec.vmyaml import CheckedFields, Problem
from sysqcache.spec.yamltext import Loc

_IMAGE_PREFIX: Final = "image:"
_NAMED: Final = re.compile("[A-Za-z0-9._-]")
_NOTHING: Final = Path(os.devnull)
"""In place of a file that a problem was noted of."""


def load(file: Path, overrides: Sequence[str] = ()) -> MachineSpec:
    """The machine that ``file`` and the ``key=value`` overrides describe.

    Raises :class:`ConfigError` that lists every problem, or
    :class:`ImageMissing` when the only problem is an image that is not built yet.
    """
    checked = vmyaml.check(vmyaml.read(file, overrides))
    return _Resolver(checked).resolve()


class _Resolver:
    """Collects problems while it looks up files and fills in defaults."""

    def __init__(self, checked: CheckedFields) -> None:
        self._checked = checked
        self._fields: VmFields = checked.fields
        self._base = checked.document.file.absolute().parent
        self._problems: list[Problem] = list(checked.problems)
        self._missing: list[ImageMissing] = []

    def resolve(self) -> MachineSpec:
        spec = self._spec()
        self._check_combinations(spec)
        if not self._problems and self._missing:
            raise self._missing[0]
        if self._problems:
            extra = [Problem(str(self._checked.document.file), "", str(m)) for m in self._missing]
            raise vmyaml.config_error(self._checked.document.file, self._problems + extra)
        return spec

    def _spec(self) -> MachineSpec:
        fields = self._fields
        arch = get_arch(fields.arch)
        kernel = self._file(("kernel",), fields.kernel)
        disks = tuple(self._disk(i, disk) for i, disk in enumerate(fields.disks))
        return MachineSpec(
            name=self._name(),
            arch=fields.arch,
            machine=arch.default_machine if fields.machine == "auto" else fields.machine,
            cpu=arch.default_cpu if fields.cpu == "auto" else fields.cpu,
            memory=fields.memory,
            vcpus=fields.vcpus,
            image_id=self._image_id(disks, kernel),
            source=self._checked.document.file.absolute(),
            firmware=self._firmware(arch),
            kernel=kernel,
            initrd=self._file(("initrd",), fields.initrd),
            cmdline=fields.cmdline,
            disks=disks,
            network=self._network(),
            serial_log=self._serial_log(),
            ready=self._ready(),
            agent=fields.agent,
            cache=CachePolicy(fields.cache.mode, fields.cache.journal_max),
            accelerator=self._accelerator(),
            on_poweroff=fields.on_poweroff,
            poweroff_timeout=fields.poweroff_timeout,
            reboot=fields.reboot,
            qemu_args=fields.qemu_args,
        )

    def _add(self, loc: Loc, text: str) -> None:
        if str(loc[0]) not in self._checked.bad:
            self._problems.append(self._checked.problem(loc, text))

    def _name(self) -> str:
        if self._fields.name != "auto":
            return self._fields.name
        stem = self._checked.document.file.stem
        kept = "".join(c if _NAMED.match(c) else "-" for c in stem).lstrip("._-")
        return kept[:63] or "machine"

    def _file(self, loc: Loc, written: str | None) -> Path | None:
        """An existing, readable file; where there is none, a problem and nothing's file."""
        if written is None:
            return None
        named = written.startswith(_IMAGE_PREFIX)
        path = self._image(loc, written) if named else self._path(loc, written)
        if path is None:
            return _NOTHING
        if problem := unusable(path):
            self._add(loc, problem)
            return _NOTHING
        return path

    def _path(self, loc: Loc, written: str) -> Path | None:
        """A path that may be relative to the file, or to a home."""
        try:
            return self._base / Path(written).expanduser()
        except RuntimeError:
            self._add(loc, f"there is no home folder {written.partition('/')[0]}")
            return None

    def _serial_log(self) -> Path | None:
        """Where the serial output goes: QEMU empties the file when it starts."""
        loc, written = ("serial", "log"), self._fields.serial.log
        path = None if written == "auto" else self._path(loc, written)
        if path is None:
            return None
        if problem := unwritable(path):
            self._add(loc, problem)
        return path

    def _check_log(self, spec: MachineSpec) -> None:
        """A log that is another file of the machine would end that file."""
        files = [spec.source, spec.firmware, spec.kernel, spec.initrd]
        for file in filter(None, [*files, *(d.file for d in spec.disks)]):
            if spec.serial_log and file != _NOTHING and is_same(spec.serial_log, file):
                self._add(("serial", "log"), f"the machine needs this file: {shown(file)}")

    def _firmware(self, arch: Arch) -> Path | None:
        written = self._fields.firmware
        if written == "auto":
            return None
        if written != "efi":
            return self._file(("firmware",), written)
        if not arch.efi:
            self._add(("firmware",), f"there is no EFI firmware for {arch.name}")
        return Path(arch.efi)

    def _image(self, loc: Loc, written: str) -> Path | None:
        """A file of a built image: ``image:NAME`` or ``image:NAME/kernel``."""
        from sysqcache.spec import catalog

        name, _, part = written.removeprefix(_IMAGE_PREFIX).partition("/")
        if part not in ("", "disk", "kernel", "initrd"):
            self._add(loc, f"an image has disk, kernel and initrd; found {part!r}")
            return None
        try:
            paths = catalog.resolve(name)
        except ImageMissing as error:
            self._missing.append(error)
            return None
        except ConfigError as error:
            self._add(loc, error.message)
            return None
        found: Path | None = getattr(paths, part or "disk")
        if found is None:
            self._add(loc, f"the image {name} has no {part or 'disk'}")
        return found

    def _disk(self, index: int, disk: DiskFields) -> Disk:
        file = self._file(("disks", index, "file"), disk.file)
        assert file is not None
        kind = DiskFormat.RAW
        try:
            if file.is_file() or file.is_block_device():
                kind = disk_format(file, disk.format)
        except OSError:
            pass  # is a problem of the file already, or of the start
        except ValueError as error:
            self._add(("disks", index, "file"), str(error))
        return Disk(file, kind, disk.mode, device=file.is_block_device())

    def _network(self) -> Network:
        fields = self._fields.network
        forwards = tuple(Forward(f.host, f.guest, f.protocol, f.address) for f in fields.forwards)
        taken: dict[tuple[str, str, int], int] = {}
        for index, forward in enumerate(forwards):
            key = (forward.protocol, forward.address, forward.host)
            if forward.host and key in taken:
                self._add(
                    ("network", "forwards", index, "host"),
                    f"port {forward.host} is forwarded already, by forwards.{taken[key]}",
                )
            taken.setdefault(key, index)
            if not is_here(forward.address, forward.protocol):
                loc = ("network", "forwards", index, "address")
                self._add(loc, f"no address of this host: {forward.address}")
        return Network(fields.mode == "user", forwards)

    def _ready(self) -> Ready:
        fields = self._fields.ready
        if fields.probe != "auto":
            probe = Probe(fields.probe)
        elif fields.pattern:
            probe = Probe.SERIAL
        elif fields.port:
            probe = Probe.TCP
        elif self._fields.agent is GuestAccess.GUEST_AGENT:
            probe = Probe.GUEST_AGENT
        else:
            probe = Probe.NONE
        return Ready(probe, fields.pattern, fields.port, fields.send, fields.timeout, fields.hint)

    def _accelerator(self) -> Accelerator:
        fields = self._fields.accelerator
        multi = fields.thread == "multi" or (fields.thread == "auto" and self._fields.vcpus > 1)
        return Accelerator(multi, fields.tb_size)

    def _check_combinations(self, spec: MachineSpec) -> None:
        """Fields that are right alone and wrong together."""
        if spec.memory < 1 << 20 or spec.memory % (1 << 20):
            self._add(("memory",), "guest memory is counted in whole MiB")
        if spec.kernel:
            self._check_kernel(spec, spec.kernel)
        self._check_firmware(spec)
        self._check_log(spec)
        if spec.initrd and not spec.kernel:
            self._add(("initrd",), "needs a kernel")
        if spec.cmdline and not spec.kernel:
            self._add(("cmdline",), "needs a kernel")
        ready = spec.ready
        if ready.probe is Probe.SERIAL and not ready.pattern:
            self._add(("ready", "probe"), "a serial probe needs ready.pattern")
        if ready.probe is Probe.TCP:
            self._check_tcp(spec)
        if ready.probe is Probe.GUEST_AGENT and spec.agent is not GuestAccess.GUEST_AGENT:
            self._add(("ready", "probe"), "needs agent: guest-agent")

    def _check_kernel(self, spec: MachineSpec, kernel: Path) -> None:
        """QEMU starts any kernel on any model, and a wrong one says nothing for ever."""
        machine, arch = read_kernel_machine(kernel), get_arch(spec.arch)
        if not machine or machine in arch.kernels(spec.cpu):
            return
        if arch.is_narrow(spec.cpu) and machine == spec.arch:
            self._add(("cpu",), f"{spec.cpu} has 32 bits, and the kernel is for {machine}")
        else:
            self._add(("kernel",), f"this kernel is for {machine}, the machine is {spec.arch}")

    def _check_firmware(self, spec: MachineSpec) -> None:
        arch = get_arch(spec.arch)
        if arch.firmware and arch.is_narrow(spec.cpu) and spec.firmware is None:
            self._add(
                ("cpu",),
                f"{spec.cpu} has 32 bits, and the engine's firmware 64: name one in firmware",
            )

        pc = spec.firmware if spec.arch is ArchName.X86_64 else None
        if pc and (problem := no_pc_firmware(pc)):
            self._add(("firmware",), problem)

    def _check_tcp(self, spec: MachineSpec) -> None:
        ready = spec.ready
        leads = any(f.guest == ready.port and f.protocol == "tcp" for f in spec.network.forwards)
        if not ready.port:
            self._add(("ready", "probe"), "a tcp probe needs ready.port")
        elif not (leads and spec.network.enabled):
            self._add(
                ("ready", "port"), f"no tcp forward in network.forwards leads to port {ready.port}"
            )

    def _image_id(self, disks: Sequence[Disk], kernel: Path | None) -> str:
        """A short stable name of what is booted: the same image, the same name."""
        written = [d.file for d in self._fields.disks] or [self._fields.kernel or ""]
        if written[0].startswith(_IMAGE_PREFIX):
            return written[0].removeprefix(_IMAGE_PREFIX).partition("/")[0]
        path = disks[0].file if disks else kernel
        if path is None:
            return f"firmware-{self._fields.arch}"
        digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]
        stem = "".join(c if c.isalnum() or c in "._-" else "-" for c in path.stem)
        return f"{stem[:40]}-{digest}"
