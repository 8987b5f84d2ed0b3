# SPDX-License-Identifier: GPL-2.0-or-later
"""The QEMU process and its QMP connection, with a real QEMU that has no machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sysqcache.base import interrupts, paths
from sysqcache.base.errors import LaunchError, MachineDied, MachineError, QmpError
from sysqcache.base.interrupts import Interrupted
from sysqcache.machine.launch.process import ProcessId, QemuProcess, wait_pid
from sysqcache.qmp import commands, jobs, migration
from sysqcache.qmp.client import CommandRefusedError, QmpClient
from sysqcache.spec.engines import Engine

pytestmark = pytest.mark.qemu


def arguments(engine: Engine, *more: str) -> list[str]:
    return [
        str(engine.binary),
        *("-nodefaults", "-no-user-config", "-display", "none", "-machine", "none"),
        *("-chardev", f"socket,id=q,path={paths.INSTANCE_QMP},server=on,wait=off"),
        *("-mon", "chardev=q,mode=control"),
        *more,
    ]


@pytest.fixture
def process(x86_engine: Engine, tmp_path: Path) -> Iterator[QemuProcess]:
    with QemuProcess(arguments(x86_engine), tmp_path) as running:
        yield running


@pytest.fixture
def qmp(process: QemuProcess) -> Iterator[QmpClient]:
    with QmpClient.connect(process.directory / paths.INSTANCE_QMP, process=process) as client:
        yield client


def test_connects_as_soon_as_qemu_listens(process: QemuProcess) -> None:
    with QmpClient.connect(process.directory / paths.INSTANCE_QMP, process=process) as client:
        assert commands.query_status(client).running
        assert client.execute("query-block") == []
        names = [command["name"] for command in client.execute("query-commands")]
        assert "quit" in names
        assert "no-such-command" not in names


def test_directories_with_long_names(x86_engine: Engine, tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 20) / ("name" * 20)
    directory.mkdir(parents=True)
    assert len(str(directory)) > 150
    with (
        QemuProcess(arguments(x86_engine), directory) as process,
        QmpClient.connect(directory / paths.INSTANCE_QMP, process=process) as client,
    ):
        assert commands.query_status(client).running


def test_refused_command(qmp: QmpClient) -> None:
    with pytest.raises(CommandRefusedError, match="no-such-command") as caught:
        qmp.execute("no-such-command")
    assert caught.value.error_class == "CommandNotFound"
    assert commands.query_status(qmp).running


def test_events_can_not_be_missed(qmp: QmpClient) -> None:
    position = qmp.events.position
    commands.stop(qmp)
    event = qmp.events.wait({"STOP"}, 5.0, position)
    assert event is not None
    assert event.at > 1e9
    position = qmp.events.position
    assert qmp.events.wait({"RESUME"}, 0.05, position) is None
    commands.cont(qmp)
    assert qmp.events.wait({"RESUME"}, 5.0, position) is not None
    assert qmp.events.find({"STOP"}) == event


def test_job(qmp: QmpClient, tmp_path: Path) -> None:
    file = tmp_path / "new.raw"
    options = {"driver": "file", "filename": str(file), "size": 1 << 20}
    jobs.run_job(qmp, "blockdev-create", "job0", {"options": options}, timeout=20.0)
    assert file.stat().st_size == 1 << 20
    assert jobs.find_job(qmp, "job0") is None


def test_what_a_killed_command_left_is_in_nobodys_way(x86_engine: Engine, tmp_path: Path) -> None:
    """A migration that runs, its capabilities, a job: QEMU would end at the snapshot."""
    disk = tmp_path / "disk"
    create = ["create", "-q", "-f", "qcow2", str(disk), "16M"]
    subprocess.run([str(x86_engine.qemu_img), *create], check=True)
    node = f"driver=qcow2,node-name=d,file.driver=file,file.filename={disk}"
    board = ("-machine", "pc", "-L", str(x86_engine.firmware_dir), "-S", "-blockdev", node)
    with (
        QemuProcess(arguments(x86_engine, *board), tmp_path) as process,
        QmpClient.connect(tmp_path / paths.INSTANCE_QMP, process=process) as qmp,
    ):
        interrupts._waiting.append(signal.SIGINT)
        with pytest.raises(Interrupted):
            migration.save_to_file(qmp, tmp_path / "state")
        interrupts.take()
        migration.settle(qmp)
        saving = {"tag": "a", "vmstate": "d", "devices": ["d"]}
        qmp.execute("snapshot-save", {"job-id": migration.SAVE, **saving})
        migration.snapshot_save(qmp, "b", ["d"])
        assert process.poll() is None
        assert jobs.find_job(qmp, migration.SAVE) is None


def test_failing_job_is_explained_and_removed(qmp: QmpClient, tmp_path: Path) -> None:
    options = {"driver": "file", "filename": str(tmp_path / "no" / "x"), "size": 512}
    with pytest.raises(QmpError, match=r"blockdev-create failed: .*No such file"):
        jobs.run_job(qmp, "blockdev-create", "job0", {"options": options})
    assert jobs.find_job(qmp, "job0") is None


def test_no_answer_in_time(process: QemuProcess, qmp: QmpClient) -> None:
    process.signal(signal.SIGSTOP)
    with pytest.raises(QmpError, match=r"query-status: no answer within 0\.2 s"):
        qmp.execute("query-status", timeout=0.2)
    process.signal(signal.SIGCONT)
    assert commands.query_status(qmp).running


def test_second_client_on_one_socket(process: QemuProcess, qmp: QmpClient) -> None:
    with pytest.raises(QmpError, match="no answer within"):
        QmpClient.connect(process.directory / paths.INSTANCE_QMP, process=process, timeout=0.2)


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(QmpError, match="can't connect"):
        QmpClient.connect(tmp_path / "no.sock", timeout=0.05)


def test_death_while_waiting_is_explained(process: QemuProcess, qmp: QmpClient) -> None:
    process.signal(signal.SIGSTOP)
    threading.Timer(0.2, process.kill).start()
    with pytest.raises(MachineDied, match="killed by SIGKILL") as caught:
        qmp.execute("query-status", timeout=20.0)
    assert str(process.argv[0]) in caught.value.command
    with pytest.raises(MachineDied):
        qmp.execute("query-status")
    assert qmp.events.wait({"STOP"}, 20.0) is None


def test_quit(process: QemuProcess, qmp: QmpClient) -> None:
    assert process.cpu_seconds() >= 0.0
    commands.quit_qemu(qmp)
    assert process.wait(5.0) == 0
    assert process.cpu_seconds() > 0.0
    with pytest.raises(MachineDied, match="exit code 0"):
        process.check_alive()


def test_launch_failure_has_all_that_is_needed(x86_engine: Engine, tmp_path: Path) -> None:
    with QemuProcess(arguments(x86_engine, "-no-such-option"), tmp_path) as process:
        with pytest.raises(MachineDied):
            QmpClient.connect(tmp_path / paths.INSTANCE_QMP, process=process)
        error = process.launch_error()
    assert isinstance(error, LaunchError)
    assert "exit code 1" in error.message
    assert "-no-such-option: invalid option" in error.detail
    assert f"cd {tmp_path} && {x86_engine.binary} -nodefaults" in error.command
    assert "-nodefaults" not in error.detail


def test_missing_binary(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="No such file"), QemuProcess(["/no/qemu"], tmp_path):
        pass


def test_the_end_of_the_scope_is_the_end_of_the_process(process: QemuProcess) -> None:
    identity = process.identity
    process.__exit__(None, None, None)
    assert not identity.alive()
    assert process.poll() is not None


def test_detached_process_lives_on(x86_engine: Engine, tmp_path: Path) -> None:
    with QemuProcess(arguments(x86_engine), tmp_path, detached=True) as process:
        identity = process.identity
        process.release()
    try:
        assert identity.alive()
    finally:
        os.kill(identity.pid, signal.SIGKILL)
    assert wait_pid(identity.pid, 5.0)


def test_calls_in_the_wrong_state(x86_engine: Engine, tmp_path: Path) -> None:
    process = QemuProcess(arguments(x86_engine), tmp_path)
    with pytest.raises(MachineError, match="not started"):
        process.poll()
    with process, pytest.raises(MachineError, match="started already"):
        process.start()
    with pytest.raises(MachineError, match="only a detached"):
        process.release()


def test_qemu_ends_with_its_controller(x86_engine: Engine, tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from sysqcache.machine.launch.process import QemuProcess\n"
        "with QemuProcess(sys.argv[2:], Path(sys.argv[1])) as process:\n"
        "    print(process.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), *arguments(x86_engine)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as controller:
        assert controller.stdout is not None
        identity = ProcessId.of(int(controller.stdout.readline()))
        assert identity is not None
        time.sleep(0.3)
        controller.kill()
    assert wait_pid(identity.pid, 5.0)
