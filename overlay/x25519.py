"""X25519 keys (RFC 7748) from the OpenSSL that Python's own ssl module has loaded already.

The `cryptography` package brings an OpenSSL of its own, 7 MiB in a worker that needs nothing else of it. Where
there is no libcrypto of a version known here, it is used after all.
"""

import ctypes
import os
from functools import cache

_LIBRARY = "libcrypto.so.3"
_SIZE = 32
# EVP_PKEY_X25519, evp.h.
_X25519 = 1034


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    library.EVP_PKEY_new_raw_private_key.restype = ctypes.c_void_p
    library.EVP_PKEY_new_raw_private_key.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    library.EVP_PKEY_get_raw_public_key.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.POINTER(ctypes.c_size_t),
    ]
    library.EVP_PKEY_free.argtypes = [ctypes.c_void_p]
    return library


def new_private() -> bytes:
    """A private key: any 32 bytes are one, with the bits set that make it a multiple of the cofactor (section 5)."""
    key = bytearray(os.urandom(_SIZE))
    key[0] &= 248
    key[31] = key[31] & 127 | 64
    return bytes(key)


def public_of(private: bytes) -> bytes:
    """The public half. Raises ValueError when `private` is no key."""
    if len(private) != _SIZE:
        raise ValueError(f"an X25519 key has {_SIZE} bytes, not {len(private)}")
    library = _library()
    if library is None:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    key = library.EVP_PKEY_new_raw_private_key(_X25519, None, private, _SIZE)
    if not key:
        raise ValueError("OpenSSL takes this for no X25519 key")
    try:
        public, size = ctypes.create_string_buffer(_SIZE), ctypes.c_size_t(_SIZE)
        if library.EVP_PKEY_get_raw_public_key(key, public, ctypes.byref(size)) != 1:
            raise ValueError("OpenSSL gives no public half of an X25519 key")
        return public.raw
    finally:
        library.EVP_PKEY_free(key)
