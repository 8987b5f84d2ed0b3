# SPDX-License-Identifier: GPL-2.0-or-later
"""Plugins see every block that the firmware runs, so the cache keeps out of their way."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from sysqcache.base import paths
from sysqcache.formats.journal import read_journal
from sysqcache.machine.launch.process import QemuProcess
from sysqcache.qmp import commands
from sysqcache.qmp.client import QmpClient
from sysqcache.qmp.commands import TbCacheStats
from sysqcache.spec.engines import Engine

pytestmark = pytest.mark.qemu

# no header: the engine does not install it, and four declarations do
_PLUGIN = """
#include <stdint.h>
#include <stdio.h>
#include <string.h>
typedef void tb_cb(uint64_t id, void *tb);
typedef void exit_cb(uint64_t id, void *opaque);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, tb_cb *cb);
void qemu_plugin_register_atexit_cb(uint64_t id, exit_cb *cb, void *opaque);
__attribute__((visibility("default"))) int qemu_plugin_version = 4;
static uint64_t blocks;
static void translated(uint64_t id, void *tb) { __atomic_add_fetch(&blocks, 1, 0); }
static void at_exit(uint64_t id, void *opaque)
{
    FILE *file = fopen("blocks", "w");
    fprintf(file, "%lu", (unsigned long)blocks);
    fclose(file);
}
__attribute__((visibility("default")))
int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
    if (argc && !strcmp(argv[0], "instrument=on")) {
        qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    }
    qemu_plugin_register_atexit_cb(id, at_exit, 0);
    return 0;
}
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin that counts translated blocks if it is told to."""
    library = tmp_path_factory.mktemp("plugin") / "libcount.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-x", "c", "-o", library, "-"],
        input=_PLUGIN, text=True, check=True,
    )  # fmt: skip
    return library


def run_firmware(engine: Engine, directory: Path, *more: str) -> TbCacheStats:
    """SeaBIOS until it finds nothing to boot; gives the counters and ``run.journal``."""
    argv = [
        *(str(engine.binary), "-L", str(engine.firmware_dir), "-nodefaults", "-no-user-config"),
        *("-display", "none", "-machine", "pc", "-accel", "tcg"),
        *("-object", f"tb-cache,id=c,journal={directory / 'run.journal'}"),
        *("-chardev", f"socket,id=q,path={paths.INSTANCE_QMP},server=on,wait=off"),
        *("-mon", "chardev=q,mode=control"),
        *more,
    ]
    with (
        QemuProcess(argv, directory) as process,
        QmpClient.connect(directory / paths.INSTANCE_QMP, process=process) as client,
    ):
        deadline = time.monotonic() + 60
        while (stats := _stats(client)).requested < 1000:
            assert time.monotonic() < deadline, stats
            time.sleep(0.05)
        commands.stop(client)
        stats = _stats(client)
        commands.quit_qemu(client)
        process.wait(30)
    return stats


def _stats(client: QmpClient) -> TbCacheStats:
    stats = commands.query_tb_cache(client)
    assert stats is not None
    return stats


def test_a_plugin_that_instruments(x86_engine: Engine, plugin: Path, tmp_path: Path) -> None:
    stats = run_firmware(x86_engine, tmp_path, "-plugin", f"{plugin},instrument=on")
    assert stats.misses["plugin"] > 900
    assert stats.recorded == 0
    assert stats.unrecorded["uncacheable"] == stats.translated == stats.requested
    # a block that overflows the code buffer, or is cut in half, is seen twice
    assert int((tmp_path / "blocks").read_text()) >= stats.translated
    assert len(read_journal(tmp_path / "run.journal").blocks) == 0


def test_a_plugin_that_does_not(x86_engine: Engine, plugin: Path, tmp_path: Path) -> None:
    stats = run_firmware(x86_engine, tmp_path, "-plugin", f"{plugin},instrument=off")
    assert stats.misses["plugin"] == 0
    assert stats.recorded > 900
    assert (tmp_path / "blocks").read_text() == "0"
    assert len(read_journal(tmp_path / "run.journal").blocks) == stats.recorded
