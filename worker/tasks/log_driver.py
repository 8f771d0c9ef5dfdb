"""How a container's log is kept, as its log driver and the driver's options say. Pure, but for a look for journald.

Names and options are Docker's: `max-file` files of `max-size`, full ones compressed with `compress`. Options that add
attributes to lines, which nobody can read here, and `mode` are taken and mean nothing; what is no option of the driver
is refused.
"""

from pathlib import Path

from flota.v1.types_pb2 import Driver
from flota.worker.runtime.container import BadContainer, Log

_NONE, _JOURNALD = "none", "journald"
_ATTRIBUTES = frozenset({"labels", "labels-regex", "env", "env-regex", "tag"})
# Docker's for every driver: how words go from a container to its log.
_EVERY = frozenset({"mode", "max-buffer-size", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"})
_FILES = frozenset({"max-size", "max-file", "compress"}) | _EVERY
_OPTIONS = {
    "json-file": _FILES | _ATTRIBUTES,
    "local": _FILES,
    # Its file is kept for `service logs`.
    _JOURNALD: _FILES | _ATTRIBUTES,
    # Whatever is said of no log.
    _NONE: None,
    # No driver named: the first one. conmon's own name for it.
    "": _FILES | _ATTRIBUTES,
    "k8s-file": _FILES | _ATTRIBUTES,
}
_SHOWN = ("json-file", "local", _JOURNALD, _NONE)
# Bytes of a file, and files, of a log that nobody said anything about: a program that says the same thing for ever must
# not fill its node's disk, and what it said last is always there.
_DEFAULT = (50 << 20, 2)
# Docker's of the driver `local`: bytes of a file, files.
_LOCAL = (20 << 20, 5)
_SWITCHES = {"": False, "true": True, "1": True, "t": True, "false": False, "0": False, "f": False}
_JOURNAL = Path("/run/systemd/journal/socket")
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def log_of(driver: Driver) -> Log:
    """Raises BadContainer."""
    if driver.name not in _OPTIONS:
        raise BadContainer(f"unknown log driver {driver.name!r}: this node has {', '.join(_SHOWN)}")
    if driver.name == _JOURNALD and not _JOURNAL.exists():
        raise BadContainer(f"log driver journald: no journald listens on this node ({_JOURNAL})")
    known = _OPTIONS[driver.name]
    if known is None:
        return Log(kept=False)
    for option in sorted(driver.options):
        if option not in known:
            name = driver.name or _SHOWN[0]
            raise BadContainer(f"unknown option {option!r} of log driver {name}: one of {', '.join(sorted(known))}")
    size, files = _LOCAL if driver.name == "local" else _DEFAULT
    if wanted := driver.options.get("max-size", "").strip():
        # Docker's: one file, unless more are asked for. As many of our size are no bound that anybody asked for.
        size, files = _size(wanted), 1 if driver.name != "local" else files
        files = _files(driver.options.get("max-file", ""), files)
    else:
        _files(driver.options.get("max-file", ""), 1)
    compress = _switch("compress", driver.options.get("compress", ""))
    # Without a size there is no second file.
    files = files if size else 1
    return Log(size=size, files=files, compress=compress and files > 1, journal=driver.name == _JOURNALD)


def _size(max_size: str) -> int:
    """Bytes of one file; 0 = no limit ("-1"). Raises BadContainer."""
    text = max_size.lower()
    if text == "-1":
        return 0
    digits = text.removesuffix("b").rstrip("kmg")
    unit = text[len(digits) :].removesuffix("b")
    if not digits.isdigit() or not digits.isascii() or unit not in _UNITS:
        raise BadContainer(f"invalid max-size {text!r} of the log: a size such as 500k, 10m or 1g is needed")
    return int(digits) * _UNITS[unit]


def _files(max_file: str, default: int) -> int:
    """How many files. Raises BadContainer."""
    text = max_file.strip()
    if not text:
        return default
    if not text.isdigit() or not text.isascii() or not int(text):
        raise BadContainer(f"invalid max-file {text!r} of the log: a number of at least 1 is needed")
    return int(text)


def _switch(option: str, value: str) -> bool:
    """Raises BadContainer."""
    text = value.strip().lower()
    if text not in _SWITCHES:
        raise BadContainer(f"invalid {option} {value!r} of the log: true or false is needed")
    return _SWITCHES[text]
