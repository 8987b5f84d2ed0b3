# SPDX-License-Identifier: GPL-2.0-or-later
"""Instance directories: state files, locks, machines that were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sysqcache.base import paths
from sysqcache.base.errors import MachineBusy, MachineError, NoSuchMachine
from sysqcache.base.types import MachineState
from sysqcache.machine.instances import ForeignProcess, Instance, InstanceState, list_instances
from sysqcache.machine.launch.process import ProcessId
from sysqcache.machine.running import end_by_signals


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SYSQCACHE_HOME", str(tmp_path))
    return tmp_path


def make(name: str, **fields: object) -> Instance:
    instance = Instance(name)
    instance.directory.mkdir(parents=True)
    instance.write(InstanceState(name, **fields))  # type: ignore[arg-type]
    return instance


def test_state_round_trip() -> None:
    forwards = ({"host": 1, "guest": 2, "protocol": "tcp", "address": "127.0.0.1"},)
    state = InstanceState(
        "a", MachineState.STOPPED, pid=1, forwards=forwards, argv=("x", "y"), ready_s=1.5
    )
    instance = make("a")
    instance.write(state)
    assert instance.read() == state
    assert [f.name for f in instance.directory.iterdir()] == [paths.INSTANCE_STATE]


def test_unknown_machine_has_a_hint() -> None:
    make("debian12")
    with pytest.raises(NoSuchMachine) as caught:
        Instance("debian13").read()
    assert caught.value.hint == "did you mean debian12?"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99}', '{"format": 1}'])
def test_damaged_state_is_listed_as_broken(content: str) -> None:
    make("good")
    bad = make("bad")
    bad.file(paths.INSTANCE_STATE).write_text(content)
    states = {state.name: state for state in list_instances()}
    assert states["bad"].state is MachineState.BROKEN
    assert states["bad"].error
    assert states["good"].state is MachineState.CREATED


def test_nothing_to_list(home: Path) -> None:
    assert list_instances() == []
    paths.instances_dir().mkdir(parents=True)
    (paths.instances_dir() / "empty").mkdir()
    assert list_instances() == []


def test_a_running_machine_without_lock_holder_is_dead() -> None:
    instance = make("a", state=MachineState.RUNNING, pid=os.getpid())
    assert instance.current().state is MachineState.DEAD
    with instance.locked():
        assert instance.current().state is MachineState.RUNNING
    with pytest.raises(MachineError, match="not running"):
        instance.require_running()


def test_second_start_is_refused() -> None:
    instance = make("a")
    with (
        instance.locked(),
        pytest.raises(MachineBusy, match="running already"),
        Instance("a").locked(),
    ):
        pass
    with instance.locked():
        pass


def test_the_lock_lives_with_the_process_that_inherits_it() -> None:
    instance = make("a")
    with instance.locked() as fd:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[fd])
    try:
        assert instance.is_held()
    finally:
        child.kill()
        child.wait()
    assert not instance.is_held()


def test_a_qemu_that_the_state_file_does_not_name_is_found() -> None:
    """Its controller was killed between starting it and writing down its number."""
    instance = make("a", controller=os.getpid())
    with instance.locked() as fd:
        assert instance.current().state is MachineState.CREATED
        child = subprocess.Popen(["sleep", "60"], pass_fds=[fd])
    with instance.file(paths.INSTANCE_LOCK).open() as lock:
        onlooker = subprocess.Popen(["sleep", "60"], stdin=lock)
    try:
        found = instance.current()
        assert (found.state, found.process) == (MachineState.STARTING, ProcessId.of(child.pid))
        assert instance.require_running() == found
        assert end_by_signals("a") == "signal"
        assert child.wait(5) == -signal.SIGTERM
        assert not instance.is_held()
        assert instance.current().state is MachineState.CREATED
    finally:
        for one in (child, onlooker):
            one.kill()
            one.wait()


def test_process_identity() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    identity = ProcessId.of(child.pid)
    assert identity is not None
    assert identity.alive()
    assert not ProcessId(child.pid, identity.start + 1).alive()
    watched = ForeignProcess(identity, Path("/nowhere"))
    assert watched.poll() is None
    assert watched.wait(0.01) is None
    child.kill()
    child.wait()
    assert not identity.alive()
    assert watched.wait(1.0) == 0
    assert ProcessId.of(child.pid) is None


@pytest.mark.parametrize("name", ["../b", "", ".", "..", "x" * 300, "a/b", "\udcff"])
def test_names_that_no_machine_has(home: Path, name: str) -> None:
    """Also where a state file of somebody else lies on the way."""
    make("a")
    (paths.instances_dir().parent / "b").symlink_to(Instance("a").directory)
    with pytest.raises(NoSuchMachine):
        Instance(name).current()


def test_stop_tidies_up_after_a_machine_that_was_killed(home: Path) -> None:
    killed = make("a", state=MachineState.RUNNING)
    overlays = killed.file(paths.INSTANCE_OVERLAYS)
    overlays.mkdir()
    (overlays / "disk0.qcow2").touch()
    command = [sys.executable, "-m", "sysqcache", "stop", "a", "--json"]
    subprocess.run(command, check=True, env=os.environ | {"SYSQCACHE_HOME": str(home)})
    assert not overlays.exists()
    assert killed.read().state is MachineState.STOPPED
