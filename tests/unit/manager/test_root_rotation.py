"""Another root takes over: what is signed, who is believed, and when it ends."""

import asyncio
import datetime
from collections.abc import Callable
from contextlib import suppress

import grpc.aio
import pytest

from flota.manager.ca import rotation
from flota.manager.ca.certificates import Signer, create_request, create_root
from flota.manager.ca.rotation import RootRotator
from flota.manager.store import LocalProposer, Store, Transaction
from flota.manager.trust import ClusterTrust
from flota.rpc import x509_facts
from flota.rpc.authentication import CertificateAuthenticator
from flota.rpc.callers import Trust
from flota.rpc.errors import InvalidArgument, Unauthenticated
from flota.rpc.tokens import JoinToken, root_digest
from flota.v1.objects_pb2 import Certificate, Cluster, Node, RootCa
from flota.v1.specs_pb2 import CaConfig
from flota.v1.types_pb2 import NodeRole

NOW = datetime.datetime.now(datetime.UTC)
PATIENCE = 60.0


def new_root() -> RootCa:
    certificate, key = create_root()
    root = RootCa(certificate=certificate, private_key=key, digest=root_digest(certificate))
    root.join_tokens.worker = root.join_tokens.manager = str(JoinToken.make(certificate))
    return root


def node_of(root: RootCa) -> tuple[bytes, bytes]:
    """A manager's chain and key."""
    request, key = create_request()
    return Signer.of(root).sign(request, "n1", NodeRole.NODE_ROLE_MANAGER, "c1"), key


class Stages:
    """A node's certificate of each stage of a rotation, and what is trusted then."""

    def __init__(self) -> None:
        root = new_root()
        self.old_root, self.old = root.certificate, node_of(root)
        rotation.begin(root, CaConfig(), NOW)
        self.both_roots, self.during = root.certificate + root.rotation.certificate, node_of(root)
        rotation.finish(root)
        self.new_root, self.after = root.certificate, node_of(root)
        self.root = root


class Echo(grpc.GenericRpcHandler):
    def __init__(self, authenticate: CertificateAuthenticator) -> None:
        self._authenticate = authenticate

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            shown = context.auth_context()
            chain = shown["x509_pem_cert"][0] + shown["x509_pem_cert_chain"][0]
            return self._authenticate(chain).node_id.encode()

        return grpc.unary_unary_rpc_method_handler(answer)


async def meet(server: tuple[bytes, bytes], server_trusts: bytes, client: tuple[bytes, bytes], trusts: bytes) -> bool:
    """Whether a client and a server believe each other, over a real connection."""
    listening = grpc.aio.server()
    listening.add_generic_rpc_handlers((Echo(CertificateAuthenticator(lambda: Trust(server_trusts))),))
    credentials = grpc.ssl_server_credentials([(server[1], server[0])], server_trusts, True)
    port = listening.add_secure_port("127.0.0.1:0", credentials)
    await listening.start()
    options = [("grpc.ssl_target_name_override", "swarm-manager")]
    own = grpc.ssl_channel_credentials(trusts, client[1], client[0])
    try:
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", own, options=options) as channel:
            return bool(await channel.unary_unary("/a/b")(b"", timeout=60) == b"n1")
    except grpc.aio.AioRpcError:
        return False
    finally:
        await listening.stop(None)


async def test_nodes_of_two_neighbouring_stages_believe_each_other() -> None:
    stages = Stages()
    # The old root alone is what workers trust until the end, and what a manager's store may still say after a crash.
    for mine in (stages.old, stages.during):
        for theirs, trusts in ((stages.old, stages.both_roots), (stages.during, stages.old_root)):
            assert await meet(mine, trusts, theirs, stages.old_root)
    for mine in (stages.during, stages.after):
        for theirs in (stages.during, stages.after):
            for trusts in (stages.old_root, stages.new_root):
                assert await meet(mine, stages.new_root, theirs, trusts)


async def test_in_the_end_the_old_root_is_believed_no_longer() -> None:
    stages = Stages()
    assert not await meet(stages.after, stages.new_root, stages.old, stages.new_root)
    with pytest.raises(Unauthenticated):
        CertificateAuthenticator(lambda: Trust(stages.new_root))(stages.old[0])


def test_a_node_is_no_authority() -> None:
    """Its key signs a certificate for somebody else, and its own certificate stands in the chain."""
    stages = Stages()
    request, _ = create_request()
    forged = Signer(stages.after[0], stages.after[1], stages.after[0])
    chain = forged.sign(request, "n2", NodeRole.NODE_ROLE_MANAGER, "c1")
    with pytest.raises(Unauthenticated):
        CertificateAuthenticator(lambda: Trust(stages.new_root))(chain)


def test_joiners_find_the_root_that_their_token_names() -> None:
    root = new_root()
    old = JoinToken.parse(root.join_tokens.worker).digest
    rotation.begin(root, CaConfig(), NOW)
    during, _ = node_of(root)
    assert root.join_tokens.worker.split("-")[2] == old
    rotation.finish(root)
    new = JoinToken.parse(root.join_tokens.worker).digest
    assert (new, new != old) == (root.digest, True)
    pems = [part + b"-----END CERTIFICATE-----\n" for part in during.split(b"-----END CERTIFICATE-----\n")[:-1]]
    assert {old, new} <= {root_digest(pem) for pem in pems}


async def test_the_newest_root_wins_and_nodes_of_all_stages_believe_each_other() -> None:
    root = new_root()
    trusted, old = root.certificate, node_of(root)
    stages = [old]
    for _ in range(2):
        rotation.begin(root, CaConfig(), NOW)
        stages.append(node_of(root))
    both = trusted + root.rotation.certificate
    for mine in stages:
        for theirs in stages:
            assert await meet(mine, both, theirs, trusted)
    given_up, newest = stages[1:]
    rotation.finish(root)
    assert await meet(newest, root.certificate, newest, root.certificate)
    assert not await meet(newest, root.certificate, given_up, root.certificate)


def test_one_can_go_back_to_the_root_that_is_trusted() -> None:
    certificate, key = create_root("ours")
    root = RootCa(certificate=certificate, private_key=key)
    before = RootCa()
    before.CopyFrom(root)
    given = CaConfig(signing_certificate=certificate, signing_key=key)
    with pytest.raises(InvalidArgument, match="it is the root already"):
        rotation.begin(root, given, NOW)
    rotation.begin(root, CaConfig(), NOW)
    rotation.begin(root, given, NOW)
    chain, _ = node_of(root)
    assert chain.count(certificate) == 1
    rotation.finish(root)
    # Join tokens, too: nothing has changed in the end.
    assert root == before


async def test_nodes_are_told_again_when_another_root_is_asked_for() -> None:
    store, root = Store(), new_root()
    LocalProposer(store)
    await store.update(lambda tx: tx.create(Cluster(id="c1", root_ca=root)))
    node = Node(id="n1")
    await store.update(lambda tx: tx.create(node))
    rotator = asyncio.create_task(RootRotator(store).run())

    async def until(condition: Callable[[], bool]) -> None:
        with store.watch() as changes:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    await changes.next()

    def stored() -> Node:
        found = store.nodes.get("n1")
        assert found is not None
        return found

    async def begin(asked: CaConfig) -> None:
        def change(tx: Transaction) -> None:
            changed = Cluster()
            changed.CopyFrom(next(iter(tx.clusters)))
            rotation.begin(changed.root_ca, asked, NOW)
            tx.update(changed)

        await store.update(change)

    async def renew() -> bytes:
        """As the CA does for a node that asks."""
        cluster = store.cluster
        assert cluster is not None
        chain, _ = node_of(cluster.root_ca)

        def change(tx: Transaction) -> None:
            changed = Node()
            changed.CopyFrom(stored())
            changed.certificate.state, changed.certificate.certificate_chain = Certificate.STATE_ISSUED, chain
            tx.update(changed)

        await store.update(change)
        return chain

    async def tell(chain: bytes) -> None:
        """As the node does that has taken over its certificate."""
        issuer = x509_facts.read_issuer(chain)

        def change(tx: Transaction) -> None:
            changed = Node()
            changed.CopyFrom(stored())
            told = changed.description.tls_info
            told.issuer_subject, told.issuer_public_key = issuer.subject_der, issuer.public_key_der
            tx.update(changed)

        await store.update(change)

    try:
        for goes_back in (False, True):
            asked = CaConfig()
            if goes_back:
                asked.signing_certificate, asked.signing_key = root.certificate, root.private_key
            await begin(CaConfig())
            await until(lambda: stored().certificate.state == Certificate.STATE_ROTATE)
            given_up = await renew()
            await begin(asked)
            await until(lambda: stored().certificate.state == Certificate.STATE_ROTATE)
            await tell(given_up)
            chain = await renew()
            assert store.cluster is not None
            assert store.cluster.root_ca.HasField("rotation")
            await tell(chain)
            await until(lambda: store.cluster is not None and not store.cluster.root_ca.HasField("rotation"))
            assert store.cluster.root_ca.certificate in chain
            assert (store.cluster.root_ca.certificate == root.certificate) == goes_back
            root.CopyFrom(store.cluster.root_ca)
    finally:
        rotator.cancel()
        with suppress(asyncio.CancelledError):
            await rotator


async def test_a_manager_whose_store_is_behind_believes_its_own_root_until_the_store_knows_it() -> None:
    stages = Stages()
    store = Store()
    LocalProposer(store)
    trust = ClusterTrust(store, stages.new_root)
    behind = RootCa(certificate=stages.old_root, join_tokens=stages.root.join_tokens)
    cluster = Cluster(id="c1", root_ca=behind)
    await store.update(lambda tx: tx.create(cluster))
    assert trust().root_pem == stages.old_root + stages.new_root

    def catch_up(tx: object) -> None:
        ahead = Cluster()
        ahead.CopyFrom(store.cluster)  # type: ignore[arg-type]
        ahead.root_ca.CopyFrom(stages.root)
        tx.update(ahead)  # type: ignore[attr-defined]

    await store.update(catch_up)
    assert trust().root_pem == stages.new_root
