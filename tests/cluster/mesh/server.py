"""An HTTP server that answers everything with its host's name and whom it sees, for tests that count every request.

Told to stop it answers whom the kernel has accepted for it, listens no longer from that moment on, and ends.
"""

import asyncio
import signal
import socket
import sys

BACKLOG = 1024


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    name = socket.gethostname()
    listener = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    listener.setblocking(False)
    work: set[asyncio.Task[None]] = set()

    async def serve(client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.0 200 OK\r\n\r\n{name} {client.getpeername()[0]}\n".encode())
            await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            task = asyncio.create_task(serve(client))
            work.add(task)
            task.add_done_callback(work.discard)

    loop.add_reader(listener, accept)
    told = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()
    loop.remove_reader(listener)
    accept()
    listener.close()
    await asyncio.gather(*work)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
