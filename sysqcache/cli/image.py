# SPDX-License-Identifier: GPL-2.0-or-later
"""`sysqcache image`: build guest images, and list them."""

from __future__ import annotations

from typing import Annotated

import typer

from sysqcache.cli.options import Json, print_json

app = typer.Typer(help="Build guest images, and list them.", no_args_is_help=True)


_NAMES = "See `image list`; or the folder of an image of your own, see images/README.md."


@app.command()
def build(
    names: Annotated[list[str], typer.Argument(metavar="NAME|DIR...", help=_NAMES)],
    force: Annotated[bool, typer.Option("--force", help="Build even when it is there.")] = False,
    as_json: Json = False,
) -> None:
    """Build guest images from the machine's own Debian mirror."""
    from sysqcache.cli.setupview import SetupView
    from sysqcache.setup.images.build import build as build_image

    built = [build_image(name, force=force, listener=SetupView()) for name in names]
    rows = [
        {key: str(value) for key, value in vars(image).items() if value is not None}
        for image in built
    ]
    if as_json:
        print_json({"images": rows})
        return
    for row in rows:
        files = ", ".join(row[key] for key in ("disk", "kernel", "initrd") if key in row)
        typer.echo(f"image {row['name']}: {files}")


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the images that can be built, and those that are."""
    from sysqcache.spec.catalog import list_images

    images = list_images()
    if as_json:
        rows = [
            {
                "name": image.name,
                "description": image.description,
                "built": image.built,
                "error": image.error,
                "dir": str(image.directory),
                **image.meta,
            }
            for image in images
        ]
        print_json({"images": rows})
        return
    for image in images:
        state = image.error or (
            f"built {image.meta.get('created')}" if image.built else "not built"
        )
        typer.echo(f"{image.name:18} {image.description}\n{'':18} {state}")
