# SPDX-License-Identifier: GPL-2.0-or-later
"""What sanitizers report, and the lists of what is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import sanitize
from bench.sanitizing import reports, suppressions
from bench.sanitizing.reports import Report
from bench.sanitizing.suppressions import Suppression
from sysqcache.spec.series import Sanitizer

FENCE = "=" * 18
RACE = f"""\
{FENCE}
WARNING: ThreadSanitizer: data race (pid=12)
  Write of size 8 at 0x7b2400000000 by thread T3 (mutexes: write M46):
    #0 set_bit ../include/qemu/bitops.h:42 (qemu-system-x86_64+0x77)
    #1 tb_writes_note ../accel/tcg/tb-cache-writes.c:120:5 (qemu-system-x86_64+0x78)
    #2 <null> <null> (0x7fff12)

  Previous atomic read of size 4 at 0x7b2400000000 by main thread:
    #0 test_bit ../include/qemu/bitops.h:99 (qemu-system-x86_64+0x79)

  Location is global 'tb_ctx' of size 64 at 0x55 (qemu-system-x86_64+0x99)

  Thread T3 'CPU 0/TCG' (tid=14, running) created by main thread at:
    #0 pthread_create ../../../../src/libsanitizer/tsan/tsan_interceptors_posix.cpp:969 (lib+0x1)

SUMMARY: ThreadSanitizer: data race ../include/qemu/bitops.h:42 in set_bit
{FENCE}
"""
OVERFLOW = """\
=================================================================
==77==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x60 at pc 0x55 bp 0x7f sp 0x7e
READ of size 8 at 0x60 thread T2
    #0 0x55d in try_block ../accel/tcg/tb-cache-find.c:88
    #1 0x55e in tb_cache_find ../accel/tcg/tb-cache-find.c:301:9

0x60 is located 0 bytes to the right of 4-byte region [0x5c,0x60)
allocated by thread T0 here:
    #0 0x7f in __interceptor_malloc ../../../../src/libsanitizer/asan/asan_malloc_linux.cpp:69
"""
UNDEFINED = """\
../target/i386/x.c:12:9: runtime error: shift exponent 64 is too large for 64-bit type 'long'
    #0 0x55 in helper_shift ../target/i386/x.c:12
    #1 0x56 in other ../target/i386/x.c:90
../util/y.c:7:3: runtime error: load of misaligned address 0x7f01 for type 'int'
"""


def one(text: str) -> Report:
    [report] = reports.read(text)
    return report


def test_a_race_has_two_accesses() -> None:
    report = one("QEMU said something\n" + RACE)
    assert (report.tool, report.kind) == ("ThreadSanitizer", "data race")
    assert [str(stack.frames[0]) for stack in report.accesses] == [
        "set_bit ../include/qemu/bitops.h:42",
        "test_bit ../include/qemu/bitops.h:99",
    ]
    assert report.accesses[0].frames[2].function == "<null>"
    # the thread's creation, too
    assert len(report.stacks) == 3


def test_a_bad_access_is_where_it_was_made() -> None:
    report = one(OVERFLOW)
    assert report.kind == "heap-buffer-overflow"
    assert [stack.frames[0].function for stack in report.accesses] == ["try_block"]
    assert report.touches(["accel/tcg/tb-cache-find.c"])
    assert not report.touches(["cache-find.c", "accel/tcg/tb-maint.c"])


def test_undefined_behaviour_with_and_without_a_stack() -> None:
    shift, load = reports.read(UNDEFINED)
    assert shift.accesses[0].frames[0].function == "helper_shift"
    assert len(shift.accesses[0].frames) == 2
    assert load.kind == "load of misaligned address N for type 'int'"
    assert load.touches(["util/y.c"])


def test_several_logs(tmp_path: Path) -> None:
    (tmp_path / "report.1").write_text(RACE + RACE)
    (tmp_path / "report.2").write_text(OVERFLOW + UNDEFINED)
    found = reports.read_all(tmp_path)
    assert len(found) == 5
    assert len({report.place for report in found}) == 4


@pytest.mark.parametrize(
    ("kind", "pattern", "knows"),
    [
        ("race", "tb_writes_note", True),
        ("race", "tb-cache-writes.c", True),
        ("race", "^set_*t$", True),
        ("race", "^bit", False),
        ("race", "set_bi$", False),
        ("race_top", "set_bit", True),
        ("race_top", "tb_writes_note", False),
    ],
)
def test_patterns_are_those_of_the_sanitizers(kind: str, pattern: str, knows: bool) -> None:
    stack = one(RACE).accesses[0]
    assert Suppression(kind, pattern, "").knows(stack) is knows


def test_of_a_race_both_sides_must_be_known() -> None:
    report = one(RACE)
    sides = [Suppression("race_top", name, "known") for name in ("set_bit", "test_bit")]
    assert suppressions.known(report, sides) == sides[0]
    for side in sides:
        assert suppressions.known(report, [side]) is None
    assert suppressions.known(report, [Suppression("mutex", "*", "another kind")]) is None


def test_every_entry_has_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("# about the list\n\n# one\n# reason\nrace:a\nrace:b\n\n# two\nrace_top:c\n")
    found = [(e.kind, e.pattern, e.reason) for e in suppressions.read(path)]
    assert found == [
        ("race", "a", "one reason"),
        ("race", "b", "one reason"),
        ("race_top", "c", "two"),
    ]
    for text in ("race:a\n", "# reason\n\nrace:a\n", "# reason\nrace\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="no "):
            suppressions.read(path)


@pytest.mark.parametrize("part", Sanitizer)
def test_an_entry_names_functions_and_not_files(part: Sanitizer) -> None:
    for entry in suppressions.read(sanitize.LISTS / f"{part}.supp"):
        name = entry.pattern.removeprefix("^").removesuffix("$").replace("*", "x")
        assert entry.pattern.startswith("^"), entry
        assert name.isidentifier(), entry


def test_what_is_left_is_told_and_ends_with_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.1").write_text(RACE)
    assert sanitize.main(["--part", "thread", "--read", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "1 times, in a file of ours: data race" in out
    assert "| thread | not run | 1 | 1 | 0 | 1 |" in out
    (tmp_path / "report.1").write_text("")
    assert sanitize.main(["--part", "thread", "--read", str(tmp_path)]) == 0


def test_logs_go_where_they_are_read(tmp_path: Path) -> None:
    names = {Sanitizer.THREAD: "TSAN_OPTIONS", Sanitizer.ADDRESS: "ASAN_OPTIONS"}
    for part, name in names.items():
        settings = sanitize.environment(sanitize.PARTS[part], tmp_path)
        assert settings[name].endswith(f" log_path={tmp_path}/report")
        assert settings.keys() == sanitize.PARTS[part].settings.keys()
