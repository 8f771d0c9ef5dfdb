"""Users and groups as an image's /etc/passwd and /etc/group know them (the rules of Docker's --user).

Pure: works on the text of the two files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_MAX_ID = (1 << 32) - 2


class UnknownAccount(Exception):
    """A user or group the image does not know."""


@dataclass(frozen=True)
class Account:
    """Whom a process runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


def resolve(wanted: str, groups: Sequence[str], passwd: str, group: str) -> Account:
    """`wanted` is user[:group], each a name or a number; empty = root. Raises UnknownAccount."""
    user, _, primary = wanted.partition(":")
    user = user or "0"
    users = [fields for line in passwd.splitlines() if len(fields := line.split(":")) >= 6]
    known_groups = [fields for line in group.splitlines() if len(fields := line.split(":")) >= 3]
    entry = next((fields for fields in users if fields[0] == user), None)
    number = _number(user)
    if entry is None and number is not None:
        entry = next((fields for fields in users if _number(fields[2]) == number), None)
    if entry is None and number is None:
        raise UnknownAccount(f"user {user!r} is not in the image's /etc/passwd")
    uid = int(entry[2]) if entry else int(user)
    name, home = (entry[0], entry[5] or "/") if entry else ("", "/")
    extra = tuple(_group(one, known_groups) for one in groups)
    if primary:
        return Account(uid, _group(primary, known_groups), extra, home)
    member_of = [int(fields[2]) for fields in known_groups if len(fields) > 3 and name and name in fields[3].split(",")]
    gid = int(entry[3]) if entry else 0
    return Account(uid, gid, tuple(dict.fromkeys([*member_of, *extra])), home)


def _group(wanted: str, known: Sequence[Sequence[str]]) -> int:
    for fields in known:
        if fields[0] == wanted:
            return int(fields[2])
    number = _number(wanted)
    if number is None:
        raise UnknownAccount(f"group {wanted!r} is not in the image's /etc/group")
    return number


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and int(text) <= _MAX_ID else None
