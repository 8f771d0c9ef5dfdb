"""YAML to trees: scalars as Docker's tools take them, anchors, merge keys, tags, and what is refused."""

import pytest

from flota.stacks.compose.reading import MAX_DEPTH, MAX_VALUES, read_document, resolve
from flota.stacks.compose.tree import place_at, text_of
from flota.stacks.errors import ComposeError
from tests.unit.stacks.help import read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("true", True), ("False", False), ("yes", "yes"), ("on", "on"),
        ("0", 0), ("440", 440), ("0440", 0o440), ("0o440", 0o440), ("0x1F", 31), ("0b11", 3), ("1_000", 1000),
        ("-7", -7), ("+7", 7), ("08", 8.0), ("1.10", 1.1), (".5", 0.5), ("1e3", 1000.0), ("22:22", "22:22"),
        ("1.2.3", "1.2.3"), ("2001-01-01", "2001-01-01"), ("0x", "0x"), ("9" * 200, "9" * 200), ("_1", "_1"),
    ],
)  # fmt: skip
def test_what_an_unquoted_scalar_means(text: str, value: object) -> None:
    resolved = resolve(text)
    assert resolved == value
    assert type(resolved) is type(value) or isinstance(resolved, type(value))
    expected = "" if value is None else text.lower() if isinstance(value, bool) else text
    assert text_of(resolved) == expected


def test_numbers_remember_how_they_were_written() -> None:
    assert [text_of(value) for value in read("[1.10, 0440, 1_0, 0x1F, 1e3]".join(("a: ", "")))["a"]] == [
        "1.10", "0440", "1_0", "0x1F", "1e3"
    ]  # fmt: skip


def test_quotes_and_tags_make_texts() -> None:
    assert read("a: '1'\nb: \"true\"\nc: !!str 1\nd: |\n  x\n  y\ne: 2001-01-01\n") == {
        "a": "1", "b": "true", "c": "1", "d": "x\ny\n", "e": "2001-01-01",
    }  # fmt: skip


def test_keys_are_texts() -> None:
    assert read("8080: a\ntrue: b\n1.0: c\n") == {"8080": "a", "true": "b", "1.0": "c"}


def test_merge_keys() -> None:
    text = """
a: &a {x: 1, y: 1}
b: &b {y: 2, z: 2}
one: {<<: *a, y: 3}
list: {<<: [*b, *a], w: 4}
before: {y: 5, <<: *a}
quoted: {"<<": plain}
"""
    made = read(text)
    assert made["one"] == {"y": 3, "x": 1}
    assert made["list"] == {"w": 4, "y": 2, "z": 2, "x": 1}
    assert made["before"] == {"y": 5, "x": 1}
    assert made["quoted"] == {"<<": "plain"}


def test_every_use_of_an_alias_is_its_own() -> None:
    tree = read_document("a: &a [1]\nb: *a\nc: *a\n", "c.yml")
    tree["b"].append(2)
    assert (tree["a"], tree["b"], tree["c"]) == ([1], [1, 2], [1])


def test_reset_and_override_are_marked() -> None:
    tree = read_document("a: !reset null\nb: !override {c: !reset [x], d: 1}\ne: !override 5\n", "c.yml")
    assert (dict(tree), tree.resets, tree.overrides) == ({"b": {"d": 1}, "e": 5}, {"a"}, {"b", "e"})
    assert tree["b"].resets == {"c"}


def test_everything_knows_its_line() -> None:
    tree = read_document("services:\n  web:\n    ports:\n    - a\n    - b\n  db: {image: x,\n    user: y}\n", "c.yml")
    lines = {
        ("services",): 1,
        ("services", "web"): 2,
        ("services", "web", "ports"): 3,
        ("services", "web", "ports", 1): 5,
        ("services", "db", "image"): 6,
        ("services", "db", "user"): 7,
        ("services", "db", "nope", "deeper"): 6,
    }
    assert {path: place_at(tree, path).line for path in lines} == lines


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "c.yml: the file is empty"),
        ("# only a comment\n", "c.yml: the file is empty"),
        ("- a\n", "c.yml:1: a mapping with services: is needed, not a list"),
        ("just words\n", "c.yml:1: a mapping with services: is needed, not a value"),
        ("a: 1\na: 2\n", "c.yml:2: the key 'a' is given twice (first on line 1)"),
        ("a: [\n", "c.yml:2: not YAML: expected the node content"),
        ("a: b: c\n", "c.yml:1: not YAML: mapping values are not allowed here (quote the value"),
        ("a: *nope\n", "c.yml:1: not YAML: found undefined alias 'nope' (an anchor"),
        ("a:\n\tb: 1\n", "c.yml:2: not YAML: found character"),
        ("a: 1\n---\nb: 2\n", "c.yml:2: not YAML: but found another document (one document per file"),
        ("a: !thing 1\n", "c.yml:1: the tag '!thing' is not known; !reset and !override are"),
        ("a: !!python/object:os.system x\n", "c.yml:1: the tag '!!python/object:os.system' is not known"),
        ("a: !!binary aGVsbG8=\n", "c.yml:1: the tag '!!binary' is not known"),
        ("? [a, b]\n: 1\n", "c.yml:1: a key must be a word, not a list"),
        ("'': 1\n", "c.yml:1: a key is empty"),
        ("a:\n- !reset x\n", "c.yml:2: !reset belongs before the value of a key"),
        ("a: {<<: 5}\n", "c.yml:1: << takes a mapping or a list of mappings"),
        ("a: &a [*a]\n", "c.yml:1: the anchor 'a' contains itself"),
        ("a: &a {b: {<<: *a}}\n", "c.yml:1: the anchor 'a' contains itself"),
        ("a: \x00\n", "c.yml: not YAML: unacceptable character"),
        ("a: " + "[" * (MAX_DEPTH + 5) + "]" * (MAX_DEPTH + 5), "c.yml:1: it is nested too deeply"),
        ("[" * 5000, "c.yml: it is nested too deeply"),
        ("%YAML 3\n", "c.yml:1: not YAML"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ComposeError) as caught:
        read_document(text, "c.yml")
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_bomb_of_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    with pytest.raises(ComposeError, match=f"with all aliases resolved it has more than {MAX_VALUES:,} values"):
        read_document("\n".join(lines), "c.yml")


def test_a_bomb_of_merge_keys_is_refused() -> None:
    lines = ["a0: &a0 {" + ", ".join(f"k{n}: 1" for n in range(50)) + "}"]
    lines += [f"a{n}: &a{n} {{p: *a{n - 1}, q: *a{n - 1}, r: *a{n - 1}, <<: *a{n - 1}}}" for n in range(1, 15)]
    with pytest.raises(ComposeError, match="with all aliases resolved"):
        read_document("\n".join(lines), "c.yml")
