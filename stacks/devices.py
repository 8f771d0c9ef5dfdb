"""Devices as people write them: HOST-PATH[:CONTAINER-PATH][:PERMISSIONS]. Pure."""

from flota.stacks.errors import BadValue
from flota.v1.types_pb2 import Device

_FORM = "HOST-PATH[:CONTAINER-PATH][:rwm] is needed, such as /dev/fuse or /dev/sda:/dev/disk:r"
PERMISSIONS = "rwm"


def parse_device(text: str) -> Device:
    """Permissions are r (read), w (write) and m (mknod). Raises BadValue."""
    source, *rest = text.split(":")
    permissions = rest.pop() if rest and not rest[-1].startswith("/") else ""
    target = rest.pop() if rest else ""
    paths = [source, target] if target else [source]
    if "\0" in text or rest or text.endswith(":") or not all(path.startswith("/") for path in paths):
        raise BadValue(text, _FORM)
    if set(permissions) - set(PERMISSIONS) or len(set(permissions)) != len(permissions):
        raise BadValue(text, _FORM)
    return Device(source=source, target=target, permissions=permissions)


def format_device(device: Device) -> str:
    """The shortest text that means the same."""
    words = [device.source]
    if device.target and device.target != device.source:
        words.append(device.target)
    if device.permissions:
        words.append(device.permissions)
    return ":".join(words)
