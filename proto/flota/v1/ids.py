"""Identifiers: 25 characters of base36, as SwarmKit makes them (128 random bits)."""

from random import Random, SystemRandom

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 25
_system_random = SystemRandom()


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
