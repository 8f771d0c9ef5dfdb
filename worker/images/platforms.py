"""Which of an index's images is the one for this machine (OCI image index: `platform` of a descriptor). Pure."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
}
# What a descriptor that says nothing means.
_USUAL_VARIANTS = {"arm64": "v8", "arm": "v7", "amd64": "v1"}


@dataclass(frozen=True)
class MachinePlatform:
    """What images for this machine say of themselves."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def here(cls) -> "MachinePlatform":
        """This machine's."""
        machine = os.uname().machine
        return cls("linux", *_ARCHITECTURES.get(machine, (machine, "")))

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"

    def preference(self, platform: Mapping[str, Any]) -> int | None:
        """How well an image for `platform` runs here, the larger the better; None = it does not."""
        if (platform.get("os"), platform.get("architecture")) != (self.os, self.architecture):
            return None
        usual = _USUAL_VARIANTS.get(self.architecture, "")
        level = _level(platform.get("variant") or usual)
        highest = _level(self.variant or usual)
        return level if level <= highest else None


def _level(variant: str) -> int:
    number = variant.removeprefix("v")
    return int(number) if number.isascii() and number.isdigit() else 0
