"""Headers of the PROXY protocol, version 2."""

from flota.overlay.proxy_protocol import header, leads_to
from flota.v1.types_pb2 import PortConfig

SIGNATURE = "0d0a0d0a000d0a515549540a"


def test_headers_of_both_versions() -> None:
    four = header(("192.0.2.9", 40000), ("10.0.0.5", 80))
    assert four.hex() == SIGNATURE + "21" + "11" + "000c" + "c0000209" + "0a000005" + "9c40" + "0050"
    six = header(("2001:db8::9", 40000), ("fd00::5", 80))
    addresses = "20010db8" + "0" * 22 + "09" + "fd00" + "0" * 27 + "5"
    assert six.hex() == SIGNATURE + "21" + "21" + "0024" + addresses + "9c40" + "0050"


def test_ipv4_at_a_socket_for_both_is_ipv4() -> None:
    both = header(("::ffff:192.0.2.9", 40000), ("::ffff:10.0.0.5", 80))
    assert both == header(("192.0.2.9", 40000), ("10.0.0.5", 80))


def test_only_ports_that_ask_for_it_lead_beside_the_program() -> None:
    plain = PortConfig(target_port=80, published_port=8080)
    assert leads_to(plain) == 80
    plain.proxy_protocol = PortConfig.PROXY_PROTOCOL_V2
    assert leads_to(plain) == 61520
