"""What can only be said once all files are merged: which services are enabled, what their env files hold, whether all
that they name is there. The result names nothing but itself: no env files, no profiles, no `extends`.

Keys that say the same as one under `deploy:` (scale, mem_limit, cpus, restart, …) are written there.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterable, Mapping, Sequence

from flota.stacks.compose.dotenv import read_raw, read_variables
from flota.stacks.compose.files import read_text
from flota.stacks.compose.tree import Items, Map, Spot
from flota.stacks.errors import did_you_mean

# A key of a service, and the key under deploy: that says the same.
_UNDER_DEPLOY = {
    "scale": ("replicas",),
    "cpus": ("resources", "limits", "cpus"),
    "mem_limit": ("resources", "limits", "memory"),
    "pids_limit": ("resources", "limits", "pids"),
    "mem_reservation": ("resources", "reservations", "memory"),
}
_CONTENT = ("file", "environment", "content", "driver")


def finish(tree: Map, environment: Mapping[str, str], profiles: Sequence[str]) -> None:
    """Finish a merged tree, in place. Raises ComposeError."""
    top = Spot(tree.place, ())
    services = tree.get("services")
    if not isinstance(services, Map) or not services:
        top.fail("there are no services: a file needs services: with at least one service")
    disabled = _select(services, profiles)
    if not services:
        top.fail(
            f"no service is enabled: all have profiles ({', '.join(sorted(disabled))}); choose some with --profile"
        )
    spot = top.of(tree, "services")
    for name, service in services.items():
        _finish_service(service, spot.of(services, name), environment)
        _check_dependencies(service, services, disabled, spot.of(services, name))
    _check_references(tree, top)
    for section in ("networks", "volumes", "secrets", "configs"):
        for name, entry in tree.get(section, {}).items():
            _check_object(section, entry, top.of(tree, section).of(tree[section], name))


def _select(services: Map, profiles: Sequence[str]) -> set[str]:
    """Take out the services that no profile enables; gives the profiles that would."""
    would: set[str] = set()
    for name in list(services):
        own = services[name].get("profiles", [])
        if own and "*" not in profiles and not set(own) & set(profiles):
            services.drop(name)
            would |= set(own)
        else:
            services[name].drop("profiles")
    return would


# --- a service ----------------------------------------------------------------------------------------------------


def _finish_service(service: Map, spot: Spot, environment: Mapping[str, str]) -> None:
    if not service.get("image"):
        if "build" in service:
            spot.of(service, "build").fail(
                "no images are built here: build it, push it to a registry or load it on the nodes, and set image:"
            )
        if "provider" in service:
            spot.of(service, "provider").fail("providers are not supported; name an image:")
        spot.fail("image: is missing")
    for key in ("volumes_from", "volume_driver"):
        if key in service:
            spot.of(service, key).fail("it is not supported; name the volumes under volumes:")
    _read_env_files(service, spot, environment)
    _fold(service, spot)
    health = service.get("healthcheck", {})
    if health.get("disable"):
        for key in [key for key in health if key != "disable"]:
            health.drop(key)
    if not service.get("networks"):
        networks = Map(spot.place)
        networks.put("default", Map(spot.place))
        service.put("networks", networks)


def _read_env_files(service: Map, spot: Spot, environment: Mapping[str, str]) -> None:
    """Put what env files and label files say below `environment` and `labels`; fill in names without a value."""
    for key, section in (("env_file", "environment"), ("label_file", "labels")):
        files = service.get(key, Items(spot.place))
        own: Map | None = service.get(section)
        if not files and own is None:
            service.drop(key)
            continue
        made = Map(service.place_of(key) if own is None else own.place)
        for index, file in enumerate(files):
            for name, value in _variables_of(file, spot.of(service, key).of(files, index), environment).items():
                made.put(name, value, files.place_of(index))
        if own is not None:
            for name, value in own.items():
                made.put(name, value, own.place_of(name))
        for name in list(made):
            value = made[name] if made[name] is not None else environment.get(name)
            if value is None and section == "environment":
                made.drop(name)
            else:
                made[name] = value or ""
        service.put(section, made, made.place)
        service.drop(key)


def _variables_of(file: Map, spot: Spot, environment: Mapping[str, str]) -> dict[str, str | None]:
    path = file["path"]
    if not file["required"] and not os.path.exists(path):
        return {}
    text = read_text(path, spot)
    return read_raw(text, path) if file.get("format") == "raw" else read_variables(text, path, environment)


def _fold(service: Map, spot: Spot) -> None:
    """Write under deploy: what other keys say."""
    for key, path in _UNDER_DEPLOY.items():
        if key not in service:
            continue
        here = spot.of(service, key)
        value = service.drop(key)
        said = _dig(service.get("deploy", {}), path)
        if said is not None and said != value:
            here.fail(f"it says {value} and deploy.{'.'.join(path)} says {said}: leave one of them out")
        _bury(service, ("deploy", *path), value, here)
    _fold_restart(service, spot)


def _fold_restart(service: Map, spot: Spot) -> None:
    if "restart" not in service:
        return
    here = spot.of(service, "restart")
    kind, _, most = service.drop("restart").partition(":")
    if "restart_policy" in service.get("deploy", {}):
        return  # The specification: restart counts only where there is no restart_policy.
    condition = {"no": "none", "on-failure": "on-failure"}.get(kind, "any")
    _bury(service, ("deploy", "restart_policy", "condition"), condition, here)
    if most:
        _bury(service, ("deploy", "restart_policy", "max_attempts"), int(most), here)


def _dig(tree: object, path: Iterable[str]) -> object:
    for key in path:
        if not isinstance(tree, Map) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _bury(tree: Map, path: Sequence[str], value: object, spot: Spot) -> None:
    for key in path[:-1]:
        if not isinstance(tree.get(key), Map):
            tree.put(key, Map(spot.place), spot.place)
        tree = tree[key]
    tree.put(path[-1], value, spot.place)


# --- what refers to what ------------------------------------------------------------------------------------------


def _check_dependencies(service: Map, services: Map, disabled: set[str], spot: Spot) -> None:
    wanted: Map = service.get("depends_on", Map(spot.place))
    for name in list(wanted):
        if name in services:
            continue
        if not wanted[name]["required"]:
            wanted.drop(name)
            continue
        here = spot.of(service, "depends_on").of(wanted, name)
        why = f" (or no profile enables it: {', '.join(sorted(disabled))})" if disabled else ""
        here.fail(f"there is no service {name!r}{why}{did_you_mean(name, services)}")
    if not wanted:
        service.drop("depends_on")


def _check_references(tree: Map, top: Spot) -> None:
    services, spot = tree["services"], top.of(tree, "services")
    for name, service in services.items():
        here = spot.of(services, name)
        for network in service["networks"]:
            if network == "default" and network not in tree.get("networks", {}):
                if "networks" not in tree:
                    tree.put("networks", Map(tree.place))
                tree["networks"].put("default", Map(tree.place))
            _check_defined(tree, "networks", network, here.of(service, "networks").of(service["networks"], network))
        for section in ("secrets", "configs"):
            for index, entry in enumerate(service.get(section, ())):
                _check_defined(tree, section, entry["source"], here.of(service, section).of(service[section], index))
        for index, mount in enumerate(service.get("volumes", ())):
            if mount["type"] == "volume" and mount.get("source"):
                entry_spot = here.of(service, "volumes").of(service["volumes"], index)
                _check_defined(tree, "volumes", mount["source"], entry_spot)


def _check_defined(tree: Map, section: str, name: str, spot: Spot) -> None:
    known = tree.get(section, {})
    if name not in known:
        hint = did_you_mean(name, known) or f"; define it: {section}: {{{name}: …}} at the top of the file"
        spot.fail(f"{section.removesuffix('s')} {name!r} is not defined{hint}")


def _check_object(section: str, entry: Map, spot: Spot) -> None:
    if entry.get("external"):
        for key in entry:
            if key not in ("external", "name") and not key.startswith("x-"):
                spot.of(entry, key).fail(f"an external {section.removesuffix('s')} is made elsewhere: only name: fits")
        return
    if section not in ("secrets", "configs"):
        return
    sources = [key for key in _CONTENT if key in entry]
    if not sources:
        spot.fail("where does its content come from? file:, environment:, content: or external: true is needed")
    if len(sources) > 1:
        spot.of(entry, sources[1]).fail(f"{sources[0]}: and {sources[1]}: cannot both give the content")
    if sources[0] == "driver":
        spot.of(entry, "driver").fail("drivers for secrets are not supported; use file:, environment: or content:")
