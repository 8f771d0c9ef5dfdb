"""`flota image`: the list of its commands."""

from __future__ import annotations

import click

from flota.cli.groups import Group, Lazy

_LAZY = {
    "ls": Lazy("flota.cli.commands.image_ls", "ls", "List the images on this node"),
    "load": Lazy("flota.cli.commands.image_load", "load", "Load images from an archive"),
    "import": Lazy("flota.cli.commands.image_load", "import_", "Make an image from a file system"),
    "pull": Lazy("flota.cli.commands.image_pull", "pull", "Get an image from its registry"),
    "rm": Lazy("flota.cli.commands.image_ls", "rm", "Remove images from this node"),
}


@click.group(cls=Group, lazy=_LAZY)
def image() -> None:
    """Images on this node."""
