# SPDX-License-Identifier: GPL-2.0-or-later
"""Measure a domain of libvirt: cold, warm, from a managed save without and with the cache.

    python -m bench.domains [--rounds N]

Starts a libvirtd of its own, as tests/domains does (root is needed), defines the Debian
guest as a domain with 1 GiB, enables it, lets the watcher learn one boot with the task, and
shows what `sysqcache compare --libvirt` says of it. Results go to bench/results.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.figures import RATIO, SECOND_HIT_RATE, SHARE, Figure, Limit
from bench.output import finish
from bench.session import PROGRAM, ROOT, WORK, command_line
from sysqcache.base import paths
from sysqcache.compare.figures import Spread
from sysqcache.spec import catalog
from sysqcache.spec.engines import find_engine

sys.path.insert(0, str(ROOT / "tests" / "domains"))

from daemonhelp import Daemon, eventually, missing
from domainhelp import Machine, define_debian, own_files

NAME: Final = "debian"
IMAGE: Final = "debian12-x86_64"
_UNSEEN: Final = 5000
"""Blocks that nothing is looked for after: what the guest does while it waits."""
_LIMITS: Final = {
    "warm/cold ready": Limit(0.9),
    "managedsave+warm/managedsave first task": Limit(0.65),
}
_START_DELAY: Final = Limit(0.05)


def learn(machine: Machine) -> None:
    """One boot and the task, with a watcher that keeps the blocks."""
    with machine.watched() as watching:
        machine.start()
        eventually(lambda: _ask(machine, "guest-ping") is not None)
        started = _ask(machine, "guest-exec", path=WORK)
        assert started is not None
        eventually(lambda: (_ask(machine, "guest-exec-status", **started) or {}).get("exited"))
        recorded = machine.status()["blocks"]["recorded"]
        eventually(lambda: watching.looked_after() > recorded - _UNSEEN)
        machine.shut_down()
        watching.wait("new blocks")


def _ask(machine: Machine, command: str, **arguments: object) -> Any:
    """What the guest agent returns, None if it does not answer."""
    call = json.dumps({"execute": command, "arguments": arguments})
    said = machine.daemon.virsh("qemu-agent-command", machine.name, call, code=None)
    try:
        return json.loads(said)["return"]
    except ValueError:
        return None


def compare(machine: Machine, rounds: int) -> dict[str, Any]:
    """The JSON of the command."""
    command = [str(PROGRAM), "compare", "--libvirt", machine.name, "-c", machine.daemon.uri]
    options = ["--task", WORK, "--runs", str(rounds), "--json"]
    done = subprocess.run([*command, *options], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def figures(found: dict[str, Any]) -> list[Figure]:
    """What is asked, each with all its values."""

    def values(way: str, name: str) -> tuple[float, ...]:
        return tuple(one[name] for one in found["samples"] if one["way"] == way)

    rows = [
        Figure("", f"{way}, {name}", "s", values(way, key))
        for way in ("cold", "warm", "managedsave", "managedsave+warm")
        for key, name in (("ready_s", "ready"), ("first_task_s", "first task"))
    ]
    for name in found["ratios"]:
        spread = Spread(**found["ratio_spreads"][name])
        values_of = (spread.min, spread.median, spread.max)
        rows.append(Figure("", name, RATIO, values_of, _LIMITS.get(name)))
    hits = values("warm", "ready_hit_rate")
    rows.append(Figure("", "hit rate, second boot", SHARE, hits, SECOND_HIT_RATE[True]))
    delay = (found["start_delay_s"],)
    rows.append(Figure("", "start, with the cache - without", "s", delay, _START_DELAY))
    return rows


def measure(directory: Path, rounds: int) -> dict[str, Any]:
    """Everything, with a libvirtd and state in ``directory``."""
    cache, engine = paths.cache_dir(), find_engine("x86_64")
    directory.chmod(0o711)
    daemon = Daemon(directory, engine.qemu_img)
    home = directory / "home"
    home.mkdir(mode=0o711)
    (home / "cache").symlink_to(cache, target_is_directory=True)
    own_files(directory / "files", catalog.resolve("tiny-x86_64"), engine)
    os.environ[paths.ENV_HOME] = str(home)
    os.environ.pop(paths.ENV_STORE, None)
    machine = Machine(daemon, home, NAME)
    daemon.start()
    try:
        define_debian(machine, directory / "files", catalog.resolve(IMAGE))
        machine.enable()
        learn(machine)
        return compare(machine, rounds)
    finally:
        machine.remove()
        daemon.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a Markdown table."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    if why := missing():
        parser.error(why)
    started = time.time()
    with tempfile.TemporaryDirectory(prefix="sqc-") as directory:
        found = measure(Path(directory), options.rounds)
    finish("domains", started, {"found": found}, figures(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
