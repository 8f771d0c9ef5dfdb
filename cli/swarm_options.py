"""Flags that `swarm init`, `join` and `update` share, and what they mean: addresses, the cluster's spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flota.cli.failures import BadFlag
from flota.cli.options import refused_option

if TYPE_CHECKING:
    from flota.v1.specs_pb2 import ClusterSpec

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_PORT = 2377


def _stack(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def address_options(function: F) -> F:
    """Where this node listens and is reached."""
    return _stack(
        click.option(
            "--advertise-addr",
            metavar="ADDRESS",
            help="Where others reach this node: an address or interface, with :PORT if not 2377 "
            "(default: the machine's only address).",
        ),
        click.option("--listen-addr", metavar="ADDRESS", help="Where it listens (0.0.0.0:2377)."),
        click.option(
            "--data-path-addr", metavar="ADDRESS", help="Where the networks' traffic goes (the advertised address)."
        ),
        click.option(
            "--availability",
            type=click.Choice(["active", "pause", "drain"]),
            default="active",
            help="What the node does with tasks (active).",
        ),
    )(function)


def cluster_options(function: F) -> F:
    """The cluster's spec."""
    return _stack(
        click.option("--task-history-limit", type=int, help="Old tasks kept per slot (5; -1 = all)."),
        click.option("--cert-expiry", metavar="DURATION", help="Life of the nodes' certificates (2160h0m0s)."),
        click.option("--dispatcher-heartbeat", metavar="DURATION", help="Between heartbeats of a node (1s)."),
        refused_option("--external-ca", "the managers issue all certificates themselves"),
        click.option("--snapshot-interval", type=int, help="Raft entries between snapshots (10000)."),
        click.option("--max-snapshots", type=int, help="Old Raft snapshots kept beside the newest (0)."),
        click.option(
            "--read-lease",
            metavar="DURATION",
            help="How long the leader answers reads by itself after a heartbeat; trusts clocks (0s = off, to 500ms).",
        ),
        click.option(
            "--autolock/--no-autolock",
            default=None,
            help="Managers that start again wait for a key (swarm unlock); without it their disk says nothing.",
        ),
        click.option(
            "--encrypt-networks/--no-encrypt-networks",
            default=None,
            help="New networks are encrypted unless they say --opt encrypted=false.",
        ),
        click.option(
            "--rebalance",
            metavar="off|on-join|always",
            help="When tasks of services that say nothing are moved to emptier nodes (off).",
        ),
        click.option(
            "--strategy",
            metavar="spread|binpack",
            help="Which nodes come first for services that say nothing (spread).",
        ),
    )(function)


def set_cluster_spec(spec: ClusterSpec, flags: Mapping[str, Any]) -> None:
    """Set what was given. Raises BadFlag."""
    from flota.cli.service.scalars import choice, read_flag
    from flota.stacks.extension import REBALANCE, STRATEGIES
    from flota.stacks.units import duration_message, parse_duration

    for name in ("snapshot_interval", "max_snapshots"):
        if flags[name] is not None and flags[name] < (1 if name == "snapshot_interval" else 0):
            least = "1 or more" if name == "snapshot_interval" else "0 or more"
            raise BadFlag(f"invalid --{name.replace('_', '-')} {flags[name]}: {least} is needed")
    if flags["task_history_limit"] is not None:
        spec.orchestration.task_history_retention_limit = flags["task_history_limit"]
    if flags["snapshot_interval"] is not None:
        spec.raft.snapshot_interval = flags["snapshot_interval"]
    if flags["max_snapshots"] is not None:
        spec.raft.keep_old_snapshots = flags["max_snapshots"]
    for name, field in (
        ("cert_expiry", spec.ca.node_cert_expiry),
        ("dispatcher_heartbeat", spec.dispatcher.heartbeat_period),
        ("read_lease", spec.raft.read_lease),
    ):
        if flags[name] is not None:
            field.CopyFrom(duration_message(read_flag(name, parse_duration, flags[name])))
    if flags.get("rebalance") is not None:
        spec.rebalance = read_flag("rebalance", choice(REBALANCE), flags["rebalance"])
    if flags.get("strategy") is not None:
        spec.strategy = read_flag("strategy", choice(STRATEGIES), flags["strategy"])
    if flags["autolock"] is not None:
        spec.encryption.auto_lock_managers = flags["autolock"]
    if flags["encrypt_networks"] is not None:
        spec.encryption.encrypt_networks = flags["encrypt_networks"]


def unlock_words(key: str) -> str:
    """What a person is told who gets an unlock key."""
    return (
        "To unlock a swarm manager after it restarts, run the `flota swarm unlock`\n"
        "command and provide the following key:\n\n"
        f"    {key}\n\n"
        "Please remember to store this key in a password manager, since without it you\n"
        "will not be able to restart the manager.\n"
    )


def checked_address(flag: str, text: str | None, add_port: bool = False) -> str:
    """HOST[:PORT], or an interface's name, empty when not given. Raises BadFlag when the port is none."""
    if not text:
        return ""
    host, port = _split(text)
    if port is None:
        return f"{f'[{host}]' if ':' in host else host}:{DEFAULT_PORT}" if add_port else text
    if not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise BadFlag(f"invalid {flag} {text!r}: ADDRESS[:PORT] is needed, such as 192.168.1.10 or 192.168.1.10:2377")
    return text


def _split(text: str) -> tuple[str, str | None]:
    """Host and port of HOST, HOST:PORT, [IPV6], [IPV6]:PORT or IPV6."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest[1:] if rest.startswith(":") else None
    if text.count(":") > 1:
        return text, None
    host, colon, port = text.partition(":")
    return host, port if colon else None
