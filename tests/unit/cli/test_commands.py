"""All commands there are: each has help and an example, starts without gRPC, and takes bad input in one line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from flota.cli.groups import Command, Group
from flota.cli.main import COMMANDS, main, root
from tests.unit.cli.conftest import Flota
from tests.unit.cli.daemon import Daemon


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that is not a group, by the words that name it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


# These two are passed on as they are to another program, which has helps of its own.
PASSED_ON = ("lab", "daemon")


def _all() -> dict[tuple[str, ...], click.Command]:
    found: dict[tuple[str, ...], click.Command] = {}
    for name in COMMANDS:
        if name in PASSED_ON:
            continue
        try:
            command = root.get_command(click.Context(root), name)
        except ModuleNotFoundError:
            continue
        if isinstance(command, click.Group):
            found |= dict(commands(command, (name,)))
        elif command is not None:
            found[(name,)] = command
    return found


ALL = _all()
PATHS = pytest.mark.parametrize("path", sorted(ALL), ids=" ".join)


@PATHS
def test_has_help_examples_and_a_line_in_its_group(path: tuple[str, ...], flota: Flota) -> None:
    command = ALL[path]
    assert isinstance(command, Command), "flota.cli.groups.Command prints examples"
    done = flota(*path, "--help")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"Usage: flota {' '.join(path)} ")
    assert command.examples
    for example in command.examples:
        assert example in done.out
        assert f"flota {' '.join(path)}" in example, "an example uses the command"
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, f"{parameter.opts} says nothing about itself"
    listing = flota(*path[:-1], "--help").out
    assert any(line.split()[:1] == [path[-1]] for line in listing.splitlines())


@PATHS
def test_an_unknown_flag_is_one_line_and_status_125(path: tuple[str, ...], flota: Flota) -> None:
    done = flota(*path, "--no-such-flag-as-this")
    assert (done.status, done.out) == (125, "")
    name = " ".join(path)
    assert done.err == f"flota {name}: no such option '--no-such-flag-as-this'. See 'flota {name} --help'.\n"


@PATHS
def test_too_few_or_too_many_arguments_are_one_line_and_status_125(path: tuple[str, ...], flota: Flota) -> None:
    arguments = [each for each in ALL[path].params if isinstance(each, click.Argument)]
    if any(each.required for each in arguments):
        done = flota(*path)
    elif not any(each.nargs == -1 for each in arguments):
        done = flota(*path, *("x" for _ in arguments), "one-too-many")
    else:
        pytest.skip("takes any number of arguments")
    assert (done.status, done.out) == (125, "")
    assert done.err.startswith(f"flota {' '.join(path)}: ")
    assert done.err.endswith(f"See 'flota {' '.join(path)} --help'.\n")
    assert done.err.count("\n") == 1


@PATHS
def test_a_value_of_the_wrong_type_is_one_line_and_status_125(path: tuple[str, ...], flota: Flota) -> None:
    typed = [
        option
        for option in ALL[path].params
        if isinstance(option, click.Option) and isinstance(option.type, click.types.IntParamType | click.Choice)
    ]
    for option in typed:
        done = flota(*path, option.opts[-1], "nonsense")
        assert (done.status, done.out) == (125, "")
        assert option.opts[-1] in done.err
        assert "'nonsense'" in done.err
        assert done.err.count("\n") == 1


LISTS = [path for path, command in ALL.items() if any(each.name == "filters" for each in command.params)]


@pytest.mark.parametrize("path", sorted(LISTS), ids=" ".join)
def test_filters_that_are_none(path: tuple[str, ...], swarm: Daemon, flota: Flota) -> None:
    required = ["x" for each in ALL[path].params if isinstance(each, click.Argument) and each.required]
    for text, said in (("nonsense", "KEY=VALUE is needed"), ("nonsense=1", "'nonsense' is not one of ")):
        done = flota(*path, "--filter", text, *required)
        assert (done.status, done.out) == (125, "")
        assert done.err.startswith(f"flota: invalid --filter {text!r}: ")
        assert said in done.err
        assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (["service", "ls"], "mode=single"),
        (["node", "ls"], "role=boss"),
        (["service", "ps", "web"], "desired-state=happy"),
        (["network", "ls"], "type=odd"),
    ],
)
def test_values_of_filters_that_are_none(swarm: Daemon, flota: Flota, path: list[str], text: str) -> None:
    done = flota(*path, "--filter", text)
    assert (done.status, done.out) == (125, "")
    assert done.err.startswith(f"flota: invalid --filter {text!r}: one of ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    "path",
    [["service", "ls"], ["node", "ls"], ["network", "ls"], ["service", "ps", "web"], ["service", "inspect", "web"],
     ["node", "inspect", "self"], ["info"], ["version"], ["swarm", "join-token", "worker"]],
    ids=" ".join,
)  # fmt: skip
def test_formats_that_cannot_be_read(swarm: Daemon, flota: Flota, path: list[str]) -> None:
    flota("service", "create", "-d", "--name", "web", "busybox")
    swarm.run(swarm.cluster.add_task("web", 1, "m1"))
    done = flota(*path, "--format", "{{.ID")
    assert (done.status, done.out, done.err) == (125, "", "flota: invalid --format '{{.ID': unclosed {{\n")


def test_a_field_that_there_is_not_is_told_with_the_nearest_one(swarm: Daemon, flota: Flota) -> None:
    done = flota("node", "ls", "--format", "{{.Hostnmae}}")
    assert done.status == 125
    assert done.err == (
        "flota: invalid --format '{{.Hostnmae}}': can't evaluate field Hostnmae; did you mean 'Hostname'?\n"
    )


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nettwork"], "flota: no such command 'nettwork'; did you mean 'network'? See 'flota --help'.\n"),
        (["service", "zzz"], "flota service: no such command 'zzz'. See 'flota service --help'.\n"),
        (["service", "ls", "--quite"], "flota service ls: no such option '--quite'; did you mean '--quiet'?"),
        (["--nope"], "flota: no such option '--nope'. See 'flota --help'.\n"),
    ],
)
def test_unknown_commands(flota: Flota, argv: list[str], said: str) -> None:
    done = flota(*argv)
    assert (done.status, done.out) == (125, "")
    assert done.err.startswith(said)
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("argv", [[], ["--help"], ["service"], ["node", "--help"]], ids=" ".join)
def test_help_is_what_one_gets_without_a_command(argv: list[str], flota: Flota) -> None:
    done = flota(*argv)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("Usage: flota")


@pytest.mark.parametrize(
    ("alias", "command"),
    [
        ("service list", "service ls"),
        ("secret remove", "secret rm"),
        ("stack up", "stack deploy"),
        ("stack down", "stack rm"),
    ],
)
def test_dockers_other_words_for_commands(alias: str, command: str, flota: Flota) -> None:
    word, name = alias.split()[1], command.split()[1]
    assert flota(*alias.split(), "--help").out == flota(*command.split(), "--help").out.replace(
        f" {name} [", f" {word} [", 1
    )
    listed = flota(alias.split()[0], "--help").out
    assert f"  {word} " not in listed


@pytest.mark.parametrize(
    "argv",
    [
        ["swarm", "init", "--external-ca", "protocol=cfssl,url=https://ca"],
        ["swarm", "ca", "--external-ca", "x"],
        ["secret", "create", "--driver", "vault", "key", "-"],
        ["network", "create", "--config-only", "n"],
        ["service", "create", "--credential-spec", "file://x", "busybox"],
    ],
    ids=lambda argv: argv[2],
)
def test_dockers_flags_that_do_nothing_here_say_why(argv: list[str], flota: Flota) -> None:
    done = flota(*argv)
    assert (done.status, done.out) == (125, "")
    assert done.err.startswith(f"flota: {argv[2]} is not supported: ")
    assert done.err.count("\n") == 1


def test_help_imports_neither_grpc_nor_protobuf() -> None:
    """In a process of its own: all helps one after the other, and what they imported."""
    code = """
import io, json, sys
from contextlib import redirect_stdout
from flota.cli.main import main
for path in json.loads(sys.argv[1]):
    with redirect_stdout(io.StringIO()):
        assert main([*path, "--help"]) == 0
heavy = ("grpc", "google.protobuf", "flota.v1", "asyncio", "cryptography", "ruamel", "jsonschema", "rich")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    paths = [[], *({path[:1] for path in ALL if len(path) > 1}), *ALL]
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([list(path) for path in paths])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == []


def test_a_defect_is_one_line_unless_one_asks(swarm: Daemon, flota: Flota, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("flota.cli.output.services.print_services", broken)
    done = flota("service", "ls")
    assert (done.status, done.out) == (1, "")
    assert done.err == "flota: this is a defect of flota: ZeroDivisionError: a defect (FLOTA_DEBUG=1 shows where)\n"
    monkeypatch.setenv("FLOTA_DEBUG", "1")
    assert "Traceback" in flota("service", "ls").err


def test_flags_may_be_written_with_true_and_false(swarm: Daemon, flota: Flota) -> None:
    assert flota("service", "create", "--detach=true", "--name", "web", "--read-only=true", "busybox").status == 0
    assert swarm.cluster.service("web").spec.task.container.read_only
    assert flota("service", "update", "--detach=true", "--read-only=false", "web").status == 0
    assert not swarm.cluster.service("web").spec.task.container.read_only


# --- completion ---------------------------------------------------------------------------------------------------


def completed(daemon: Daemon | None, line: str, cursor: int | None = None) -> list[str]:
    """What bash would offer at the end of `line`, as its script asks for it."""
    words = line.split(" ")
    done = subprocess.run(
        [sys.executable, "-m", "flota.cli"],
        env=os.environ | {
            "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_FLOTA_COMPLETE": "bash_complete",
            "FLOTA_HOST": daemon.host if daemon else "unix:///nonexistent/flota.sock",
            "FLOTA_COMPLETION_SECONDS": "60",
        },
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return [text.partition(",")[2] for text in done.stdout.split()]


def test_commands_and_flags_are_completed(flota: Flota) -> None:
    assert completed(None, "flota ne") == ["network"]
    assert completed(None, "flota service ro") == ["rollback"]
    assert completed(None, "flota service create --rollback-o") == ["--rollback-order"]
    assert completed(None, "flota service create --mode g") == ["global", "global-job"]
    assert completed(None, "flota node ls --filter me") == ["membership="]
    assert completed(None, "flota node update --availability p") == ["pause"]


def test_names_are_asked_of_the_daemon(swarm: Daemon, flota: Flota) -> None:
    for name in ("web", "worker"):
        flota("service", "create", "-d", "--name", name, "busybox")
    flota("network", "create", "web-net")
    flota("secret", "create", "web-key", "/etc/hostname")
    assert completed(swarm, "flota service rm w") == ["web", "worker"]
    assert completed(swarm, "flota service rm web w") == ["worker"]
    assert completed(swarm, "flota service scale we") == ["web="]
    assert completed(swarm, "flota node update ") == ["m1", "self"]
    assert completed(swarm, "flota network inspect i") == ["ingress"]
    assert completed(swarm, "flota service create --network web") == ["web-net"]
    assert completed(swarm, "flota service create --secret ") == ["web-key"]
    assert completed(swarm, f"flota -H {swarm.host} service ps wo") == ["worker"]


def test_without_an_answer_there_is_nothing_to_complete() -> None:
    assert completed(None, "flota service rm w") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell(shell: str, flota: Flota) -> None:
    done = flota("completion", shell)
    assert (done.status, done.err) == (0, "")
    assert f"_FLOTA_COMPLETE={shell}_complete" in done.out


def test_bash_takes_the_script(swarm: Daemon, flota: Flota) -> None:
    flota("service", "create", "-d", "--name", "web", "busybox")
    script = f"""
PATH={os.path.dirname(sys.executable)}:$PATH
source <(flota completion bash)
complete -p flota
COMP_WORDS=(flota service inspect w) COMP_CWORD=3
_flota_completion flota
echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=os.environ | {"FLOTA_HOST": swarm.host},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "web"


def test_main_is_the_entry_point() -> None:
    done = subprocess.run([sys.executable, "-m", "flota.cli", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "flota version 0.1.0\n"
    assert callable(main)
    assert isinstance(root, Group)


BASH = """
source <(flota completion bash)
COMP_WORDS=(flota service rm w); COMP_CWORD=3
_flota_completion flota
echo "${COMPREPLY[@]}"
"""
FISH = "flota completion fish | source; complete -C 'flota service rm w'"

# Instead of zsh's own, a compadd that prints what it is given.
ZSH = """
compdef() { }
compadd() { print -r -- ${(P)@[-1]} }
source <(flota completion zsh)
words=(flota service rm w) CURRENT=4
_flota_completion
"""


@pytest.mark.parametrize(("shell", "script"), [("bash", BASH), ("fish", FISH), ("zsh", ZSH)])
def test_a_real_shell_completes_names(shell: str, script: str, swarm: Daemon, flota: Flota) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    for name in ("web", "worker", "other"):
        flota("service", "create", "-d", "--name", name, "busybox")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "FLOTA_HOST": swarm.host, "FLOTA_COMPLETION_SECONDS": "60"}
    done = subprocess.run([shell, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["web", "worker"], done.stderr
