# SPDX-License-Identifier: GPL-2.0-or-later
"""Steps, programs and their log, and publishing in one step."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest

from sysqcache.base.errors import EngineBuildError
from sysqcache.cli.setupview import SetupView
from sysqcache.setup.work import Progress, Work, alone, ignore, published, require_space, scratch


def test_a_step_tells_its_beginning_progress_and_end(tmp_path: Path) -> None:
    events: list[Progress] = []
    work = Work(tmp_path / "log", EngineBuildError, events.append)
    with work.step("compile"):
        assert "two" in work.run(["sh", "-c", "echo '[1/2] one'; echo '[2/2] two'"])
    assert [(e.state, e.done, e.total) for e in events] == [
        ("started", 0, 0),
        ("running", 1, 2),
        ("running", 2, 2),
        ("done", 0, 0),
    ]
    assert "$ sh -c" in (tmp_path / "log").read_text()


def test_a_failing_program_carries_the_log_tail(tmp_path: Path) -> None:
    events: list[Progress] = []
    work = Work(tmp_path / "log", EngineBuildError, events.append)
    with pytest.raises(EngineBuildError) as caught, work.step("compile"):
        work.run(["sh", "-c", "seq 1 100; echo broken >&2; exit 3"])
    assert caught.value.message == "compile: sh failed with exit code 3"
    assert caught.value.detail.splitlines()[-1] == "broken"
    assert len(caught.value.detail.splitlines()) == 25
    assert events[-1].state == "failed"


def test_a_missing_program_is_an_error_of_ours(tmp_path: Path) -> None:
    work = Work(tmp_path / "log", EngineBuildError)
    with pytest.raises(EngineBuildError, match="can't start no-such-program"):
        work.run(["no-such-program"])


def test_published_replaces_the_old_directory(tmp_path: Path) -> None:
    target = tmp_path / "image"
    for text in ("first", "second"):
        with published(target) as output:
            (output / "file").write_text(text)
        assert (target / "file").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


def test_a_failure_leaves_the_old_directory(tmp_path: Path) -> None:
    target = tmp_path / "image"
    with published(target) as output:
        (output / "file").write_text("good")
    with pytest.raises(ZeroDivisionError), published(target) as output:
        (output / "file").write_text("half")
        raise ZeroDivisionError
    assert (target / "file").read_text() == "good"
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


def test_what_a_kill_left_behind_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".image.999999999.tmp").mkdir()
    with published(tmp_path / "image"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


def test_too_little_space_is_told_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(EngineBuildError, match=r"needs 1000000000\.0 GB"):
        require_space(tmp_path / "not" / "yet", 10**18, "building", EngineBuildError)
    require_space(tmp_path, 1, "building", EngineBuildError)


def test_lines_without_a_terminal_are_few() -> None:
    stream = io.StringIO()
    view = SetupView(stream)
    view(Progress("compile", "started"))
    for done in range(100):
        view(Progress("compile", "running", done, 100, 0.1))
    view(Progress("compile", "done", 0, 0, 12.34))
    assert stream.getvalue() == "   12.3 s  compile\n"


def test_scratch_space_goes_and_so_does_that_of_the_dead(tmp_path: Path) -> None:
    (tmp_path / "engine.999999999.tmp").mkdir()
    with scratch(tmp_path, "engine") as directory:
        assert [path.name for path in tmp_path.iterdir()] == [directory.name]
    assert not list(tmp_path.iterdir())


def test_builds_wait_for_each_other(tmp_path: Path) -> None:
    events: list[Progress] = []
    lock = tmp_path / "lock"
    entered = threading.Event()

    def second() -> None:
        with alone(lock, events.append):
            entered.set()

    with alone(lock, ignore):
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.2)
    thread.join(10)
    assert entered.is_set()
    assert [(e.step, e.state) for e in events] == [
        ("wait for another build", "started"),
        ("wait for another build", "done"),
    ]
