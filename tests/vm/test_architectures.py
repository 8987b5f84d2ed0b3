# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of other architectures: cold, warm, verified; firmware; models the target lacks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from debianhelp import WORK, boot, check_counters
from machinehelp import TINY, report, sysqcache
from required import require_engine, require_image

from sysqcache.spec import resolve
from sysqcache.spec.engines import ENV_ENGINE, find_engine, load

pytestmark = pytest.mark.vm

CONFIGS = TINY.parent
TINY_GUESTS = {
    "aarch64": CONFIGS / "tiny-arm64.yaml",
    "riscv64": CONFIGS / "tiny-riscv64.yaml",
}
EFI = CONFIGS / "tiny-arm64-efi.yaml"
DEBIAN = CONFIGS / "debian12-arm64.yaml"


@pytest.fixture(autouse=True)
def engines(own_state: Path) -> Iterator[None]:
    """State of the test's own; skipped without the engines."""
    for target in TINY_GUESTS:
        require_engine(target)
    yield


def start(config: Path, *arguments: object) -> dict[str, Any]:
    """Boot and do the tiny guest's work; counters must add up."""
    found = report("boot", config, "--task", "work", *arguments)
    check_counters(found)
    [task] = found["times"]["tasks"]
    assert (task["exit"], task["stdout"][:8]) == (0, "work: ok")
    return found


@pytest.mark.parametrize("arch", TINY_GUESTS)
def test_cold_then_warm_then_verified(arch: str) -> None:
    config = TINY_GUESTS[arch]
    require_image(config.stem)
    cold = start(config)
    assert (cold["arch"], cold["cache_mode"]) == (arch, "on")
    assert cold["blocks"]["adopted"] == 0
    assert cold["cache"]["blocks_new"] > 50_000

    warm = start(config)
    assert warm["fingerprint"] == cold["fingerprint"]
    assert warm["blocks_at_ready"]["hit_rate"] >= 0.9

    verified = start(config, "--cache", "verify")["blocks"]
    assert verified["mismatches"] == 0, verified["mismatch_log"]
    assert verified["verified"] > 50_000
    assert verified["adopted"] == 0


def test_firmware_boot() -> None:
    """EFI firmware starts the kernel, and does it with kept blocks the second time."""
    require_image("tiny-arm64")
    cold = start(EFI)
    verified = start(EFI, "--cache", "verify")["blocks"]
    assert verified["mismatches"] == 0, verified["mismatch_log"]
    assert verified["hit_rate"] >= 0.85
    assert "EFI" in sysqcache("logs", EFI.stem).stdout
    assert cold["blocks"]["requested"] > 50_000


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (TINY, "bios-256k.bin"),
        (EFI, "edk2-aarch64-code.fd"),
        (TINY_GUESTS["riscv64"], "opensbi-riscv64-generic-fw_dynamic.bin"),
    ],
)
def test_firmware_that_is_missing(
    config: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = resolve.load(config)
    engine = find_engine(spec.arch)
    copy = tmp_path / "engine"
    # QEMU also looks beside its own file, so that is copied, not linked
    shutil.copytree(engine.dir, copy)
    (load(copy, spec.arch) or engine).firmware_dir.joinpath(name).unlink()
    monkeypatch.setenv(ENV_ENGINE, str(copy))
    error = sysqcache("boot", config, code=13).stderr
    assert name in error
    assert "sysqcache engine build --force" in error


@pytest.mark.parametrize("arch", TINY_GUESTS)
def test_a_model_that_the_target_lacks(arch: str) -> None:
    require_image(TINY_GUESTS[arch].stem)
    done = sysqcache("boot", TINY_GUESTS[arch], "--set", "cpu=qemu64", code=13)
    assert "change cpu: in vm.yaml" in done.stderr
    assert "qemu64" in done.stderr


@pytest.mark.slow
def test_debian(own_state: Path) -> None:
    require_image(DEBIAN.stem)
    store = own_state / "store"
    cold = boot(store, "--task", WORK, config=DEBIAN)
    check_counters(cold)
    assert cold["times"]["tasks"][0]["exit"] == 0
    assert cold["cache"]["blocks_new"] >= 200_000

    warm = boot(store, "--task", WORK, config=DEBIAN)
    check_counters(warm)
    assert warm["blocks_at_ready"]["hit_rate"] >= 0.9
    assert warm["times"]["tasks"][0]["stdout"] == cold["times"]["tasks"][0]["stdout"]

    verified = boot(store, "--task", WORK, "--cache", "verify", config=DEBIAN)
    blocks = verified["blocks"]
    assert blocks["mismatches"] == 0, blocks["mismatch_log"]
    assert blocks["verified"] >= 200_000
    assert verified["times"]["tasks"][0]["stdout"] == cold["times"]["tasks"][0]["stdout"]
