"""Another root takes over: what is signed, who is believed, and when it ends."""

import grpc.aio
import pytest

from flota.manager.ca import rotation
from flota.manager.ca.certificates import Signer, create_request, create_root
from flota.manager.store import LocalProposer, Store
from flota.manager.trust import ClusterTrust
from flota.rpc.authentication import CertificateAuthenticator
from flota.rpc.callers import Trust
from flota.rpc.errors import FailedPrecondition, InvalidArgument, Unauthenticated
from flota.rpc.tokens import JoinToken, root_digest
from flota.v1.objects_pb2 import Cluster, RootCa
from flota.v1.specs_pb2 import CaConfig
from flota.v1.types_pb2 import NodeRole


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
        rotation.begin(root, CaConfig())
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
    rotation.begin(root, CaConfig())
    during, _ = node_of(root)
    assert root.join_tokens.worker.split("-")[2] == old
    rotation.finish(root)
    new = JoinToken.parse(root.join_tokens.worker).digest
    assert (new, new != old) == (root.digest, True)
    pems = [part + b"-----END CERTIFICATE-----\n" for part in during.split(b"-----END CERTIFICATE-----\n")[:-1]]
    assert {old, new} <= {root_digest(pem) for pem in pems}


def test_one_rotation_at_a_time() -> None:
    root = new_root()
    rotation.begin(root, CaConfig())
    with pytest.raises(FailedPrecondition, match="being rotated already"):
        rotation.begin(root, CaConfig())


def test_a_root_of_ones_own() -> None:
    certificate, key = create_root("ours")
    root = new_root()
    rotation.begin(root, CaConfig(signing_certificate=certificate, signing_key=key))
    assert root.rotation.certificate == certificate


def test_what_is_no_root_is_refused() -> None:
    certificate, key = create_root("ours")
    _, other_key = create_root("theirs")
    leaf, leaf_key = node_of(new_root())
    for pem, key_pem, words in (
        (certificate, b"", "both or neither"),
        (b"nonsense", key, "a PEM certificate of an authority"),
        (certificate, other_key, "not the key of the certificate"),
        (leaf, leaf_key, "not the certificate of an authority"),
    ):
        with pytest.raises(InvalidArgument, match=words):
            rotation.begin(new_root(), CaConfig(signing_certificate=pem, signing_key=key_pem))


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
