# SPDX-License-Identifier: GPL-2.0-or-later
"""Building the engine and publishing it in one step."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from sysqcache.base import paths
from sysqcache.base.errors import EngineBuildError
from sysqcache.setup import hostpackages
from sysqcache.setup.engine import configure, firmware, patch
from sysqcache.setup.engine import source as source_
from sysqcache.setup.work import Listener, Work, alone, ignore, published, require_space, scratch
from sysqcache.spec import engines
from sysqcache.spec.series import Sanitizer, build_key, series_digest
from sysqcache.spec.series import options as configure_options

SPACE: Final = 2_000_000_000
"""Bytes that unpacked source and objects take, with some to spare."""

_TREES: Final = "trees"


@dataclass(frozen=True)
class BuildOptions:
    """What to build.

    :param source: directory or archive of QEMU's source; None: Debian's source package.
    :param plain: without our patches.
    :param sanitize: with a sanitizer, which makes it slow.
    :param force: even when an engine of the present patches is there.
    :param keep_tree: keep the tree for an incremental build the next time.
    :param jobs: compilers at once; 0: one a processor.
    """

    targets: tuple[str, ...] = configure.TARGETS
    source: Path | None = None
    plain: bool = False
    sanitize: Sanitizer | None = None
    force: bool = False
    keep_tree: bool = False
    jobs: int = field(default=0)

    @property
    def variant(self) -> str:
        """Name of the kept tree and the log."""
        kind = "plain" if self.plain else "engine"
        return f"{kind}-{self.sanitize}" if self.sanitize else kind


def build(options: BuildOptions, listener: Listener = ignore) -> engines.Engine:
    """Build an engine unless one of the present patches is there.

    One that was built before it needed some firmware gets that, and stays as it is.
    After a failure nothing is left behind but the log, and fetched packages.
    :raises EngineBuildError: a step failed; the log's tail is in ``detail``.
    :raises SetupError: packages are missing; the hint names them all.
    """
    if not options.force and (engine := _existing(options)) and not _lacks(engine):
        return engine
    hostpackages.require("engine")
    configure.require_meson()
    require_space(paths.cache_dir(), SPACE, "building the engine", EngineBuildError)
    with alone(paths.build_lock(), listener):
        if not options.force and (engine := _existing(options)):
            return _completed(engine, listener)
        return _build(options, listener)


def _lacks(engine: engines.Engine) -> list[str]:
    return firmware.missing(engine.meta.get("targets", ()), engine.firmware_dir)


def _completed(engine: engines.Engine, listener: Listener) -> engines.Engine:
    """An engine with all the firmware that it needs; its binaries stay."""
    lacking = _lacks(engine)
    if lacking:
        work = Work(paths.logs_dir() / "firmware.log", EngineBuildError, listener)
        with work.step("fetch firmware"), scratch(paths.downloads_dir(), "firmware") as directory:
            found = directory / "found"
            _firmware(directory, engine.meta["targets"], found, work)
            for name in lacking:
                (found / name).rename(engine.firmware_dir / name)
    return engine


def _build(options: BuildOptions, listener: Listener) -> engines.Engine:
    work = Work(paths.logs_dir() / f"{options.variant}-build.log", EngineBuildError, listener)
    started = time.monotonic()
    with scratch(paths.downloads_dir(), options.variant) as directory:
        # taken first: patches that change during the build make the engine an older one
        series = series_digest(plain=options.plain)
        tree = _prepare(options, directory, work)
        with work.step("configure"):
            build_dir = configure.configure(tree.directory, options.targets, work, options.sanitize)
        with work.step("compile"):
            _compile(build_dir, options, work)
        with work.step("publish"):
            took = time.monotonic() - started
            return _publish(options, tree, build_dir, work, series=series, took=took)


def _existing(options: BuildOptions) -> engines.Engine | None:
    if options.source is not None:
        return None
    for engine in engines.list_engines(options.targets[0]):
        same = (engine.plain, engine.sanitize) == (options.plain, options.sanitize)
        if same and engine.current and set(options.targets) <= set(engine.meta.get("targets", ())):
            return engine
    return None


def _prepare(options: BuildOptions, directory: Path, work: Work) -> source_.SourceTree:
    """Unpack and patch the source; with ``keep_tree``, in the kept tree."""
    fresh = directory / "qemu"
    if options.source is None:
        apt = source_.debian_apt(work)
        with work.step("fetch the source"):
            apt.update()
            dsc = source_.fetch(apt)
        with work.step("unpack the source"):
            tree = source_.from_debian(dsc, fresh, work)
    else:
        with work.step("unpack the source"):
            tree = source_.from_path(options.source.absolute(), fresh, work)
    if not options.plain:
        with work.step("apply our patches"):
            patch.copy_own_files(fresh)
            patch.apply_series(fresh, tree.version, work)
    if not options.keep_tree:
        return tree
    kept = paths.cache_dir() / _TREES / options.variant
    with work.step("update the kept tree"):
        sync(fresh, kept, skip=("build",))
    return source_.SourceTree(kept, tree.version, tree.origin)


def sync(source: Path, target: Path, skip: Sequence[str]) -> None:
    """Make ``target`` equal to ``source``; files with equal contents keep their time.

    :param skip: names at the top of ``target`` that are left alone.
    """
    wanted = set()
    for directory, _, files in os.walk(source):
        relative = Path(directory).relative_to(source)
        (target / relative).mkdir(parents=True, exist_ok=True)
        for name in files:
            path = relative / name
            wanted.add(path)
            _copy_if_changed(source / path, target / path)
    for path in [p for p in target.rglob("*") if p.is_file() or p.is_symlink()]:
        inner = path.relative_to(target)
        if inner.parts[0] not in skip and inner not in wanted:
            path.unlink()


def _copy_if_changed(source: Path, target: Path) -> None:
    if target.is_symlink() or source.is_symlink():
        target.unlink(missing_ok=True)
    elif target.exists() and filecmp.cmp(source, target, shallow=False):
        return
    # copy, not copy2: a changed file needs a new time, or ninja would not see it
    shutil.copy(source, target, follow_symlinks=False)


def _compile(build_dir: Path, options: BuildOptions, work: Work) -> None:
    names = [engines.binary_name(target) for target in options.targets]
    jobs = ["-j", str(options.jobs)] if options.jobs else []
    work.run(["ninja", *jobs, *names, "qemu-img"], cwd=build_dir)


def _publish(
    options: BuildOptions,
    tree: source_.SourceTree,
    build_dir: Path,
    work: Work,
    *,
    series: str,
    took: float,
) -> engines.Engine:
    key = build_key(
        tree.version,
        tree.origin,
        series,
        options.targets,
        plain=options.plain,
        sanitize=options.sanitize,
    )
    target = paths.engines_dir() / key
    names = [engines.binary_name(name) for name in options.targets]
    with published(target) as output:
        (output / "bin").mkdir()
        for name in [*names, "qemu-img"]:
            binary = output / "bin" / name
            shutil.copyfile(build_dir / name, binary)
            binary.chmod(0o755)
            if not options.sanitize:  # whose reports name lines
                work.run(["strip", "--strip-debug", binary])
        versions = _firmware(tree.directory, options.targets, output / engines.FIRMWARE, work)
        meta = {
            "version": tree.version,
            "source": tree.origin,
            "key": key,
            "plain": options.plain,
            "sanitize": options.sanitize,
            "targets": list(options.targets),
            "series_sha256": series,
            "options": list(configure_options(options.sanitize)),
            "build_ids": {name: engines.read_build_id(output / "bin" / name) for name in names},
            "firmware": versions,
            "built": datetime.now(UTC).isoformat(timespec="seconds"),
            "took_s": round(took, 1),
        }
        (output / engines.META).write_text(json.dumps(meta, indent=1) + "\n")
    engine = engines.load(target, options.targets[0])
    assert engine is not None
    return engine


def _firmware(tree: Path, targets: Sequence[str], target: Path, work: Work) -> dict[str, str]:
    if firmware.in_tree(tree, targets):
        return firmware.from_tree(tree, targets, target)
    apt = source_.debian_apt(work)
    if not apt.has_lists:
        apt.update()
    with tempfile.TemporaryDirectory() as unpacked:
        return firmware.install(apt, targets, Path(unpacked), target)
