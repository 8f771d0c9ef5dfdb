"""POST /containers/create: a container as `docker run` asks for it → PlainContainer. Pure.

What the image says is filled in, as Docker does it. Fields that flota has not are ignored when they change nothing, and
refused when somebody relies on them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flota.gateway.translation.containers import health_config, mount
from flota.gateway.translation.fields import INT32, Fields
from flota.gateway.translation.host_config import asked_to_remember
from flota.rpc.errors import InvalidArgument, Unsupported
from flota.v1.containers_pb2 import PlainContainer, UpdateContainerRequest
from flota.v1.network_options import BRIDGE
from flota.v1.security_options import security_options
from flota.v1.specs_pb2 import ContainerSpec, TaskSpec
from flota.v1.types_pb2 import Device, Driver, Mount, NetworkAttachmentConfig, PortConfig, RestartPolicy, Ulimit

_SECOND = 1_000_000_000
_CPU_PERIOD = 100_000
# What the kernel takes.
_SHARES = range(1 << 18 | 1)
# NAME of HostConfig → values that mean what is so anyway.
_USUAL: Mapping[str, tuple[Any, ...]] = {
    "Privileged": (False,),
    "PidMode": ("", "private"),
    "IpcMode": ("", "private", "shareable"),
    "UTSMode": ("",),
    "UsernsMode": ("", "host"),
    "CgroupnsMode": ("", "private"),
    "Isolation": ("", "default"),
    "VolumesFrom": ([],),
    "VolumeDriver": ("", "local"),
    "DeviceRequests": ([],),
    "CgroupParent": ("",),
    "StorageOpt": ({},),
    "BlkioWeight": (0,),
    "OomKillDisable": (False,),
}
_SHM = "/dev/shm"


def plain_container(name: str, given: Fields, image: Mapping[str, Any]) -> PlainContainer:
    """`image` is the config of the image's configuration. Raises InvalidArgument, Unsupported."""
    host = given.part("HostConfig")
    _refuse(host)
    made = PlainContainer(auto_remove=host.flag("AutoRemove"), asked=asked_to_remember(given, host))
    task = made.task
    task.service_annotations.name = name.removeprefix("/")
    task.spec.CopyFrom(_task_spec(given, host, image))
    task.log_driver.CopyFrom(_log_driver(host.part("LogConfig")))
    made.unless_stopped = host.part("RestartPolicy").text("Name") == "unless-stopped"
    if made.auto_remove and task.spec.restart.condition != RestartPolicy.CONDITION_NONE:
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")
    task.endpoint.ports.extend(_ports(given, host, image))
    for network, endpoint in _endpoints(given, host):
        if priority := gateway_priority(endpoint):
            made.gateway_priorities[network] = priority
    return made


def update_of(plain: PlainContainer, given: Fields) -> UpdateContainerRequest:
    """POST /containers/{id}/update, for this container: what is 0 or not there stays. Raises InvalidArgument."""
    if given.number("BlkioWeight"):
        raise Unsupported(f"invalid {given.at('BlkioWeight')} {given.number('BlkioWeight')}: that is not supported")
    request = UpdateContainerRequest(id=plain.task.id)
    resources = request.resources
    resources.CopyFrom(plain.task.spec.resources)
    resources.limits.memory_bytes = given.number("Memory") or resources.limits.memory_bytes
    resources.limits.nano_cpus = given.number("NanoCpus") or _quota(given) or resources.limits.nano_cpus
    resources.reservations.memory_bytes = given.number("MemoryReservation") or resources.reservations.memory_bytes
    resources.memory_swap_bytes = given.number("MemorySwap") or resources.memory_swap_bytes
    resources.cpu_shares = given.number("CpuShares", _SHARES) or resources.cpu_shares
    resources.cpuset_cpus = given.text("CpusetCpus") or resources.cpuset_cpus
    resources.cpuset_mems = given.text("CpusetMems") or resources.cpuset_mems
    if given.number("PidsLimit"):
        resources.pids_limit = max(0, given.number("PidsLimit"))
    policy = given.part("RestartPolicy")
    if policy.text("Name"):
        request.restart.CopyFrom(_restart(policy))
        request.unless_stopped = policy.text("Name") == "unless-stopped"
    return request


def _refuse(host: Fields) -> None:
    for option in security_options(host.texts("SecurityOpt")).unknown:
        raise Unsupported(f"invalid {host.at('SecurityOpt')} {option!r}: that is not supported")
    for name, usual in _USUAL.items():
        value = host.raw(name)
        if value is not None and value not in usual:
            raise Unsupported(f"invalid {host.at(name)} {value!r}: that is not supported")


def _task_spec(given: Fields, host: Fields, image: Mapping[str, Any]) -> TaskSpec:
    spec = TaskSpec(container=_container_spec(given, host, image), restart=_restart(host.part("RestartPolicy")))
    spec.networks.extend(attachment(network, endpoint) for network, endpoint in _endpoints(given, host))
    limits = spec.resources.limits
    limits.memory_bytes = host.number("Memory")
    limits.nano_cpus = host.number("NanoCpus") or _quota(host)
    spec.resources.reservations.memory_bytes = host.number("MemoryReservation")
    spec.resources.pids_limit = max(0, host.number("PidsLimit"))
    spec.resources.memory_swap_bytes = host.number("MemorySwap")
    spec.resources.cpu_shares = host.number("CpuShares", _SHARES)
    spec.resources.cpuset_cpus, spec.resources.cpuset_mems = host.text("CpusetCpus"), host.text("CpusetMems")
    if host.number("MemorySwappiness") not in (-1, 0):
        spec.resources.memory_swappiness = host.number("MemorySwappiness")
    return spec


def _quota(host: Fields) -> int:
    quota, period = host.number("CpuQuota"), host.number("CpuPeriod") or _CPU_PERIOD
    return quota * _SECOND // period if quota > 0 else 0


def _container_spec(given: Fields, host: Fields, image: Mapping[str, Any]) -> ContainerSpec:
    command, args = _program(given, image)
    security = security_options(host.texts("SecurityOpt"))
    spec = ContainerSpec(
        image=given.text("Image"),
        labels=(image.get("Labels") or {}) | given.labels("Labels"),
        command=command,
        args=args,
        hostname=given.text("Hostname"),
        env=[*(image.get("Env") or ()), *given.texts("Env")],
        dir=given.text("WorkingDir") or image.get("WorkingDir") or "",
        user=given.text("User") or image.get("User") or "",
        groups=host.texts("GroupAdd"),
        tty=given.flag("Tty"),
        open_stdin=given.flag("OpenStdin"),
        read_only=host.flag("ReadonlyRootfs"),
        mounts=list(_mounts(given, host)),
        stop_signal=given.text("StopSignal") or image.get("StopSignal") or "",
        hosts=[_host_line(text) for text in host.texts("ExtraHosts")],
        init=host.flag("Init"),
        sysctls=host.labels("Sysctls"),
        capability_add=host.texts("CapAdd"),
        capability_drop=host.texts("CapDrop"),
        ulimits=[
            Ulimit(name=each.text("Name"), soft=each.number("Soft"), hard=each.number("Hard"))
            for each in host.parts("Ulimits")
        ],
        oom_score_adj=host.number("OomScoreAdj", INT32),
        no_new_privileges=security.no_new_privileges,
        seccomp_unconfined=security.seccomp_unconfined,
        devices=[
            Device(
                source=each.text("PathOnHost"),
                target=each.text("PathInContainer"),
                permissions=each.text("CgroupPermissions"),
            )
            for each in host.parts("Devices")
        ],
    )
    if given.has("StopTimeout"):
        spec.stop_grace_period.seconds = given.number("StopTimeout")
    if given.has("Healthcheck"):
        spec.healthcheck.CopyFrom(health_config(given.part("Healthcheck")))
    if any(host.texts(name) for name in ("Dns", "DnsSearch", "DnsOptions")):
        spec.dns.nameservers.extend(host.texts("Dns"))
        spec.dns.search.extend(host.texts("DnsSearch"))
        spec.dns.options.extend(host.texts("DnsOptions"))
    return spec


def _program(given: Fields, image: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Entrypoint and command: one's own entrypoint takes nothing of the image's command."""
    command = given.texts("Cmd")
    if given.texts("Entrypoint"):
        # [""] stands for none at all.
        return [each for each in given.texts("Entrypoint") if each], command
    return list(image.get("Entrypoint") or ()), command or list(image.get("Cmd") or ())


def _host_line(text: str) -> str:
    """NAME:ADDRESS or NAME=ADDRESS as a line of /etc/hosts."""
    name, separator, address = text.partition("=" if "=" in text else ":")
    if not separator or not name or not address:
        raise InvalidArgument.of("HostConfig.ExtraHosts", text, "NAME:ADDRESS is needed")
    return f"{address.strip('[]')} {name}"


def _restart(given: Fields) -> RestartPolicy:
    conditions = {
        "": RestartPolicy.CONDITION_NONE,
        "no": RestartPolicy.CONDITION_NONE,
        "always": RestartPolicy.CONDITION_ANY,
        "unless-stopped": RestartPolicy.CONDITION_ANY,
        "on-failure": RestartPolicy.CONDITION_ON_FAILURE,
    }
    name = given.text("Name")
    if name not in conditions:
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or "
            "'unless-stopped'"
        )
    if given.number("MaximumRetryCount") and name != "on-failure":
        raise InvalidArgument("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    return RestartPolicy(condition=conditions[name], max_attempts=given.number("MaximumRetryCount"))


def _log_driver(given: Fields) -> Driver:
    return Driver(name=given.text("Type"), options=given.labels("Config"))


def _endpoints(given: Fields, host: Fields) -> Iterator[tuple[str, Fields]]:
    """The endpoints asked for by their networks, the one of the network mode first."""
    mode = host.text("NetworkMode")
    if given.flag("NetworkDisabled"):
        mode = "none"
    if mode.startswith("container:"):
        raise Unsupported(f"invalid {host.at('NetworkMode')} {mode!r}: that is not supported")
    first = BRIDGE if mode in ("", "default") else mode
    endpoints = given.part("NetworkingConfig").part("EndpointsConfig")
    names = [name for name in endpoints.names() if name != "default"]
    for name in [first, *(name for name in names if name != first)]:
        yield name, endpoints.part(name) if name in names else endpoints.part("default")


def gateway_priority(endpoint: Fields) -> int:
    """How much an endpoint is preferred for the default routes."""
    return endpoint.number("GwPriority", INT32)


def attachment(network: str, endpoint: Fields) -> NetworkAttachmentConfig:
    """One endpoint of a container. Raises InvalidArgument, Unsupported."""
    for name, flag in (("Links", "--link"), ("DriverOpts", "--driver-opt")):
        if endpoint.raw(name):
            raise Unsupported(f"invalid {endpoint.at(name)} {endpoint.raw(name)!r}: {flag} is not supported")
    wanted = NetworkAttachmentConfig(target=network, aliases=endpoint.texts("Aliases"))
    ipam = endpoint.part("IPAMConfig")
    for version in (4, 6):
        address = ipam.text(f"IPv{version}Address")
        if not address:
            continue
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            parsed = None
        if parsed is None or parsed.version != version:
            raise InvalidArgument(f"Invalid IPv{version} address: {address}")
        wanted.addresses.append(str(parsed))
    return wanted


def _mounts(given: Fields, host: Fields) -> Iterable[Mount]:
    targets = set()
    for text in host.texts("Binds"):
        yield (each := _bind(text))
        targets.add(each.target)
    for raw in host.parts("Mounts"):
        yield (each := mount(raw))
        targets.add(each.target)
    for target, options in host.labels("Tmpfs").items():
        yield _tmpfs(target, options)
        targets.add(target)
    for target in given.part("Volumes").names():
        if target not in targets:
            yield Mount(type=Mount.TYPE_VOLUME, target=target)
    if (shared := host.number("ShmSize")) and _SHM not in targets:
        yield Mount(type=Mount.TYPE_TMPFS, target=_SHM, tmpfs_size_bytes=shared, tmpfs_mode=0o1777)


def _bind(text: str) -> Mount:
    """SOURCE:TARGET[:OPTIONS], the source a path or a volume's name."""
    parts = text.split(":")
    if len(parts) not in (2, 3) or not all(parts[:2]):
        raise InvalidArgument.of("HostConfig.Binds", text, "SOURCE:TARGET[:OPTIONS] is needed")
    made = Mount(source=parts[0], target=parts[1], type=Mount.TYPE_VOLUME)
    if parts[0].startswith("/"):
        made.type, made.bind_create_source = Mount.TYPE_BIND, True
    for option in parts[2].split(",") if len(parts) == 3 else ():
        match option:
            case "ro":
                made.read_only = True
            case "nocopy":
                made.volume_nocopy = True
            case "rw" | "z" | "Z" | "":
                pass
            case _ if f"PROPAGATION_{option.upper()}" in Mount.Propagation.keys():  # noqa: SIM118 - no mapping
                made.bind_propagation = Mount.Propagation.Value(f"PROPAGATION_{option.upper()}")
            case _:
                raise InvalidArgument.of("HostConfig.Binds", text, f"there is no option {option!r}")
    return made


def _tmpfs(target: str, options: str) -> Mount:
    made = Mount(type=Mount.TYPE_TMPFS, target=target)
    units = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        digits = value.rstrip("kmgKMG")
        if key == "size" and digits.isdigit() and len(value) - len(digits) <= 1:
            made.tmpfs_size_bytes = int(digits) * units.get(value[len(digits) :].lower(), 1)
        elif key == "mode" and value.isdigit():
            made.tmpfs_mode = int(value, 8)
        elif key == "ro":
            made.read_only = True
        elif key not in ("rw", "noexec", "nosuid", "nodev"):
            raise Unsupported(f"invalid HostConfig.Tmpfs option {option!r} of {target}: only size, mode and ro are")
    return made


def _ports(given: Fields, host: Fields, image: Mapping[str, Any]) -> Iterable[PortConfig]:
    bindings = host.part("PortBindings")
    for port in bindings.names():
        for binding in bindings.parts(port):
            yield _port(port, binding.text("HostPort"), _host_address(port, binding.text("HostIp")))
    if host.flag("PublishAllPorts"):
        exposed = dict.fromkeys([*(image.get("ExposedPorts") or ()), *given.part("ExposedPorts").names()])
        for port in exposed:
            if port not in bindings.names():
                yield _port(port, "")


def _host_address(port: str, text: str) -> str:
    """The one address of the node that a port is published on; empty for all."""
    if text in ("", "0.0.0.0", "::"):
        return ""
    try:
        return str(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        pass
    raise InvalidArgument(f"invalid host address {text!r} of port {port}: an address of this node is needed, or none")


def _port(port: str, published: str, host_address: str = "") -> PortConfig:
    number, _, protocol = port.partition("/")
    kind = f"PROTOCOL_{(protocol or 'tcp').upper()}"
    if kind not in PortConfig.Protocol.keys() or not number.isdigit():  # noqa: SIM118 - no mapping
        raise InvalidArgument.of("HostConfig.PortBindings", port, "NUMBER/tcp, /udp or /sctp is needed")
    first = published.partition("-")[0]
    if first and not (first.isdigit() and int(first) < 65536):
        raise InvalidArgument.of("HostConfig.PortBindings", published, "a port from 0 to 65535 is needed")
    return PortConfig(
        protocol=PortConfig.Protocol.Value(kind),
        target_port=int(number),
        published_port=int(first or 0),
        publish_mode=PortConfig.PUBLISH_MODE_HOST,
        host_address=host_address,
    )
