"""What `wg show all dump` says, as a report tells it."""

from flota.overlay.checkup import tunnels_of


def test_a_node_with_two_keys_is_one_tunnel() -> None:
    own = "fw1abc\tprivate\tpublic\t51821\toff\n"
    line = "fw1abc\tkey\t(none)\t{}:{}\tfd7a::1/128\t{}\t10\t20\t25\n"
    dump = own + line.format("192.0.2.2", 51821, 990) + line.format("192.0.2.2", 51820, 0)
    dump += line.format("[2001:db8::3]", 51820, 0)
    found = [(one.address, list(one.ports), one.handshake_age_seconds) for one in tunnels_of(dump, 1000)]
    assert found == [("192.0.2.2", [51820, 51821], 10.0), ("2001:db8::3", [51820], -1.0)]
    assert tunnels_of("", 1000) == []
