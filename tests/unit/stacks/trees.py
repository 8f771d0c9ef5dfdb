"""Compose files nobody wrote: made by hypothesis from our schema, mostly well-formed, sometimes not at all."""

import json
from importlib.resources import files
from typing import Any

from hypothesis import strategies as st

SCHEMA = json.loads(files("flota.stacks.compose").joinpath("schema.json").read_text())
NAMES = st.sampled_from(["a", "b", "web", "default", "x-y", "n_1"])
TEXTS = st.sampled_from(
    [
        "", " ", "a", "b", "80", "80:80", "1000-1002:1000-1002/udp", "1m", "10s", "1h30m", "64m", "1g", "a=b",
        "K=", "=", "/x", "./x:/y", "a:/b:ro", "/x:/y:ro,rslave", "0.5", "-1", "0", "3", "true", "no", "$X",
        "${X:-y}", "${X}", "$$", "${", "::1", "1.1.1.1", "10.0.0.0/24", "h=1.2.3.4", "node.role==manager",
        "node.labels.x", "CMD", "NONE", "always", "on-failure:3", "linux/amd64", "NET_ADMIN", "0440", "nofile",
        "\x00", "\n", "a\nb", "ü", "'", "x.env", "{{.Task.Slot}}", "file", "~", "..", "a b", "2001-01-01", "yes",
        "1_0", "0x1F", "22:22", "gpu", "SIGTERM", "http://x", "/", "/x/..", "//", "/x/{{.Task.Slot}}",
        "node.id", "node.labels.zone", "a:{{.Task.Slot}}", "{{.Node.ID}}:/x", "{{", "/x/",
    ]
)  # fmt: skip
NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 80, 0o440, 65536, 10**12, 2**70]), st.sampled_from([0.5, 1.5, -2.5, 1e30, 1e-9])
)
SCALARS = st.one_of(TEXTS, NUMBERS, st.booleans(), st.none())
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.one_of(NAMES, TEXTS), inner, max_size=3)),
    max_leaves=6,
)


def of_schema(schema: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Values that fit a schema, or nearly."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    if not schema or depth > 7:
        return ANYTHING
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    types = schema.get("type", "string")
    choices: list[st.SearchStrategy[Any]] = []
    for kind in [types] if isinstance(types, str) else types:
        match kind:
            case "string":
                choices.append(TEXTS)
            case "integer" | "number":
                choices.append(NUMBERS)
            case "boolean":
                choices.append(st.booleans())
            case "null":
                choices.append(st.none())
            case "array":
                choices.append(st.lists(st.deferred(lambda: of_schema(schema.get("items", {}), depth + 1)), max_size=3))
            case "object":
                choices.append(_mapping(schema, depth))
    return st.one_of(choices)


def _mapping(schema: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
    known = schema.get("properties")
    if known is None:
        values = schema.get("additionalProperties", {})
        return st.dictionaries(
            NAMES, st.deferred(lambda: of_schema(values if isinstance(values, dict) else {}, depth + 1)), max_size=3
        )
    required = schema.get("required", [])

    def made(keys: list[str]) -> st.SearchStrategy[Any]:
        return st.fixed_dictionaries({key: of_schema(known[key], depth + 1) for key in {*keys, *required}})

    return st.lists(st.sampled_from(sorted(known)), max_size=4, unique=True).flatmap(made)


def _with_junk(made: Any) -> st.SearchStrategy[Any]:
    """Put something else in one place."""
    if not isinstance(made, dict) or not made:
        return st.just(made)
    return st.tuples(st.sampled_from(sorted(made)), ANYTHING).map(lambda change: made | {change[0]: change[1]})


SERVICES = of_schema(SCHEMA["$defs"]["service"])
# A whole file: services that have images, and things they might name.
DOCUMENTS = st.fixed_dictionaries(
    {
        "services": st.dictionaries(
            NAMES, SERVICES.map(lambda made: {"image": "busybox"} | made), min_size=1, max_size=3
        )
    },
    optional={
        "networks": of_schema(SCHEMA["properties"]["networks"]),
        "volumes": of_schema(SCHEMA["properties"]["volumes"]),
        "secrets": st.dictionaries(NAMES, st.just({"content": "x"}), max_size=2),
        "configs": st.dictionaries(NAMES, st.just({"content": "x"}), max_size=2),
        "x-any": ANYTHING,
    },
)
NEARLY = st.one_of(DOCUMENTS, DOCUMENTS.flatmap(_with_junk), ANYTHING)
# Text that looks like YAML and is not.
NOISE = st.lists(
    st.one_of(
        st.sampled_from(
            [
                "services:", "\n", "  ", "- ", ": ", "{", "}", "[", "]", "&a ", "*a", "<<: ", "|", ">", "'", "\"",
                "#", "!reset ", "!override ", "!!str ", "? ", "---", "...", "%YAML 1.2", "$X", "${X", "image: x",
                "web:", ",", "\t", "\x85", "@", "`",
            ]
        ),
        st.text(max_size=3),
    ),
    max_size=40,
).map("".join)  # fmt: skip
