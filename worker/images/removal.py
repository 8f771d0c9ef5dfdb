"""What removing an image, or one of its names, comes to. Pure; the rules are those of `docker image rm`.

A name goes; the image goes with the last of them. An image that a task uses stays until the task is gone, and only
goes at all if that is forced; by its id, so does one that has names in several repositories.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from flota.v1.image_references import ImageReference
from flota.worker.images.errors import ImageInUse
from flota.worker.images.index import ImageRecord


@dataclass(frozen=True)
class Removal:
    """`record` is what is left of the image; None = it is to be deleted. `untagged` are the names it loses."""

    record: ImageRecord | None
    untagged: tuple[str, ...]


def decide(
    asked: str, name: ImageReference | None, record: ImageRecord, users: Collection[str], *, force: bool
) -> Removal:
    """`name` is the one that was asked for, None = by id. Raises ImageInUse."""
    names = record.tags | record.digests
    going = _going(name, record)
    repositories = sorted({ImageReference.parse(one).familiar_name for one in names})
    if name is None and len(repositories) > 1 and not force:
        raise ImageInUse(f"image {asked} is called {' and '.join(repositories)}: remove these names, or use --force")
    untagged = tuple(ImageReference.parse(one).familiar for one in sorted(going))
    if names - going:
        return Removal(replace(record, tags=record.tags - going, digests=record.digests - going), untagged)
    if not users:
        return Removal(None, untagged)
    if not force:
        raise ImageInUse(
            f"image {asked} is used by task {', '.join(sorted(users))}: remove its service first, or use --force, "
            "and it goes when the task has gone"
        )
    return Removal(replace(record, tags=frozenset(), digests=frozenset(), removed=True), untagged)


def _going(name: ImageReference | None, record: ImageRecord) -> frozenset[str]:
    """The names that go: with the last tag of a repository, the digests of it do."""
    if name is None:
        return record.tags | record.digests
    # Found by a digest, it may have another name here.
    same = {one for one in record.tags | record.digests if ImageReference.parse(one).name == name.name}
    if name.digest:
        return frozenset(one for one in record.digests if one.endswith(f"@{name.digest}")) & (same or record.digests)
    if record.tags & same == {str(name)}:
        return frozenset(same)
    return frozenset({str(name)})
