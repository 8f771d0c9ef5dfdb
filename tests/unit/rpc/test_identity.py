"""A node's files on disk: replaced as a whole, whenever the power goes."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from flota.manager.ca.certificates import Signer, create_request, create_root
from flota.rpc.identity import Identity
from flota.v1.types_pb2 import NodeRole

ROOT_PEM, ROOT_KEY = create_root()


def issue(node_id: str) -> tuple[bytes, bytes, bytes]:
    csr, key = create_request()
    chain = Signer(ROOT_PEM, ROOT_KEY).sign(csr, node_id, NodeRole.NODE_ROLE_WORKER, "c1")
    return chain, key, ROOT_PEM


def fits(identity: Identity) -> bool:
    key = load_pem_private_key(identity.key_pem, None)
    shown = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return key.public_key().public_bytes(*shown) == identity.certificate.public_key().public_bytes(*shown)


def test_what_is_stored_is_read_and_a_replacement_is_noticed_once(tmp_path: Path) -> None:
    Identity.store(tmp_path / "identity", *issue("n1"))
    identity = Identity(tmp_path / "identity")
    assert (identity.node_id, identity.cluster_id, identity.is_manager) == ("n1", "c1", False)
    assert not identity.reload()
    Identity.store(tmp_path / "identity", *issue("n2"))
    assert identity.reload()
    assert identity.node_id == "n2"
    assert fits(identity)
    assert not identity.reload()
    assert {path.name for path in (tmp_path / "identity").iterdir()} == {"cert.pem", "key.pem", "root.pem"}
    assert (tmp_path / "identity/key.pem").stat().st_mode & 0o077 == 0


class PowerLoss(BaseException):
    pass


@pytest.mark.parametrize("steps", range(8))
def test_a_replacement_that_is_cut_short_leaves_the_old_or_the_new_identity(
    tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "identity"
    Identity.store(directory, *issue("old"))
    left = steps
    rename, sync = Path.rename, os.fsync

    def step() -> None:
        nonlocal left
        if not left:
            raise PowerLoss
        left -= 1

    def renaming(path: Path, target: Path) -> Path:
        step()
        return rename(path, target)

    def syncing(descriptor: int) -> None:
        step()
        sync(descriptor)

    monkeypatch.setattr(Path, "rename", renaming)
    monkeypatch.setattr(os, "fsync", syncing)
    with pytest.raises(PowerLoss):
        Identity.store(directory, *issue("new"))
    monkeypatch.undo()
    Identity.finish(directory)
    identity = Identity(directory)
    # Three files synced and the mark renamed: from there on it is the new one.
    assert identity.node_id == ("old" if steps < 4 else "new")
    assert fits(identity)
    assert len(list(directory.iterdir())) == 3


def test_there_is_nothing_to_finish_where_nothing_is(tmp_path: Path) -> None:
    Identity.finish(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
