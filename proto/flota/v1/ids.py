"""Identifiers: 25 characters of base36, as SwarmKit makes them (128 random bits)."""

import hashlib
import re
from random import Random, SystemRandom

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 25
_system_random = SystemRandom()
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")


def base36(number: int, width: int) -> str:
    """Write a non-negative `number` in base 36, padded with zeros to `width` characters."""
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _ALPHABET[digit] + digits
    return digits.rjust(width, "0")


def new_id(random: Random = _system_random) -> str:
    """Make a fresh identifier; pass a seeded `random` to make a simulation repeatable."""
    return base36(random.getrandbits(128), ID_LENGTH)


def container_id(task_id: str) -> str:
    """What a task's container is called: 64 digits, as clients of Docker know containers from tasks by.

    Containers without a service have a name of that form from the beginning, which is their task's, too.
    """
    return task_id if _CONTAINER_ID.fullmatch(task_id) else hashlib.sha256(task_id.encode()).hexdigest()
