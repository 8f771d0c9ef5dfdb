"""Which object is behind a name of the file, when contents change and change back."""

import pytest

from flota.stacks.versions import OBJECT, choose_config, choose_secret, family, name_of, with_versions
from flota.v1.objects_pb2 import Config, Secret
from flota.v1.specs_pb2 import ConfigSpec, SecretSpec, ServiceSpec


def config(name: str, data: str, of: str = "", driver: str = "") -> Config:
    made = Config(spec=ConfigSpec(data=data.encode(), template_driver=driver))
    made.spec.annotations.name = name
    if of:
        made.spec.annotations.labels[OBJECT] = of
    return made


def asked(name: str, data: str, driver: str = "") -> ConfigSpec:
    return config(name, data, driver=driver).spec


def there(*configs: Config) -> dict[str, Config]:
    return {each.spec.annotations.name: each for each in configs}


def test_the_first_version_has_the_plain_name() -> None:
    assert choose_config(asked("s_page", "a"), {}) == ("s_page", False, False)
    assert choose_config(asked("s_page", "a"), there(config("s_page", "a"))) == ("s_page", True, False)


def test_another_content_is_a_new_version_and_an_old_content_its_old_one() -> None:
    two = there(config("s_page", "a"), config("s_page.2", "b", of="s_page"))
    assert choose_config(asked("s_page", "c"), two) == ("s_page.3", False, True)
    assert choose_config(asked("s_page", "b"), two) == ("s_page.2", True, False)
    assert choose_config(asked("s_page", "a"), two) == ("s_page", True, False)
    assert choose_config(asked("s_page", "a", driver="golang"), two) == ("s_page.3", False, True)


def test_names_that_look_like_versions_are_left_alone() -> None:
    own = there(config("s_page", "a"), config("s_page.2", "b"))
    assert [name_of(each) for each in own.values()] == ["s_page", "s_page.2"]
    assert choose_config(asked("s_page", "c"), own) == ("s_page.3", False, True)
    assert choose_config(asked("s_page.2", "c"), own) == ("s_page.2.2", False, True)


def test_an_old_version_that_was_removed_leaves_a_gap() -> None:
    late = there(config("s_page.4", "d", of="s_page"), config("s_page.10", "e", of="s_page"))
    assert [each.spec.annotations.name for each in family("s_page", late.values())] == ["s_page.10", "s_page.4"]
    assert choose_config(asked("s_page", "x"), late) == ("s_page.11", False, True)


def test_long_names_are_shortened_for_their_number() -> None:
    name = "n" * 64
    made = choose_config(asked(name, "b"), there(config(name, "a"))).name
    assert made == "n" * 62 + ".2"
    again = there(config(name, "a"), config(made, "b", of=name))
    assert choose_config(asked(name, "c"), again).name == "n" * 62 + ".3"


@pytest.mark.parametrize(("same", "name"), [(True, "s_key"), (False, "s_key.2")])
def test_a_secrets_content_is_told_by_whoever_can(same: bool, name: str) -> None:
    stored = Secret()
    stored.spec.annotations.name = "s_key"
    spec = SecretSpec(data=b"x")
    spec.annotations.name = "s_key"
    assert choose_secret(spec, {"s_key": stored}, lambda secret, wanted: same).name == name


def test_services_name_the_version() -> None:
    spec = ServiceSpec()
    spec.task.container.secrets.add(secret_name="s_key").file.name = "key"
    spec.task.container.configs.add(config_name="s_page").file.name = "/page"
    spec.task.container.configs.add(config_name="far").file.name = "/far"
    made = with_versions(spec, {"s_key": "s_key.2"}, {"s_page": "s_page.3"})
    assert [(each.secret_name, each.file.name) for each in made.task.container.secrets] == [("s_key.2", "key")]
    assert [(each.config_name, each.file.name) for each in made.task.container.configs] == [
        ("far", "/far"),
        ("s_page.3", "/page"),
    ]
    assert spec.task.container.secrets[0].secret_name == "s_key", "what was given is not changed"
