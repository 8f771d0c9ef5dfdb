"""ContainerSpec as Docker's clients send it → flota's."""

from __future__ import annotations

from typing import Any

from flota.gateway.translation.fields import INT32, UINT32, Fields
from flota.rpc.errors import InvalidArgument, Unsupported
from flota.v1 import specs_pb2 as specs
from flota.v1 import types_pb2 as types

# File modes are written in decimal; 0444 is what Docker gives to a reference without one.
_READ_ONLY = 0o444
_PRIVILEGES = {
    "CredentialSpec": ("Config", "File", "Registry"),
    "SELinuxContext": ("Disable", "User", "Role", "Type", "Level"),
    "Seccomp": ("Mode", "Profile"),
    "AppArmor": ("Mode",),
}
# Understood, or so anyway: neither AppArmor nor SELinux confines a container here.
_SAID = (("Seccomp", "unconfined"), ("AppArmor", "disabled"), ("SELinuxContext", True))


def container_spec(given: Fields) -> specs.ContainerSpec:
    """What runs in each task. Raises InvalidArgument, Unsupported."""
    _refuse(given)
    spec = specs.ContainerSpec(
        image=given.text("Image"),
        labels=given.labels("Labels"),
        command=given.texts("Command"),
        args=given.texts("Args"),
        hostname=given.text("Hostname"),
        env=given.texts("Env"),
        dir=given.text("Dir"),
        user=given.text("User"),
        groups=given.texts("Groups"),
        tty=given.flag("TTY"),
        open_stdin=given.flag("OpenStdin"),
        read_only=given.flag("ReadOnly"),
        mounts=[mount(each) for each in given.parts("Mounts")],
        stop_signal=given.text("StopSignal"),
        stop_grace_period=given.duration("StopGracePeriod"),
        hosts=given.texts("Hosts"),
        secrets=[
            types.SecretReference(
                secret_id=each.text("SecretID"), secret_name=each.text("SecretName"), file=_file(each, "SecretName")
            )
            for each in given.parts("Secrets")
        ],
        configs=[
            types.ConfigReference(
                config_id=each.text("ConfigID"), config_name=each.text("ConfigName"), file=_file(each, "ConfigName")
            )
            for each in given.parts("Configs")
        ],
        init=given.flag("Init"),
        sysctls=given.labels("Sysctls"),
        capability_add=given.texts("CapabilityAdd"),
        capability_drop=given.texts("CapabilityDrop"),
        ulimits=[
            types.Ulimit(name=each.text("Name"), soft=each.number("Soft"), hard=each.number("Hard"))
            for each in given.parts("Ulimits")
        ],
        oom_score_adj=given.number("OomScoreAdj", INT32),
        no_new_privileges=given.part("Privileges").flag("NoNewPrivileges"),
        seccomp_unconfined=given.part("Privileges").part("Seccomp").text("Mode") == "unconfined",
        # Not in Docker's swarm mode; named as in its containers.
        devices=[
            types.Device(
                source=each.text("PathOnHost"),
                target=each.text("PathInContainer"),
                permissions=each.text("CgroupPermissions"),
            )
            for each in given.parts("Devices")
        ],
    )
    if given.has("Healthcheck"):
        spec.healthcheck.CopyFrom(health_config(given.part("Healthcheck")))
    dns = given.part("DNSConfig")
    if dns.texts("Nameservers") or dns.texts("Search") or dns.texts("Options"):
        spec.dns.nameservers.extend(dns.texts("Nameservers"))
        spec.dns.search.extend(dns.texts("Search"))
        spec.dns.options.extend(dns.texts("Options"))
    return spec


def _refuse(given: Fields) -> None:
    isolation = given.text("Isolation")
    if isolation not in ("", "default"):
        raise Unsupported(f"invalid {given.at('Isolation')} {isolation!r}: that is for Windows only")
    privileges = given.part("Privileges")
    for name, fields in _PRIVILEGES.items():
        # Clients send empty ones, and those that say what is so anyway.
        for field in fields:
            if (name, privileges.part(name).raw(field)) in _SAID:
                continue
            if privileges.part(name).raw(field) not in (None, "", False, "default"):
                raise Unsupported(f"{privileges.at(name)}.{field} is not supported")


def health_config(given: Fields) -> types.HealthConfig:
    """A health check; zeros stand for the defaults."""
    return types.HealthConfig(
        test=given.texts("Test"),
        interval=_unless_zero(given, "Interval"),
        timeout=_unless_zero(given, "Timeout"),
        retries=given.number("Retries", UINT32),
        start_period=_unless_zero(given, "StartPeriod"),
        start_interval=_unless_zero(given, "StartInterval"),
        action=given.choice("Action", types.HealthConfig.Action, "ACTION_"),
    )


def _unless_zero(given: Fields, name: str) -> Any:
    return given.duration(name) if given.number(name) else None


def _file(given: Fields, name: str) -> types.FileTarget:
    if not given.has("File"):
        if given.has("Runtime"):
            raise Unsupported(f"{given.at('Runtime')} is not supported: a File is needed")
        return types.FileTarget(name=given.text(name), uid="0", gid="0", mode=_READ_ONLY)
    file = given.part("File")
    return types.FileTarget(
        name=file.text("Name"), uid=file.text("UID"), gid=file.text("GID"), mode=file.number("Mode", UINT32)
    )


def _follows(volume: Fields) -> bool:
    """Whether tasks follow the volume. Ours: Docker's clients do not say it."""
    affinity = volume.text("Affinity")
    if affinity not in ("", "node"):
        raise InvalidArgument.of(volume.at("Affinity"), affinity, "node is needed, or nothing")
    return affinity == "node"


def mount(given: Fields) -> types.Mount:
    """One entry of Mounts."""
    kind = given.text("Type") or "volume"
    if kind not in ("bind", "volume", "tmpfs"):
        raise InvalidArgument.of(given.at("Type"), kind, "one of bind, volume, tmpfs is needed")
    bind, volume, tmpfs = given.part("BindOptions"), given.part("VolumeOptions"), given.part("TmpfsOptions")
    asked = types.Mount(
        type=types.Mount.Type.Value(f"TYPE_{kind.upper()}"),
        source=given.text("Source"),
        target=given.text("Target"),
        read_only=given.flag("ReadOnly"),
        bind_propagation=bind.choice("Propagation", types.Mount.Propagation, "PROPAGATION_"),
        bind_nonrecursive=bind.flag("NonRecursive"),
        bind_writable_below=bind.flag("ReadOnlyNonRecursive"),
        bind_create_source=bind.flag("CreateMountpoint"),
        volume_nocopy=volume.flag("NoCopy"),
        volume_subpath=volume.text("Subpath"),
        volume_labels=volume.labels("Labels"),
        volume_node_affinity=_follows(volume),
        tmpfs_size_bytes=tmpfs.number("SizeBytes"),
        tmpfs_mode=tmpfs.number("Mode", UINT32),
    )
    driver = volume.part("DriverConfig")
    if driver.text("Name") or driver.labels("Options"):
        asked.volume_driver.name = driver.text("Name")
        asked.volume_driver.options.update(driver.labels("Options"))
    return asked
