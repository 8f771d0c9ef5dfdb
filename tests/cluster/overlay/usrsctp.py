"""SCTP without the kernel's: Debian's libusrsctp over raw sockets. Run as a program, with the library's path:

usrsctp.py LIBRARY serve ADDRESS PORT: says "ready"; each message comes back with whom it came from before it.
usrsctp.py LIBRARY ask ADDRESS PORT TEXT…: says what each text was answered; then the association is shut down.

Bound to one address an end tells its peer of no other ones (RFC 9260, 5.1.2): behind a translated address nobody could
reach them.
"""

import ctypes
import os
import socket
import struct
import sys
from typing import Any

SCTP, ROOM = 132, 65536


class Library:
    """The few calls that are needed. Their errors are OSError."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path, use_errno=True)
        for name in ("usrsctp_socket", "usrsctp_accept"):
            getattr(self._library, name).restype = ctypes.c_void_p
        self._library.usrsctp_init(0, None, None)

    def call(self, name: str, *arguments: Any) -> int:
        done = getattr(self._library, f"usrsctp_{name}")(*arguments)
        if done is None or done < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")
        return int(done)

    def socket(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.call("socket", socket.AF_INET, socket.SOCK_STREAM, SCTP, None, None, 0, None))

    def accept(self, listener: ctypes.c_void_p) -> tuple[ctypes.c_void_p, str]:
        """A connection and whose it is."""
        peer, length = ctypes.create_string_buffer(16), ctypes.c_uint(16)
        accepted = ctypes.c_void_p(self.call("accept", listener, peer, ctypes.byref(length)))
        return accepted, socket.inet_ntoa(peer.raw[4:8])

    def send(self, connection: ctypes.c_void_p, data: bytes) -> None:
        self.call("sendv", connection, data, ctypes.c_size_t(len(data)), None, 0, None, 0, 0, 0)

    def close(self, connection: ctypes.c_void_p) -> None:
        self._library.usrsctp_close(connection)

    def receive(self, connection: ctypes.c_void_p) -> bytes:
        """A message; empty at the end."""
        data, peer, length = ctypes.create_string_buffer(ROOM), ctypes.create_string_buffer(16), ctypes.c_uint(16)
        unused = [ctypes.c_uint(0) for _ in range(3)]
        count = self.call(
            "recvv",
            connection,
            data,
            ctypes.c_size_t(ROOM),
            peer,
            ctypes.byref(length),
            None,
            *map(ctypes.byref, unused),
        )
        return data.raw[:count]


def place(address: str, port: str) -> tuple[ctypes.Array[ctypes.c_char], int]:
    packed = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", int(port), socket.inet_aton(address))
    return ctypes.create_string_buffer(packed, 16), 16


def serve(library: Library, address: str, port: str) -> None:
    listener = library.socket()
    library.call("bind", listener, *place(address, port))
    library.call("listen", listener, 5)
    print("ready", flush=True)
    while True:
        connection, peer = library.accept(listener)
        while message := library.receive(connection):
            library.send(connection, f"{peer} ".encode() + message)
        library.close(connection)


def ask(library: Library, address: str, port: str, *texts: str) -> None:
    connection = library.socket()
    library.call("connect", connection, *place(address, port))
    for text in texts:
        library.send(connection, text.encode())
        print(library.receive(connection).decode(), flush=True)
    library.call("shutdown", connection, socket.SHUT_WR)
    print(library.receive(connection) == b"")


if __name__ == "__main__":
    {"serve": serve, "ask": ask}[sys.argv[2]](Library(sys.argv[1]), *sys.argv[3:])
