"""Security options as Docker's users write them (`docker run --security-opt`, `security_opt:`). Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

_TRUE, _FALSE = ("", "true"), ("false",)
# What is so anyway: neither AppArmor nor SELinux confines a container here.
_ANYWAY = frozenset({("apparmor", "unconfined"), ("label", "disable"), ("seccomp", "builtin"), ("seccomp", "default")})


@dataclass(frozen=True)
class Security:
    """What they say, and those that cannot be."""

    no_new_privileges: bool = False
    seccomp_unconfined: bool = False
    unknown: tuple[str, ...] = ()


def written(*, no_new_privileges: bool, seccomp_unconfined: bool) -> list[str]:
    """The options that say so."""
    words = {"no-new-privileges": no_new_privileges, "seccomp=unconfined": seccomp_unconfined}
    return [text for text, said in words.items() if said]


def security_options(texts: Iterable[str]) -> Security:
    """NAME, NAME=VALUE or NAME:VALUE; the last one of a name counts."""
    no_new_privileges = unconfined = False
    unknown = []
    for text in texts:
        name, _, value = text.replace(":", "=", 1).partition("=")
        if name == "no-new-privileges" and value in _TRUE + _FALSE:
            no_new_privileges = value in _TRUE
        elif (name, value) == ("seccomp", "unconfined"):
            unconfined = True
        elif (name, value) not in _ANYWAY:
            unknown.append(text)
        elif name == "seccomp":
            unconfined = False
    return Security(no_new_privileges, unconfined, tuple(unknown))
