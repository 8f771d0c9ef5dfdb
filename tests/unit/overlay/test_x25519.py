"""Keys from the loaded OpenSSL are those that another implementation has."""

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as some

from flota.overlay import x25519


def expected(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


@given(some.binary(min_size=32, max_size=32))
def test_the_public_half_is_that_of_another_implementation(private: bytes) -> None:
    assert x25519.public_of(private) == expected(private)


def test_without_a_known_openssl_the_other_implementation_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    private = x25519.new_private()
    with_library = x25519.public_of(private)
    monkeypatch.setattr(x25519, "_library", lambda: None)
    assert x25519.public_of(private) == with_library


def test_new_keys_differ_and_are_clamped() -> None:
    keys = {x25519.new_private() for _ in range(50)}
    assert len(keys) == 50
    assert all(key[0] % 8 == 0 and 64 <= key[31] < 128 for key in keys)


def test_what_is_no_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        x25519.public_of(bytes(31))
