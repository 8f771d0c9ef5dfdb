"""`flota swarm ca`: whom the nodes of the swarm trust, and how another root takes over."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import click

from flota.cli.content import read_content
from flota.cli.failures import BadFlag
from flota.cli.groups import Command
from flota.cli.options import quiet_option, refused_option
from flota.cli.session import Session, talks
from flota.cli.updates import with_newest

if TYPE_CHECKING:
    from flota.v1.objects_pb2 import Cluster, Node

_TOO_LARGE = 1 << 20


@click.command(
    cls=Command,
    examples=[
        "flota swarm ca",
        "flota swarm ca --rotate",
        "flota swarm ca --rotate --ca-cert root.pem --ca-key root-key.pem",
    ],
)
@click.option("--rotate", is_flag=True, help="Replace the root; every node renews its certificate, services go on.")
@click.option("--ca-cert", metavar="FILE", help="The root to rotate to, PEM. Without it one is made.")
@click.option("--ca-key", metavar="FILE", help="Its private key, PEM: ECDSA or RSA, in clear.")
@refused_option("--external-ca", "the swarm's managers sign its certificates")
@click.option("--cert-expiry", metavar="DURATION", help="Life of the nodes' certificates from now on.")
@click.option("-d", "--detach", is_flag=True, help="Do not wait for the nodes.")
@quiet_option("No progress.")
@talks
async def ca(
    session: Session,
    rotate: bool,
    ca_cert: str | None,
    ca_key: str | None,
    cert_expiry: str | None,
    detach: bool,
    quiet: bool,
) -> None:
    """Show the root certificate that all nodes of the swarm trust, or replace it.

    A rotation ends when every node has a certificate of the new root, those that are down, too. Join tokens change.
    Another --rotate before that begins anew, towards the newest root.
    """
    if rotate:
        if bool(ca_cert) != bool(ca_key):
            raise BadFlag("--ca-cert and --ca-key are needed both, or neither")
        certificate, key = (read_content(file, "root", _TOO_LARGE) if file else b"" for file in (ca_cert, ca_key))
        await _begin(session, certificate, key, cert_expiry)
        if detach:
            return
        await _until_done(session, quiet)
    elif ca_cert or ca_key or cert_expiry or detach:
        raise BadFlag("--ca-cert, --ca-key, --cert-expiry and --detach are for --rotate")
    click.echo((await _cluster(session)).root_ca.certificate.decode().rstrip("\n"))


async def _cluster(session: Session) -> Cluster:
    from flota.v1.control_pb2 import GetClusterRequest

    return (await session.control.GetCluster(GetClusterRequest())).cluster


async def _begin(session: Session, certificate: bytes, key: bytes, cert_expiry: str | None) -> None:
    from flota.cli.service.scalars import read_flag
    from flota.stacks.units import duration_message, parse_duration
    from flota.v1.control_pb2 import UpdateClusterRequest

    life = None if cert_expiry is None else duration_message(read_flag("cert_expiry", parse_duration, cert_expiry))

    async def once() -> None:
        cluster = await _cluster(session)
        request = UpdateClusterRequest(version=cluster.meta.version, spec=cluster.spec)
        request.spec.ca.force_rotate += 1
        request.spec.ca.signing_certificate, request.spec.ca.signing_key = certificate, key
        if life is not None:
            request.spec.ca.node_cert_expiry.CopyFrom(life)
        await session.control.UpdateCluster(request)

    await with_newest(once)


async def _until_done(session: Session, quiet: bool) -> None:
    """Wait for the end of the rotation, saying how many nodes have done what. Ctrl-C ends the wait alone."""
    from flota.cli.watching import until_true

    said = ""

    def say(words: str) -> None:
        nonlocal said
        if not quiet and words != said:
            click.echo(words, err=True)
            said = words

    await until_true(lambda hear: _follow(session, say, hear))


async def _follow(session: Session, say: Callable[[str], None], hear: Callable[[], None]) -> bool:
    """Follow one stream of the swarm and its nodes; False when it ended before the rotation did."""
    from flota.v1.control_pb2 import WatchRequest
    from flota.v1.store_pb2 import StoreAction

    selectors = [WatchRequest.Selector(kind=kind) for kind in ("cluster", "node")]
    stream = session.control.Watch(WatchRequest(selectors=selectors, include_existing=True))
    nodes: dict[str, Node] = {}
    cluster: Cluster | None = None
    complete = False
    try:
        async for message in stream:
            hear()
            if message.kind == StoreAction.KIND_UNSPECIFIED:
                complete = True
            elif message.object.HasField("cluster"):
                cluster = message.object.cluster
            elif message.kind == StoreAction.KIND_REMOVE:
                nodes.pop(message.object.node.id, None)
            else:
                nodes[message.object.node.id] = message.object.node
            if complete and cluster is not None and _is_done(cluster, nodes.values(), say):
                return True
        return False
    finally:
        stream.cancel()


def _is_done(cluster: Cluster, nodes: Collection[Node], say: Callable[[str], None]) -> bool:
    """Whether every node has and trusts the newest root; says how many do."""
    from flota.rpc import x509_facts

    rotating = cluster.root_ca.HasField("rotation")
    root = cluster.root_ca.rotation.certificate if rotating else cluster.root_ca.certificate
    renewed = sum(x509_facts.is_issuer(root, node.description.tls_info) for node in nodes)
    trusting = sum(node.description.tls_info.trust_root == root for node in nodes)
    say(f"rotated TLS certificates: {renewed}/{len(nodes)} nodes, root certificate: {trusting}/{len(nodes)} nodes")
    return not rotating and trusting == len(nodes)
