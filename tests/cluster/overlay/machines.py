"""Nodes for the overlay's cluster tests: network namespaces on one bridge, each with a process that runs a Network.

Names begin with `ovt`. Everything is taken away at the end, also what a crashed node left behind.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flota.v1.dispatcher_pb2 import AssignmentChange, AssignmentsMessage, NetworkPeer, NetworkService
from flota.v1.network_options import is_encrypted
from flota.v1.objects_pb2 import Network, Task
from flota.v1.specs_pb2 import NetworkSpec, TaskSpec
from flota.v1.types_pb2 import Annotations, IpamConfig, NetworkAttachment, TunnelKey

NODE = Path(__file__).with_name("node.py")


def run(*command: str, check: bool = True, timeout: float = 60) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def network(number: int, name: str, **spec: Any) -> Network:
    """Network 10.90.`number`.0/24 with VNI 5000 + `number`; with `ipv6_enabled` fd00:90:`number`::/64 too."""
    ipam = [IpamConfig(subnet=f"10.90.{number}.0/24", gateway=f"10.90.{number}.1")]
    if spec.get("ipv6_enabled"):
        ipam.append(IpamConfig(subnet=f"fd00:90:{number}::/64", gateway=f"fd00:90:{number}::1"))
    return Network(
        id=f"{number:03d}net".ljust(25, "0"),
        spec=NetworkSpec(annotations=Annotations(name=name), **spec),
        ipam=ipam,
        vni=5000 + number,
    )


def task(task_id: str, service: str, slot: int, *places: tuple[Network, *tuple[str, ...]]) -> Task:
    """A task of `service` with addresses on each of `places`."""
    return Task(
        id=task_id.ljust(25, "0"),
        service_id=f"svc{service}",
        slot=slot,
        service_annotations=Annotations(name=service),
        spec=TaskSpec(),
        networks=[NetworkAttachment(network_id=place.id, addresses=addresses) for place, *addresses in places],
    )


class Node:
    """One machine: a namespace and the process in it."""

    def __init__(self, name: str, address: str, port: int, directory: Path) -> None:
        self.name = name
        self.address = address
        self.ipv6_address = f"2001:db8::{name.rsplit('-', 1)[-1]}"
        self.node_id = f"node{name.rsplit('-', 1)[-1]}"
        self.run_directory = directory / name
        self.run_directory.mkdir()
        self.resolv_conf = directory / f"{name}.resolv.conf"
        self.resolv_conf.write_text("")
        self._port = port
        self.start()

    def start(self, linger: float = 0) -> None:
        """Start the process (again); networks that nobody is on stay for `linger` seconds."""
        self._process = subprocess.Popen(
            [
                *("nsenter", f"--net=/run/netns/{self.name}", sys.executable, str(NODE), str(self.run_directory)),
                *(self.address, str(self._port), self.node_id, str(self.resolv_conf), str(linger)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == {"ready": True}

    def call(self, call: str, **arguments: Any) -> dict[str, Any]:
        """One request; its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"call": call, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def apply(self, *changes: AssignmentChange, complete: bool = False) -> float:
        kind = AssignmentsMessage.TYPE_COMPLETE if complete else AssignmentsMessage.TYPE_INCREMENTAL
        message = AssignmentsMessage(type=kind, changes=changes).SerializeToString().hex()
        return float(self.call("apply", message=message)["seconds"])

    def attach(self, *tasks: Task) -> dict[str, Any]:
        answer = self.call("attach", tasks=[one.SerializeToString().hex() for one in tasks])
        assert "error" not in answer, answer
        return answer

    def keys(self) -> list[TunnelKey]:
        """The keys of its WireGuard endpoint, as others hear of them."""
        return [TunnelKey.FromString(bytes.fromhex(key)) for key in self.call("keys")["keys"]]

    def sending(self) -> int:
        """The generation of the key it sends with."""
        return int(self.call("keys")["sending"])

    def detach(self, *tasks: Task) -> None:
        self.call("detach", tasks=[one.id for one in tasks])

    def stop(self) -> None:
        """An orderly end of the process."""
        self.call("stop")
        assert self._process.wait(60) == 0
        self._close()

    def crash(self) -> None:
        """The process is gone without a word."""
        self._process.kill()
        self._process.wait()
        self._close()

    def sh(self, command: str, check: bool = True) -> str:
        """A shell command in the node's own namespace."""
        return run("nsenter", f"--net=/run/netns/{self.name}", "sh", "-c", command, check=check)

    def inside(self, where: Task, command: str, check: bool = True) -> str:
        """A shell command in a task's namespace, with the resolv.conf that its container would have."""
        netns = self.run_directory / "netns" / where.id
        resolv_conf = self.run_directory / "container.resolv.conf"
        resolv_conf.write_text("nameserver 127.0.0.11\noptions ndots:0 timeout:2 attempts:1\n")
        script = f"mount --bind {resolv_conf} $(readlink -f /etc/resolv.conf) && {command}"
        return run("nsenter", f"--net={netns}", "unshare", "-m", "sh", "-c", script, check=check)

    def python(self, where: Task, script: str, check: bool = True) -> str:
        """A Python script in a task's namespace."""
        file = self.run_directory / "script.py"
        file.write_text(script)
        return self.inside(where, f"{sys.executable} {file}", check=check)

    def pings(self, where: Task, target: str) -> bool:
        done = self.inside(where, f"busybox ping -c 1 -W 1 {target} >/dev/null && echo yes || echo no")
        return done.strip() == "yes"

    def is_idle(self, where: Task) -> bool:
        """Whether a task has no TCP connection, not even one that its program has not accepted yet."""
        states = " ".join(f"state {one}" for one in ("established", "syn-recv", "close-wait", "fin-wait-1", "last-ack"))
        return not self.inside(where, f"ss -Htn {states}")

    def resolve(self, where: Task, name: str, kind: str = "A", tcp: bool = False) -> list[str]:
        """Data of the answer's records, sorted; or the name of the error."""
        script = (
            "from dnslib import DNSRecord, RCODE\n"
            f"q = DNSRecord.question({name!r}, {kind!r})\n"
            f"r = DNSRecord.parse(q.send('127.0.0.11', 53, tcp={tcp}, timeout=30))\n"
            "print(RCODE[r.header.rcode], *sorted(str(x.rdata) for x in r.rr))\n"
        )
        code, *data = self.python(where, script).split()
        return data if code == "NOERROR" else [code]

    def background(self, where: Task, script: str) -> subprocess.Popen[str]:
        """A Python script that goes on in a task's namespace; it must print a line when it is ready."""
        netns = self.run_directory / "netns" / where.id
        process = subprocess.Popen(
            ["nsenter", f"--net={netns}", sys.executable, "-u", "-c", script], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def end(self) -> None:
        if self._process.poll() is None:
            self.crash()
        netns = self.run_directory / "netns"
        for name in os.listdir(netns) if netns.is_dir() else []:
            run("umount", "-l", str(netns / name), check=False)
        run("umount", "-l", str(self.run_directory / "tunnels" / "netns"), check=False)
        for log in (self.run_directory / "tunnels").glob("fw*.log"):
            # The end of its socket is the end of wireguard-go.
            Path(f"/var/run/wireguard/{log.stem}.sock").unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        timer = threading.Timer(60, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            timer.cancel()
        assert line, f"node {self.name} is gone"
        result: dict[str, Any] = json.loads(line)
        return result

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Machines:
    """Some nodes on one underlay, 192.0.2.0/24 and 2001:db8::/64; their VXLAN endpoints are of IP `version`."""

    def __init__(self, directory: Path, count: int, port: int = 4789, mtu: int = 1500, version: int = 4) -> None:
        self.directory = directory
        self.prefix = f"ovt{os.getpid()}"
        self.wire = f"{self.prefix}-u"
        self.nodes: list[Node] = []
        run("ip", "netns", "add", self.wire)
        try:
            run("ip", "-n", self.wire, "link", "add", "bru", "type", "bridge")
            for address in ("192.0.2.254/24", "2001:db8::fe/64"):
                run("ip", "-n", self.wire, "addr", "add", address, "dev", "bru", "nodad")
            run("ip", "-n", self.wire, "link", "set", "bru", "up")
            for number in range(1, count + 1):
                self._add(number, port, mtu, version)
        except BaseException:
            self.close()
            raise

    def _add(self, number: int, port: int, mtu: int, version: int) -> None:
        name = f"{self.prefix}-{number}"
        run("ip", "netns", "add", name)
        link = ["ip", "link", "add", f"u{number}", "netns", self.wire, "mtu", str(mtu), "type", "veth"]
        run(*link, "peer", "name", "eth0", "netns", name, "mtu", str(mtu))
        run("ip", "-n", self.wire, "link", "set", f"u{number}", "master", "bru", "up")
        for address in (f"192.0.2.{number}/24", f"2001:db8::{number}/64"):
            run("ip", "-n", name, "addr", "add", address, "dev", "eth0", "nodad")
        for device in ("lo", "eth0"):
            run("ip", "-n", name, "link", "set", device, "up")
        address = f"192.0.2.{number}" if version == 4 else f"2001:db8::{number}"
        self.nodes.append(Node(name, address, port, self.directory))

    def apply(self, *changes: AssignmentChange, complete: bool = False) -> None:
        """The same changes for every node."""
        for node in self.nodes:
            node.apply(*changes, complete=complete)

    def resolver(self, node: Node, names: dict[str, str]) -> subprocess.Popen[str]:
        """A DNS server in a node's own namespace, port 53, that knows `names` and nothing else."""
        process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{node.name}", sys.executable, "-u", "-c", self.resolver_script(names)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        return process

    @staticmethod
    def resolver_script(names: dict[str, str]) -> str:
        """What such a server is; it says "ready"."""
        return (
            "import time\n"
            "from dnslib import A, RCODE, RR\n"
            "from dnslib.server import BaseResolver, DNSServer\n"
            "class Fixed(BaseResolver):\n"
            "    def resolve(self, request, handler):\n"
            f"        names = {names!r}\n"
            "        reply = request.reply(); name = str(request.q.qname).rstrip('.')\n"
            "        if name in names: reply.add_answer(RR(name, ttl=60, rdata=A(names[name])))\n"
            "        else: reply.header.rcode = RCODE.NXDOMAIN\n"
            "        return reply\n"
            "for tcp in (False, True): DNSServer(Fixed(), port=53, address='0.0.0.0', tcp=tcp).start_thread()\n"
            "print('ready'); time.sleep(600)\n"
        )

    def close(self) -> None:
        for node in self.nodes:
            node.end()
        for name in [*(node.name for node in self.nodes), self.wire]:
            for pid in run("ip", "netns", "pids", name, check=False).split():
                run("kill", "-9", pid, check=False)
            run("ip", "netns", "del", name, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)


def peer(of: Task, node: Node, place: Network, *, ready: bool = True, aliases: Iterable[str] = ()) -> NetworkPeer:
    """What the dispatcher would say about a task."""
    attachment = next(one for one in of.networks if one.network_id == place.id)
    name = of.service_annotations.name
    keys = node.keys() if is_encrypted(place.spec) else ()
    return NetworkPeer(
        tunnel_keys=keys,
        network_id=place.id,
        task_id=of.id,
        task_name=f"{name}.{of.slot}.{of.id}",
        service_id=of.service_id,
        service_name=name,
        slot=of.slot,
        aliases=aliases,
        addresses=attachment.addresses,
        node_id=node.node_id,
        vtep=node.address,
        ready=ready,
    )


def update(item: Network | NetworkPeer | NetworkService) -> AssignmentChange:
    return _change(item, AssignmentChange.ACTION_UPDATE)


def removal(item: Network | NetworkPeer | NetworkService) -> AssignmentChange:
    return _change(item, AssignmentChange.ACTION_REMOVE)


def _change(
    item: Network | NetworkPeer | NetworkService, action: AssignmentChange.Action.ValueType
) -> AssignmentChange:
    if isinstance(item, Network):
        return AssignmentChange(action=action, network=item)
    if isinstance(item, NetworkPeer):
        return AssignmentChange(action=action, peer=item)
    return AssignmentChange(action=action, service=item)
