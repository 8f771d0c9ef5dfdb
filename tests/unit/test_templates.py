"""Go templates of --format: what people and scripts write, and what Go and Docker print for it."""

import pytest

from flota.templates import Row, Strings, Template, TemplateError

DATA = {
    "Name": "web",
    "Empty": "",
    "Count": 3,
    "Ratio": 0.5,
    "On": True,
    "Off": False,
    "Nothing": None,
    "List": ["a", "b"],
    "Labels": {"tier": "front", "team": "shop"},
    "Spec": {"Image": "busybox:1", "Ports": [{"Target": 80}, {"Target": 443}]},
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Name}}", "web"),
        ("{{ .Spec.Image }} / {{.Count}}", "busybox:1 / 3"),
        ("{{$.Name}}", "web"),
        ("{{.List}} {{.Labels}} {{.On}} {{.Nothing}}", "[a b] map[team:shop tier:front] true <no value>"),
        ("{{.Ratio}}", "0.5"),
        ("{{json .Spec}}", '{"Image":"busybox:1","Ports":[{"Target":80},{"Target":443}]}'),
        ("{{json .Name}} {{.Name | json}}", '"web" "web"'),
        ('{{.Name | upper | printf "%s-%s" "x"}}', "x-WEB"),
        ('{{printf "%s has %d" .Name .Count}}', "web has 3"),
        ('{{printf "%-5s|%5s|%05d|%q|%v|%%" .Name .Name .Count .Name .List}}', 'web  |  web|00003|"web"|[a b]|%'),
        ('{{join .List ","}}', "a,b"),
        ('{{index .Labels "tier"}} {{index .List 1}}', "front b"),
        ('{{index .Labels "nope"}}', "<no value>"),
        ("{{len .List}} {{len .Name}}", "2 3"),
        ('{{split "a:b" ":"}}', "[a b]"),
        ("{{truncate .Spec.Image 4}}", "busy"),
        ("{{pad .Name 1 2}}|", " web  |"),
        ("{{title .Name}} {{lower \"ABC\"}}", "Web abc"),
        ("{{if .On}}yes{{else}}no{{end}}", "yes"),
        ("{{if .Off}}yes{{else if .Count}}count{{else}}no{{end}}", "count"),
        ("{{if .Nothing}}yes{{end}}{{if .Empty}}yes{{end}}", ""),
        ("{{if and .On (not .Off)}}both{{end}}", "both"),
        ("{{if or .Off .Name}}{{or .Off .Name}}{{end}}", "web"),
        ("{{if eq .Count 3}}three{{end}}{{if ne .Name \"web\"}}other{{end}}", "three"),
        ('{{if eq .Name "db" "web"}}one of them{{end}}', "one of them"),
        ("{{if gt .Count 2}}more{{end}}{{if le .Count 2}}less{{end}}", "more"),
        ("{{range .List}}<{{.}}>{{end}}", "<a><b>"),
        ("{{range .Spec.Ports}}{{.Target}} {{$.Name}};{{end}}", "80 web;443 web;"),
        ("{{range $i, $each := .List}}{{$i}}={{$each}} {{end}}", "0=a 1=b "),
        ("{{range $key, $value := .Labels}}{{$key}}={{$value}} {{end}}", "team=shop tier=front "),
        ("{{range .Nothing}}x{{else}}none{{end}}", "none"),
        ("{{with .Spec}}{{.Image}}{{end}}{{with .Nothing}}x{{else}}no{{end}}", "busybox:1no"),
        ("{{$name := .Name}}{{$name}}{{$name = \"x\"}}{{$name}}", "webx"),
        ("a {{- .Name -}} b", "awebb"),
        ("{{/* a comment */}}{{.Name}}", "web"),
        ("{{`raw`}}", "raw"),
        ("{{.Name}}\\t{{.Count}}\\n", "web\t3\n"),
        ("no action", "no action"),
        ("{{.Spec.Nope}}", "<no value>"),
        ("{{slice .Name 1 2}}", "e"),
    ],
)  # fmt: skip
def test_prints_what_go_prints(template: str, text: str) -> None:
    assert Template(template).render(DATA) == text


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{.Name", "unclosed {{"),
        ("{{}}", "something is missing in {{ }}"),
        ("{{if .On}}yes", "{{if}} has no {{end}}"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{else}}", "unexpected {{else}}"),
        ("{{nope .Name}}", "function 'nope' not defined"),
        ("{{jsn .Name}}", "function 'jsn' not defined; did you mean 'json'?"),
        ("{{.Name.First}}", "can't evaluate field First in 'web'"),
        ("{{$x}}", "undefined variable '$x'"),
        ("{{range .Name}}{{end}}", "range cannot go over web"),
        ("{{index .List 5}}", "index out of range: 5"),
        ("{{len .Count}}", "len: object of type 'int' has no len()"),
        ("{{(.Name}}", "a ( is not closed"),
        ("{{.Name .Count}}", ".Name is not a method and takes no arguments"),
        ('{{"x" .Count}}', "'\"x\"' is not a function and takes no arguments"),
        ("{{.Name | .Count}}", "only functions may stand behind |"),
        ("{{ # }}", "unexpected '#'"),
        ('{{template "x"}}', "{{template}} is not supported"),
        ('{{printf "%d" .Name}}', "printf: %d format"),
        ('{{printf "%s"}}', "printf: nothing is left for %s"),
    ],
)
def test_says_what_is_wrong(template: str, why: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(template).render(DATA)
    assert str(caught.value).startswith(why)


def test_a_row_has_only_the_fields_it_has() -> None:
    row = Row({"Name": "web", "Node": "m1"}, {"Label": {"tier": "front"}.get})
    assert Template('{{.Label "tier"}} {{(.Label "tier") | upper}}').render(row) == "front FRONT"
    assert Template("{{json .}}").render(row) == '{"Name":"web","Node":"m1"}'
    with pytest.raises(TemplateError, match=r"can't evaluate field Nmae; did you mean 'Name'\?"):
        Template("{{.Nmae}}").render(row)


def test_a_label_that_is_not_there_is_empty() -> None:
    data = {"Labels": Strings(tier="front")}
    assert Template('{{.Labels.tier}}|{{.Labels.nope}}|{{index .Labels "nope"}}').render(data) == "front||"


def test_a_literal_template_keeps_its_backslashes() -> None:
    assert Template(r"a\tb").render({}) == "a\tb"
    assert Template(r"a\tb", literal=True).render({}) == r"a\tb"


def test_whoever_renders_may_bring_functions() -> None:
    assert Template('{{env "X" | upper}}').render({}, {"env": {"X": "value"}.__getitem__}) == "VALUE"
    with pytest.raises(TemplateError, match="function 'env' not defined"):
        Template('{{env "X"}}').render({})
