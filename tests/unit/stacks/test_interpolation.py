"""Variables in values."""

import pytest

from flota.stacks.compose.interpolation import BadTemplate, Variables
from tests.unit.stacks.help import project, refusal

VALUES = {"A": "a", "EMPTY": "", "B": "$A", "NAME_2": "n"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"), ("$A", "a"), ("${A}", "a"), ("x${A}y$A", "xaya"), ("$A.b", "a.b"), ("$NAME_2-x", "n-x"),
        ("$B", "$A"), ("$$A", "$A"), ("$$$A", "$a"), ("$$$$", "$$"), ("$${A}", "${A}"),
        ("${NO-d}", "d"), ("${NO:-d}", "d"), ("${EMPTY-d}", ""), ("${EMPTY:-d}", "d"), ("${A-d}", "a"),
        ("${A:-d}", "a"),
        ("${NO-}", ""), ("${NO:-}", ""), ("${NO:-a:-b}", "a:-b"), ("${NO-$A}", "a"), ("${NO:-${EMPTY:-${A}}}", "a"),
        ("${NO:-x${A}y}", "xay"), ("${NO:-$$}", "$"), ("${NO:-a$}", "a$"), ("${NO:-{x}}", "{x}"),
        ("${A?no}", "a"), ("${EMPTY?no}", ""), ("${A:?no}", "a"), ("${A?}", "a"),
        ("${A+alt}", "alt"), ("${A:+alt}", "alt"), ("${EMPTY+alt}", "alt"), ("${EMPTY:+alt}", ""), ("${NO+alt}", ""),
        ("${NO:+${A?x}}", ""), ("${A:+${NO:-deep}}", "deep"),
        ("$", "$"), ("a$", "a$"), ("$1", "$1"), ("$(cmd)", "$(cmd)"), ("$ A", "$ A"), ("$-", "$-"), ("$\n", "$\n"),
        ("${NO}", ""), ("$NO", ""), ("^a$$", "^a$"), ("\\$A", "\\a"), ("$Ä", "$Ä"),
    ],
)  # fmt: skip
def test_what_is_filled_in(text: str, value: str) -> None:
    assert Variables(VALUES).expand(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${", "${ has no closing brace"),
        ("${A", "${A has no closing brace"),
        ("${NO:-${A}", "${NO:-${A} has no closing brace"),
        ("${}", "${} names no variable"),
        ("${1}", "${1} names no variable"),
        ("${A B}", "${A B} cannot be read: after the name"),
        ("${A/x/y}", "${A/x/y} cannot be read"),
        ("${A:x}", "${A:x} cannot be read"),
        ("${NO?}", "the variable NO is not set, and it is required"),
        ("${NO?set it}", "the variable NO is not set: set it"),
        ("${NO:?set ${A}}", "the variable NO is not set: set a"),
        ("${EMPTY:?full}", "the variable EMPTY is empty: full"),
        ("${NO:-" * 60 + "}" * 60, "variables are nested more than 40 levels deep"),
    ],
)
def test_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(BadTemplate) as caught:
        Variables(VALUES).expand(text)
    assert str(caught.value).startswith(said)


def test_what_grows_without_bounds_is_refused() -> None:
    with pytest.raises(BadTemplate, match="grows beyond"):
        Variables({"X": "x" * 100_000}).expand("$X" * 100)


def test_values_are_filled_in_keys_and_extensions_are_not() -> None:
    loaded = project(
        'x-keep: $A\nservices: {web: {image: "$A", labels: {"$A": "$A", "b": "x"}, environment: ["$A=$A"]}}',
        environment=VALUES,
    )
    web = loaded.tree["services"]["web"]
    assert (web["image"], web["labels"], web["environment"]) == ("a", {"$A": "a", "b": "x"}, {"a": "a"})
    assert loaded.tree["x-keep"] == "$A"


def test_what_is_not_set_is_told_once_with_its_line() -> None:
    loaded = project("services:\n  web:\n    image: x$NO\n    user: $NO\n    hostname: ${OTHER}")
    assert loaded.warnings == [
        "c.yml:3: the variable NO is not set, an empty text stands for it (a default: ${NO:-…})",
        "c.yml:5: the variable OTHER is not set, an empty text stands for it (a default: ${OTHER:-…})",
    ]


def test_an_error_names_line_and_key() -> None:
    assert refusal("services:\n  web:\n    image: x\n    command: [a, '${A:?set A}']") == (
        "c.yml:4: services.web.command[1]: the variable A is not set: set A"
    )


def test_filled_in_numbers_and_flags_count_as_such() -> None:
    text = """
services:
  web:
    image: x
    init: ${T}
    ports: [{target: "${N}", published: "${N}"}]
    deploy: {replicas: "${N}", resources: {limits: {pids: $N, cpus: "${F}"}}}
"""
    web = project(text, environment={"N": "80", "T": "true", "F": "1.5"}).tree["services"]["web"]
    assert web["init"] is True
    assert web["deploy"]["replicas"] == 80
    assert web["deploy"]["resources"]["limits"] == {"pids": 80, "cpus": "1.5"}
    assert (web["ports"][0]["target"], web["ports"][0]["published"]) == (80, "80")
    assert refusal(text, environment={"N": "x", "T": "true", "F": "1"}).startswith("c.yml:6: services.web.ports[0]:")


def test_the_name_of_the_stack_is_a_variable() -> None:
    text = "services: {web: {image: $COMPOSE_PROJECT_NAME}}"
    assert project(text, name="shop").tree["services"]["web"]["image"] == "shop"
    assert project(f"name: own\n{text}").tree["services"]["web"]["image"] == "own"
    assert project(f"name: own\n{text}", name="shop").tree["services"]["web"]["image"] == "shop"


def test_an_error_where_a_variable_is_missing_says_so() -> None:
    assert refusal("services:\n  web:\n    image: web:$TAG") == (
        "c.yml:3: services.web.image: 'web:' is not an image: allowed is [HOST[:PORT]/]NAME[:TAG][@DIGEST] "
        "(of the variables on this line, TAG is not set)"
    )
