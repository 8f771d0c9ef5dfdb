"""Headers of the PROXY protocol, and who gets one."""

from flota.overlay.proxy_protocol import header, leads_to, targets_of
from flota.v1.types_pb2 import PortConfig

V1, V2 = PortConfig.PROXY_PROTOCOL_V1, PortConfig.PROXY_PROTOCOL_V2

SIGNATURE = "0d0a0d0a000d0a515549540a"


def test_headers_of_both_versions() -> None:
    four = header(V2, ("192.0.2.9", 40000), ("10.0.0.5", 80))
    assert four.hex() == SIGNATURE + "21" + "11" + "000c" + "c0000209" + "0a000005" + "9c40" + "0050"
    six = header(V2, ("2001:db8::9", 40000), ("fd00::5", 80))
    addresses = "20010db8" + "0" * 22 + "09" + "fd00" + "0" * 27 + "5"
    assert six.hex() == SIGNATURE + "21" + "21" + "0024" + addresses + "9c40" + "0050"


def test_ipv4_at_a_socket_for_both_is_ipv4() -> None:
    for version in (V1, V2):
        both = header(version, ("::ffff:192.0.2.9", 40000), ("::ffff:10.0.0.5", 80))
        assert both == header(version, ("192.0.2.9", 40000), ("10.0.0.5", 80))


def test_version_1_is_a_line() -> None:
    four = header(V1, ("192.0.2.9", 40000), ("10.0.0.5", 80))
    assert four == b"PROXY TCP4 192.0.2.9 10.0.0.5 40000 80\r\n"
    six = header(V1, ("2001:db8::9", 40000), ("fd00::5", 80))
    assert six == b"PROXY TCP6 2001:db8::9 fd00::5 40000 80\r\n"


def test_only_ports_that_ask_for_it_lead_beside_the_program() -> None:
    plain = PortConfig(target_port=80, published_port=8080)
    assert leads_to(plain) == 80
    asking = PortConfig(target_port=80, published_port=8080, proxy_protocol=V2)
    host = PortConfig(target_port=80, published_port=9090, proxy_protocol=V2, publish_mode=PortConfig.PUBLISH_MODE_HOST)
    assert leads_to(asking) == leads_to(host) == 61520
    other = PortConfig(target_port=81, published_port=81, proxy_protocol=V1)
    assert targets_of([plain, other, asking, host]) == [(80, V2), (81, V1)]
