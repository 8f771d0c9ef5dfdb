"""Two of three managers are gone: what the command line says, and how one that is left goes on with everything."""

import asyncio
import sys
from dataclasses import dataclass

from tests.cluster.daemon.daemons import ROOT, Daemon, eventually, is_voter
from tests.cluster.daemon.test_backup import create_service


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


async def flota(daemon: Daemon, *argv: str) -> Ran:
    """The command line, as a person on that machine runs it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "flota.cli", "-H", f"unix://{daemon.run}/flota.sock", *argv,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    out, err = await process.communicate()
    return Ran(process.returncode or 0, out.decode(), err.decode())


async def test_without_a_quorum_people_are_told_what_is_known_who_is_missing_and_what_to_do(
    daemons: list[Daemon],
) -> None:
    first, second, third = daemons
    begun = await first.init()
    joined = [await daemon.join(begun.tokens.manager, begun.address) for daemon in (second, third)]
    await create_service(first, "web")
    assert (await flota(first, "node", "ls")).err == ""
    await asyncio.gather(second.kill(), third.kill())
    await eventually(first.staleness)

    # Reads: what this manager knows, and on standard error why that may be old.
    for command in (("node", "ls"), ("service", "ls"), ("service", "inspect", "web"), ("node", "inspect", "self")):
        done = await flota(first, *command)
        assert done.status == 0, done.err
        assert done.err.count("\n") == 1
        assert done.err.startswith(
            "flota: warning: this may be old: the swarm has lost its quorum: 1 of 3 managers can be reached. Reachable"
        )
        assert f"({second.address})" in done.err.partition("Missing:")[2]
        assert f"({third.address})" in done.err.partition("Missing:")[2]
    assert "web" in (await flota(first, "service", "ls")).out
    # Writes: no.
    done = await flota(first, "service", "scale", "--detach", "web=1")
    assert done.status == 1
    assert "the swarm has lost its quorum" in done.err
    assert "run `flota swarm init --force-new-cluster` on one that is left" in done.err
    done = await flota(first, "node", "demote", joined[0].node_id)
    assert (done.status, "quorum" in done.err or "managers" in done.err) == (1, True)

    done = await flota(first, "swarm", "init", "--force-new-cluster")
    assert (done.status, done.err) == (0, "")
    assert f"current node ({begun.node_id}) is now a manager" in done.out
    done = await flota(first, "service", "ls")
    assert (done.status, done.err) == (0, "")
    assert "web" in done.out
    assert (await flota(first, "service", "scale", "--detach", "web=0")).status == 0
    nodes = await first.nodes()
    assert [node.id for node in nodes.values() if is_voter(node)] == [begun.node_id]
