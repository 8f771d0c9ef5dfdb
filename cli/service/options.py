"""The flags of `service create` and `service update`, declared once for both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from flota.cli import completing
from flota.cli.completing import one_of
from flota.cli.options import detach_option, quiet_option, refused_option, result_format_option, timeout_option

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

_PHASES = {"update": "an update", "rollback": "a rollback"}

# (flag, metavar or type, help): set one field, the same in create and update.
_SINGLE: Sequence[tuple[str, Any, str]] = (
    ("--hostname", "TEXT", "Hostname in the containers; templates such as {{.Task.Slot}} are filled in."),
    ("--entrypoint", "COMMAND", "Replaces the image's entrypoint."),
    ("-w --workdir", "PATH", "Working directory."),
    ("-u --user", "USER", "uid[:gid], or names that the image knows."),
    ("--stop-signal", "SIGNAL", "What asks a container to stop."),
    ("--stop-grace-period", "DURATION", "Between that signal and SIGKILL (10s)."),
    ("--limit-cpu", "CPUS", "The most a container may use."),
    ("--limit-memory", "SIZE", "The most a container may use."),
    ("--limit-pids", int, "The most processes and threads (0 = no limit)."),
    ("--reserve-cpu", "CPUS", "What the scheduler sets aside for a task."),
    ("--reserve-memory", "SIZE", "What the scheduler sets aside for a task."),
    ("--memory-swap", "SIZE", "Memory and swap together; -1 = no limit."),
    ("--memory-swappiness", int, "0 to 100; -1 = the kernel's default."),
    ("--oom-score-adj", int, "-1000 to 1000."),
    ("--seccomp", "default|unconfined", "Whether some system calls are refused (default)."),
    ("--replicas", int, "Number of tasks."),
    ("--max-concurrent", int, "How many tasks of a job run at the same time."),
    ("--replicas-max-per-node", int, "The most tasks on one node (0 = no limit)."),
    ("--restart-condition", "none|on-failure|any", "When a task that has ended is replaced (any)."),
    ("--restart-delay", "DURATION", "Before it is replaced (5s)."),
    ("--restart-max-attempts", int, "How often (0 = no limit)."),
    ("--restart-window", "DURATION", "Within which attempts are counted (0 = for ever)."),
    ("--health-cmd", "COMMAND", "Says whether a container is healthy."),
    ("--health-interval", "DURATION", "Between two checks (30s)."),
    ("--health-timeout", "DURATION", "The longest a check may take (30s)."),
    ("--health-retries", int, "Failures in a row that make a container unhealthy (3)."),
    ("--health-start-period", "DURATION", "In which failures do not count."),
    ("--health-start-interval", "DURATION", "Between checks in the start period (5s)."),
    ("--health-action", "restart|unready", "Whether an unhealthy task is replaced or only gets no visitors (restart)."),
    ("--rebalance", "off|on-join|always", "When running tasks are moved to emptier nodes (the swarm's)."),
    ("--strategy", "spread|binpack", "Which nodes come first: the emptiest or the fullest (the swarm's)."),
    ("--endpoint-mode", "vip|dnsrr", "How the service's name resolves (vip)."),
    ("--log-driver", "NAME", "Where output goes."),
    ("--isolation", "TEXT", "Only for Docker's sake; it has no meaning on Linux."),
)

# (flag without its ending, metavar, help): create has --x, update --x-add and --x-rm.
_LISTS: Sequence[tuple[str, str, str]] = (
    ("label", "KEY=VALUE", "Label of the service."),
    ("container-label", "KEY=VALUE", "Label of the containers."),
    ("env", "KEY=VALUE", "Environment variable; KEY alone takes yours."),
    ("constraint", "EXPRESSION", "node.role==manager, node.labels.disk!=hdd, service.NAME==same-node|other-node, …"),
    ("depends-on", "SERVICE[:CONDITION]", "Wait for a service to be started, healthy (default) or completed."),
    ("placement-pref", "spread=KEY", "Spread tasks over the values of a label."),
    ("network", "NETWORK", "NAME, or name=NAME,alias=ALIAS."),
    (
        "publish",
        "PORT",
        "PUBLISHED:TARGET[/udp], or published=,target=,protocol=,mode=ingress|host,proxy-protocol=v1|v2.",
    ),
    ("mount", "MOUNT", "type=bind|volume|tmpfs,source=,target=[,readonly]…"),
    ("secret", "SECRET", "NAME, or source=NAME,target=FILE,uid=,gid=,mode=."),
    ("config", "CONFIG", "NAME, or source=NAME,target=PATH,uid=,gid=,mode=."),
    ("group", "GROUP", "More groups of the user."),
    ("host", "HOST:ADDRESS", "A line of /etc/hosts."),
    ("dns", "ADDRESS", "Name server."),
    ("dns-search", "DOMAIN", "Search domain."),
    ("dns-option", "OPTION", "Option of the resolver."),
    ("ulimit", "NAME=SOFT[:HARD]", "Resource limit."),
    ("device", "PATH[:PATH][:rwm]", "A device of the node for the container."),
    ("sysctl", "KEY=VALUE", "Kernel parameter of the container."),
    ("generic-resource", "KIND=COUNT", "What the scheduler sets aside of a thing that nodes offer."),
)
_RM = {
    "label": "KEY",
    "container-label": "KEY",
    "env": "KEY",
    "mount": "TARGET",
    "publish": "TARGET[/udp]",
    "network": "NETWORK",
    "secret": "NAME",
    "config": "NAME",
    "ulimit": "NAME",
    "device": "PATH",
    "sysctl": "KEY",
    "generic-resource": "KIND",
}
_COMPLETERS = {
    "network": completing.networks,
    "secret": completing.secrets,
    "config": completing.configs,
    "placement-pref": one_of(["spread=node.labels.", "spread=engine.labels."]),
}
_SHORT = {"label": "-l", "env": "-e", "publish": "-p"}


def _single(flags: str, kind: Any, text: str) -> Decorator:
    if isinstance(kind, str) and "|" in kind:
        return click.option(*flags.split(), metavar=kind, help=text, shell_complete=one_of(kind.split("|")))
    if isinstance(kind, str):
        return click.option(*flags.split(), metavar=kind, help=text)
    return click.option(*flags.split(), type=kind, help=text)


def _stack(decorators: Sequence[Decorator]) -> Decorator:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def _phase_options() -> list[Decorator]:
    decorators: list[Decorator] = []
    for phase, words in _PHASES.items():
        actions = "pause|continue|rollback" if phase == "update" else "pause|continue"
        decorators += [
            _single(f"--{phase}-parallelism", int, f"Tasks that {words} replaces at the same time (1; 0 = all)."),
            _single(f"--{phase}-delay", "DURATION", "Between one such group and the next (0s)."),
            _single(f"--{phase}-failure-action", actions, f"When {words} fails (pause)."),
            _single(f"--{phase}-monitor", "DURATION", "How long a new task is watched for failure (5s)."),
            _single(f"--{phase}-max-failure-ratio", float, f"Share of tasks that may fail before {words} does (0)."),
            _single(
                f"--{phase}-order", "stop-first|start-first", "Which of old and new task comes first (stop-first)."
            ),
        ]
    return decorators


def _common() -> list[Decorator]:
    return [
        *(_single(*each) for each in _SINGLE),
        *_phase_options(),
        click.option("--cap-add", multiple=True, metavar="CAPABILITY", help="Capability to add."),
        click.option("--cap-drop", multiple=True, metavar="CAPABILITY", help="Capability to drop."),
        click.option("--log-opt", multiple=True, metavar="KEY=VALUE", help="Option of the log driver."),
        click.option("--no-healthcheck", is_flag=True, help="Not even the image's health check."),
        click.option("--with-registry-auth", is_flag=True, help="Send your registry credentials to the workers."),
        click.option(
            "--no-resolve-image",
            is_flag=True,
            help="Leave the tag as it is: do not ask the registry for the image's digest.",
        ),
        refused_option("--credential-spec", "only Windows has it"),
        quiet_option("Do not show progress."),
        detach_option,
        timeout_option,
        result_format_option,
    ]


def create_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """All flags of `service create`."""
    lists: list[Decorator] = [
        click.option(
            *filter(None, (_SHORT.get(name), f"--{name}")),
            multiple=True,
            metavar=metavar,
            help=text,
            shell_complete=_COMPLETERS.get(name),
        )
        for name, metavar, text in _LISTS
    ]
    own: list[Decorator] = [
        click.option("--name", metavar="NAME", help="The service's name (made up when not given)."),
        click.option(
            "--mode",
            metavar="MODE",
            help="replicated (default), global, replicated-job or global-job.",
            shell_complete=one_of(["replicated", "global", "replicated-job", "global-job"]),
        ),
        click.option("--env-file", multiple=True, type=click.File(), help="File with KEY=VALUE lines."),
        click.option("-t", "--tty", is_flag=True, default=None, help="Give the container a terminal."),
        click.option("-i", "--stdin", is_flag=True, default=None, help="Keep standard input open."),
        click.option("--read-only", is_flag=True, default=None, help="The image's files cannot be changed."),
        click.option("--no-new-privileges", is_flag=True, default=None, help="Set-user-ID programs gain nothing."),
        click.option("--init", is_flag=True, default=None, help="A small init as process 1."),
    ]
    return _stack([*own, *lists, *_common()])(function)


def update_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """All flags of `service update`."""
    lists: list[Decorator] = []
    for name, metavar, text in _LISTS:
        completer = _COMPLETERS.get(name)
        lists += [
            click.option(
                f"--{name}-add", multiple=True, metavar=metavar, help=f"Add. {text}", shell_complete=completer
            ),
            click.option(
                f"--{name}-rm",
                multiple=True,
                metavar=_RM.get(name, metavar),
                help="Take out.",
                shell_complete=completer,
            ),
        ]
    own: list[Decorator] = [
        click.option("--image", metavar="IMAGE", help="The image to run."),
        click.option("--args", metavar="COMMAND", help="Replaces the arguments."),
        click.option("--force", is_flag=True, help="Replace all tasks, also when nothing changed."),
        click.option("--rollback", is_flag=True, help="Go back to the previous spec."),
        click.option("-t", "--tty/--no-tty", default=None, help="Give the container a terminal."),
        click.option("-i", "--stdin/--no-stdin", default=None, help="Keep standard input open."),
        click.option("--read-only/--no-read-only", default=None, help="The image's files cannot be changed."),
        click.option("--no-new-privileges/--new-privileges", default=None, help="Set-user-ID programs gain nothing."),
        click.option("--init/--no-init", default=None, help="A small init as process 1."),
    ]
    return _stack([*own, *lists, *_common()])(function)
