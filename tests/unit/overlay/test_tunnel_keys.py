"""A node's keys: the steps of their replacement, what is written down, what wg(8) is told."""

from functools import partial

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from flota.overlay.forwarding import tunnel_end, wanted
from flota.overlay.tunnel_keys import (
    PREFIX,
    OwnKeys,
    changes,
    configuration,
    newest,
    tunnel_address,
    tunnel_mtu,
)
from flota.v1.dispatcher_pb2 import NetworkPeer
from flota.v1.types_pb2 import TunnelKey


def test_the_steps_of_a_replacement() -> None:
    first = OwnKeys.first(1000)
    announced = first.announce(2000)
    used = announced.use()
    alone = used.forget()
    old, new = announced.keys
    assert (first.keys, first.sending) == ((old,), 1)
    # Both are there at once, and nothing of one is the other's.
    assert old.private != new.private
    assert old.port != new.port
    assert tunnel_address("192.0.2.1", old.generation) != tunnel_address("192.0.2.1", new.generation)
    assert [keys.sending for keys in (announced, used, alone)] == [1, 2, 2]
    assert (used.keys, alone.keys) == ((old, new), (new,))
    assert (new.generation, new.made) == (2, 2000)


def test_what_is_written_down_is_read_again() -> None:
    keys = OwnKeys.first(1000).announce(2000)
    assert OwnKeys.read(keys.write()) == keys


@pytest.mark.parametrize("text", ["", "{}", '{"keys": [], "sending": 1}', '{"keys": [{}], "sending": 1}', "[1]"])
def test_what_is_damaged_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        OwnKeys.read(text)


def test_only_the_public_half_is_told() -> None:
    [key] = OwnKeys.first(1000).keys
    told = key.told()
    assert told.public_key == X25519PrivateKey.from_private_bytes(key.private).public_key().public_bytes_raw()
    assert key.private not in told.SerializeToString()


def test_addresses_differ_by_node_and_by_key_and_nothing_else() -> None:
    found = {tunnel_address(f"10.0.{a}.{b}", generation) for a in range(8) for b in range(250) for generation in (1, 2)}
    assert len(found) == 8 * 250 * 2
    assert all(address.startswith(PREFIX.removesuffix("::")) for address in found)
    assert tunnel_address("10.0.0.1", 1) == tunnel_address("10.0.0.1", 3)
    assert tunnel_address("2001:db8::1", 1) != tunnel_address("2001:db8::1:1", 1)


def filled(size: int, believed: int) -> int:
    """What WireGuard makes of a packet when it believes its device to have that MTU."""
    rest = size % believed if size > believed else size
    return size - rest + min(-(-rest // 16) * 16, believed)


@pytest.mark.parametrize("underlay", [1280, 1400, 1480, 1500, 1504, 1600, 2901, 8942, 9000, 65535])
@pytest.mark.parametrize(("version", "headers"), [(4, 60), (6, 80)])
def test_no_packet_is_filled_up_beyond_what_the_underlay_takes(underlay: int, version: int, headers: int) -> None:
    """Whether wireguard-go has noticed its device's MTU or keeps to the one that it began with."""
    mtu = tunnel_mtu(underlay, version)
    assert underlay - headers - 16 < mtu <= underlay - headers
    for believed in (mtu, 1420):
        assert max(filled(size, believed) for size in range(1, mtu + 1)) <= underlay - headers


def test_a_device_knows_all_keys_of_all_nodes() -> None:
    [own] = OwnKeys.first(1000).keys
    peers = [
        ("192.0.2.2", TunnelKey(public_key=bytes(32), generation=number, port=51820 + number % 2)) for number in (4, 5)
    ]
    text = configuration(own, [*peers, ("2001:db8::1", TunnelKey(public_key=bytes(32), generation=1, port=51821))])
    assert text.count("[Peer]") == 3
    assert "Endpoint = 192.0.2.2:51820\n" in text
    assert "Endpoint = [2001:db8::1]:51821\n" in text
    for generation in (4, 5):
        assert f"AllowedIPs = {tunnel_address('192.0.2.2', generation)}/128\n" in text


def test_peers_that_stay_are_not_mentioned_again() -> None:
    own = OwnKeys.first(0.0).newest
    one, two, three = (("192.0.2.2", TunnelKey(public_key=b"%d" % number, generation=number)) for number in (1, 2, 3))
    old, new = configuration(own, [one, two]), configuration(own, [two, three])
    added, gone = changes(old, new)
    assert added == new[new.rindex("[Peer]") :]
    assert gone == ["MQ=="]
    assert changes("", new) == (new, [])
    assert changes(new, configuration(own, [two])) == ("", ["Mw=="])


def test_packets_go_to_the_newest_key_of_a_node_that_there_is_a_session_with() -> None:
    peer = NetworkPeer(task_id="t", addresses=["10.0.1.5/24"], node_id="there", vtep="192.0.2.2", ready=True)
    assert wanted([peer], "here", "192.0.2.1", through=tunnel_end).endpoints == {}
    for generation in (7, 6):
        peer.tunnel_keys.add(generation=generation, public_key=b"%d" % generation)
    found = newest(peer.tunnel_keys)
    assert found is not None
    assert found.generation == 7

    def ends(*greeted: bytes) -> set[str]:
        return set(
            wanted([peer], "here", "192.0.2.1", through=partial(tunnel_end, greeted=set(greeted))).endpoints.values()
        )

    assert ends() == ends(b"6") == {tunnel_address("192.0.2.2", 6)}
    assert ends(b"6", b"7") == {tunnel_address("192.0.2.2", 7)}
    # It forgot the other one: there is nothing else to send to.
    del peer.tunnel_keys[1]
    assert ends() == {tunnel_address("192.0.2.2", 7)}
