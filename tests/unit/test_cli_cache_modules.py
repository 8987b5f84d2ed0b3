# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache cache list`, `show`, `why`, `export`, `import`: JSON, and what people see."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from imagescanhelp import cpio
from storehelp import FINGERPRINT, OTHER_FINGERPRINT, make_block
from test_store_modules import DRIVER, KERNEL, LIBC, SHELL, boot, placed, run
from typer.testing import CliRunner, Result

from sysqcache.attribution.imagescan import keep
from sysqcache.attribution.imagescan.scan import scan
from sysqcache.attribution.imagescan.symbols import KEPT, SymbolTable
from sysqcache.base.counters import MISSES
from sysqcache.base.errors import FormatError, NoSuchMachine, UsageError
from sysqcache.base.types import MachineState
from sysqcache.cli import cachelist, cacheview, cachewhy
from sysqcache.cli.cache import app
from sysqcache.formats.modules import Module, ModuleKind
from sysqcache.machine.instances import Instance, InstanceState
from sysqcache.spec import resolve
from sysqcache.store.facade import Store
from sysqcache.store.meta import Meta
from sysqcache.store.why import Why

MODULE_KEYS = {
    "id", "kind", "name", "arch", "fingerprint", "blocks", "dead", "bytes", "last_used", "images",
}  # fmt: skip
OFFSET_KEYS = {"offset", "size", "flags", "uses", "symbol", "dead"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SYSQCACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SYSQCACHE_STORE", str(tmp_path / "store"))
    return Store.open(tmp_path / "store")


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def shown(*arguments: str) -> str:
    result = command(*arguments)
    assert result.exit_code == 0, result.exception
    assert max(map(len, result.stdout.splitlines()), default=0) <= 130
    return result.stdout


def values(*arguments: str) -> Any:
    result = command(*arguments, "--json")
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def table_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("  ")]


# list


def test_list_by_kind(store: Store) -> None:
    run(store, boot(store))
    out = shown("list")
    headings = [line for line in out.splitlines() if ": 1 module " in line or "modules " in line]
    assert [h.partition(":")[0] for h in headings[:2]] == ["file", "kernel"]
    assert "cccccccc" in next(line for line in table_lines(out) if "libc.so.6" in line)
    assert all(len(line) <= cacheview.WIDTH for line in table_lines(out))
    assert f"engine {FINGERPRINT.hex()[:8]}: x86_64" in out


def test_list_json_keys(store: Store) -> None:
    run(store, boot(store), dead=[(0x7000, LIBC, 0x5000)])
    listed = values("list")
    assert set(listed) >= {"modules", "bytes"}
    assert all(set(m) >= MODULE_KEYS for m in listed["modules"])
    (libc,) = [m for m in listed["modules"] if m["name"] == LIBC.name]
    assert (libc["id"], libc["kind"], libc["blocks"], libc["dead"]) == (LIBC.id, "file", 8, 1)
    assert (libc["images"], libc["fingerprint"]) == (1, FINGERPRINT.hex())


def test_list_of_one_kind(store: Store) -> None:
    run(store, boot(store))
    assert {m["name"] for m in values("list", "--kind", "file")["modules"]} == {
        LIBC.name,
        SHELL.name,
    }
    assert "No module of kind anonymous" in shown("list", "--kind", "anonymous")
    assert isinstance(command("list", "--kind", "virus").exception, UsageError)


def test_list_shows_the_largest_and_sums_the_rest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cachelist, "LARGEST", 2)
    run(store, boot(store))
    out = shown("list")
    assert len(table_lines(out)) == 2
    assert "and 5 smaller modules with 9 blocks" in out
    assert len(table_lines(shown("list", "--all"))) == 7
    assert len(values("list")["modules"]) == 7


def test_list_of_several_engines_fits_too(store: Store) -> None:
    long = Module(ModuleKind.FILE, "1f" * 20, "/usr/lib/x86_64-linux-gnu/" + "deep/" * 30 + "x.so")
    run(store, [*boot(store), *placed(range(50, 52), long)])
    run(store, placed(range(60, 62), LIBC), fingerprint=OTHER_FINGERPRINT)
    out = shown("list")
    assert all(len(line) <= cacheview.WIDTH for line in table_lines(out))
    assert {FINGERPRINT.hex()[:8], OTHER_FINGERPRINT.hex()[:8]} <= set(out.split())
    assert values("list")["modules"][0]["name"]
    assert any(m["name"] == long.name for m in values("list")["modules"])


def test_names_from_guests_obey_nobody(store: Store) -> None:
    evil = Module(ModuleKind.FILE, "2f" * 20, "/bin/\x1b]0;x\x07[red]a[/]\nb")
    run(store, placed(range(2), evil), image="\x1b[2J")
    for out in (shown("list"), shown("show", "2f2f2f"), shown("why", "m")):
        assert "\x1b" not in out
        assert "\x07" not in out
    assert "[red]a[/]" in shown("list")
    assert values("show", "2f2f2f")["name"] == evil.name


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("/usr/bin/dash", 20, "/usr/bin/dash"),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", 20, "/usr/lib/…/libc.so.6"),
        ("a" * 30, 11, "aaaaa…aaaaa"),
    ],
)
def test_shortened_names(name: str, width: int, expected: str) -> None:
    assert cacheview.shorten(name, width) == expected
    assert len(cacheview.shorten(name, width)) <= width


# show


def keep_symbols(module: Module, *functions: tuple[int, int, str]) -> None:
    table = SymbolTable.of(functions)
    keep.save(KEPT, f"{module.kind}-{module.id}", table.encode())


def test_show_json(store: Store) -> None:
    keep_symbols(LIBC, (16 * 12, 32, "memcpy"), (16 * 14, 16, "strlen"), (0x5000, 64, "patched"))
    run(store, boot(store), dead=[(0x7000, LIBC, 0x5008)])
    run(store, placed(range(12, 14), LIBC), image="two")
    found = values("show", "libc.so.6")
    assert set(found["modules"][0]) >= MODULE_KEYS
    assert (found["bytes"], found["note"]) == (found["modules"][0]["bytes"], "")
    assert (found["id"], found["kind"], found["name"]) == (LIBC.id, "file", LIBC.name)
    offsets = found["offsets"]
    assert all(set(row) >= OFFSET_KEYS for row in offsets)
    places = [row["offset"] for row in offsets]
    assert places == [*range(16 * 12, 16 * 20, 16), 0x5008]
    assert [row["symbol"] for row in offsets[:4]] == ["memcpy", "memcpy+0x10", "strlen", None]
    assert [row["uses"] for row in offsets[:3]] == [2, 2, 1]
    assert offsets[0]["size"] == len(make_block(12).guest)
    assert offsets[0]["flags"] == make_block(12).flags
    assert [row["dead"] for row in offsets[:-1]] == [None] * 8
    assert offsets[-1]["dead"] == {"reason": "rewrites itself", "changes": 20}
    assert (offsets[-1]["symbol"], offsets[-1]["uses"]) == ("patched+0x8", 0)
    assert offsets[0]["last_seen"] >= offsets[0]["first_seen"]
    assert found["seen_in"] == ["image", "two"]
    assert [r["image"] for r in found["runs"]] == ["image", "two"]
    assert found["functions"][0] == {
        "name": "memcpy",
        "offset": 192,
        "blocks": 2,
        "bytes": found["functions"][0]["bytes"],
        "uses": 4,
    }
    for key in ("first_seen", "last_seen"):
        assert found[key].endswith("+00:00")


def test_show_for_people(store: Store) -> None:
    keep_symbols(LIBC, (16 * 12, 32, "memcpy"), (0x5000, 64, "patched"))
    run(store, boot(store), dead=[(0x7000, LIBC, 0x5008)])
    out = shown("show", "libc.so.6")
    for text in (LIBC.id, LIBC.name, "memcpy", "dead place", "0x5008, 16 bytes", "A cell is 16 B"):
        assert text in out
    assert any("█" in line for line in out.splitlines())


def test_show_of_code_without_places_draws_nothing(store: Store) -> None:
    run(store, boot(store))
    out = shown("show", "jit under 6.1.0-test")
    assert "has no names" in out
    assert "A cell is" not in out
    assert values("show", "jit under 6.1.0-test")["offsets"][0]["symbol"] is None


def test_show_of_several_or_none(store: Store) -> None:
    run(store, boot(store))
    run(store, placed(range(30, 32), Module(ModuleKind.FILE, "cf" * 20, "/opt/libc.so.6")))
    error = command("show", "libc.so.6").exception
    assert isinstance(error, UsageError)
    assert "cfcfcfcf" in error.detail
    assert isinstance(command("show", "nothing").exception, UsageError)


def test_show_without_an_image_says_so(store: Store) -> None:
    run(store, boot(store))
    found = values("show", "virtio_blk")
    assert {row["symbol"] for row in found["offsets"]} == {None}
    assert "no machine of this host" in found["note"]
    assert found["functions"] == []
    assert found["id"] == DRIVER.id


def test_show_reads_names_from_the_image_of_a_machine(store: Store, tmp_path: Path) -> None:
    libc = next(Path("/lib").glob("*-linux-gnu/libc.so.6"), None)
    if libc is None:
        pytest.skip("this host has no libc.so.6 where it is looked for")
    (tmp_path / "initrd").write_bytes(cpio({"lib/libc.so.6": libc.resolve().read_bytes()}))
    (tmp_path / "kernel").write_bytes(b"no kernel")
    (tmp_path / "vm.yaml").write_text("kernel: kernel\ninitrd: initrd\n")
    spec = resolve.load(tmp_path / "vm.yaml")
    with scan(spec) as contents:
        (file,) = [f for f in contents.files if f.path.endswith("libc.so.6")]
    machine = Instance("m")
    machine.directory.mkdir(parents=True)
    machine.write(
        InstanceState(
            "m", MachineState.STOPPED, source=str(tmp_path / "vm.yaml"), image_id=spec.image_id
        )
    )
    run(store, placed(range(0x2000, 0x4000, 16), file.module), image=spec.image_id)
    found = values("show", "libc.so.6")
    assert found["note"] == ""
    named = [row["symbol"] for row in found["offsets"] if row["symbol"]]
    assert len(named) > 100
    assert found["functions"]


# why


def why_run(store: Store, **options: Any) -> None:
    """A run that misses for several reasons."""
    run(store, placed(range(10, 20), LIBC))
    run(store, [*placed(range(12, 14), LIBC), *placed(range(80, 83), SHELL)], **options)


def test_why(store: Store) -> None:
    why_run(store)
    found = values("why", "m")
    assert found["machine"] == "m"
    assert found["reasons"] == {"absent": 3, "unmapped": 2}
    assert found["blocks"]["recorded"] == 5
    assert [(m["name"], m["blocks"], m["reasons"]) for m in found["modules"]] == [
        (SHELL.name, 3, {"absent": 3}),
        (LIBC.name, 2, {"unmapped": 2}),
    ]
    assert set(found["meanings"]) == {"absent", "unmapped"}
    assert set(found["next"]) == {"unmapped"}
    out = shown("why", "m")
    for text in ("ran for the first time", "next start of this image maps", "dash", "libc.so.6"):
        assert text in out
    assert "counters are not known" in out


def test_why_of_an_earlier_run(store: Store) -> None:
    why_run(store)
    with Meta(store.layout.meta, read_only=True) as meta:
        first = meta.runs()[0].run_id
    found = values("why", first)
    assert (found["run"], found["first"], found["modules"]) == (first, True, [])
    assert "filled the store" in found["note"]
    assert "filled the store" in shown("why", first)


def test_why_shows_what_the_engine_counted(store: Store) -> None:
    from storehelp import make_run, write_journal

    counters = {"requested": 1000, "adopted": 900, "missed: absent": 80, "missed: count": 20}
    info = make_run("counted")
    journal = store.new_journal(image_id="image", run=info)
    write_journal(journal, [make_block(1)])
    store.ingest(journal, image_id="image", run=info, counters=counters)
    assert values("why", "counted")["counters"] == counters
    out = shown("why", "counted")
    assert "asked for 1,000 blocks and adopted 900 (90.0%)" in out
    assert "blocks of limited length" in out


def test_why_of_a_run_that_recorded_nothing(store: Store) -> None:
    run(store, placed(range(10, 20), LIBC))
    run(store, [])
    assert "recorded nothing" in values("why", "m")["note"]


def test_why_of_machines_without_runs(store: Store) -> None:
    assert isinstance(command("why", "nobody").exception, NoSuchMachine)
    machine = Instance("quiet")
    machine.directory.mkdir(parents=True)
    machine.write(InstanceState("quiet", MachineState.STOPPED))
    assert values("why", "quiet")["run"] is None
    assert "No run of quiet has been kept" in shown("why", "quiet")
    machine.update(pid=1, cache_mode="read-only")
    assert "cache mode is read-only" in shown("why", "quiet")


@pytest.mark.parametrize("started", [0.0, 4e9])  # whatever the clock was set to meanwhile
def test_why_tells_of_a_later_run_that_is_not_kept(store: Store, started: float) -> None:
    why_run(store)
    kept = values("why", "m")["run"]
    machine = Instance("m")
    machine.directory.mkdir(parents=True)
    journal = store.layout.journals / "later.journal"
    last = InstanceState(
        "m", MachineState.STOPPED, pid=1, started=started, journal=str(journal), cache_mode="on"
    )
    machine.write(dataclasses.replace(last, run_id=kept))
    assert "The last run" not in values("why", "m")["note"]
    machine.write(dataclasses.replace(last, run_id="later"))
    assert "The last run of m, later, is not kept" in values("why", "m")["note"]
    assert "The last run" not in values("why", kept)["note"]  # asked for another one
    journal.write_bytes(b"-")
    assert f"or stop takes {journal} in" in values("why", "m")["note"]
    machine.write(dataclasses.replace(last, run_id="", journal="", cache_mode="off"))
    assert "The last run of m keeps no blocks: its cache mode is off" in values("why", "m")["note"]


def test_every_reason_and_counter_is_explained() -> None:
    assert list(cachewhy.REASONS) == [str(reason) for reason in Why]
    assert tuple(cachewhy.COUNTERS) == MISSES


# export and import


def test_export_and_import(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(store, boot(store))
    file = tmp_path / "bundle.tar.zst"
    assert "24 blocks of 7 modules in 3 packs" in shown("export", str(file))
    exported = values("export", str(file))
    assert (exported["blocks"], exported["file_bytes"]) == (24, file.stat().st_size)
    monkeypatch.setenv("SYSQCACHE_STORE", str(tmp_path / "other"))
    taken = values("import", str(file))
    assert (taken["blocks_new"], taken["blocks_known"], taken["modules_new"]) == (24, 0, 7)
    assert len(taken["packs"]) == 3
    assert "0 blocks are new, 24 were kept already" in shown("import", str(file))
    assert values("show", "kernel")["id"] == KERNEL.id
    assert values("verify")["good"] is True


def test_export_of_some_modules(store: Store, tmp_path: Path) -> None:
    run(store, boot(store))
    chosen = ("--module", "libc.so.6", "--module", "kernel", "--fingerprint", "1111")
    assert values("export", str(tmp_path / "f"), *chosen)["blocks"] == 15
    error = command("export", str(tmp_path / "f"), "--module", "libm").exception
    assert isinstance(error, UsageError)


def test_import_warns_in_its_help() -> None:
    out = " ".join(command("import", "--help").stdout.split())
    assert "run this code on the host" in out


def test_import_of_a_file_that_others_may_write(store: Store, tmp_path: Path) -> None:
    run(store, boot(store))
    file = tmp_path / "f"
    shown("export", str(file))
    file.chmod(0o666)
    error = command("import", str(file)).exception
    assert isinstance(error, FormatError)
    assert "chmod go-w" in error.hint


@pytest.mark.parametrize("name", ["show", "why", "export", "import"])
def test_every_command_has_help(name: str) -> None:
    result = command(name, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout
