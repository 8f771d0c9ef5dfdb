"""Programs that tasks and clients of the overlay's tests run."""

# Says its task's name and whom it sees, over TCP and UDP (port 53) of both IP versions; then echoes for as long as the
# other side likes.
SERVER = """
import socket, threading
def seen(a): return a[0].removeprefix("::ffff:")
def serve(c, a):
    try:
        c.sendall(f"{name} {{seen(a)}}\\n".encode())
        while d := c.recv(99): c.sendall(d)
    except OSError: pass
    c.close()
def udp():
    u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); u.bind(("::", 53))
    while True:
        d, a = u.recvfrom(99); u.sendto(f"{name} {{seen(a)}}".encode(), a)
threading.Thread(target=udp, daemon=True).start()
s = socket.create_server(("::", {port}), family=socket.AF_INET6, dualstack_ipv6=True, backlog=100)
print("ready")
while True:
    c, a = s.accept(); threading.Thread(target=serve, args=(c, a), daemon=True).start()
"""
ASK = """
import socket
for _ in range({count}):
    try:
        c = socket.create_connection(("{address}", {port}), 20); print(c.recv(99).decode().strip()); c.close()
    except OSError as error: print(type(error).__name__)
"""
ASK_UDP = """
import socket
family = socket.AF_INET6 if ":" in "{address}" else socket.AF_INET
u = socket.socket(family, socket.SOCK_DGRAM); u.settimeout(20)
u.connect(("{address}", {port})); u.send(b"hello")
try: print(u.recv(99).decode())
except OSError as error: print(type(error).__name__)
"""
# Holds a connection to each of two tasks behind {address}:8080; told the name of one it says what has become of it.
HOLD = """
import socket, sys
held = {{}}
while len(held) < 2:
    c = socket.create_connection(("{address}", 8080), 30); c.settimeout(30)
    held[c.recv(99).split()[0].decode()] = c
print("holding")
for line in sys.stdin:
    try: c = held[line.strip()]; c.sendall(b"there?"); print(c.recv(99).decode() or "closed")
    except OSError as error: print(type(error).__name__)
"""
# Sends an answer of 4 MiB to whoever connects to port 80; READ prints how much of it arrives at {address}:8080.
SEND = """
import socket
server = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True); print("ready")
while True:
    c, _ = server.accept(); c.sendall(bytes(4 << 20)); c.close()
"""
READ = """
import socket; c = socket.create_connection(("{address}", 8080), 20); n = 0
while d := c.recv(1 << 16): n += len(d)
print(n)
"""
