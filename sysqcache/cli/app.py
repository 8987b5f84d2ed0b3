# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``sysqcache``: commands by name, each imported when it is used.

Help must come at once, so this module knows the commands' names and one-line helps and
imports neither them nor anything heavy.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn

import typer
from typer.core import TyperGroup

from sysqcache import __version__
from sysqcache.base import terminal
from sysqcache.base.errors import SysqcacheError
from sysqcache.base.system import allow_open_files
from sysqcache.cli.errors import as_json, report_error, set_debug, unexpected
from sysqcache.cli.loglines import note, set_log_json
from sysqcache.cli.options import reflow

COMMANDS: Final[dict[str, str]] = {
    "boot": "Start a machine from its vm.yaml.",
    "run": "Run a command in a fresh machine, in the time of a container.",
    "list": "List running and ended machines.",
    "status": "Show one machine: state, ports, cache counters.",
    "stop": "Power a machine off and keep its blocks.",
    "logs": "Show a machine's serial output or QEMU's messages.",
    "console": "Attach to a machine's serial console.",
    "exec": "Run a command in the guest.",
    "ssh": "Log into a running machine with ssh.",
    "cp": "Copy files into a running machine, or out of it.",
    "map": "Show what the guest runs, seen from outside.",
    "suspend": "Save a whole running machine and end its QEMU.",
    "resume": "Let a saved machine go on, or many copies of it.",
    "snapshot": "Points inside a machine's disks to go back to.",
    "compare": "Measure every way to start a machine, side by side.",
    "libvirt": "Warm caches for machines that libvirt manages.",
    "cache": "Inspect and maintain the block store.",
    "metrics": "Counters of machines, domains and the store for Prometheus.",
    "engine": "Build the patched QEMU and look at it.",
    "image": "Build guest images and list them.",
    "doctor": "Check that this host has all that is needed.",
}
"""Every command with its line in the help; its module has the same name."""


_COMPLETION: Final = ("install_completion", "show_completion")


class LazyGroup(TyperGroup):
    """A group that imports ``sysqcache.cli.NAME`` when NAME is called.

    Such a module has ``app``, a :class:`typer.Typer` of one command or of several.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, without an import."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, imported; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"sysqcache.cli.{cmd_name}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        command.help = reflow(command.help or "")
        # a Typer of its own would offer to install completion for itself
        command.params = [p for p in command.params if p.name not in _COMPLETION]
        return command

    def invoke(self, ctx: Any) -> Any:
        """As always, but what an interruption has to say is told: Typer exits without."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            if str(error):
                note(str(error))
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As always, but suggestions need the names."""
        # the base class looks for near names among those it holds
        for name in COMMANDS:
            self.commands.setdefault(name, None)  # type: ignore[arg-type]
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Plain text from the table above: drawing boxes would import rich."""
        width = max(map(len, COMMANDS)) + 2
        lines = [f"  {name:<{width}}{text}" for name, text in COMMANDS.items()]
        sys.stdout.write(_HELP.format(commands="\n".join(lines)))


_HELP: Final = """\
Usage: sysqcache [--debug] [--log-json] COMMAND [ARGS]...

  A persistent translation cache for machines emulated by QEMU.

Commands:
{commands}

Options:
  --debug     Show the QEMU command and tracebacks; may stand anywhere before --.
  --log-json  Progress, warnings and errors on stderr as JSON, one object a line; likewise.
  --version   Show the version.
  --help      Show this, or a command's help: sysqcache COMMAND --help.
"""

app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"sysqcache {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", is_eager=True, callback=_show_version),
) -> None:
    """A persistent translation cache for machines emulated by QEMU."""


def main() -> NoReturn:
    """Run the command line; the process ends with the exit codes of docs/errors.md."""
    terminal.open_all()
    terminal.watch_stdout()
    os.umask(os.umask(0o077) | 0o022)  # nobody else writes what becomes host code
    allow_open_files()
    # numpy's library would start threads for what nobody asks of it
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal of Latin-1, a name that is no UTF-8: shown as escapes
            stream.reconfigure(errors="backslashreplace")
    arguments = _take(sys.argv[1:], "--debug", set_debug)
    arguments = _take(arguments, "--log-json", set_log_json)
    sys.exit(_written(_run(arguments)))


def _run(arguments: list[str]) -> int:
    """The exit code of a command."""
    try:
        app(arguments, prog_name="sysqcache")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except SysqcacheError as error:
        return _failed(error, arguments)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _failed(unexpected(error), arguments)
    return 0


def _written(code: int) -> int:
    """The exit code when all output is where it should be, or nobody reads it."""
    error = terminal.finish()
    if error is None:
        return code
    if isinstance(error, BrokenPipeError):
        return code or 1
    return code or report_error(unexpected(error))


def _failed(error: SysqcacheError, arguments: list[str]) -> int:
    """Tell an error; ``--json`` gets its one object in any case."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--json" in own:
        from sysqcache.cli.options import json_printed, print_json

        if not json_printed():
            with contextlib.suppress(OSError):  # nobody reads it, or it has no room
                print_json(as_json(error))
    return report_error(error)


def _take(arguments: list[str], option: str, switch: Callable[[bool], None]) -> list[str]:
    """Options that may stand anywhere, except behind ``--``; without them."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [argument for argument in arguments[:end] if argument != option]
    switch(len(kept) != end)
    return kept + arguments[end:]
