"""The nftables rules of the node and of networks, as text for libnftables.load.

Our tables are named `flota`, and rules of others are never touched: `inet flota` in the node's namespace, `inet flota`
in each network's, `ip flota` in each task's (balance.py). The rules here never change while a table lives; what does
are maps, filled by publish.py. Loading them again over themselves is harmless.
"""

from flota.overlay.addresses import EXIT_RANGE, EXIT_RANGE_IPV6


def node_rules() -> str:
    """For the node's namespace. `fl-*` are the ways out (addresses.exit_name). `local` and `local6` have ports that are
    reached by one address of the node only.

    Networks never reach each other through the node, but a task may use a published port. What comes from 127.0.0.1,
    or from another network's way out, gets the address of the way in: nobody else could be answered there.
    """
    return f"""
table inet flota {{
    map published {{ type inet_proto . inet_service : ipv4_addr; }}
    map local {{ type inet_proto . inet_service . ipv4_addr : ipv4_addr . inet_service; }}
    map local6 {{ type inet_proto . inet_service . ipv6_addr : ipv6_addr . inet_service; }}
    map published6 {{ type inet_proto . inet_service : ipv6_addr; }}
    chain prerouting {{ type nat hook prerouting priority dstnat; policy accept; }}
    chain output {{ type nat hook output priority -100; policy accept; }}
    chain forward {{ type filter hook forward priority filter; policy accept; }}
    chain postrouting {{ type nat hook postrouting priority srcnat; policy accept; }}
}}
flush chain inet flota prerouting
flush chain inet flota output
flush chain inet flota forward
flush chain inet flota postrouting
table inet flota {{
    chain prerouting {{
        meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport . ip daddr map @local
        meta nfproto ipv6 fib daddr type local dnat ip6 to meta l4proto . th dport . ip6 daddr map @local6
        meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @published
        meta nfproto ipv6 fib daddr type local dnat ip6 to meta l4proto . th dport map @published6
    }}
    chain output {{
        meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport . ip daddr map @local
        meta nfproto ipv6 fib daddr type local dnat ip6 to meta l4proto . th dport . ip6 daddr map @local6
        meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @published
        meta nfproto ipv6 fib daddr type local dnat ip6 to meta l4proto . th dport map @published6
    }}
    chain forward {{
        oifname "fl-*" ct status dnat accept
        iifname "fl-*" oifname "fl-*" drop
        oifname "fl-*" ct state established,related accept
        oifname "fl-*" drop
    }}
    chain postrouting {{
        ip saddr {{ 127.0.0.0/8, {EXIT_RANGE} }} oifname "fl-*" masquerade
        ip saddr {EXIT_RANGE} masquerade
        ip6 saddr {{ ::1, {EXIT_RANGE_IPV6} }} oifname "fl-*" masquerade
        ip6 saddr {EXIT_RANGE_IPV6} masquerade
    }}
}}
"""


def network_rules() -> str:
    """For a network's namespace: what leaves it does so under the address of its end of the way out.

    `entries` are the nodes through which connections may come in over VXLAN (ingress network): the node's MAC gives
    the connection a mark, and replies are routed by it (segment.py). Each is also a zone of connection tracking, for
    the way in only: a client may use one source port through several nodes, and where such connections meet at one
    task the kernel then sees that they are two, and gives the second another port.
    """
    return """
table inet flota {
    map published { type inet_proto . inet_service : verdict; }
    map entries { type ether_addr : mark; }
    map zones { typeof ether saddr : ct zone; }
    chain zones { type filter hook prerouting priority raw; policy accept; }
    chain marks { type filter hook prerouting priority mangle; policy accept; }
    chain prerouting { type nat hook prerouting priority dstnat; policy accept; }
    chain postrouting { type nat hook postrouting priority srcnat; policy accept; }
}
flush chain inet flota zones
flush chain inet flota marks
flush chain inet flota prerouting
flush chain inet flota postrouting
table inet flota {
    chain zones {
        iifname "br0" ct original zone set ether saddr map @zones
    }
    chain marks {
        iifname "br0" ct state new ct mark set ether saddr map @entries
        iifname "br0" ct direction reply ct mark != 0 meta mark set ct mark
    }
    chain prerouting {
        iifname "out0" meta l4proto . th dport vmap @published
    }
    chain postrouting {
        oifname "out0" masquerade
    }
}
"""


def entries(marks: dict[str, int]) -> str:
    """Make the nodes' MACs and their marks be `marks`. A zone is the mark's lower half (it must fit into 16 bits)."""
    lines = ["flush map inet flota entries", "flush map inet flota zones"]
    if marks:
        elements = ", ".join(f"{mac} : {mark:#x}" for mac, mark in sorted(marks.items()))
        zones = ", ".join(f"{mac} : {mark & 0xFFFF}" for mac, mark in sorted(marks.items()))
        lines += [
            f"add element inet flota entries {{ {elements} }}",
            f"add element inet flota zones {{ {zones} }}",
        ]
    return "".join(f"{line}\n" for line in lines)


def remove_rules() -> str:
    """Takes our table away again, whether it is there or not."""
    return "table inet flota {}\ndelete table inet flota\n"


def closing_rules() -> str:
    """For the namespace of a task that was told to stop: whoever asks for a connection that its program takes no longer
    hears nothing, instead of a refusal.

    Nobody is sent there any longer, but a first packet may still be on its way, or be sent again by somebody who had no
    answer a second ago. It is sent once more then, and led to another task: what was tracked to this one is forgotten
    with it. (A refusal of a connection is the one reset that has the sequence number 0: RFC 9293, 3.10.7.1.)
    """
    return """
table inet flota-closing {
    chain output {
        type filter hook output priority filter; policy accept;
        oifname != "lo" tcp flags & (rst | ack) == rst | ack tcp sequence 0 drop
    }
}
"""
