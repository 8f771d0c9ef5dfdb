"""Dockerfile instructions that change what an image says of its containers (`image import --change`). Pure.

The words and their forms are those of Docker's Dockerfile reference: JSON or a line for the shell, KEY=VALUE with
quotes, variables of ENV replaced where Docker replaces them.
"""

import json
import os.path
import re
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

from flota.rpc.errors import InvalidArgument
from flota.worker.runtime.container import signal_number

_SHELL = ["/bin/sh", "-c"]
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:[-+])([^}]*))?\})")
_FIRST_WORD = re.compile(r"""(?:"[^"]*"|'[^']*'|[^\s"'])+""")
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_TIMES = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
}

Config = dict[str, Any]


def apply(instructions: Iterable[str], before: Config | None = None) -> Config:
    """What instructions make of the configuration `before`, in the OCI image specification's words.

    Raises InvalidArgument.
    """
    config: Config = {key: deepcopy(value) for key, value in (before or {}).items() if value is not None}
    for instruction in instructions:
        word, *rest = instruction.split(maxsplit=1)[:2] or [""]
        change = _CHANGES.get(word.upper())
        if change is None:
            raise InvalidArgument.of("change", instruction, f"it begins with one of {', '.join(_CHANGES)}")
        if not rest:
            raise InvalidArgument.of("change", instruction, f"{word.upper()} needs a value")
        try:
            change(config, rest[0].strip())
        except ValueError as error:
            raise InvalidArgument.of("change", instruction, str(error)) from None
    return config


# Instructions.


def _cmd(config: Config, text: str) -> None:
    config["Cmd"] = _json_list(text) or [*_SHELL, text]


def _entrypoint(config: Config, text: str) -> None:
    config["Entrypoint"] = _json_list(text) or [*_SHELL, text]


def _env(config: Config, text: str) -> None:
    known = _environment(config)
    for key, value in _pairs(text, _environment(config)):
        known[key] = value
    config["Env"] = [f"{key}={value}" for key, value in known.items()]


def _label(config: Config, text: str) -> None:
    config.setdefault("Labels", {}).update(_pairs(text, _environment(config)))


def _workdir(config: Config, text: str) -> None:
    path = _line(text, _environment(config))
    config["WorkingDir"] = os.path.normpath(os.path.join("/", config.get("WorkingDir", "/"), path))


def _user(config: Config, text: str) -> None:
    config["User"] = _line(text, _environment(config))


def _expose(config: Config, text: str) -> None:
    ports = config.setdefault("ExposedPorts", {})
    for word in _words(text, _environment(config)):
        found = _PORT.fullmatch(word)
        first = int(found[1]) if found else 0
        last = int(found[2] or first) if found else 0
        if not found or not 0 < first <= last < 1 << 16:
            raise ValueError(f"{word!r} is no port: PORT[-PORT][/tcp|udp|sctp]")
        for port in range(first, last + 1):
            ports[f"{port}/{(found[3] or 'tcp').lower()}"] = {}


def _volume(config: Config, text: str) -> None:
    paths = _json_list(text) or _words(text, _environment(config))
    if "" in paths:
        raise ValueError("a volume needs a path")
    config.setdefault("Volumes", {}).update((path, {}) for path in paths)


def _stopsignal(config: Config, text: str) -> None:
    name = _line(text, _environment(config))
    signal_number(name)
    config["StopSignal"] = name


def _healthcheck(config: Config, text: str) -> None:
    check: Config = {}
    while text.startswith("--"):
        option, _, text = text.partition(" ")
        name, _, value = option.removeprefix("--").partition("=")
        if name == "retries":
            if not value.isascii() or not value.isdigit():
                raise ValueError(f"--retries is a number, not {value!r}")
            check["Retries"] = int(value)
        elif name in _TIMES:
            check[_TIMES[name]] = _nanoseconds(name, value)
        else:
            raise ValueError(f"unknown option --{name}: one of --{', --'.join((*_TIMES, 'retries'))}")
        text = text.lstrip()
    kind, _, command = text.partition(" ")
    command = command.strip()
    if kind.upper() == "NONE" and not check and not command:
        check["Test"] = ["NONE"]
    elif kind.upper() == "CMD" and command:
        words = _json_list(command)
        check["Test"] = ["CMD", *words] if words else ["CMD-SHELL", command]
    else:
        raise ValueError("allowed are NONE, and [OPTIONS] CMD with a command")
    config["Healthcheck"] = check


_CHANGES: Mapping[str, Callable[[Config, str], None]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}


# Their values.


def _environment(config: Config) -> dict[str, str]:
    return dict(one.partition("=")[::2] for one in config.get("Env", ()))


def _json_list(text: str) -> list[str]:
    """Empty when the text is none."""
    if not text.startswith("["):
        return []
    try:
        found = json.loads(text)
    except ValueError:
        return []
    return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else []


def _pairs(text: str, variables: Mapping[str, str]) -> list[tuple[str, str]]:
    """KEY=VALUE…, or the old form: KEY VALUE."""
    first = _FIRST_WORD.match(text)
    if first is None or "=" not in first[0]:
        key, _, rest = text.partition(" ")
        if not rest.strip():
            raise ValueError("KEY=VALUE is needed")
        return [(key, _line(rest.strip(), variables))]
    pairs = []
    for word in _words(text, variables):
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise ValueError(f"{word!r} is not KEY=VALUE")
        pairs.append((key, value))
    return pairs


def _line(text: str, variables: Mapping[str, str]) -> str:
    """One value to the end of the line, without its quotes."""
    return _scan(text, variables, split=False)[0]


def _words(text: str, variables: Mapping[str, str]) -> list[str]:
    return _scan(text, variables, split=True)


def _scan(text: str, variables: Mapping[str, str], *, split: bool) -> list[str]:
    """Words, with quotes taken off and variables replaced as a shell does."""
    words: list[str] = []
    word: list[str] | None = None
    quote = ""
    at = 0
    while at < len(text):
        here = text[at]
        at += 1
        if split and not quote and here.isspace():
            if word is not None:
                words.append("".join(word))
            word = None
            continue
        word = word if word is not None else []
        variable = _VARIABLE.match(text, at - 1) if here == "$" and quote != "'" else None
        if variable is not None:
            word.append(_value(variable, variables))
            at = variable.end()
        elif here == "\\" and quote != "'" and at < len(text) and (not quote or text[at] in '"\\$'):
            word.append(text[at])
            at += 1
        elif here == quote:
            quote = ""
        elif here in "'\"" and not quote:
            quote = here
        else:
            word.append(here)
    if quote:
        raise ValueError(f"a {quote} is not closed")
    if word is not None:
        words.append("".join(word))
    return words


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    name, braced, how, other = found.groups()
    value = variables.get(name or braced, "")
    if how == ":-":
        return value or other
    if how == ":+":
        return other if value else ""
    return value


def _nanoseconds(name: str, text: str) -> int:
    parts = list(_TIME.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        raise ValueError(f"--{name} is a time such as 30s or 1m30s, not {text!r}")
    return sum(round(float(part[1]) * _UNITS[part[2]]) for part in parts)
