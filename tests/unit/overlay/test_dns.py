"""DNS: our bytes against dnslib's reading of them, what a task may see, and how other servers are asked."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
from dnslib import EDNS0, QTYPE, RCODE, RR, A, DNSHeader, DNSQuestion, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from flota.overlay.dns import wire
from flota.overlay.dns.resolver import Resolver
from flota.overlay.dns.upstream import HostResolver, Upstream, parse_resolv_conf
from flota.overlay.model import Model
from flota.v1.dispatcher_pb2 import AssignmentChange, NetworkPeer, NetworkService
from flota.v1.objects_pb2 import Network
from flota.v1.types_pb2 import Annotations, IpamConfig

LIMITLESS = None


def question(name: str, kind: str = "A", *, edns: int = 0) -> wire.Question:
    record = DNSRecord.question(name, kind)
    if edns:
        record.add_ar(EDNS0(udp_len=edns))
    return wire.parse(bytes(record.pack()))


def a_model(*peers: tuple[str, str, str]) -> Model:
    """Networks n1 (app) and n2 (other), and (network, service, address) on them."""
    model = Model()
    changes = [AssignmentChange() for _ in range(2 + len(peers))]
    for change, (number, name) in zip(changes, ((1, "app"), (2, "other")), strict=False):
        subnet = IpamConfig(subnet=f"10.0.{number}.0/24")
        change.network.CopyFrom(Network(id=f"n{number}", ipam=[subnet]))
        change.network.spec.annotations.CopyFrom(Annotations(name=name))
    for number, (network_id, service, address) in enumerate(peers):
        changes[2 + number].peer.CopyFrom(
            NetworkPeer(
                network_id=network_id,
                task_id=f"t{number}",
                task_name=f"{service}.{number}.t{number}",
                service_name=service,
                addresses=[address],
                ready=True,
            )
        )
    model.apply(changes, complete=True)
    return model


def ask(model: Model, name: str, kind: str = "A", *, networks: list[str], limit: int | None = LIMITLESS) -> Any:
    """(response code, data of the answers) or None when the question is not ours."""
    answer = Resolver(model, Random(1)).answer(question(name, kind), networks, limit)
    if answer is None:
        return None
    record = DNSRecord.parse(answer)
    return RCODE[record.header.rcode], sorted(str(one.rdata) for one in record.rr)


def test_srv_is_read_by_others_as_it_was_meant() -> None:
    model = a_model(("n1", "web", "10.0.1.2/24"))
    told = AssignmentChange()
    told.service.CopyFrom(NetworkService(network_id="n1", service_id="web", service_name="web"))
    told.service.ports.add(name="http", target_port=8080)
    model.apply([told], complete=False)
    assert ask(model, "_http._tcp.web", "SRV", networks=["n1"]) == ("NOERROR", ["0 1 8080 web.0.t0."])
    assert ask(model, "_http._tcp.web.app", "SRV", networks=["n1"]) == ("NOERROR", ["0 1 8080 web.0.t0."])
    assert ask(model, "_ftp._tcp.web", "SRV", networks=["n1"]) == ("NOERROR", [])
    assert ask(model, "_http._tcp.web", "SRV", networks=["n2"]) is None


labels = st.text(st.sampled_from("abcXYZ019-_"), min_size=1, max_size=63)


@given(st.lists(labels, min_size=1, max_size=3), st.sampled_from(["A", "AAAA", "PTR", "SRV"]), st.integers(0, 65535))
def test_questions_are_read_as_dnslib_writes_them(name: list[str], kind: str, identifier: int) -> None:
    record = DNSRecord(DNSHeader(id=identifier, rd=1), q=DNSQuestion(".".join(name), getattr(QTYPE, kind)))
    read = wire.parse(bytes(record.pack()))
    assert (read.id, read.name, read.kind, read.edns) == (
        identifier,
        ".".join(name).lower(),
        getattr(QTYPE, kind),
        False,
    )


@given(st.binary(max_size=80))
def test_no_datagram_does_worse_than_being_malformed(data: bytes) -> None:
    try:
        answer = wire.reply(wire.parse(data), wire.NXDOMAIN)
    except wire.Malformed as error:
        answer = error.reply or data
    assert answer[:2] == data[:2]


def test_answers_to_answers_are_never_given() -> None:
    with pytest.raises(wire.Malformed) as caught:
        wire.parse(wire.reply(question("web"), wire.NOERROR, [wire.address_record("10.0.0.1", 1)]))
    assert caught.value.reply is None


def test_an_answer_is_what_dnslib_reads() -> None:
    asked = question("WeB.App", edns=1232)
    record = DNSRecord.parse(wire.reply(asked, wire.NOERROR, [wire.address_record("10.0.0.1", 2)], asked.limit))
    assert (record.header.id, record.header.aa, record.header.ra, record.header.rd) == (asked.id, 1, 1, 1)
    assert str(record.q.qname) == "WeB.App."
    assert (str(record.rr[0].rname), str(record.rr[0].rdata), record.rr[0].ttl) == ("WeB.App.", "10.0.0.1", 2)
    assert [one.rtype for one in record.ar] == [QTYPE.OPT]


@pytest.mark.parametrize(("edns", "fit"), [(0, 30), (1232, 75)])
def test_what_does_not_fit_is_left_out_and_said(edns: int, fit: int) -> None:
    records = [wire.address_record(f"10.0.0.{number}", 2) for number in range(200)]
    asked = question("web", edns=edns)
    answer = wire.reply(asked, wire.NOERROR, records, asked.limit)
    record = DNSRecord.parse(answer)
    assert len(answer) <= asked.limit
    assert record.header.tc == 1
    assert len(record.rr) == fit
    whole = DNSRecord.parse(wire.reply(asked, wire.NOERROR, records))
    assert (whole.header.tc, len(whole.rr)) == (0, 200)


def test_a_task_sees_the_names_of_its_networks_only() -> None:
    model = a_model(("n1", "web", "10.0.1.5/24"), ("n2", "web", "10.0.2.5/24"), ("n2", "db", "10.0.2.6/24"))
    assert ask(model, "web", networks=["n1"]) == ("NOERROR", ["10.0.1.5"])
    assert ask(model, "db", networks=["n1"]) is None
    assert ask(model, "web.other", networks=["n1"]) is None
    # On both networks the first one answers, unless the asker names the other.
    assert ask(model, "web", networks=["n2", "n1"]) == ("NOERROR", ["10.0.2.5"])
    assert ask(model, "web.app", networks=["n2", "n1"]) == ("NOERROR", ["10.0.1.5"])
    assert ask(model, "tasks.web.App.", networks=["n2", "n1"]) == ("NOERROR", ["10.0.1.5"])


def test_a_name_of_ours_without_an_address_of_that_kind_is_not_nxdomain() -> None:
    model = a_model(("n1", "web", "10.0.1.5/24"))
    assert ask(model, "web", "AAAA", networks=["n1"]) == ("NOERROR", [])
    assert ask(model, "web", "TXT", networks=["n1"]) == ("NOERROR", [])


def test_answers_come_in_every_order() -> None:
    model = a_model(*(("n1", "web", f"10.0.1.{number}/24") for number in range(5, 9)))
    resolver = Resolver(model, Random(1))
    firsts = set()
    for _ in range(100):
        answer = resolver.answer(question("web"), ["n1"], 512)
        assert answer is not None
        firsts.add(str(DNSRecord.parse(answer).rr[0].rdata))
    assert firsts == {"10.0.1.5", "10.0.1.6", "10.0.1.7", "10.0.1.8"}


def test_reverse_names() -> None:
    model = a_model(("n1", "web", "10.0.1.5/24"))
    assert ask(model, "5.1.0.10.in-addr.arpa", "PTR", networks=["n1"]) == ("NOERROR", ["web.0.t0.app."])
    # A free address of our subnet is nobody's; one of another network, or of the world, is not ours to judge.
    assert ask(model, "6.1.0.10.in-addr.arpa", "PTR", networks=["n1"]) == ("NXDOMAIN", [])
    assert ask(model, "5.1.0.10.in-addr.arpa", "PTR", networks=["n2"]) is None
    assert ask(model, "1.1.1.1.in-addr.arpa", "PTR", networks=["n1"]) is None
    assert ask(model, "x.in-addr.arpa", "PTR", networks=["n1"]) is None


def test_before_a_manager_has_spoken_no_service_is_denied() -> None:
    assert ask(Model(), "web", networks=["n1"]) == ("SERVFAIL", [])
    assert ask(Model(), "www.example.org", networks=["n1"]) is None


def test_resolv_conf() -> None:
    text = "# made by hand\nnameserver 192.0.2.53 # first\n;nameserver 9.9.9.9\nnameserver fd00::53\n"
    text += "domain old.example\nsearch a.example b.example\noptions ndots:2 rotate\noptions edns0\n"
    assert parse_resolv_conf(text) == HostResolver(
        ("192.0.2.53", "fd00::53"), ("a.example", "b.example"), ("ndots:2", "rotate", "edns0")
    )


class Answering(asyncio.DatagramProtocol):
    """A server that answers every question with one address, and counts; it misses the first `missed`."""

    def __init__(self, silent: bool, tamper: Callable[[bytes], bytes], missed: int) -> None:
        self.asked = 0
        self.silent = silent
        self.tamper = tamper
        self.missed = missed

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.asked += 1
        if self.silent or self.asked <= self.missed:
            return
        reply = DNSRecord.parse(data).reply()
        reply.add_answer(RR(str(reply.q.qname), ttl=30, rdata=A("203.0.113.7")))
        self.transport.sendto(self.tamper(bytes(reply.pack())), addr)


@asynccontextmanager
async def serving(
    address: str, port: int = 0, *, silent: bool = False, tamper: Callable[[bytes], bytes] = bytes, missed: int = 0
) -> AsyncIterator[tuple[Answering, int]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(
        lambda: Answering(silent, tamper, missed), local_addr=(address, port)
    )
    try:
        yield server, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


def a_query(name: str = "www.example.org") -> tuple[bytes, wire.Question]:
    data = bytes(DNSRecord.question(name).pack())
    return data, wire.parse(data)


class Hand:
    """A clock that is moved by hand."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_an_answer_is_kept_for_its_time_and_grows_older() -> None:
    clock = Hand()
    async with serving("127.0.0.1") as (server, port):
        upstream = Upstream(port=port, clock=clock)
        for passed, asked, ttl in ((0, 1, 30), (20, 1, 10), (11, 2, 30)):
            clock.now += passed
            data, parsed = a_query()
            record = DNSRecord.parse(await upstream.ask(data, parsed, ["127.0.0.1"], stream=False))
            assert (record.header.id, str(record.rr[0].rdata), record.rr[0].ttl) == (parsed.id, "203.0.113.7", ttl)
            assert server.asked == asked


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for what, seconds in (("PATIENCE", 0.3), ("STAGGER", 0.05), ("_AGAIN", 0.1)):
        monkeypatch.setattr(f"flota.overlay.dns.upstream.{what}", seconds)


@pytest.mark.usefixtures("quick")
async def test_a_silent_server_is_asked_last_for_a_while() -> None:
    clock = Hand()
    async with serving("127.0.0.2", silent=True) as (silent, port), serving("127.0.0.1", port) as (server, _):
        upstream = Upstream(port=port, clock=clock)
        for number in range(3):
            answer = await upstream.ask(*a_query(f"n{number}.example.org"), ["127.0.0.2", "127.0.0.1"], stream=False)
            assert DNSRecord.parse(answer).header.rcode == RCODE.NOERROR
        assert (silent.asked, server.asked) == (1, 3)
        clock.now += 11
        await upstream.ask(*a_query("later.example.org"), ["127.0.0.2", "127.0.0.1"], stream=False)
        assert silent.asked == 2


@pytest.mark.usefixtures("quick")
async def test_names_nobody_answers_for_do_not_take_others_away() -> None:
    """A resolver says nothing for a name whose own servers are dead; it is the only one, and answers the next."""
    async with serving("127.0.0.1", silent=True) as (server, port):
        upstream = Upstream(port=port)
        dead = await upstream.ask(*a_query("dead.example.org"), ["127.0.0.1"], stream=False)
        assert DNSRecord.parse(dead).header.rcode == RCODE.SERVFAIL
        server.silent = False
        answer = await upstream.ask(*a_query("well.example.org"), ["127.0.0.1"], stream=False)
        assert DNSRecord.parse(answer).header.rcode == RCODE.NOERROR


async def test_a_lost_datagram_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flota.overlay.dns.upstream._AGAIN", 0.05)
    async with serving("127.0.0.1", missed=1) as (server, port):
        answer = await Upstream(port=port).ask(*a_query(), ["127.0.0.1"], stream=False)
        assert DNSRecord.parse(answer).header.rcode == RCODE.NOERROR
        assert server.asked >= 2


@pytest.mark.usefixtures("quick")
async def test_a_refusal_counts_only_if_nobody_knows_better() -> None:
    def refused(answer: bytes) -> bytes:
        return answer[:3] + bytes((answer[3] & 0xF0 | wire.REFUSED,)) + answer[4:]

    async with (
        serving("127.0.0.2", tamper=refused) as (_, port),
        serving("127.0.0.1", port),
        serving("127.0.0.3", port, silent=True),
    ):
        upstream = Upstream(port=port)
        for servers, code in (
            (["127.0.0.2", "127.0.0.1"], RCODE.NOERROR),
            (["127.0.0.2", "127.0.0.3"], RCODE.REFUSED),
            (["no address", "127.0.0.1"], RCODE.NOERROR),
        ):
            answer = await upstream.ask(*a_query(), servers, stream=False)
            assert DNSRecord.parse(answer).header.rcode == code


async def test_what_is_kept_is_told_in_the_askers_letters() -> None:
    async with serving("127.0.0.1") as (server, port):
        upstream = Upstream(port=port)
        for name in ("www.example.org", "wWw.eXample.oRg"):
            data, parsed = a_query(name)
            answer = await upstream.ask(data, parsed, ["127.0.0.1"], stream=False)
            assert parsed.section in answer
            assert len(DNSRecord.parse(answer).rr) == 1
        # A question with other wishes (signatures, a cookie of its own) is another question.
        record = DNSRecord.question("www.example.org")
        record.add_ar(EDNS0(udp_len=1232))
        data = bytes(record.pack())
        await upstream.ask(data, wire.parse(data), ["127.0.0.1"], stream=False)
        assert server.asked == 2


@pytest.mark.usefixtures("quick")
async def test_an_answer_with_the_wrong_number_is_no_answer() -> None:
    def forged(answer: bytes) -> bytes:
        (number,) = struct.unpack("!H", answer[:2])
        return struct.pack("!H", number ^ 1) + answer[2:]

    async with serving("127.0.0.1", tamper=forged) as (_, port):
        answer = await Upstream(port=port).ask(*a_query(), ["127.0.0.1"], stream=False)
        assert DNSRecord.parse(answer).header.rcode == RCODE.SERVFAIL


async def test_without_servers_there_is_an_answer() -> None:
    upstream = Upstream()
    for name, code in (("www.example.org", RCODE.SERVFAIL), ("nobody", RCODE.NXDOMAIN)):
        answer = await upstream.ask(*a_query(name), [], stream=False)
        assert DNSRecord.parse(answer).header.rcode == code
