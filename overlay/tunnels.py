"""The WireGuard mesh of one node, which carries its encrypted networks.

    network's namespace          tunnels' namespace (RUN/tunnels/netns)      node's namespace
    vxlan0 ──(its UDP socket)──► route fd7a:f107::/32 ──► fwXXX ──(its UDP socket)──► other nodes, port 51820 or 51821

VXLAN of encrypted networks lives in a namespace whose only ways out are WireGuard devices: nothing of theirs can leave
in the clear, and nothing that was not encrypted by a peer can come in. WireGuard's own sockets stay in the node's
namespace. The kernel's WireGuard is used where there is one, else wireguard-go; wg(8) speaks to both. The mesh is there
while an encrypted network is, knows only nodes on such networks, and outlives the worker as networks do.

Blocking: belongs on the overlay's kernel thread. What keys and addresses are is tunnel_keys.py's business.
"""

import base64
import errno
import hashlib
import logging
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from flota.overlay import namespaces, netlink
from flota.overlay.addresses import version_of
from flota.overlay.errors import EncryptionUnavailable, KernelRefused
from flota.overlay.foreign_sockets import widen
from flota.overlay.links import address_on, kind, link_removal, link_up, new_link, prefix_route
from flota.overlay.netlink import RouteSocket
from flota.overlay.steering import steer
from flota.overlay.tunnel_keys import (
    PREFIX,
    PREFIX_LENGTH,
    OwnKey,
    OwnKeys,
    changes,
    configuration,
    tunnel_address,
    tunnel_mtu,
)
from flota.v1.types_pb2 import TunnelKey

log = logging.getLogger(__name__)

KERNEL, PROGRAM = "kernel", "wireguard-go"
_SOCKETS = Path("/var/run/wireguard")
# Seconds for a command that takes some milliseconds.
_LIMIT = 20


class Tunnels:
    """See the module's docstring. `home` is the node's namespace, `address` its VXLAN endpoint's, `mtu` its link's."""

    def __init__(self, run_directory: Path, home: int, address: str, mtu: int) -> None:
        self._directory = run_directory / "tunnels"
        self._home = home
        self._address = address
        self._mtu = tunnel_mtu(mtu, version_of(address))
        digest = hashlib.sha256(os.fsencode(run_directory.resolve())).hexdigest()[:10]
        # Names of devices are one per machine: wireguard-go's sockets are called after them.
        self._names = tuple(f"fw{number}{digest}" for number in (0, 1))
        self._peers: dict[str, tuple[TunnelKey, ...]] = {}
        self._configured: dict[str, str] = {}
        # Those that this worker has started.
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.keys = self._load()

    @property
    def namespace(self) -> Path:
        """Where VXLAN devices of encrypted networks have their sockets."""
        return self._directory / "netns"

    @property
    def is_up(self) -> bool:
        """Whether the mesh is there."""
        return namespaces.kept(self.namespace)

    def implementation(self) -> str:
        """What carries encrypted networks on this machine; "" if nothing can."""
        if shutil.which("wg") is None:
            return ""
        try:
            with RouteSocket() as node:
                node.send(
                    [new_link("trial of WireGuard", [("IFLA_IFNAME", self._trial), kind("wireguard", [])], up=False)]
                )
                node.send([link_removal(self._trial)])
            return KERNEL
        except KernelRefused as refusal:
            if refusal.errno == errno.EEXIST:
                return KERNEL
        return PROGRAM if shutil.which(PROGRAM) is not None and os.path.exists("/dev/net/tun") else ""

    @property
    def _trial(self) -> str:
        return self._names[0].replace("fw0", "fwt")

    def require(self) -> None:
        """Have the mesh. Raises EncryptionUnavailable, KernelRefused; nothing is left then."""
        if self.is_up:
            return
        found = self.implementation()
        if not found:
            raise EncryptionUnavailable
        self.remove()
        self._directory.mkdir(parents=True, exist_ok=True)
        with namespaces.created(self.namespace, self._home), RouteSocket() as routes:
            namespaces.set_sysctl("ipv6.conf.all.disable_ipv6", "0")
            namespaces.set_sysctl("ipv6.conf.default.accept_dad", "0")
            routes.send([link_up(1, "lo")])
        try:
            for key in self.keys.keys:
                self._add_device(key, found)
            self._route()
            self._configure()
        except BaseException:
            self.remove()
            raise

    def remember(self, network_ids: Iterable[str]) -> None:
        """Write down which networks are encrypted, for a worker that starts again."""
        (self._directory / "networks").write_text("\n".join(sorted(network_ids)))

    def recall(self) -> set[str]:
        """What `remember` wrote down."""
        file = self._directory / "networks"
        return set(file.read_text().split()) if file.exists() else set()

    def repair(self) -> None:
        """Make devices again that are gone, because a wireguard-go ended. Raises OverlayError."""
        if not self.is_up:
            return
        with namespaces.entered(self.namespace, self._home), RouteSocket() as routes:
            there = routes.links()
        gone = [key for key in self.keys.keys if self._name(key) not in there]
        for key in gone:
            log.warning("WireGuard device %s is gone: making it again", self._name(key))
            self._remove_device(self._name(key))
            self._add_device(key, self.implementation())
        if gone:
            self._route()
            self._configure()
        self._widen()

    def program(self, peers: Mapping[str, Sequence[TunnelKey]]) -> None:
        """Make these (VXLAN endpoint → keys) be the nodes that this one has tunnels to."""
        self._peers = {vtep: tuple(keys) for vtep, keys in peers.items() if vtep != self._address}
        self.repair()
        if self.is_up:
            self._configure()

    def greeted(self) -> set[bytes]:
        """Public keys of others with which there is a session, for what is sent from here. Raises KernelRefused."""
        if not self.is_up:
            return set()
        sending = next(key for key in self.keys.keys if key.generation == self.keys.sending)
        with namespaces.entered(self.namespace, self._home):
            shown = _run(["wg", "show", self._name(sending), "latest-handshakes"])
        pairs = (line.split() for line in shown.splitlines())
        return {base64.b64decode(key) for key, when in pairs if when != "0"}

    def change(self, keys: OwnKeys) -> None:
        """Go one step on in the life of the node's keys."""
        old, self.keys = self.keys, keys
        self._save()
        if not self.is_up:
            return
        for key in keys.keys:
            if key not in old.keys:
                self._remove_device(self._name(key))
                self._add_device(key, self.implementation())
        self._configure()
        self._route()
        for key in old.keys:
            if key not in keys.keys:
                self._remove_device(self._name(key))

    def remove(self) -> None:
        """Take the mesh away, whole or not."""
        for name in self._names:
            self._remove_device(name)
        namespaces.forget(self.namespace)
        self._configured.clear()

    def _name(self, key: OwnKey) -> str:
        return self._names[key.generation % 2]

    def _add_device(self, key: OwnKey, found: str) -> None:
        name, address = self._name(key), tunnel_address(self._address, key.generation)
        descriptor = os.open(self.namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with RouteSocket() as node:
                there = ("IFLA_NET_NS_FD", descriptor)
                named = [("IFLA_IFNAME", name), ("IFLA_MTU", self._mtu)]
                if found == KERNEL:
                    node.send([new_link(f"WireGuard device {name}", [*named, there, kind("wireguard", [])], up=False)])
                else:
                    self._start(name)
                    what = f"WireGuard device {name}"
                    node.send([netlink.message(netlink.RTM_NEWLINK, 0, what, attributes=[*named])])
                    node.send([netlink.message(netlink.RTM_NEWLINK, 0, what, attributes=[named[0], there])])
        finally:
            os.close(descriptor)
        with namespaces.entered(self.namespace, self._home), RouteSocket() as routes:
            index = routes.link(name) or 0
            routes.send([address_on(index, f"{address}/128", name), link_up(index, name)])
            if found == PROGRAM:
                try:
                    steer(name)
                except OSError as error:
                    log.warning("WireGuard device %s: one thread takes in all it receives: %s", name, error)
        self._configured.pop(name, None)

    def _start(self, name: str) -> None:
        """Run wireguard-go; it goes on when the worker stops. Raises KernelRefused."""
        with open(self._directory / f"{name}.log", "wb") as said:
            process = subprocess.Popen(
                [PROGRAM, "--foreground", name], stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                start_new_session=True, env={**os.environ, "LOG_LEVEL": "error"},
            )  # fmt: skip
        self._processes[name] = process
        end = time.monotonic() + _LIMIT
        while not _listens(_SOCKETS / f"{name}.sock"):
            if process.poll() is not None or time.monotonic() > end:
                words = (self._directory / f"{name}.log").read_text(errors="replace").strip().splitlines()
                raise KernelRefused(f"{PROGRAM} {name}", 0, words[-1] if words else "it does not answer")
            time.sleep(0.005)

    def _remove_device(self, name: str) -> None:
        self._configured.pop(name, None)
        # The end of its socket is the end of wireguard-go.
        with suppress(OSError):
            (_SOCKETS / f"{name}.sock").unlink()
        with RouteSocket() as node:
            node.send([link_removal(name)])
        if self.is_up:
            with namespaces.entered(self.namespace, self._home), RouteSocket() as routes:
                routes.send([link_removal(name)])
        process = self._processes.pop(name, None)
        if process is not None:
            process.terminate()
            process.wait()

    def _route(self) -> None:
        """Packets leave with the key that is in use: by its device, under its address."""
        sending = next(key for key in self.keys.keys if key.generation == self.keys.sending)
        with namespaces.entered(self.namespace, self._home), RouteSocket() as routes:
            index = routes.link(self._name(sending)) or 0
            source = tunnel_address(self._address, sending.generation)
            routes.send([prefix_route(index, f"{PREFIX}/{PREFIX_LENGTH}", source)])

    def _configure(self) -> None:
        peers = [(vtep, key) for vtep, keys in self._peers.items() for key in keys]
        for own in self.keys.keys:
            name, text = self._name(own), configuration(own, peers)
            if self._configured.get(name) == text:
                continue
            # What is said of a peer again (as syncconf does) takes its addresses away for a moment, and costs a packet.
            said, gone = changes(self._configured.get(name, ""), text)
            file = self._directory / f"{name}.conf"
            _write_secret(file, said)
            try:
                with namespaces.entered(self.namespace, self._home):
                    _run(["wg", "syncconf" if said == text else "addconf", name, str(file)])
                    if gone:
                        _run(["wg", "set", name, *(word for key in gone for word in ("peer", key, "remove"))])
            finally:
                file.unlink(missing_ok=True)
            self._configured[name] = text

    def _widen(self) -> None:
        """Give each wireguard-go larger buffers. It opens its sockets when it notices that its device is up: soon."""
        for process in self._processes.values():
            try:
                widen(process.pid)
            except OSError as error:
                log.warning("%s keeps small buffers, and may lose packets when it is busy: %s", PROGRAM, error)

    def _load(self) -> OwnKeys:
        try:
            return OwnKeys.read((self._directory / "keys").read_text())
        except FileNotFoundError:
            pass
        except ValueError as error:
            log.warning("the node's keys are made anew: %s", error)
        self.keys = OwnKeys.first(time.time())
        self._save()
        return self.keys

    def _save(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        _write_secret(self._directory / "keys", self.keys.write())


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelRefused(command[0], 0, str(error)) from None
    if done.returncode:
        raise KernelRefused(" ".join(command[:3]), 0, done.stderr.strip() or f"exit status {done.returncode}")
    return done.stdout


def _listens(file: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        try:
            trial.connect(os.fspath(file))
        except OSError:
            return False
    return True


def _write_secret(file: Path, text: str) -> None:
    scratch = file.with_name(f"{file.name}.new")
    scratch.unlink(missing_ok=True)
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w") as stream:
        stream.write(text)
    scratch.replace(file)
