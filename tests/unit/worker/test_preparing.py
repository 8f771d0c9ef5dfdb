"""What a task's container is made from: templates, secrets and configs, health check, log."""

import pytest

from flota.v1.dispatcher_pb2 import AssignmentChange
from flota.v1.ids import container_id
from flota.v1.objects_pb2 import Config, Secret, Task
from flota.v1.types_pb2 import FileTarget, HealthConfig, Mount, Platform
from flota.worker.images.config import ImageConfig
from flota.worker.runtime.container import BadContainer, ContainerError, PlacedFile
from flota.worker.tasks.health import Check
from flota.worker.tasks.payloads import Payloads
from flota.worker.tasks.preparing import decide
from flota.worker.tasks.template import NodeFacts, expanded, render_payload
from tests.unit.worker.node import task

NODE = NodeFacts("n1", "host-one", Platform(os="linux", architecture="x86_64"))


def service() -> Task:
    made = task()
    made.service_annotations.labels["tier"] = "front"
    return made


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Service.ID}} {{.Service.Name}} {{.Service.Labels.tier}}", "s1 web front"),
        ('{{index .Service.Labels "tier"}}{{index .Service.Labels "nope"}}', "front"),
        (
            "{{.Node.ID}} {{.Node.Hostname}} {{.Node.Platform.OS}}/{{.Node.Platform.Architecture}}",
            "n1 host-one linux/x86_64",
        ),
        ("{{.Task.Slot}} {{.Task.Name}}", f"3 web.3.{task().id}"),
        ('{{if eq .Task.Slot "3"}}third{{end}}', "third"),
        ("{{ not closed", None),
        ("no template }}", "no template }}"),
        (r"back\nslash {{.Task.Slot}}", r"back\nslash 3"),
    ],
)
def test_templates_in_the_environment(template: str, text: str | None) -> None:
    one = service()
    one.spec.container.env.append(f"A={template}")
    if text is None:
        with pytest.raises(BadContainer, match="in environment variable A: unclosed"):
            expanded(one, NODE)
    else:
        assert expanded(one, NODE).spec.container.env == [f"A={text}"]
        # The assigned task is as it was.
        assert one.spec.container.env == [f"A={template}"]


def test_a_global_services_slot_is_its_node() -> None:
    one = service()
    one.slot = 0
    one.spec.container.hostname = "{{.Service.Name}}-{{.Task.Slot}}"
    assert expanded(one, NODE).spec.container.hostname == "web-n1"


def test_without_a_hostname_it_is_the_containers_id() -> None:
    assert expanded(service(), NODE).spec.container.hostname == container_id(task().id)[:12]


def test_templates_in_mounts() -> None:
    one = service()
    mount = one.spec.container.mounts.add(type=Mount.TYPE_VOLUME, source="data-{{.Task.Slot}}", target="/{{.Node.ID}}")
    mount.volume_labels["of"] = "{{.Service.Name}}"
    mount.volume_driver.options["o"] = "uid={{.Task.Slot}}"
    (made,) = expanded(one, NODE).spec.container.mounts
    assert (made.source, made.target, dict(made.volume_labels)) == ("data-3", "/n1", {"of": "web"})
    assert dict(made.volume_driver.options) == {"o": "uid=3"}


def payloads(**contents: bytes) -> Payloads:
    known = Payloads()
    changes = []
    for name, data in contents.items():
        kind = Secret if name.startswith("secret") else Config
        one = kind(id=name)
        one.spec.annotations.name, one.spec.data = name, data
        changes.append(AssignmentChange(secret=one) if isinstance(one, Secret) else AssignmentChange(config=one))
    known.apply(changes, complete=True)
    return known


def fail(what: str, text: str) -> str:
    raise AssertionError(f"{what} is no template")


def test_where_secrets_and_configs_appear() -> None:
    one = service()
    container = one.spec.container
    container.secrets.add(secret_id="secret1", secret_name="name1")
    container.secrets.add(secret_id="secret2", file=FileTarget(name="/abs", uid="1", gid="2", mode=0o600))
    container.configs.add(config_id="config1", config_name="name3", file=FileTarget(name="sub/conf"))
    assert payloads(secret1=b"1", secret2=b"2", config1=b"3").files(one, fail) == (
        PlacedFile("/run/secrets/name1", b"1", 0, 0, 0o444),
        PlacedFile("/abs", b"2", 1, 2, 0o600),
        PlacedFile("/sub/conf", b"3", 0, 0, 0o444),
    )


def test_one_that_has_not_come_yet_is_worth_waiting_for() -> None:
    one = service()
    one.spec.container.secrets.add(secret_id="secret9", secret_name="password")
    with pytest.raises(ContainerError, match="secret password has not come") as caught:
        payloads().files(one, fail)
    assert not isinstance(caught.value, BadContainer)


def test_a_removed_one_is_forgotten() -> None:
    known = payloads(secret1=b"1", config1=b"2")
    gone = [
        AssignmentChange(action=AssignmentChange.ACTION_REMOVE, secret=Secret(id="secret1")),
        AssignmentChange(action=AssignmentChange.ACTION_REMOVE, config=Config(id="config1")),
    ]
    known.apply(gone, complete=False)
    one = service()
    one.spec.container.configs.add(config_id="config1", config_name="c")
    with pytest.raises(ContainerError):
        known.files(one, fail)


def test_what_a_payload_template_may_ask_for() -> None:
    one = service()
    one.spec.container.env.append("MODE=fast")
    one.spec.container.secrets.add(secret_id="secret1", secret_name="password", file=FileTarget(name="pw"))
    one.spec.container.configs.add(config_id="config1", config_name="other")
    known = payloads(secret1=b"hidden", config1=b"plain")
    text = '{{.Task.Slot}} {{env "MODE"}} {{env "NONE"}}|{{secret "pw"}} {{secret "password"}} {{config "other"}}'
    assert render_payload("config x", text, one, NODE, known) == "3 fast |hidden hidden plain"
    with pytest.raises(BadContainer, match="asks for secret 'nope', which the service does not have"):
        render_payload("config x", '{{secret "nope"}}', one, NODE, known)
    with pytest.raises(BadContainer, match="invalid template in config x: "):
        render_payload("config x", "{{nope}}", one, NODE, known)


def test_the_health_check_is_the_specs_completed_from_the_images() -> None:
    image = HealthConfig(test=["CMD", "image"], retries=7)
    image.interval.FromSeconds(5)
    one = service()
    assert Check.of(decide(one, "i", ImageConfig(healthcheck=image)).healthcheck) == Check(("image",), 5.0, retries=7)
    one.spec.container.healthcheck.test[:] = ["CMD-SHELL", "spec || exit 1"]
    one.spec.container.healthcheck.timeout.FromSeconds(2)
    assert Check.of(decide(one, "i", ImageConfig(healthcheck=image)).healthcheck) == Check(
        ("/bin/sh", "-c", "spec || exit 1"), 5.0, 2.0, retries=7
    )
    assert Check.of(decide(service(), "i", ImageConfig()).healthcheck) is None


def test_an_images_check_that_cannot_be_read_is_said_at_once() -> None:
    with pytest.raises(BadContainer, match="invalid health check"):
        decide(service(), "i", ImageConfig(healthcheck=HealthConfig(test=["CMD-SHELL"])))
