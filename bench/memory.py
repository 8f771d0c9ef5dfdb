"""Memory of several processes together: what they share through files, libraries above all, is there once."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)")


def together_mib(maps: Iterable[str]) -> float:
    """Resident MiB of processes, given /proc/PID/smaps of each.

    Of a file's pages that several have, those of the process that has most of them are counted: processes of one
    program have the same ones in use, more or less.
    """
    anonymous = 0
    of_files: dict[str, int] = defaultdict(int)
    for text in maps:
        own, shared = _parts(text)
        anonymous += own
        for name, size in shared.items():
            of_files[name] = max(of_files[name], size)
    return (anonymous + sum(of_files.values())) / 1024


def _parts(text: str) -> tuple[int, Counter[str]]:
    """KiB that are one process's alone, and those of each file."""
    own, shared, name = 0, Counter[str](), ""
    for line in text.splitlines():
        if mapping := _MAPPING.fullmatch(line):
            name = mapping[1]
        elif line.startswith("Rss:"):
            shared[name] += int(line.split()[1])
        elif line.startswith("Anonymous:"):
            own += int(line.split()[1])
            shared[name] -= int(line.split()[1])
    return own, shared
