"""config.json from spec and image: command, environment, account, capabilities, limits, system calls."""

from pathlib import Path
from typing import Any

import pytest

from flota.overlay import Sandbox
from flota.v1.objects_pb2 import Task
from flota.v1.specs_pb2 import ContainerSpec, TaskSpec
from flota.v1.types_pb2 import ResourceRequirements, Resources, Ulimit
from flota.worker.images.config import ImageConfig
from flota.worker.runtime import accounts, bundle, capabilities, limits, seccomp
from flota.worker.runtime.accounts import Account
from flota.worker.runtime.bundle import HostMount
from flota.worker.runtime.container import BadContainer, Container
from flota.worker.runtime.machine import Machine

ROOT = Account(0, 0, (), "/root")
MACHINE = Machine(
    cgroup_parent="/flota",
    unified_cgroups=True,
    swap_accounting=True,
    init="/usr/bin/catatonit",
    capabilities=frozenset(capabilities.KNOWN),
    ceilings={},
    seccomp=True,
)
OLD_MACHINE = Machine(
    cgroup_parent="/flota",
    unified_cgroups=False,
    swap_accounting=False,
    init="",
    capabilities=frozenset(capabilities.KNOWN) - {"CAP_SYS_RESOURCE"},
    ceilings={"nofile": 512},
    seccomp=False,
)
PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var/www:/bin/false\nbroken line\n"
GROUP = "root:x:0:\nweb:x:33:\nlogs:x:4:web,other\nusers:x:100:\n"


def container(
    image: ImageConfig | None = None, resources: ResourceRequirements | None = None, **spec: Any
) -> Container:
    task = Task(id="t1", spec=TaskSpec(container=ContainerSpec(**spec), resources=resources))
    return Container(task, image or ImageConfig(), (), Sandbox(Path("/run/netns/t1"), "", ()), "host")


def configuration(made: Container, machine: Machine = MACHINE, mounts: list[HostMount] | None = None) -> dict[str, Any]:
    return bundle.configuration(made, ROOT, mounts or [], Path("/rootfs"), machine)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, ["/entry", "point", "cmd"]),
        ({"args": ["a", "b"]}, ["/entry", "point", "a", "b"]),
        ({"command": ["/own"]}, ["/own"]),
        ({"command": ["/own"], "args": ["a"]}, ["/own", "a"]),
    ],
)
def test_the_specs_command_replaces_the_images(spec: dict[str, list[str]], expected: list[str]) -> None:
    image = ImageConfig(entrypoint=("/entry", "point"), cmd=("cmd",))
    assert bundle.arguments(container(image, **spec)) == expected


def test_without_any_command_there_is_nothing_to_run() -> None:
    with pytest.raises(BadContainer, match="no command"):
        bundle.arguments(container())


def test_environment_of_image_and_spec() -> None:
    image = ImageConfig(env=("A=1", "B=2", "PATH=/image"))
    values = bundle.environment(container(image, env=["B=3", "A", "C="], tty=True))
    assert values == ["PATH=/image", "HOSTNAME=host", "TERM=xterm", "B=3", "C="]


def test_the_working_directory_is_absolute() -> None:
    assert bundle.directory(container()) == "/"
    assert bundle.directory(container(ImageConfig(working_dir="srv"))) == "/srv"
    assert bundle.directory(container(ImageConfig(working_dir="srv"), dir="/own")) == "/own"


@pytest.mark.parametrize(
    ("wanted", "groups", "expected"),
    [
        ("", [], Account(0, 0, (), "/root")),
        ("web", [], Account(33, 33, (4,), "/var/www")),
        ("33", [], Account(33, 33, (4,), "/var/www")),
        ("web:users", ["logs"], Account(33, 100, (4,), "/var/www")),
        ("5000", ["17"], Account(5000, 0, (17,), "/")),
        ("5000:5001", [], Account(5000, 5001, (), "/")),
    ],
)
def test_accounts(wanted: str, groups: list[str], expected: Account) -> None:
    assert accounts.resolve(wanted, groups, PASSWD, GROUP) == expected


@pytest.mark.parametrize(
    ("wanted", "groups"), [("nobody", []), ("web:none", []), ("web", ["none"]), (str(1 << 33), [])]
)
def test_unknown_accounts(wanted: str, groups: list[str]) -> None:
    with pytest.raises(accounts.UnknownAccount, match="is not in the image's /etc/"):
        accounts.resolve(wanted, groups, PASSWD, GROUP)


def test_only_root_begins_with_capabilities() -> None:
    made = container(command=["x"])
    for account, held in ((ROOT, 14), (Account(1, 1, (), "/"), 0)):
        sets = bundle.process(made, account, ["x"], MACHINE)["capabilities"]
        assert (len(sets["bounding"]), len(sets["effective"]), len(sets["permitted"])) == (14, held, held)


def test_capabilities_added_and_dropped() -> None:
    everything = frozenset(capabilities.KNOWN)
    assert capabilities.effective(["net_admin"], ["CAP_CHOWN", "kill"], everything) == sorted(
        capabilities.DEFAULT - {"CAP_CHOWN", "CAP_KILL"} | {"CAP_NET_ADMIN"}
    )
    assert capabilities.effective(["CAP_CHOWN"], ["ALL"], everything) == ["CAP_CHOWN"]
    assert capabilities.effective(["ALL"], ["CHOWN"], everything) == sorted(everything - {"CAP_CHOWN"})
    with pytest.raises(ValueError, match="unknown capability 'FLY'"):
        capabilities.effective(["FLY"], [], everything)


def test_no_capability_that_the_node_does_not_have() -> None:
    few = frozenset({"CAP_CHOWN", "CAP_BPF"})
    assert capabilities.effective([], [], few) == ["CAP_CHOWN"]
    assert capabilities.effective(["ALL"], [], few) == ["CAP_BPF", "CAP_CHOWN"]
    with pytest.raises(ValueError, match="this node itself does not have the capability CAP_SYS_ADMIN"):
        capabilities.effective(["SYS_ADMIN"], ["ALL"], few)


def test_capabilities_of_a_mask() -> None:
    assert capabilities.from_mask(0b100001) == {"CAP_CHOWN", "CAP_KILL"}
    assert capabilities.from_mask(1 << 40) == {"CAP_CHECKPOINT_RESTORE"}


def test_limits_of_memory_processor_and_processes() -> None:
    wanted = ResourceRequirements(
        limits=Resources(memory_bytes=64 << 20, nano_cpus=1_500_000_000),
        reservations=Resources(memory_bytes=32 << 20),
        pids_limit=10,
        memory_swappiness=0,
    )
    result = limits.resources(wanted, limits.Ability())
    assert result["cpu"] == {"quota": 150_000, "period": 100_000}
    assert result["pids"] == {"limit": 10}
    assert result["memory"] == {"limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20, "swappiness": 0}
    assert "swap" not in limits.resources(wanted, limits.Ability(swap_accounting=False))["memory"]
    wanted.memory_swap_bytes = -1
    assert limits.resources(wanted, limits.Ability())["memory"]["swap"] == -1


def test_shares_and_sets_of_processors() -> None:
    machine = limits.Ability(cpus="0-3,8", memory_nodes="0")
    wanted = ResourceRequirements(cpu_shares=512, cpuset_cpus="1,2-3", cpuset_mems="0")
    assert limits.resources(wanted, machine)["cpu"] == {"shares": 512, "cpus": "1,2-3", "mems": "0"}
    for said, message in (
        ("3-4", "Requested CPUs are not available - requested 3-4, available: 0-3,8"),
        ("3-1", "3-1 is not possible"),
        ("0-99999999", "0-99999999 is not possible"),
        ("one", "invalid list of processors or memory nodes 'one'"),
    ):
        with pytest.raises(ValueError, match=message):
            limits.resources(ResourceRequirements(cpuset_cpus=said), machine)


def test_what_only_cgroup_v1_can_do_is_dropped_with_v2() -> None:
    """crun refuses it there; Docker drops it."""
    wanted = ResourceRequirements(limits=Resources(memory_bytes=64 << 20), memory_swappiness=10)

    def memory(machine: Machine) -> dict[str, int]:
        made = configuration(container(command=["x"], resources=wanted), machine)
        return dict(made["linux"]["resources"]["memory"])

    assert memory(MACHINE) == {"limit": 64 << 20, "swap": 128 << 20}
    assert memory(OLD_MACHINE) == {"limit": 64 << 20, "swappiness": 10}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (ResourceRequirements(limits=Resources(memory_bytes=1)), "invalid memory limit 1: at least 4194304 bytes"),
        (ResourceRequirements(limits=Resources(nano_cpus=1)), "invalid cpu limit 1e-09: at least 0.01"),
        (ResourceRequirements(memory_swap_bytes=5), "invalid memory and swap limit 5: a memory limit is needed"),
        (
            ResourceRequirements(limits=Resources(memory_bytes=8 << 20), memory_swap_bytes=4 << 20),
            "invalid memory and swap limit 4194304: at least the memory limit, 8388608 bytes",
        ),
    ],
)
def test_limits_that_cannot_be(wanted: ResourceRequirements, message: str) -> None:
    with pytest.raises(BadContainer, match=message):
        configuration(container(command=["x"], resources=wanted))


def test_ulimits_and_what_the_node_can_give() -> None:
    def rlimits(*ulimits: Ulimit, machine: Machine = MACHINE) -> dict[str, tuple[int, int]]:
        made = bundle.process(container(ulimits=ulimits), ROOT, ["x"], machine)["rlimits"]
        return {one["type"]: (one["soft"], one["hard"]) for one in made}

    assert rlimits() == {"RLIMIT_NOFILE": (1024, 524288)}
    assert rlimits(machine=OLD_MACHINE) == {"RLIMIT_NOFILE": (512, 512)}
    unlimited = (1 << 64) - 1
    given = rlimits(Ulimit(name="NOFILE", soft=5, hard=9), Ulimit(name="memlock", soft=-1, hard=-1))
    assert given == {"RLIMIT_NOFILE": (5, 9), "RLIMIT_MEMLOCK": (unlimited, unlimited)}
    assert rlimits(Ulimit(name="core", soft=7))["RLIMIT_CORE"] == (7, 7)
    for wrong, message in (
        (Ulimit(name="files", soft=1), "unknown ulimit 'files': one of core, cpu, "),
        (Ulimit(name="core", soft=2, hard=1), "invalid ulimit core=2:1: the soft limit is above the hard one"),
        (Ulimit(name="nofile", soft=1, hard=513), "invalid ulimit nofile=1:513: this node's own limit is 512"),
    ):
        with pytest.raises(BadContainer, match=message):
            rlimits(wrong, machine=OLD_MACHINE)


def test_what_spares_the_daemon_from_the_kernel_is_not_inherited() -> None:
    assert configuration(container(command=["true"]))["process"]["oomScoreAdj"] == 0
    # A node that may not lower it leaves it as it is.
    assert "oomScoreAdj" not in configuration(container(command=["true"]), OLD_MACHINE)["process"]


def test_the_whole_configuration() -> None:
    made = container(
        ImageConfig(labels={"a": "image", "b": "image"}),
        command=["/x", "y"],
        labels={"b": "spec"},
        read_only=True,
        sysctls={"net.core.somaxconn": "9"},
        oom_score_adj=100,
    )
    config = configuration(made)
    assert config["process"]["args"] == ["/x", "y"]
    assert config["process"]["oomScoreAdj"] == 100
    assert config["root"] == {"path": "/rootfs", "readonly": True}
    # crun takes orders from them, and an image's author is not to give any.
    assert "annotations" not in config
    linux = config["linux"]
    assert linux["cgroupsPath"] == "/flota/t1"
    assert linux["sysctl"] == {"net.core.somaxconn": "9"}
    assert {"type": "network", "path": "/run/netns/t1"} in linux["namespaces"]
    assert {"type": "cgroup"} in linux["namespaces"]
    assert "rootfsPropagation" not in linux
    old = configuration(made, OLD_MACHINE)["linux"]
    assert {"type": "cgroup"} not in old["namespaces"]
    assert "seccomp" not in old


def test_init_runs_the_command_if_the_node_has_one() -> None:
    config = configuration(container(command=["/x"], init=True))
    assert config["process"]["args"] == ["/dev/init", "--", "/x"]
    assert [one["source"] for one in config["mounts"] if one["destination"] == "/dev/init"] == ["/usr/bin/catatonit"]
    with pytest.raises(BadContainer, match="this node has no catatonit"):
        configuration(container(command=["/x"], init=True), OLD_MACHINE)


@pytest.mark.parametrize(("option", "expected"), [("rshared", "rshared"), ("slave", "rslave")])
def test_propagation_needs_the_root_to_let_it_through(option: str, expected: str) -> None:
    mounts = [HostMount("/m", "bind", "/h", ("rbind", option))]
    assert configuration(container(command=["x"]), mounts=mounts)["linux"]["rootfsPropagation"] == expected


def test_refused_system_calls_follow_the_capabilities() -> None:
    def refused(*held: str) -> set[str]:
        return {name for rule in seccomp.profile(held, "x86_64")["syscalls"] for name in rule["names"]}

    assert {"keyctl", "unshare", "clone", "clone3", "bpf", "io_uring_setup", "socket"} <= refused()
    assert {"unshare", "clone", "clone3", "bpf"}.isdisjoint(refused("CAP_SYS_ADMIN"))
    assert "keyctl" in refused("CAP_SYS_ADMIN")
    assert refused() - refused("CAP_BPF") == {"bpf"}
    flags = [
        rule["args"][0]["value"] for rule in seccomp.profile((), "x86_64")["syscalls"] if rule["names"] == ["clone"]
    ]
    assert 0x10000000 in flags
    assert sum(flags) == 0x7E020000
    assert "architectures" not in seccomp.profile((), "riscv64")
