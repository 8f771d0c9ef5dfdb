"""`flota image`: the list of its commands."""

from __future__ import annotations

import click

from flota.cli.groups import Group, Lazy

_LAZY = {
    "ls": Lazy("flota.cli.commands.image_ls", "ls", "List the images on this node"),
    "inspect": Lazy("flota.cli.commands.image_inspect", "inspect", "All that is known of images"),
    "pull": Lazy("flota.cli.commands.image_pull", "pull", "Get an image from its registry"),
    "push": Lazy("flota.cli.commands.image_pull", "push", "Give an image to its registry"),
    "tag": Lazy("flota.cli.commands.image_inspect", "tag", "Give an image one more name"),
    "load": Lazy("flota.cli.commands.image_load", "load", "Load images from an archive"),
    "save": Lazy("flota.cli.commands.image_load", "save", "Write images to an archive"),
    "import": Lazy("flota.cli.commands.image_load", "import_", "Make an image from a file system"),
    "rm": Lazy("flota.cli.commands.image_ls", "rm", "Remove images from this node"),
    "prune": Lazy("flota.cli.commands.image_prune", "prune", "Remove images that no task needs"),
}


@click.group(cls=Group, lazy=_LAZY)
def image() -> None:
    """Images on this node."""
