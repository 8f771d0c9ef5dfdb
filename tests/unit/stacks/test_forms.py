"""Short forms and long ones: each is written one way afterwards, and what cannot be read is refused where it stands."""

from typing import Any

import pytest

from tests.unit.stacks.help import plain, project, refusal, service


def port(target: int, published: str | None = None, protocol: str = "tcp", mode: str = "ingress", **more: Any) -> Any:
    made = {"target": target, "protocol": protocol, "mode": mode, **more}
    return made if published is None else made | {"published": published}


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("command: a 'b c' \"d\"", {"command": ["a", "b c", "d"]}),
        ("command: [a, 1, true, 1.10]", {"command": ["a", "1", "true", "1.10"]}),
        ("command: ''", {"command": []}), ("command:", {}), ("command: []", {"command": []}),
        ("entrypoint: /run.sh", {"entrypoint": ["/run.sh"]}),
        ("environment: [A=1, B=, C=x=y]", {"environment": {"A": "1", "B": "", "C": "x=y"}}),
        ("environment: {A: 1, B: true, C: 1.10, D: null, E: ''}",
         {"environment": {"A": "1", "B": "true", "C": "1.10", "E": ""}}),
        ("environment: [HOME]", {"environment": {"HOME": "/root"}}),
        ("environment: {HOME: }", {"environment": {"HOME": "/root"}}),
        ("environment: [NOT_SET]", {"environment": {}}),
        ("labels: [a=b, c]", {"labels": {"a": "b", "c": ""}}),
        ("labels: {a: null, b: 1}", {"labels": {"a": "", "b": "1"}}),
        ("sysctls: [net.core.somaxconn=1024]", {"sysctls": {"net.core.somaxconn": "1024"}}),
        ("dns: 1.1.1.1", {"dns": ["1.1.1.1"]}), ("dns: [1.1.1.1, 1.1.1.1]", {"dns": ["1.1.1.1"]}),
        ("tmpfs: /run", {"tmpfs": ["/run"]}), ("tmpfs: [/a, '/b:size=1m']", {"tmpfs": ["/a", "/b:size=1m"]}),
        ("init: yes", {"init": True}), ("init: 'off'", {"init": False}), ("tty: 'TRUE'", {"tty": True}),
        ("user: 1000", {"user": "1000"}), ("hostname: 5", {"hostname": "5"}),
        ("stop_grace_period: 90s", {"stop_grace_period": "1m30s"}),
        ("stop_grace_period: 0", {"stop_grace_period": "0s"}),
        ("stop_grace_period: 1d", {"stop_grace_period": "24h0m0s"}),
        ("healthcheck: {test: exit 0}", {"healthcheck": {"test": ["CMD-SHELL", "exit 0"]}}),
        ("healthcheck: {test: [CMD, a], interval: 1.5s, retries: '3', timeout: }",
         {"healthcheck": {"test": ["CMD", "a"], "interval": "1.5s", "retries": 3}}),
        ("healthcheck: {test: exit 0, disable: true}", {"healthcheck": {"disable": True}}),
        ("healthcheck: {test: [NONE]}", {"healthcheck": {"test": ["NONE"]}}),
        ("ulimits: {nofile: 5, core: {soft: 1, hard: 2}, memlock: '-1', nproc: {soft: 3, hard: 3}}",
         {"ulimits": {"nofile": 5, "core": {"soft": 1, "hard": 2}, "memlock": -1, "nproc": 3}}),
        ("extra_hosts: [a:1.2.3.4, 'b=::1', 'c:[::2]']", {"extra_hosts": ["a=1.2.3.4", "b=::1", "c=::2"]}),
        ("extra_hosts: {a: 1.2.3.4, b: [1.1.1.1, 2.2.2.2]}",
         {"extra_hosts": ["a=1.2.3.4", "b=1.1.1.1", "b=2.2.2.2"]}),
        ("logging: {driver: syslog, options: {a: 1, b: null}}",
         {"logging": {"driver": "syslog", "options": {"a": "1", "b": ""}}}),
        ("restart: always", {"deploy": {"restart_policy": {"condition": "any"}}}),
        ("restart: unless-stopped", {"deploy": {"restart_policy": {"condition": "any"}}}),
        ("restart: 'no'", {"deploy": {"restart_policy": {"condition": "none"}}}),
        ("restart: false", {"deploy": {"restart_policy": {"condition": "none"}}}),
        ("restart: on-failure:3", {"deploy": {"restart_policy": {"condition": "on-failure", "max_attempts": 3}}}),
        ("restart: always, deploy: {restart_policy: {condition: none}}",
         {"deploy": {"restart_policy": {"condition": "none"}}}),
        ("scale: 3", {"deploy": {"replicas": 3}}), ("scale: 3, deploy: {replicas: 3}", {"deploy": {"replicas": 3}}),
        ("cpus: 1.50, mem_limit: 64m", {"deploy": {"resources": {"limits": {"cpus": "1.5", "memory": "67108864"}}}}),
        ("mem_reservation: 1k", {"deploy": {"resources": {"reservations": {"memory": "1024"}}}}),
        ("pids_limit: -1", {"deploy": {"resources": {"limits": {"pids": -1}}}}),
        ("memswap_limit: -1", {"memswap_limit": "-1"}), ("memswap_limit: 1gb", {"memswap_limit": "1073741824"}),
        ("deploy: {update_config: {max_failure_ratio: .50, delay: 1m, parallelism: '2'}}",
         {"deploy": {"update_config": {"max_failure_ratio": "0.5", "delay": "1m0s", "parallelism": 2}}}),
        ("deploy: {labels: [a=b]}", {"deploy": {"labels": {"a": "b"}}}),
        ("deploy:", {}), ("ports:", {}), ("x-own: {a: 1}", {"x-own": {"a": 1}}),
        ("cap_add: [A, A, B]", {"cap_add": ["A", "B"]}),
    ],
)  # fmt: skip
def test_one_form_of_everything(written: str, canonical: Any) -> None:
    assert service(written, environment={"HOME": "/root"}) == canonical


@pytest.mark.parametrize(
    ("written", "entries"),
    [
        ("80", [port(80)]), ("'80'", [port(80)]), ("8080:80", [port(80, "8080")]),
        ("53:53/udp", [port(53, "53", "udp")]),
        ("'3000-3002'", [port(3000), port(3001), port(3002)]),
        ("90-91:80-81", [port(80, "90"), port(81, "91")]),
        ("127.0.0.1:80:80", [port(80, "80", host_ip="127.0.0.1")]),
        ("'[::1]:80:80'", [port(80, "80", host_ip="::1")]), ("'::1:80:80'", [port(80, "80", host_ip="::1")]),
        ("127.0.0.1::80", [port(80, host_ip="127.0.0.1")]),
        ("{target: 80}", [port(80)]), ("{target: '80', published: '0'}", [port(80)]),
        ("{target: 80, published: 8080, protocol: UDP, mode: host, name: x}",
         [port(80, "8080", "udp", "host", name="x")]),
    ],
)  # fmt: skip
def test_ports(written: str, entries: list[Any]) -> None:
    assert service(f"ports: [{written}]")["ports"] == entries


@pytest.mark.parametrize(
    ("written", "entry"),
    [
        ("/data", {"type": "volume", "target": "/data"}),
        ("data:/data", {"type": "volume", "source": "data", "target": "/data"}),
        ("'data:/data:ro,nocopy'",
         {"type": "volume", "source": "data", "target": "/data", "read_only": True, "volume": {"nocopy": True}}),
        ("./x:/x", {"type": "bind", "source": "/p/x", "target": "/x"}),
        ("../x:/x:rw", {"type": "bind", "source": "/x", "target": "/x"}),
        (".:/x:z", {"type": "bind", "source": "/p", "target": "/x"}),
        ("'/a:/b:ro,rshared'",
         {"type": "bind", "source": "/a", "target": "/b", "read_only": True, "bind": {"propagation": "rshared"}}),
        ("{type: bind, source: ./x, target: /x}", {"type": "bind", "source": "/p/x", "target": "/x"}),
        ("{source: ./x, target: /x}", {"type": "bind", "source": "/p/x", "target": "/x"}),
        ("{target: /x, read_only: 'false'}", {"type": "volume", "target": "/x", "read_only": False}),
        ("{type: tmpfs, target: /x, tmpfs: {size: 1m, mode: 0700}}",
         {"type": "tmpfs", "target": "/x", "tmpfs": {"size": "1048576", "mode": "0700"}}),
        ("{type: volume, source: data, target: /x, volume: {subpath: a, labels: [b=c]}, bind: }",
         {"type": "volume", "source": "data", "target": "/x", "volume": {"subpath": "a", "labels": {"b": "c"}}}),
    ],
)  # fmt: skip
def test_volumes(written: str, entry: Any) -> None:
    assert service(f"volumes: [{written}]", top="volumes: {data: }")["volumes"] == [entry]


@pytest.mark.parametrize(
    ("written", "entry"),
    [
        ("a", {"source": "a"}),
        ("{source: a, mode: 0440, uid: 5}", {"source": "a", "mode": "0440", "uid": "5"}),
        ("{source: a, mode: '440'}", {"source": "a", "mode": "0440"}),
        ("{source: a, mode: 0o400, target: t}", {"source": "a", "mode": "0400", "target": "t"}),
        ("{source: a, mode: '0o400', gid: }", {"source": "a", "mode": "0400"}),
    ],
)
def test_secrets_and_configs(written: str, entry: Any) -> None:
    for section in ("secrets", "configs"):
        made = service(f"{section}: [{written}]", top=f"{section}: {{a: {{content: x}}}}")
        assert made == {section: [entry]}


def test_networks_and_dependencies() -> None:
    assert service("networks: [a, b]", top="networks: {a: , b: }")["networks"] == {"a": {}, "b": {}}
    assert service("networks: {a: {aliases: [1]}, b: }", top="networks: {a: , b: }")["networks"] == {
        "a": {"aliases": ["1"]}, "b": {},
    }  # fmt: skip
    loaded = project("services: {a: {image: x, depends_on: [b]}, b: {image: x, depends_on: {c: }}, c: {image: x}}")
    started = {"condition": "service_started", "required": True}
    assert plain(loaded.tree["services"]["a"]["depends_on"]) == {"b": started}
    assert plain(loaded.tree["services"]["b"]["depends_on"]) == {"c": started}


def test_top_level_objects() -> None:
    loaded = project(
        """
version: "3.9"
services: {web: {image: x}}
networks: {a: {external: {name: other}}, b: {external: "true", name: n}, c: {internal: yes, labels: [x=y]}}
volumes: {v: {driver_opts: {a: 1}}, w: }
secrets: {s: {file: s.txt}, t: {external: true}}
"""
    )
    tree = plain(loaded.tree)
    assert "version" not in tree
    assert tree["networks"]["a"] == {"external": True, "name": "other"}
    assert tree["networks"]["b"] == {"external": True, "name": "n"}
    assert tree["networks"]["c"] == {"internal": True, "labels": {"x": "y"}}
    assert tree["volumes"] == {"v": {"driver_opts": {"a": "1"}}, "w": {}}
    assert tree["secrets"] == {"s": {"file": "/p/s.txt"}, "t": {"external": True}}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("ports: [{target: 80, x-proxy-protocol: v3}]", "ports[0]: invalid value 'target=80 x-proxy-protocol=v3': "
         "the PROXY protocol 'v3' is not one of v1, v2"),
        ("ports: ['x:80']", "ports[0]: invalid value 'x:80': 'x' is not a port from 0 to 65535"),
        ("ports: ['80:70000']", "ports[0]: invalid value '80:70000': '70000' is not a port"),
        ("ports: ['1-2:1-3']", "ports[0]: invalid value '1-2:1-3': both ranges of ports must have the same"),
        ("ports: ['80/x']", "ports[0]: invalid value '80/x': the protocol 'x' is not one of tcp, udp, sctp"),
        ("ports: ['h:80:80']", "ports[0]: invalid value 'h:80:80': 'h' is not an IP address"),
        ("ports: ['target=80']", "ports[0]: invalid value 'target=80': in a file the long form is"),
        ("ports: [{target: 80, published: '80-90'}]", "ports[0]: invalid value"),
        ("ports: [{published: 80}]", "ports[0]: target: is missing"),
        ("ports: [{target: 80, mode: hots}]", "ports[0]: invalid value"),
        ("ports: ['80:80', '80:81']", "ports[1]: port 80/tcp is published twice"),
        ("volumes: ['a:b:c:d']", "volumes[0]: invalid value 'a:b:c:d': [SOURCE:]TARGET[:OPTIONS] is needed"),
        ("volumes: [data]", "volumes[0]: invalid value 'data': the target 'data' must be an absolute path"),
        ("volumes: ['a:/b:x']", "volumes[0]: invalid value 'a:/b:x': the option 'x' is not one of ro, rw"),
        ("volumes: [dta:/x]", "volumes[0]: volume 'dta' is not defined; did you mean 'data'?"),
        ("volumes: [zzz:/x]", "volumes[0]: volume 'zzz' is not defined; define it: volumes: {zzz: …}"),
        ("volumes: [/x, /x/]", "volumes[1]: another mount has the same target, /x/"),
        ("volumes: [{type: npipe, source: a, target: /x}]", "volumes[0].type: mounts of type npipe are not"),
        ("volumes: [{type: bind, target: /x}]", "volumes[0]: invalid value '/x': a bind mount needs source"),
        ("volumes: [{type: tmpfs, target: /x, volume: {nocopy: true}}]", "volumes[0].volume: volume: options"),
        ("volumes: [{type: tmpfs, target: /x, source: a}]", "volumes[0]: invalid value '/x': a tmpfs has no"),
        ("tmpfs: [x]", "tmpfs[0]: invalid value 'x': the target 'x' must be an absolute path"),
        ("tmpfs: '{{.Task.Slot}}'", "tmpfs: invalid value '{{.Task.Slot}}': the target '{{.Task.Slot}}' must be an"),
        ("volumes: ['data:{{.Task.Slot}}']", "volumes[0]: invalid value 'data:{{.Task.Slot}}': the target"),
        ("volumes: [{type: bind, source: /a, target: '{{.Task.Name}}'}]", "volumes[0]: invalid value '{{.Task.Name}}"),
        ("volumes: [/x/..]", "volumes[0]: invalid value '/x/..': the container's root cannot be mounted over"),
        ("tmpfs: [//]", "tmpfs[0]: invalid value '//': the container's root cannot be mounted over"),
        ("volumes: [/x, /y/../x]", "volumes[1]: another mount has the same target, /y/../x"),
        ("tmpfs: '/x:size=big'", "tmpfs: invalid value 'big': a size such as"),
        ("command: \"a 'b\"", "command: \"a 'b\" cannot be split into words (no closing quotation)"),
        ("stop_grace_period: soon", "stop_grace_period: invalid value 'soon': a duration such as 10s"),
        ("stop_grace_period: 10", "stop_grace_period: invalid value '10': a duration such as 10s"),
        ("stop_grace_period: -1s", "stop_grace_period: invalid value '-1s': a duration cannot be negative"),
        ("mem_limit: lots", "mem_limit: invalid value 'lots': a size such as 512k, 64m or 1g is needed"),
        ("cpus: .inf", "cpus: invalid value '.inf': a number of CPUs"),
        ("init: perhaps", "init: 'perhaps' is neither true nor false"),
        ("scale: 1.5", "scale: a whole number or a text is needed, not the number 1.5"),
        ("scale: many", "scale: 'many' is not a whole number"),
        ("scale: -1", "scale: -1 is not allowed; 0 to 1,000,000 is"),
        ("scale: 2, deploy: {replicas: 3}", "scale: it says 2 and deploy.replicas says 3: leave one"),
        ("mem_swappiness: 101", "mem_swappiness: 101 is not allowed; 0 to 100 is"),
        ("memswap_limit: 1g", "memswap_limit: a memory limit is needed, too"),
        ("oom_score_adj: -2000", "oom_score_adj: -2000 is not allowed; -1,000 to 1,000 is"),
        ("restart: sometimes", "restart: 'sometimes' is not allowed; no, always, unless-stopped or"),
        ("restart: on-failure:x", "restart: 'on-failure:x' is not allowed"),
        ("environment: ['=x']", "environment[0]: '=x' has no key: KEY=VALUE is needed"),
        ("extra_hosts: [a]", "extra_hosts[0]: 'a' is not HOST=ADDRESS"),
        ("extra_hosts: ['a:b']", "extra_hosts[0]: 'b' is not an IP address"),
        ("extra_hosts: ['h:host-gateway']", "extra_hosts[0]: host-gateway stands for one machine's address"),
        ("ulimits: {nofile: {soft: 5, hard: 4}}", "ulimits.nofile: the soft limit 5 is above the hard one, 4"),
        ("healthcheck: {test: [curl]}", "healthcheck.test: the list begins with 'curl'; NONE, CMD or"),
        ("healthcheck: {test: [CMD]}", "healthcheck.test: behind CMD the command is missing"),
        ("healthcheck: {test: [CMD-SHELL, a, b]}", "healthcheck.test: CMD-SHELL takes one line behind it"),
        ("deploy: {mode: globl}", "deploy.mode: the text 'globl' is not allowed; one of replicated, global"),
        ("deploy: {mode: global, replicas: 2}", "deploy.replicas: a service in mode global has no replicas"),
        ("deploy: {placement: {constraints: [a=b]}}", "deploy.placement.constraints[0]: 'a=b' is not KEY==VALUE"),
        ("deploy: {placement: {constraints: [node.labels.ü==b]}}", "deploy.placement.constraints[0]: 'node.labels.ü"),
        ("deploy: {placement: {constraints: [service.db==near]}}",
         "deploy.placement.constraints[0]: 'near' is no place beside a service; same-node and other-node are"),
        ("deploy: {placement: {preferences: [{spread: zone}]}}",
         "deploy.placement.preferences[0]: 'zone' is nothing to spread over; node.labels.KEY and"),
        ("deploy: {update_config: {max_failure_ratio: 2}}", "deploy.update_config.max_failure_ratio: '2' is"),
        ("deploy: {rollback_config: {failure_action: rollback}}", "deploy.rollback_config: failure_action:"),
        ("deploy: {mode: global-job, update_config: {delay: 1s}}", "deploy.update_config: a job has no updates"),
        ("deploy: {mode: global, placement: {max_replicas_per_node: 1}}", "deploy.placement.max_replicas_per"),
        ("deploy: {endpoint_mode: dnsrr}, ports: ['80:80']", "ports: with endpoint_mode: dnsrr there is no"),
        ("replicas: 3", "replicas: the key is not known in a service; it belongs under deploy:"),
        ("imgae: x", "imgae: the key is not known here; did you mean 'image'?"),
        ("volumes_from: [a]", "volumes_from: it is not supported; name the volumes under volumes:"),
        ("cap_add: ['a b']", "cap_add[0]: 'a b' is not a capability such as NET_ADMIN"),
        ("secrets: [nope]", "secrets[0]: secret 'nope' is not defined; define it: secrets:"),
        ("configs: [{source: nope}]", "configs[0]: config 'nope' is not defined; define it: configs:"),
        ("networks: [bakc]", "networks.bakc: network 'bakc' is not defined; did you mean 'back'?"),
        ("depends_on: [nope]", "depends_on.nope: there is no service 'nope'"),
        ("depends_on: [web]", "depends_on.web: services depend on each other: s_web → s_web"),
        ("platform: ''", "platform: '' is not OS/ARCHITECTURE"),
        ("logging: {options: {a: b}}", "logging: options: are given without driver:"),
        ("hostname: [a]", "hostname: a text or a number is needed, not a list"),
        ("env_file: nope.env", "env_file[0]: cannot read /p/nope.env: No such file or directory"),
    ],
)  # fmt: skip
def test_what_is_refused(written: str, said: str) -> None:
    text = f"services:\n  web:\n    {{image: x, {written}}}\nvolumes: {{data: }}\nnetworks: {{back: }}"
    assert refusal(text).startswith(f"c.yml:3: services.web.{said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("services: {}", "c.yml:1: there are no services"),
        ("x-a: 1", "c.yml:1: there are no services"),
        ("services: [a]", "c.yml:1: services: a mapping is needed, not a list"),
        ("services: {web: }", "c.yml:1: services.web: a mapping is needed, not nothing"),
        ("services: {web: {}}", "c.yml:1: services.web: image: is missing"),
        ("services: {web: {image: ''}}", "c.yml:1: services.web: image: is missing"),
        ("services: {web: {build: .}}", "c.yml:1: services.web.build: no images are built here: build it, push it"),
        ("web: {image: x}", "c.yml:1: web: the key is not known at the top of a file; services stand under services:"),
        ("image: x", "c.yml:1: image: the key is not known at the top of a file; it belongs into a service"),
        ("servcies: {a: {image: x}}", "c.yml:1: servcies: the key is not known"),
        ("services: {a b: {image: x}}", "c.yml:1: services.a b: 'a b': letters, digits, '.', '-' and '_' are allowed"),
        ("services: {a.b: {image: x}}", "c.yml:1: services.a.b: 'a.b' cannot be a service's name in a swarm"),
        (f"services: {{{'a' * 70}: {{image: x}}}}", f"c.yml:1: services.{'a' * 70}: its name in the swarm, s_aaa"),
        ("services: {a: {image: x, profiles: [p]}}", "c.yml:1: no service is enabled: all have profiles (p); choose s"),
        ("services: {a: {image: x, depends_on: [b]}, b: {image: x, profiles: [p]}}",
         "c.yml:1: services.a.depends_on.b: there is no service 'b' (or no profile enables it: p)"),
        ("services: {a: {image: x}}\nsecrets: {s: {}}", "c.yml:2: secrets.s: where does its content come from? file:"),
        ("services: {a: {image: x}}\nsecrets: {s: {file: a, content: b}}", "c.yml:2: secrets.s.content: file: and con"),
        ("services: {a: {image: x}}\nsecrets: {s: {driver: d}}", "c.yml:2: secrets.s.driver: drivers for secrets are"),
        ("services: {a: {image: x}}\nsecrets: {s: {environment: NO}}", "c.yml:2: secrets.s.environment: the variable"),
        ("services: {a: {image: x}}\nsecrets: {s: {content: ''}}", "c.yml:2: secrets.s.content: it is empty; a secret"),
        ("services: {a: {image: x}}\nconfigs: {c: {file: /nope}}", "c.yml:2: configs.c.file: cannot read /nope: No su"),
        ("services: {a: {image: x}}\nconfigs: {c: {file: /}}", "c.yml:2: configs.c.file: cannot read /: Is a director"),
        ("services: {a: {image: x}}\nnetworks: {n: {external: true, driver: d}}", "c.yml:2: networks.n.driver: an ext"),
        ("services: {a: {image: x}}\nnetworks: {n: {external: {name: a}, name: b}}", "c.yml:2: networks.n.external: i"),
        ("services: {a: {image: x, networks: [n]}}\nnetworks: {n: {driver: bridge}}",
         "c.yml:2: networks.n.driver: networks of driver 'bridge' are for one machine; leave it out"),
        ("services: {a: {image: x, volumes: [v:/v]}}\nvolumes: {v: {driver: nfs}}",
         "c.yml:2: volumes.v.driver: volumes of driver 'nfs' are not supported; local is"),
        ("services: {a: {image: x, networks: [n]}}\nnetworks: {n: {ipam: {driver: d}}}", "c.yml:2: networks.n.ipam.dr"),
        ("services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [c]}\n"
         "  c: {image: x, depends_on: [a]}",
         "c.yml:4: services.c.depends_on.a: services depend on each other: s_a → s_b → s_c → s_a"),
        ("services: {a: {image: x, depends_on: {b: {condition: service_completed_successfully}}}, b: {image: x}}",
         "c.yml:1: services.a.depends_on.b: a would wait for ever: b is restarted whenever it ends"),
        ("services: {a: {image: x, depends_on: {b: {condition: started}}}, b: {image: x}}",
         "c.yml:1: services.a.depends_on.b.condition: the text 'started' is not allowed; one of service_started,"),
        ("services: {a: {image: x, secrets: [s, {source: t, target: s}]}}\nsecrets: {s: {content: a}, t: {content: b}}",
         "c.yml:1: services.a.secrets[1]: another one has the same target, s"),
        ("services: {a: {image: x, secrets: [{source: s, uid: me}]}}\nsecrets: {s: {content: a}}",
         "c.yml:1: services.a.secrets[0].uid: 'me' is not a number"),
        ("services: {a: {image: x, secrets: [{source: s, mode: 99}]}}\nsecrets: {s: {content: a}}", ""),
        ("services: {a: {image: x, secrets: [{source: s, mode: '99'}]}}\nsecrets: {s: {content: a}}",
         "c.yml:1: services.a.secrets[0].mode: invalid value '99': '99' is not an octal mode"),
        ("name: Not a name\nservices: {a: {image: x}}", "c.yml:1: name: 'Not a name': letters, digits, '-' and '_'"),
    ],
)  # fmt: skip
def test_what_is_refused_at_the_top(text: str, said: str) -> None:
    if not said:
        project(text)
        return
    assert refusal(text).startswith(said)
