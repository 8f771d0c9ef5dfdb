"""include, extends, profiles, env files: what a project is made of."""

from pathlib import Path

import pytest

from flota.stacks.compose.loading import Source, load, project_folder, read_source
from flota.stacks.compose.writing import to_yaml
from flota.stacks.errors import ComposeError
from tests.unit.stacks.help import plain, project, write


def loaded(folder: Path, *files: str, **options: object):  # type: ignore[no-untyped-def]
    paths = [str(folder / file) for file in files or ("c.yml",)]
    environment = options.pop("environment", {})
    return load([read_source(path) for path in paths], project_folder(paths[0]), environment, **options)  # type: ignore[arg-type]


def refused(folder: Path, *files: str) -> str:
    with pytest.raises(ComposeError) as caught:
        loaded(folder, *files)
    return str(caught.value).replace(f"{folder}/", "")


# --- include ----------------------------------------------------------------------------------------------------------


def test_included_files_have_their_own_folder_and_variables(tmp_path: Path) -> None:
    write(
        tmp_path,
        c__yml="include: [sub/d.yml]\nservices: {web: {image: 'web:$TAG', depends_on: [db]}}",
        __env="TAG=outer\n",
        sub_ELSEd__yml="services: {db: {image: 'db:$TAG-$OWN', volumes: [./data:/data]}}\nvolumes: {v: }",
        sub_ELSE__env="TAG=inner\nOWN=own\n",
    )
    tree = loaded(tmp_path).tree
    assert tree["services"]["web"]["image"] == "web:outer"
    assert tree["services"]["db"]["image"] == "db:outer-own", "the project's variables win over the included ones"
    assert tree["services"]["db"]["volumes"][0]["source"] == f"{tmp_path}/sub/data"
    assert "v" in tree["volumes"]


def test_include_with_several_files_a_folder_and_env_files(tmp_path: Path) -> None:
    write(
        tmp_path,
        c__yml="include: [{path: [sub/a.yml, sub/b.yml], project_directory: other, env_file: [e.env]}]\n"
        "services: {web: {image: x}}",
        sub_ELSEa__yml="services: {db: {image: 'a:$V', volumes: [./d:/d]}}",
        sub_ELSEb__yml="services: {db: {user: b}}",
        e__env="V=7\n",
    )
    db = plain(loaded(tmp_path).tree["services"]["db"])
    assert (db["image"], db["user"], db["volumes"][0]["source"]) == ("a:7", "b", f"{tmp_path}/other/d")


def test_what_is_included_can_be_overridden_by_another_file_but_not_here(tmp_path: Path) -> None:
    write(
        tmp_path,
        c__yml="include: [d.yml]\nservices: {web: {image: x}}",
        d__yml="services: {db: {image: y}}",
        over__yml="services: {db: {image: z}}",
        conflict__yml="include: [d.yml]\nservices:\n  db: {image: other}",
        same__yml="include: [d.yml]\nservices:\n  db: {image: y}",
    )
    assert loaded(tmp_path, "c.yml", "over.yml").tree["services"]["db"]["image"] == "z"
    assert loaded(tmp_path, "same.yml").tree["services"]["db"]["image"] == "y"
    assert refused(tmp_path, "conflict.yml") == (
        "conflict.yml:3: services.db: it is also defined in an included file (d.yml:1); to change it, use another "
        "-c FILE, or extends"
    )


def test_included_files_include_and_extend(tmp_path: Path) -> None:
    write(
        tmp_path,
        c__yml="include: [sub/d.yml]\nservices: {web: {image: x}}",
        sub_ELSEd__yml="include: [e.yml]\nservices: {d: {extends: {file: f.yml, service: f}}}",
        sub_ELSEe__yml="services: {e: {image: e}}",
        sub_ELSEf__yml="services: {f: {image: f}}",
    )
    assert {name: each["image"] for name, each in loaded(tmp_path).tree["services"].items()} == {
        "web": "x", "d": "f", "e": "e",
    }  # fmt: skip


def test_what_is_wrong_with_includes(tmp_path: Path) -> None:
    write(
        tmp_path,
        c__yml="services: {web: {image: x}}\ninclude:\n- d.yml",
        d__yml="include: [e.yml]",
        e__yml="include: [d.yml]",
        missing__yml="include:\n- nope.yml",
        remote__yml="include: ['oci://x/y']",
        broken__yml="include: [bad.yml]",
        bad__yml="services:\n  web: {imaeg: x}",
    )
    assert refused(tmp_path) == "e.yml:1: include[0]: the files include each other: d.yml → e.yml → d.yml"
    assert refused(tmp_path, "missing.yml") == (
        "missing.yml:2: include[0]: cannot read nope.yml: No such file or directory"
    )
    assert refused(tmp_path, "remote.yml").startswith("remote.yml:1: include[0]: 'oci://x/y' is not a file")
    assert refused(tmp_path, "broken.yml").startswith("bad.yml:2: services.web.imaeg: the key is not known here")


# --- extends ----------------------------------------------------------------------------------------------------------


def test_extends_takes_over_and_adds(tmp_path: Path) -> None:
    write(
        tmp_path,
        c__yml="""
services:
  web: {extends: {service: base, file: sub/base.yml}, environment: {B: 2}, command: [own], volumes: [./mine:/mine]}
  twin: {extends: web, image: other}
""",
        sub_ELSEbase__yml="""
services:
  root: {image: root, user: me, environment: {A: 0}}
  base: {extends: {service: root}, image: base, environment: {A: 1}, command: [a, b], volumes: [./d:/d],
         env_file: e.env}
""",
        sub_ELSEe__env="FROM=file\n",
    )
    tree = plain(loaded(tmp_path).tree)
    web = tree["services"]["web"]
    assert (web["image"], web["user"], web["command"]) == ("base", "me", ["own"])
    assert web["environment"] == {"A": "1", "B": "2", "FROM": "file"}
    assert [mount["source"] for mount in web["volumes"]] == [f"{tmp_path}/sub/d", f"{tmp_path}/mine"]
    assert tree["services"]["twin"] == web | {"image": "other"}
    assert "base" not in tree["services"]


def test_extends_in_a_second_file_finds_services_of_the_first() -> None:
    tree = project("services: {a: {image: x, user: u}}", "services: {b: {extends: a, image: y}}").tree
    assert (tree["services"]["b"]["user"], tree["services"]["b"]["image"]) == ("u", "y")


def test_reset_reaches_what_is_extended() -> None:
    tree = project("services: {a: {image: x, user: u, dns: [1.1.1.1]}, b: {extends: a, dns: !reset [], user: v}}").tree
    assert "dns" not in tree["services"]["b"]
    assert tree["services"]["b"]["user"] == "v"


def test_what_is_wrong_with_extends(tmp_path: Path) -> None:
    write(
        tmp_path,
        c__yml="services:\n  a: {extends: b}\n  b: {extends: c}\n  c: {extends: a}",
        self__yml="services:\n  a: {extends: {file: self.yml, service: a}}",
        unknown__yml="services:\n  a: {image: x}\n  b:\n    extends: nope",
        file__yml="services:\n  a:\n    extends: {file: nope.yml, service: x}",
        long__yml="services: {a: {extends: {file: c.yml}}}",
    )
    assert refused(tmp_path) == "c.yml:4: services.c.extends: services extend each other: a → b → c → a"
    assert "services extend each other: a → a" in refused(tmp_path, "self.yml")
    assert refused(tmp_path, "unknown.yml") == (
        "unknown.yml:4: services.b.extends: there is no service 'nope' to extend in unknown.yml; it has a, b"
    )
    assert refused(tmp_path, "file.yml") == (
        "file.yml:3: services.a.extends: cannot read nope.yml: No such file or directory"
    )
    assert refused(tmp_path, "long.yml") == "long.yml:1: services.a.extends: service: is missing"


# --- profiles, env files, variables -----------------------------------------------------------------------------------

PROFILES = """
services:
  app: {image: app}
  debug: {image: debug, profiles: [debug], depends_on: [app]}
  test: {image: test, profiles: [test, ci]}
  needs: {image: needs, profiles: [ci], depends_on: {debug: {condition: service_started, required: false}}}
"""


@pytest.mark.parametrize(
    ("profiles", "variable", "services"),
    [
        ([], "", ["app"]),
        (["debug"], "", ["app", "debug"]),
        ([], "debug, ci", ["app", "debug", "test", "needs"]),
        (["ci"], "", ["app", "test", "needs"]),
        (["*"], "", ["app", "debug", "test", "needs"]),
        (["nope"], "", ["app"]),
    ],
)
def test_profiles_choose_services(profiles: list[str], variable: str, services: list[str]) -> None:
    tree = project(PROFILES, environment={"COMPOSE_PROFILES": variable}, profiles=profiles).tree
    assert list(tree["services"]) == services
    if "needs" in services and "debug" not in services:
        assert "depends_on" not in tree["services"]["needs"]


def test_variables_come_from_the_environment_then_from_env_files(tmp_path: Path) -> None:
    text = "services: {web: {image: 'i:$A-$B-$C'}}"
    write(tmp_path, c__yml=text, __env="A=dot\nB=dot\n", one__env="A=one\nC=one\n", two__env="C=two\n")
    assert loaded(tmp_path, environment={"A": "mine"}).tree["services"]["web"]["image"] == "i:mine-dot-"
    files = [str(tmp_path / name) for name in ("one.env", "two.env")]
    assert loaded(tmp_path, env_files=files).tree["services"]["web"]["image"] == "i:one--two"
    with pytest.raises(ComposeError, match=r"nope\.env: cannot read it: No such file"):
        loaded(tmp_path, env_files=[str(tmp_path / "nope.env")])


def test_env_files_stand_below_environment_and_the_last_wins(tmp_path: Path) -> None:
    write(
        tmp_path,
        c__yml="services: {web: {image: x, env_file: [a.env, b.env, {path: no.env, required: false}], "
        "environment: {C: c, E: }}}",
        a__env="A=a\nB=a\nC=a\nD=${OUTER}\nE=a\n",
        b__env="B=b\nF\n",
    )
    web = loaded(tmp_path, environment={"OUTER": "o", "F": "mine"}).tree["services"]["web"]
    assert dict(web["environment"]) == {"A": "a", "B": "b", "C": "c", "D": "o", "F": "mine"}
    assert "env_file" not in web


def test_env_files_of_several_files_are_all_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        c__yml="services: {web: {image: x, env_file: a.env}}",
        d__yml="services: {web: {env_file: b.env, environment: [Z=1]}}",
        a__env="A=a\nB=a\n",
        b__env="B=b\n",
    )
    web = loaded(tmp_path, "c.yml", "d.yml").tree["services"]["web"]
    assert dict(web["environment"]) == {"A": "a", "B": "b", "Z": "1"}


def test_a_mistake_in_an_env_file_names_its_line(tmp_path: Path) -> None:
    write(tmp_path, c__yml="services: {web: {image: x, env_file: a.env}}", a__env="A=1\n=2\n")
    assert refused(tmp_path) == "a.env:2: '=2' is not KEY=VALUE"


def test_variables_may_stay_as_they_are_written() -> None:
    base = "image: 'x:${TAG:?no}', user: $U, deploy: {replicas: $N}, ports: ['$P:80', '81:81'], volumes: ['$V:/v']"
    over = "ports: ['$P:80', '82:82'], stop_grace_period: '${GRACE}', volumes: ['./x:/v'], scale: 3"
    texts = [f"services: {{web: {{{text}}}}}" for text in (base, over)]
    web = plain(project(*texts, with_variables=False).tree["services"]["web"])
    assert (web["image"], web["user"], web["deploy"]) == ("x:${TAG:?no}", "$U", {"replicas": "$N"})
    assert web["ports"] == ["$P:80", "81:81", "82:82"]
    assert (web["stop_grace_period"], web["scale"]) == ("${GRACE}", 3)
    assert [mount["source"] for mount in web["volumes"]] == ["/p/x"]
    with pytest.raises(ComposeError, match="'many' is not a whole number"):
        project("services: {web: {scale: many}}", with_variables=False)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.yml").write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(ComposeError, match=r"bad.yml:2: it is not text in UTF-8"):
        read_source(str(tmp_path / "bad.yml"))
    with pytest.raises(ComposeError, match="cannot read it: Is a directory"):
        read_source(str(tmp_path))
    with pytest.raises(ComposeError, match="cannot read it: embedded null"):
        read_source("a\0b")


def test_flags_of_mounts_may_be_variables_that_nobody_fills_in() -> None:
    text = (
        "services: {a: {image: x, volumes: [{target: /x, volume: {nocopy: $X}}, "
        "{type: bind, source: /y, target: /y, bind: {create_host_path: $Y}}]}}"
    )
    kept = load([Source("c.yml", text)], "/nowhere", {}, with_variables=False)
    assert "nocopy: $X" in to_yaml(kept.tree, escape=False)
