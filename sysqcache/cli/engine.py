# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache engine`: build the patched QEMU, and tell what is built."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sysqcache.cli.options import Json, print_json

if TYPE_CHECKING:
    from sysqcache.spec.engines import Engine
    from sysqcache.spec.series import Sanitizer

app = typer.Typer(
    help="Build the engine (QEMU with our patches), and tell what is built.",
    no_args_is_help=True,
)

_Plain = Annotated[bool, typer.Option("--plain", help="The same QEMU without our patches.")]
_Sanitize = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="With a sanitizer, thread or address: slow, to look for faults of the engine.",
    ),
]
_Target = Annotated[
    list[str] | None,
    typer.Option(
        "--target", metavar="ARCH", help="x86_64, aarch64 or riscv64; repeatable; all by default."
    ),
]


@app.command()
def build(
    source: Annotated[
        Path | None,
        typer.Option(help="Directory or archive of QEMU 10.0.x, instead of Debian's source."),
    ] = None,
    target: _Target = None,
    plain: _Plain = False,
    sanitize: _Sanitize = None,
    force: Annotated[bool, typer.Option("--force", help="Build even when one is there.")] = False,
    keep_tree: Annotated[
        bool, typer.Option("--keep-tree", help="Keep the tree: the next build is incremental.")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=0, help="Compilers at once.")] = 0,
    as_json: Json = False,
) -> None:
    """Fetch QEMU's source, apply our patches, build it into the cache directory."""
    from sysqcache.cli.setupview import SetupView
    from sysqcache.setup.engine.build import BuildOptions
    from sysqcache.setup.engine.build import build as build_engine

    options = BuildOptions(
        targets=_targets(target or (["x86_64"] if sanitize else None)),
        source=source,
        plain=plain,
        sanitize=_sanitizer(sanitize),
        force=force,
        keep_tree=keep_tree,
        jobs=jobs,
    )
    engine = build_engine(options, SetupView())
    if as_json:
        print_json(_report(engine))
    else:
        typer.echo(f"engine {engine.key}: {engine.dir}")


def _targets(names: list[str] | None) -> tuple[str, ...]:
    from sysqcache.base.errors import UsageError
    from sysqcache.setup.engine.configure import TARGETS

    targets = tuple(dict.fromkeys(names or TARGETS))
    for name in targets:
        if name not in TARGETS:
            raise UsageError(f"no engine for {name!r}", hint=f"targets: {', '.join(TARGETS)}")
    return targets


def _sanitizer(name: str | None) -> Sanitizer | None:
    from sysqcache.base.errors import UsageError
    from sysqcache.spec.series import Sanitizer

    if name is not None and name not in list(Sanitizer):
        raise UsageError(f"no sanitizer {name!r}", hint=f"sanitizers: {', '.join(Sanitizer)}")
    return Sanitizer(name) if name else None


def _report(engine: Engine) -> dict[str, Any]:
    return {
        **engine.meta,
        "key": engine.key,
        "current": engine.current,
        "build_id": engine.build_id,
        "dir": str(engine.dir),
        "binary": str(engine.binary),
        "qemu_img": str(engine.qemu_img),
        "firmware_dir": str(engine.firmware_dir),
    }


@app.command()
def info(
    target: _Target = None,
    plain: _Plain = False,
    sanitize: _Sanitize = None,
    as_json: Json = False,
) -> None:
    """Tell which engine machines run on, and what it was built from."""
    from sysqcache.spec.engines import find_engine

    report = _report(find_engine(_targets(target)[0], plain=plain, sanitize=_sanitizer(sanitize)))
    if as_json:
        print_json(report)
        return
    for name in ("key", "version", "source", "targets", "build_id", "built", "took_s", "dir"):
        value = report.get(name, "?")
        text = ", ".join(value) if isinstance(value, list) else str(value)
        typer.echo(f"{name:10} {text}")
    if not report["current"]:
        typer.echo("the patches have changed since: sysqcache engine build")


@app.command()
def check(
    target: _Target = None,
    plain: _Plain = False,
    sanitize: _Sanitize = None,
    as_json: Json = False,
) -> None:
    """Start the engine without a machine, and ask it what it is."""
    from dataclasses import asdict

    from sysqcache.setup.engine.check import check as check_engine
    from sysqcache.spec.engines import find_engine

    engine = find_engine(_targets(target)[0], plain=plain, sanitize=_sanitizer(sanitize))
    result = check_engine(engine)
    if as_json:
        print_json({"key": engine.key, **asdict(result)})
        return
    cache = "has the translation cache" if result.has_cache else "has no translation cache"
    if result.reason:
        cache += f", but can't use it here: {result.reason}"
    typer.echo(f"{engine.binary}: QEMU {result.version}, {cache}")
