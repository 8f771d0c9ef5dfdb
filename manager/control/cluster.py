"""The cluster: its spec, its join tokens."""

import datetime
from typing import Any

from flota.manager.bootstrap import default_spec
from flota.manager.ca import rotation
from flota.manager.control.base import ControlBase, check_version
from flota.manager.control.cluster_rules import check_cluster_spec
from flota.manager.control.shown import shown_cluster
from flota.manager.store import Transaction
from flota.rpc.errors import FailedPrecondition, InvalidArgument, Unsupported
from flota.rpc.tokens import JoinToken
from flota.rpc.unlock_keys import new_unlock_key, unlock_key_text
from flota.v1.control_pb2 import (
    GetClusterRequest,
    GetClusterResponse,
    GetJoinTokensRequest,
    GetJoinTokensResponse,
    GetUnlockKeyRequest,
    GetUnlockKeyResponse,
    UpdateClusterRequest,
    UpdateClusterResponse,
)
from flota.v1.objects_pb2 import Cluster
from flota.v1.specs_pb2 import CaConfig


class ClusterCalls(ControlBase):
    """The calls about the cluster as a whole."""

    async def GetCluster(self, request: GetClusterRequest, context: Any) -> GetClusterResponse:
        """The cluster, without keys and tokens."""
        await self._fresh()
        return GetClusterResponse(cluster=shown_cluster(self._the_cluster()))

    async def UpdateCluster(self, request: UpdateClusterRequest, context: Any) -> UpdateClusterResponse:
        """Another spec, new join tokens, another unlock key. Raises OutOfSequence, InvalidArgument, Unsupported."""
        if request.HasField("spec"):
            check_cluster_spec(request.spec)
        elif not (request.rotate_worker_token or request.rotate_manager_token or request.rotate_unlock_key):
            raise InvalidArgument("the request has neither a cluster spec nor a token or key to rotate")

        now = datetime.datetime.fromtimestamp(self._clock.now(), datetime.UTC)

        def change(tx: Transaction) -> None:
            stored = next(iter(tx.clusters), None)
            if stored is None:
                raise FailedPrecondition("this swarm is not set up yet")
            check_version("the cluster", request.version, stored.meta.version)
            changed = Cluster()
            changed.CopyFrom(stored)
            if request.HasField("spec"):
                name = request.spec.annotations.name
                if name and name != stored.spec.annotations.name:
                    raise Unsupported(f"the cluster cannot be renamed to {name!r}")
                changed.spec.CopyFrom(default_spec(request.spec))
                _rotate_root(changed, request.spec.ca, stored.spec.ca, now)
            tokens, root = changed.root_ca.join_tokens, changed.root_ca.certificate
            if request.rotate_worker_token:
                tokens.worker = str(JoinToken.make(root))
            if request.rotate_manager_token:
                tokens.manager = str(JoinToken.make(root))
            set_unlock_key(changed, request.rotate_unlock_key)
            tx.update(changed)

        await self._commit(change)
        return UpdateClusterResponse(cluster=shown_cluster(self._the_cluster()))

    async def GetJoinTokens(self, request: GetJoinTokensRequest, context: Any) -> GetJoinTokensResponse:
        """The tokens, and where to join; the leader's address first."""
        await self._fresh()
        members = sorted(self._members(), key=lambda member: (not member.leader, not member.reachable, member.raft_id))
        return GetJoinTokensResponse(
            tokens=self._the_cluster().root_ca.join_tokens,
            addresses=[member.address for member in members if member.address],
        )

    async def GetUnlockKey(self, request: GetUnlockKeyRequest, context: Any) -> GetUnlockKeyResponse:
        """The key that a locked manager asks for; empty when autolock is off."""
        await self._fresh()
        key = self._the_cluster().unlock_key
        return GetUnlockKeyResponse(unlock_key=unlock_key_text(key) if key else "")

    def _the_cluster(self) -> Cluster:
        cluster = self._store.cluster
        if cluster is None:
            raise FailedPrecondition("this swarm is not set up yet")
        return cluster


def set_unlock_key(cluster: Cluster, rotate: bool) -> None:
    """Make the key that the spec asks for, or forget it. Raises FailedPrecondition: nothing to rotate."""
    if not cluster.spec.encryption.auto_lock_managers:
        if rotate:
            raise FailedPrecondition("there is no unlock key to rotate: autolock is off (swarm update --autolock)")
        cluster.unlock_key = b""
    elif rotate or not cluster.unlock_key:
        cluster.unlock_key = new_unlock_key()


def _rotate_root(cluster: Cluster, asked: CaConfig, stored: CaConfig, now: datetime.datetime) -> None:
    """Begin a rotation of the root if `asked` wants one. Raises InvalidArgument."""
    if asked.signing_certificate or asked.signing_key or asked.force_rotate != stored.force_rotate:
        rotation.begin(cluster.root_ca, asked, now)
    cluster.spec.ca.signing_certificate = cluster.spec.ca.signing_key = b""
