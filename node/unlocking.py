"""A person gives the unlock key, and a locked manager becomes what it was."""

import asyncio

from flota.manager.raft.interface import StorageCorrupt, StorageLocked
from flota.node.locking import Keys, needs_key
from flota.node.node import Node
from flota.rpc.errors import FailedPrecondition, PermissionDenied
from flota.rpc.unlock_keys import parse_unlock_key


async def unlock(node: Node, text: str) -> None:
    """Open this node's keys and start its children. Raises InvalidArgument, PermissionDenied, FailedPrecondition."""
    key = parse_unlock_key(text)
    async with node.turn:
        if not node.is_member:
            raise FailedPrecondition("This node is not part of a swarm")
        if not node.locked and not await _lost_its_key(node):
            raise FailedPrecondition(node.trouble or "swarm is not locked")
        try:
            keys = await asyncio.to_thread(Keys.of_directory, node.places.raft, [key])
        except StorageLocked:
            raise PermissionDenied("swarm could not be unlocked: invalid key provided") from None
        except (StorageCorrupt, OSError) as error:
            raise FailedPrecondition(f"swarm could not be unlocked: {error}") from None
        await node.open_with(keys)
        await node.manager.until_tried()


async def _lost_its_key(node: Node) -> bool:
    """Whether the manager process ended after it took a key that it could not tell us."""
    manager = node.manager
    return manager.wanted and not manager.running and await needs_key(node.places.raft, node.keys.unlock_keys)
